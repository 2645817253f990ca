"""Ranges of motion: what a joint's rotation means to an anatomist, how far it may go, and natural poses to draw from.

Each of MANO's 15 finger joints has three axes in the rest pose: along its bone, the flexion axis, the abduction axis. A
joint's rotation is twist first, then abduction, then flexion, all about these axes, and the three angles come back from
it in closed form. Positive is flexion towards the palm, abduction towards the thumb side, twist about the bone from
knuckle to tip by the right hand. For the thumb, flexion sweeps across the palm and abduction lifts it off the palm.

The angles are measured from MANO's zero pose: the identity has none. Clinical tables measure from a straight finger
that lies parallel to the middle one; the zero pose bends and spreads each finger by a few degrees (`REST_ANGLES`),
which is taken off the published ranges here. Left hands are mirrored to right ones before they come here.

Sources of the ranges: American Academy of Orthopaedic Surgeons' tables of joint motion (finger MCP 90, PIP 100, DIP 90
flexion; MCP spread 20 either way; thumb CMC 15 flexion, 20 extension, 70 abduction; thumb MCP 50-60, IP 80); the
electronic textbook of hand surgery, e-hand.com (hyperextension of the finger MCP 0-45, thumb MCP 10, IP 15-20); Bain et
al. 2015, doi 10.1177/1753193414533754; Chatzioglu et al. 2024, doi 10.5115/acb.23.310 (largest angles between
neighbouring fingers: 17, 14 and 32 degrees). The coupling of the last two joints, DIP = 2/3 PIP, is Rijpkema & Girard's
(1991); it is used to draw poses, not as a limit, since an outside force breaks it.
"""

from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

# Unit directions of the bones of a right hand in MANO's zero pose, wrist -> 1 -> 2 -> 3: fingers towards -x, thumb side
# +z, back of the hand +y. A test holds the openhand to them.
REST_DIRECTIONS = {
    "index": ((-0.97, -0.06, 0.23), (-0.99, 0.12, 0.07), (-1.00, -0.06, 0.00)),
    "middle": ((-1.00, -0.02, -0.04), (-0.98, 0.06, -0.18), (-0.98, -0.06, -0.17)),
    "pinky": ((-0.84, -0.12, -0.53), (-0.81, 0.00, -0.59), (-0.84, -0.04, -0.55)),
    "ring": ((-0.95, -0.05, -0.31), (-0.98, 0.07, -0.18), (-0.95, -0.07, -0.31)),
    "thumb": ((-0.63, -0.40, 0.67), (-0.64, 0.03, 0.77), (-0.82, -0.20, 0.54)),
}
MANO_FINGERS = ("index", "middle", "pinky", "ring", "thumb")  # three joints each, from the knuckle out
# The hinge of the thumb's outer joints: the mean of the axis about which its rest pose is bent and the broad axis of
# the openhand's thumb pad, which are 17 degrees apart.
THUMB_HINGE = (0.40, -0.87, 0.25)

FLEXION, ABDUCTION, TWIST = 0, 1, 2

# Clinical ranges in degrees: flexion, abduction (towards the thumb; fingers parallel = 0), twist, each (lower, upper).
# Healthy adults' active motion where tables agree, the larger of two where they do not.
CLINICAL_RANGES_DEG = {
    "index": (((-45, 90), (-20, 25), (-10, 10)), ((-5, 105), (-5, 5), (-5, 5)), ((-10, 90), (-5, 5), (-5, 5))),
    "middle": (((-45, 90), (-20, 20), (-10, 10)), ((-5, 105), (-5, 5), (-5, 5)), ((-10, 90), (-5, 5), (-5, 5))),
    "pinky": (((-45, 95), (-40, 15), (-15, 15)), ((-5, 105), (-5, 5), (-5, 5)), ((-10, 90), (-5, 5), (-5, 5))),
    "ring": (((-45, 90), (-25, 15), (-10, 10)), ((-5, 105), (-5, 5), (-5, 5)), ((-10, 90), (-5, 5), (-5, 5))),
    # The thumb's saddle joint is counted from MANO's zero pose, which is half way between its ends in both directions;
    # it turns inwards (pronates) as it opposes, so its twist is motion and not slack.
    "thumb": (((-30, 45), (-30, 45), (-40, 40)), ((-10, 60), (-10, 10), (-10, 10)), ((-20, 85), (-5, 5), (-5, 5))),
}
# Added at both ends: tables are means over people, goniometers differ by 5 degrees, and a model's joint centres are not
# a person's. A finger that exceeds its range by more than this is broken, or the estimate is.
MARGIN_DEG = (10.0, 7.0, 7.0)
# Bending tightens the side ligaments of a finger's knuckle: at 90 degrees this share of its sideways range is left.
ABDUCTION_LEFT_AT_90 = 0.6
DIP_PER_PIP = 2 / 3


def joint_axes() -> Float[Tensor, "15 3 3"]:
    """Return per joint, as columns in MANO's rest frame: along the bone, flexion axis, abduction axis."""
    return _AXES.clone()


def joint_limits() -> tuple[Float[Tensor, "15 3"], Float[Tensor, "15 3"]]:
    """Return the lowest and highest flexion, abduction and twist, in radians from MANO's zero pose, margin included."""
    return _LOWER.clone(), _UPPER.clone()


def joint_angles(hand_pose: Float[Tensor, "*batch 15 3 3"]) -> Float[Tensor, "*batch 15 3"]:
    """Return flexion, abduction and twist of each joint in radians from MANO's zero pose (right hand).

    Exact for every rotation whose abduction is below 90 degrees, far beyond any hand's.
    """
    axes = _AXES.to(hand_pose)
    local = axes.transpose(-1, -2) @ hand_pose @ axes
    along, sideways, up = local[..., 0, 0], local[..., 1, 0], local[..., 2, 0]
    flexion = torch.atan2(-up, along)
    abduction = torch.asin(sideways.clamp(-1 + 1e-6, 1 - 1e-6))
    twist = torch.atan2(-local[..., 1, 2], local[..., 1, 1])
    return torch.stack([flexion, abduction, twist], dim=-1)


def pose_from_angles(angles: Float[Tensor, "*batch 15 3"]) -> Float[Tensor, "*batch 15 3 3"]:
    """Return the rotations with these flexions, abductions and twists: the inverse of `joint_angles`."""
    (cf, ca, ct), (sf, sa, st) = angles.cos().unbind(-1), angles.sin().unbind(-1)
    rows = [
        torch.stack([cf * ca, -cf * sa * ct + sf * st, cf * sa * st + sf * ct], dim=-1),
        torch.stack([sa, ca * ct, -ca * st], dim=-1),
        torch.stack([-sf * ca, sf * sa * ct + cf * st, -sf * sa * st + cf * ct], dim=-1),
    ]
    axes = _AXES.to(angles)
    return axes @ torch.stack(rows, dim=-2) @ axes.transpose(-1, -2)


def angle_violation(angles: Float[Tensor, "*batch 15 3"]) -> Float[Tensor, "*batch 15 3"]:
    """Return how far each angle lies beyond its range, in radians: zero inside, positive on either side."""
    lower, upper = limits_at(angles)
    return torch.relu(lower - angles) + torch.relu(angles - upper)


def limit_violation(hand_pose: Float[Tensor, "*batch 15 3 3"]) -> Float[Tensor, "*batch 15 3"]:
    """Return how far each joint's flexion, abduction and twist lie beyond their ranges, in radians; zero inside."""
    return angle_violation(joint_angles(hand_pose))


def clamp_to_limits(hand_pose: Float[Tensor, "*batch 15 3 3"]) -> Float[Tensor, "*batch 15 3 3"]:
    """Return the pose with every angle that is beyond its range brought back to the range's end."""
    angles = joint_angles(hand_pose)
    lower, upper = limits_at(angles)
    return pose_from_angles(torch.minimum(torch.maximum(angles, lower), upper))


def sample_angles(num: int, *, rng: np.random.Generator) -> Float[Tensor, "num 15 3"]:
    """Draw natural poses, within the limits, as angles from MANO's zero pose.

    Fingers curl mostly together and now and then one by one; knuckles and outer joints bend apart to some degree; the
    last joint follows the one before it; spread shrinks as the hand closes; the thumb opposes more the more it closes.
    """
    clinical = np.zeros((num, 5, 3, 3))  # finger, joint, angle; degrees from a straight finger
    # Half of the hands curl as one, a quarter hold some fingers straight (pointing, counting), a quarter are free.
    kind = rng.choice(3, size=num, p=[0.5, 0.25, 0.25])
    together = rng.beta(0.9, 1.1, size=(num, 1))
    curl = np.clip(together + rng.normal(0, 0.12, (num, 4)), 0, 1)
    straight = (rng.random((num, 4)) < 0.5) & (kind == 1)[:, None]
    curl = np.where(straight, rng.beta(1, 8, (num, 4)), np.where((kind == 1)[:, None], 0.5 + 0.5 * curl, curl))
    curl = np.where((kind == 2)[:, None], rng.beta(0.8, 0.9, (num, 4)), curl)
    knuckle_share = np.clip(rng.normal(0, 0.25, (num, 1)) + rng.normal(0, 0.08, (num, 4)), -0.7, 0.7)
    spread = rng.normal(0.15, 0.5, (num, 1)) * (1 - 0.75 * curl)
    sideways_deg = np.array([14.0, 2.0, -22.0, -8.0])  # index, middle, little, ring, when spread is one
    clinical[:, :4, 0, FLEXION] = np.clip(-10 + 95 * (curl + knuckle_share), -18, 90)
    clinical[:, :4, 0, ABDUCTION] = spread * sideways_deg + rng.normal(0, 3, (num, 4))
    clinical[:, :4, 0, TWIST] = rng.normal(0, 4, (num, 4))
    pip = np.clip(-3 + 108 * (curl - 0.6 * knuckle_share), -3, 103)
    clinical[:, :4, 1, FLEXION] = pip
    clinical[:, :4, 2, FLEXION] = np.clip(DIP_PER_PIP * pip + rng.normal(0, 8, (num, 4)), -8, 85)
    clinical[:, :4, 1:, ABDUCTION:] = rng.normal(0, 1.5, (num, 4, 2, 2))
    close = np.clip(0.6 * curl.mean(1) + 0.4 * rng.random(num) + rng.normal(0, 0.2, num), 0, 1)
    clinical[:, 4, 0, FLEXION] = -20 + 50 * close + rng.normal(0, 8, num)
    clinical[:, 4, 0, ABDUCTION] = rng.normal(0, 1, num) * 12 + 12 * close
    clinical[:, 4, 0, TWIST] = rng.normal(0, 8, num) + 12 * close
    clinical[:, 4, 1, FLEXION] = np.clip(55 * close * rng.random(num) + rng.normal(8, 8, num), -10, 60)
    clinical[:, 4, 1, ABDUCTION:] = rng.normal(0, 3, (num, 2))
    clinical[:, 4, 2, FLEXION] = np.clip(75 * close * rng.random(num) + rng.normal(5, 12, num), -18, 80)
    clinical[:, 4, 2, ABDUCTION:] = rng.normal(0, 1.5, (num, 2))
    angles = torch.from_numpy(np.radians(clinical)).float().reshape(num, 15, 3) - REST_ANGLES
    lower, upper = limits_at(angles)
    return torch.minimum(torch.maximum(angles, lower), upper)


def sample_pose(num: int, *, rng: np.random.Generator) -> Float[Tensor, "num 15 3 3"]:
    """Draw natural poses within the limits, as MANO's `hand_pose`; see `sample_angles`."""
    return pose_from_angles(sample_angles(num, rng=rng))


def limits_at(
    angles: Float[Tensor, "*batch 15 3"],
) -> tuple[Float[Tensor, "*batch 15 3"], Float[Tensor, "*batch 15 3"]]:
    """Return the ranges with the knuckles' sideways ones narrowed by how far they are bent."""
    lower, upper = _LOWER.to(angles), _UPPER.to(angles)
    bent = ((angles[..., FLEXION] + REST_ANGLES.to(angles)[:, FLEXION]) / (torch.pi / 2)).clamp(0, 1)
    share = 1 - (1 - ABDUCTION_LEFT_AT_90) * bent * _IS_KNUCKLE.to(angles)
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    half = half * torch.stack([torch.ones_like(share), share, torch.ones_like(share)], dim=-1)
    return middle - half, middle + half


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm(dim=-1, keepdim=True)


def _build_axes() -> Tensor:
    bones = {finger: _unit(torch.tensor(rows)) for finger, rows in REST_DIRECTIONS.items()}
    across = ("index", "middle", "ring", "pinky")
    # The back of the palm between each two neighbours; a finger bends in the plane of the mean of its two.
    between = [_unit(torch.linalg.cross(bones[b][0], bones[a][0])) for a, b in pairwise(across)]
    back = dict(zip(across, (between[0], between[0] + between[1], between[1] + between[2], between[2]), strict=True))
    axes = []
    for finger in MANO_FINGERS:
        for joint in range(3):
            bone = bones[finger][min(joint + 1, 2)]  # the tip goes on along the last bone
            if finger == "thumb":
                hinge = torch.tensor(THUMB_HINGE)
                hinge = _unit(hinge - (hinge @ bone) * bone)
            else:
                hinge = _unit(torch.linalg.cross(_unit(back[finger]), bone))
            axes.append(torch.stack([bone, hinge, torch.linalg.cross(bone, hinge)], dim=-1))
    return torch.stack(axes)


def _build_rest_angles() -> Tensor:
    """Return the clinical angles of MANO's zero pose.

    A knuckle's flexion is zero there, since the hand is flat; its abduction is the angle to the middle finger. The
    outer joints' are the angles between their bones. The last bone ends in the tip's pulp, not its axis: zero.
    """
    axes, rest = _build_axes(), torch.zeros(15, 3)
    middle = axes[3, :, 0]
    for finger, name in enumerate(MANO_FINGERS):
        knuckle = axes[3 * finger]
        bone = _unit(torch.tensor(REST_DIRECTIONS[name][2]))
        seen = knuckle.T @ bone
        rest[3 * finger + 1, FLEXION] = torch.atan2(-seen[2], seen[0])
        rest[3 * finger + 1, ABDUCTION] = torch.asin(seen[1])
        if name != "thumb":
            # Seen from the finger the middle one lies at minus this angle, in the plane of the palm.
            seen = knuckle.T @ middle
            rest[3 * finger, ABDUCTION] = -torch.atan2(seen[1], seen[0])
    return rest


def _build_limits() -> tuple[Tensor, Tensor]:
    table = torch.tensor([CLINICAL_RANGES_DEG[finger] for finger in MANO_FINGERS], dtype=torch.float32)
    table = torch.deg2rad(table.reshape(15, 3, 2))
    margin = torch.deg2rad(torch.tensor(MARGIN_DEG))
    # The outer joints' sideways angles are slack about the rest pose, whose small zigzag is not motion.
    zero = REST_ANGLES.clone()
    zero[~_IS_KNUCKLE, ABDUCTION] = 0
    return table[..., 0] - zero - margin, table[..., 1] - zero + margin


_AXES = _build_axes()
_IS_KNUCKLE = torch.tensor([joint % 3 == 0 and joint < 12 for joint in range(15)])
REST_ANGLES = _build_rest_angles()  # (15, 3) radians: what a clinician would read off MANO's zero pose
_LOWER, _UPPER = _build_limits()
