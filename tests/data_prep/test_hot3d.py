"""HOT3D-Clips: fisheye pictures of Aria and Quest 3, sideways sensors, 15 PCA coefficients, hands in the world."""

import csv
import io
import json
import tarfile

import cv2
import numpy as np
import pytest

from data_prep.fisheye import Fisheye624
from data_prep.mano_files import ManoNumbers

FRAMES = 4
QUEST = [
    204.5,
    204.5,
    318.4,
    255.4,
    0.044,
    -0.045,
    0.016,
    -0.011,
    0.0035,
    -0.0005,
    0.0005,
    -0.00005,
    0.001,
    0,
    -0.002,
    0,
]
ARIA = [310.0, 322.0, 240.5, 0.4, -0.43, 0.25, 0.05, -0.1, 0.03, -0.0003, 0.0002, 0.0009, -0.0001, 0.0003, -0.00005]


def quaternion(aa):
    angle = np.linalg.norm(aa)
    return [np.cos(angle / 2), *(np.sin(angle / 2) * np.asarray(aa) / angle)]


@pytest.fixture(params=["aria", "quest3"])
def clips(request, tmp_path, motion, smplx_joints, mano_arrays, picture, through_lens):
    return make_clips(request.param, tmp_path / "clips", motion, smplx_joints, mano_arrays, picture, through_lens)


def make_clips(device, root, motion, smplx_joints, mano_arrays, picture, through_lens):
    """One clip: the left hand is missing in frame 1, the right one is hardly seen in frame 2."""
    params, size, stream = (ARIA, (640, 480), "214-1") if device == "aria" else (QUEST, (640, 512), "1201-1")
    hands, joints = {}, {}
    for side in ("right", "left"):
        hand = motion(FRAMES, seed=len(side), place=(0.3, 1.1, 0.4), pca=15, is_right=side == "right")
        hand.transl += [0.1 if side == "right" else -0.1, 0, 0]
        hand.betas[:] = motion(1, seed=77).betas
        # Independent: the first 15 rows of the side's own basis, the mean by smplx's layer, mended left shapes.
        joints[side] = smplx_joints(
            side == "right", hand.global_aa, hand.finger @ mano_arrays[side]["hands_components"][:15], hand.betas,
            hand.transl, flat_mean=False, published_left=False,
        )  # fmt: skip
        hands[side] = hand
    folder = root / f"train_{device}"
    folder.mkdir(parents=True)
    truth = {side: [] for side in joints}
    with tarfile.open(folder / "clip-001849.tar", "w") as tar:

        def add(name, data):
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))

        add("__hand_shapes.json__", json.dumps({"mano": hands["right"].betas[0].tolist(), "umetrack": {}}).encode())
        for frame in range(FRAMES):
            aa = np.array([0.1, 0.05 * frame - 0.1, 0.3])
            rotation, place = cv2.Rodrigues(aa)[0], np.array([0.3 + 0.01 * frame, 1.1, -0.1])
            pose = {"quaternion_wxyz": quaternion(aa), "translation_xyz": place.tolist()}
            calibration = {
                "projection_params": params, "projection_model_type": "CameraModelType.FISHEYE624",
                "image_width": size[0], "image_height": size[1],
            }  # fmt: skip
            seen, record = [], {}
            for side, hand in hands.items():
                in_camera = (joints[side][frame] - place) @ rotation  # R^T (x - c)
                truth[side].append(in_camera)
                seen.append(through_lens(in_camera, params))
                record[side] = {
                    "mano_pose": {
                        "thetas": hand.finger[frame].tolist(),
                        "wrist_xform": [*hand.global_aa[frame], *hand.transl[frame]],
                    },
                    "visibilities_modeled": {stream: 0.05 if (side, frame) == ("right", 2) else 0.9},
                }
            if frame == 1:
                del record["left"]
            streams = (stream,) if device == "aria" else ("1201-1", "1201-2")
            cameras = {one: {"calibration": calibration, "T_world_from_camera": pose} for one in streams}
            add(f"{frame:06d}.cameras.json", json.dumps(cameras).encode())
            add(f"{frame:06d}.hands.json", json.dumps(record).encode())
            for one in streams:
                jpeg = cv2.imencode(".jpg", picture(*size, *seen)[..., ::-1])[1].tobytes()
                add(f"{frame:06d}.image_{one}.jpg", jpeg)
    return root, device, stream, {side: np.array(values) for side, values in truth.items()}


def test_hands_lie_in_the_straightened_upright_pictures(
    clips, to_shards, read_hands, mano, posed_joints, assert_labels_hit_the_blobs
):
    root, device, stream, truth = clips
    shards, tally = to_shards("hot3d-clips", root, f"train_{device}", mano=mano)
    hands = read_hands(shards)
    assert tally.damaged == []
    right, left = (hands[f"clip-001849_{stream}.{side}_1"] for side in ("right", "left"))
    assert (right.frame_index, left.frame_index) == ([3], [2, 3])
    for hand, side, frames in ((right, "right", [3]), (left, "left", [2, 3])):
        expected = truth[side][frames]
        if device == "aria":  # a quarter turn: what was down the sensor is left in the upright picture
            expected = np.stack([-expected[..., 1], expected[..., 0], expected[..., 2]], axis=-1)
        np.testing.assert_allclose(hand.joints_cam, expected, atol=2e-5)
        np.testing.assert_allclose(posed_joints(hand), expected, atol=5e-5)
    for name in ("right_0", "left_0"):
        # Blobs are stretched where the lens is straightened: their middles move a little.
        assert_labels_hit_the_blobs(hands[f"clip-001849_{stream}.{name}"], atol_px=1.5)


def test_left_hands_need_mano_left(clips, to_shards, mano):
    from data_prep.mano_files import ManoFiles

    root, device, _stream, _truth = clips
    with pytest.raises(ValueError, match=r"--mano-left MANO_LEFT\.pkl"):
        to_shards("hot3d-clips", root, f"train_{device}", mano=ManoFiles(mano.right_path))


def test_the_real_recording_projects_into_its_boxes(shared_dir, mano):
    """A chain of everything: PCA, world, headset, lens. The stand-in hand is no MANO, so boxes are widened a little."""
    folder = shared_dir / "realdata" / "hot3d" / "Quest3" / "P0002_273c2819"
    lenses = {one["stream_id"]: one for one in json.loads((folder / "camera_models.json").read_text())}
    boxes = list(csv.DictReader((folder / "box2d_hands.csv").open()))
    headset = {row["timestamp[ns]"]: row for row in csv.DictReader((folder / "headset_trajectory.csv").open())}
    inside = []
    for line in (folder / "mano_hand_pose_trajectory.jsonl").read_text().splitlines():
        record = json.loads(line)
        row = headset.get(str(record["timestamp_ns"]))
        for number, hand in record["hand_poses"].items() if row else ():
            quat = np.array(hand["wrist_xform"]["q_wxyz"])
            aa = 2 * np.arccos(quat[0]) * quat[1:] / np.linalg.norm(quat[1:])
            joints = mano.joints(
                ManoNumbers(
                    is_right=number == "1", global_aa=aa[None], finger=np.array(hand["pose"])[None],
                    betas=np.zeros((1, 10)), transl=np.array(hand["wrist_xform"]["t_xyz"])[None], is_pca=True,
                    is_mean_left_out=True,
                )
            )[0]  # fmt: skip
            device = (
                turned([float(row[f"q_wo_{part}"]) for part in "wxyz"]),
                [float(row[f"t_wo_{part}[m]"]) for part in "xyz"],
            )
            for box in boxes:
                if box["hand_index"] != number or box["timestamp[ns]"] != str(record["timestamp_ns"]):
                    continue
                stored = lenses[box["stream_id"]]
                pose = stored["T_Device_Camera"]
                in_device = (joints - device[1]) @ device[0]
                in_camera = (in_device - pose["translation_xyz"]) @ turned(pose["quaternion_wxyz"])
                lens = Fisheye624(np.array(stored["projectionParams"]), stored["imageWidth"], stored["imageHeight"])
                pixels = lens.project(in_camera)
                low = np.array([float(box["x_min[pixel]"]), float(box["y_min[pixel]"])])
                high = np.array([float(box["x_max[pixel]"]), float(box["y_max[pixel]"])])
                margin = 0.15 * (high - low)
                inside.append(((pixels > low - margin) & (pixels < high + margin)).all(axis=-1).mean())
    assert len(inside) > 20
    assert np.mean(inside) > 0.9


def turned(quat):
    w, x, y, z = quat
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
