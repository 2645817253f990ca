"""HOT3D's full recordings: cameras that are not in step, masks, hands by number, visibility, VRS files."""

import csv
import json
import shutil
import sys

import cv2
import numpy as np
import pytest

from data_prep.dataset import DamagedError, Request
from data_prep.datasets import hot3d_full
from data_prep.fisheye import Fisheye624
from data_prep.registry import find_data_set
from data_prep.vrs import AriaRecording, QuestRecording

FRAMES, STEP_NS, START_NS = 5, 33_333_333, 43_124_400_000_000
LATER_NS = 90_000  # the second camera's pictures are 0.09 ms later
STREAMS = {"aria": ("214-1", "1201-1"), "quest3": ("1201-1", "1201-2")}
# f, cx, cy and twelve numbers; Quest 3 lists f twice.
ARIA = [310.0, 322.0, 240.5, 0.4, -0.43, 0.25, 0.05, -0.1, 0.03, -0.0003, 0.0002, 0.0009, -0.0001, 0.0003, -0.00005]
QUEST = [204.5, 204.5, 318.4, 255.4, 0.044, -0.045, 0.016, -0.011, 0.0035, -0.0005, 0.0005, -0.00005, 0.001, 0, -0.002,
         0]  # fmt: skip
SIZE = {"aria": (640, 480), "quest3": (640, 512)}
T_DEVICE_CAM = {"214-1": ([0.02, -0.1, 0.3], [0.01, 0.02, 0.03]), "1201-1": ([0.05, 0.08, -0.1], [0.03, -0.05, -0.03]),
                "1201-2": ([0.05, -0.08, 0.1], [-0.04, -0.05, 0.0])}  # fmt: skip
MASKED, NO_LEFT, HIDDEN_RIGHT = 0, 1, 3


def turn(aa):
    return cv2.Rodrigues(np.asarray(aa, np.float64))[0]


def quaternion(aa):
    angle = np.linalg.norm(aa)
    return [float(np.cos(angle / 2)), *(float(x) for x in np.sin(angle / 2) * np.asarray(aa) / angle)]


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def pose_row(time, aa, place):
    places = {f"t_wo_{axis}[m]": value for axis, value in zip("xyz", place, strict=True)}
    turns = {f"q_wo_{axis}": value for axis, value in zip("wxyz", quaternion(aa), strict=True)}
    return {"object_uid": 1, "timestamp[ns]": time, **places, **turns}


def posed_hands(motion, smplx_joints, mano_arrays):
    """Ten records: the hand moves on between the first camera's time and the second's."""
    hands, joints = {}, {}
    for side in ("right", "left"):
        hand = motion(2 * FRAMES, seed=len(side), place=(0.3, 1.1, 0.45), pca=15, is_right=side == "right")
        hand.transl += [0.1 if side == "right" else -0.1, 0, 0]
        hand.betas[:] = motion(1, seed=77).betas
        # Independent: the first 15 rows of the side's own basis, the mean by smplx's layer, mended left shapes.
        joints[side] = smplx_joints(
            side == "right", hand.global_aa, hand.finger @ mano_arrays[side]["hands_components"][:15], hand.betas,
            hand.transl, flat_mean=False, published_left=False,
        )  # fmt: skip
        hands[side] = hand
    return hands, joints


class FakeRecording:
    """Pictures by stream and exact time, and the lenses."""

    def __init__(self, pictures, lenses):
        self._pictures, self._lenses = pictures, lenses

    def read(self, stream, time_ns):
        return self._pictures[stream, time_ns]

    def lens(self, stream):
        return self._lenses[stream]


@pytest.fixture(params=["aria", "quest3"])
def sequence(request, tmp_path, motion, smplx_joints, mano_arrays, picture, through_lens):
    return make_sequence(request.param, tmp_path / "hot3d", motion, smplx_joints, mano_arrays, picture, through_lens)


def make_sequence(device, root, motion, smplx_joints, mano_arrays, picture, through_lens):
    """A recording of five frames: masked in the first, without the left hand in the second, the right one hidden."""
    params, size = (ARIA, SIZE[device]) if device == "aria" else (QUEST, SIZE[device])
    folder = root / "P0001_0badcafe"
    folder.mkdir(parents=True)
    hands, joints = posed_hands(motion, smplx_joints, mano_arrays)
    times = {
        stream: [START_NS + frame * STEP_NS + number * LATER_NS for frame in range(FRAMES)]
        for number, stream in enumerate(STREAMS[device])
    }
    records, trajectory, boxes, pictures = [], [], [], {}
    masks = {name: [] for name in ("qa_pass", "hand_pose_available", "headset_pose_available", "hand_visible")}
    truth = {}
    for frame in range(FRAMES):
        for number, stream in enumerate(STREAMS[device]):
            row, time = 2 * frame + number, times[stream][frame]
            poses = {}
            for side, name in (("left", "0"), ("right", "1")):
                if (side, frame) == ("left", NO_LEFT):
                    continue
                hand = hands[side]
                poses[name] = {
                    "pose": hand.finger[row].tolist(),
                    "wrist_xform": {"t_xyz": hand.transl[row].tolist(), "q_wxyz": quaternion(hand.global_aa[row])},
                    "betas": hand.betas[row].tolist(),
                }
                visible = 0.05 if (side, frame) == ("right", HIDDEN_RIGHT) else 0.8
                boxes.append({
                    "stream_id": stream, "hand_index": name, "timestamp[ns]": time, "x_min[pixel]": 1,
                    "x_max[pixel]": 2, "y_min[pixel]": 3, "y_max[pixel]": 4, "visibility_ratio[%]": visible,
                })  # fmt: skip
            records.append({"timestamp_ns": time, "hand_poses": poses})
            aa, place = np.array([0.1, 0.05 * frame - 0.1, 0.3]), np.array([0.3 + 0.01 * frame, 1.1, -0.1])
            trajectory.append(pose_row(time, aa, place))
            for name, rows in masks.items():
                is_good = not (name == "qa_pass" and frame == MASKED)
                rows.append({"timestamp[ns]": time, "stream_id": stream, "mask": str(is_good)})
            seen = []
            for side in joints:
                in_device = (joints[side][row] - place) @ turn(aa)
                in_camera = (in_device - T_DEVICE_CAM[stream][1]) @ turn(T_DEVICE_CAM[stream][0])
                truth[stream, side, frame] = in_camera
                seen.append(through_lens(in_camera, params))
            pictures[stream, time] = picture(*size, *seen)
    (folder / "mano_hand_pose_trajectory.jsonl").write_text("\n".join(json.dumps(one) for one in records))
    write_csv(folder / "headset_trajectory.csv", trajectory)
    write_csv(folder / "box2d_hands.csv", boxes)
    for name, rows in masks.items():
        write_csv(folder / "masks" / f"mask_{name}.csv", rows)
    headset = {"aria": "Aria", "quest3": "Quest3"}[device]
    facts = {"gt_available_status": {"mano_hand_pose_gt": True}, "headset": headset, "participant_id": "P0001"}
    (folder / "metadata.json").write_text(json.dumps(facts))
    models = [
        {
            "stream_id": stream, "imageWidth": size[0], "imageHeight": size[1], "projectionParams": params,
            "T_Device_Camera": {"quaternion_wxyz": quaternion(aa), "translation_xyz": place},
        }
        for stream, (aa, place) in T_DEVICE_CAM.items() if stream in STREAMS[device]
    ]  # fmt: skip
    (folder / "camera_models.json").write_text(json.dumps(models))
    (folder / "recording.vrs").write_bytes(b"")
    return root, device, truth, pictures, times


@pytest.fixture
def read_by_stand_in(sequence, monkeypatch):
    _root, device, _truth, pictures, _times = sequence
    monkeypatch.setattr(hot3d_full, "open_recording", stand_in(device, pictures))


def stand_in(device, pictures):
    """Return what opens a made-up recording."""
    params = ARIA if device == "aria" else QUEST
    lenses = {}
    for stream in STREAMS[device]:
        place = np.eye(4)
        place[:3, :3], place[:3, 3] = turn(T_DEVICE_CAM[stream][0]), T_DEVICE_CAM[stream][1]
        lenses[stream] = (Fisheye624(np.array(params), *SIZE[device]), place)
    return lambda _folder, is_aria: FakeRecording(pictures, lenses)


def upright(points, stream):
    """Aria's colour sensor lies sideways: what was down the sensor is left in the upright picture."""
    if stream != "214-1":
        return points
    return np.stack([-points[..., 1], points[..., 0], points[..., 2]], axis=-1)


def test_hands_of_every_camera_are_those_of_its_own_time(
    sequence, read_by_stand_in, to_shards, read_hands, mano, posed_joints, assert_labels_hit_the_blobs
):
    root, device, truth, _pictures, _times = sequence
    streams = STREAMS[device][:1] if device == "aria" else STREAMS[device]
    shards, tally = to_shards("hot3d", root, f"train_{device}", mano=mano)
    hands = read_hands(shards)
    assert tally.damaged == []
    for stream in streams:
        key = f"P0001_0badcafe_{stream}"
        # Masked: 0. The left hand is missing in 1, the right one hardly seen in 3.
        frames = {"right_0": [1, 2], "right_1": [4], "left_0": [2, 3, 4]}
        for name, expected in frames.items():
            hand = hands[f"{key}.{name}"]
            assert hand.frame_index == expected
            side = name.split("_")[0]
            joints = np.stack([upright(truth[stream, side, frame], stream) for frame in expected])
            np.testing.assert_allclose(hand.joints_cam, joints, atol=2e-5)
            np.testing.assert_allclose(posed_joints(hand), joints, atol=5e-5)
        assert_labels_hit_the_blobs(hands[f"{key}.left_0"], atol_px=1.5)  # blobs are stretched
    assert len(hands) == 3 * len(streams)


def test_any_camera_can_be_asked_for(sequence, read_by_stand_in, to_shards, mano):
    root, device, _truth, _pictures, _times = sequence
    _shards, tally = to_shards("hot3d", root, f"train_{device}", mano=mano, streams=STREAMS[device][1])
    assert (tally.clips, tally.hands) == (1, 6)


def test_other_headsets_test_participants_and_missing_recordings_are_no_units(sequence, mano):
    root, device, _truth, _pictures, _times = sequence
    hot3d = find_data_set("hot3d")
    other = {"aria": "quest3", "quest3": "aria"}[device]
    assert hot3d.open(Request(root, f"train_{other}", mano)).units == []
    hidden = root / "P0004_0badcafe"
    shutil.copytree(root / "P0001_0badcafe", hidden)
    facts = json.loads((hidden / "metadata.json").read_text())
    (hidden / "metadata.json").write_text(json.dumps(facts | {"participant_id": "P0004"}))
    assert [unit.name for unit in hot3d.open(Request(root, f"train_{device}", mano)).units] == ["P0001_0badcafe"]
    (root / "P0001_0badcafe" / "recording.vrs").unlink()
    source = hot3d.open(Request(root, f"train_{device}", mano))
    assert (source.units, source.missing) == ([], ["P0001_0badcafe/recording.vrs"])


def test_the_list_of_others_evaluation_is_complete(sequence, mano):
    source = find_data_set("hot3d").open(Request(sequence[0], "hawor_aria", mano))
    assert len(set(source.missing)) == 27


def test_others_evaluation_begins_where_truth_has_settled(
    sequence, read_by_stand_in, to_shards, read_hands, mano, monkeypatch
):
    root, device, truth, _pictures, _times = sequence
    if device != "aria":
        pytest.skip("they report on Aria's recordings")
    assert hot3d_full.HAWOR_START == 20
    monkeypatch.setattr(hot3d_full, "HAWOR", ("P0001_0badcafe",))
    monkeypatch.setattr(hot3d_full, "HAWOR_START", 3)
    shards, _tally = to_shards("hot3d", root, "hawor_aria", mano=mano)
    left = read_hands(shards)["P0001_0badcafe_214-1.left_0"]
    assert left.frame_index == [0, 1]
    joints = np.stack([upright(truth["214-1", "left", frame], "214-1") for frame in (3, 4)])
    np.testing.assert_allclose(left.joints_cam, joints, atol=2e-5)


def test_without_the_library_it_is_named(sequence, to_shards, mano, monkeypatch):
    root, device, _truth, _pictures, _times = sequence
    for name in ("pyvrs", "projectaria_tools", "projectaria_tools.core"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"recording\.vrs: a VRS recording; to read it, pip install 'haptic\[vrs\]'"):
        to_shards("hot3d", root, f"train_{device}", mano=mano)


def test_real_poses_masks_and_lenses_are_read(shared_dir, tmp_path, mano):
    real = shared_dir / "realdata" / "hot3d" / "Quest3" / "P0002_273c2819"
    folder = tmp_path / real.name
    shutil.copytree(real, folder, copy_function=shutil.copy)
    folder.chmod(0o755)
    (folder / "recording.vrs").write_bytes(b"")
    source = find_data_set("hot3d").open(Request(tmp_path, "train_quest3", mano))
    clips = list(source.clips(source.units[0]))
    boxes = list(csv.DictReader((real / "box2d_hands.csv").open()))
    for clip in clips:
        stream = clip.source.split(", ")[1]
        assert (clip.width_px, clip.height_px, len(clip.pictures)) == (1280, 1024, 15)
        for hand, number in zip(clip.hands, ("1", "0"), strict=True):
            # Every box of more than a tenth visible is a hand at its time, and nothing else is.
            shown = {
                row["timestamp[ns]"] for row in boxes
                if (row["stream_id"], row["hand_index"]) == (stream, number)
                and float(row["visibility_ratio[%]"]) >= 0.1
            }  # fmt: skip
            assert np.isfinite(hand.joints_cam[:, 0, 0]).sum() == len(shown)
            known = hand.joints_cam[np.isfinite(hand.joints_cam[:, 0, 0])]
            assert ((known[:, 0, 2] > 0.1) & (known[:, 0, 2] < 0.9)).all()


# ---- The libraries themselves, where they are installed


def write_vrs(path, streams):
    """Write grey pictures (time in seconds, image) of some cameras, with the library's own writer."""
    bindings = pytest.importorskip("vrsbindings", reason="pip install 'haptic[vrs]'")
    writer = bindings.Writer()
    writer.resetNewInstanceIds()
    made = []
    for _images in streams:
        stream = writer.createStream("sample_with_image")
        kinds = (bindings.RecordType.CONFIGURATION, bindings.RecordType.DATA)
        made.append((stream, *(stream.createRecordFormat(kind) for kind in kinds)))
    assert writer.create(str(path)) == 0
    for (stream, configuration, data), images in zip(made, streams, strict=True):
        fields = configuration.getMembers()[0]
        for name, value in (("width", images[0][1].shape[1]), ("height", images[0][1].shape[0]), ("pixel_format", 1)):
            fields[f"image_{name}"].set(value)
        stream.createRecord(0.0, configuration)
        for time_s, image in images:
            stream.createRecord(time_s, data, np.ascontiguousarray(image).reshape(-1))
    writer.writeRecords(1e9)
    assert writer.close() == 0


@pytest.mark.parametrize("sequence", ["quest3"], indirect=True)
def test_a_recording_of_quest_3_is_read_by_pyvrs(sequence, to_shards, read_hands, mano):
    root, device, _truth, pictures, times = sequence
    folder = root / "P0001_0badcafe"
    grey = {key: cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for key, image in pictures.items()}
    small = [(time / 1e9, np.zeros((64, 64), np.uint8)) for time in times["1201-1"]]
    cameras = [[(time / 1e9, grey[stream, time]) for time in times[stream]] for stream in STREAMS[device]]
    write_vrs(folder / "recording.vrs", [small, *cameras])  # eye cameras come first, and are smaller
    shards, tally = to_shards("hot3d", root, "train_quest3", mano=mano)
    assert tally.damaged == []
    hands = read_hands(shards)
    for stream in STREAMS["quest3"]:
        hand = hands[f"P0001_0badcafe_{stream}.left_0"]
        for place, frame in enumerate(hand.frame_index):
            wrist = hand.labels.joints_img[place, 0].numpy() * hand.crops[place].scale + hand.crops[place].offset_px
            x, y = np.round(wrist).astype(int)
            pixels = np.asarray(hand.crops[place].pixels)
            # Blue is darker than the grey about it (0.299 * 30 + 0.587 * 60 + 0.114 * 230 = 70), yellow lighter (203).
            assert abs(int(pixels[y, x, 0]) - 70) < 15, (stream, frame)
    recording = QuestRecording(folder / "recording.vrs", folder / "camera_models.json")
    with pytest.raises(DamagedError, match="no picture within a millisecond"):
        recording.read("1201-1", START_NS + 5_000_000)
    (folder / "recording.vrs").write_bytes(b"no recording")
    with pytest.raises(DamagedError, match=r"recording\.vrs: not a readable recording"):
        QuestRecording(folder / "recording.vrs", folder / "camera_models.json").read("1201-1", START_NS)


def test_a_recording_of_aria_gives_its_lens_and_pictures_by_time_code(tmp_path):
    """The calibration is the library's; the provider stands in, as no recording of Aria can be made here."""
    calibration = pytest.importorskip("projectaria_tools.core.calibration", reason="pip install 'haptic[vrs]'")
    from projectaria_tools.core.sensor_data import TimeDomain
    from projectaria_tools.core.sophus import SE3

    aa, place = np.array([0.3, -0.2, 0.5]), [0.01, 0.02, 0.03]
    camera = calibration.CameraCalibration(
        "camera-rgb", calibration.FISHEYE624, np.array(ARIA),
        SE3.from_quat_and_translation(quaternion(aa)[0], np.array(quaternion(aa)[1:]), np.array(place))[0],
        640, 480, None, 1.5, "serial",
    )  # fmt: skip

    class Provider:
        def get_device_calibration(self):
            return self

        def get_camera_calib(self, label):
            return camera if label == "camera-rgb" else None

        def get_label_from_stream_id(self, stream):
            return {"214-1": "camera-rgb", "1201-1": "camera-slam-left"}[str(stream)]

        def get_timestamps_ns(self, _stream, domain):
            assert domain == TimeDomain.TIME_CODE
            return [START_NS, START_NS + STEP_NS]

        def get_image_data_by_index(self, _stream, index):
            return Image(np.full((480, 640, 3), 50 * index, np.uint8)), None

    class Image:
        def __init__(self, pixels):
            self._pixels = pixels

        def is_valid(self):
            return True

        def to_numpy_array(self):
            return self._pixels

    recording = AriaRecording(tmp_path / "recording.vrs", Provider())
    lens, T_device_cam = recording.lens("214-1")
    np.testing.assert_allclose(T_device_cam[:3, :3], turn(aa), atol=1e-6)
    np.testing.assert_allclose(T_device_cam[:3, 3], place, atol=1e-6)
    points = np.array([[0.1, -0.2, 0.5], [-0.3, 0.05, 0.4]])
    expected = [camera.project_no_checks(point) for point in points]  # the library's own lens
    np.testing.assert_allclose(lens.project(points), np.array(expected).reshape(2, 2), atol=1e-4)
    assert recording.read("214-1", START_NS + STEP_NS + 400_000).max() == 50
    with pytest.raises(DamagedError, match=r"no calibration of 1201-1"):
        recording.lens("1201-1")
    (tmp_path / "recording.vrs").write_bytes(b"none")
    with pytest.raises(DamagedError, match="not a readable recording of Aria"):
        AriaRecording(tmp_path / "recording.vrs").lens("214-1")
