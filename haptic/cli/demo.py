"""The shipped clip: how far a reconstruction is from its known truth."""

from pathlib import Path

import torch
from torch import Tensor

from haptic.export.npz import read_npz
from haptic.files import find_asset
from haptic.hand.model import HandModel, load_hand_model, trajectory_joints
from haptic.metrics import c_mpjpe, pa_mpjpe, ra_mpjpe
from haptic.records import Reconstruction, Trajectory

DEMO_CLIP = "demo/two_hands.mp4"
DEMO_TRUTH = "demo/two_hands_truth.npz"


def describe_demo_error(video: Path, found: Reconstruction, model: HandModel) -> list[str]:
    """Return lines that compare a reconstruction of the shipped clip with its truth; none for any other video."""
    if not video.exists() or not video.samefile(find_asset(DEMO_CLIP)):
        return []
    truth = read_npz(find_asset(DEMO_TRUTH))
    lines = ["against the known truth of this synthetic clip (mean over joints and frames):"]
    for name, target in truth.hands.items():
        if name not in found.hands:
            lines.append(f"  {name}: not found")
            continue
        pred_joints, target_joints = _common_joints(found.hands[name], target, model)
        errors_mm = [1000 * float(metric(pred_joints, target_joints)) for metric in (c_mpjpe, ra_mpjpe, pa_mpjpe)]
        lines.append(
            f"  {name}: {errors_mm[0]:.0f} mm in space, {errors_mm[1]:.1f} mm about the wrist, "
            f"{errors_mm[2]:.1f} mm after alignment; {len(pred_joints)} of {len(target.frame_index)} frames"
        )
    return lines


def _common_joints(pred: Trajectory, target: Trajectory, model: HandModel) -> tuple[Tensor, Tensor]:
    """Return the joints of the frames both have; the truth is the shipped hand's whatever model was used."""
    in_both = torch.isin(pred.frame_index, target.frame_index)
    in_target = torch.isin(target.frame_index, pred.frame_index[in_both])
    return trajectory_joints(model, pred)[in_both], trajectory_joints(load_hand_model(), target)[in_target]
