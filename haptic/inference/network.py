"""The network run over a video: frames go in one by one, hands come out as trajectories, memory stays level.

Each picture passes through the backbone once: one crop per frame and track, one full frame per frame and side (left
hands see the flipped picture). Features live as long as the window that needs them.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from haptic.data.crops import cut_crop, cut_full_frame, normalise
from haptic.geometry.boxes import HAPTIC_EXPANSION, hamer_side, seen_boxes, tight_box
from haptic.geometry.lift import lift_at_depth, official_lift_at_depth, weak_depth
from haptic.hand.mirror import mirror_camera, mirror_image, mirror_params, mirror_track
from haptic.hand.model import HandModel
from haptic.inference.windows import Window, WindowConfig, cut_windows, first_depth, sane_weak_depth, stitch
from haptic.models.haptic import Haptic
from haptic.records import Camera, HandParams, HandPrediction, HandTrack, Trajectory

MIN_BOX_SIDE_PX = 4.0  # a smaller box is no hand, but must not stop the others
MIN_DEPTH_M = 0.05  # a chain of depth differences must not carry a hand through the camera

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class NetworkConfig:
    """How the network is run over a video."""

    windows: WindowConfig = field(default_factory=WindowConfig)
    device: Device = "auto"
    precision: Precision = "fp32"
    batch_windows: int = 4  # windows, of any hand, in one call of the network
    first_depth_m: float | None = None  # takes the place of Weak2Full in each track's first frame
    # Side of the crop: three times the tight box (HaPTIC), or HaMeR's rule, twice the box widened to 192:256.
    box_rule: Literal["haptic", "hamer"] = "haptic"
    # `auto` takes the network's depth unless its weights have none (HaMeR's); then each frame's weak camera tells.
    depth_from: Literal["auto", "network", "weak camera"] = "auto"

    def __post_init__(self) -> None:
        if self.batch_windows < 1:
            raise ValueError(f"batch_windows is {self.batch_windows}; it must be 1 or more")
        if self.first_depth_m is not None and not (np.isfinite(self.first_depth_m) and self.first_depth_m > 0):
            raise ValueError(f"first_depth_m is {self.first_depth_m}; expected metres before the camera, above 0")


def choose_device(name: Device) -> torch.device:
    """Return the device asked for; `auto` takes CUDA, then Apple's, then the CPU.

    Raises:
        ValueError: this machine has no such device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    if not available[name]:
        there = ", ".join(kind for kind, is_there in available.items() if is_there)
        raise ValueError(f"--device {name}: torch finds no such device here; it has {there}, or leave it to auto")
    return torch.device(name)


def run_network(
    model: Haptic,
    images: Iterable[tuple[int, np.ndarray]],
    tracks: Sequence[HandTrack],
    *,
    camera: Camera,
    config: NetworkConfig | None = None,
    hand_model: HandModel | None = None,
    zero_betas: bool = False,
) -> list[Trajectory]:
    """Return one trajectory per track, as the camera saw it.

    Args:
        images: (index, RGB picture) in order; indices count the video's frames from 0, those without a hand may be left
            out.
        camera: of the whole video (no axis), or of each of its frames.
        hand_model: when one shape is made of many, keeps the wrists where the network saw them.
        zero_betas: the weights belong to another hand's shape space (see `match_hand_model`).

    Raises:
        ValueError: a track needs a frame that did not come.
    """
    runner = NetworkRunner(model, tracks, camera=camera, config=config, hand_model=hand_model, zero_betas=zero_betas)
    for index, image in images:
        runner.push(index, image)
    return runner.finish()


class NetworkRunner:
    """Takes the frames of a video as they are decoded; `finish` gives the trajectories."""

    def __init__(
        self,
        model: Haptic,
        tracks: Sequence[HandTrack],
        *,
        camera: Camera,
        config: NetworkConfig | None = None,
        hand_model: HandModel | None = None,
        zero_betas: bool = False,
    ) -> None:
        self.config = config or NetworkConfig()
        self.device = choose_device(self.config.device)
        self.model = model.to(self.device).eval()
        self._camera = camera
        self._hand_model = hand_model
        self._zero_betas = zero_betas
        self._tracks = tracks
        self._states = [_TrackState(track, self.config, model.config.box_share) for track in tracks]
        self._width_px: int | None = None
        self._last_index = -1
        self._pictures: list[_Picture] = []
        self._ready: list[_ReadyWindow] = []

    def push(self, index: int, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """Take frame `index` of the video (RGB)."""
        assert index > self._last_index, f"frame {index} came after frame {self._last_index}"
        self._last_index = index
        if self._width_px is None:
            self._width_px = image.shape[1]
            for state in self._states:
                state.see(self._camera, self._width_px)
        for is_right in (True, False):
            states = [state for state in self._states if state.is_right is is_right and state.wants(index)]
            if states:
                self._add_pictures(index, image if is_right else mirror_image(image), states)
        if len(self._pictures) >= self.config.batch_windows * self.config.windows.clip_frames:
            self._encode()

    def finish(self) -> list[Trajectory]:
        """Work off what is left and return the trajectories, one per track and in their order."""
        self._encode()
        self._decode(at_least=1)
        for number, state in enumerate(self._states):
            if state.next_window < len(state.windows):
                raise ValueError(
                    f"track {number} covers frames {state.first_index} to {state.last_index}, but the video ended at "
                    f"{self._last_index} or left some out; give tracks and video that belong together"
                )
        return [self._trajectory(state) for state in self._states]

    def _add_pictures(self, index: int, image: np.ndarray, states: "list[_TrackState]") -> None:
        sides = self.model.config
        full_frame = cut_full_frame(
            image,
            is_flipped=not states[0].is_right,
            side_px=sides.frame_side_px,
            anti_alias=sides.anti_alias,
        )
        takers: list[Callable[[Tensor], None]] = []
        for state in states:
            frame = index - state.first_index
            center, side_px = state.crop_box(frame)
            crop = cut_crop(
                image,
                center_img=center,
                box_side_px=side_px,
                side_px=sides.crop_side_px,
                anti_alias=sides.anti_alias,
            )
            self._pictures.append(_Picture(crop, [_put(state.crop_features, frame)]))
            takers.append(_put(state.frame_features, frame))
        self._pictures.append(_Picture(full_frame, takers))

    @torch.no_grad()
    def _encode(self) -> None:
        """Pass all waiting pictures through the backbone, then hand their features to the tracks."""
        most = self.config.batch_windows * self.config.windows.clip_frames
        for side_px in sorted({picture.pixels.shape[0] for picture in self._pictures}):
            pictures = [picture for picture in self._pictures if picture.pixels.shape[0] == side_px]
            for start in range(0, len(pictures), most):
                part = pictures[start : start + most]
                pixels = normalise(np.stack([picture.pixels for picture in part])).to(self.device)
                with self._precision():
                    features = self.model.encode(pixels)
                for picture, feature in zip(part, features.unbind(0), strict=True):
                    # A copy: a view would keep the whole batch alive for the sake of one overlap frame.
                    own = feature.clone()
                    for take in picture.takers:
                        take(own)
        self._pictures = []
        for state in self._states:
            while (window := state.take_window()) is not None:
                self._ready.append(window)
                self._decode(at_least=self.config.batch_windows)

    @torch.no_grad()
    def _decode(self, *, at_least: int) -> None:
        """Let the decoder answer the windows that wait, if they are enough for a batch."""
        while len(self._ready) >= at_least:
            length = self._ready[0].crop_features.shape[0]
            batch = [window for window in self._ready if window.crop_features.shape[0] == length]
            batch = batch[: self.config.batch_windows]
            with self._precision():
                answer = self.model.decode(
                    torch.stack([window.crop_features for window in batch]),
                    torch.stack([window.frame_features for window in batch]),
                    torch.stack([window.boxes for window in batch]).to(self.device),
                )
            for number, window in enumerate(batch):
                one = answer[number : number + 1].to("cpu")
                window.state.answers[window.number] = _float32(one)
            taken = {id(window) for window in batch}
            self._ready = [window for window in self._ready if id(window) not in taken]

    def _precision(self) -> AbstractContextManager[object]:
        if self.config.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.config.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype=dtype)

    def _trajectory(self, state: "_TrackState") -> Trajectory:
        track = state.track
        answers = [state.answers[number] for number in range(len(state.windows))]
        prediction = stitch(state.windows, answers)
        assert state.K is not None, "every window has been answered, so pictures came"
        depth = self._depth(state, prediction, state.K)
        lift = official_lift_at_depth if self.config.windows.mode == "official" else lift_at_depth
        transl = lift(prediction.shift_crop[0], track.box_center_img, depth, state.K)
        betas = prediction.betas[0]
        if self._zero_betas:
            betas = torch.zeros_like(betas)
        elif self.config.windows.mode == "ours":
            betas = _shared_betas(betas, track.confidence)
            transl = transl + self._wrist_move(prediction.betas[0], betas)
        params = HandParams(
            global_orient=prediction.global_orient[0],
            hand_pose=prediction.hand_pose[0],
            betas=betas,
            transl=transl,
        )
        return Trajectory(
            frame_index=track.frame_index,
            time_s=track.time_s,
            params=params if state.is_right else mirror_params(params),
            camera=_camera_of(self._camera, track),
            confidence=track.confidence,
            observed=track.observed,
            is_right=torch.tensor(state.is_right),
        )

    def _depth(self, state: "_TrackState", prediction: HandPrediction, K: Tensor) -> Float[Tensor, " T"]:
        mode = self.config.windows.mode
        frames = list(state.windows[0].frames)
        side_px = state.crop_side_px
        if mode == "official":
            side_px = side_px[frames].mean().expand_as(side_px)
        weak = weak_depth(state.answers[0].scale[0], side_px[frames], K[frames])
        first_m = self.config.first_depth_m
        use_weak = self.config.depth_from == "weak camera" or (
            self.config.depth_from == "auto" and not self.model.has_depth
        )
        if use_weak:
            depth = sane_weak_depth(weak_depth(prediction.scale[0], state.crop_side_px, K))
            return (depth if first_m is None else depth - depth[0] + first_m).clamp(min=MIN_DEPTH_M)
        relative = prediction.depth[0]
        start = first_depth(relative[frames], weak, mode=mode) if first_m is None else relative.new_tensor(first_m)
        depth = start + relative - relative[0]
        return depth if mode == "official" else depth.clamp(min=MIN_DEPTH_M)

    def _wrist_move(self, own: Tensor, shared: Tensor) -> Tensor:
        """Return what keeps each wrist, J0(betas) + transl, in its place when the shape changes."""
        if self._hand_model is None:
            return torch.zeros(len(own), 3)
        rest = [self._hand_model.rest_joints(betas.to(self._hand_model.weights.device)) for betas in (own, shared)]
        return (rest[0] - rest[1])[:, 0].detach().cpu()


@dataclass(frozen=True)
class _Picture:
    """A picture on its way to the backbone, and who takes its features."""

    pixels: np.ndarray
    takers: list[Callable[[Tensor], None]]


@dataclass(frozen=True)
class _ReadyWindow:
    """A window whose features are all there."""

    state: "_TrackState"
    number: int
    crop_features: Tensor
    frame_features: Tensor
    boxes: Float[Tensor, "W 3"]


class _TrackState:
    """One track, as a right hand, and how far the network has come with it."""

    def __init__(self, track: HandTrack, config: NetworkConfig, box_share: float) -> None:
        self.track = track
        self.is_right = bool(track.is_right)
        self.first_index = int(track.frame_index[0])
        self.last_index = int(track.frame_index[-1])
        self.windows: list[Window] = cut_windows(len(track.frame_index), config.windows)
        self.next_window = 0
        self.answers: dict[int, HandPrediction] = {}
        self.crop_features: dict[int, Tensor] = {}
        self.frame_features: dict[int, Tensor] = {}
        self.crop_side_px = box_share * _crop_sides(track, config)
        self.K: Tensor | None = None  # of each frame of the track, turned over with it
        self.boxes: Tensor | None = None  # as the lens sees them

    def see(self, camera: Camera, width_px: int) -> None:
        """Learn the camera, and turn a left hand over, now that the width of the picture is known."""
        own = _camera_of(camera, self.track)
        if not self.is_right:
            self.track, own = mirror_track(self.track, width_px), mirror_camera(own, width_px)
        self.K = own.K
        self.boxes = seen_boxes(self.track.box_center_img, self.crop_side_px, own.K)

    def wants(self, index: int) -> bool:
        """Say whether frame `index` of the video belongs to the track."""
        return 0 <= index - self.first_index < len(self.track.frame_index)

    def crop_box(self, frame: int) -> tuple[tuple[float, float], float]:
        """Return centre and side of the square to cut in a frame of the track."""
        x, y = self.track.box_center_img[frame].tolist()
        return (x, y), float(self.crop_side_px[frame])

    def take_window(self) -> _ReadyWindow | None:
        """Return the next window if all its features are there, and forget those that no later one needs."""
        if self.next_window == len(self.windows):
            return None
        frames = self.windows[self.next_window].frames
        if not all(frame in self.crop_features and frame in self.frame_features for frame in frames):
            return None
        assert self.boxes is not None, "features come from pictures"
        window = _ReadyWindow(
            state=self,
            number=self.next_window,
            crop_features=torch.stack([self.crop_features[frame] for frame in frames]),
            frame_features=torch.stack([self.frame_features[frame] for frame in frames]),
            boxes=self.boxes[list(frames)],
        )
        self.next_window += 1
        is_last = self.next_window == len(self.windows)
        needed_from = len(self.track.frame_index) if is_last else self.windows[self.next_window].frames[0]
        for features in (self.crop_features, self.frame_features):
            for frame in [frame for frame in features if frame < needed_from]:
                del features[frame]
        return window


def _put(features: dict[int, Tensor], frame: int) -> Callable[[Tensor], None]:
    def take(value: Tensor) -> None:
        features[frame] = value

    return take


def _crop_sides(track: HandTrack, config: NetworkConfig) -> Float[Tensor, " T"]:
    tight_side_px = track.box_side_px.clamp(min=MIN_BOX_SIDE_PX)
    if config.box_rule == "haptic":
        return HAPTIC_EXPANSION * tight_side_px
    _, size_px = tight_box(track.joints_img, track.joints_img_weight)
    unknown = size_px.amax(dim=-1, keepdim=True) < MIN_BOX_SIDE_PX
    square = tight_side_px[:, None].expand(-1, 2)
    return hamer_side(torch.where(unknown, square, size_px))


def _camera_of(camera: Camera, track: HandTrack) -> Camera:
    """Return the camera of each frame of the track."""

    def per_frame(value: Tensor) -> Tensor:
        return value.expand(len(track.frame_index), -1, -1) if value.ndim == 2 else value[track.frame_index]

    return Camera(K=per_frame(camera.K), T_world_cam=per_frame(camera.T_world_cam))


def _shared_betas(betas: Float[Tensor, "T 10"], confidence: Float[Tensor, " T"]) -> Float[Tensor, "T 10"]:
    """Return one shape for the whole track: the mean, weighted by confidence."""
    weight = confidence if confidence.sum() > 0 else torch.ones_like(confidence)
    mean = (betas * weight[:, None]).sum(0) / weight.sum()
    return mean.expand_as(betas)


def _float32(prediction: HandPrediction) -> HandPrediction:
    return replace(prediction, **{f.name: getattr(prediction, f.name).float() for f in fields(HandPrediction)})
