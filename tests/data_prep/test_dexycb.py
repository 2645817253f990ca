"""DexYCB in its official layout: PCA, invalid heads, left hands, cameras that are not the master, splits."""

import shutil

import numpy as np
import pytest
import yaml

from data_prep.dataset import Request
from data_prep.datasets.dexycb import in_split, open_dexycb, split_serials
from haptic.data.shard_tools import check_shards

SERIALS = (
    "836212060125", "839512060362", "840412060917", "841412060263",
    "932122060857", "932122060861", "932122061900", "932122062010",
)  # fmt: skip
K = np.array([[621.797, 0, 302.414], [0, 621.403, 236.884], [0, 0, 1.0]])
FRAMES = 5
# Rows: camera -> master. A quarter turn about y for the second camera, so that nothing commutes.
TO_MASTER = {
    SERIALS[0]: np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]),
    SERIALS[1]: np.array([[0.0, 0, 1, 0.3], [0, 1, 0, -0.1], [-1, 0, 0, 0.5]]),
}


def write_yaml(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values))


@pytest.fixture(scope="module")
def download(tmp_path_factory, mano_arrays, smplx_joints, motion, picture, save_picture):
    """Six sequences of one subject (so that i mod 5 = 4 occurs), the second a left hand's; two cameras."""
    root = tmp_path_factory.mktemp("dexycb")
    subject = "20200709-subject-01"
    names = [f"{subject}/20200709_14{number:04d}" for number in range(6)]
    for serial in SERIALS:
        write_yaml(
            root / "calibration" / "intrinsics" / f"{serial}_640x480.yml",
            {"color": {"fx": float(K[0, 0]), "fy": float(K[1, 1]), "ppx": float(K[0, 2]), "ppy": float(K[1, 2])}},
        )
    extrinsics = {serial: rows.reshape(-1).tolist() for serial, rows in TO_MASTER.items()}
    extrinsics["apriltag"] = np.eye(4)[:3].reshape(-1).tolist()
    write_yaml(
        root / "calibration" / "extrinsics_20200702_151821" / "extrinsics.yml",
        {"master": SERIALS[0], "extrinsics": extrinsics},
    )
    truth = {}
    for number, name in enumerate(names):
        side = "left" if number == 1 else "right"
        arrays = mano_arrays[side]
        calibration = f"20200709_140042_subject-01_{side}"
        hand = motion(FRAMES, seed=number, is_right=side == "right")
        hand.betas[:] = motion(1, seed=50).betas  # a subject has one shape
        write_yaml(root / "calibration" / f"mano_{calibration}" / "mano.yml", {"betas": hand.betas[0].tolist()})
        write_yaml(
            root / name / "meta.yml",
            {
                "serials": list(TO_MASTER), "num_frames": FRAMES, "extrinsics": "20200702_151821", "ycb_ids": [3],
                "ycb_grasp_ind": 0, "mano_sides": [side], "mano_calib": [calibration],
            },
        )  # fmt: skip
        # Independent: PCA by hand, the mean by smplx's layer (flat_hand_mean=False), MANO_LEFT as published.
        joints = smplx_joints(
            side == "right", hand.global_aa, hand.finger @ arrays["hands_components"], hand.betas, hand.transl,
            flat_mean=False,
        )  # fmt: skip
        for serial in TO_MASTER:
            truth[name, serial] = joints
            for frame in range(FRAMES):
                pixels = joints[frame] @ K.T
                pixels = pixels[:, :2] / pixels[:, 2:]
                pose = np.concatenate([hand.global_aa[frame], hand.finger[frame], hand.transl[frame]])
                valid = frame > 0  # the head of every sequence is not annotated, though the hand is in the picture
                folder = root / name / serial
                save_picture(folder / f"color_{frame:06d}.jpg", picture(640, 480, pixels))
                np.savez_compressed(
                    folder / f"labels_{frame:06d}.npz",
                    seg=np.zeros((480, 640), np.uint8),
                    pose_y=np.zeros((1, 3, 4), np.float32),
                    pose_m=(pose if valid else np.zeros(51))[None].astype(np.float32),
                    joint_3d=(joints[frame] if valid else np.full((21, 3), -1))[None].astype(np.float32),
                    joint_2d=(pixels if valid else np.full((21, 2), -1))[None].astype(np.float32),
                )
    everything = root / "sequences.txt"
    everything.write_text("\n".join(names))
    return root, names, truth, str(everything)


@pytest.fixture
def converted(download, to_shards, read_hands, mano):
    root, _names, _truth, listed = download
    shards, tally = to_shards("dexycb", root, "s0_train", mano=mano, partial=True, sequences=listed)
    return read_hands(shards), tally


def key_of(name, serial, side):
    return f"{name.replace('/', '_')}_{serial}.{side}_0"


def test_hands_of_both_sides_lie_where_the_pictures_show_them(download, converted, assert_labels_hit_the_blobs):
    hands, _tally = converted
    _root, names, truth, _listed = download
    assert len(hands) == 5 * 2  # the fifth of every five sequences is held out
    for name, side in ((names[0], "right"), (names[1], "left")):
        for serial in TO_MASTER:
            hand = hands[key_of(name, serial, side)]
            assert hand.was_right == (side == "right")
            np.testing.assert_allclose(hand.joints_cam, truth[name, serial][1:], atol=1e-5)
            assert_labels_hit_the_blobs(hand)


def test_frames_without_annotation_are_no_hands_at_the_origin(converted, download):
    hands, _tally = converted
    for hand in hands.values():
        assert hand.frame_index == [1, 2, 3, 4]
        assert (hand.joints_cam[..., 2] > 0.3).all()


def test_pca_and_mean_pose_become_rotations_that_give_the_annotated_joints(download, converted, posed_joints):
    hands, _tally = converted
    _root, names, truth, _listed = download
    # Right hands share the shape space: the same joints to float precision. This fails by centimetres if the mean pose
    # is left out or the coefficients are taken for axis-angle.
    for name in (names[0], names[2]):
        hand = hands[key_of(name, SERIALS[1], "right")]
        np.testing.assert_allclose(posed_joints(hand), truth[name, SERIALS[1]][1:], atol=2e-5)
    # Left: MANO_LEFT as published has other shapes; the wrist is exact, the rest as near as the shape space comes.
    left = hands[key_of(names[1], SERIALS[1], "left")]
    off = np.linalg.norm(posed_joints(left) - truth[names[1], SERIALS[1]][1:], axis=-1)
    assert off[:, 0].max() < 1e-5
    assert off.mean() < 0.008


def test_camera_poses_lead_to_the_master_camera(converted, download):
    hands, _tally = converted
    _root, names, truth, _listed = download
    hand = hands[key_of(names[2], SERIALS[1], "right")]
    T = hand.labels.camera.T_world_cam.double().numpy()
    # By hand: (x, y, z) of the second camera is (z + 0.3, y - 0.1, 0.5 - x) of the master.
    x, y, z = truth[names[2], SERIALS[1]][1, 0]
    in_world = T[0, :3, :3] @ hand.joints_cam[0, 0] + T[0, :3, 3]
    np.testing.assert_allclose(in_world, [z + 0.3, y - 0.1, 0.5 - x], atol=1e-5)


def test_a_lost_picture_splits_the_track_and_is_counted(download, tmp_path, to_shards, read_hands, mano):
    root = tmp_path / "copy"
    shutil.copytree(download[0], root)
    name = download[1][0]
    (root / name / SERIALS[0] / "color_000002.jpg").write_bytes(b"not a picture")
    (root / name / SERIALS[1] / "labels_000003.npz").write_bytes(b"")
    shards, tally = to_shards("dexycb", root, "s0_train", mano=mano, partial=True, sequences=download[3])
    hands = read_hands(shards)
    assert len(tally.damaged) == 2
    assert any("color_000002.jpg" in text for text in tally.damaged)
    assert any("labels_000003.npz" in text for text in tally.damaged)
    first = key_of(name, SERIALS[0], "right")
    assert hands[first].frame_index == [1]
    assert hands[first.replace("right_0", "right_1")].frame_index == [3, 4]


def test_the_splits_are_the_toolkits():
    counts = {
        split: sum(in_split(split, subject, place) for subject in range(10) for place in range(100))
        for split in ("s0_train", "s0_val", "s0_test", "s1_train", "s1_val", "s1_test", "s3_train", "s3_val", "s3_test")
    }
    # The toolkit's README and the paper: fifths of ten subjects of a hundred; whole subjects; whole grasped objects.
    assert counts == {
        "s0_train": 800, "s0_val": 40, "s0_test": 160, "s1_train": 700, "s1_val": 100, "s1_test": 200,
        "s3_train": 750, "s3_val": 100, "s3_test": 150,
    }  # fmt: skip
    assert [len(split_serials(f"s2_{part}")) for part in ("train", "val", "test")] == [6, 1, 1]


def test_sample_999_of_s0_train_is_the_one_the_toolkit_names(shared_dir, tmp_path):
    lists = shared_dir / "realdata" / "dexycb_trajectories" / "dexYCB_dataset" / "config"
    names = sorted(line for side in ("left", "right") for line in (lists / f"{side}_side.csv").read_text().split())
    # The first two sequences have 72 and 74 frames in eight cameras; 72 * 8 + 5 * 74 + 53 = 999.
    for name, count in zip(names[:2], (72, 74), strict=True):
        write_yaml(tmp_path / name / "meta.yml", {"num_frames": count})
        for serial in SERIALS:
            (tmp_path / name / serial).mkdir()
    (tmp_path / "all.txt").write_text("\n".join(names))
    source = open_dexycb(Request(tmp_path, "s0_train", None, {"sequences": str(tmp_path / "all.txt")}))
    samples = [
        (unit.name, serial, frame)
        for unit, count in zip(source.units, (72, 74), strict=True)
        for serial in split_serials("s0_train")
        for frame in range(count)
    ]
    assert samples[999] == ("20200709-subject-01/20200709_141841", "932122060861", 53)
    assert len(source.missing) == 798


def test_the_real_left_sequence_keeps_its_annotated_frames(shared_dir, tmp_path, to_shards, read_hands):
    root = shared_dir / "realdata" / "dexycb_rebuilt"
    name = "20200709-subject-01/20200709_142724"
    listed = tmp_path / "one.txt"
    listed.write_text(name)
    shards, tally = to_shards("dexycb", root, "s0_train", sequences=str(listed), partial=True)
    hands = read_hands(shards)
    (hand,) = hands.values()
    assert not hand.was_right
    assert tally.damaged == []
    labels = np.load(root / name / "840412060917" / "labels_000030.npz")
    place = hand.frame_index.index(30)
    np.testing.assert_allclose(hand.joints_cam[place], labels["joint_3d"][0], atol=1e-6)
    report = check_shards([str(path) for path in shards])
    assert report.known["joints_cam_weight"] == len(hand.frame_index) == 64
    assert report.known["params_weight"] == 0  # without the user's MANO files
