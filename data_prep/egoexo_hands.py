"""What the official preparation of Ego-Exo4D's hand poses does to raw annotations, frame by frame.

Joints are named one by one; 3D ones lie in the world and count if at least three views agreed. A hand without a wrist
does not count, nor do joints that no hand can have (bones, angles) or whose projection is far from the annotated pixel.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

MIN_VIEWS = 3
MIN_JOINTS = 10
MAX_REPROJECTION_PX = 30.0
FINGERS = ("thumb", "index", "middle", "ring", "pinky")
NAMES = ("wrist", *(f"{finger}_{number}" for finger in FINGERS for number in (1, 2, 3, 4)))
PALM_BASES = (5, 9, 13, 17)  # wrist to these: 60 to 120 mm; every other bone: 5 to 80 mm
SHORT_BONE_M, LONG_BONE_M = (0.005, 0.08), (0.06, 0.12)
# The angle at a joint between its neighbours, degrees: the least for the thumb's three, and for a finger's three.
LEAST_ANGLES = {1: (100.0, 90.0, 90.0), 5: (60.0, 70.0, 80.0), 9: (60.0, 70.0, 80.0), 13: (60.0, 70.0, 80.0),
                17: (60.0, 70.0, 80.0)}  # fmt: skip


def hand_points(
    record: Mapping[str, Any], side: str, camera: str
) -> tuple[Float[np.ndarray, "21 3"], Float[np.ndarray, "21 2"]]:
    """Return world joints (metres) and pixels of one hand, NaN where there are none or too few views."""
    world, pixels = np.full((21, 3), np.nan), np.full((21, 2), np.nan)
    in_space = record.get("annotation3D") or {}
    on_picture = (record.get("annotation2D") or {}).get(camera) or {}
    for joint, name in enumerate(NAMES):
        point = in_space.get(f"{side}_{name}")
        if point is not None and point.get("num_views_for_3d", 0) >= MIN_VIEWS:
            world[joint] = [point[axis] for axis in "xyz"]
        point = on_picture.get(f"{side}_{name}")
        if point is not None:
            pixels[joint] = [point[axis] for axis in "xy"]
    return world, pixels


def possible_joints(joints: Float[np.ndarray, "21 3"]) -> Bool[np.ndarray, " 21"]:
    """Say which joints a hand can have; not those that are unknown."""
    known = np.isfinite(joints).all(axis=-1)
    if not known[0]:
        return np.zeros(21, bool)
    is_possible = known.copy()
    for base, least in LEAST_ANGLES.items():
        chain = [0, base, base + 1, base + 2, base + 3]
        for place in range(1, 5):
            joint = chain[place]
            length = np.linalg.norm(joints[joint] - joints[chain[place - 1]])
            low, high = LONG_BONE_M if joint in PALM_BASES else SHORT_BONE_M
            # Comparisons with what is not known are false: a joint beyond a gap stays.
            is_possible[joint] &= not (length < low or length > high)
            if place < 4:
                angle = _angle(joints[chain[place - 1]], joints[joint], joints[chain[place + 1]])
                is_possible[joint] &= not angle < least[place - 1]
    return is_possible


def believed(
    joints_cam: Float[np.ndarray, "21 3"],
    joints_img: Float[np.ndarray, "21 2"],
    K: Float[np.ndarray, "3 3"],
    *,
    side_px: int,
) -> Bool[np.ndarray, " 21"]:
    """Say which joints agree with the annotated pixels; the wrist, an area more than a point, need not."""
    with np.errstate(invalid="ignore", divide="ignore"):
        seen = joints_cam @ K.T
        seen = seen[:, :2] / seen[:, 2:]
        is_inside = ((seen >= 0) & (seen < side_px)).all(axis=-1) & (joints_cam[:, 2] > 0)
        is_near = np.linalg.norm(seen - joints_img, axis=-1) <= MAX_REPROJECTION_PX
    is_near[0] = True
    return is_inside & is_near


def _angle(before: np.ndarray, here: np.ndarray, after: np.ndarray) -> float:
    one, two = before - here, after - here
    cosine = one @ two / max(float(np.linalg.norm(one) * np.linalg.norm(two)), 1e-12)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
