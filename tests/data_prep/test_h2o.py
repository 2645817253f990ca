"""H2O in its official layout: flags, 62 numbers a hand, camera poses, missing files."""

import cv2
import numpy as np
import pytest

FX, FY, CX, CY, WIDTH, HEIGHT = 636.6593, 636.2520, 635.2839, 366.8740, 1280, 720
TAKE = "subject1/h1/0/cam4"
FRAMES = 5


@pytest.fixture
def download(tmp_path, smplx_joints, motion, picture, save_picture):
    root = tmp_path / "h2o"
    folder = root / TAKE
    for name in ("cam_pose", "hand_pose", "hand_pose_mano"):
        (folder / name).mkdir(parents=True)
    (folder / "cam_intrinsics.txt").write_text(f"{FX} {FY} {CX} {CY} {WIDTH} {HEIGHT}")
    truth, numbers = {}, {}
    for side in ("left", "right"):
        hand = motion(
            FRAMES, seed=len(side), place=(0.1 if side == "right" else -0.1, 0.0, 0.5), is_right=side == "right"
        )
        # Independent: smplx's layer without a mean pose, MANO_LEFT as published.
        truth[side] = smplx_joints(
            side == "right", hand.global_aa, hand.finger, hand.betas, hand.transl, flat_mean=True
        )
        numbers[side] = np.concatenate([hand.transl, hand.global_aa, hand.finger, hand.betas], axis=1)
    for frame in range(FRAMES):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(np.array([0.0, 0.1 * frame, 0.0]))[0], [0.01 * frame, 0.2, 0.3]
        write(folder / "cam_pose" / f"{frame:06d}.txt", pose)
        flags = {"left": float(frame != 2), "right": 1.0}  # the left hand of frame 2 is not annotated: zeros
        joints = [np.concatenate([[flags[side]], flags[side] * truth[side][frame].ravel()]) for side in truth]
        blocks = [np.concatenate([[flags[side]], flags[side] * numbers[side][frame]]) for side in truth]
        write(folder / "hand_pose" / f"{frame:06d}.txt", np.concatenate(joints))
        write(folder / "hand_pose_mano" / f"{frame:06d}.txt", np.concatenate(blocks))
        seen = [(t[frame] / t[frame][:, 2:])[:, :2] * [FX, FY] + [CX, CY] for t in truth.values()]
        save_picture(folder / "rgb" / f"{frame:06d}.png", picture(WIDTH, HEIGHT, *seen))
    (root / "label_split").mkdir()
    (root / "label_split" / "pose_train.txt").write_text(
        "".join(f"{TAKE}/rgb/{frame:06d}.png\n" for frame in range(FRAMES))
    )
    return root, truth


def write(path, values):
    path.write_text(" ".join(repr(float(value)) for value in np.ravel(values)) + " \n")


def test_both_hands_lie_where_the_pictures_show_them(
    download, to_shards, read_hands, mano, posed_joints, assert_labels_hit_the_blobs
):
    root, truth = download
    shards, tally = to_shards("h2o", root, "train", mano=mano)
    hands = read_hands(shards)
    assert tally.damaged == []
    right = hands["subject1_h1_0_cam4.right_0"]
    assert right.frame_index == list(range(FRAMES))
    np.testing.assert_allclose(right.joints_cam, truth["right"], atol=1e-5)
    np.testing.assert_allclose(posed_joints(right), truth["right"], atol=2e-5)
    left = [hands[f"subject1_h1_0_cam4.left_{number}"] for number in (0, 1)]
    assert [one.frame_index for one in left] == [[0, 1], [3, 4]]  # flag 0 is no hand
    np.testing.assert_allclose(left[1].joints_cam, truth["left"][3:], atol=1e-5)
    np.testing.assert_allclose(posed_joints(left[1])[:, 0], truth["left"][3:, 0], atol=2e-5)
    for hand in (right, *left):
        assert_labels_hit_the_blobs(hand)


def test_the_head_camera_moves_through_the_world(download, to_shards, read_hands):
    shards, _tally = to_shards("h2o", download[0], "train")
    hand = read_hands(shards)["subject1_h1_0_cam4.right_0"]
    T = hand.labels.camera.T_world_cam.double().numpy()
    np.testing.assert_allclose(T[3, :3, 3], [0.03, 0.2, 0.3], atol=1e-6)  # stored as camera -> world
    np.testing.assert_allclose(T[3, :3, :3], cv2.Rodrigues(np.array([0.0, 0.3, 0.0]))[0], atol=1e-6)


def test_a_missing_file_is_named_and_cuts_the_track(download, to_shards, read_hands):
    root, _truth = download
    (root / TAKE / "hand_pose" / "000003.txt").unlink()
    (root / TAKE / "rgb" / "000001.png").unlink()
    shards, tally = to_shards("h2o", root, "train")
    assert sorted("000003.txt" in text for text in tally.damaged) == [False, True]
    hands = read_hands(shards)
    frames = [hand.frame_index for name, hand in sorted(hands.items()) if ".right" in name]
    assert frames == [[0], [2], [4]]


def test_blocks_of_59_numbers_are_refused(download, to_shards, mano):
    root, _truth = download
    path = root / TAKE / "hand_pose_mano" / "000000.txt"
    write(path, np.ones(118))
    _shards, tally = to_shards("h2o", root, "train", mano=mano)
    assert "118 numbers, expected 124" in tally.damaged[0]


def test_the_official_lists_have_the_published_lengths(shared_dir, tmp_path):
    from data_prep.dataset import Request
    from data_prep.registry import find_data_set

    h2o = find_data_set("h2o")
    for split, facts in h2o.splits.items():
        text = (shared_dir / "realdata" / "h2o_lists" / f"pose_{split}.txt").read_text()
        (tmp_path / f"pose_{split}.txt").write_text(text)
        for take in {line.split("/rgb/")[0] for line in text.split()}:
            (tmp_path / take).mkdir(parents=True, exist_ok=True)
            (tmp_path / take / "cam_intrinsics.txt").touch()
        source = h2o.open(Request(tmp_path, split))
        assert sum(unit.num_counted for unit in source.units) == facts.published
