"""Which camera took the video: from the user, from a file, from the video's metadata, or from the image's diagonal.

`docs/detections.md` describes the file of `--cameras`.
"""

import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from haptic.geometry.cameras import intrinsics
from haptic.perception.video import VideoInfo
from haptic.records import Camera

ASSUMED = "assumed"  # what a source begins with that is a guess
CAMERA_KEYS = ("K", "T_world_cam")
# The widest fisheye and the longest telescope a video of hands is made with, in longer sides of the image.
MIN_FOCAL_SIDES, MAX_FOCAL_SIDES = 0.1, 100.0
# Poses are often stored with few digits; farther from a rotation than this is something else.
ROTATION_TOLERANCE = 1e-2


@dataclass(frozen=True)
class CameraConfig:
    """What the user says about the camera; None is unknown. `fov_deg` is the field of view across the width."""

    focal_px: float | None = None
    fov_deg: float | None = None
    intrinsics: tuple[float, float, float, float] | None = None
    cameras: Path | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("focal_px", "fov_deg", "intrinsics") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both given; expected one of them; leave out the others")
        if self.focal_px is not None and not (math.isfinite(self.focal_px) and self.focal_px > 0):
            raise ValueError(f"focal_px is {self.focal_px}; expected a positive focal length in pixels")
        if self.fov_deg is not None and not 1 <= self.fov_deg < 179:
            raise ValueError(f"fov_deg is {self.fov_deg}; expected the view across the width, 1 to 179 degrees")
        if self.intrinsics is not None:
            _check_intrinsics(self.intrinsics)


@dataclass(frozen=True)
class VideoCamera:
    """The camera of every frame, and where that knowledge came from, in words to print and save.

    `has_poses` says whether the camera's place in the world is known; else `T_world_cam` is the identity.
    """

    camera: Camera
    source: str
    has_poses: bool

    @property
    def is_assumed(self) -> bool:
        """Whether nobody knows the focal length."""
        return self.source.startswith(ASSUMED)


def parse_intrinsics(text: str) -> tuple[float, float, float, float]:
    """Read `fx,fy,cx,cy` as it is typed on the command line.

    Raises:
        ValueError: these are not four numbers, or a focal length is not positive.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"intrinsics is '{text}'; expected four numbers fx,fy,cx,cy in pixels") from None
    if len(numbers) != 4:
        raise ValueError(f"intrinsics is '{text}', {len(numbers)} numbers; expected four, fx,fy,cx,cy in pixels")
    fx, fy, cx, cy = numbers
    _check_intrinsics((fx, fy, cx, cy))
    return fx, fy, cx, cy


def video_camera(
    info: VideoInfo, num_frames: int | None, config: CameraConfig = CameraConfig(), *, is_cut_short: bool = False
) -> VideoCamera:
    """Return the camera of each of `num_frames` frames, from the best source there is.

    With None the number is not known yet, and all else is checked. `is_cut_short` says that only the first frames of
    the video are used, so that a cameras file may hold more.

    Raises:
        ValueError: what the user gave does not fit this video, or the cameras file is not as documented.
    """
    from_file = {} if config.cameras is None else read_cameras(config.cameras, num_frames, is_cut_short=is_cut_short)
    num_frames = num_frames or max((len(values) for values in from_file.values()), default=1)
    poses = from_file.get("T_world_cam")
    if "K" in from_file:
        K, source = from_file["K"], f"cameras file {config.cameras}"
        _check_principal_points(K, info, str(config.cameras))
        _check_view(K, info, str(config.cameras))
        for name in ("focal_px", "fov_deg", "intrinsics"):
            if getattr(config, name) is not None:
                raise ValueError(
                    f"{name} is given, but {config.cameras} has K too; expected one of them; leave one out"
                )
    else:
        single, source = _single_camera(info, config)
        _check_view(single, info, source)
        K = np.broadcast_to(single, (num_frames, 3, 3))
    identity = np.broadcast_to(np.eye(4), (num_frames, 4, 4))
    camera = Camera(K=_tensor(K), T_world_cam=_tensor(identity if poses is None else poses))
    return VideoCamera(camera, source, has_poses=poses is not None)


def read_cameras(path: Path, num_frames: int | None, *, is_cut_short: bool = False) -> dict[str, np.ndarray]:
    """Read `K` (N, 3, 3) and/or `T_world_cam` (N, 4, 4) from an npz or JSON file, one per frame of the video.

    A single K of (3, 3) stands for all frames. With `num_frames` None their number is not checked, with `is_cut_short`
    there may be more of them.

    Raises:
        ValueError: it is not as documented; the message names file, field and frame.
    """
    arrays = _read_json(path) if path.suffix.lower() == ".json" else _read_npz(path)
    unknown = sorted(set(arrays) - set(CAMERA_KEYS))
    if unknown or not arrays:
        what = f"unknown field {unknown[0]}" if unknown else "no field at all"
        raise ValueError(f"{path}: {what}; expected K and/or T_world_cam; see docs/detections.md")
    checked = {}
    for name, values in arrays.items():
        size = 3 if name == "K" else 4
        if name == "K" and values.shape == (3, 3):
            values = np.broadcast_to(values, (num_frames or 1, 3, 3))
        given = len(values) if values.ndim == 3 else 0
        fits = num_frames in (None, given) or (is_cut_short and given > num_frames)
        if values.shape[1:] != (size, size) or not given or not fits:
            raise ValueError(
                f"{path}: {name} has shape {values.shape}; expected ({num_frames or 'frames'}, {size}, {size}), "
                "one matrix for each frame of the video"
            )
        values = values[:num_frames]
        checked[name] = values
        _check_matrices(values, name, path)
    return checked


def _single_camera(info: VideoInfo, config: CameraConfig) -> tuple[np.ndarray, str]:
    if config.intrinsics is not None:
        fx, fy, cx, cy = config.intrinsics
        K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
        _check_principal_points(K[None], info, "intrinsics")
        return K, f"given intrinsics {fx:g},{fy:g},{cx:g},{cy:g}"
    if config.focal_px is not None:
        focal, source = config.focal_px, f"given focal length {config.focal_px:g} px"
    elif config.fov_deg is not None:
        focal = info.width / 2 / math.tan(math.radians(config.fov_deg) / 2)
        source = f"given field of view {config.fov_deg:g} degrees across the width, focal length {focal:.0f} px"
    elif info.focal_px is not None:
        focal, source = info.focal_px, f"the video's metadata, focal length {info.focal_px:.0f} px"
    else:
        focal = math.hypot(info.width, info.height)
        source = f"{ASSUMED}: the image diagonal, focal length {focal:.0f} px"
    return intrinsics(focal, width=info.width, height=info.height).double().numpy(), source


def _check_intrinsics(values: tuple[float, ...]) -> None:
    named = dict(zip(("fx", "fy", "cx", "cy"), values, strict=True))
    for name, value in named.items():
        if not math.isfinite(value) or value < 0 or (name in ("fx", "fy") and value == 0):
            raise ValueError(
                f"intrinsics has {name} = {value}; expected positive pixels in fx,fy,cx,cy, such as 800,800,319.5,239.5"
            )


def _check_principal_points(K: np.ndarray, info: VideoInfo, where: str) -> None:
    """Refuse a principal point outside the image: the matrix belongs to another size of image."""
    center = K[:, :2, 2]
    outside = ((center < -0.5) | (center > np.array([info.width, info.height]))).any(axis=1)
    if outside.any():
        frame = int(outside.argmax())
        cx, cy = center[frame]
        raise ValueError(
            f"{where}: the principal point {cx:g},{cy:g} of frame {frame} lies outside the image of "
            f"{info.width} x {info.height}; expected K in pixels of this video; scale it to the video's size"
        )


def _check_view(K: np.ndarray, info: VideoInfo, where: str) -> None:
    """Refuse focal lengths that no camera has, which are slips of unit: they would put hands kilometres away."""
    side_px = max(info.width, info.height)
    focal_px = np.diagonal(K, axis1=-2, axis2=-1)[..., :2]
    least_px, most_px = MIN_FOCAL_SIDES * side_px, MAX_FOCAL_SIDES * side_px
    if focal_px.min() < least_px or focal_px.max() > most_px:
        worst_px = focal_px.min() if focal_px.min() < least_px else focal_px.max()
        raise ValueError(
            f"{where}: a focal length of {worst_px:g} px in pictures of {info.width} x {info.height}; expected "
            f"{least_px:.0f} to {most_px:.0f} px; give it in pixels of the full image"
        )


def _check_matrices(values: np.ndarray, name: str, path: Path) -> None:
    finite = np.isfinite(values).all(axis=(1, 2))
    if name == "K":
        upper = np.isclose(values[:, [1, 2, 2, 2], [0, 0, 1, 2]], [0, 0, 0, 1], atol=1e-6).all(axis=1)
        good, expected = (
            finite & upper & (values[:, 0, 0] > 0) & (values[:, 1, 1] > 0),
            ("[[fx, skew, cx], [0, fy, cy], [0, 0, 1]] with positive fx and fy, all finite"),
        )
    else:
        turn = np.where(finite[:, None, None], values[:, :3, :3], 0)
        square = np.abs(turn.transpose(0, 2, 1) @ turn - np.eye(3)).max(axis=(1, 2)) < ROTATION_TOLERANCE
        last_row = np.isclose(values[:, 3], [0, 0, 0, 1], atol=1e-6).all(axis=1)
        good, expected = (
            finite & square & (np.linalg.det(turn) > 0) & last_row,
            ("a rotation and a translation in metres over the row [0, 0, 0, 1], all finite"),
        )
    if not good.all():
        frame = int((~good).argmax())
        raise ValueError(f"{path}: {name} of frame {frame} is {values[frame].tolist()}; expected {expected}")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if path.suffix.lower() != ".npz":
        raise ValueError(f"{path}: cameras come as .npz or .json, with K and/or T_world_cam; see docs/detections.md")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: _numbers(file[name], name, path) for name in file.files}
    except FileNotFoundError:
        raise ValueError(f"{path}: no such cameras file; expected an npz or JSON file; check the path") from None
    except (OSError, zipfile.BadZipFile, AttributeError, EOFError) as error:
        raise ValueError(
            f"{path}: not a readable npz file ({error}); expected npz or .json with K, T_world_cam"
        ) from None
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: not plain arrays ({error}); expected K and/or T_world_cam as numbers") from None


def _read_json(path: Path) -> dict[str, np.ndarray]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such cameras file; expected an npz or JSON file; check the path") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); expected K and/or T_world_cam") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}; expected an object with K and/or T_world_cam")
    return {name: _numbers(values, name, path) for name, values in content.items()}


def _numbers(values: Any, name: str, path: Path) -> np.ndarray:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{array.dtype}")
    except ValueError as error:
        raise ValueError(f"{path}: {name} is not an array of numbers ({error}); expected N equal matrices") from None
    return array.astype(np.float64)


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.ascontiguousarray(values), dtype=torch.float32)
