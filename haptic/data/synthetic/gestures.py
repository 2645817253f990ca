"""What hands do: signs, counts, points, pinches, grips about an object, natural poses and poses by chance alone.

All as angles of `haptic.hand.anatomy` (radians from MANO's zero pose), within the ranges of motion.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from haptic.data.synthetic.objects import Shape, distance_to
from haptic.hand.anatomy import (
    ABDUCTION,
    FLEXION,
    REST_ANGLES,
    joint_limits,
    limits_at,
    pose_from_angles,
    sample_angles,
)
from haptic.hand.joints import FINGER_CHAINS
from haptic.hand.model import HandModel
from haptic.records import HandParams

# Flexion in degrees from a straight finger: knuckle, middle joint, last joint.
FINGER_STATES = {
    "straight": (2, 5, 3), "relaxed": (18, 28, 14), "half": (42, 48, 27), "hooked": (6, 88, 50), "curled": (74, 94, 55),
}  # fmt: skip
# Base (flexion, abduction, twist), knuckle, last joint.
THUMB_STATES = {
    "out": ((-14, 2, 0), 4, 4), "up": ((-20, -6, 0), 0, -6), "easy": ((-2, 8, 4), 12, 16),
    "opposed": ((14, 30, 14), 20, 28), "across": ((16, 17, 12), 34, 42),
}  # fmt: skip
# Thumb, index, middle, ring, little finger, and how wide they are spread.
SIGNS = {
    "open": ("out", "straight", "straight", "straight", "straight", 0.9),
    "flat": ("easy", "straight", "straight", "straight", "straight", 0.1),
    "relaxed": ("easy", "relaxed", "relaxed", "relaxed", "relaxed", 0.3),
    "cupped": ("opposed", "half", "half", "half", "half", 0.2),
    "fist": ("across", "curled", "curled", "curled", "curled", 0.0),
    "hook": ("easy", "hooked", "hooked", "hooked", "hooked", 0.0),
    "point": ("across", "straight", "curled", "curled", "curled", 0.1),
    "two": ("across", "straight", "straight", "curled", "curled", 0.9),
    "three": ("across", "straight", "straight", "straight", "curled", 0.6),
    "four": ("across", "straight", "straight", "straight", "straight", 0.7),
    "three_with_thumb": ("out", "straight", "straight", "curled", "curled", 0.5),
    "two_with_thumb": ("out", "straight", "curled", "curled", "curled", 0.2),
    "thumb_up": ("up", "curled", "curled", "curled", "curled", 0.0),
    "horns": ("across", "straight", "curled", "curled", "straight", 0.4),
    "call": ("out", "curled", "curled", "curled", "straight", 0.2),
    "trigger": ("easy", "half", "curled", "curled", "curled", 0.0),
}
SPREAD_DEG = (13.0, 2.0, -20.0, -8.0)  # index, middle, little, ring
MANO_FINGER_OF = (0, 1, 3, 2)  # of index, middle, ring, little
PINCH_DRAWS, PINCH_SEEDS, PINCH_TRIES = 4000, 96, 60
PINCH_GAP_M = 0.009
FINGER_RADIUS_M = 0.0078
THUMB_RADIUS_M = 0.009
GRASP_STEPS = 26
FULL_FLEXION_DEG = (88.0, 105.0, 62.0)

GestureKind = Literal["natural", "sign", "pinch", "chance"]


@dataclass(frozen=True)
class Grip:
    """A hand about an object: the fingers' angles, and where the object is in the hand's rest axes about the wrist."""

    angles: Float[np.ndarray, "15 3"]
    rotation: Float[np.ndarray, "3 3"]
    place: Float[np.ndarray, " 3"]


class GestureBook:
    """Draws gestures. The pinches are found once, by search; the rest is drawn directly."""

    def __init__(self, model: HandModel) -> None:
        self._model = model
        self._pinches = find_pinches(model, rng=np.random.default_rng(0))

    def draw(self, kind: GestureKind, num: int, *, rng: np.random.Generator) -> Float[np.ndarray, "num 15 3"]:
        """Return gestures of one kind."""
        if kind == "natural":
            return sample_angles(num, rng=rng).numpy().astype(np.float64)
        if kind == "pinch":
            chosen = self._pinches[rng.integers(len(self._pinches), size=num)]
            return within_limits(chosen + np.radians(rng.normal(0, 1.5, chosen.shape)))
        if kind == "sign":
            names = tuple(SIGNS)
            return np.stack([draw_sign(names[rng.integers(len(names))], rng=rng) for _ in range(num)])
        lower, upper = (bound.numpy() for bound in joint_limits())
        share = np.clip(rng.normal(0.5, 0.24, (num, 15, 3)), 0, 1)
        return within_limits(lower + share * (upper - lower))

    def draw_pinch_for(self, gap_m: float, *, rng: np.random.Generator) -> Float[np.ndarray, "15 3"]:
        """Return a pinch between whose tips something of this thickness fits, about."""
        tips = self.tips(self._pinches)
        gaps = np.linalg.norm(tips[:, 0] - tips[:, 1], axis=-1)
        nearest = np.argsort(np.abs(gaps - gap_m))[: max(8, len(gaps) // 4)]
        return self._pinches[rng.choice(nearest)]

    def tips(self, angles: Float[np.ndarray, "N 15 3"]) -> Float[np.ndarray, "N 2 3"]:
        """Return the thumb's tip and the fingertip nearest to it, about the wrist in the hand's rest axes."""
        joints = hand_joints(self._model, angles)
        tips = joints[:, [chain[3] for chain in FINGER_CHAINS]]
        nearest = np.linalg.norm(tips[:, 1:] - tips[:, :1], axis=-1).argmin(axis=1) + 1
        return np.stack([tips[:, 0], tips[np.arange(len(tips)), nearest]], axis=1)

    def grip(self, shape: Shape, *, rng: np.random.Generator) -> Grip:
        """Lay an object into the palm and close the fingers until each part of them touches it."""
        knuckles = hand_joints(self._model, np.zeros((1, 15, 3)))[0, [5, 9, 13, 17]].mean(axis=0)
        half = shape.half_thickness_m
        # The object's long axis lies across the palm (rest z); the palm's skin is below the joints (rest -y).
        turn = rng.normal(0, 0.25)
        tilt = rng.normal(0, 0.15)
        about_y = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
        about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
        place = knuckles + np.array([0.012 + rng.normal(0, 0.005), -(half + 0.013), rng.normal(0, 0.008)])
        rotation = about_y @ about_x @ _TO_ACROSS
        return Grip(self._close(shape, rotation, place, rng=rng), rotation, place)

    def _close(
        self, shape: Shape, rotation: np.ndarray, place: np.ndarray, *, rng: np.random.Generator
    ) -> Float[np.ndarray, "15 3"]:
        clinical = np.zeros((15, 3))
        clinical[[0, 3, 6, 9], ABDUCTION] = np.array(SPREAD_DEG) * rng.uniform(0, 0.5)
        clinical[12] = (-14, 34 + rng.normal(0, 4), 12)
        start = clinical[:, FLEXION].copy()
        full = start.copy()
        full[:12] = np.tile(FULL_FLEXION_DEG, 4)
        full[12:] = (20, 45, 60)
        share = np.zeros(15)
        frozen = np.zeros(15, bool)
        for _ in range(GRASP_STEPS):
            tried = np.where(frozen, share, share + 1 / GRASP_STEPS)
            clinical[:, FLEXION] = start + tried * (full - start)
            angles = within_limits(np.radians(clinical) - REST_ANGLES.numpy())
            touched = self._touching(angles, shape, rotation, place)
            for finger in range(5):
                for bone in range(3):
                    if touched[finger, bone]:  # all joints before a bone that touches come to rest
                        frozen[3 * finger : 3 * finger + bone + 1] = True
            share = np.where(frozen, share, tried)
        clinical[:, FLEXION] = start + share * (full - start)
        return within_limits(np.radians(clinical) - REST_ANGLES.numpy())

    def _touching(self, angles: np.ndarray, shape: Shape, rotation: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Return, per finger in MANO's order and bone, whether its flesh meets the object."""
        joints = hand_joints(self._model, angles[None])[0]
        order = (1, 2, 4, 3, 0)  # MANO's fingers among the chains
        chains = joints[np.array([FINGER_CHAINS[finger] for finger in order])]
        ways = np.linspace(0.25, 1, 4)[:, None]
        points = chains[:, :-1, None] * (1 - ways) + chains[:, 1:, None] * ways
        radius = np.array([FINGER_RADIUS_M] * 4 + [THUMB_RADIUS_M])[:, None, None]
        local = (points - place) @ rotation
        return np.any(distance_to(shape, local) < radius, axis=-1)


def draw_sign(name: str, *, rng: np.random.Generator) -> Float[np.ndarray, "15 3"]:
    """Return one sign, made a little differently each time."""
    thumb, *fingers, spread = SIGNS[name]
    clinical = np.zeros((15, 3))
    together = rng.normal(0, 5)
    for finger, state in enumerate(fingers):
        first = 3 * MANO_FINGER_OF[finger]
        clinical[first : first + 3, FLEXION] = np.array(FINGER_STATES[str(state)]) + together * np.array([1, 1, 0.6])
        clinical[first : first + 3, FLEXION] += rng.normal(0, 5, 3)
        clinical[first, ABDUCTION] = float(spread) * SPREAD_DEG[MANO_FINGER_OF[finger]] * rng.uniform(0.6, 1.2)
    base, knuckle, last = THUMB_STATES[str(thumb)]
    clinical[12] = np.array(base) + rng.normal(0, 4, 3)
    clinical[13, FLEXION], clinical[14, FLEXION] = knuckle + rng.normal(0, 5), last + rng.normal(0, 6)
    return within_limits(np.radians(clinical) - REST_ANGLES.numpy())


def find_pinches(model: HandModel, *, rng: np.random.Generator) -> Float[np.ndarray, "N 15 3"]:
    """Return natural poses whose thumb tip meets a fingertip: the nearest of many draws, brought together by chance."""
    angles = sample_angles(PINCH_DRAWS, rng=rng).numpy().astype(np.float64)
    tips = hand_joints(model, angles)[:, [chain[3] for chain in FINGER_CHAINS]]
    gaps = np.linalg.norm(tips[:, 1:] - tips[:, :1], axis=-1)
    seeds = np.argsort(gaps.min(axis=1))[:PINCH_SEEDS]
    finger = gaps[seeds].argmin(axis=1)
    best = angles[seeds]
    moved_joints = np.zeros((PINCH_SEEDS, 15, 1))
    moved_joints[:, 12:] = 1
    for seed, which in enumerate(finger):
        first = 3 * MANO_FINGER_OF[which]
        moved_joints[seed, first : first + 3] = 1
    best_miss = np.abs(gaps[seeds].min(axis=1) - PINCH_GAP_M)
    for attempt in range(PINCH_TRIES):
        spread = np.radians(9 * 0.95**attempt) * np.array([1.0, 0.35, 0.2])
        tried = within_limits(best + moved_joints * rng.normal(0, 1, best.shape) * spread)
        tips = hand_joints(model, tried)[:, [chain[3] for chain in FINGER_CHAINS]]
        gap = np.linalg.norm(tips[np.arange(PINCH_SEEDS), finger + 1] - tips[:, 0], axis=-1)
        better = np.abs(gap - PINCH_GAP_M) < best_miss
        best[better], best_miss[better] = tried[better], np.abs(gap - PINCH_GAP_M)[better]
    return best[best_miss < PINCH_GAP_M]


def within_limits(angles: Float[np.ndarray, "*n 15 3"]) -> Float[np.ndarray, "*n 15 3"]:
    """Return the angles, those beyond their range brought back to its end."""
    values = torch.from_numpy(np.asarray(angles, np.float64)).float()
    lower, upper = limits_at(values)
    return torch.minimum(torch.maximum(values, lower), upper).numpy().astype(np.float64)


def hand_joints(model: HandModel, angles: Float[np.ndarray, "N 15 3"]) -> Float[np.ndarray, "N 21 3"]:
    """Return the joints of the mean hand about its wrist, in its rest axes."""
    pose = pose_from_angles(torch.from_numpy(np.asarray(angles)).float())
    num = len(pose)
    params = HandParams(torch.eye(3).expand(num, 3, 3), pose, torch.zeros(num, 10), torch.zeros(num, 3))
    with torch.no_grad():
        joints = model.joints(params)
    return (joints - joints[:, :1]).numpy().astype(np.float64)


_TO_ACROSS = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # takes an object's long axis, y, to the hand's z
