"""Reading shards: right hands out of both hands, HaMeR's tars, remote shards, and damage named by shard and key."""

import io
import pickle
import tarfile

import cv2
import numpy as np
import pytest
import torch

from haptic.data.hamer_tars import HamerSet
from haptic.data.readers import ClipSet, load_mocap
from haptic.data.samples import write_tar
from haptic.data.shards import DamagedSampleError, ShardStore, expand_shards, shard_name
from haptic.geometry.cameras import project
from haptic.geometry.rotations import rotation_from_aa
from haptic.hand.mirror import mirror_rotation

TIP = 8


def open_clips(where, **store):
    return ClipSet("painted", str(where), store=ShardStore(**store))


def members_of(path):
    with tarfile.open(path) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]


def tracks_of(one, side):
    return [track for track in range(len(one.num_frames)) if one.key(track)[1].startswith(side)]


@pytest.mark.parametrize("side", ["right", "left"])
def test_every_hand_is_read_as_a_right_hand_where_its_pixels_are(shard_dir, blob_place, side):
    one = open_clips(shard_dir / "*.tar")
    for number in tracks_of(one, side)[:3]:
        track = one.open(number)
        assert track.was_right == (side == "right")
        assert bool(track.labels.is_right)
        window = track.window([0, 5, 11])
        torch.testing.assert_close(
            project(window.labels.joints_cam, window.labels.camera.K), window.labels.joints_img, atol=1e-3, rtol=0
        )
        for place in range(3):
            tip = window.labels.joints_img[place, TIP].numpy()
            for picture in (window.crops[place], window.frames[place]):
                expected = picture.scale * tip + picture.offset_px
                assert np.abs(blob_place(picture.pixels, side) - expected).max() < 1.0


def test_a_left_hand_is_curled_as_a_right_hand_curls(shard_dir, open_hand):
    one = open_clips(shard_dir / "*.tar")
    labels = one.open(tracks_of(one, "left")[0]).labels
    torch.testing.assert_close(open_hand.joints(labels.params), labels.joints_cam, atol=1e-5, rtol=0)


def test_a_window_has_the_times_of_its_frames(shard_dir):
    window = open_clips(shard_dir / "*.tar").open(0).window([3, 5, 7])
    np.testing.assert_allclose(window.frame_time_s, np.array([3, 5, 7]) / 30)
    assert window.labels.frame_index.tolist() == [3, 5, 7]
    assert window.key.startswith("painted/clips-000000.tar/clip-000/")


def test_the_list_of_a_shard_is_kept_and_made_anew_when_the_shard_changes(own_shards):
    open_clips(own_shards / "*.tar")
    assert len(list(own_shards.glob("*.npz"))) == 6
    path = own_shards / "clips-000000.tar"
    write_tar(path, [(name, data) for name, data in members_of(path) if name.startswith("clip-001")])
    assert len(open_clips(own_shards / "*.tar").num_frames) == 10


def test_a_shard_changed_behind_its_list_is_found_out(own_shards):
    one = open_clips(own_shards / "*.tar")
    path = own_shards / "clips-000000.tar"
    data = bytearray(path.read_bytes())
    data[:] = data[512:] + data[:512]  # of the same size, and everything elsewhere
    path.write_bytes(bytes(data))
    with pytest.raises(DamagedSampleError, match=r"set painted, clips-000000.tar: clip-000.json is not where"):
        open_clips(own_shards / "*.tar").open(0)
    assert len(one.num_frames) == 12


def test_a_truncated_shard_gives_what_came_before_and_is_named(own_shards):
    path = own_shards / "clips-000001.tar"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    one = open_clips(own_shards / "*.tar")
    assert len(one.num_frames) == 10
    assert any("clips-000001.tar: truncated in clip-003." in fault for fault in one.faults)
    assert any("clip-003.right_0: " in fault or "clip-003.left_0: " in fault for fault in one.faults)


def test_empty_and_foreign_shards_are_named(own_shards):
    (own_shards / "clips-000001.tar").write_bytes(b"")
    (own_shards / "clips-000002.tar").write_bytes(b"no tar" * 1000)
    one = open_clips(own_shards / "*.tar")
    assert len(one.num_frames) == 4
    assert [fault.split(":")[0] for fault in one.faults] == [
        "set painted, clips-000001.tar",
        "set painted, clips-000002.tar",
    ]
    with pytest.raises(ValueError, match=r"set painted: its 1 shards hold no usable hand; the first fault: .*000001"):
        open_clips(own_shards / "clips-000001.tar")


def test_missing_members_and_damaged_pictures_are_named_by_set_shard_and_key(own_shards):
    path = own_shards / "clips-000000.tar"
    members = dict(members_of(path))
    members["clip-000.frame.0003.jpg"] = b"\xff\xd8" + bytes(50)
    del members["clip-001.right_0.0002.jpg"]
    write_tar(path, list(members.items()))
    one = open_clips(own_shards / "*.tar")
    assert len(one.num_frames) == 10  # without clip-001
    assert "clips-000000.tar: clip-001.right_0: 13 crops" in one.faults[0]
    with pytest.raises(DamagedSampleError, match=r"set painted, clips-000000.tar: clip-000.frame.0003.jpg: not a read"):
        one.open(0).window([2, 3])
    one.open(0).window([1, 2])


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("joints_cam", lambda a: np.where(np.arange(21)[:, None] == 3, np.nan, a), "joints_cam holds NaN"),
        ("K", lambda a: 0 * a, "K of frame 0 is no camera"),
        ("betas", lambda a: a[:, :9], r"betas has the shape \(12, 9\)"),
        ("transl", None, "the array transl is missing"),
        ("frame_index", lambda a: a.astype(np.float32), "frame_index is of type float32"),
        ("crop_scale", lambda a: 0 * a, "crop_scale must be above zero"),
    ],
)
def test_spoiled_labels_are_named_by_set_shard_key_and_array(own_shards, name, change, says):
    path = own_shards / "clips-000000.tar"
    members = dict(members_of(path))
    arrays = dict(np.load(io.BytesIO(members["clip-000.right_0.npz"])))
    if change is None:
        del arrays[name]
    else:
        arrays[name] = change(arrays[name])
    file = io.BytesIO()
    np.savez(file, **arrays)
    members["clip-000.right_0.npz"] = file.getvalue()
    write_tar(path, list(members.items()))
    one = open_clips(own_shards / "*.tar")
    with pytest.raises(DamagedSampleError, match=rf"set painted, clips-000000.tar: clip-000.right_0.npz: {says}"):
        one.open(0)


def test_a_piped_shard_reads_like_the_file(shard_dir, tmp_path):
    path = shard_dir / "clips-000000.tar"
    store = ShardStore(cache_dir=tmp_path / "cache")
    piped = ClipSet("piped", f"pipe:cat {path}", store=store)
    plain = open_clips(path)
    assert piped.num_frames.tolist() == plain.num_frames.tolist()
    one, other = piped.open(1).window([4]), plain.open(1).window([4])
    np.testing.assert_array_equal(one.crops[0].pixels, other.crops[0].pixels)
    assert one.key == "piped/clips-000000.tar/clip-000/left_0"
    assert len(list((tmp_path / "cache").glob("*.tar"))) == 1


def test_the_cache_drops_the_shards_that_were_not_asked_for_the_longest(shard_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("haptic.data.shards.KEPT_SHARDS", 1)
    urls = tuple(f"pipe:cat {path}" for path in sorted(shard_dir.glob("*.tar")))
    size_gb = max(path.stat().st_size for path in shard_dir.glob("*.tar")) / 1e9
    store = ShardStore(cache_dir=tmp_path, cache_gb=1.5 * size_gb)
    one = ClipSet("piped", urls, store=store)
    assert len(one.num_frames) == 12
    assert 1 <= len(list(tmp_path.glob("*.tar"))) <= 2
    again = ClipSet("piped", urls, store=ShardStore(cache_dir=tmp_path, cache_gb=1.5 * size_gb))
    for track in range(12):
        again.open(track).window([0])  # fetched once more, where it was dropped


def test_a_shard_that_will_be_needed_is_fetched_meanwhile(shard_dir, tmp_path):
    path = shard_dir / "clips-000000.tar"
    store = ShardStore(cache_dir=tmp_path)
    one = ClipSet("piped", f"pipe:cat {path}", store=store)
    (fetched,) = tmp_path.glob("*.tar")
    fetched.unlink()
    one.prepare(0)
    store._fetcher.shutdown(wait=True)
    assert fetched.stat().st_size == path.stat().st_size


def test_a_pipe_that_fails_is_named(tmp_path):
    store = ShardStore(cache_dir=tmp_path)
    with pytest.raises(ValueError, match=r"absent-7.tar: the shard cannot be fetched by 'pipe:cat /nowhere"):
        ClipSet("piped", "pipe:cat /nowhere/absent-7.tar", store=store)
    assert not list(tmp_path.glob("*.tar"))


def test_shards_are_named_by_braces_wildcards_and_lists(shard_dir):
    braces = expand_shards(f"{shard_dir}/clips-{{000000..000002}}.tar")
    assert [shard_name(url) for url in braces] == [f"clips-00000{number}.tar" for number in range(3)]
    assert expand_shards(str(shard_dir / "*.tar")) == braces
    assert expand_shards((braces[1], braces[0], braces[1])) == (braces[1], braces[0])
    with pytest.raises(ValueError, match="no shards match"):
        expand_shards(str(shard_dir / "nothing-*.tar"))
    with pytest.raises(ValueError, match="there is no shard"):
        expand_shards(f"{shard_dir}/clips-{{000000..000009}}.tar")
    with pytest.raises(ValueError, match="set absent: there is no shard"):
        ClipSet("absent", str(shard_dir / "absent.tar"), store=ShardStore())


def hamer_hand(*, right=1, tip=(60.0, 40.0), **changed):
    rng = np.random.default_rng(right)
    joints = np.concatenate([rng.uniform(20, 80, (21, 2)), np.ones((21, 1))], axis=1)
    joints[TIP, :2] = tip
    record = {
        "keypoints_2d": joints, "keypoints_3d": np.concatenate([rng.normal(0, 0.05, (21, 3)), np.ones((21, 1))], 1),
        "center": np.array([50.0, 50.0]), "scale": np.array([0.3, 0.4]),
        "hand_pose": rng.normal(0, 0.4, 48).astype(np.float32), "betas": rng.normal(0, 0.5, 10).astype(np.float32),
        "right": np.float32(right), "has_hand_pose": np.float32(1), "has_betas": np.float32(1), "extra_info": {},
    }  # fmt: skip
    return {**record, **changed}


def hamer_tar(path, pictures):
    """Write a tar as HaMeR's are: a picture and a pickled list of hands for each key."""
    members = []
    for key, (extension, hands) in pictures.items():
        image = np.zeros((90, 120, 3), np.uint8)
        for hand in hands if isinstance(hands, list) else []:
            x, y = hand["keypoints_2d"][TIP, :2]
            cv2.circle(image, (int(x), int(y)), 3, (0, 255, 0), -1)
        members.append((f"{key}.{extension}", cv2.imencode(f".{extension}", image)[1].tobytes()))
        members.append((f"{key}.data.pyd", pickle.dumps(hands)))
    write_tar(path, members)
    return path


def open_hamer(path):
    return HamerSet("hamer", str(path), store=ShardStore())


def test_hamers_tars_give_every_hand_of_a_picture_as_a_right_hand(tmp_path):
    right, left = hamer_hand(right=1, tip=(70.0, 30.0)), hamer_hand(right=0, tip=(25.0, 60.0))
    one = open_hamer(hamer_tar(tmp_path / "000000.tar", {"a": ("jpg", [right, left]), "b": ("png", [right])}))
    assert one.num_frames.tolist() == [1, 1, 1]
    windows = [one.open(track).window([0]) for track in range(3)]
    assert [window.was_right for window in windows] == [True, False, True]
    torch.testing.assert_close(windows[0].labels.joints_img[0, TIP], torch.tensor([70.0, 30.0]))
    torch.testing.assert_close(windows[1].labels.joints_img[0, TIP], torch.tensor([119.0 - 25, 60]))
    assert windows[1].crops[0].pixels[60, 94, 1] > 200
    torch.testing.assert_close(windows[1].labels.box_center_img[0], torch.tensor([69.0, 50]))
    assert windows[0].labels.box_side_px.tolist() == pytest.approx([80.0])
    root = rotation_from_aa(torch.from_numpy(left["hand_pose"][:3]))
    torch.testing.assert_close(windows[1].labels.params.global_orient[0], mirror_rotation(root))
    labels = windows[0].labels
    assert (labels.place_weight, labels.camera_weight) == (0, 0)
    assert (labels.params_weight, labels.betas_weight) == (1, 1)


def test_the_low1_filter_does_its_steps(tmp_path):
    few = hamer_hand()
    few["keypoints_2d"][5:, 2] = 0.2  # five joints are left
    too_few = hamer_hand()
    too_few["keypoints_2d"][4:, 2] = 0.29
    hands = {
        "few": few,
        "too_few": too_few,
        "large_beta": hamer_hand(betas=np.full(10, 3.5, np.float32)),
        "no_pose": hamer_hand(has_hand_pose=np.float32(0)),
        "bad_fit": hamer_hand(
            extra_info={"fitting_loss": np.array({"reprojection_loss": np.float32(31000)}, dtype=object)}
        ),
        "good_fit": hamer_hand(
            extra_info={"fitting_loss": np.array({"reprojection_loss": np.float32(30999)}, dtype=object)}
        ),
    }
    one = open_hamer(hamer_tar(tmp_path / "0.tar", {name: ("jpg", [hand]) for name, hand in hands.items()}))
    labels = {one.key(track)[0]: one.open(track).labels for track in range(len(one.num_frames))}
    assert set(labels) == {"few", "large_beta", "no_pose", "good_fit"}
    assert (labels["few"].joints_img_weight > 0).sum() == 5
    assert not labels["few"].joints_img[0, 5:].any()
    for name in ("large_beta", "no_pose"):
        assert (labels[name].params_weight, labels[name].betas_weight) == (0, 1)
        assert not labels[name].params.betas.any()
    assert labels["good_fit"].params_weight == 1


class Trap:
    """A pickle of it would print."""

    def __reduce__(self):
        return print, ("the trap was sprung",)


def test_a_pickle_that_wants_to_run_code_is_left_out_and_named(tmp_path, capsys):
    pictures = {"good": ("jpg", [hamer_hand()]), "trap": ("jpg", [Trap()]), "odd": ("jpg", {"no": "list"})}
    path = tmp_path / "000000.tar"
    members = []
    for key, (extension, hands) in pictures.items():
        picture = cv2.imencode(f".{extension}", np.zeros((9, 12, 3), np.uint8))[1].tobytes()
        members += [(f"{key}.{extension}", picture), (f"{key}.data.pyd", pickle.dumps(hands))]
    del members[2]  # and one without its picture
    members.append(("late.data.pyd", pickle.dumps([hamer_hand(center=np.zeros(3))])))
    write_tar(path, members)
    one = open_hamer(path)
    assert [one.key(track)[0] for track in range(len(one.num_frames))] == ["good"]
    assert "000000.tar: trap.data.pyd: the pickle names builtins.print" in " ".join(one.faults)
    assert "000000.tar: odd.data.pyd: expected a list of one dict per hand" in " ".join(one.faults)
    assert "late.jpg is missing" in " ".join(one.faults)
    assert "sprung" not in capsys.readouterr().out


def test_motion_capture_gives_fingers_and_shapes_without_the_root(tmp_path):
    path = tmp_path / "freihand_mocap.npz"
    pose_aa = np.random.default_rng(0).normal(0, 0.3, (7, 48))
    np.savez(path, hand_pose=pose_aa, betas=np.ones((7, 10)))
    hands = load_mocap(path)
    torch.testing.assert_close(hands.hand_pose[2, 0], rotation_from_aa(torch.from_numpy(pose_aa[2, 3:6])).float())
    assert hands.betas.shape == (7, 10)
    np.savez(path, hand_pose=pose_aa[:, 3:], betas=np.ones((7, 10)))
    with pytest.raises(ValueError, match=r"hand_pose \(7, 45\)"):
        load_mocap(path)
    with pytest.raises(ValueError, match="not a readable motion capture file"):
        load_mocap(tmp_path / "absent.npz")
