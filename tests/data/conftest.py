"""Clips with the truth painted in: a green blob where the right index fingertip is, a red one for the left."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from haptic.data.samples import SampleWriter, WriterConfig, labels_from_trajectory
from haptic.geometry.cameras import project
from haptic.hand.model import trajectory_joints
from haptic.records import Camera

TIP = 8
CHANNELS = {"right": 1, "left": 0}
OTHER = {"right": "left", "left": "right"}
BLOB_SIGMA_PX = 3.0
WIDTH_PX, HEIGHT_PX = 320, 240


def paint(tips_img, *, width_px=WIDTH_PX, height_px=HEIGHT_PX):
    """Paint one picture: `tips_img` gives a place by side."""
    rows, columns = np.mgrid[:height_px, :width_px].astype(np.float64)
    image = np.zeros((height_px, width_px, 3))
    image[..., 2] = 60 + 40 * np.sin(columns / 9) * np.cos(rows / 7)
    for side, (x, y) in tips_img.items():
        distance = (columns - x) ** 2 + (rows - y) ** 2
        image[..., CHANNELS[side]] += 250 * np.exp(-distance / (2 * BLOB_SIGMA_PX**2))
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def blob_place():
    """Find the blob of a side in a picture: its centre of mass, x and y."""

    def find(pixels, side):
        own, other = (pixels[..., CHANNELS[one]].astype(np.float64) for one in (side, OTHER[side]))
        weight = np.where(own - other > 60, own - other, 0)  # JPEG lets some of one colour into the other
        rows, columns = np.mgrid[: weight.shape[0], : weight.shape[1]]
        assert weight.sum() > 0, "the blob is not in the picture"
        return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()

    return find


@pytest.fixture(scope="session")
def painted_clip(make_result, open_hand):
    """Make up a clip: pictures and labels by hand, both hands in all frames."""

    def make(num_frames=20, *, focal_px=None, moving_camera=True, fov_shift=0.0):
        result = make_result(
            spans=((0, num_frames), (0, num_frames)), num_frames=num_frames, width_px=WIDTH_PX, height_px=HEIGHT_PX,
            moving_camera=moving_camera,
        )  # fmt: skip
        hands, tips = {}, {}
        for name, trajectory in result.hands.items():
            K = trajectory.camera.K.clone()
            if focal_px is not None:
                K[:, 0, 0] = K[:, 1, 1] = focal_px
            K[:, 0, 2] += fov_shift
            trajectory = replace(trajectory, camera=Camera(K=K, T_world_cam=trajectory.camera.T_world_cam))
            joints_cam = trajectory_joints(open_hand, trajectory)
            hands[name] = labels_from_trajectory(trajectory, joints_cam)
            tips[name.split("_")[0]] = project(joints_cam, K)[:, TIP].numpy()
        images = [paint({side: places[frame] for side, places in tips.items()}) for frame in range(num_frames)]
        return images, hands

    return make


@pytest.fixture
def make_writer(tmp_path):
    """Open a writer into the test's folder."""

    def make(prefix="clips", folder: Path = tmp_path, **config):
        return SampleWriter(
            folder, prefix=prefix, data_set="painted", licence="CC0-1.0", hand_model="openhand",
            config=WriterConfig(jpeg_quality=95, **config),
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def shard_dir(painted_clip, tmp_path_factory):
    """Three shards of two clips of 12 to 22 frames, both hands in each."""
    folder = tmp_path_factory.mktemp("shards")
    writer = SampleWriter(
        folder, prefix="clips", data_set="painted", licence="CC0-1.0", hand_model="openhand",
        config=WriterConfig(max_shard_clips=2, max_crop_px=256),
    )  # fmt: skip
    with writer:
        for number in range(6):
            images, hands = painted_clip(12 + 2 * number, focal_px=250.0 + 10 * number)
            writer.add_clip(f"clip-{number:03d}", images, hands, fps=30.0)
    assert len(writer.paths) == 3
    return folder


@pytest.fixture
def own_shards(shard_dir, tmp_path):
    """A copy of the shards that a test may damage, without their lists."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for path in shard_dir.glob("*.tar"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("haptic.data.shards.DEFAULT_CACHE", tmp_path / "cache")
    torch.set_num_threads(2)
