"""Finding hands in one picture: MediaPipe's Hand Landmarker behind an interface that another detector can fill."""

import math
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np

from haptic.files import find_asset
from haptic.perception.video import Frame

NUM_JOINTS = 21
MODEL_FILE = "hand_landmarker.task"

# Ubuntu's and Debian's packages for the system libraries that bare containers lack.
SYSTEM_PACKAGES = {"libGLESv2": "libgles2", "libEGL": "libegl1", "libGL": "libgl1", "libgthread": "libglib2.0-0"}

# A look into a crop is at a hand that was there a moment ago; less has to be shown for it than for a new one.
CROP_DETECTION_CONFIDENCE = 0.2
CROP_SIDE_PX = 320
MIN_CROP_REGION_PX = 32
# Joints that lie outside the picture are the network's guess.
OUTSIDE_WEIGHT = 0.1


class DetectorLoadError(ValueError):
    """The detector's library or model cannot be loaded here; the message says what to install."""


@dataclass(frozen=True)
class HandDetection:
    """One hand in one frame, as a detector saw it; arrays are float64, in pixels of the full image.

    `p_right` is the belief that it is a person's right hand, `score` that it is a hand at all. `box` is
    (left, top, right, bottom), tight around the joints where there are any. Joints that the detector does not give
    have weight zero; `landmarks` are metric, about their own centre, in the camera's axes, or None. `track_id`
    is set where another tracker already said which hand it is.
    """

    frame_index: int
    p_right: float
    score: float
    box: np.ndarray
    joints_img: np.ndarray
    joints_img_weight: np.ndarray
    landmarks: np.ndarray | None = None
    track_id: str | None = None

    @property
    def is_right(self) -> bool:
        """Say which hand it looks like."""
        return self.p_right > 0.5

    @property
    def center(self) -> np.ndarray:
        """Return the middle of the box."""
        return (self.box[:2] + self.box[2:]) / 2

    @property
    def side_px(self) -> float:
        """Return the longer side of the box."""
        return float((self.box[2:] - self.box[:2]).max())

    @property
    def has_joints(self) -> bool:
        """Say whether any joint is known."""
        return bool(self.joints_img_weight.any())


@runtime_checkable
class HandDetector(Protocol):
    """What the tracker asks of a detector. Another one needs these four methods and no more."""

    def detect(self, frame: Frame) -> list[HandDetection]:
        """Find the hands of a picture on its own."""
        ...

    def detect_next(self, frame: Frame) -> list[HandDetection]:
        """Find the hands of the next frame of a video; what was seen in the last one may help."""
        ...

    def detect_in(self, frame: Frame, region: "Region") -> list[HandDetection]:
        """Look closely at one region."""
        ...

    def restart(self) -> None:
        """Forget the last frame: another video begins."""
        ...


@dataclass(frozen=True)
class Region:
    """A square of the image to look at closely; `tilt_rad` is turned upright before looking.

    `careful` asks for the best joints; without it the look only says whether a hand is there.
    """

    center: np.ndarray
    side_px: float
    tilt_rad: float = 0.0
    careful: bool = True


@dataclass(frozen=True)
class DetectorConfig:
    """How hands are looked for."""

    num_hands: int = 6
    detection_confidence: float = 0.5
    presence_confidence: float = 0.5
    max_side_px: int = 1920  # larger frames are reduced: the palm detector sees 192 x 192 pixels anyway

    def __post_init__(self) -> None:
        if not 1 <= self.num_hands <= 50:
            raise ValueError(f"num_hands is {self.num_hands}; expected 1 to 50 hands in one frame")
        for name in ("detection_confidence", "presence_confidence"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number from 0 to 1")
        if self.max_side_px < 256:
            raise ValueError(f"max_side_px is {self.max_side_px}; expected at least 256, or hands become too small")


class HandLandmarker:
    """MediaPipe's Hand Landmarker: a palm detector, and a network that places 21 joints on each hand found.

    For pictures it works on each alone. For videos it follows each hand from its place in the last frame, which holds
    hands that the palm detector misses (turned away, blurred). Its labels are the person's own hands
    in a picture that is not mirrored. Both modes give the same answer every time. Use it in a `with` statement.
    """

    def __init__(self, config: DetectorConfig = DetectorConfig()) -> None:
        self.config = config
        self._mediapipe = _import_mediapipe()
        self._native: dict[str, Any] = {}
        self._settled: set[str] = set()
        self._clock_ms = 0

    def __enter__(self) -> "HandLandmarker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the native library's threads and memory."""
        for close in self._native.values():
            close[1]()
        self._native.clear()

    def restart(self) -> None:
        """Forget the last frame: another video begins."""
        if "video" in self._native:
            self._native.pop("video")[1]()
            self._settled.discard("video")

    def detect(self, frame: Frame) -> list[HandDetection]:
        """Find the hands of a picture on its own."""
        image, scale = _reduced(frame.image, self.config.max_side_px)
        found = self._run_alone("image", image, careful=True)
        return self._detections(frame, found, image.shape, np.array([[1 / scale, 0, 0], [0, 1 / scale, 0]]))

    def detect_next(self, frame: Frame) -> list[HandDetection]:
        """Find the hands of the next frame, following those of the last one."""
        image, scale = _reduced(frame.image, self.config.max_side_px)
        is_first = "video" not in self._native
        found = self._run("video", image)
        if is_first and found.hand_landmarks:
            found = self._run("video", image)
        return self._detections(frame, found, image.shape, np.array([[1 / scale, 0, 0], [0, 1 / scale, 0]]))

    def detect_in(self, frame: Frame, region: Region) -> list[HandDetection]:
        """Look closely at one region, enlarged (or reduced) to a fixed size and turned upright."""
        crop, image_from_crop = _cut(frame.image, region)
        return self._detections(
            frame, self._run_alone("crop", crop, careful=region.careful), crop.shape, image_from_crop
        )

    def _run_alone(self, purpose: str, image: np.ndarray, *, careful: bool) -> Any:
        """Find hands without a past.

        The palm detector frames a hand loosely, and the joints placed in that frame are off: in 3D by 9 mm on average.
        Given the same picture again the library frames each hand by the joints it has just placed; half of the
        error goes. A black picture then makes it forget.
        """
        found = self._run(purpose, image)
        if careful and found.hand_landmarks:
            again = self._run(purpose, image)
            found = again if again.hand_landmarks else found
        if found.hand_landmarks:
            self._run(purpose, np.zeros((64, 64, 3), np.uint8))
        return found

    def _run(self, purpose: str, image: np.ndarray) -> Any:
        """Call the library, one instance per purpose."""
        picture = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image))
        # The library complains while it loads, on its own threads, until the instance has seen its first hand.
        with nullcontext() if purpose in self._settled else _native_stderr_muted():
            landmarker = self._landmarker(purpose)
            self._clock_ms += 33  # only has to grow
            found = landmarker.detect_for_video(picture, self._clock_ms)
        if found.hand_landmarks:
            self._settled.add(purpose)
        return found

    def _landmarker(self, purpose: str) -> Any:
        if purpose not in self._native:
            landmarker = _create_landmarker(self._mediapipe, self.config, purpose)
            # Also closes at the interpreter's exit, while the library can still be called.
            self._native[purpose] = (landmarker, weakref.finalize(self, landmarker.close))
        return self._native[purpose][0]

    def _detections(
        self, frame: Frame, found: Any, shape: tuple[int, ...], image_from_input: np.ndarray
    ) -> list[HandDetection]:
        """Bring the library's answer to pixels of the full image."""
        height, width = shape[:2]
        turn = image_from_input[:, :2] / np.linalg.norm(image_from_input[:, 0])
        detections = []
        for points, metric, labels in zip(
            found.hand_landmarks, found.hand_world_landmarks, found.handedness, strict=True
        ):
            # Normalised to the picture's edges; pixel centres lie at whole numbers.
            inputs = np.array([(point.x * width - 0.5, point.y * height - 0.5) for point in points])
            landmarks = np.array([(point.x, point.y, point.z) for point in metric])
            landmarks[:, :2] = landmarks[:, :2] @ turn.T
            label = labels[0]
            detection = detection_from_joints(
                frame.index,
                inputs @ image_from_input[:, :2].T + image_from_input[:, 2],
                p_right=label.score if label.category_name == "Right" else 1 - label.score,
                image_shape=frame.image.shape,
            )
            detections.append(replace(detection, landmarks=landmarks - landmarks.mean(axis=0)))
        return [detection for detection in detections if detection.side_px >= 4]


def detection_from_joints(
    frame_index: int, joints_img: np.ndarray, *, p_right: float, image_shape: Sequence[int], score: float = 1.0
) -> HandDetection:
    """Make a detection of 21 joints: tight box, full weight inside the image and little outside."""
    height, width = image_shape[:2]
    inside = ((joints_img >= -0.5) & (joints_img <= np.array([width, height]) - 0.5)).all(axis=1)
    return HandDetection(
        frame_index=frame_index,
        p_right=float(p_right),
        score=score,
        box=np.concatenate([joints_img.min(axis=0), joints_img.max(axis=0)]),
        joints_img=joints_img,
        joints_img_weight=np.where(inside, 1.0, OUTSIDE_WEIGHT),
    )


def _import_mediapipe() -> Any:
    try:
        import mediapipe
        import mediapipe.tasks.python.vision
    except (ImportError, OSError) as error:
        raise DetectorLoadError(_load_message(error)) from None
    _outlive_profiler()
    return mediapipe


def _outlive_profiler() -> None:
    """Let SIGPROF pass: mediapipe's own profiler raises it now and then, and by default it ends the process.

    mediapipe ignores it too, but behind Python's back, and Lightning puts back what Python knows when a training is
    over: whoever then looked for hands in the same process was killed.
    """
    is_ours_to_set = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGPROF")
    if is_ours_to_set and signal.getsignal(signal.SIGPROF) == signal.SIG_DFL:
        signal.signal(signal.SIGPROF, signal.SIG_IGN)


def _create_landmarker(mediapipe: Any, config: DetectorConfig, purpose: str) -> Any:
    vision = mediapipe.tasks.vision
    options = vision.HandLandmarkerOptions(
        base_options=mediapipe.tasks.BaseOptions(model_asset_path=str(find_asset(MODEL_FILE))),
        running_mode=vision.RunningMode.VIDEO,
        num_hands=2 if purpose == "crop" else config.num_hands,
        min_hand_detection_confidence=CROP_DETECTION_CONFIDENCE if purpose == "crop" else config.detection_confidence,
        min_hand_presence_confidence=config.presence_confidence,
    )
    try:
        return vision.HandLandmarker.create_from_options(options)
    except (OSError, RuntimeError, ValueError) as error:
        raise DetectorLoadError(_load_message(error)) from None


def _load_message(error: Exception) -> str:
    reason = " ".join(str(error).split())
    packages = [package for library, package in SYSTEM_PACKAGES.items() if library + "." in reason]
    if packages:
        # One is missing: containers that lack one of the three graphics libraries lack them all.
        graphics = "libgl1 libegl1 libgles2"
        wanted = graphics if packages[0] in graphics else packages[0]
        return (
            f"the hand detector (mediapipe) does not load: {reason}; a system library is missing; "
            f"install it, on Debian or Ubuntu: apt-get install -y {wanted}"
        )
    return (
        f"the hand detector (mediapipe) does not load: {reason}; expected mediapipe 1.2 or newer: pip install mediapipe"
    )


def _reduced(image: np.ndarray, max_side_px: int) -> tuple[np.ndarray, float]:
    """Return the image, made smaller if it is large, and the factor; edges stay edges."""
    height, width = image.shape[:2]
    scale = min(1.0, max_side_px / max(height, width))
    if scale == 1.0:
        return image, 1.0
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), scale


def _cut(image: np.ndarray, region: Region) -> tuple[np.ndarray, np.ndarray]:
    """Cut a square out of the image, turned upright; return it with the 2 x 3 matrix from its pixels to the image's."""
    side = max(region.side_px, MIN_CROP_REGION_PX)
    pixel = side / CROP_SIDE_PX
    cosine, sine = math.cos(region.tilt_rad) * pixel, math.sin(region.tilt_rad) * pixel
    matrix = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0]])
    matrix[:, 2] = region.center - matrix[:, :2] @ np.full(2, (CROP_SIDE_PX - 1) / 2)
    window, offset = _window(image, region.center, side)
    source = matrix.copy()
    source[:, 2] -= offset
    if pixel > 2:
        # Large regions are reduced first, or thin fingers would fall between the samples.
        window, scale = _reduced(window, max(16, round(max(window.shape[:2]) * 1.5 / pixel)))
        source = source * scale
        source[:, 2] += (scale - 1) / 2
    crop = cv2.warpAffine(window, source, (CROP_SIDE_PX, CROP_SIDE_PX), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return crop, matrix


def _window(image: np.ndarray, center: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the part of the image that a turned square can reach, and its top-left corner."""
    height, width = image.shape[:2]
    reach = side * math.sqrt(0.5) + 2
    left, top = np.clip(np.floor(center - reach), 0, [width - 1, height - 1]).astype(int)
    right, bottom = np.clip(np.ceil(center + reach), [left + 1, top + 1], [width, height]).astype(int)
    return image[top:bottom, left:right], np.array([left, top], dtype=float)


@contextmanager
def _native_stderr_muted() -> Iterator[None]:
    """Send what native code writes to stderr nowhere; it knows no log level, and its lines tear progress bars."""
    try:
        sys.stderr.flush()
        saved = os.dup(2)
    except (OSError, AttributeError):
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
