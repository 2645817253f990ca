"""Kernels: a square near zero, bounded far away."""

import torch

from haptic.geometry.robust import geman_mcclure, geman_mcclure_slope


def test_geman_mcclure_is_the_square_when_small_and_bounded_when_large():
    squared = torch.tensor([1e-6, 1e6])
    torch.testing.assert_close(geman_mcclure(squared, 0.1), torch.tensor([1e-6, 1e-2]), rtol=1e-3, atol=0)


def test_geman_mcclures_slope_is_its_derivative():
    squared = torch.linspace(0, 1, 50, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(geman_mcclure(squared, 0.3).sum(), squared)
    torch.testing.assert_close(geman_mcclure_slope(squared.detach(), 0.3), slope)
