"""The weights that ship: they are there, small, and of the hand that ships."""

import torch

from haptic.export.npz import read_npz
from haptic.files import find_asset
from haptic.hand.model import load_hand_model, trajectory_joints
from haptic.metrics import pa_mpjpe
from haptic.models.checkpoint import load_checkpoint, match_hand_model, shipped_checkpoint
from haptic.pipeline import Network, PipelineConfig, reconstruct

DEMO_CLIP, DEMO_TRUTH = "demo/two_hands.mp4", "demo/two_hands_truth.npz"
MAX_MB = 40


def test_the_shipped_network_is_small_and_belongs_to_the_shipped_hand():
    assert shipped_checkpoint().stat().st_size < MAX_MB * 1e6
    model, info = load_checkpoint(shipped_checkpoint())
    assert info.origin == "haptic"
    assert match_hand_model(info.hand_model_name, load_hand_model().name) == "as is"
    assert model.has_depth
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_the_shipped_network_tells_poses_apart():
    network = Network(*load_checkpoint(shipped_checkpoint()))
    config = PipelineConfig(init="network", refine="off", max_frames=24)
    found = reconstruct(find_asset(DEMO_CLIP), config, network=network).reconstruction
    truth = read_npz(find_asset(DEMO_TRUTH))
    model = load_hand_model()
    for name, target in truth.hands.items():
        pred = found.hands[name]
        both = torch.isin(target.frame_index, pred.frame_index)
        true_joints = trajectory_joints(model, target)[both]
        joints = trajectory_joints(model, pred)[torch.isin(pred.frame_index, target.frame_index)]
        assert float(pa_mpjpe(joints, true_joints)) < 0.03
        facing = torch.linalg.cross(joints[:, 5] - joints[:, 0], joints[:, 17] - joints[:, 0])
        true_facing = torch.linalg.cross(true_joints[:, 5] - true_joints[:, 0], true_joints[:, 17] - true_joints[:, 0])
        cosine = torch.cosine_similarity(facing, true_facing.to(facing), dim=-1)
        assert float(cosine.mean()) > 0.5, "the palm looks the wrong way"
