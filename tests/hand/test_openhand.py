"""The open hand, read as any program would read it: with NumPy, and with smplx."""

from pathlib import Path

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from haptic.files import find_asset

PARENTS = [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14]
FINGERS = ("index", "middle", "pinky", "ring", "thumb")
TIPS = {"thumb": 744, "index": 320, "middle": 443, "ring": 554, "pinky": 671}
REST_DIRECTIONS = {
    "index": [(-0.97, -0.06, 0.23), (-0.99, 0.12, 0.07), (-1.00, -0.06, 0.00)],
    "middle": [(-1.00, -0.02, -0.04), (-0.98, 0.06, -0.18), (-0.98, -0.06, -0.17)],
    "pinky": [(-0.84, -0.12, -0.53), (-0.81, 0.00, -0.59), (-0.84, -0.04, -0.55)],
    "ring": [(-0.95, -0.05, -0.31), (-0.98, 0.07, -0.18), (-0.95, -0.07, -0.31)],
    "thumb": [(-0.63, -0.40, 0.67), (-0.64, 0.03, 0.77), (-0.82, -0.20, 0.54)],
}
THUMB_BASE = 13  # never bends by a right angle
SIZE, FINGER_LENGTH, BREADTH, THICKNESS = range(4)


@pytest.fixture(scope="module")
def path():
    return find_asset("openhand/OPENHAND_RIGHT.npz")


@pytest.fixture(scope="module")
def hand(path):
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def closed_faces(hand):
    """The faces with a lid over the wrist, so that inside and outside are defined."""
    loop = open_loop(hand["f"])
    lid = [[loop[0], loop[k + 1], loop[k]] for k in range(1, len(loop) - 1)]
    return np.vstack([hand["f"], lid]).astype(int)


def open_loop(faces):
    sides = {tuple(side) for side in faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).tolist()}
    follow = {a: b for a, b in sides if (b, a) not in sides}
    loop = [min(follow)]
    while follow[loop[-1]] != loop[0]:
        loop.append(follow[loop[-1]])
    assert len(loop) == len(follow), "more than one open loop"
    return loop


def shaped(hand, **betas):
    vector = np.zeros(10)
    for index, value in betas.items():
        vector[int(index[1:])] = value
    return hand["v_template"] + hand["shapedirs"].astype(float) @ vector


def posed(hand, rotations, *, verts=None, correct=True):
    """Linear blend skinning in plain NumPy, after MANO's definition."""
    verts = hand["v_template"].astype(float) if verts is None else verts
    joints = hand["J_regressor"] @ verts
    if correct:
        verts = verts + hand["posedirs"] @ (rotations - np.eye(3)).ravel()
    turns, places = [np.eye(3)], [joints[0]]
    for joint in range(1, 16):
        parent = PARENTS[joint]
        places.append(places[parent] + turns[parent] @ (joints[joint] - joints[parent]))
        turns.append(turns[parent] @ rotations[joint - 1])
    shifts = np.array(places) - np.einsum("kij,kj->ki", turns, joints)
    return np.einsum("vk,kij,vj->vi", hand["weights"], turns, verts) + hand["weights"] @ shifts, np.array(places)


def bent(joint, degrees, axis):
    """All joints straight but one."""
    rotations = np.tile(np.eye(3), (15, 1, 1))
    rotations[joint - 1] = Rotation.from_rotvec(np.radians(degrees) * np.asarray(axis)).as_matrix()
    return rotations


def bending_axis(hand, joint):
    """A hand at ease bends every joint, so its pose tells the axes."""
    axis = hand["hands_mean"].reshape(15, 3)[joint - 1].astype(float)
    return axis / np.linalg.norm(axis)


def volume_cm3(verts, closed_faces):
    return trimesh.Trimesh(verts, closed_faces, process=False).volume * 1e6


def hand_length_mm(hand, verts):
    return 1e3 * np.linalg.norm(verts[TIPS["middle"]] - hand["J_regressor"][0] @ verts)


def test_the_file_has_manos_arrays(hand):
    shapes = {
        "v_template": (778, 3),
        "f": (1538, 3),
        "J_regressor": (16, 778),
        "weights": (778, 16),
        "shapedirs": (778, 3, 10),
        "posedirs": (778, 3, 135),
        "kintree_table": (2, 16),
        "hands_mean": (45,),
        "hands_components": (45, 45),
    }
    assert {name: hand[name].shape for name in shapes} == shapes
    assert all(np.isfinite(array).all() for array in hand.values())


def test_the_joints_hang_together_as_manos_do(hand):
    assert hand["kintree_table"][0].astype(np.int32).tolist() == PARENTS
    assert hand["kintree_table"][1].tolist() == list(range(16))


def test_the_skin_is_one_sheet_open_at_the_wrist_only(hand):
    faces = hand["f"].astype(int)
    sides = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    assert len(np.unique(sides, axis=0)) == len(sides), "two faces run along an edge in the same direction"
    edges, counts = np.unique(np.sort(sides, axis=1), axis=0, return_counts=True)
    assert set(counts.tolist()) == {1, 2}
    assert len(np.unique(faces)) - len(edges) + len(faces) == 1, "not a disc"
    loop = open_loop(faces)
    assert len(loop) == 16
    verts, wrist = hand["v_template"], hand["J_regressor"][0] @ hand["v_template"]
    assert (verts[loop, 0] > wrist[0]).all(), "the opening lies behind the wrist joint"


def test_no_face_is_a_needle(hand):
    corners = hand["v_template"][hand["f"].astype(int)].astype(float)
    sides2 = ((corners - np.roll(corners, 1, axis=1)) ** 2).sum(axis=(1, 2))
    doubled_area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    roundness = 2 * np.sqrt(3) * doubled_area / sides2  # 1 for an equilateral triangle
    assert roundness.min() > 0.15
    assert np.median(roundness) > 0.8


def test_faces_look_outwards(hand, closed_faces):
    mesh = trimesh.Trimesh(hand["v_template"], closed_faces, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert 250 < mesh.volume * 1e6 < 500  # cm^3; negative if the faces looked inwards
    outside = mesh.triangles_center + 1e-4 * mesh.face_normals
    assert not mesh.contains(outside[:1538]).any()


def test_the_zero_pose_is_manos(hand):
    joints = (hand["J_regressor"].astype(float) @ hand["v_template"]).reshape(16, 3)
    np.testing.assert_allclose(joints[0], [0.0957, 0.0064, 0.0062], atol=1e-3)
    for number, finger in enumerate(FINGERS):
        chain = joints[[0, 3 * number + 1, 3 * number + 2, 3 * number + 3]]
        bones = np.diff(chain, axis=0)
        wanted = np.array(REST_DIRECTIONS[finger])
        cosine = (bones * wanted).sum(axis=1) / np.linalg.norm(bones, axis=1) / np.linalg.norm(wanted, axis=1)
        assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).max() < 2, finger


def test_it_is_a_right_hand_lying_flat(hand):
    verts = hand["v_template"]
    middle_tip, thumb_tip, pinky_tip = (verts[TIPS[finger]] for finger in ("middle", "thumb", "pinky"))
    assert verts[:, 0].argmin() == TIPS["middle"] or middle_tip[0] < verts[:, 0].min() + 1e-3
    assert thumb_tip[2] > 0 > pinky_tip[2]
    # The ball of the thumb makes the palm side, -y, the fuller one.
    assert verts[:, 1].min() < -0.02


@pytest.mark.parametrize("finger", FINGERS)
def test_fingertips_are_where_their_fingers_end(hand, finger):
    verts, last = hand["v_template"], 3 * FINGERS.index(finger) + 3
    owned = hand["weights"][:, last] > 0.5
    joint = hand["J_regressor"][last] @ verts
    parent = hand["J_regressor"][PARENTS[last]] @ verts
    outwards = (joint - parent) / np.linalg.norm(joint - parent)
    reach = (verts - joint) @ outwards
    assert owned[TIPS[finger]]
    assert reach[TIPS[finger]] > reach[owned].max() - 1e-3


@pytest.mark.parametrize("joint", range(1, 13))
def test_turning_a_finger_joint_about_z_bends_it_to_the_palm(hand, joint):
    finger = FINGERS[(joint - 1) // 3]
    moved, _ = posed(hand, bent(joint, 60, [0, 0, 1]))
    step = moved[TIPS[finger]] - hand["v_template"][TIPS[finger]]
    assert step[1] < -0.008  # the palm faces -y


def test_skin_weights_are_shares(hand):
    weights = hand["weights"].astype(float)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    assert (weights.max(axis=0) > 0.85).all(), "every joint has skin of its own"


def test_skin_weights_change_little_along_an_edge(hand):
    faces = hand["f"].astype(int)
    edges = np.unique(np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0)
    jump = np.abs(hand["weights"][edges[:, 0]] - hand["weights"][edges[:, 1]]).max(axis=1)
    length_mm = 1e3 * np.linalg.norm(hand["v_template"][edges[:, 0]] - hand["v_template"][edges[:, 1]], axis=1)
    assert (jump < 0.9).all()
    assert np.percentile(jump / length_mm, 95) < 0.1


def test_joints_are_means_of_the_skin_around_them(hand):
    regressor = hand["J_regressor"].astype(float)
    assert regressor.min() >= 0
    np.testing.assert_allclose(regressor.sum(axis=1), 1, atol=1e-6)
    joints = regressor @ hand["v_template"]
    for joint, row in enumerate(regressor):
        used = hand["v_template"][row > 0]
        assert len(used) >= 6
        assert np.linalg.norm(used - joints[joint], axis=1).max() < (0.046 if joint == 0 else 0.025)


@pytest.mark.parametrize("direction", range(10))
@pytest.mark.parametrize("sigmas", [-2, 2])
def test_joints_stay_inside_whatever_the_shape(hand, closed_faces, direction, sigmas):
    verts = shaped(hand, **{f"b{direction}": sigmas})
    mesh = trimesh.Trimesh(verts, closed_faces, process=False)
    assert mesh.contains(hand["J_regressor"] @ verts).all()
    at_rest = trimesh.Trimesh(hand["v_template"], closed_faces, process=False)
    assert (mesh.face_normals * at_rest.face_normals).sum(axis=1).min() > 0.85, "a face turned over"


def test_joints_stay_inside_mixed_shapes(hand, closed_faces):
    rng = np.random.default_rng(0)
    for betas in rng.uniform(-2, 2, (20, 10)):
        verts = hand["v_template"] + hand["shapedirs"] @ betas
        assert trimesh.Trimesh(verts, closed_faces, process=False).contains(hand["J_regressor"] @ verts).all()


def test_shape_directions_are_at_right_angles(hand):
    directions = hand["shapedirs"].astype(float).reshape(-1, 10)
    lengths = np.linalg.norm(directions, axis=0)
    cosine = (directions.T @ directions) / np.outer(lengths, lengths)
    np.testing.assert_allclose(cosine, np.eye(10), atol=1e-5)
    assert lengths.argmax() == SIZE


def test_shapes_cover_adult_hands(hand):
    lengths = [hand_length_mm(hand, shaped(hand, b0=sigmas)) for sigmas in (-2, 0, 2)]
    assert 155 < lengths[0] < 170
    assert 180 < lengths[1] < 195
    assert 205 < lengths[2] < 220
    knuckle = (hand["J_regressor"][4] - hand["J_regressor"][0]) @ hand["v_template"]
    assert 93 < 1e3 * np.linalg.norm(knuckle) < 97


def test_size_changes_no_proportion(hand):
    small, large = (shaped(hand, b0=sigmas) for sigmas in (-2, 2))
    assert np.linalg.norm(large[TIPS["thumb"]] - large[TIPS["pinky"]]) > 1.2 * np.linalg.norm(
        small[TIPS["thumb"]] - small[TIPS["pinky"]]
    )
    ratio = np.ptp(large, axis=0) / np.ptp(small, axis=0)
    np.testing.assert_allclose(ratio, ratio[0], rtol=0.02)


def test_the_next_directions_are_finger_length_breadth_and_thickness(hand):
    def measures(verts):
        joints = hand["J_regressor"] @ verts
        fingers = sum(
            np.linalg.norm(verts[TIPS[f]] - joints[3 * FINGERS.index(f) + 1]) for f in ("index", "middle", "ring")
        )
        palm = np.linalg.norm(joints[4] - joints[0])
        knuckles = np.linalg.norm(hand["v_template"] - joints[4], axis=1) < 0.02
        return fingers / palm, np.linalg.norm(joints[1] - joints[7]) / palm, np.ptp(verts[knuckles, 1]) / palm

    for place, direction in enumerate((FINGER_LENGTH, BREADTH, THICKNESS)):
        low, high = (measures(shaped(hand, **{f"b{direction}": sigmas})) for sigmas in (-1, 1))
        change = np.log(high) - np.log(low)
        assert change[place] > 0.08, (direction, change)
        assert change[place] == max(change)


def test_the_rest_pose_needs_no_correction(hand):
    straight = np.tile(np.eye(3), (15, 1, 1))
    verts, _ = posed(hand, straight)
    np.testing.assert_allclose(verts, hand["v_template"], atol=1e-7)


@pytest.mark.parametrize("joint", [joint for joint in range(1, 16) if joint != THUMB_BASE])
def test_pose_directions_keep_bent_joints_from_collapsing(hand, closed_faces, joint):
    at_rest = volume_cm3(hand["v_template"], closed_faces)
    rotations = bent(joint, 90, bending_axis(hand, joint))
    plain = volume_cm3(posed(hand, rotations, correct=False)[0], closed_faces)
    kept = volume_cm3(posed(hand, rotations)[0], closed_faces)
    assert plain < at_rest
    assert abs(kept - at_rest) < 0.5 * (at_rest - plain)


def test_pose_directions_act_near_their_joint_only(hand):
    strength = np.linalg.norm(hand["posedirs"].reshape(778, 3, 15, 9), axis=(1, 3))
    joints = hand["J_regressor"] @ hand["v_template"]
    for joint in range(1, 16):
        far = np.linalg.norm(hand["v_template"] - joints[joint], axis=1) > 0.06
        assert strength[far, joint - 1].max() < 0.1 * strength[:, joint - 1].max()


def test_the_mean_pose_is_a_hand_at_ease(hand):
    rotations = Rotation.from_rotvec(hand["hands_mean"].reshape(15, 3)).as_matrix()
    verts, _ = posed(hand, rotations)
    for finger in ("index", "middle", "ring", "pinky"):
        assert verts[TIPS[finger], 1] < hand["v_template"][TIPS[finger], 1] - 0.02, finger
    assert np.degrees(np.linalg.norm(hand["hands_mean"].reshape(15, 3), axis=1)).max() < 45


def test_pose_components_are_orthonormal(hand):
    components = hand["hands_components"].astype(float)
    np.testing.assert_allclose(components @ components.T, np.eye(45), atol=1e-5)


def test_smplx_reads_the_file_as_it_is_and_agrees(hand, path):
    smplx = pytest.importorskip("smplx")
    torch = pytest.importorskip("torch")
    layer = smplx.MANO(str(path), is_rhand=True, use_pca=False, flat_hand_mean=True, ext="npz")
    rng = np.random.default_rng(0)
    betas, pose = rng.normal(size=10), rng.uniform(-0.6, 0.6, 45)
    out = layer(
        betas=torch.tensor(betas[None], dtype=torch.float32), hand_pose=torch.tensor(pose[None], dtype=torch.float32)
    )
    rotations = Rotation.from_rotvec(pose.reshape(15, 3)).as_matrix()
    verts, joints = posed(hand, rotations, verts=hand["v_template"] + hand["shapedirs"] @ betas)
    np.testing.assert_allclose(out.vertices[0].detach().numpy(), verts, atol=1e-6)
    np.testing.assert_allclose(out.joints[0, :16].detach().numpy(), joints, atol=1e-6)


def test_the_licence_travels_with_the_file(path):
    text = (Path(path).parent / "LICENSE").read_text()
    assert "MIT License" in text
    assert "Copyright (c) 2019 Amazon" in text
