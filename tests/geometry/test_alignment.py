"""Alignment finds the transform that was applied, and never a reflection."""

import numpy as np
import torch

from haptic.geometry.alignment import align_rigid, align_similarity
from haptic.geometry.rotations import rotation_from_aa


def random_points(seed: int) -> torch.Tensor:
    return torch.randn(5, 21, 3, generator=torch.Generator().manual_seed(seed))


def test_a_similarity_is_recovered():
    source = random_points(0)
    rotation = rotation_from_aa(random_points(1)[:, 0])
    target = 1.7 * source @ rotation.mT + random_points(2)[:, :1]
    alignment = align_similarity(source, target)
    torch.testing.assert_close(alignment.apply(source), target, atol=1e-5, rtol=0)
    torch.testing.assert_close(alignment.scale, torch.full((5,), 1.7), atol=1e-5, rtol=0)


def test_a_mirrored_hand_is_not_aligned_by_a_reflection():
    source = random_points(3)
    alignment = align_rigid(source, source * torch.tensor([-1.0, 1, 1]))
    torch.testing.assert_close(torch.det(alignment.rotation), torch.ones(5), atol=1e-5, rtol=0)


def test_points_of_weight_zero_do_not_count():
    source = random_points(4)
    target = source.clone()
    target[:, 20] += 100
    weight = torch.ones(5, 21)
    weight[:, 20] = 0
    aligned = align_rigid(source, target, weight).apply(source)
    torch.testing.assert_close(aligned[:, :20], target[:, :20], atol=1e-5, rtol=0)


def test_procrustes_error_matches_the_recorded_one(shared_dir):
    golden = np.load(shared_dir / "golden" / "geometry.npz")
    pred, target = (torch.from_numpy(golden[f"metric/{name}"]) for name in "ab")
    aligned = align_similarity(pred, target).apply(pred)
    error_mm = (aligned - target).norm(dim=-1).mean(-1) * 1000
    torch.testing.assert_close(error_mm, torch.from_numpy(golden["metric/pa_mm"]), rtol=1e-4, atol=0)
