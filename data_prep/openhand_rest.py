"""The open hand at rest: the WebXR generic hand, bent into MANO's zero pose and brought to MANO's counts."""

from dataclasses import dataclass

import numpy as np
import trimesh
from jaxtyping import Float, Int
from scipy.optimize import nnls
from scipy.spatial.transform import Rotation

from data_prep.mesh_surgery import (
    EdgeCollapse,
    bend,
    boundary_loop,
    close_loop,
    closest_on_mesh,
    cut_by_plane,
    smoothed,
)

NUM_VERTS = 778
NUM_LOOP = 16
PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
FINGERS = ("index", "middle", "pinky", "ring", "thumb")  # the order of MANO's joints 1..15, three each
TIP_VERTEX = {"thumb": 744, "index": 320, "middle": 443, "ring": 554, "pinky": 671}
THUMB_BASE = 13

# Where MANO's zero pose has the wrist, and where it points the bones: wrist -> 1 -> 2 -> 3.
WRIST_M = np.array([0.0957, 0.0064, 0.0062])
REST_DIRECTIONS = {
    "index": ((-0.97, -0.06, 0.23), (-0.99, 0.12, 0.07), (-1.00, -0.06, 0.00)),
    "middle": ((-1.00, -0.02, -0.04), (-0.98, 0.06, -0.18), (-0.98, -0.06, -0.17)),
    "pinky": ((-0.84, -0.12, -0.53), (-0.81, 0.00, -0.59), (-0.84, -0.04, -0.55)),
    "ring": ((-0.95, -0.05, -0.31), (-0.98, 0.07, -0.18), (-0.95, -0.07, -0.31)),
    "thumb": ((-0.63, -0.40, 0.67), (-0.64, 0.03, 0.77), (-0.82, -0.20, 0.54)),
}
# Bone lengths wrist -> 1 -> 2 -> 3 of a hand between an average woman's and an average man's, rounded. The fingers
# follow the radiographs of 66 adults by Buryanov & Kotiuk (2010); the palm is the source's own, scaled.
BONE_LENGTHS_MM = {
    "index": (92.0, 41.0, 23.0),
    "middle": (95.0, 44.0, 26.0),
    "pinky": (82.0, 32.5, 19.0),
    "ring": (87.5, 41.0, 25.5),
    "thumb": (45.0, 34.0, 31.5),
}
PALM_SCALE = 1.036  # takes the source's wrist -> middle knuckle to 95 mm
TIP_SCALE = 0.97  # of the last bones
THENAR_SCALE = 0.87  # the ball of the thumb, or it would stand out once the thumb is raised beside the palm

WEBXR_BONES = {
    "thumb": (None, "thumb-metacarpal", "thumb-phalanx-proximal", "thumb-phalanx-distal", "thumb-tip"),
    **{
        finger: (
            f"{finger}-finger-metacarpal",
            f"{finger}-finger-phalanx-proximal",
            f"{finger}-finger-phalanx-intermediate",
            f"{finger}-finger-phalanx-distal",
            f"{finger}-finger-tip",
        )
        for finger in ("index", "middle", "ring", "pinky")
    },
}

CUT_BELOW_WRIST_M = 0.008  # the source ends some 10 mm below
CUT_SNAP_M = 0.0015  # vertices as near to the cut as this lie on it
SKIN_ROUNDS = 1  # more would soften bends until no skin belongs to one phalanx alone
FINGER_RADIUS_M = 0.012  # skin this near to a phalanx is finger


@dataclass(frozen=True)
class SourceHand:
    """The WebXR hand in MANO's axes, metres: mesh, skin weights and the rest frames of its bones."""

    verts: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    names: tuple[str, ...]
    weights: Float[np.ndarray, "V 25"]
    joints: Float[np.ndarray, "25 3"]
    up: Float[np.ndarray, "25 3"]  # out of the back of each bone, towards its nail


@dataclass(frozen=True)
class Bones:
    """Twenty bones, as they lie in some pose: wrist, then per finger metacarpal (not thumb) and phalanges.

    `mano_joint` is the joint whose rotation carries the bone; metacarpals ride on the wrist.
    """

    source: Int[np.ndarray, " K"]
    mano_joint: Int[np.ndarray, " K"]
    parent: Int[np.ndarray, " K"]
    head: Float[np.ndarray, "K 3"]
    direction: Float[np.ndarray, "K 3"]
    up: Float[np.ndarray, "K 3"]
    length: Float[np.ndarray, " K"]


@dataclass(frozen=True)
class Hand:
    """The open hand at rest: what the fits below start from."""

    verts: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    joints: Float[np.ndarray, "16 3"]
    weights: Float[np.ndarray, "V 16"]
    bone_weights: Float[np.ndarray, "V K"]
    bones: Bones
    closed_faces: Int[np.ndarray, "G 3"]


def make_rest_hand(source: SourceHand) -> tuple[Hand, Float[np.ndarray, " V"]]:
    """Return the hand in MANO's zero pose with MANO's counts, and its vertices' distances to the source in mm."""
    before, after = source_bones(source), target_bones(source)
    dense_weights = smoothed(source.weights[:, before.source], source.faces, rounds=SKIN_ROUNDS)
    dense_weights = _sparse_rows(dense_weights)
    dense = repose(source, before, after, dense_weights)
    limit = WRIST_M[0] + CUT_BELOW_WRIST_M
    cut_verts, cut_faces = cut_by_plane(dense, source.faces, axis=0, limit=limit, snap=CUT_SNAP_M)
    tips = find_tips(cut_verts, cut_faces, after)
    is_kept = np.isin(np.arange(len(cut_verts)), list(tips.values()))
    importance = _importance(cut_verts, after)
    collapse = EdgeCollapse(cut_verts, cut_faces, is_kept, importance)
    verts, faces = collapse.run(num_verts=NUM_VERTS, num_loop=NUM_LOOP)
    verts, faces = renumber(verts, faces, {finger: cut_verts[k] for finger, k in tips.items()})
    corners, share, distance = closest_on_mesh(verts, dense, source.faces)
    bone_weights = np.einsum("vc,vck->vk", share, dense_weights[corners])
    bone_weights = _sparse_rows(bone_weights)
    joint_weights = bone_weights @ np.eye(16)[after.mano_joint]
    return Hand(
        verts, faces, _mano_joints(after), joint_weights, bone_weights, after, close_loop(faces)
    ), distance * 1e3


def source_bones(source: SourceHand) -> Bones:
    """Return the bones as the source has them."""
    index = {name: k for k, name in enumerate(source.names)}
    source_index, mano_joint, parent, head, tail = [0], [0], [-1], [source.joints[0]], [source.joints[11]]
    for finger_number, finger in enumerate(FINGERS):
        for place, name in enumerate(WEBXR_BONES[finger][:-1]):
            if name is None:
                continue
            k = index[name]
            starts_finger = place == (1 if finger == "thumb" else 0)
            parent.append(0 if starts_finger else len(source_index) - 1)
            source_index.append(k)
            mano_joint.append(0 if place == 0 else 3 * finger_number + place)
            head.append(source.joints[k])
            tail.append(source.joints[k + 1])
    bone = np.array(tail) - np.array(head)
    length = np.linalg.norm(bone, axis=1)
    direction = bone / length[:, None]
    up = _orthogonal(source.up[source_index], direction)
    return Bones(np.array(source_index), np.array(mano_joint), np.array(parent), np.array(head), direction, up, length)


def target_bones(source: SourceHand) -> Bones:
    """Return the same bones where MANO's zero pose has them."""
    before = source_bones(source)
    head, direction, length = before.head.copy(), before.direction.copy(), before.length.copy()
    head[0] = WRIST_M
    for finger_number, finger in enumerate(FINGERS):
        toward = np.array(REST_DIRECTIONS[finger])
        toward /= np.linalg.norm(toward, axis=1, keepdims=True)
        steps = toward * np.array(BONE_LENGTHS_MM[finger])[:, None] / 1e3
        joints = WRIST_M + np.cumsum(steps, axis=0)
        first = int(np.flatnonzero(before.mano_joint == 3 * finger_number + 1)[0])
        head[first : first + 3] = joints
        direction[first : first + 2] = toward[1:]
        direction[first + 2] = toward[2]  # a flat hand is straight at its last joint
        length[first : first + 2] = np.array(BONE_LENGTHS_MM[finger][1:]) / 1e3
        length[first + 2] = before.length[first + 2] * PALM_SCALE * TIP_SCALE
        if finger != "thumb":
            base = first - 1
            head[base] = WRIST_M + PALM_SCALE * (before.head[base] - before.head[0])
            bone = head[first] - head[base]
            length[base] = np.linalg.norm(bone)
            direction[base] = bone / length[base]
    turn = np.array([_shortest_turn(a, b) for a, b in zip(before.direction, direction, strict=True)])
    up = np.einsum("kij,kj->ki", turn, before.up)
    return Bones(before.source, before.mano_joint, before.parent, head, direction, up, length)


def repose(
    source: SourceHand, before: Bones, after: Bones, weights: Float[np.ndarray, "V K"]
) -> Float[np.ndarray, "V 3"]:
    """Bend the source mesh from one rest pose to the other."""
    turn = bone_frames(after) @ bone_frames(before).transpose(0, 2, 1)
    stretch_along = after.length / before.length
    along = np.einsum("ki,kj->kij", before.direction, before.direction)
    across = np.where(before.mano_joint == THUMB_BASE, THENAR_SCALE, 1) * PALM_SCALE
    stretch = across[:, None, None] * (np.eye(3) - along) + stretch_along[:, None, None] * along
    stretch[0] = PALM_SCALE * np.eye(3)
    blended_turn = _nearest_rotations(np.einsum("vk,kij->vij", weights, turn))
    local_maps = blended_turn @ np.einsum("vk,kij->vij", weights, stretch)
    offset = source.verts[:, None] - before.head
    moved = after.head + np.einsum("kij,vkj->vki", turn @ stretch, offset)
    blended = np.einsum("vk,vki->vi", weights, moved)
    return bend(source.verts, source.faces, local_maps, blended, anchor_weight=0.1)


def find_tips(verts: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], bones: Bones) -> dict[str, int]:
    """Return the vertex nearest to where each last bone, made longer, leaves the skin."""
    mesh = trimesh.Trimesh(verts, faces, process=False)
    tips = {}
    for number, finger in enumerate(FINGERS):
        bone = int(np.flatnonzero(bones.mano_joint == 3 * number + 3)[0])
        hits, _, _ = mesh.ray.intersects_location(bones.head[bone][None], bones.direction[bone][None])
        exit_point = hits[np.linalg.norm(hits - bones.head[bone], axis=1).argmin()]
        tips[finger] = int(np.linalg.norm(verts - exit_point, axis=1).argmin())
    return tips


def renumber(
    verts: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], tips: dict[str, Float[np.ndarray, "3"]]
) -> tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "F 3"]]:
    """Order vertices from the wrist loop to the fingers' ends, with the five tips at MANO's numbers."""
    loop = boundary_loop(faces)
    rest = np.setdiff1d(np.arange(len(verts)), loop)
    order = [*loop, *rest[np.lexsort((verts[rest, 1], verts[rest, 2], -verts[rest, 0]))]]
    at_tip = {TIP_VERTEX[finger]: int(np.linalg.norm(verts - tip, axis=1).argmin()) for finger, tip in tips.items()}
    order = [k for k in order if k not in at_tip.values()]
    for number, vertex in sorted(at_tip.items()):
        order.insert(number, vertex)
    new_number = np.argsort(order)
    return verts[order], new_number[faces]


def fit_regressor(hand: Hand) -> Float[np.ndarray, "16 V"]:
    """Return rows that give each joint as a mean over a ring of skin around it."""
    rows = [_ring_weights(hand, joint) for joint in range(16)]
    return np.array(rows)


def bone_frames(bones: Bones) -> Float[np.ndarray, "K 3 3"]:
    """Return bone frames with the columns direction, up, side."""
    return np.stack([bones.direction, bones.up, np.cross(bones.direction, bones.up)], axis=-1)


def _ring_weights(hand: Hand, joint: int) -> Float[np.ndarray, " V"]:
    """Spread one joint over nearby skin: non-negative, summing to one, as even as the exact place allows."""
    offset = hand.verts - hand.joints[joint]
    distance = np.linalg.norm(offset, axis=1)
    owners = [joint] if joint == 0 else [joint, PARENTS[joint]]
    is_own = hand.weights[:, owners].sum(axis=1) > 0.5
    bone = int(np.flatnonzero(hand.bones.mano_joint == joint)[0])
    along = np.abs(offset @ hand.bones.direction[bone])
    radius = 0.045 if joint == 0 else 0.022
    near = np.flatnonzero(is_own & (distance < radius) & (along < 0.010))
    cost = distance[near] / radius
    scale = 1e3
    system = np.vstack([np.diag(cost), scale * offset[near].T / radius, scale * np.ones(len(near))])
    wanted = np.r_[np.zeros(len(near)), np.zeros(3), scale]
    share, _ = nnls(system, wanted)
    # What the penalty left over is removed exactly, within the vertices in use.
    used = near[share > 0]
    share = share[share > 0]
    exact = np.vstack([offset[used].T / radius, np.ones(len(used))])
    share = share + np.linalg.lstsq(exact, np.array([0, 0, 0, 1.0]) - exact @ share, rcond=None)[0]
    row = np.zeros(len(hand.verts))
    row[used] = share
    return row


def _importance(verts: Float[np.ndarray, "V 3"], bones: Bones) -> Float[np.ndarray, " V"]:
    """Ask for finer skin on the fingers than on the palm, and finest at their ends."""
    is_phalanx = (bones.mano_joint > 0) & (bones.mano_joint != THUMB_BASE)
    head, along = bones.head[is_phalanx], bones.direction[is_phalanx] * bones.length[is_phalanx, None]
    is_last = (bones.mano_joint[is_phalanx] - 1) % 3 == 2
    offset = verts[:, None] - head
    share = np.clip((offset * along).sum(axis=-1) / (along**2).sum(axis=-1), 0, 1)
    distance = np.linalg.norm(offset - share[..., None] * along, axis=-1)
    nearest = distance.argmin(axis=1)
    rows = np.arange(len(verts))
    on_finger = distance[rows, nearest] < FINGER_RADIUS_M
    at_end = on_finger & is_last[nearest] & (share[rows, nearest] > 0.5)
    return np.select([at_end, on_finger], [30.0, 6.0], 1.0)


def _mano_joints(bones: Bones) -> Float[np.ndarray, "16 3"]:
    return np.array([bones.head[np.flatnonzero(bones.mano_joint == k)[0]] for k in range(16)])


def _orthogonal(vectors: Float[np.ndarray, "K 3"], directions: Float[np.ndarray, "K 3"]) -> Float[np.ndarray, "K 3"]:
    """Take out of unit vectors what lies along `directions`."""
    rest = vectors - directions * (vectors * directions).sum(axis=1, keepdims=True)
    return rest / np.linalg.norm(rest, axis=1, keepdims=True)


def _shortest_turn(a: Float[np.ndarray, "3"], b: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """Return the smallest rotation that takes unit vector a to unit vector b."""
    axis = np.cross(a, b)
    sine = np.linalg.norm(axis)
    return Rotation.from_rotvec(axis / max(sine, 1e-12) * np.arctan2(sine, a @ b)).as_matrix()


def _nearest_rotations(matrices: Float[np.ndarray, "V 3 3"]) -> Float[np.ndarray, "V 3 3"]:
    """Project matrices onto rotations."""
    left, _, right = np.linalg.svd(matrices)
    return left @ right


def _sparse_rows(weights: Float[np.ndarray, "V K"]) -> Float[np.ndarray, "V K"]:
    """Drop what is below a hundredth and let each row sum to one."""
    weights = np.where(weights < 0.01, 0, weights)
    return weights / weights.sum(axis=1, keepdims=True)
