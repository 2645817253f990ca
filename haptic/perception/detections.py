"""Detections from elsewhere: the JSON of `--detections`, described in `docs/detections.md`, read strictly."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from haptic.perception.association import same_hand
from haptic.perception.detector import NUM_JOINTS, HandDetection, HandDetector, Region
from haptic.perception.tracker import TrackerConfig, build_tracks
from haptic.perception.video import Frame
from haptic.records import HandTrack

FORMAT_VERSION = 1
HANDS = {"right": 1.0, "left": 0.0}
# The square around a given box in which the landmarker looks for its joints, in sides of the box.
LOOK_SIDES = (3.0, 4.0, 2.0)


def read_detections(path: Path, *, width: int, height: int, num_frames: int | None) -> list[HandDetection]:
    """Read a file of detections for a video of this size and number of frames (None: not known).

    Raises:
        ValueError: it is not as documented; the message names the file, the entry and the field.
    """
    content = _read_json(path)
    reader = _Reader(str(path), width=width, height=height, num_frames=num_frames)
    reader.check_fields(content, required={"format_version", "detections"}, optional={"image_size"})
    if content["format_version"] != FORMAT_VERSION or isinstance(content["format_version"], bool):
        raise ValueError(f"{path}: format_version is {content['format_version']!r}; expected {FORMAT_VERSION}")
    if content.get("image_size", [width, height]) != [width, height]:
        raise ValueError(
            f"{path}: image_size is {content['image_size']}; expected [{width}, {height}], the size of the video; "
            "scale the detections to it"
        )
    if not isinstance(content["detections"], list):
        raise ValueError(f"{path}: detections is no list; expected a list of objects")
    detections = [
        reader.at(f"{path}: detections[{number}]").detection(entry)
        for number, entry in enumerate(content["detections"])
    ]
    _check_tracks(detections, path)
    return detections


def follow_given(
    frames: Iterable[Frame],
    detections: Sequence[HandDetection],
    detector: HandDetector | None,
    config: TrackerConfig = TrackerConfig(),  # noqa: B008 (frozen)
    *,
    origin: str = "the detections",
) -> list[HandTrack]:
    """Make tracks of detections from elsewhere; with a detector, what they lack is looked for inside their boxes.

    `origin` names the file in messages.

    Raises:
        ValueError: a detection lies beyond the last frame.
    """
    by_frame: dict[int, list[HandDetection]] = {}
    for detection in detections:
        by_frame.setdefault(detection.frame_index, []).append(detection)
    times_s: list[float] = []
    completed: list[HandDetection] = []
    for frame in frames:
        times_s.append(frame.time_s)
        for detection in by_frame.pop(frame.index, []):
            if detector is not None and not frame.is_lost:
                detection = complete(detection, frame, detector)
            completed.append(detection)
    if by_frame:
        raise ValueError(
            f"{origin}: names frame {min(by_frame)}, but the video has frames 0 to {len(times_s) - 1}; "
            "expected detections of this video"
        )
    return build_tracks(completed, times_s, config)


def complete(detection: HandDetection, frame: Frame, detector: HandDetector) -> HandDetection:
    """Add joints, landmarks and side to a detection from what a detector sees in its box; what is given stays."""
    if detection.has_joints and detection.landmarks is not None:
        return detection
    for sides in LOOK_SIDES:
        found = detector.detect_in(frame, Region(detection.center, sides * detection.side_px))
        agreeing = [other for other in found if same_hand(other, detection) and _sides_agree(other, detection)]
        if agreeing:
            best = min(agreeing, key=lambda other: float(np.linalg.norm(other.center - detection.center)))
            return _merged(detection, best)
    return detection


def _sides_agree(found: HandDetection, given: HandDetection) -> bool:
    return given.p_right == 0.5 or found.is_right == given.is_right


def _merged(given: HandDetection, found: HandDetection) -> HandDetection:
    side = found.p_right if given.p_right == 0.5 else given.p_right
    if given.has_joints:
        return replace(given, p_right=side, landmarks=found.landmarks)
    return replace(
        given,
        p_right=side,
        box=found.box,
        joints_img=found.joints_img,
        joints_img_weight=found.joints_img_weight,
        landmarks=found.landmarks,
    )


def _check_tracks(detections: Sequence[HandDetection], path: Path) -> None:
    seen: set[tuple[str, int]] = set()
    for number, detection in enumerate(detections):
        if detection.track_id is None:
            continue
        key = (detection.track_id, detection.frame_index)
        if key in seen:
            raise ValueError(
                f"{path}: detections[{number}]: track_id '{key[0]}' occurs twice in frame {key[1]}; expected one hand "
                "per track and frame"
            )
        seen.add(key)


def _read_json(path: Path) -> dict[str, Any]:
    def refuse(token: str) -> float:
        raise ValueError(f"holds {token}, expected finite numbers")

    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse, object_pairs_hook=_unique)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such detections file; expected JSON; check the path") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); expected the format of docs/detections.md") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}; expected an object; see docs/detections.md")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice} occurs twice")
    return content


class _Reader:
    """Reads entries of one file for one video; `where` is what messages begin with."""

    def __init__(self, where: str, *, width: int, height: int, num_frames: int | None) -> None:
        self.where = where
        self.width, self.height, self.num_frames = width, height, num_frames

    def at(self, where: str) -> "_Reader":
        """Return a reader for one entry."""
        return _Reader(where, width=self.width, height=self.height, num_frames=self.num_frames)

    def fail(self, what: str, expected: str) -> ValueError:
        """Make the error that names this entry."""
        return ValueError(f"{self.where}: {what}; expected {expected}; see docs/detections.md")

    def check_fields(self, entry: Any, *, required: set[str], optional: set[str]) -> None:
        """Refuse what is no object, unknown fields and missing ones."""
        if not isinstance(entry, dict):
            raise self.fail(f"is a {type(entry).__name__}", "an object")
        unknown, missing = sorted(set(entry) - required - optional), sorted(required - set(entry))
        if unknown:
            raise self.fail(f"unknown field {unknown[0]}", " or ".join(sorted(required | optional)))
        if missing:
            raise self.fail(f"{missing[0]} is missing", ", ".join(sorted(required)))

    def detection(self, entry: Any) -> HandDetection:
        """Read one detection."""
        optional = {"box", "joints_img", "joints_img_weight", "hand", "confidence", "track_id"}
        self.check_fields(entry, required={"frame_index"}, optional=optional)
        joints, weight = self._joints(entry)
        box = self._box(entry, joints, weight)
        return HandDetection(
            frame_index=self._frame_index(entry["frame_index"]),
            p_right=self._p_right(entry, needed=joints is not None),
            score=1.0 if "confidence" not in entry else self._fraction(entry["confidence"], "confidence"),
            box=box,
            joints_img=np.tile((box[:2] + box[2:]) / 2, (NUM_JOINTS, 1)) if joints is None else joints,
            joints_img_weight=weight,
            track_id=self._track_id(entry.get("track_id")),
        )

    def _frame_index(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.fail(f"frame_index is {value!r}", "a whole number from 0")
        if self.num_frames is not None and value >= self.num_frames:
            raise self.fail(f"frame_index is {value}", f"at most {self.num_frames - 1}, the last frame of the video")
        return value

    def _p_right(self, entry: dict[str, Any], *, needed: bool) -> float:
        hand = entry.get("hand")
        if hand is None and "hand" not in entry and not needed:
            return 0.5
        if not isinstance(hand, str) or hand not in HANDS:
            raise self.fail(f"hand is {hand!r}", '"right" or "left" (it may be left out where only a box is given)')
        return HANDS[hand]

    def _track_id(self, value: Any) -> str | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.fail(f"track_id is {value!r}", "a string or a whole number")
        return str(value)

    def _joints(self, entry: dict[str, Any]) -> tuple[np.ndarray | None, np.ndarray]:
        if "joints_img" not in entry:
            if "joints_img_weight" in entry:
                raise self.fail("joints_img_weight without joints_img", "both or neither")
            return None, np.zeros(NUM_JOINTS)
        joints = self._array(entry["joints_img"], "joints_img", (NUM_JOINTS, 2))
        if "joints_img_weight" not in entry:
            entry = {**entry, "joints_img_weight": [1.0] * NUM_JOINTS}
        weight = self._array(entry["joints_img_weight"], "joints_img_weight", (NUM_JOINTS,))
        if not ((weight >= 0) & (weight <= 1)).all():
            raise self.fail(f"joints_img_weight has {weight.min():g} to {weight.max():g}", "numbers from 0 to 1")
        known = joints[weight > 0]
        if len(known) > 1 and np.ptp(known, axis=0).max() < 1:
            raise self.fail("joints_img all lie in one pixel", "the joints of a hand")
        return joints, weight

    def _box(self, entry: dict[str, Any], joints: np.ndarray | None, weight: np.ndarray) -> np.ndarray:
        if "box" in entry:
            box = self._array(entry["box"], "box", (4,))
            name = "box"
        elif joints is not None and (weight > 0).sum() >= 2:
            known = joints[weight > 0]
            box = np.concatenate([known.min(axis=0), known.max(axis=0)])
            name = "joints_img"
        else:
            raise self.fail("neither a box nor two joints of weight above 0", "a box, joints_img or both")
        if not (box[2:] > box[:2]).all():
            raise self.fail(f"{name} spans {_short(box)}", "left < right and top < bottom")
        if (box[:2] > [self.width - 0.5, self.height - 0.5]).any() or (box[2:] < -0.5).any():
            raise self.fail(
                f"{name} {_short(box)} lies outside the image", f"a box that overlaps its {self.width} x {self.height}"
            )
        return box

    def _fraction(self, value: Any, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise self.fail(f"{name} is {value!r}", "a number from 0 to 1")
        return float(value)

    def _array(self, value: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
        expected = f"{' x '.join(map(str, shape))} finite numbers"
        if not _is_number_tree(value, len(shape)):
            raise self.fail(f"{name} is no list of numbers", expected)
        try:
            array = np.array(value, dtype=np.float64)
        except (ValueError, OverflowError):
            raise self.fail(f"{name} has rows of different lengths", expected) from None
        if array.shape != shape:
            raise self.fail(f"{name} has shape {' x '.join(map(str, array.shape))}", expected)
        if not np.isfinite(array).all() or np.abs(array).max() > 1e6:
            raise self.fail(f"{name} holds numbers that are no pixels", expected)
        return array


def _is_number_tree(value: Any, depth: int) -> bool:
    if depth == 0:
        return not isinstance(value, bool) and isinstance(value, int | float)
    return isinstance(value, list) and all(_is_number_tree(item, depth - 1) for item in value)


def _short(box: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"
