"""ARCTIC in its official layout: offset picture numbers, two hands, a moving distorted head camera, the mean pose."""

import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

OFFSET = 7  # the first row's picture number
ROWS = 24
KEPT = range(10, 14)  # ten at either end are left out
EXO_K = np.array([[300.0, 0, 170], [0, 310, 118], [0, 0, 1]])
EGO_K = np.array([[260.0, 0, 205], [0, 255, 144], [0, 0, 1]])
EGO_SIZE, EXO_SIZE = (420, 300), (320, 240)
DIST8 = np.array([0.35, -0.25, 0.002, -0.001, 0.05, 0.1, -0.08, 0.02])


def turn(aa):
    return cv2.Rodrigues(np.asarray(aa, np.float64))[0]


@pytest.fixture(scope="module")
def download(tmp_path_factory, smplx_joints, motion, picture, save_picture):
    root = tmp_path_factory.mktemp("arctic")
    world2cam = np.tile(np.eye(4), (8, 1, 1))
    # The third fixed camera (view 3) is turned and shifted.
    world2cam[2, :3, :3], world2cam[2, :3, 3] = turn([0.1, -0.4, 0.2]), [0.1, -0.05, 0.3]
    misc = {
        "s01": {
            "world2cam": world2cam.tolist(), "intris_mat": [EXO_K.tolist()] * 8, "ioi_offset": OFFSET,
            "image_size": [EGO_SIZE] + [EXO_SIZE] * 8, "gender": "male",
        }
    }  # fmt: skip
    (root / "meta").mkdir()
    (root / "meta" / "misc.json").write_text(json.dumps(misc))
    name = "s01/box_grab_01"
    (root / "raw_seqs" / "s01").mkdir(parents=True)
    stored, joints_world = {}, {}
    for side, place in (("right", (0.08, 0.0, 0.6)), ("left", (-0.08, 0.02, 0.65))):
        hand = motion(ROWS, seed=len(side), place=place, is_right=side == "right")
        stored[side] = {
            "rot": hand.global_aa, "pose": hand.finger, "trans": hand.transl, "shape": hand.betas[0],
            "fitting_err": np.zeros(ROWS),
        }  # fmt: skip
        # Independent: smplx's layer adds the mean pose itself and takes MANO_LEFT's shape directions as published.
        joints_world[side] = smplx_joints(
            side == "right", hand.global_aa, hand.finger, hand.betas, hand.transl, flat_mean=False
        )
    rotation = np.stack([turn([0.02 * row, -0.01 * row, 0.1]) for row in range(ROWS)])
    translation = np.stack([[0.002 * row, -0.01, 0.05] for row in range(ROWS)])[..., None]
    raw = root / "raw_seqs" / name
    save_object(f"{raw}.mano.npy", stored)
    save_object(
        f"{raw}.egocam.dist.npy",
        {"R_k_cam_np": rotation, "T_k_cam_np": translation, "intrinsics": EGO_K, "dist8": DIST8},
    )
    # Articulation, turn, and place in millimetres: of use only for where the cropped pictures are cut out.
    states = np.zeros((ROWS, 7))
    states[:, 0] = np.linspace(0.2, 1.5, ROWS)
    states[:, 2] = 0.3
    states[:, 4:] = [20.0, -30.0, 650.0]
    np.save(f"{raw}.object.npy", states)
    in_camera = {}
    for row in range(ROWS):
        ego = {side: joints[row] @ rotation[row].T + translation[row, :, 0] for side, joints in joints_world.items()}
        exo = {
            side: joints[row] @ world2cam[2, :3, :3].T + world2cam[2, :3, 3] for side, joints in joints_world.items()
        }
        in_camera[row] = {"0": ego, "3": exo}
        seen = [cv2.projectPoints(joints, np.zeros(3), np.zeros(3), EGO_K, DIST8)[0][:, 0] for joints in ego.values()]
        save_picture(root / "images" / name / "0" / f"{row + OFFSET:05d}.jpg", picture(*EGO_SIZE, *seen))
        seen = [(joints @ EXO_K.T)[:, :2] / joints[:, 2:] for joints in exo.values()]
        save_picture(root / "images" / name / "3" / f"{row + OFFSET:05d}.jpg", picture(*EXO_SIZE, *seen))
    return root, in_camera, rotation, translation


# A small box, and a long lid that turns about the box's z axis: millimetres.
BOX_MM = np.array([[x, y, z] for x in (-40.0, 40.0) for y in (-30.0, 30.0) for z in (-20.0, 20.0)])
LID_MM = np.array([[1600.0, 0, 0], [1580.0, 10, 5]])


def square_of(state, K, T_cam_world):
    """By hand: left, top and side, in pixels of the full picture, of the loose square about box and lid."""
    angle, turned, place = state[0], turn(state[1:4]), state[4:] / 1000
    lid = np.stack(
        [
            LID_MM[:, 0] * np.cos(angle) + LID_MM[:, 1] * np.sin(angle),
            -LID_MM[:, 0] * np.sin(angle) + LID_MM[:, 1] * np.cos(angle),
            LID_MM[:, 2],
        ],
        axis=-1,
    )
    world = np.concatenate([BOX_MM, lid]) / 1000 @ turned.T + place
    pixels = cv2.projectPoints(world, cv2.Rodrigues(T_cam_world[:3, :3])[0], T_cam_world[:3, 3], K, None)[0][:, 0]
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    side = 1.5 * max(600.0, 1.7 * (high - low).max())
    return (low + high) / 2, side


@pytest.fixture(scope="module")
def cropped(download, tmp_path_factory):
    """The other release: squares about the object, made with Pillow as its authors did, and a small head camera."""
    full = download[0]
    root = tmp_path_factory.mktemp("arctic-cropped")
    shutil.copytree(full / "raw_seqs", root / "raw_seqs")
    shutil.copytree(full / "meta", root / "meta")
    template = root / "meta" / "object_vtemplates" / "box"
    template.mkdir(parents=True)
    vertices = np.concatenate([BOX_MM, LID_MM])
    lines = [f"v {x} {y} {z}" for x, y, z in vertices]
    (template / "mesh.obj").write_text("\n".join([*lines, "f 1 2 3", ""]))
    (template / "parts.json").write_text(json.dumps([1] * len(BOX_MM) + [0] * len(LID_MM)))
    misc = json.loads((full / "meta" / "misc.json").read_text())["s01"]
    T_cam_world = np.array(misc["world2cam"])[2]
    states = np.load(full / "raw_seqs" / "s01" / "box_grab_01.object.npy")
    name = "s01/box_grab_01"
    sides = []
    for row in range(ROWS):
        for view in ("0", "3"):
            image = Image.open(full / "images" / name / view / f"{row + OFFSET:05d}.jpg")
            if view == "3":
                (x, y), side = square_of(states[row], EXO_K, T_cam_world)
                sides.append(side)
                image = image.crop((x - side / 2, y - side / 2, x + side / 2, y + side / 2)).resize((1000, 1000))
            else:
                image = image.resize((int(EGO_SIZE[0] * 0.3), int(EGO_SIZE[1] * 0.3)))
            path = root / "cropped_images" / name / view / f"{row + OFFSET:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, quality=95)
    assert min(sides[10:14]) > 901  # the box decides, not its lower bound
    assert np.ptp(sides[10:14]) > 3  # and every frame has another
    return root


def save_object(path, values):
    np.save(path, values, allow_pickle=True)


@pytest.mark.parametrize(
    ("data_set", "split", "view"), [("arctic-exo", "p1_train", "3"), ("arctic-ego", "p2_train", "0")]
)
def test_both_hands_lie_where_the_pictures_show_them(
    download, data_set, split, view, to_shards, read_hands, mano, assert_labels_hit_the_blobs
):
    root, in_camera, _rotation, _translation = download
    shards, tally = to_shards(data_set, root, split, mano=mano, partial=True)
    hands = read_hands(shards)
    assert tally.damaged == []
    for side in ("right", "left"):
        hand = hands[f"s01_box_grab_01_{view}.{side}_0"]
        assert hand.frame_index == list(KEPT)
        expected = np.stack([in_camera[row][view][side] for row in KEPT])
        np.testing.assert_allclose(hand.joints_cam, expected, atol=2e-5)
        # Straightened pictures: blobs were painted at distorted places by OpenCV's projection.
        assert_labels_hit_the_blobs(hand)


def test_parameters_give_the_joints_in_the_camera(download, to_shards, read_hands, mano, posed_joints):
    root, in_camera, _rotation, _translation = download
    shards, _tally = to_shards("arctic-exo", root, "p1_train", mano=mano, partial=True)
    hands = read_hands(shards)
    right = hands["s01_box_grab_01_3.right_0"]
    np.testing.assert_allclose(posed_joints(right), np.stack([in_camera[row]["3"]["right"] for row in KEPT]), atol=2e-5)
    left = hands["s01_box_grab_01_3.left_0"]
    off = np.linalg.norm(posed_joints(left) - np.stack([in_camera[row]["3"]["left"] for row in KEPT]), axis=-1)
    assert off[:, 0].max() < 1e-5  # the wrist, although the published left shapes are others
    assert off.mean() < 0.008


def test_the_head_camera_moves_through_the_world(download, to_shards, read_hands, mano):
    root, _in_camera, rotation, translation = download
    shards, _tally = to_shards("arctic-ego", root, "p2_train", mano=mano, partial=True)
    hand = read_hands(shards)["s01_box_grab_01_0.right_0"]
    T = hand.labels.camera.T_world_cam.double().numpy()
    for place, row in enumerate(KEPT):
        # The camera's centre in the world is -R^T t.
        np.testing.assert_allclose(T[place, :3, 3], -rotation[row].T @ translation[row, :, 0], atol=1e-6)


def test_joints_need_the_users_mano_and_say_so(download, to_shards):
    with pytest.raises(ValueError, match=r"MANO_RIGHT.pkl with --mano"):
        to_shards("arctic-exo", download[0], "p1_train", partial=True)


def test_missing_views_are_listed(download, to_shards, mano):
    with pytest.raises(ValueError, match=r"lacks .* parts:(.|\n)*images/s01/box_grab_01/1(.|\n)*--partial"):
        to_shards("arctic-exo", download[0], "p1_train", mano=mano)


def test_cropped_pictures_have_a_camera_of_their_own_in_every_frame(
    cropped, download, to_shards, read_hands, mano, assert_labels_hit_the_blobs
):
    _root, in_camera, _rotation, _translation = download
    hands = read_hands(to_shards("arctic-exo", cropped, "p1_train", mano=mano, partial=True)[0])
    for side in ("right", "left"):
        hand = hands[f"s01_box_grab_01_3.{side}_0"]
        expected = np.stack([in_camera[row]["3"][side] for row in KEPT])
        np.testing.assert_allclose(hand.joints_cam, expected, atol=2e-5)  # hands stay where they are
        focal = hand.labels.camera.K[:, 0, 0]
        assert focal.unique().numel() == len(KEPT)
        assert_labels_hit_the_blobs(hand, atol_px=1.2)


def test_the_small_pictures_of_the_head_camera_are_straightened_too(cropped, download, to_shards, read_hands, mano):
    hands = read_hands(to_shards("arctic-ego", cropped, "p2_train", mano=mano, partial=True)[0])
    hand = hands["s01_box_grab_01_0.right_0"]
    # (x + 0.5) * 0.3 - 0.5 of the full picture's pinhole pixels.
    joints = np.stack([download[1][row]["0"]["right"] for row in KEPT])
    full = (joints @ EGO_K.T)[..., :2] / joints[..., 2:]
    np.testing.assert_allclose(hand.labels.joints_img, (full + 0.5) * 0.3 - 0.5, atol=0.02)
    # Blobs are but five pixels wide here: the darkest blue lies at the wrist.
    for place, crop in enumerate(hand.crops):
        wrist = hand.labels.joints_img[place, 0].numpy() * crop.scale + crop.offset_px
        red = np.asarray(crop.pixels)[..., 0].astype(int)
        x, y = np.round(wrist).astype(int)
        assert red[y, x] < 80


def test_full_pictures_are_taken_where_both_are_there(cropped, download, tmp_path, to_shards, read_hands, mano):
    for name in ("raw_seqs", "meta", "cropped_images"):
        (tmp_path / name).symlink_to(cropped / name)
    (tmp_path / "images").symlink_to(download[0] / "images")
    hand = read_hands(to_shards("arctic-exo", tmp_path, "p1_train", mano=mano, partial=True)[0])
    assert hand["s01_box_grab_01_3.right_0"].labels.camera.K[:, 0, 0].unique().tolist() == [300.0]


def test_cropped_pictures_without_the_objects_shapes_say_what_is_missing(cropped, tmp_path, to_shards, mano):
    for name in ("raw_seqs", "cropped_images"):
        (tmp_path / name).symlink_to(cropped / name)
    (tmp_path / "meta").mkdir()
    shutil.copy(cropped / "meta" / "misc.json", tmp_path / "meta")
    with pytest.raises(ValueError, match=r"box: no mesh\.obj and parts\.json; .*object_vtemplates"):
        to_shards("arctic-exo", tmp_path, "p1_train", mano=mano, partial=True)
