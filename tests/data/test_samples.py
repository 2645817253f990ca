"""Clips as they lie in shards: what is written comes back, on the pixel; what cannot be used is refused in words."""

import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
import webdataset

from haptic.data.samples import (
    CROP_REACH,
    ClipInfo,
    SampleWriter,
    check_labels,
    decode_image,
    labels_from_npz,
    write_tar,
)
from haptic.data.shard_tools import check_shards, contact_sheet, main
from haptic.data.shards import ShardStore

TIP = 8


def read_hand(path, key, hand):
    shard = ShardStore().shard(str(path))
    stored = labels_from_npz(shard.read(key, f"{hand}.npz"), where="here")
    return shard, stored


@pytest.mark.parametrize("max_crop_px", [512, 160])  # pixel for pixel, and reduced
@pytest.mark.parametrize("hand", ["right_0", "left_0"])
def test_the_fingertip_is_where_the_labels_say_on_stored_crops_and_frames(
    painted_clip, make_writer, blob_place, hand, max_crop_px
):
    images, hands = painted_clip(4)
    with make_writer(max_crop_px=max_crop_px, max_frame_px=200) as writer:
        writer.add_clip("clip", images, hands, fps=30.0)
    shard, stored = read_hand(writer.paths[0], "clip", hand)
    assert bool(stored.labels.is_right) == hand.startswith("right")
    for frame in range(4):
        tip = stored.labels.joints_img[frame, TIP].numpy()
        crop = decode_image(shard.read("clip", f"{hand}.{frame:04d}.jpg"), where="")
        expected = stored.crop_scale[frame] * tip + stored.crop_offset_px[frame]
        assert np.abs(blob_place(crop, hand.split("_")[0]) - expected).max() < 0.8
        whole = decode_image(shard.read("clip", f"frame.{frame:04d}.jpg"), where="")
        assert whole.shape == (150, 200, 3)
        expected = (tip + 0.5) * 200 / 320 - 0.5
        assert np.abs(blob_place(whole, hand.split("_")[0]) - expected).max() < 0.8


def test_a_small_crop_keeps_the_images_own_pixels(painted_clip, make_writer):
    images, hands = painted_clip(1, focal_px=150.0)
    with make_writer() as writer:
        writer.add_clip("clip", images, hands, fps=0.0)
    shard, stored = read_hand(writer.paths[0], "clip", "right_0")
    assert stored.crop_scale[0] == 1
    left, top = (-stored.crop_offset_px[0]).astype(int)
    crop = decode_image(shard.read("clip", "right_0.0000.jpg"), where="").astype(int)
    assert crop.shape[0] >= CROP_REACH * float(stored.labels.box_side_px[0])
    image = np.zeros((1000, 1000, 3), int)
    image[300:540, 300:620] = images[0]
    part = image[300 + top : 300 + top + crop.shape[0], 300 + left : 300 + left + crop.shape[1]]
    assert np.abs(part - crop).mean() < 2  # JPEG only


def test_labels_come_back_as_they_were_written(painted_clip, make_writer):
    images, hands = painted_clip(5)
    with make_writer() as writer:
        writer.add_clip("clip", images, hands, fps=30.0, source="made up")
    shard, stored = read_hand(writer.paths[0], "clip", "left_0")
    for name in ("joints_img", "joints_cam", "box_side_px", "frame_index", "joints_visible"):
        torch.testing.assert_close(getattr(stored.labels, name), getattr(hands["left_0"], name))
    torch.testing.assert_close(stored.labels.params.global_orient, hands["left_0"].params.global_orient)
    torch.testing.assert_close(stored.labels.camera.T_world_cam, hands["left_0"].camera.T_world_cam)
    info = ClipInfo.from_json(shard.read("clip", "json"), where="here")
    assert (info.fps, info.num_frames, info.width_px, info.height_px) == (30.0, 5, 320, 240)
    assert (info.data_set, info.licence, info.source) == ("painted", "CC0-1.0", "made up")
    assert info.hands == {"right_0": 5, "left_0": 5}


def test_whole_frames_are_stored_once_and_only_where_a_hand_is(painted_clip, make_writer):
    images, hands = painted_clip(6)
    hands = {"right_0": hands["right_0"][torch.arange(2, 5)], "left_0": hands["left_0"][torch.arange(3, 5)]}
    with make_writer() as writer:
        writer.add_clip("clip", iter(images), hands, fps=30.0)
    with tarfile.open(writer.paths[0]) as tar:
        frames = [name for name in tar.getnames() if ".frame." in name]
    assert frames == ["clip.frame.0002.jpg", "clip.frame.0003.jpg", "clip.frame.0004.jpg"]


def test_webdataset_reads_our_shards(shard_dir):
    url = str(shard_dir / "clips-000000.tar")
    samples = list(webdataset.WebDataset(url, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["clip-000", "clip-001"]
    assert {"json", "right_0.npz", "left_0.npz", "frame.0000.jpg", "right_0.0000.jpg"} <= set(samples[0])


def test_equal_clips_give_equal_shards(painted_clip, make_writer, tmp_path):
    images, hands = painted_clip(2)
    written = []
    for name in ("first", "second"):
        with make_writer(folder=tmp_path / name) as writer:
            writer.add_clip("clip", images, hands, fps=30.0)
        written.append(writer.paths[0].read_bytes())
    assert written[0] == written[1]


def test_a_shard_that_was_interrupted_does_not_appear(painted_clip, make_writer, tmp_path):
    images, hands = painted_clip(2)

    def interrupted():
        with make_writer() as writer:
            writer.add_clip("clip", images, hands, fps=30.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.glob("*.tar"))


def spoiled(labels, name, value):
    if name in ("K", "T_world_cam"):
        return replace(labels, camera=replace(labels.camera, **{name: value(getattr(labels.camera, name).clone())}))
    if name in ("global_orient", "hand_pose", "betas", "transl"):
        return replace(labels, params=replace(labels.params, **{name: value(getattr(labels.params, name).clone())}))
    return replace(labels, **{name: value(getattr(labels, name).clone())})


def put(value, *place):
    def change(tensor):
        tensor[place] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("joints_cam", put(float("nan"), 1, 3), "joints_cam holds NaN or infinity in frame 1"),
        ("betas", put(float("inf"), 2), "betas holds NaN or infinity in frame 2"),
        ("K", put(0.0), "K of frame 0 is no camera"),
        ("box_side_px", put(0.0, 1), "box_side_px is below 1 px"),
        ("joints_img_weight", put(-1.0, 0, 0), "joints_img_weight is negative"),
        ("global_orient", put(0.3, 0), "global_orient is no rotation matrix"),
        ("frame_index", put(7, 2), "frame_index must grow by one"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_in_words(painted_clip, make_writer, name, change, says):
    images, hands = painted_clip(3)
    bad = {**hands, "left_0": spoiled(hands["left_0"], name, change)}
    with make_writer() as writer, pytest.raises(ValueError, match=f"clip clip, left_0: {says}"):
        writer.add_clip("clip", images, bad, fps=30.0)


def test_names_numbers_and_keys_must_fit_together(painted_clip, make_writer):
    images, hands = painted_clip(3)
    with make_writer() as writer:
        with pytest.raises(ValueError, match="no dots, slashes or blanks"):
            writer.add_clip("a.b", images, hands, fps=30.0)
        with pytest.raises(ValueError, match="a hand is named 'left_0'"):
            writer.add_clip("swapped", images, {"left_0": hands["right_0"]}, fps=30.0)
        with pytest.raises(ValueError, match="labels speak of frame 2, but 2 frames came"):
            writer.add_clip("short", images[:2], hands, fps=30.0)
        with pytest.raises(ValueError, match="no hands"):
            writer.add_clip("empty", images, {}, fps=30.0)
        with pytest.raises(ValueError, match="fps is nan"):
            writer.add_clip("timeless", images, hands, fps=float("nan"))
        writer.add_clip("clip", images, hands, fps=30.0)
        with pytest.raises(ValueError, match="written before"):
            writer.add_clip("clip", images, hands, fps=30.0)


def test_labels_of_wrong_shape_are_named_by_array(painted_clip):
    _images, hands = painted_clip(3)
    labels = hands["right_0"]
    object.__setattr__(labels, "joints_img", labels.joints_img[:, :20])
    with pytest.raises(ValueError, match=r"here: joints_img has the shape \(3, 20, 2\); expected \(3, 21, 2\)"):
        check_labels(labels, where="here")


def test_checking_sound_shards_counts_them_and_finds_no_fault(shard_dir, capsys):
    main(["check", str(shard_dir / "*.tar")])
    told = capsys.readouterr().out
    assert "6 clips, 204 hand-frames (6 left, 6 right)" in told
    assert "no faults" in told


def test_checking_names_the_first_fault_by_shard_and_key(own_shards, capsys):
    path = own_shards / "clips-000001.tar"
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    members = [
        (name, data[:100] if name == "clip-002.left_0.0005.jpg" else data)
        for name, data in members
        if name != "clip-003.right_0.npz"
    ]
    write_tar(path, members)
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(own_shards / "*.tar")])
    assert stopped.value.code == 1
    told = capsys.readouterr().out
    assert "2 faults" in told
    assert "clips-000001.tar: clip-003.right_0.npz is missing" in told
    report = check_shards([str(path)])
    assert any("clip-002.left_0.0005.jpg: not a readable picture" in fault for fault in report.faults)


def test_a_left_hand_stored_as_a_right_one_is_found_by_its_projection(painted_clip, tmp_path):
    images, hands = painted_clip(2)
    wrong = replace(hands["left_0"], joints_cam=hands["left_0"].joints_cam * torch.tensor([-1.0, 1, 1]))
    writer = SampleWriter(tmp_path, prefix="clips", data_set="painted", licence="CC0-1.0", hand_model="openhand")
    with writer:
        writer.add_clip("clip", images, {"left_0": wrong}, fps=30.0)
    report = check_shards([str(writer.paths[0])])
    assert "px apart" in report.faults[0]
    assert "clip.left_0" in report.faults[0]


def test_a_contact_sheet_shows_every_cell(shard_dir):
    sheet = contact_sheet(str(shard_dir / "clips-000000.tar"), num_cells=4)
    cells = sheet.reshape(2, sheet.shape[0] // 2, 2, sheet.shape[1] // 2, 3)
    assert (cells.max(axis=(1, 3, 4)) > 200).all()
