"""Rotations keep their meaning through every form they take."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from haptic.geometry.rotations import (
    aa_from_rotation,
    code_6d_from_rotation,
    geodesic_angle,
    nearest_rotation,
    quat_from_rotation,
    rotation_from_6d,
    rotation_from_aa,
    rotation_from_quat,
    slerp,
)

number = st.floats(-2, 2, width=32)
vector = st.tuples(number, number, number)


@settings(max_examples=60, deadline=None)
@given(vector)
def test_axis_angle_comes_back_from_the_matrix(aa):
    aa = torch.tensor(aa)
    if aa.norm() > 3.1:
        aa = aa / aa.norm() * 3.1
    torch.testing.assert_close(aa_from_rotation(rotation_from_aa(aa)), aa, atol=3e-6, rtol=0)


def test_half_turns_keep_their_axis():
    axes = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    back = aa_from_rotation(rotation_from_aa(axes * torch.pi))
    agreement = (torch.nn.functional.normalize(back, dim=-1) * axes).sum(-1).abs()
    torch.testing.assert_close(agreement, torch.ones(50), atol=1e-5, rtol=0)


def test_every_form_gives_the_same_rotation():
    rotation = rotation_from_aa(torch.randn(200, 3, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(rotation_from_6d(code_6d_from_rotation(rotation)), rotation, atol=1e-6, rtol=0)
    torch.testing.assert_close(rotation_from_quat(quat_from_rotation(rotation)), rotation, atol=1e-6, rtol=0)
    torch.testing.assert_close(nearest_rotation(rotation * 3), rotation, atol=1e-5, rtol=0)


def test_6d_code_and_axis_angle_match_the_official_network(shared_dir):
    golden = np.load(shared_dir / "golden" / "geometry.npz")
    for name, function in (("rot6d", rotation_from_6d), ("aa", rotation_from_aa)):
        ours = function(torch.from_numpy(golden[f"{name}/in"]))
        torch.testing.assert_close(ours, torch.from_numpy(golden[f"{name}/out"]), atol=2e-6, rtol=0)


def test_rotations_have_finite_gradients_at_rest():
    aa = torch.zeros(3, requires_grad=True)
    rotation_from_aa(aa)[0, 1].backward()
    torch.testing.assert_close(aa.grad, torch.tensor([0.0, 0.0, -1.0]))


def test_slerp_moves_at_constant_speed():
    start, end = rotation_from_aa(torch.tensor([[0.1, 0, 0], [1.3, 0.2, 0.4]]))
    quarter = slerp(start, end, torch.tensor(0.25))
    whole = geodesic_angle(start, end)
    torch.testing.assert_close(geodesic_angle(start, quarter), whole / 4, atol=1e-5, rtol=0)
