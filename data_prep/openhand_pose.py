"""Poses of the open hand: the corrections that keep bent joints full, the pose at ease, ranges of motion."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation

from data_prep.mesh_surgery import vertex_areas, volume
from data_prep.openhand_rest import FINGERS, PARENTS, THUMB_BASE, Hand

POSE_SAMPLES = 700
POSE_RIDGE = 2e-3  # of the squared entries of R - I, whose mean is about 0.1
KNUCKLE_ROUNDING = 0.7  # share of dual quaternions; with all of it a fist bulges at each knuckle
MAX_SWELLING_M = 0.0023  # palm and finger overlap when a knuckle bends: not all that the volume misses is flesh


def fit_posedirs(hand: Hand) -> Float[np.ndarray, "V 3 135"]:
    """Fit corrections, linear in the joints' rotation matrices, that keep bent joints from collapsing.

    The aim is `fleshy_skin`. What it adds to linear skinning is taken back to the rest pose and fitted per vertex,
    over the joints that move it, by ridge regression.
    """
    rng = np.random.default_rng(0)
    poses = sample_poses(hand, POSE_SAMPLES, rng=rng)
    features = (poses - np.eye(3)).reshape(len(poses), 135)
    wanted = np.stack([rest_correction(hand, pose) for pose in poses])
    posedirs = np.zeros((len(hand.verts), 3, 135))
    reach = pose_reach(hand)
    for joint_set in np.unique(reach, axis=0):
        members = np.flatnonzero((reach == joint_set).all(axis=1))
        columns = np.flatnonzero(np.repeat(joint_set, 9))
        if not len(columns):
            continue
        x = features[:, columns]
        gram = x.T @ x / len(x) + POSE_RIDGE * np.eye(len(columns))
        y = wanted[:, members].reshape(len(x), -1)
        fit = np.linalg.solve(gram, x.T @ y / len(x)).reshape(len(columns), len(members), 3)
        posedirs[members[:, None], :, columns[None]] = fit.transpose(1, 0, 2)
    return posedirs


def pose_reach(hand: Hand) -> Bool[np.ndarray, "V 15"]:
    """Say which joints correct which vertices: those between whose two bones the vertex is shared."""
    child = hand.weights[:, 1:]
    shared = [child[:, k] * (1 - child[:, k]) for k in range(15)]
    return np.stack(shared, axis=1) > 0.01


def sample_poses(hand: Hand, count: int, *, rng: np.random.Generator) -> Float[np.ndarray, "N 15 3 3"]:
    """Draw finger rotations within human ranges; a third of them bend one joint alone."""
    low, high = _ranges_of_motion()
    angles = rng.uniform(low, high, (count, 15, 3))
    lonely = np.arange(count) % 3 == 0
    only = rng.integers(0, 15, count)
    angles[lonely] *= (np.arange(15) == only[lonely][:, None])[..., None]
    return joint_rotations(hand, angles)


def joint_rotations(hand: Hand, angles: Float[np.ndarray, "N 15 3"]) -> Float[np.ndarray, "N 15 3 3"]:
    """Turn angles in radians (bend towards the palm, spread about the back's normal, twist) into rotations."""
    bone = [int(np.flatnonzero(hand.bones.mano_joint == k)[0]) for k in range(1, 16)]
    direction, up = hand.bones.direction[bone], hand.bones.up[bone]
    side = np.cross(up, direction)
    axes = np.stack([side, up, direction], axis=1)
    turns = [Rotation.from_rotvec((angles[..., a, None] * axes[:, a]).reshape(-1, 3)) for a in range(3)]
    return (turns[1] * turns[0] * turns[2]).as_matrix().reshape(*angles.shape[:2], 3, 3)


def natural_poses(hand: Hand) -> tuple[Float[np.ndarray, " 45"], Float[np.ndarray, "45 45"]]:
    """Return the pose of a hand at ease and the orthonormal directions in which poses vary most, axis-angle."""
    bends = {
        "index": (18, 28, 14),
        "middle": (22, 32, 16),
        "pinky": (28, 32, 16),
        "ring": (25, 34, 16),
        "thumb": (16, 12, 14),
    }
    angles = np.zeros((1, 15, 3))
    angles[0, :, 0] = np.radians([bends[finger] for finger in FINGERS]).ravel()
    mean = Rotation.from_matrix(joint_rotations(hand, angles)[0]).as_rotvec().ravel()
    low, high = _ranges_of_motion()
    rng = np.random.default_rng(1)
    curl = rng.uniform(size=(2000, 1, 1)) * 0.6 + rng.uniform(size=(2000, 15, 3)) * 0.4
    rotations = joint_rotations(hand, low + curl * (high - low)).reshape(-1, 3, 3)
    vectors = Rotation.from_matrix(rotations).as_rotvec().reshape(2000, 45)
    _, _, components = np.linalg.svd(vectors - vectors.mean(axis=0))
    sign = np.sign(components[np.arange(45), np.abs(components).argmax(axis=1)])
    return mean, components * sign[:, None]


def rest_correction(hand: Hand, rotations: Float[np.ndarray, "15 3 3"]) -> Float[np.ndarray, "V 3"]:
    """Return what must be added to the rest vertices so that linear skinning gives `fleshy_skin`."""
    turns, shifts = _chain(hand.joints, rotations)
    blend = np.einsum("vk,kij->vij", hand.weights, turns)
    back = np.linalg.solve(blend, (fleshy_skin(hand, rotations) - hand.weights @ shifts)[..., None])
    return back[..., 0] - hand.verts


def linear_skin(
    hand: Hand, verts: Float[np.ndarray, "V 3"], rotations: Float[np.ndarray, "15 3 3"]
) -> Float[np.ndarray, "V 3"]:
    """Pose vertices as MANO does: blend the bones' motions linearly."""
    turns, shifts = _chain(hand.joints, rotations)
    return np.einsum("vk,kij,vj->vi", hand.weights, turns, verts) + hand.weights @ shifts


def fleshy_skin(hand: Hand, rotations: Float[np.ndarray, "15 3 3"]) -> Float[np.ndarray, "V 3"]:
    """Pose the hand as flesh would: between the two blends, then what is lost swells.

    Linear blending caves in, dual quaternions (Kavan et al. 2007) round the knuckles off too far. The volume that
    a joint alone would lose comes back as swelling where the skin is shared between its bones.
    """
    posed = _between_blends(hand, rotations)
    normals, _ = vertex_areas(posed, hand.faces)
    swelling = np.zeros(len(posed))
    for joint in np.flatnonzero(np.abs(rotations - np.eye(3)).max(axis=(1, 2)) > 1e-9):
        alone = np.tile(np.eye(3), (15, 1, 1))
        alone[joint] = rotations[joint]
        swelling += _swelling(hand, _between_blends(hand, alone), int(joint) + 1)
    return posed + swelling[:, None] * normals


def _ranges_of_motion() -> tuple[Float[np.ndarray, "15 3"], Float[np.ndarray, "15 3"]]:
    """Return the least and greatest bend, spread and twist of the fifteen joints in radians, a little generous."""
    knuckle, middle, last = (-30, -22, -8), (-10, -4, -4), (-15, -3, -3)
    knuckle_high, middle_high, last_high = (95, 22, 8), (110, 4, 4), (90, 3, 3)
    thumb, thumb_high = ((-30, -35, -25), (-20, -12, -8), (-25, -4, -4)), ((45, 35, 25), (65, 12, 8), (90, 4, 4))
    low = np.radians([knuckle, middle, last] * 4 + list(thumb))
    high = np.radians([knuckle_high, middle_high, last_high] * 4 + list(thumb_high))
    return low, high


def _between_blends(hand: Hand, rotations: Float[np.ndarray, "15 3 3"]) -> Float[np.ndarray, "V 3"]:
    rounded = _dual_quaternion_skin(hand, rotations)
    return KNUCKLE_ROUNDING * rounded + (1 - KNUCKLE_ROUNDING) * linear_skin(hand, hand.verts, rotations)


def _swelling(hand: Hand, posed: Float[np.ndarray, "V 3"], joint: int) -> Float[np.ndarray, " V"]:
    """Return how far the skin around one joint must rise, in metres, to make up for the volume lost there.

    It rises less over the knuckle, where the skin is taut.
    """
    if joint == THUMB_BASE:  # its bend folds the ball of the thumb into the palm: nothing is lost there
        return np.zeros(len(posed))
    lost = volume(hand.verts, hand.closed_faces) - volume(posed, hand.closed_faces)
    rest_normals, _ = vertex_areas(hand.verts, hand.faces)
    up = hand.bones.up[np.flatnonzero(hand.bones.mano_joint == joint)[0]]
    soft = 1 - 0.6 * np.clip(rest_normals @ up, 0, 1)
    shared = 4 * hand.weights[:, joint] * (1 - hand.weights[:, joint]) * soft
    _, areas = vertex_areas(posed, hand.faces)
    return shared * np.clip(lost / (shared @ areas), 0, MAX_SWELLING_M)


def _chain(
    joints: Float[np.ndarray, "16 3"], rotations: Float[np.ndarray, "15 3 3"]
) -> tuple[Float[np.ndarray, "16 3 3"], Float[np.ndarray, "16 3"]]:
    """Return, per joint, the rotation and shift that carry a rest point to its posed place."""
    turns, places = [np.eye(3)], [joints[0]]
    for joint in range(1, 16):
        parent = PARENTS[joint]
        places.append(places[parent] + turns[parent] @ (joints[joint] - joints[parent]))
        turns.append(turns[parent] @ rotations[joint - 1])
    turn, place = np.array(turns), np.array(places)
    return turn, place - np.einsum("kij,kj->ki", turn, joints)


def _dual_quaternion_skin(hand: Hand, rotations: Float[np.ndarray, "15 3 3"]) -> Float[np.ndarray, "V 3"]:
    """Blend rigid motions as dual quaternions, scalar last, and apply them to the rest vertices."""
    turns, shifts = _chain(hand.joints, rotations)
    real = Rotation.from_matrix(turns).as_quat()
    # Along the chain, the nearer of the two signs: turns add up to more than half a circle in a fist.
    for joint in range(1, 16):
        real[joint] *= 1 if real[joint] @ real[PARENTS[joint]] >= 0 else -1
    dual = 0.5 * _quaternion_product(np.c_[shifts, np.zeros(16)], real)
    blend_real, blend_dual = hand.weights @ real, hand.weights @ dual
    norm = np.linalg.norm(blend_real, axis=1, keepdims=True)
    blend_real, blend_dual = blend_real / norm, blend_dual / norm
    conjugate = blend_real * [-1, -1, -1, 1]
    shift = 2 * _quaternion_product(blend_dual, conjugate)[:, :3]
    return Rotation.from_quat(blend_real).apply(hand.verts) + shift


def _quaternion_product(p: Float[np.ndarray, "N 4"], q: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    """Multiply quaternions, scalar last."""
    vector = p[:, 3:] * q[:, :3] + q[:, 3:] * p[:, :3] + np.cross(p[:, :3], q[:, :3])
    return np.c_[vector, p[:, 3] * q[:, 3] - (p[:, :3] * q[:, :3]).sum(axis=1)]
