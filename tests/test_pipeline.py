"""`reconstruct` does from Python, without files, what the command line does."""

import json

import numpy as np
import pytest
import torch

from haptic.export.npz import read_npz
from haptic.files import find_asset
from haptic.hand.model import load_hand_model, trajectory_joints
from haptic.metrics import pa_mpjpe
from haptic.perception.cameras import CameraConfig
from haptic.pipeline import PipelineConfig, reconstruct

CLIP, TRUTH = "demo/two_hands.mp4", "demo/two_hands_truth.npz"


@pytest.fixture(scope="module")
def truth():
    return read_npz(find_asset(TRUTH))


def joints(reconstruction, name: str, frames: int) -> torch.Tensor:
    return trajectory_joints(load_hand_model(), reconstruction.hands[name])[:frames]


def test_both_hands_of_the_shipped_clip_come_out_in_metres(truth):
    focal_px = float(truth.camera.K[0, 0, 0])
    config = PipelineConfig(max_frames=8, camera=CameraConfig(focal_px=focal_px))
    found = reconstruct(find_asset(CLIP), config).reconstruction
    assert set(found.hands) == {"right_0", "left_0"}
    for name in found.hands:
        target = joints(truth, name, 8)
        pred = joints(found, name, 8)
        assert float(pa_mpjpe(pred, target)) < 0.012
        assert float((pred[:, 0] - target[:, 0]).norm(dim=-1).median()) < 0.12  # m; depth hangs on the hand's size


def test_joints_from_elsewhere_take_the_place_of_the_detector(truth, tmp_path):
    """The truth's own joints, given as detections, bring back the truth's hands, left ones as left ones."""
    frames = 6
    entries = []
    for name in truth.hands:
        points = joints(truth, name, frames)
        pixels = points[..., :2] / points[..., 2:] * truth.camera.K[0, 0, 0] + truth.camera.K[0, :2, 2]
        for frame in range(frames):
            entries.append(
                {
                    "frame_index": frame,
                    "hand": name.split("_")[0],
                    "joints_img": pixels[frame].tolist(),
                    "track_id": name,
                }
            )
    path = tmp_path / "given.json"
    path.write_text(json.dumps({"format_version": 1, "detections": entries}))
    camera = CameraConfig(focal_px=float(truth.camera.K[0, 0, 0]))
    config = PipelineConfig(detections=path, camera=camera, max_frames=frames)
    result = reconstruct(find_asset(CLIP), config)
    for name in truth.hands:
        assert result.quality[name].within_tenth_share > 0.99
        assert float(pa_mpjpe(joints(result.reconstruction, name, frames), joints(truth, name, frames))) < 0.015


def test_given_cameras_take_the_hands_to_the_world(truth, tmp_path):
    path = tmp_path / "cameras.npz"
    num_frames = len(truth.frame_time_s)
    np.savez(path, K=truth.camera.K[:4].numpy(), T_world_cam=truth.camera.T_world_cam[:4].numpy())
    assert num_frames > 4
    config = PipelineConfig(max_frames=4, camera=CameraConfig(cameras=path))
    found = reconstruct(find_asset(CLIP), config).reconstruction
    torch.testing.assert_close(found.camera.T_world_cam, truth.camera.T_world_cam[:4].float())
    torch.testing.assert_close(found.hands["right_0"].camera.T_world_cam, truth.camera.T_world_cam[:4].float())


def test_the_network_without_a_checkpoint_is_refused():
    with pytest.raises(ValueError, match="no network"):
        reconstruct(find_asset(CLIP), PipelineConfig(init="network"))
