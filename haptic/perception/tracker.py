"""Following every hand through a video, one frame at a time.

Detections are assigned to hands by an optimal matching on predicted places; a hand that the detector loses is looked
for again in crops around its expected place, forwards and, when it first appears, backwards through the last few
frames. Only the small results and a few reduced frames are kept.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from haptic.perception.association import (
    MatchConfig,
    TrackedHand,
    is_plausible,
    match,
    match_cost,
    moved,
    same_hand,
)
from haptic.perception.detector import HandDetection, HandDetector, Region
from haptic.perception.tracks import TrackConfig, hand_tracks
from haptic.perception.video import Frame
from haptic.records import HandTrack

# A hand of fewer sightings may be a mistake: little effort is spent on it, and it is forgotten quickly.
TRIED_SIGHTINGS = 3
UNTRIED_FRAMES = 3
# After so many missed frames only the first crop is looked into: a hand that left must not cost much.
THOROUGH_FRAMES = 4
# Crops in which a lost hand is looked for: their side in sides of its box, and whether it is turned upright.
LOOKS = ((4.0, False), (4.0, True), (3.0, True), (6.0, True), (2.0, False))
# Correlation of two frames' thumbnails: within a scene even quick turns of the head stay above 0.6 over a third of
# a second; between scenes it was 0.23 at most.
SCENE_SIZE, SCENE_CORRELATION, FLAT_SPREAD = (32, 18), 0.4, 2.0
TILE_OVERLAP = 0.25
# The least side of a tile in sides of the frame: a narrow strip must not fall into a hundred of them.
MIN_TILE_SIDE = 0.3
# A hand larger than this in its tile would have been found in the whole frame.
MAX_TILE_SHARE = 0.4


@dataclass(frozen=True)
class TrackerConfig:
    """How hands are followed."""

    match: MatchConfig = field(default_factory=MatchConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    look_again: bool = True
    look_back_frames: int = 12
    tile_every_frames: int = 3  # one tile of the frame is searched for small hands; the first frame wholly; 0: never
    kept_side_px: int = 1280  # frames kept for looking back are reduced to this

    def __post_init__(self) -> None:
        for name in ("look_back_frames", "tile_every_frames"):
            if not 0 <= getattr(self, name) <= 1000:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 (off) to 1000 frames")
        if self.kept_side_px < 64:
            raise ValueError(f"kept_side_px is {self.kept_side_px}; expected at least 64 pixels")


@dataclass(frozen=True)
class _KeptFrame:
    """A reduced frame of the last few; a pixel x of the full image is x * scale + (scale - 1) / 2 in it."""

    frame: Frame
    scale: float


class HandTracker:
    """Feed it every frame of a video in order with `step`, then take the tracks from `finish`."""

    def __init__(self, detector: HandDetector, config: TrackerConfig = TrackerConfig()) -> None:
        self.config = config
        self._detector = detector
        self._detector.restart()
        self._cuts = _SceneCuts()
        self._association = _Association(config)
        self._recent: deque[_KeptFrame] = deque(maxlen=config.look_back_frames)

    def step(self, frame: Frame) -> list[HandDetection]:
        """Take the next frame; return what is seen of the hands followed in it."""
        if frame.is_lost:
            self._association.advance(frame.index, frame.time_s, [], lambda *_: None)
            return []
        if self._cuts.begins_with(frame.image):
            self._detector.restart()
            self._association.end_all()
            self._recent.clear()
        found = self._detector.detect_next(frame)
        found += self._small_hands(frame, found)
        self._association.advance(frame.index, frame.time_s, found, lambda *job: self._look_again(frame, *job))
        if self.config.look_back_frames:
            for hand in self._association.newly_tried():
                self._look_back(hand)
            self._recent.append(_kept(frame, self.config.kept_side_px))
        return self._association.seen_at(frame.index)

    def finish(self) -> list[HandTrack]:
        """Return all tracks of the video so far, by first frame, then by confidence."""
        return self._association.tracks()

    def _look_again(
        self, frame: Frame, hand: TrackedHand, taken: Sequence[HandDetection], thorough: bool
    ) -> HandDetection | None:
        """Look for a hand near its expected place; `taken` are the other hands of this frame."""
        if not self.config.look_again:
            return None
        expected = hand.expected_at(frame.index)
        height, width = frame.image.shape[:2]
        if not ((expected.center >= 0) & (expected.center < [width, height])).all():
            return None
        for look in LOOKS if thorough else LOOKS[:1]:
            candidates = [
                (match_cost(hand, expected, found, self.config.match), index, found)
                for index, found in enumerate(self._detector.detect_in(frame, _region(expected, *look)))
                if is_plausible(found, self.config.match)
                and not hand.contradicted_by(found)
                and not any(same_hand(found, other) for other in taken)
            ]
            best = min(candidates, default=(math.inf, 0, None))
            if math.isfinite(best[0]):
                return best[2]
        return None

    def _look_back(self, hand: TrackedHand) -> None:
        """Follow a new hand backwards through the frames before it was first seen."""
        for kept in reversed(self._recent):
            index = kept.frame.index
            if index >= hand.first_index:
                continue
            taken = [_rescaled(other, kept.scale) for other in self._association.seen_at(index)]
            small = TrackedHand(_rescaled(hand.seen[0], kept.scale))
            small.add(_rescaled(hand.seen[1], kept.scale))
            found = self._look_again(kept.frame, small, taken, True)
            if found is None:
                return
            hand.add_before(_rescaled(found, 1 / kept.scale))

    def _small_hands(self, frame: Frame, found: Sequence[HandDetection]) -> list[HandDetection]:
        """Look for hands that are small in the frame, tile by tile; each must be found in its own crop too."""
        every = self.config.tile_every_frames
        if every == 0 or frame.index % every:
            return []
        tiles = _tiles(*frame.image.shape[:2])
        if frame.index:
            tiles = [tiles[frame.index // every % len(tiles)]]
        known = [*found, *self._association.expected_at(frame.index)]
        small: list[HandDetection] = []
        for tile in tiles:
            for seen in self._detector.detect_in(frame, tile):
                if seen.side_px > MAX_TILE_SHARE * tile.side_px or any(same_hand(seen, other) for other in known):
                    continue
                closer = self._detector.detect_in(frame, _region(seen, *LOOKS[0]))
                again = [other for other in closer if same_hand(other, seen) and other.is_right == seen.is_right]
                small += again[:1]
                known += again[:1]
        return small


def build_tracks(
    detections: Sequence[HandDetection],
    times_s: Sequence[float],
    config: TrackerConfig = TrackerConfig(),
) -> list[HandTrack]:
    """Make tracks of detections that came from elsewhere. `times_s` are the times of all frames of the video.

    Detections with a `track_id` are taken at their word; the others are associated.
    """
    named: dict[str, TrackedHand] = {}
    loose: dict[int, list[HandDetection]] = {}
    for detection in sorted(detections, key=lambda detection: detection.frame_index):
        if detection.track_id is None:
            loose.setdefault(detection.frame_index, []).append(detection)
        elif detection.track_id in named:
            named[detection.track_id].add(detection)
        else:
            named[detection.track_id] = TrackedHand(detection, is_given=True)
    association = _Association(config)
    for index, time_s in enumerate(times_s):
        association.advance(index, time_s, loose.get(index, []), lambda *_: None)
    return hand_tracks([*named.values(), *association.hands()], times_s, config.track)


LookAgain = Callable[[TrackedHand, Sequence[HandDetection], bool], HandDetection | None]


class _SceneCuts:
    """Notices where a film cuts to another scene; flat frames (a flash, black) are neither scene nor cut."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None

    def begins_with(self, image: np.ndarray) -> bool:
        """Say whether this frame begins another scene."""
        small = cv2.resize(image, SCENE_SIZE, interpolation=cv2.INTER_AREA).astype(np.float64).mean(axis=2)
        spread = float(small.std())
        if spread < FLAT_SPREAD:
            return False
        now = (small - small.mean()) / spread
        last, self._last = self._last, now
        return last is not None and float((now * last).mean()) < SCENE_CORRELATION


class _Association:
    """The hands followed so far, and the rules by which a frame's detections are dealt out to them."""

    def __init__(self, config: TrackerConfig) -> None:
        self._config = config
        self._times_s: list[float] = []
        self._active: list[TrackedHand] = []
        self._ended: list[TrackedHand] = []

    def advance(self, index: int, time_s: float, found: Sequence[HandDetection], look_again: LookAgain) -> None:
        """Take the detections of the next frame."""
        assert index == len(self._times_s), "frames come in order and none is left out"
        self._times_s.append(time_s)
        found = [detection for detection in found if is_plausible(detection, self._config.match)]
        expected = [hand.expected_at(index) for hand in self._active]
        matched = match(self._active, expected, found, self._config.match)
        matched |= self._match_far(expected, found, matched)
        matches = {hand: found[matched[row]] for row, hand in enumerate(self._active) if row in matched}
        self._search_for_lost(matches, look_again)
        for hand, detection in matches.items():
            hand.add(detection)
        self._welcome(found, list(matches.values()))
        self._let_go(index)

    def end_all(self) -> None:
        """Stop following: what comes next is another scene."""
        self._ended += self._active
        self._active = []

    def hands(self) -> list[TrackedHand]:
        """Return all hands, those that have left included."""
        return [*self._ended, *self._active]

    def tracks(self) -> list[HandTrack]:
        """Return the tracks of the hands so far."""
        return hand_tracks(self.hands(), self._times_s, self._config.track)

    def seen_at(self, index: int) -> list[HandDetection]:
        """Return what was seen in one frame."""
        seen = [hand.at(index) for hand in self.hands()]
        return [detection for detection in seen if detection is not None]

    def expected_at(self, index: int) -> list[HandDetection]:
        """Return where the followed hands should be."""
        return [hand.expected_at(index) for hand in self._active]

    def newly_tried(self) -> list[TrackedHand]:
        """Return the hands that became trustworthy with the last frame."""
        last = len(self._times_s) - 1
        return [hand for hand in self._active if len(hand.seen) == TRIED_SIGHTINGS and hand.last_index == last]

    def _match_far(
        self, expected: Sequence[HandDetection], found: Sequence[HandDetection], matched: dict[int, int]
    ) -> dict[int, int]:
        """Match what is left over a larger distance: one fast hand is likelier than one that left and one that came."""
        rows = [row for row in range(len(expected)) if row not in matched]
        columns = [
            column
            for column, detection in enumerate(found)
            if not any(detection is found[taken] or same_hand(detection, found[taken]) for taken in matched.values())
        ]
        near = self._config.match
        config = replace(
            near, max_distance_sides=near.max_distance_ever_sides, contrary_distance_sides=near.max_distance_sides
        )
        far = match([self._active[r] for r in rows], [expected[r] for r in rows], [found[c] for c in columns], config)
        return {
            rows[row]: columns[column]
            for row, column in far.items()
            if self._active[rows[row]].is_firm
            or abs(self._active[rows[row]].p_right - found[columns[column]].p_right) < 0.5
        }

    def _search_for_lost(self, matches: dict[TrackedHand, HandDetection], look_again: LookAgain) -> None:
        """Look again for hands without a detection, and for those the detector takes for the other hand."""
        for hand in self._active:
            current = matches.get(hand)
            if current is not None and not hand.contradicted_by(current):
                continue
            taken = [detection for other, detection in matches.items() if other is not hand]
            missed = len(self._times_s) - 1 - hand.last_index
            thorough = len(hand.seen) >= TRIED_SIGHTINGS and missed <= THOROUGH_FRAMES
            better = look_again(hand, taken, thorough)
            if better is not None and (current is None or same_hand(better, current)):
                matches[hand] = better

    def _welcome(self, found: Sequence[HandDetection], taken: list[HandDetection]) -> None:
        """Begin to follow detections that lie on no followed hand, the surest first."""
        for detection in sorted(found, key=lambda detection: -abs(detection.p_right - 0.5) * detection.score):
            if not any(detection is other or same_hand(detection, other) for other in taken):
                self._active.append(TrackedHand(detection))
                taken.append(detection)

    def _let_go(self, index: int) -> None:
        """Stop following hands that were not seen for too long."""
        now_s = self._times_s[index]
        still: list[TrackedHand] = []
        for hand in self._active:
            missed = index - hand.last_index
            gap_s = now_s - self._times_s[hand.last_index]
            tried = len(hand.seen) >= TRIED_SIGHTINGS
            keep = missed <= UNTRIED_FRAMES or (tried and gap_s <= self._config.track.max_gap_s)
            (still if keep else self._ended).append(hand)
        self._active = still


def _region(detection: HandDetection, sides: float, upright: bool) -> Region:
    """Return the square around a hand, turned so that the middle finger's bone points up if asked."""
    tilt = 0.0
    if upright and detection.has_joints:
        wrist, knuckle = detection.joints_img[0], detection.joints_img[9]
        tilt = math.atan2(*(knuckle - wrist)[::-1]) + math.pi / 2
    return Region(detection.center, sides * detection.side_px, tilt)


def _tiles(height: int, width: int) -> list[Region]:
    """Cover the frame with overlapping squares, three quarters of its shorter side wide."""
    side = max(0.75 * min(height, width), MIN_TILE_SIDE * max(height, width))
    places = []
    for length in (height, width):
        count = max(1, math.ceil((length - side) / (side * (1 - TILE_OVERLAP))) + 1)
        middle = min(side, length) / 2
        places.append(np.linspace(middle, length - middle, count) - 0.5)
    return [Region(np.array([x, y]), side, careful=False) for y in places[0] for x in places[1]]


def _kept(frame: Frame, side_px: int) -> _KeptFrame:
    height, width = frame.image.shape[:2]
    scale = min(1.0, side_px / max(height, width))
    if scale == 1.0:
        return _KeptFrame(frame, 1.0)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA)
    return _KeptFrame(Frame(frame.index, frame.time_s, small), scale)


def _rescaled(detection: HandDetection, scale: float) -> HandDetection:
    """Bring a detection to pixels of the same image at another size; pixel centres lie at whole numbers."""
    shift = np.full(2, (scale - 1) / 2)
    return moved(detection, frame_index=detection.frame_index, scale=scale, shift=shift)
