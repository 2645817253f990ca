"""Your own videos: COCO's JSON, detections or a trajectory beside each, read back on the pictures they are of."""

import json

import cv2
import numpy as np
import pytest
import torch

from data_prep.convert import hand_model_name
from data_prep.dataset import Request
from data_prep.own_coco import OwnHand, main, read_coco, write_coco
from data_prep.registry import find_data_set
from haptic.export.npz import write_npz
from haptic.geometry.cameras import project
from haptic.geometry.rotations import geodesic_angle
from haptic.hand.mirror import mirror_params
from haptic.hand.model import trajectory_joints


@pytest.fixture
def filmed(tmp_path, make_result, open_hand, picture):
    """A film of two waving hands as blobs, 320 x 240, and the joints that were painted."""
    root = tmp_path / "videos"
    root.mkdir()
    result = make_result(((0, 12), (2, 12)), num_frames=12)
    seen = {name: np.full((12, 21, 2), np.nan) for name in result.hands}
    for name, hand in result.hands.items():
        seen[name][hand.frame_index] = project(trajectory_joints(open_hand, hand), hand.camera.K).numpy()
    film = cv2.VideoWriter(str(root / "my kitchen.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 30, (320, 240))
    for frame in range(12):
        film.write(picture(320, 240, *(joints[frame] for joints in seen.values()))[..., ::-1])
    film.release()
    return root, result, seen


@pytest.mark.parametrize("camera", ["assumed", "measured"])
def test_a_trajectory_labels_both_hands(
    filmed, camera, open_hand, to_shards, read_hands, assert_labels_hit_the_blobs, tmp_path
):
    root, result, _seen = filmed
    write_npz(root / "my kitchen" / "trajectory.npz", result, open_hand)
    shards, _tally = to_shards("own-videos", root, "train", camera=camera)
    hands = read_hands(shards)
    for name, trajectory in result.hands.items():
        mine = [hand for key, hand in sorted(hands.items()) if name.split("_")[0] in key]
        # Frames that were filled in are not labels.
        kept = [frame for hand in mine for frame in hand.frame_index]
        assert kept == trajectory.frame_index[trajectory.observed].tolist()
        truth = trajectory_joints(open_hand, trajectory).numpy()
        place = trajectory.frame_index.tolist().index(mine[0].frame_index[0])
        np.testing.assert_allclose(mine[0].joints_cam[0], truth[place], atol=1e-5)
        for hand in mine:
            assert (hand.labels.place_weight > 0).all() == (camera == "measured")
            assert_labels_hit_the_blobs(hand)
    assert hand_model_name(find_data_set("own-videos"), Request(root, "train")) == open_hand.name


def test_detections_give_the_2d_joints(filmed, to_shards, read_hands):
    root, _result, seen = filmed
    entries = [
        {
            "frame_index": frame, "hand": name.split("_")[0], "track_id": name,
            "joints_img": joints[frame].tolist(), "joints_img_weight": [0.0, *[1.0] * 20],
        }
        for name, joints in seen.items() for frame in range(2, 12)
    ]  # fmt: skip
    (root / "my kitchen.json").write_text(json.dumps({"format_version": 1, "detections": entries}))
    shards, _tally = to_shards("own-videos", root, "train")
    hands = read_hands(shards)
    assert sorted(hands) == ["my_kitchen.left_0", "my_kitchen.right_0"]
    right, left = hands["my_kitchen.right_0"].labels, hands["my_kitchen.left_0"].labels
    assert right.joints_img_weight[:, 0].max() == 0
    np.testing.assert_allclose(right.joints_img[:, 1:], seen["right_0"][2:, 1:], atol=1e-3)
    x = 319 - left.joints_img[:, 1:, 0].numpy()  # read as a right hand, so turned over
    np.testing.assert_allclose(x, seen["left_0"][2:, 1:, 0], atol=1e-3)
    assert left.camera_weight.max() == left.place_weight.max() == left.params_weight.max() == 0


def test_labels_of_another_video_are_named(filmed, make_result, open_hand, to_shards):
    root, _result, _seen = filmed
    write_npz(root / "my kitchen.npz", make_result(((0, 5),), num_frames=5, width_px=640), open_hand)
    with pytest.raises(ValueError, match=r"for a video of 640 x 240 pixels, but my kitchen has 320 x 240"):
        to_shards("own-videos", root, "train")


def test_a_video_without_labels_is_listed(filmed, to_shards):
    with pytest.raises(ValueError, match=r"my kitchen\.json, my kitchen\.npz or my kitchen/trajectory\.npz"):
        to_shards("own-videos", filmed[0], "train")


@pytest.fixture
def coco(filmed, open_hand):
    """What a user of COCO's format would have of the film, as an object to be changed, and how to save it."""
    root, result, seen = filmed
    categories = [{"id": 1, "name": "Left hand"}, {"id": 2, "name": "hand_right"}]
    images = [{"id": 100 + frame, "file_name": f"kitchen/frame_{frame:05d}.jpg"} for frame in range(12)]
    annotations = []
    for name, hand in result.hands.items():
        joints_cam = trajectory_joints(open_hand, hand).numpy()
        for row, frame in enumerate(hand.frame_index.tolist()):
            keypoints = np.concatenate([seen[name][frame], np.full((21, 1), 2.0)], axis=1)
            annotations.append({
                "id": len(annotations), "image_id": 100 + frame, "category_id": 2 if name.startswith("right") else 1,
                "keypoints": keypoints.ravel().tolist(), "joints_cam": joints_cam[row].tolist(),
            })  # fmt: skip
    content = {"images": images, "annotations": annotations, "categories": categories}

    def save():
        (root / "my kitchen.json").write_text(json.dumps(content))
        return root

    return content, save


def give_camera(root, result, **changes):
    fields = {"K": result.camera.K[0].tolist(), "T_world_cam": result.camera.T_world_cam.tolist(), **changes}
    (root / "my kitchen.cameras.json").write_text(json.dumps(fields))


def test_coco_with_3d_and_a_camera_gives_true_places(
    filmed, coco, to_shards, read_hands, assert_labels_hit_the_blobs, open_hand
):
    root, result, _seen = filmed
    content, save = coco
    content["annotations"][3]["keypoints"][2::3] = [1, *[2] * 19, 0]  # the wrist is hidden, the last tip unknown
    content["annotations"][3]["joints_cam"][20] = None
    save()
    give_camera(root, result)
    shards, tally = to_shards("own-videos", root, "train")
    hands = read_hands(shards)
    assert not tally.damaged
    assert sorted(hands) == ["my_kitchen.left_0", "my_kitchen.right_0"]
    for name, trajectory in result.hands.items():
        hand = hands[f"my_kitchen.{name}"]
        labels = hand.labels
        truth = trajectory_joints(open_hand, trajectory).numpy()
        known = labels.joints_cam_weight.numpy() > 0
        np.testing.assert_allclose(hand.joints_cam[known], truth[known], atol=1e-5)
        assert labels.place_weight.min() == labels.camera_weight.min() == 1
        assert labels.betas_weight.max() == 0
        assert_labels_hit_the_blobs(hand)
    labels = hands["my_kitchen.right_0"].labels
    assert labels.joints_visible[3].tolist() == [0, *[1] * 19, -1]
    assert labels.joints_img_weight[3].tolist() == labels.joints_cam_weight[3].tolist() == [*[1] * 20, 0]


def test_rotations_are_fitted_to_joints_where_all_are_known(filmed, coco, to_shards, read_hands):
    root, result, _seen = filmed
    content, save = coco
    content["annotations"][3]["joints_cam"][20] = None
    stretched = np.array(content["annotations"][7]["joints_cam"])
    stretched[4::4] *= 1.2  # seen where they were, but no hand reaches there
    content["annotations"][7]["joints_cam"] = stretched.tolist()
    save()
    give_camera(root, result)
    shards, _tally = to_shards("own-videos", root, "train")
    for name, trajectory in result.hands.items():
        labels = read_hands(shards)[f"my_kitchen.{name}"].labels  # as right hands, all of them
        told = labels.params_weight > 0
        assert (~told).nonzero()[:, 0].tolist() == ([3, 7] if trajectory.is_right else []), name
        truth = trajectory.params if trajectory.is_right else mirror_params(trajectory.params)
        off_deg = torch.rad2deg(geodesic_angle(labels.params.hand_pose, truth.hand_pose))[told]
        assert off_deg.median() < 8
        assert torch.rad2deg(geodesic_angle(labels.params.global_orient, truth.global_orient))[told].max() < 6


def test_3d_without_a_camera_counts_about_the_wrist(coco, to_shards, read_hands):
    _content, save = coco
    shards, _tally = to_shards("own-videos", save(), "train")
    for hand in read_hands(shards).values():
        assert hand.labels.joints_cam_weight.min() == 1
        assert hand.labels.place_weight.max() == hand.labels.camera_weight.max() == 0


def test_a_persons_two_hands_are_read_from_coco_wholebody(filmed, coco, to_shards, read_hands):
    content, save = coco
    _root, _result, seen = filmed
    plain = {frame: {} for frame in range(12)}
    for annotation in content["annotations"]:
        side = "right" if annotation["category_id"] == 2 else "left"
        plain[annotation["image_id"] - 100][side] = annotation["keypoints"]
    nothing = [0] * 63
    fields = [{"lefthand_kpts": plain[frame].get("left", nothing), "righthand_kpts": plain[frame].get("right", nothing),
               "keypoints": [0] * 51} for frame in range(6)]  # fmt: skip
    lists = [{"keypoints": [0] * (3 * 91) + plain[frame].get("left", nothing) + plain[frame].get("right", nothing)}
             for frame in range(6, 12)]  # fmt: skip
    content["annotations"] = [{"image_id": 100 + frame, **one} for frame, one in enumerate([*fields, *lists])]
    shards, _tally = to_shards("own-videos", save(), "train")
    hands = read_hands(shards)
    assert hands["my_kitchen.right_0"].frame_index == list(range(12))
    assert hands["my_kitchen.left_0"].frame_index == list(range(2, 12))
    labels = hands["my_kitchen.right_0"].labels
    np.testing.assert_allclose(labels.joints_img, seen["right_0"], atol=1e-3)


def test_confidences_become_weights(coco, to_shards, read_hands):
    content, save = coco
    for annotation in content["annotations"]:
        annotation["keypoints"][2::3] = [0.25, *[1] * 20]
    shards, _tally = to_shards("own-videos", save(), "train")
    labels = read_hands(shards)["my_kitchen.right_0"].labels
    assert labels.joints_img_weight[:, :2].unique(dim=0).tolist() == [[0.25, 1.0]]
    assert labels.joints_visible.unique().tolist() == [-1]


def test_two_right_hands_are_told_apart_by_their_tracks(coco, to_shards, read_hands):
    content, save = coco
    for annotation in content["annotations"]:
        annotation |= {"hand": "right", "attributes": {"track_id": annotation["category_id"]}}
    shards, _tally = to_shards("own-videos", save(), "train")
    assert sorted(read_hands(shards)) == ["my_kitchen.right_0", "my_kitchen.right_1"]
    for annotation in content["annotations"]:
        del annotation["attributes"]
    with pytest.raises(ValueError, match=r"annotations\[12\] \(frame 2\): a second right hand without a track_id"):
        read_coco(save() / "my kitchen.json", width=320, height=240, num_frames=12)


def test_file_names_may_count_from_one(coco, to_shards, read_hands):
    content, save = coco
    for frame, image in enumerate(content["images"], start=1):
        image["file_name"] = f"{frame}.png"
    root = save()
    with pytest.raises(ValueError, match=r"frame 12, but the video has frames 0 to 11;.*first_frame=NUMBER"):
        to_shards("own-videos", root, "train")
    shards, _tally = to_shards("own-videos", root, "train", first_frame="1")
    assert read_hands(shards)["my_kitchen.right_0"].frame_index == list(range(12))


def first(content, **changes):
    content["annotations"][0] |= changes


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda c: first(c, keypoints=[0.0] * 51), r"annotations\[0\] \(frame 0\): keypoints has 51 numbers; expected 63"),
    (lambda c: c["annotations"][0].pop("keypoints"), r"keypoints is missing"),
    (lambda c: first(c, keypoints=[float("nan")] * 63), r"keypoints: expected 63 finite numbers"),
    (lambda c: first(c, keypoints=["x"] * 63), r"keypoints: expected 63 finite numbers"),
    (lambda c: first(c, keypoints=[5.0, 5.0, 2] * 21), r"keypoints all lie in one pixel"),
    (lambda c: c["annotations"][0]["keypoints"].__setitem__(2, 3), r"keypoints has v = 3; expected 0"),
    (lambda c: c["annotations"][0]["keypoints"].__setitem__(2, 0.5), r"\(frame 0\): v is a confidence here, but 2"),
    (lambda c: first(c, category_id=7), r'hand is None; expected "hand": "right" or "left", or a category'),
    (lambda c: first(c, hand="both"), r"hand is 'both'"),
    (lambda c: first(c, image_id=7), r"image_id is 7, which is no id in images"),
    (lambda c: first(c, track_id=[1]), r"track_id is \[1\]"),
    (lambda c: first(c, bbox=[1, 2, 3]), r"bbox: expected left, top, width, height"),
    (lambda c: first(c, joints_cam=[[0, 0, 1]] * 20), r"joints_cam: expected 21 times \[x, y, z\] in metres"),
    (lambda c: first(c, joints_cam=[[0, 0]] * 21), r"joints_cam: expected \[x, y, z\] in metres"),
    (lambda c: c.pop("images"), r"images is NoneType; expected a list"),
    (lambda c: c.update(annotations=[]), r"no hand has a known keypoint"),
    (lambda c: c["images"][1].update(id=100), r"images\[1\]: id is 100; expected a number of its own"),
    (lambda c: c["images"][1].update(file_name="frame_00000.jpg"), r"two images are frame 0"),
    (lambda c: c["images"][1].update(file_name="kitchen.jpg"), r"neither frame_index nor a number at the end"),
    (lambda c: c["images"][1].update(frame_index=12), r"frame 12, but the video has frames 0 to 11; frame_index coun"),
    (lambda c: c["images"][1].update(frame_index="1"), r"frame_index is '1'; expected a whole number"),
    (lambda c: c["images"][1].update(width=640, height=480), r"of 640 x 480 pixels, but the video has 320 x 240"),
    (lambda c: c["categories"][0].update(keypoints=[f"thumb{n}" for n in range(21)]), r"'thumb8' for keypoint 8;"),
])  # fmt: skip
def test_what_is_wrong_with_a_coco_file_is_said_in_one_line(coco, to_shards, spoil, words):
    content, save = coco
    spoil(content)
    with pytest.raises(ValueError, match=words) as caught:
        to_shards("own-videos", save(), "train")
    assert "\n" not in str(caught.value)
    assert "my kitchen.json" in str(caught.value)


def in_millimetres(content):
    for annotation in content["annotations"]:
        annotation["joints_cam"] = (1000 * np.array(annotation["joints_cam"])).tolist()


def behind_the_camera(content):
    for annotation in content["annotations"]:
        annotation["joints_cam"] = (np.array(annotation["joints_cam"]) * [1, -1, -1]).tolist()


@pytest.mark.parametrize(("spoil", "camera", "words"), [
    (in_millimetres, {}, r"the left hand: joints_cam are [0-9.]+ from the wrist .* expected metres, about 0.1"),
    (behind_the_camera, {}, r"the left hand: joints_cam seen by K lie behind the camera, not at keypoints"),
    (lambda _c: None, {"K": [[900, 0, 159.5], [0, 900, 119.5], [0, 0, 1]]}, r"lie \d+ px from keypoints; expected met"),
    (lambda _c: None, {"T_world_cam": np.eye(4)[None].tolist()}, r"T_world_cam has shape \(1, 4, 4\)"),
    (lambda _c: None, {"K": [[0, 0, 1], [0, 0, 1], [0, 0, 1]]}, r"K of frame 0 is"),
])  # fmt: skip
def test_3d_and_cameras_that_do_not_fit_are_refused(filmed, coco, to_shards, spoil, camera, words):
    content, save = coco
    spoil(content)
    save()
    give_camera(filmed[0], filmed[1], **camera)
    with pytest.raises(ValueError, match=words) as caught:
        to_shards("own-videos", filmed[0], "train")
    assert "\n" not in str(caught.value)


def test_a_trajectory_is_believed_where_its_camera_was_given(filmed, open_hand, to_shards, read_hands):
    root, result, _seen = filmed
    write_npz(root / "my kitchen.npz", result, open_hand)
    K = result.camera.K[0].numpy().copy()
    K[:2, :2] *= 1.1
    (root / "cameras.json").write_text(json.dumps({"K": K.tolist()}))
    with pytest.raises(ValueError, match=r"made with a focal length of 288 px, but .*cameras\.json says 317 px"):
        to_shards("own-videos", root, "train")
    (root / "cameras.json").write_text(json.dumps({"K": result.camera.K[0].tolist()}))
    shards, _tally = to_shards("own-videos", root, "train")
    assert all(hand.labels.place_weight.min() == 1 for hand in read_hands(shards).values())


def test_a_camera_that_is_said_to_be_measured_must_be_told(coco, to_shards):
    _content, save = coco
    with pytest.raises(ValueError, match=r"camera=measured, but neither a cameras file nor the video's metadata"):
        to_shards("own-videos", save(), "train", camera="measured")


def units(root, split):
    source = find_data_set("own-videos").open(Request(root, split))
    return [unit.name for unit in source.units]


def test_videos_for_validation_are_those_of_a_folder_a_list_or_the_last_fifth(tmp_path):
    names = [f"{letter}.mp4" for letter in "abcdefghijk"]
    for name in names:
        (tmp_path / name).touch()
        (tmp_path / name).with_suffix(".json").touch()
    assert units(tmp_path, "train") == names[:9]
    assert units(tmp_path, "val") == names[9:]
    (tmp_path / "val.txt").write_text("c.mp4\n")
    assert units(tmp_path, "val") == ["c.mp4"]
    assert units(tmp_path, "train") == [name for name in names if name != "c.mp4"]
    (tmp_path / "val.txt").write_text("z.mp4\n")
    with pytest.raises(ValueError, match=r"names z\.mp4, which is not here"):
        units(tmp_path, "val")
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=r"train: no videos here"):
        units(tmp_path, "train")
    for name in ("a.mp4", "a.json"):
        (tmp_path / name).rename(tmp_path / "train" / name)
    assert units(tmp_path, "train") == ["train/a.mp4"]
    with pytest.raises(ValueError, match=r"has no folder val; expected train and val"):
        units(tmp_path, "val")


def test_one_video_leaves_none_for_validation(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a.json").touch()
    assert units(tmp_path, "train") == ["a.mp4"]
    with pytest.raises(ValueError, match=r"no video is left for val, of 1; expected two or more"):
        units(tmp_path, "val")
    (tmp_path / "a.mov").touch()
    with pytest.raises(ValueError, match=r"a\.mov and a\.mp4 have one name"):
        units(tmp_path, "train")


def test_what_infer_found_becomes_a_coco_file_to_be_corrected(filmed, open_hand, to_shards, read_hands, capsys):
    root, result, seen = filmed
    write_npz(root / "my kitchen" / "trajectory.npz", result, open_hand)
    assert main([str(root / "my kitchen" / "trajectory.npz"), "--out", str(root / "my kitchen.json")]) == 0
    assert "in 12 frames" in capsys.readouterr().out
    hands = read_coco(root / "my kitchen.json", width=320, height=240, num_frames=12)
    for hand, (name, trajectory) in zip(hands, sorted(result.hands.items()), strict=True):
        frames = trajectory.frame_index[trajectory.observed].numpy()
        known = (hand.joints_img_weight > 0).all(axis=1)
        assert np.flatnonzero(known).tolist() == frames.tolist()
        np.testing.assert_allclose(hand.joints_img[frames], seen[name][frames], atol=0.01)
    # The corrected file is taken before the trajectory.
    content = json.loads((root / "my kitchen.json").read_text())
    content["annotations"] = [one for one in content["annotations"] if one["category_id"] == 1]
    (root / "my kitchen.json").write_text(json.dumps(content))
    shards, _tally = to_shards("own-videos", root, "train")
    assert all("right" in name for name in read_hands(shards))
    assert main([str(root / "no.npz"), "--out", str(root / "x.json")]) == 1
    assert "no such file" in capsys.readouterr().err


def test_what_is_written_is_read_back(tmp_path):
    rng = np.random.default_rng(0)
    visible = rng.integers(0, 2, (5, 21))
    weight = np.ones((5, 21))
    weight[2], weight[3, 4] = 0, 0
    joints_img = np.where(weight[..., None] > 0, rng.uniform(0, 100, (5, 21, 2)).round(2), np.nan)
    joints_cam = np.where(weight[..., None] > 0, rng.normal(size=(5, 21, 3)).round(5), np.nan)
    given = OwnHand(False, joints_img, weight, np.where(weight > 0, visible, -1), joints_cam, np.full((5, 4), np.nan))
    write_coco(tmp_path / "a.json", {"one": given}, width=100, height=100, num_frames=5, with_joints_cam=True)
    (found,) = read_coco(tmp_path / "a.json", width=100, height=100, num_frames=5)
    assert not found.is_right
    for name in ("joints_img", "joints_img_weight", "joints_visible", "joints_cam"):
        np.testing.assert_array_equal(getattr(found, name), getattr(given, name), err_msg=name)
    np.testing.assert_allclose(found.box_xyxy[0], [*joints_img[0].min(axis=0), *joints_img[0].max(axis=0)], atol=0.011)
    assert np.isnan(found.box_xyxy[2]).all()
