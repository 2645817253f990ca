"""The converter: wrong folders, half downloads, damage, full disks, interruptions, resuming, several processes."""

import errno
import resource
import shutil

import numpy as np
import pytest

import data_prep.convert
from data_prep.__main__ import main
from data_prep.convert import ConvertConfig, Interrupted, convert, plan_shards
from data_prep.dataset import HandTruth, Request, SourceClip, Unit
from data_prep.labels import clip_hands
from data_prep.registry import all_data_sets, check_root, find_data_set
from haptic.data.shard_tools import check_shards
from haptic.data.shards import scan_shard
from haptic.files import find_asset


@pytest.fixture
def h2o(tmp_path, motion, smplx_joints, picture, save_picture):
    """Four short takes of H2O, the simplest of the layouts."""
    root = tmp_path / "h2o"
    listed = []
    for take in range(4):
        folder = root / f"subject1/h1/{take}/cam4"
        hand = motion(3, seed=take, place=(0, 0, 0.5))
        joints = smplx_joints(True, hand.global_aa, hand.finger, hand.betas, hand.transl, flat_mean=True)
        for frame in range(3):
            pixels = joints[frame] / joints[frame][:, 2:] * [600, 600, 1] + [320, 240, 0]
            save_picture(folder / "rgb" / f"{frame:06d}.png", picture(640, 480, pixels[:, :2]))
            both = [np.zeros(64), np.concatenate([[1.0], joints[frame].ravel()])]
            for name, values in (("cam_pose", np.eye(4)), ("hand_pose", np.concatenate(both))):
                (folder / name).mkdir(exist_ok=True)
                (folder / name / f"{frame:06d}.txt").write_text(" ".join(str(value) for value in np.ravel(values)))
            listed.append(f"subject1/h1/{take}/cam4/rgb/{frame:06d}.png")
        (folder / "cam_intrinsics.txt").write_text("600 600 320 240 640 480")
    (root / "pose_train.txt").write_text("\n".join(listed))
    return root


def arguments(root, out, *more):
    return ["h2o", "--root", str(root), "--out", str(out), "--split", "train", "--hands-per-shard", "8", *more]


def test_a_second_run_makes_only_the_shards_that_are_missing(h2o, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(arguments(h2o, out)) == 0
    shards = sorted(out.glob("*.tar"))
    assert [path.name for path in shards] == [f"train-{number:06d}.tar" for number in range(4)]
    before = {path: path.read_bytes() for path in shards}
    shards[2].unlink()
    (out / ".writing-train-000002").mkdir()  # what a killed process leaves
    capsys.readouterr()
    assert main(arguments(h2o, out)) == 0
    assert "4 units in 4 shards, of which 3 are there" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in shards} == before
    assert not list(out.glob(".*"))


def test_several_processes_write_the_same_shards_as_one(h2o, tmp_path):
    assert main(arguments(h2o, tmp_path / "one")) == 0
    assert main(arguments(h2o, tmp_path / "two", "--workers", "2")) == 0
    for path in sorted((tmp_path / "one").glob("*.tar")):
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()


def test_another_recipe_into_the_same_folder_is_refused(h2o, tmp_path, capsys):
    assert main(arguments(h2o, tmp_path / "out", "--limit", "1")) == 0
    assert main(arguments(h2o, tmp_path / "out", "--limit", "1", "--crop-px", "256")) == 1
    assert "were made with another max_crop_px" in capsys.readouterr().err


def test_a_wrong_root_is_recognised(h2o, tmp_path, capsys):
    assert main(["dexycb", "--root", str(h2o), "--out", str(tmp_path), "--split", "s0_train"]) == 1
    message = capsys.readouterr().err
    assert "no calibration/intrinsics/*_640x480.yml here" in message
    assert "this folder rather looks like H2O (h2o)" in message
    with pytest.raises(ValueError, match=r"it lies in .*h2o: give that as --root"):
        check_root(find_data_set("h2o"), h2o.parent)
    with pytest.raises(ValueError, match="there is no such folder"):
        check_root(find_data_set("h2o"), h2o / "nowhere")


def test_a_half_download_is_listed_and_converted_if_asked_for(h2o, tmp_path, capsys):
    shutil.rmtree(h2o / "subject1/h1/2")
    assert main(arguments(h2o, tmp_path / "out")) == 1
    message = capsys.readouterr().err
    assert "lacks 1 parts" in message
    assert "subject1/h1/2/cam4" in message
    assert main(arguments(h2o, tmp_path / "out", "--partial")) == 0
    assert check_shards([str(tmp_path / "out" / "*.tar")]).num_clips == 3


def test_too_much_damage_stops_the_run_and_a_little_does_not(h2o, tmp_path, capsys):
    for frame in range(2):
        (h2o / f"subject1/h1/1/cam4/rgb/{frame:06d}.png").write_bytes(b"\x89PNG broken")
    assert main(arguments(h2o, tmp_path / "out", "--max-damaged", "1")) == 1
    assert "more than the 1 of --max-damaged" in capsys.readouterr().err
    assert main(arguments(h2o, tmp_path / "out", "--max-damaged", "2")) == 0
    said = capsys.readouterr().out
    assert "h1/1/cam4/rgb/000000.png: not a readable picture" in said
    assert "2 damaged" in said
    assert check_shards([str(tmp_path / "out" / "*.tar")]).num_frames == 10


def test_a_full_disk_leaves_only_whole_shards(h2o, tmp_path, monkeypatch, capsys):
    real, calls = data_prep.convert.SampleWriter.close, []

    def full(self):
        calls.append(self)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self)

    monkeypatch.setattr(data_prep.convert.SampleWriter, "close", full)
    assert main(arguments(h2o, tmp_path / "out")) == 1
    assert "no space is left (No space left on device); the shards that are there" in capsys.readouterr().err
    shards = sorted((tmp_path / "out").glob("*.tar"))
    assert len(shards) == 2
    assert not any(scan_shard(path).fault for path in shards)
    assert not list((tmp_path / "out").glob(".writing*"))


def test_a_file_that_may_not_grow_further_is_told_as_no_space(h2o, tmp_path, capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # a shard of this download has some 60 kB
    try:
        assert main(arguments(h2o, tmp_path / "out")) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "no space is left (File too large)" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["train.json"]
    assert main(arguments(h2o, tmp_path / "out")) == 0  # the same command goes on
    assert len(list((tmp_path / "out").glob("*.tar"))) == 4


def test_an_interruption_says_what_is_there(h2o, tmp_path, monkeypatch):
    real, calls = data_prep.convert.write_clip, []

    def stop(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*given)

    monkeypatch.setattr(data_prep.convert, "write_clip", stop)
    config = ConvertConfig(hands_per_shard=8)
    with pytest.raises(Interrupted, match=r"1 new shards in .* are complete"):
        convert(find_data_set("h2o"), Request(h2o, "train"), tmp_path / "out", config, say=lambda _text: None)
    assert [path.name for path in (tmp_path / "out").glob("*.tar")] == ["train-000000.tar"]


def test_check_tells_counts_and_finds_another_unit(h2o, capsys):
    assert main(["h2o", "--root", str(h2o), "--split", "train", "--check"]) == 0
    said = capsys.readouterr().out
    assert "12 frames, published are 55742" in said
    assert "12 right and 0 left hands" in said
    for path in h2o.glob("subject1/h1/*/cam4/hand_pose/*.txt"):  # millimetres by mistake
        numbers = np.array(path.read_text().split(), float)
        numbers[65:] *= 1000
        path.write_text(" ".join(map(str, numbers)))
    assert main(["h2o", "--root", str(h2o), "--split", "train", "--check"]) == 1
    assert "another unit?" in capsys.readouterr().out


def test_check_finds_bones_that_grow_within_a_clip(h2o, capsys):
    for path in sorted(h2o.glob("subject1/h1/*/cam4/hand_pose/*.txt")):
        numbers = np.array(path.read_text().split(), float)
        hand = numbers[65:].reshape(21, 3)
        # Frames 0, 1, 2: 1, 1.3 and 1.6 times as large about the wrist. Their spread is 0.245 / 1.3 = 19 %.
        hand[:] = hand[0] + (hand - hand[0]) * (1 + 0.3 * int(path.stem))
        path.write_text(" ".join(map(str, numbers)))
    assert main(["h2o", "--root", str(h2o), "--split", "train", "--check"]) == 1
    assert "bones change their length by 19% within a clip" in capsys.readouterr().out


def test_preview_writes_a_sheet(h2o, tmp_path):
    sheet = tmp_path / "sheet.png"
    assert main(["h2o", "--root", str(h2o), "--split", "train", "--preview", str(sheet)]) == 0
    assert sheet.stat().st_size > 5000


def test_every_split_keeps_its_sheet(h2o, tmp_path):
    for split in ("val", "test"):
        (h2o / f"pose_{split}.txt").write_text((h2o / "pose_train.txt").read_text())
    assert main(["h2o", "--root", str(h2o), "--preview", str(tmp_path / "all.png")]) == 0
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        "all-test.png", "all-train.png", "all-val.png"
    ]  # fmt: skip
    assert main(["h2o", "--root", str(h2o), "--split", "val", "--preview", str(tmp_path / "one.png")]) == 0
    assert (tmp_path / "one.png").is_file()


def test_a_run_that_came_to_nothing_does_not_bind_the_next(h2o, tmp_path, capsys):
    out = tmp_path / "out"
    for path in h2o.glob("subject1/h1/*/cam4/rgb/*.png"):
        path.write_bytes(b"")
    assert main(arguments(h2o, out)) == 1
    err = capsys.readouterr().err
    assert "no usable hand in H2O, train; the first of 12 damaged: " in err
    assert "000000.png: not a readable picture (0 bytes)" in err
    assert main(arguments(h2o, out, "--crop-px", "256")) == 1
    assert "another max_crop_px" not in capsys.readouterr().err


def test_shards_hold_whole_units_in_order(tmp_path):
    units = [Unit(str(number), size) for number, size in enumerate((3, 3, 3, 20, 1))]
    jobs = plan_shards(units, tmp_path, "train", 7)
    assert [[unit.name for unit in job.units] for job in jobs] == [["0", "1"], ["2"], ["3"], ["4"]]


def test_options_are_checked(h2o, tmp_path, capsys):
    for more, message in (
        (("--option", "colour=red"), "H2O has no options"),
        (("--split", "tset"), "it has train, val, test"),
        (("--workers", "0"), "workers is 0"),
        (("--mano", str(tmp_path / "none.pkl")), "no such file"),
        (("--mano", str(find_asset("openhand/OPENHAND_RIGHT.npz"))), "this is the openhand"),
    ):
        assert main(arguments(h2o, tmp_path / "out", *more)) == 1
        assert message in capsys.readouterr().err
    assert main(["nothing", "--root", str(h2o)]) == 1
    assert "there is no data set 'nothing'" in capsys.readouterr().err


def test_every_set_names_its_licence_and_its_files():
    for one in all_data_sets().values():
        assert one.licence
        assert one.link.startswith("http") or one.link == ""
        assert one.splits


def test_a_hand_needs_three_joints_in_the_picture():
    K = np.tile(np.array([[100.0, 0, 50], [0, 100, 50], [0, 0, 1]]), (2, 1, 1))
    joints = np.tile(np.linspace(-0.2, 0.2, 21)[None, :, None] * [1, 0.2, 0] + [0.5, 0, 0.5], (2, 1, 1))
    joints[1, :, 0] -= 0.45  # now at the picture's right edge and within
    truth = HandTruth(is_right=True, K=K, joints_cam=joints)
    clip = SourceClip("a", range(2), [truth], 100, 100, 30.0, "here")
    assert clip_hands(clip)["right_0"].frame_index.tolist() == [1]
    assert clip_hands(clip, lost=frozenset({1})) == {}
