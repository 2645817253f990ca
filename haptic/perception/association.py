"""Which detection is which hand: one hand under observation, how far a detection is from it, and doubles."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from haptic.perception.detector import HandDetection

# Speed decays: a hand seldom goes on for long as it was going.
VELOCITY_KEPT = 0.8
MAX_PREDICTED_FRAMES = 3
MAX_PREDICTED_SIDES = 1.0

FIRM_SIGHTINGS = 5
FIRM_MARGIN = 0.2  # of the vote, on either side of one half


@dataclass(frozen=True)
class MatchConfig:
    """How far a detection may be from where a hand is expected. Lengths are in sides of the hand's box."""

    max_distance_sides: float = 0.7
    more_per_missed_frame: float = 0.15
    max_distance_ever_sides: float = 1.5
    contrary_distance_sides: float = 0.35  # for a detection that the detector firmly calls the other hand
    max_scale_ratio: float = 1.8
    handedness_cost: float = 0.5
    max_misfit: float = (
        0.8  # of the joints' spread, between them and their landmarks seen from far; real hands reach 0.5
    )

    def __post_init__(self) -> None:
        if not 0 < self.max_distance_sides <= self.max_distance_ever_sides:
            raise ValueError(
                f"max_distance_sides is {self.max_distance_sides}; expected more than 0 and at most "
                f"max_distance_ever_sides = {self.max_distance_ever_sides}"
            )
        if self.max_scale_ratio <= 1:
            raise ValueError(f"max_scale_ratio is {self.max_scale_ratio}; expected more than 1, or no hand is matched")


class TrackedHand:
    """A hand under observation: its detections in order of time, and what they say about its side.

    `is_given` says that its detections came as one track from elsewhere.
    """

    def __init__(self, first: HandDetection, *, is_given: bool = False) -> None:
        self.seen: list[HandDetection] = [first]
        self.is_given = is_given
        self._right_votes = first.p_right

    def add(self, detection: HandDetection) -> None:
        """Append a detection of a later frame."""
        assert detection.frame_index > self.last_index
        self.seen.append(detection)
        self._right_votes += detection.p_right

    def add_before(self, detection: HandDetection) -> None:
        """Put a detection of an earlier frame in front."""
        assert detection.frame_index < self.first_index
        self.seen.insert(0, detection)
        self._right_votes += detection.p_right

    @property
    def first_index(self) -> int:
        """Return the first frame in which it was seen."""
        return self.seen[0].frame_index

    @property
    def last_index(self) -> int:
        """Return the last frame in which it was seen."""
        return self.seen[-1].frame_index

    @property
    def p_right(self) -> float:
        """Return the share of votes for a right hand."""
        return self._right_votes / len(self.seen)

    @property
    def is_firm(self) -> bool:
        """Say whether its side is settled."""
        return len(self.seen) >= FIRM_SIGHTINGS and abs(self.p_right - 0.5) > FIRM_MARGIN

    def contradicted_by(self, detection: HandDetection) -> bool:
        """Say whether the detector firmly takes it for the other hand."""
        p_right = self.p_right if self.is_firm else 0.5
        return abs(p_right - detection.p_right) > 0.5

    def at(self, frame_index: int) -> HandDetection | None:
        """Return what was seen in one frame."""
        for detection in reversed(self.seen):
            if detection.frame_index <= frame_index:
                return detection if detection.frame_index == frame_index else None
        return None

    def expected_at(self, frame_index: int) -> HandDetection:
        """Return the nearest detection, moved on (or back) with the hand's speed at that end."""
        if frame_index >= self.last_index:
            end, inner = self.seen[-1], self.seen[-2:][0]
        else:
            end, inner = self.seen[0], self.seen[:2][-1]
        apart = end.frame_index - inner.frame_index
        if apart == 0 or abs(apart) > MAX_PREDICTED_FRAMES:
            return replace(end, frame_index=frame_index)
        ahead = float(np.clip(frame_index - end.frame_index, -MAX_PREDICTED_FRAMES, MAX_PREDICTED_FRAMES))
        shift = (end.center - inner.center) / apart * ahead * VELOCITY_KEPT
        longest = MAX_PREDICTED_SIDES * end.side_px
        shift = shift * min(1.0, longest / max(float(np.linalg.norm(shift)), 1e-9))
        return moved(end, frame_index=frame_index, scale=1.0, shift=shift)


def moved(detection: HandDetection, *, frame_index: int, scale: float, shift: np.ndarray) -> HandDetection:
    """Return the detection with its pixels scaled about the origin, then shifted."""
    return replace(
        detection,
        frame_index=frame_index,
        box=detection.box * scale + np.tile(shift, 2),
        joints_img=detection.joints_img * scale + shift,
    )


def is_plausible(detection: HandDetection, config: MatchConfig) -> bool:
    """Refuse joints that cannot be a hand: all on one spot, or far from how their own 3D landmarks project."""
    if not np.isfinite(detection.joints_img).all() or detection.side_px < 4:
        return False
    if detection.landmarks is None or not detection.has_joints:
        return True
    known = detection.joints_img_weight > 0
    flat, joints = detection.landmarks[known, :2], detection.joints_img[known]
    flat, joints = flat - flat.mean(axis=0), joints - joints.mean(axis=0)
    scale = float((flat * joints).sum() / max(float((flat * flat).sum()), 1e-12))
    misfit = float(np.linalg.norm(flat * scale - joints) / max(float(np.linalg.norm(joints)), 1e-9))
    return scale > 0 and misfit < config.max_misfit


def same_hand(a: HandDetection, b: HandDetection) -> bool:
    """Say whether two detections of one frame lie on one hand, whatever side they claim."""
    sides = sorted((a.side_px, b.side_px))
    if sides[0] < 0.4 * sides[1]:
        return False
    overlap = np.minimum(a.box[2:], b.box[2:]) - np.maximum(a.box[:2], b.box[:2])
    if (overlap <= 0).any():
        return False
    smaller = min(float(np.prod(np.maximum(d.box[2:] - d.box[:2], 1e-6))) for d in (a, b))
    apart = float(np.linalg.norm(a.center - b.center)) / sides[1]
    return float(np.prod(overlap)) > 0.6 * smaller and apart < 0.35


def match_cost(hand: TrackedHand, expected: HandDetection, found: HandDetection, config: MatchConfig) -> float:
    """Return how badly a detection fits a hand; infinite if it cannot be that hand."""
    ratio = found.side_px / expected.side_px
    missed = min(abs(found.frame_index - index) for index in (hand.first_index, hand.last_index)) - 1
    if not 1 / config.max_scale_ratio < ratio < config.max_scale_ratio:
        return math.inf
    side = math.sqrt(found.side_px * expected.side_px)
    centers = float(np.linalg.norm(found.center - expected.center)) / side
    reach = min(config.max_distance_sides + config.more_per_missed_frame * missed, config.max_distance_ever_sides)
    # A hand that shakes turns back instead of going on: the place where it was last is as good a guess.
    last = hand.seen[-1] if found.frame_index > hand.last_index else hand.seen[0]
    nearest = min(centers, float(np.linalg.norm(found.center - last.center)) / side)
    if nearest > (config.contrary_distance_sides if hand.contradicted_by(found) else reach):
        return math.inf
    joints = centers
    both = (found.joints_img_weight > 0) & (expected.joints_img_weight > 0)
    if both.any():
        joints = float(np.linalg.norm((found.joints_img - expected.joints_img)[both], axis=1).mean()) / side
    sides_differ = abs(hand.p_right - found.p_right) * min(1.0, len(hand.seen) / FIRM_SIGHTINGS)
    return 0.5 * (centers + joints) + config.handedness_cost * sides_differ + 0.2 * abs(math.log(ratio))


def match(
    hands: Sequence[TrackedHand],
    expected: Sequence[HandDetection],
    found: Sequence[HandDetection],
    config: MatchConfig,
) -> dict[int, int]:
    """Return the best joint assignment of hands to detections, by index; doubles on one hand are given to one."""
    cost = np.array(
        [
            [match_cost(hand, place, detection, config) for detection in found]
            for hand, place in zip(hands, expected, strict=True)
        ]
    ).reshape(len(hands), len(found))
    # Matching one pair more must always win over a cheaper sum, and a forbidden pair never happens.
    rows, columns = linear_sum_assignment(np.where(np.isfinite(cost), cost, 1e6))
    pairs = sorted(
        (
            (cost[row, column], int(row), int(column))
            for row, column in zip(rows, columns, strict=True)
            if np.isfinite(cost[row, column])
        ),
    )
    matched: dict[int, int] = {}
    for _, row, column in pairs:
        rivals = [(hands[other], found[taken]) for other, taken in matched.items()]
        if all(are_two_hands((hands[row], found[column]), rival) for rival in rivals):
            matched[row] = column
    return matched


def are_two_hands(a: tuple[TrackedHand, HandDetection], b: tuple[TrackedHand, HandDetection]) -> bool:
    """Say whether two matched detections are two hands: apart, or a settled left and right that lie on one another."""
    if not same_hand(a[1], b[1]):
        return True
    settled = a[0].is_firm and b[0].is_firm and (a[0].p_right > 0.5) != (b[0].p_right > 0.5)
    agree = not (a[0].contradicted_by(a[1]) or b[0].contradicted_by(b[1]))
    return settled and agree
