"""The solver of many small problems: known answers, costs that never rise, shared unknowns."""

import pytest
import torch

from haptic.geometry.least_squares import (
    LeastSquaresConfig,
    NormalEquations,
    one_thread,
    residual_equations,
    shared_step,
    solve_least_squares,
)
from haptic.geometry.rotations import geodesic_angle, rotation_from_aa


def test_a_linear_problem_is_solved_as_by_its_normal_equations():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 12, 4, generator=generator, dtype=torch.float64)
    target = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    equations, cost = residual_equations(lambda x: torch.einsum("brp,bp->br", matrix, x) - target)
    answer = solve_least_squares(
        torch.zeros(5, 4, dtype=torch.float64),
        equations=equations,
        cost=cost,
        config=LeastSquaresConfig(relative_tolerance=1e-12),
    )
    expected = torch.linalg.lstsq(matrix, target[..., None]).solution[..., 0]
    torch.testing.assert_close(answer.state, expected, atol=1e-8, rtol=0)


def test_curved_valleys_are_followed_to_their_end_and_each_problem_keeps_its_own_pace():
    def rosenbrock(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([10 * (x[:, 1] - x[:, 0] ** 2), 1 - x[:, 0]], dim=-1)

    equations, cost = residual_equations(rosenbrock)
    start = torch.tensor([[-1.2, 1.0], [1.0, 1.0], [3.0, -4.0]], dtype=torch.float64)
    answer = solve_least_squares(
        start, equations=equations, cost=cost, config=LeastSquaresConfig(max_steps=100, relative_tolerance=1e-9)
    )
    torch.testing.assert_close(answer.state, torch.ones(3, 2, dtype=torch.float64), atol=1e-5, rtol=0)
    assert answer.is_converged.all()


def test_the_cost_never_rises():
    generator = torch.Generator().manual_seed(1)
    start = 3 * torch.randn(20, 3, generator=generator, dtype=torch.float64)
    equations, cost = residual_equations(lambda x: torch.stack([x.sin().sum(-1) - 1, x.prod(-1), x.cos().sum(-1)], -1))
    before = cost(start)
    for steps in (1, 2, 5):
        answer = solve_least_squares(start, equations=equations, cost=cost, config=LeastSquaresConfig(max_steps=steps))
        assert (answer.cost <= before + 1e-12).all()
        torch.testing.assert_close(answer.cost, cost(answer.state))
        before = answer.cost


def test_rotations_are_found_by_steps_in_their_tangent_space():
    generator = torch.Generator().manual_seed(2)
    points = torch.randn(8, 10, 3, generator=generator, dtype=torch.float64)
    truth = rotation_from_aa(torch.randn(8, 3, generator=generator, dtype=torch.float64))
    seen = points @ truth.transpose(-1, -2)

    def residual(flat: torch.Tensor) -> torch.Tensor:
        return (points @ flat.unflatten(-1, (3, 3)).transpose(-1, -2) - seen).flatten(-2)

    def move(flat: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        return (rotation_from_aa(step) @ flat.unflatten(-1, (3, 3))).flatten(-2)

    start = torch.eye(3, dtype=torch.float64).flatten().expand(8, 9)
    equations, cost = residual_equations(residual, move=move, num_unknowns=3)
    answer = solve_least_squares(start, equations=equations, cost=cost, move=move)
    assert geodesic_angle(answer.state.unflatten(-1, (3, 3)), truth).max() < 1e-4


def test_an_unknown_that_nothing_sees_stays_where_it_is():
    equations, cost = residual_equations(lambda x: x[:, :1] - 2)
    answer = solve_least_squares(torch.tensor([[0.0, 7.0]]), equations=equations, cost=cost)
    torch.testing.assert_close(answer.state, torch.tensor([[2.0, 7.0]]), atol=1e-3, rtol=0)


def test_a_step_into_nonsense_is_not_taken():
    equations, cost = residual_equations(lambda x: (x - 1).sqrt())  # NaN below one
    answer = solve_least_squares(torch.tensor([[5.0]]), equations=equations, cost=cost)
    assert answer.state.isfinite().all()
    assert answer.cost < 2.0


def test_shared_unknowns_step_as_in_the_whole_system():
    generator = torch.Generator().manual_seed(3)
    num_problems, num_own, num_shared = 4, 3, 2
    own = torch.randn(num_problems, 9, num_own, generator=generator, dtype=torch.float64)
    common = torch.randn(num_problems, 9, num_shared, generator=generator, dtype=torch.float64)
    miss = torch.randn(num_problems, 9, generator=generator, dtype=torch.float64)
    whole = torch.zeros(num_problems * 9, num_problems * num_own + num_shared, dtype=torch.float64)
    for index in range(num_problems):
        rows = slice(9 * index, 9 * index + 9)
        whole[rows, num_own * index : num_own * (index + 1)] = own[index]
        whole[rows, -num_shared:] = common[index]
    expected = -torch.linalg.lstsq(whole, miss.flatten()[:, None]).solution[:, 0]
    each = NormalEquations(
        cost=miss.square().sum(-1),
        gradient=torch.einsum("brp,br->bp", own, miss),
        hessian=own.transpose(-1, -2) @ own,
    )
    own_move, shared_move = shared_step(
        each,
        own.transpose(-1, -2) @ common,
        torch.einsum("brq,br->q", common, miss),
        torch.einsum("brp,brq->pq", common, common),
        damping=0.0,
    )
    torch.testing.assert_close(torch.cat([own_move.flatten(), shared_move]), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("bad", [{"max_steps": 0}, {"first_damping": 0.0}, {"damping_up": 0.5}])
def test_a_config_that_cannot_work_is_refused(bad: dict):
    with pytest.raises(ValueError, match=next(iter(bad))):
        LeastSquaresConfig(**bad)


def test_torch_gets_its_threads_back_even_after_an_error():
    before = torch.get_num_threads()

    def fail() -> None:
        with one_thread():
            assert torch.get_num_threads() == 1
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        fail()
    assert torch.get_num_threads() == before
