"""Build the open hand: a free, rigged hand in MANO's file layout, from the WebXR generic hand (MIT licence).

    python -m data_prep.build_openhand [--glb right.glb] [--out checkpoints/openhand/OPENHAND_RIGHT.npz]

Without `--glb` the file comes out of the npm package, through `npm pack`. The same input gives the same arrays.
Nothing in it is MANO's but the conventions: the order of the joints, the axes, the flat rest pose, the counts.
"""

import argparse
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from jaxtyping import Bool, Float, Int
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
    vertex_areas,
    volume,
    weld,
)
from haptic.files import atomic_path, sha256_of

NPM_PACKAGE = "@webxr-input-profiles/assets@1.0.20"
GLB_IN_PACKAGE = "package/dist/profiles/generic-hand/right.glb"
GLB_SHA256 = "291790c14f7f88a7f9bd35330c47392ed8e8d395ae6728f4bb7089f1bc1f2b96"

NUM_VERTS = 778
NUM_LOOP = 16
NUM_BETAS = 10
PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
FINGERS = ("index", "middle", "pinky", "ring", "thumb")  # the order of MANO's joints 1..15, three each
TIP_VERTEX = {"thumb": 744, "index": 320, "middle": 443, "ring": 554, "pinky": 671}

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
THUMB_BASE = 13
FINGER_RADIUS_M = 0.012

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
CUT_SNAP_M = 0.0015
SKIN_ROUNDS = 1
POSE_SAMPLES = 700
POSE_RIDGE = 2e-3
KNUCKLE_ROUNDING = 0.7
MAX_SWELLING_M = 0.0023


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


def main() -> None:
    """Read the command line, build, write, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--glb", type=Path, help="right.glb of the generic hand; default: fetched with npm pack")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/openhand/OPENHAND_RIGHT.npz"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = read_source(args.glb or fetch_glb(Path(folder)))
    arrays = build(source)
    with atomic_path(args.out) as path:
        np.savez_compressed(path, **arrays)
    print(f"{args.out}: {args.out.stat().st_size / 1024:.0f} KiB, sha256 {sha256_of(args.out)}")


def fetch_glb(folder: Path) -> Path:
    """Get the npm package into `folder` and take the right hand out of it."""
    done = subprocess.run(
        ["npm", "pack", "--silent", NPM_PACKAGE], cwd=folder, check=True, capture_output=True, text=True
    )
    with tarfile.open(folder / done.stdout.split()[-1]) as archive:
        member = archive.extractfile(GLB_IN_PACKAGE)
        if member is None:
            raise ValueError(f"{NPM_PACKAGE} has no file {GLB_IN_PACKAGE}")
        path = folder / "right.glb"
        path.write_bytes(member.read())
    return path


def read_source(path: Path) -> SourceHand:
    """Read the hand from its glb file, after checking that it is the one that this script knows."""
    if (digest := sha256_of(path)) != GLB_SHA256:
        raise ValueError(f"{path} has sha256 {digest}; expected {GLB_SHA256}, right.glb of {NPM_PACKAGE}")
    document, read = _open_glb(path)
    primitive = document["meshes"][0]["primitives"][0]
    attributes = primitive["attributes"]
    raw_verts = read(attributes["POSITION"])
    first, faces = weld(raw_verts, read(primitive["indices"]).reshape(-1, 3).astype(int))
    nodes = [document["nodes"][k] for k in document["skins"][0]["joints"]]
    weights = np.zeros((len(first), len(nodes)))
    slots = read(attributes["JOINTS_0"])[first], read(attributes["WEIGHTS_0"])[first]
    np.add.at(weights, (np.arange(len(first))[:, None], slots[0]), slots[1])
    # WebXR's generic hand: fingers towards -y, back +x, thumb -z. This turn takes it to MANO's axes.
    to_mano = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    frames = to_mano @ Rotation.from_quat([node["rotation"] for node in nodes]).as_matrix()
    return SourceHand(
        verts=raw_verts[first].astype(float) @ to_mano.T,
        faces=faces,
        names=tuple(node["name"] for node in nodes),
        weights=weights / weights.sum(axis=1, keepdims=True),
        joints=np.array([node["translation"] for node in nodes]) @ to_mano.T,
        up=frames[:, :, 1],  # a WebXR bone points along its own -z, its back along +y
    )


def _open_glb(path: Path) -> tuple[dict[str, Any], Callable[[int], np.ndarray]]:
    """Return a binary glTF's JSON document and a function that reads its accessor of a number as rows."""
    content = path.read_bytes()
    json_bytes = int.from_bytes(content[12:16], "little")
    document = json.loads(content[20 : 20 + json_bytes])
    buffer = content[28 + json_bytes :]
    kinds = {5121: "<u1", 5123: "<u2", 5126: "<f4"}
    widths = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}

    def read(number: int) -> np.ndarray:
        accessor = document["accessors"][number]
        start = document["bufferViews"][accessor["bufferView"]]["byteOffset"]
        width = widths[accessor["type"]]
        values = np.frombuffer(buffer, kinds[accessor["componentType"]], accessor["count"] * width, start)
        return values.reshape(-1, width)

    return document, read


def build(source: SourceHand) -> dict[str, np.ndarray]:
    """Turn the source hand into the arrays of a MANO file, and print how well that went."""
    hand, surface_mm = make_rest_hand(source)
    regressor = fit_regressor(hand)
    posedirs = fit_posedirs(hand)
    hands_mean, components = natural_poses(hand)
    arrays = {
        "v_template": hand.verts,
        "J_regressor": regressor,
        "J": regressor @ hand.verts,
        "weights": hand.weights,
        "shapedirs": make_shapedirs(hand, regressor),
        "posedirs": posedirs,
        "hands_mean": hands_mean,
        "hands_components": components,
    }
    print(f"distance to the re-posed source: mean {surface_mm.mean():.3f}, max {surface_mm.max():.3f} mm")
    report(hand, posedirs)
    return {
        **{name: array.astype(np.float32) for name, array in arrays.items()},
        "f": hand.faces.astype(np.uint32),
        # MANO writes "no parent" as -1 in unsigned numbers.
        "kintree_table": np.array([PARENTS, range(16)]).astype(np.uint32),
    }


def report(hand: Hand, posedirs: Float[np.ndarray, "V 3 135"]) -> None:
    """Print what the pose directions achieve: on poses that they have not seen, and on right angles."""
    poses = sample_poses(hand, 100, rng=np.random.default_rng(2))
    wanted = np.stack([rest_correction(hand, pose) for pose in poses])
    fitted = (poses - np.eye(3)).reshape(-1, 135) @ posedirs.reshape(-1, 135).T
    left = wanted - fitted.reshape(wanted.shape)
    before, after = (np.sqrt((d**2).sum(axis=-1).mean()) * 1e3 for d in (wanted, left))
    print(f"unseen poses, rms distance to the aim: {before:.3f} mm without posedirs, {after:.3f} mm with them")
    at_rest = volume(hand.verts, hand.closed_faces)
    for joint in range(1, 16):
        angles = np.zeros((1, 15, 3))
        angles[0, joint - 1, 0] = np.pi / 2
        rotations = joint_rotations(hand, angles)[0]
        correction = posedirs @ (rotations - np.eye(3)).ravel()
        without, with_them = (
            (volume(linear_skin(hand, verts, rotations), hand.closed_faces) - at_rest) * 1e6
            for verts in (hand.verts, hand.verts + correction)
        )
        print(f"joint {joint:2d} bent by 90 degrees: {without:+6.2f} cm3 without posedirs, {with_them:+6.2f} with")


# Rest pose


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
    turn = _frames(after) @ _frames(before).transpose(0, 2, 1)
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


# Joints


def fit_regressor(hand: Hand) -> Float[np.ndarray, "16 V"]:
    """Return rows that give each joint as a mean over a ring of skin around it."""
    rows = [_ring_weights(hand, joint) for joint in range(16)]
    return np.array(rows)


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


# Shape


def make_shapedirs(hand: Hand, regressor: Float[np.ndarray, "16 V"]) -> Float[np.ndarray, "V 3 10"]:
    """Return ten orthogonal shape directions, metres per standard deviation among adults.

    Each starts as a strain of the bones (how much longer, wider, thicker each becomes), carried to the skin by
    the skin weights. What an earlier direction already says is taken out of the later ones.
    """
    directions: list[np.ndarray] = []
    for along, sideways, upward in _strains(hand.bones):
        field = _strain_field(hand, along, sideways, upward)
        field = field - regressor[0] @ field  # the wrist joint stays
        for earlier in directions:
            field = field - earlier * (earlier * field).sum() / (earlier * earlier).sum()
        directions.append(field)
    return np.stack(directions, axis=-1)


def _strains(bones: Bones) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return per direction the relative growth of each bone at +1 standard deviation: along, sideways, upward."""
    zero = np.zeros(len(bones.head))
    joint = bones.mano_joint
    finger = np.where(joint > 0, (joint - 1) // 3, -1)
    place = np.where(joint > 0, (joint - 1) % 3, -1)
    is_thumb = finger == 4
    is_finger = (finger >= 0) & ~is_thumb
    is_palm = joint == 0
    size = 0.063 + zero
    return [
        (size, size, size),  # 0 size
        (0.060 * (is_finger | (is_thumb & (place > 0))), zero, zero),  # 1 length of the fingers
        (zero, 0.055 + zero, zero),  # 2 breadth
        (zero, zero, 0.070 + zero),  # 3 thickness
        (zero, 0.07 * ~is_palm, 0.07 * ~is_palm),  # 4 girth of the fingers against the palm
        (0.06 * is_thumb, zero, zero),  # 5 length of the thumb
        (0.04 * (finger == 0) - 0.04 * (finger == 3), zero, zero),  # 6 index finger against ring finger
        (0.06 * (finger == 2), zero, zero),  # 7 length of the little finger
        (zero, *(2 * [0.06 * (place == 2) - 0.06 * (place == 0)])),  # 8 tapering of the fingers
        (0.06 * (is_finger & (place > 0)) - 0.06 * (is_finger & (place == 0)), zero, zero),  # 9 middle phalanges
    ]


def _strain_field(hand: Hand, along: np.ndarray, sideways: np.ndarray, upward: np.ndarray) -> Float[np.ndarray, "V 3"]:
    """Carry growth of the bones to the skin: each bone pushes those behind it, the skin blends between them."""
    bones = hand.bones
    frames = _frames(bones)
    growth = np.stack([along, upward, sideways], axis=-1)
    strain = np.einsum("kia,ka,kja->kij", frames, growth, frames)
    # The palm is one body: its growth has the hand's axes, whichever way a metacarpal points.
    is_palm = bones.mano_joint == 0
    strain[is_palm] = np.array([np.diag(g[[0, 1, 2]]) for g in growth[is_palm]])
    push = np.zeros_like(bones.head)
    for bone in range(1, len(push)):
        parent = bones.parent[bone]
        push[bone] = push[parent] + strain[parent] @ (bones.head[bone] - bones.head[parent])
    moved = push + np.einsum("kij,vkj->vki", strain, hand.verts[:, None] - bones.head)
    blend = smoothed(hand.bone_weights, hand.faces, rounds=2)
    return np.einsum("vk,vki->vi", blend, moved)


# Pose


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


def _ranges_of_motion() -> tuple[Float[np.ndarray, "15 3"], Float[np.ndarray, "15 3"]]:
    """Return the least and greatest bend, spread and twist of the fifteen joints in radians, a little generous."""
    knuckle, middle, last = (-30, -22, -8), (-10, -4, -4), (-15, -3, -3)
    knuckle_high, middle_high, last_high = (95, 22, 8), (110, 4, 4), (90, 3, 3)
    thumb, thumb_high = ((-30, -35, -25), (-20, -12, -8), (-25, -4, -4)), ((45, 35, 25), (65, 12, 8), (90, 4, 4))
    low = np.radians([knuckle, middle, last] * 4 + list(thumb))
    high = np.radians([knuckle_high, middle_high, last_high] * 4 + list(thumb_high))
    return low, high


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


# Small geometry


def _mano_joints(bones: Bones) -> Float[np.ndarray, "16 3"]:
    return np.array([bones.head[np.flatnonzero(bones.mano_joint == k)[0]] for k in range(16)])


def _frames(bones: Bones) -> Float[np.ndarray, "K 3 3"]:
    """Return bone frames with the columns direction, up, side."""
    return np.stack([bones.direction, bones.up, np.cross(bones.direction, bones.up)], axis=-1)


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


if __name__ == "__main__":
    main()
