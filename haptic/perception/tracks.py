"""From the detections of one hand to `HandTrack`s: gaps filled and marked, boxes smoothed, weights and confidence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.linalg import solveh_banded

from haptic.perception.association import TrackedHand, same_hand
from haptic.perception.detector import NUM_JOINTS, HandDetection
from haptic.records import HandTrack

# Confidence left after each filled frame on the way to the nearest seen one.
CONFIDENCE_KEPT = 0.85
# How far from one half the votes for a side may be to be doubted, and must be to be sure.
DOUBTFUL_MARGIN, SURE_MARGIN = 0.2, 0.35
# Below this belief in the track's side the detector saw the other hand there, and its joints are that hand's.
CONTRARY_BELIEF = 0.35


@dataclass(frozen=True)
class TrackConfig:
    """What becomes a track. Gaps are filled up to a time and a distance (in sides of the box)."""

    max_gap_s: float = 0.5
    max_gap_sides: float = 2.0
    min_track_s: float = 0.2
    box_stiffness: float = 0.5  # weight of the boxes' second differences against their places

    def __post_init__(self) -> None:
        for name in ("max_gap_s", "max_gap_sides", "min_track_s", "box_stiffness"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; expected a finite number, zero or more")


def hand_tracks(hands: Sequence[TrackedHand], times_s: Sequence[float], config: TrackConfig) -> list[HandTrack]:
    """Make tracks of all hands, by first frame, then by confidence.

    Short ones and doubles are dropped; a track given from elsewhere may be short. `times_s` are the times of
    all frames of the video. A video shorter than the shortest track keeps what it has.
    """
    pieces = [piece for hand in hands for piece in _pieces(hand, times_s, config)]
    needed = _least_sightings(times_s, config)
    pieces = _without_doubles([piece for piece in pieces if piece.is_given or len(piece.seen) >= needed])
    sides = _sides(pieces)
    tracks = [_track(piece, times_s, config, is_right=side) for piece, side in zip(pieces, sides, strict=True)]
    return sorted(tracks, key=lambda track: (int(track.frame_index[0]), -float(track.confidence.mean())))


def _least_sightings(times_s: Sequence[float], config: TrackConfig) -> int:
    """Return in how many frames a hand must have been seen."""
    if len(times_s) < 2:
        return 1
    fps = (len(times_s) - 1) / max(times_s[-1] - times_s[0], 1e-6)
    return max(1, min(math.ceil(config.min_track_s * fps), math.ceil(len(times_s) / 2)))


def _pieces(hand: TrackedHand, times_s: Sequence[float], config: TrackConfig) -> list[TrackedHand]:
    """Cut a hand where it was not seen for too long, or came back too far away."""
    pieces = [TrackedHand(hand.seen[0], is_given=hand.is_given)]
    for before, after in zip(hand.seen, hand.seen[1:], strict=False):
        missed = after.frame_index - before.frame_index - 1
        gap_s = times_s[after.frame_index] - times_s[before.frame_index]
        far = float(np.linalg.norm(after.center - before.center)) / max(after.side_px, before.side_px)
        if missed and (gap_s > config.max_gap_s or far > config.max_gap_sides):
            pieces.append(TrackedHand(after, is_given=hand.is_given))
        else:
            pieces[-1].add(after)
    return pieces


def _without_doubles(pieces: Sequence[TrackedHand]) -> list[TrackedHand]:
    """Drop a track that lies on a longer one for most of its length."""
    kept: list[TrackedHand] = []
    for piece in sorted(pieces, key=lambda piece: -len(piece.seen)):
        if not any(_lies_on(piece, other) for other in kept):
            kept.append(piece)
    return kept


def _lies_on(piece: TrackedHand, other: TrackedHand) -> bool:
    """Say whether a track lies on another, seen or filled there; a settled left and right seen together are two."""
    rows = np.array([detection.frame_index for detection in other.seen])
    boxes = np.stack([detection.box for detection in other.seen])
    during = [detection for detection in piece.seen if rows[0] <= detection.frame_index <= rows[-1]]
    if len(during) <= len(piece.seen) / 2:
        return False
    frames = [detection.frame_index for detection in during]
    there = np.stack([np.interp(frames, rows, edge) for edge in boxes.T], axis=1)
    upon = sum(same_hand(detection, replace(detection, box=box)) for detection, box in zip(during, there, strict=True))
    if upon <= len(piece.seen) / 2:
        return False
    opposite = piece.is_firm and other.is_firm and (piece.p_right > 0.5) != (other.p_right > 0.5)
    return not (opposite and _shared_frames(piece, other) > len(piece.seen) / 2)


def _sides(pieces: Sequence[TrackedHand]) -> list[bool]:
    """Return which hands are right ones: by their votes, and a doubtful one beside a firm one is that one's other hand.

    Only where the two are alone for most of their time: with more people about, two left hands are nothing strange.
    """
    sides = [piece.p_right >= 0.5 for piece in pieces]
    for index, piece in enumerate(pieces):
        together = [other for other in pieces if other is not piece and _shared_frames(piece, other) > 0]
        if piece.is_given or len(together) != 1 or abs(piece.p_right - 0.5) > DOUBTFUL_MARGIN:
            continue
        (other,) = together
        if _shared_frames(piece, other) > len(piece.seen) / 2 and abs(other.p_right - 0.5) > SURE_MARGIN:
            sides[index] = other.p_right < 0.5
    return sides


def _shared_frames(a: TrackedHand, b: TrackedHand) -> int:
    return len({detection.frame_index for detection in a.seen} & {detection.frame_index for detection in b.seen})


def _track(hand: TrackedHand, times_s: Sequence[float], config: TrackConfig, *, is_right: bool) -> HandTrack:
    first, count = hand.first_index, hand.last_index - hand.first_index + 1
    rows = np.array([detection.frame_index - first for detection in hand.seen])
    belief = np.array([_belief(detection, is_right=is_right) for detection in hand.seen])
    # The nearest thing to the truth if the detector took it for the other hand throughout: keep what there is.
    trusted = belief >= min(CONTRARY_BELIEF, float(belief.max()))
    boxes = _smooth_boxes(rows, np.stack([d.box for d in hand.seen]), count, config.box_stiffness)
    good = [detection for detection, ok in zip(hand.seen, trusted, strict=True) if ok]
    joints_img, joints_weight = _joints(rows[trusted], good, belief[trusted], boxes)
    landmarks, landmarks_weight = _landmarks(rows[trusted], good, belief[trusted], count)
    observed = np.zeros(count, dtype=bool)
    observed[rows[trusted]] = True
    score = belief * np.array([detection.score for detection in hand.seen])
    confidence = _confidence(rows[trusted], score[trusted], count)
    indices = np.arange(first, first + count)
    return HandTrack(
        frame_index=torch.from_numpy(indices),
        time_s=torch.tensor([times_s[first + row] for row in range(count)], dtype=torch.float64),
        box_center_img=_tensor((boxes[:, :2] + boxes[:, 2:]) / 2),
        box_side_px=_tensor((boxes[:, 2:] - boxes[:, :2]).max(axis=1)),
        joints_img=_tensor(joints_img),
        joints_img_weight=_tensor(joints_weight),
        landmarks=_tensor(landmarks),
        landmarks_weight=_tensor(landmarks_weight),
        confidence=_tensor(confidence),
        observed=torch.from_numpy(observed),
        is_right=torch.tensor(is_right),
    )


def _belief(detection: HandDetection, *, is_right: bool) -> float:
    return detection.p_right if is_right else 1 - detection.p_right


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _joints(
    rows: np.ndarray, seen: Sequence[HandDetection], belief: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return joints and weights of all frames; a filled frame has the neighbours' pose, in its own box, weight zero."""
    count = len(boxes)
    joints, weights = np.zeros((count, NUM_JOINTS, 2)), np.zeros((count, NUM_JOINTS))
    with_joints = np.array([detection.has_joints for detection in seen])
    if not with_joints.any():
        joints[:] = ((boxes[:, :2] + boxes[:, 2:]) / 2)[:, None]
        return joints, weights
    rows = rows[with_joints]
    exact = np.stack([detection.joints_img for detection, ok in zip(seen, with_joints, strict=True) if ok])
    corner, size = boxes[:, None, :2], np.maximum(boxes[:, None, 2:] - boxes[:, None, :2], 1e-6)
    in_box = _interpolated(rows, (exact - corner[rows]) / size[rows], count)
    joints = in_box * size + corner
    joints[rows] = exact
    seen_weights = np.stack([detection.joints_img_weight for detection in seen])[with_joints]
    weights[rows] = seen_weights * belief[with_joints, None]
    return joints, weights


def _landmarks(
    rows: np.ndarray, seen: Sequence[HandDetection], belief: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    given = np.array([detection.landmarks is not None for detection in seen])
    weights = np.zeros(count)
    if not given.any():
        return np.zeros((count, NUM_JOINTS, 3)), weights
    values = np.stack([detection.landmarks for detection in seen if detection.landmarks is not None])
    weights[rows[given]] = belief[given]
    return _interpolated(rows[given], values, count), weights


def _interpolated(rows: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Fill the frames between by straight lines, and those before and after by the nearest."""
    flat = values.reshape(len(rows), -1)
    filled = np.stack([np.interp(np.arange(count), rows, column) for column in flat.T], axis=1)
    return filled.reshape(count, *values.shape[1:])


def _confidence(rows: np.ndarray, score: np.ndarray, count: int) -> np.ndarray:
    """Give filled frames the interpolated confidence of their neighbours, less the farther they are."""
    frames = np.arange(count)
    after = np.searchsorted(rows, frames).clip(max=len(rows) - 1)
    distance = np.minimum(np.abs(rows[after] - frames), np.abs(frames - rows[(after - 1).clip(min=0)]))
    return np.interp(frames, rows, score) * CONFIDENCE_KEPT**distance


def _smooth_boxes(rows: np.ndarray, boxes: np.ndarray, count: int, stiffness: float) -> np.ndarray:
    """Return a box for every frame: near the seen ones, with little acceleration (Whittaker's smoother)."""
    weight = np.zeros(count)
    weight[rows] = 1.0
    target = np.zeros((count, 4))
    target[rows] = boxes
    if count < 3:
        return target
    # The normal equations of sum w (x - target)^2 + stiffness * sum (second differences of x)^2: five diagonals.
    banded = np.zeros((3, count))
    for offset, factor in ((0, 1.0), (1, -2.0), (2, 1.0)):
        banded[2, offset : count - 2 + offset] += factor**2
    banded[1, 1:-1] += -2.0
    banded[1, 2:] += -2.0
    banded[0, 2:] += 1.0
    banded *= max(stiffness, 1e-6)
    banded[2] += weight
    return solveh_banded(banded, target * weight[:, None])
