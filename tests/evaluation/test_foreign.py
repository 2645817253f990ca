"""Other programs' files are read as they lie, and nothing in them is run."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from haptic.evaluation.checks import pair_hands
from haptic.evaluation.exchange import read_system
from haptic.evaluation.foreign import load_tensor_pickle, read_foreign
from haptic.evaluation.predictions import read_prediction, write_prediction
from haptic.export.npz import write_npz
from haptic.files import UnsafePickleError
from haptic.geometry.transforms import apply_transform, invert_transform
from haptic.hand.mirror import mirror_params
from haptic.hand.model import HandModel, load_hand_model
from haptic.records import HandParams


@pytest.fixture
def mano(shared_dir: Path) -> HandModel:
    return load_hand_model(shared_dir / "golden" / "synthetic_MANO_RIGHT.pkl")


def aa(rotation):
    from scipy.spatial.transform import Rotation

    return (
        Rotation.from_matrix(rotation.reshape(-1, 3, 3).double().numpy()).as_rotvec().reshape(*rotation.shape[:-2], 3)
    )


def test_the_plain_file_comes_back_as_it_was(clip, noisy, tmp_path):
    ours = noisy(clip)
    write_prediction(tmp_path / "one.npz", ours)
    back = read_prediction(tmp_path / "one.npz")
    assert back.fps == 30.0
    for name, hand in ours.hands.items():
        torch.testing.assert_close(back.hands[name].joints_cam, hand.joints_cam, atol=1e-6, rtol=0)
        assert back.hands[name].frame_index.tolist() == hand.frame_index.tolist()
        assert back.hands[name].is_right == hand.is_right
        assert back.hands[name].joints_world is None


def test_what_infer_writes_is_a_plain_file_with_its_own_cameras(make_result, open_hand, tmp_path):
    result = make_result(((0, 20), (4, 16)), moving_camera=True)
    write_npz(tmp_path / "trajectory.npz", result, open_hand)
    back = read_prediction(tmp_path / "trajectory.npz")
    hand = back.hands["left_0"]
    assert hand.frame_index.tolist() == list(range(4, 16))
    cameras = result.hands["left_0"].camera.T_world_cam.double()
    torch.testing.assert_close(hand.joints_world, apply_transform(cameras, hand.joints_cam))


def test_a_minimal_file_needs_two_arrays(clip, perfect, tmp_path):
    hand = perfect(clip).hands["right_0"]
    np.savez(tmp_path / "one.npz", **{
        "right_0/frame_index": hand.frame_index.numpy()[::-1], "right_0/joints_cam": hand.joints_cam.numpy()[::-1],
    })  # fmt: skip
    pairs, _notes = pair_hands(clip, read_prediction(tmp_path / "one.npz"))
    right = next(pair for pair in pairs if pair.name == "right_0")
    torch.testing.assert_close(right.pred, right.target)  # frames may come in any order


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros(3)}, "no hands"),
        ({"right_0/frame_index": np.arange(3)}, "joints_cam"),
        ({"right_0/frame_index": np.arange(3), "right_0/joints_cam": np.zeros((3, 16, 3))}, r"\(3, 21, 3\)"),
        ({"right_0/frame_index": np.arange(3.0), "right_0/joints_cam": np.zeros((3, 21, 3))}, "whole numbers"),
        ({"right_0/frame_index": np.zeros(3, int), "right_0/joints_cam": np.zeros((3, 21, 3))}, "twice"),
        ({"hand/frame_index": np.arange(3), "hand/joints_cam": np.zeros((3, 21, 3))}, "is_right"),
        ({"a": np.array([{}], dtype=object)}, "not a readable npz"),
    ],
)
def test_a_file_that_is_no_prediction_is_refused(arrays, words, tmp_path):
    np.savez(tmp_path / "one.npz", **arrays)
    with pytest.raises(ValueError, match=words):
        read_prediction(tmp_path / "one.npz")


def test_a_text_that_is_called_npz_is_no_pickle_to_be_trusted(tmp_path):
    (tmp_path / "one.npz").write_text("frame,joint\n")
    with pytest.raises(ValueError, match=r"not a readable npz of plain arrays \(it is no zip archive\)"):
        read_prediction(tmp_path / "one.npz")


def test_haptics_pickles_of_tensors_are_read(clip, perfect, tmp_path):
    truth = perfect(clip)
    for frame in range(20):
        joints = torch.stack([truth.hands[name].joints_cam[frame] for name in ("right_0", "left_0")])
        content = {"cJoints": joints.float(), "right": torch.tensor([1.0, 0.0]), "intr": torch.eye(3), "img_file": "x"}
        path = tmp_path / clip.key / f"{frame:05d}.pkl"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(content))
    predictions, _lines = read_system(f"haptic:{tmp_path}", "theirs", [clip], allow_missing=False)
    for pair in pair_hands(clip, predictions[clip.key])[0]:
        torch.testing.assert_close(pair.pred, pair.target, atol=1e-6, rtol=0)


def test_a_pickle_that_would_run_something_is_refused_unread(tmp_path):
    class Harm:
        def __reduce__(self):
            return (Path.write_text, (tmp_path / "harm", "done"))

    (tmp_path / "one.pkl").write_bytes(pickle.dumps({"cJoints": Harm()}))
    with pytest.raises(UnsafePickleError):
        load_tensor_pickle(tmp_path / "one.pkl")
    assert not (tmp_path / "harm").exists()


def test_hamers_arrays_are_placed_and_left_hands_mirrored(clip, perfect, tmp_path):
    truth = perfect(clip)
    (tmp_path / clip.key).mkdir()
    for frame in range(20):
        for number, name in enumerate(("right_0", "left_0")):
            joints = truth.hands[name].joints_cam[frame].numpy()
            sign = [1, 1, 1] if name == "right_0" else [-1, 1, 1]
            place = np.array([0.1, 0.0, 0.5])
            np.savez(
                tmp_path / clip.key / f"{frame:06d}_{number}.npz",
                pred_keypoints_3d=(joints - place) * sign, pred_cam_t_full=place, right=float(name == "right_0"),
            )  # fmt: skip
    for pair in pair_hands(clip, read_foreign("hamer", tmp_path, clip, None))[0]:
        torch.testing.assert_close(pair.pred, pair.target)


def test_dynhamrs_world_results_are_placed_with_its_cameras(clip, mano, tmp_path):
    rows = {key: [] for key in ("trans", "root_orient", "pose_body", "betas", "is_right", "cam_R", "cam_t")}
    expected = {}
    for name, hand in clip.hands.items():
        labels = hand.labels
        right = labels.params if bool(labels.is_right) else mirror_params(labels.params)
        T_cam_world = invert_transform(labels.camera.T_world_cam).double()
        rows["trans"].append(right.transl.numpy())
        rows["root_orient"].append(aa(right.global_orient))
        rows["pose_body"].append(aa(right.hand_pose))
        rows["betas"].append(right.betas[0].numpy())
        rows["is_right"].append(np.full(20, bool(labels.is_right)))
        rows["cam_R"].append(T_cam_world[:, :3, :3].numpy())
        rows["cam_t"].append(T_cam_world[:, :3, 3].numpy())
        joints = mano.joints(right) * torch.tensor([1.0 if bool(labels.is_right) else -1.0, 1, 1])
        expected[name] = joints.double(), apply_transform(T_cam_world, joints.double())
    (tmp_path / "prior").mkdir()
    np.savez(tmp_path / "prior" / "one_000100_world_results.npz", **{key: np.stack(rows[key]) for key in rows})
    found = read_foreign("dynhamr", tmp_path, clip, mano)
    for name, (world, cam) in expected.items():
        torch.testing.assert_close(found.hands[name].joints_world, world, atol=1e-4, rtol=0)
        torch.testing.assert_close(found.hands[name].joints_cam, cam, atol=1e-4, rtol=0)


def test_hawors_left_hand_is_manos_left(clip, mano, tmp_path):
    labels = clip.labels("left_0")
    num = 20
    trans, root = torch.zeros(2, num, 3), torch.zeros(2, num, 3)
    pose, betas, valid = torch.zeros(2, num, 45), torch.zeros(2, num, 10), torch.zeros(2, num)
    trans[0], root[0] = labels.params.transl, torch.from_numpy(aa(labels.params.global_orient)).float()
    pose[0] = torch.from_numpy(aa(labels.params.hand_pose)).float().reshape(num, 45)
    betas[0], valid[0] = labels.params.betas, 1
    (tmp_path / clip.key).mkdir()
    torch.save([trans, root, pose, betas, valid], tmp_path / clip.key / "world_space_res.pth")
    found = read_foreign("hawor", tmp_path, clip, mano)
    assert list(found.hands) == ["left_0"]
    right = mirror_params(HandParams(**vars(labels.params)))
    expected = mano.joints(right) * torch.tensor([-1.0, 1, 1])
    torch.testing.assert_close(found.hands["left_0"].joints_world, expected.double(), atol=1e-4, rtol=0)


def test_parameters_without_a_hand_model_are_refused(clip, tmp_path):
    np.savez(tmp_path / "one_000001_world_results.npz", trans=np.zeros((1, 2, 3)))
    with pytest.raises(ValueError, match="--hand-model"):
        read_foreign("dynhamr", tmp_path, clip, None)


def write_obj(path, verts, faces):
    """As trimesh writes it from HaMeR's demo: OpenGL's axes, a colour behind each vertex, normals after them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["# https://github.com/mikedh/trimesh"]
    lines += [f"v {x:.8f} {-y:.8f} {-z:.8f} 0.65 0.74 0.86" for x, y, z in verts.tolist()]
    lines += ["vn 0 0 1"]
    lines += [f"f {a + 1}//1 {b + 1}//1 {c + 1}//1" for a, b, c in faces.tolist()]
    path.write_text("\n".join(lines))


@pytest.fixture
def mano_like(open_hand, tmp_path_factory):
    """Nearly the openhand, which itself would be known by its numbers: what the user's own file is to the readers."""
    from haptic.files import find_asset

    path = tmp_path_factory.mktemp("mano") / "MANO_RIGHT.npz"
    with np.load(find_asset("openhand/OPENHAND_RIGHT.npz")) as file:
        arrays = {key: file[key] for key in file.files if key != "name"}
    np.savez(path, **(arrays | {"shapedirs": arrays["shapedirs"] * 1.001}))
    return load_hand_model(path)


def test_hamers_demo_meshes_are_placed_sided_and_given_joints(clip, perfect, mano_like, tmp_path):
    assert mano_like.name.startswith("mano")
    for number, name in enumerate(("right_0", "left_0")):
        labels = clip.labels(name)
        mesh = mano_like(labels.params if bool(labels.is_right) else mirror_params(labels.params))
        side = torch.tensor([1.0 if bool(labels.is_right) else -1.0, 1, 1])
        faces = mano_like.faces if bool(labels.is_right) else mano_like.faces[:, [0, 2, 1]]
        extra = torch.tensor([[92, 38, 234], [234, 38, 239]])  # the demo closes the wrist
        extra = extra if bool(labels.is_right) else extra[:, [0, 2, 1]]
        for frame in range(20):
            write_obj(tmp_path / clip.key / f"{frame:06d}_{number}.obj", mesh.verts[frame] * side,
                      torch.cat([faces, extra]))  # fmt: skip
    found = read_foreign("hamer", tmp_path, clip, mano_like)
    for pair in pair_hands(clip, found)[0]:
        off = (pair.pred - pair.target).norm(dim=-1)
        assert off.max() < 0.003  # joints regressed from a bent hand's skin
        assert off.mean() < 0.0008
        assert off[:, [0, 4, 8, 12, 16, 20]].max() < 1e-4
    assert found.hands["left_0"].verts_cam.shape == (20, 778, 3)
    assert found.hands["left_0"].hand_model == "mano"
    with pytest.raises(ValueError, match="--hand-model"):
        read_foreign("wilor", tmp_path, clip, None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda verts, faces: (verts[:700], faces[faces.max(1).values < 700]), "700 vertices"),
        (lambda verts, faces: (verts, faces.flip(0) // 2), "are not MANO's"),
    ],
)
def test_a_mesh_that_is_not_manos_is_refused(clip, mano_like, tmp_path, change, words):
    verts, faces = change(torch.randn(778, 3), mano_like.faces)
    write_obj(tmp_path / clip.key / "000000_0.obj", verts, faces)
    with pytest.raises(ValueError, match=words):
        read_foreign("hamer", tmp_path, clip, mano_like)


def test_two_hands_of_a_side_in_one_frame_are_refused_in_every_format(clip, mano_like, tmp_path):
    arrays = {"joints": np.zeros((2, 21, 3)), "cam_t": np.ones((2, 3)), "is_right": np.ones(2)}
    (tmp_path / clip.key).mkdir()
    np.savez(tmp_path / clip.key / "000003.npz", **arrays)
    with pytest.raises(ValueError, match="two right hands in frame 3"):
        read_foreign("wilor", tmp_path, clip, None)
    (tmp_path / clip.key / "000003.npz").unlink()
    for number in range(2):
        write_obj(tmp_path / clip.key / f"000003_{number}.obj", torch.randn(778, 3), mano_like.faces)
    with pytest.raises(ValueError, match="two right hands in frame 3"):
        read_foreign("hamer", tmp_path, clip, mano_like)


def test_wilors_vertices_come_along_with_its_joints(clip, open_hand, tmp_path):
    labels = clip.labels("left_0")
    mesh = open_hand(mirror_params(labels.params))
    place = np.array([0.1, 0.0, 0.5])
    (tmp_path / clip.key).mkdir()
    for frame in range(20):
        np.savez(
            tmp_path / clip.key / f"{frame:06d}_0.npz", right=0.0, pred_cam_t_full=place,
            pred_keypoints_3d=mesh.joints[frame].numpy() - place * [-1, 1, 1],
            pred_vertices=mesh.verts[frame].numpy() - place * [-1, 1, 1],
        )  # fmt: skip
    hand = read_foreign("wilor", tmp_path, clip, None).hands["left_0"]
    torch.testing.assert_close(hand.joints_cam.float(), labels.joints_cam, atol=1e-5, rtol=0)
    expected = mesh.verts * torch.tensor([-1.0, 1, 1])
    torch.testing.assert_close(hand.verts_cam.float(), expected, atol=1e-5, rtol=0)


def test_the_last_phase_and_iteration_of_the_right_sequence_are_read(clip, mano, tmp_path):
    def write(path, depth):
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            path, trans=np.tile([0.0, 0, depth], (1, 3, 1)), root_orient=np.zeros((1, 3, 3)),
            pose_body=np.zeros((1, 3, 15, 3)), betas=np.zeros((1, 10)), is_right=np.ones((1, 3)),
            cam_R=np.tile(np.eye(3), (1, 3, 1, 1)), cam_t=np.zeros((1, 3, 3)),
        )  # fmt: skip

    key = clip.key
    for phase, name, depth in (
        ("smooth_fit", f"{key}_000060", 1.0), ("prior", f"{key}_000020", 2.0), ("prior", f"{key}_000100", 3.0),
        ("prior", f"{key}0_000200", 9.0), ("prior", f"{key}_b_000200", 9.0),
    ):  # fmt: skip
        write(tmp_path / phase / f"{name}_world_results.npz", depth)
    for kind in ("dynhamr", "hawor"):
        hand = read_foreign(kind, tmp_path, clip, mano).hands["right_0"]
        rest = mano.rest_joints(torch.zeros(10))[0, 2]
        torch.testing.assert_close(hand.joints_cam[:, 0, 2].float(), (3.0 + rest).expand(3), atol=1e-5, rtol=0)
        assert hand.verts_cam.shape == (3, 778, 3)
        assert hand.hand_model == mano.name
