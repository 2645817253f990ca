"""Dense least squares for many small problems at once: Levenberg-Marquardt with a damping per problem.

A problem is told by its normal equations, so that one solver serves analytic derivatives, `torch.func` ones and sums of
both. `residual_equations` makes them from a residual function by forward differentiation, mapped over the batch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import jvp, vmap

MIN_DIAGONAL = 1e-9  # keeps an unknown that no residual sees where it is, instead of a singular system


@dataclass(frozen=True)
class LeastSquaresConfig:
    """When a problem is solved, and how boldly it steps."""

    max_steps: int = 20
    first_damping: float = 1e-3
    damping_up: float = 6.0
    damping_down: float = 0.3
    max_damping: float = 1e6
    relative_tolerance: float = 1e-4  # a step that lowers the cost by a smaller share ends the problem

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise ValueError(f"max_steps is {self.max_steps}; a solver needs at least one step")
        if not 0 < self.first_damping < self.max_damping:
            raise ValueError(
                f"first_damping is {self.first_damping}; it must lie between 0 and max_damping = {self.max_damping}"
            )
        if not (self.damping_up > 1 > self.damping_down > 0):
            raise ValueError(
                f"damping_up is {self.damping_up} and damping_down {self.damping_down}; the first must be above one, "
                "the second between zero and one"
            )


@dataclass(frozen=True)
class NormalEquations:
    """The quadratic model of each problem's cost about where it stands: half the sum of squared residuals."""

    cost: Float[Tensor, " B"]
    gradient: Float[Tensor, "B P"]
    hessian: Float[Tensor, "B P P"]


@dataclass(frozen=True)
class LeastSquaresSolution:
    """Where each problem came to rest."""

    state: Float[Tensor, "B S"]
    cost: Float[Tensor, " B"]
    is_converged: Bool[Tensor, " B"]


def add_step(state: Float[Tensor, "B S"], step: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
    """Move in a flat space; spaces of rotations bring their own."""
    return state + step


def solve_least_squares(
    start: Float[Tensor, "B S"],
    *,
    equations: Callable[[Tensor], NormalEquations],
    cost: Callable[[Tensor], Tensor],
    move: Callable[[Tensor, Tensor], Tensor] = add_step,
    config: LeastSquaresConfig | None = None,
) -> LeastSquaresSolution:
    """Minimise every problem of a batch by itself (Levenberg-Marquardt, diagonal scaling).

    `equations` and `cost` see all states (B, S); `move` applies steps (B, P), where P may differ from S. A step is
    taken only where it lowers the cost, so the cost never rises. The batch ends with its slowest problem, since a step
    for all costs as much as for one.
    """
    config = LeastSquaresConfig() if config is None else config
    state = start
    damping = torch.full_like(start[:, 0], config.first_damping)
    converged = torch.zeros_like(start[:, 0], dtype=torch.bool)
    model = equations(state)
    current = model.cost
    for step_index in range(config.max_steps):
        step = damped_step(model, damping)
        moved = move(state, step)
        moved_cost = cost(moved)
        better = moved_cost < current
        gain = (current - moved_cost) / current.clamp(min=1e-12)
        # Only a bold step that gains nothing proves the bottom; a timid one gains little anywhere.
        converged = converged | (better & (gain < config.relative_tolerance) & (damping < 1)) | (current <= 1e-12)
        converged = converged | (~better & (damping >= config.max_damping))
        state = torch.where(better[:, None], moved, state)
        current = torch.where(better, moved_cost, current)
        factor = torch.where(better, config.damping_down, config.damping_up)
        damping = (damping * factor).clamp(1e-9, config.max_damping)
        if bool(converged.all()) or step_index == config.max_steps - 1:
            break
        model = equations(state)
    return LeastSquaresSolution(state, current, converged)


def damped_step(model: NormalEquations, damping: Float[Tensor, " B"]) -> Float[Tensor, "B P"]:
    """Return the step to the bottom of the quadratic with its diagonal raised by the damping's share."""
    diagonal = model.hessian.diagonal(dim1=-2, dim2=-1)
    raised = model.hessian + torch.diag_embed(damping[:, None] * diagonal + MIN_DIAGONAL)
    factor, failed = torch.linalg.cholesky_ex(raised)
    step = -torch.cholesky_solve(model.gradient[..., None], factor)[..., 0]
    usable = (failed == 0) & step.isfinite().all(-1)
    return torch.where(usable[:, None], step, torch.zeros_like(step))


def residual_equations(
    residual: Callable[..., Tensor],
    *data: Tensor,
    move: Callable[[Tensor, Tensor], Tensor] = add_step,
    num_unknowns: int | None = None,
) -> tuple[Callable[[Tensor], NormalEquations], Callable[[Tensor], Tensor]]:
    """Return the `equations` and `cost` of a residual function, differentiated by `torch.func`.

    `residual` takes all states (B, S) and gives all residuals (B, R), problem by problem; it is differentiated forward
    once for each unknown, all unknowns in one batch. `data` are passed on to it unchanged.
    """

    def cost(state: Tensor) -> Tensor:
        return 0.5 * residual(state, *data).square().sum(-1)

    def equations(state: Tensor) -> NormalEquations:
        count = state.shape[-1] if num_unknowns is None else num_unknowns
        still = state.new_zeros(state.shape[0], count)

        def moved_residual(step: Tensor) -> Tensor:
            return residual(move(state, step), *data)

        # One direction for the whole batch at a time is exact, since no problem's residuals depend on another's state.
        directions = torch.eye(count, dtype=state.dtype, device=state.device)

        def along(direction: Tensor) -> Tensor:
            return jvp(moved_residual, (still,), (direction.expand_as(still),))[1]

        values, columns = residual(state, *data), vmap(along, out_dims=-1)(directions)
        gradient = torch.einsum("brp,br->bp", columns, values)
        hessian = torch.einsum("brp,brq->bpq", columns, columns)
        return NormalEquations(0.5 * values.square().sum(-1), gradient, hessian)

    return equations, cost


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch work on one thread within this block.

    Batches of small matrices gain little from more, and where other programs keep the cores busy, threads that wait
    for each other after every small operation make them ten times slower (measured: 1.6 s became 19 to 48 s).
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def shared_step(
    each: NormalEquations,
    mixed: Float[Tensor, "B P Q"],
    shared_gradient: Float[Tensor, " Q"],
    shared_hessian: Float[Tensor, "Q Q"],
    damping: float,
) -> tuple[Float[Tensor, "B P"], Float[Tensor, " Q"]]:
    """Return the step of problems that share Q unknowns: B blocks of P of their own, tied by `mixed`.

    The own unknowns are eliminated block by block (Schur complement), so the cost grows with B, not with B cubed.
    """
    own = each.hessian + torch.diag_embed(damping * each.hessian.diagonal(dim1=-2, dim2=-1) + MIN_DIAGONAL)
    solved_mixed = torch.linalg.solve(own, mixed)
    solved_gradient = torch.linalg.solve(own, each.gradient[..., None])[..., 0]
    shared = shared_hessian + torch.diag(damping * shared_hessian.diagonal() + MIN_DIAGONAL)
    complement = shared - torch.einsum("bpq,bpr->qr", mixed, solved_mixed)
    shared_move = -torch.linalg.solve(complement, shared_gradient - torch.einsum("bpq,bp->q", mixed, solved_gradient))
    own_move = -solved_gradient - solved_mixed @ shared_move
    return own_move, shared_move
