"""Shares of correct points, distances between two hands, and the space they share: known answers."""

import numpy as np
import pytest
import torch
import trimesh

from haptic import metrics
from haptic.hand.model import load_hand_model
from haptic.records import HandParams


def apart(points: int) -> torch.Tensor:
    """Points 10 cm from each other, so that the nearest is never in doubt."""
    return 0.1 * torch.arange(points, dtype=torch.float64)[None, :, None].expand(2, points, 3).clone()


def off_by(errors: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    target = torch.randn(1, len(errors), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return target + torch.tensor(errors)[None, :, None] * torch.tensor([0.0, 0.6, 0.8]), target


def test_points_within_the_threshold_are_correct():
    pred, target = off_by([0.0, 0.01, 0.02, 0.03])
    assert metrics.pck(pred, target, threshold=0.025).item() == pytest.approx(0.75)
    assert metrics.pck(pred, target, torch.tensor([[1.0, 0, 0, 1.0]]), threshold=0.025).item() == pytest.approx(0.5)
    exact = torch.zeros(1, 1, 2)
    assert metrics.pck(exact + torch.tensor([5.0, 0.0]), exact, threshold=5.0).item() == 1.0


def test_the_area_under_the_pck_curve_is_one_minus_the_mean_error_over_its_range():
    errors = torch.linspace(0.0, 0.05, 501).tolist()
    pred, target = off_by(errors)
    assert metrics.pck_auc(pred, target, max_threshold=0.05).item() == pytest.approx(0.5, abs=2e-3)
    pred, target = off_by([0.00476])  # HaWoR on DexYCB: 4.76 mm and 90.5
    assert metrics.pck_auc(pred, target, max_threshold=0.05, steps=101).item() == pytest.approx(0.905, abs=5e-3)


def test_the_area_is_that_of_the_curve_threshold_by_threshold():
    errors = (0.06 * torch.rand(300, generator=torch.Generator().manual_seed(1))).tolist()
    pred, target = off_by(errors)
    weight = torch.rand(1, 300, generator=torch.Generator().manual_seed(2)).double() + 0.1
    thresholds = np.linspace(0.01, 0.05, 37)
    curve = [metrics.pck(pred, target, weight, threshold=float(t)).item() for t in thresholds]
    expected = np.trapezoid(curve, thresholds) / 0.04
    area = metrics.pck_auc(pred, target, weight, min_threshold=0.01, max_threshold=0.05, steps=37)
    assert area.item() == pytest.approx(expected, rel=1e-9)


def test_perfect_and_hopeless_hands_have_areas_of_one_and_zero():
    pred, target = off_by([0.0, 0.0])
    assert metrics.pck_auc(pred, target, max_threshold=0.05).item() == 1.0
    assert metrics.pck_auc(pred + 1.0, target, max_threshold=0.05).item() == 0.0


def test_f_score_knows_five_from_fifteen_millimetres():
    target = apart(10)
    pred = target + torch.tensor([0.0, 0.0, 0.010])
    assert metrics.f_score(pred, target, threshold=0.005).item() == 0.0
    assert metrics.f_score(pred, target, threshold=0.015).item() == pytest.approx(1.0)
    pred[:, 5:] = target[:, 5:]
    assert metrics.f_score(pred, target, threshold=0.005).item() == pytest.approx(0.5)


def test_f_score_compares_meshes_of_different_size_in_any_order():
    target = apart(10)
    pred = target[:, torch.tensor([3, 1, 0, 2])]  # four of ten points: precision 1, recall 0.4
    assert metrics.f_score(pred, target, threshold=0.005).item() == pytest.approx(2 * 0.4 / 1.4)
    assert metrics.f_score(target, pred, threshold=0.005).item() == pytest.approx(2 * 0.4 / 1.4)


def test_f_score_leaves_out_frames_of_weight_zero():
    target = apart(10)
    pred = target.clone()
    pred[1] = torch.nan
    assert metrics.f_score(pred, target, torch.tensor([1.0, 0.0]), threshold=0.005).item() == 1.0


def test_hint_pck_is_the_mean_over_joints_of_each_joints_share():
    target = torch.zeros(2, 3, 2)
    pred = torch.zeros(2, 3, 2)
    pred[0, 0, 0], pred[1, 0, 0] = 9.9, 10.1  # the threshold is 0.05 x 200 = 10 px in both hands
    pred[0, 1, 0] = 50.0
    confidence = torch.tensor([[1.0, 1.0, 0.5], [1.0, 0.2, 0.1]])  # the last joint never counts: 0.5 is not enough
    share = metrics.hint_pck(pred, target, confidence, box_side_px=torch.tensor([200.0, 200.0]))
    assert share.item() == pytest.approx((0.5 + 0.0) / 2)
    wide = metrics.hint_pck(pred, target, confidence, box_side_px=torch.tensor([200.0, 204.0]))
    assert wide.item() == pytest.approx((1.0 + 0.0) / 2)
    loose = metrics.hint_pck(pred, target, confidence, box_side_px=torch.tensor([200.0, 200.0]), alpha=0.3)
    assert loose.item() == pytest.approx(1.0)


def test_hint_pck_does_not_care_for_the_size_of_the_picture():
    gen = torch.Generator().manual_seed(3)
    target, box = 100 * torch.rand(50, 21, 2, generator=gen), 50 + 100 * torch.rand(50, generator=gen)
    pred = target + 8 * torch.randn(50, 21, 2, generator=gen)
    confidence = torch.rand(50, 21, generator=gen)
    once = metrics.hint_pck(pred, target, confidence, box_side_px=box)
    assert 0 < once < 1
    assert metrics.hint_pck(4 * pred, 4 * target, confidence, box_side_px=4 * box) == once


def test_pixels_are_measured_in_the_image():
    target = torch.zeros(4, 21, 2)
    assert metrics.epe_2d(target + torch.tensor([3.0, 4.0]), target).item() == pytest.approx(5.0)
    with pytest.raises(ValueError, match="frames x points x 2"):
        metrics.epe_2d(torch.zeros(4, 21, 3), torch.zeros(4, 21, 3))


def test_only_the_relation_of_the_two_wrists_counts():
    target = torch.randn(6, 2, 3, dtype=torch.float64)
    pred = target + torch.randn(6, 1, 3)
    assert metrics.mrrpe(pred, target).item() == pytest.approx(0.0, abs=1e-12)
    pred[:, 1, 2] += 0.07
    assert metrics.mrrpe(pred, target).item() == pytest.approx(0.07)
    torch.testing.assert_close(metrics.mrrpe(pred.flip(1), target.flip(1)), metrics.mrrpe(pred, target))


def test_wrists_are_related_only_where_both_hands_count():
    target = torch.zeros(3, 2, 3)
    pred = target.clone()
    pred[0, 0], pred[1, 0, 0], pred[2, 1, 0] = torch.nan, 0.2, 9.0
    weight = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    assert metrics.mrrpe(pred, target, weight).item() == pytest.approx(0.2)
    with pytest.raises(ValueError, match="in none of 2 frames both hands count"):
        metrics.mrrpe(pred[[0, 2]], target[[0, 2]], weight[[0, 2]])


def test_penetrating_boxes_share_their_overlap_in_every_frame():
    box = trimesh.creation.box((0.04, 0.04, 0.04))
    verts = torch.tensor(np.asarray(box.vertices)).expand(3, -1, -1)
    shift = torch.tensor([0.03, 0.02, 0.05])[:, None, None] * torch.tensor([1.0, 0, 0])  # 1, 2 and 0 cm overlap
    faces = torch.tensor(np.asarray(box.faces))
    volume = metrics.penetration_volume(verts, verts + shift, faces_a=faces, faces_b=faces)
    assert (1e6 * volume).item() == pytest.approx((16 + 32 + 0) / 3)
    last = metrics.penetration_volume(verts, verts + shift, torch.tensor([0.0, 1, 1]), faces_a=faces, faces_b=faces)
    assert (1e6 * last).item() == pytest.approx(16)


@pytest.fixture(scope="module")
def hand():
    model = load_hand_model(None)
    upright = torch.eye(3)
    flat = HandParams(upright[None], upright.expand(1, 15, 3, 3), torch.zeros(1, 10), torch.zeros(1, 3))
    return model(flat).verts, model.faces


def test_a_hand_shares_its_own_volume_with_itself_and_nothing_with_a_far_one(hand):
    verts, faces = hand
    itself = 1e6 * metrics.penetration_volume(verts, verts, faces_a=faces, faces_b=faces).item()
    assert 100 < itself < 600  # cm^3: hands displace a quarter to half a litre
    far = verts + torch.tensor([0.0, 0.0, 0.5])
    assert metrics.penetration_volume(verts, far, faces_a=faces, faces_b=faces).item() == 0.0


def test_hands_that_penetrate_deeper_share_more_and_a_turned_pair_as_much(hand):
    verts, faces = hand
    height = (verts[0].amax(dim=0) - verts[0].amin(dim=0)).amin().item()
    axis = (verts[0].amax(dim=0) - verts[0].amin(dim=0)).argmin()
    step = torch.nn.functional.one_hot(axis, 3).float()
    shared = [
        metrics.penetration_volume(verts, verts + share * height * step, faces_a=faces, faces_b=faces).item()
        for share in (0.2, 0.5, 0.8)
    ]
    assert shared[0] > shared[1] > shared[2] > 0
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))[0]
    turn = turn * torch.linalg.det(turn)
    turned = metrics.penetration_volume(
        verts @ turn.T, (verts + 0.5 * height * step) @ turn.T, faces_a=faces, faces_b=faces
    )
    assert turned.item() == pytest.approx(shared[1], rel=5e-3)
