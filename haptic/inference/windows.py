"""A long track cut into windows that the network can take, and its answers put together again."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from haptic.geometry.boxes import infill
from haptic.geometry.lift import chain_depth
from haptic.records import HandPrediction

FARTHEST_HAND_M = 50.0  # farther off, a hand is less than a pixel
FALLBACK_DEPTH_M = 0.5  # an arm's length, where the network says nothing that can be true


@dataclass(frozen=True)
class WindowConfig:
    """How a track is cut into windows.

    `official` is HaPTIC's demo to the letter: the tail is padded with copies of the last frame, and the last copy's
    answer is kept, even where a whole window is copies. `ours` keeps the first answer of every frame, pads nothing, and
    lets the last window reach back to be full.
    """

    clip_frames: int = 8
    overlap_frames: int = 1
    mode: Literal["ours", "official"] = "ours"

    def __post_init__(self) -> None:
        if self.clip_frames < 2:
            raise ValueError(f"clip_frames is {self.clip_frames}; a window needs 2 frames or more (official: 8)")
        if not 0 < self.overlap_frames < self.clip_frames:
            raise ValueError(
                f"overlap_frames is {self.overlap_frames}; it must lie between 1 and clip_frames - 1 = "
                f"{self.clip_frames - 1}, or windows would not touch"
            )
        if self.mode == "official" and self.overlap_frames != 1:
            raise ValueError(
                f"overlap_frames is {self.overlap_frames}; the official mode knows only 1, use mode ours for more"
            )


@dataclass(frozen=True)
class Window:
    """Frames of a track, counted from its first, that the network sees together."""

    frames: tuple[int, ...]
    keep: tuple[int, ...]  # the places in the window whose answers are kept, in order of time


def cut_windows(num_frames: int, config: WindowConfig) -> list[Window]:
    """Return the windows of a track in order of time; every frame is kept at least once."""
    if num_frames < 1:
        raise ValueError(f"a track of {num_frames} frames has no windows; expected at least one frame")
    if config.mode == "official":
        return _official_windows(num_frames, config)
    length = min(config.clip_frames, num_frames)
    stride = config.clip_frames - config.overlap_frames
    starts = [*range(0, num_frames - length, stride), num_frames - length]
    windows: list[Window] = []
    done = 0
    for start in starts:
        keep = tuple(place for place in range(length) if start + place >= done)
        windows.append(Window(frames=tuple(range(start, start + length)), keep=keep))
        done = start + length
    return windows


def _official_windows(num_frames: int, config: WindowConfig) -> list[Window]:
    windows = []
    for start in range(0, num_frames, config.clip_frames - config.overlap_frames):
        places = range(config.clip_frames)
        frames = tuple(min(start + place, num_frames - 1) for place in places)
        keep = tuple(places) if start == 0 else tuple(places)[1:]
        windows.append(Window(frames=frames, keep=keep))
    return windows


def stitch(windows: Sequence[Window], answers: Sequence[HandPrediction]) -> HandPrediction:
    """Return one prediction (B = 1) for the whole track; `depth` is then relative to its first frame (`chain_depth`).

    Where one frame is kept twice the later answer wins, as the official files do.

    Args:
        answers: the prediction of each window, with B = 1 and as many frames.
    """
    depth = chain_depth(
        [window.frames for window in windows],
        [window.keep for window in windows],
        [answer.depth[0] for answer in answers],
    )
    source = torch.zeros(len(depth), dtype=torch.long, device=depth.device)
    start = 0
    for window in windows:
        for place in window.keep:
            source[window.frames[place]] = start + place
        start += len(window.frames)
    picked = {
        field.name: torch.cat([getattr(answer, field.name) for answer in answers], dim=1)[:, source]
        for field in fields(HandPrediction)
    }
    return HandPrediction(**{**picked, "depth": depth[None]})


def first_depth(
    relative_depth: Float[Tensor, " T"], weak_depth: Float[Tensor, " T"], *, mode: Literal["ours", "official"]
) -> Float[Tensor, ""]:
    """Return the depth of the first frame in metres from the first window's weak cameras (Weak2Full).

    The official one is the first frame's alone. Ours is the median of what all frames of the window say about it, for
    one frame's scale is a noisy ruler; frames whose scale is nonsense (a hand behind the camera) are left out.
    """
    if mode == "official":
        return weak_depth[0]
    sane = _is_sane(weak_depth)
    if not sane.any():
        return weak_depth.new_tensor(FALLBACK_DEPTH_M)
    return (weak_depth - (relative_depth - relative_depth[0]))[sane].median()


def sane_weak_depth(weak_depth: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
    """Return the depth of each frame, nonsense (a hand behind the camera) filled from its neighbours."""
    sane = _is_sane(weak_depth)
    if not sane.any():
        return torch.full_like(weak_depth, FALLBACK_DEPTH_M)
    return infill(weak_depth.nan_to_num()[:, None], sane)[:, 0]


def _is_sane(weak_depth: Tensor) -> Tensor:
    return (weak_depth > 0) & (weak_depth < FARTHEST_HAND_M)
