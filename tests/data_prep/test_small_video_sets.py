"""FPHA, EgoDexter, HOI4D and Ego-Exo4D in their official layouts."""

import json
import pickle
import shutil

import cv2
import numpy as np
import pytest

from data_prep.dataset import Request
from data_prep.registry import find_data_set

# FPHA's order: wrist, knuckles thumb to little, then PIP, DIP, tip of each finger.
FPHA_FROM_OPENPOSE = [0, 1, 5, 9, 13, 17, 2, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15, 16, 18, 19, 20]
MANOPTH_TIPS = {"right": [745, 317, 444, 556, 673], "left": [745, 317, 445, 556, 673]}


@pytest.fixture
def fpha(tmp_path, motion, smplx_joints, picture, save_picture):
    """A sequence of four frames of which one has no line, and one of the three that the README calls bad."""
    hand = motion(4, seed=1, place=(0.0, 0.0, 0.45))
    root = tmp_path / "fpha"
    depth_mm = 1000 * smplx_joints(True, hand.global_aa, hand.finger, hand.betas, hand.transl, flat_mean=True)
    # By hand, from the README's matrix to four digits: x and y mix by 0.0047, y and z by 0.0027.
    x, y, z = np.moveaxis(depth_mm, -1, 0)
    color_mm = np.stack(
        [x - 0.0047 * y + 0.001 * z + 25.7, 0.0047 * x + y - 0.0027 * z + 1.22, -0.001 * x + 0.0027 * y + z + 3.902],
        axis=-1,
    )
    pixels = color_mm[..., :2] / color_mm[..., 2:] * [1395.749, 1395.749] + [935.733, 540.681]
    for name in ("Subject_1/open_juice/1", "Subject_2/close_milk/4"):
        folder = root / "Hand_pose_annotation_v1" / name
        folder.mkdir(parents=True)
        rows = [
            " ".join(map(str, [frame, *depth_mm[frame][FPHA_FROM_OPENPOSE].ravel()]))
            for frame in range(4)
            if frame != 2
        ]
        (folder / "skeleton.txt").write_text("\n".join(rows) + "\n")
        for frame in range(4):
            path = root / "Video_files" / name / "color" / f"color_{frame:04d}.jpeg"
            save_picture(path, picture(1920, 1080, pixels[frame]))
    (root / "data_split_action_recognition.txt").write_text(
        "Training 1\nSubject_1/open_juice/1 16\nTest 1\nSubject_2/close_milk/4 3\n"
    )
    return root, color_mm / 1000


@pytest.mark.parametrize("split", ["action_train", "subject_train"])
def test_fpha_hands_lie_in_the_colour_pictures(fpha, split, to_shards, read_hands, assert_labels_hit_the_blobs):
    root, truth = fpha
    shards, tally = to_shards("fpha", root, split)
    hands = read_hands(shards)
    assert tally.damaged == []
    first, second = (hands[f"Subject_1_open_juice_1.right_{number}"] for number in (0, 1))
    assert (first.frame_index, second.frame_index) == ([0, 1], [3])  # the line's number counts, not its place
    np.testing.assert_allclose(first.joints_cam, truth[:2], atol=2e-4)  # the test's matrix has four digits
    assert_labels_hit_the_blobs(first)


def test_fpha_leaves_out_what_its_readme_calls_bad(fpha):
    for name in ("Subject_2/put_tea_bag/2", "Subject_4/flip_sponge/2"):  # and Subject_2/close_milk/4
        for folder in ("Hand_pose_annotation_v1", "Video_files"):
            shutil.copytree(fpha[0] / folder / "Subject_2/close_milk/4", fpha[0] / folder / name)
    units = find_data_set("fpha").open(Request(fpha[0], "subject_train")).units
    assert [unit.name for unit in units] == ["Subject_1/open_juice/1"]
    for split in ("action_test", "subject_test"):
        assert find_data_set("fpha").open(Request(fpha[0], split)).units == []


@pytest.fixture
def egodexter(tmp_path, picture, save_picture):
    """Four frames of the four sequences: in one a fingertip is not annotated, in one nothing is.

    Kitchen's labels are wrong, and corrected ones lie beside.
    """
    root = tmp_path / "egodexter"
    tips_mm = np.array([[-40.0, 10, 400], [-15, -30, 410], [5, -35, 415], [20, -30, 420], [40, -10, 430]])
    K = np.array([475.62, 475.62, 1]), np.array([311.125, 245.965, 0])
    lines_2d, lines_3d = [], []
    for frame in range(4):
        shifted = tips_mm + np.array([5.0 * frame, 0, 0])
        pixels = shifted / shifted[:, 2:] * K[0] + K[1]
        texts_2d = [f"{u:.4f}, {v:.4f}" for u, v, _one in pixels]
        texts_3d = [f"{x}, {y}, {z}" for x, y, z in shifted]
        if frame == 1:  # the little finger is not annotated
            texts_2d[4], texts_3d[4] = "-1, -1", "-0, -0, -0"
        if frame == 2:  # nothing is
            texts_2d, texts_3d = ["-1"] * 5, ["0, 0, 0"] * 5
        lines_2d.append("; ".join(texts_2d) + ";")
        lines_3d.append("; ".join(texts_3d) + ";")
        joints = np.full((21, 2), np.nan)
        joints[8] = pixels[1, :2]
        for sequence in ("Desk", "Fruits", "Kitchen", "Rotunda"):
            path = root / "data" / sequence / "color_on_depth" / f"image_{frame:05d}_color_on_depth.png"
            save_picture(path, picture(640, 480, joints))
    for sequence in ("Desk", "Fruits", "Kitchen", "Rotunda"):
        (root / "data" / sequence / "annotation.txt").write_text("\n".join(lines_2d))
        (root / "data" / sequence / "annotation.txt_3D.txt").write_text("\n".join(lines_3d))
    wrong = root / "data" / "Kitchen"
    (wrong / "my_annotation.txt_3D.txt").write_text((wrong / "annotation.txt_3D.txt").read_text())
    (wrong / "annotation.txt_3D.txt").write_text("\n".join(["9, 9, 900;" * 5] * 4))
    return root, tips_mm


def test_egodexter_tips_of_left_hands_keep_their_places(egodexter, to_shards, read_hands):
    root, tips_mm = egodexter
    shards, tally = to_shards("egodexter", root, "all")
    hands = read_hands(shards)
    assert tally.damaged == []
    assert len(hands) == 8
    for sequence in ("Desk", "Kitchen"):  # the corrected file is taken where there is one
        hand = hands[f"{sequence}.left_0"]
        assert not hand.was_right
        assert hand.frame_index == [0, 1]
        np.testing.assert_allclose(hand.joints_cam[0, [4, 8, 12, 16, 20]], tips_mm / 1000, atol=1e-6)
        known = hand.labels.joints_cam_weight
        assert known[0].nonzero()[:, 0].tolist() == [4, 8, 12, 16, 20]
        assert known[1].nonzero()[:, 0].tolist() == [4, 8, 12, 16]
        crop = hand.crops[0]
        tip = hand.labels.joints_img[0, 8].numpy() * crop.scale + crop.offset_px
        assert np.asarray(crop.pixels)[round(float(tip[1])), round(float(tip[0])), 2] < 80  # yellow


HOI4D_NAME, HOI4D_WITHOUT = "ZY20210800001/H1/C1/N19/S100/s02/T1", "ZY20210800001/H1/C2/N19/S100/s02/T1"
# Folders of the two releases, and the digits of a frame's number in its file's name.
OLDER = ("handpose/refinehandpose_right", "handpose/refinehandpose_left"), 1
NEWER = ("Hand_pose/handpose_right_hand", "Hand_pose/handpose_left_hand"), 5


def lay_hoi4d(tmp_path, folders, digits, motion, smplx_joints, picture):
    """Two hands in the three frames of a film, the left one from the second on; a sequence without hand poses."""
    name, without = HOI4D_NAME, HOI4D_WITHOUT
    tmp_path.mkdir()
    (tmp_path / "release.txt").write_text(f"{name}\n{without}\n")
    K = np.array([[1060.0, 0, 955], [0, 1061, 541], [0, 0, 1]])
    (tmp_path / "camera_params" / "ZY20210800001").mkdir(parents=True)
    np.save(tmp_path / "camera_params" / "ZY20210800001" / "intrin.npy", K)
    truth, seen = {}, [[] for _frame in range(3)]
    for side, folder in zip(("right", "left"), folders, strict=True):
        hand = motion(3, seed=len(side), place=(0.1 if side == "right" else -0.1, 0, 0.5), is_right=side == "right")
        truth[side] = smplx_joints(
            side == "right", hand.global_aa, hand.finger, hand.betas, hand.transl, flat_mean=True,
            tips=MANOPTH_TIPS[side],
        )  # fmt: skip
        (tmp_path / folder / name).mkdir(parents=True)
        for frame in range(3):
            pixels = (truth[side][frame] @ K.T)[:, :2] / truth[side][frame][:, 2:]
            seen[frame].append(pixels)
            if side == "left" and frame == 0:
                continue  # a hand that comes later
            record = {
                "poseCoeff": np.concatenate([hand.global_aa[frame], hand.finger[frame]]), "beta": hand.betas[frame],
                "trans": hand.transl[frame], "kps2D": pixels,
            }  # fmt: skip
            (tmp_path / folder / name / f"{frame:0{digits}d}.pickle").write_bytes(pickle.dumps(record))
    rgb = tmp_path / "HOI4D_release" / name / "align_rgb"
    rgb.mkdir(parents=True)
    film = cv2.VideoWriter(str(rgb / "image.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 15, (1920, 1080))
    for frame in range(3):
        film.write(picture(1920, 1080, *seen[frame])[..., ::-1])
    film.release()
    log = tmp_path / "HOI4D_annotations" / name / "3Dseg" / "output.log"
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"{i} {i} {i + 1}\n1 0 0 {0.1 * i}\n0 1 0 0\n0 0 1 0\n0 0 0 1\n" for i in range(3)))
    return tmp_path, truth


@pytest.fixture
def hoi4d(tmp_path, motion, smplx_joints, picture):
    return lay_hoi4d(tmp_path / "hoi4d", *NEWER, motion, smplx_joints, picture)


@pytest.mark.parametrize(("folders", "digits"), [OLDER, NEWER])
def test_hoi4d_hands_of_either_folder_lie_in_the_film(
    tmp_path, folders, digits, motion, smplx_joints, picture, to_shards, read_hands, mano, posed_joints,
    assert_labels_hit_the_blobs,
):  # fmt: skip
    root, truth = lay_hoi4d(tmp_path / "hoi4d", folders, digits, motion, smplx_joints, picture)
    name = HOI4D_NAME
    # The sequence without hand poses is passed over.
    assert [unit.name for unit in find_data_set("hoi4d").open(Request(root, "release", mano)).units] == [name]
    shards, tally = to_shards("hoi4d", root, "release", mano=mano)
    hands = read_hands(shards)
    assert tally.damaged == []
    key = name.replace("/", "_")
    assert hands[f"{key}.left_0"].frame_index == [1, 2]
    for side, frames in (("right", [0, 1, 2]), ("left", [1, 2])):
        hand = hands[f"{key}.{side}_0"]
        np.testing.assert_allclose(hand.joints_cam, truth[side][frames], atol=2e-5)
        assert_labels_hit_the_blobs(hand, atol_px=1.0)
    np.testing.assert_allclose(posed_joints(hands[f"{key}.right_0"])[:, 1], truth["right"][:, 1], atol=2e-5)
    np.testing.assert_allclose(hands[f"{key}.right_0"].labels.camera.T_world_cam[2, 0, 3], 0.2, atol=1e-6)


def test_hoi4d_lists_have_the_published_length(shared_dir):
    listed = (shared_dir / "realdata" / "hoi4d_lists" / "release.txt").read_text().split()
    assert len(listed) == find_data_set("hoi4d").splits["release"].published


@pytest.fixture
def egoexo4d(tmp_path, motion, smplx_joints, picture, save_picture):
    """Three annotated frames: in the second the left hand is absent, in the third a joint is not seen."""
    root = tmp_path / "egoexo4d"
    joints, seen = {}, {}
    for side in ("right", "left"):
        hand = motion(3, seed=len(side), place=(0.12 if side == "right" else -0.12, 0, 0.35), is_right=side == "right")
        joints[side] = smplx_joints(
            side == "right", hand.global_aa, hand.finger, hand.betas, hand.transl, flat_mean=True
        )
        seen[side] = joints[side][..., :2] / joints[side][..., 2:] * 150 + 255.5
    frames = {}
    for row, number in enumerate((30, 60, 90)):
        record = {"metadata": {"take_uid": "uid-1", "take_name": "cooking_01", "frame_number": number}}
        for side in joints:
            is_absent = side == "left" and number == 60
            points_3d, points_2d = joints[side][row].copy(), seen[side][row].copy()
            if number == 90:
                points_3d[3], points_2d[3] = np.nan, np.nan
            valid = np.isfinite(points_3d[:, 0])
            record |= {
                f"{side}_hand_3d": [] if is_absent else points_3d.tolist(),
                f"{side}_hand_2d": [] if is_absent else points_2d.tolist(),
                f"{side}_hand_valid_3d": [] if is_absent else valid.tolist(),
                f"{side}_hand_bbox": [] if is_absent else [0.0, 0.0, 9.0, 9.0],
            }
        frames[str(number)] = record
        path = root / "image" / "undistorted" / "train" / "cooking_01" / f"{number:06d}.jpg"
        save_picture(path, picture(512, 512, *(points[row] for points in seen.values())))
    (root / "annotation" / "manual").mkdir(parents=True)
    # Python's json writes NaN, as the official preparation does.
    (root / "annotation" / "manual" / "ego_pose_gt_anno_train_public.json").write_text(
        json.dumps({"uid-1": frames, "uid-2": {}})
    )
    return root, joints


def test_egoexo4d_skips_unseen_joints_and_absent_hands(egoexo4d, to_shards, read_hands, assert_labels_hit_the_blobs):
    root, joints = egoexo4d
    shards, tally = to_shards("egoexo4d", root, "train")
    hands = read_hands(shards)
    assert tally.damaged == []
    assert sorted(hands) == [
        "uid-1_000030.left_0", "uid-1_000030.right_0", "uid-1_000060.right_0", "uid-1_000090.left_0",
        "uid-1_000090.right_0",
    ]  # fmt: skip
    last = hands["uid-1_000090.left_0"]
    assert last.labels.joints_cam_weight[0, 3] == last.labels.joints_img_weight[0, 3] == 0
    np.testing.assert_allclose(last.joints_cam[0, 9], joints["left"][2, 9], atol=1e-5)
    for name in ("uid-1_000030.left_0", "uid-1_000030.right_0"):
        assert_labels_hit_the_blobs(hands[name])
