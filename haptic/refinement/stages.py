"""How a trajectory is refined, as values: stages one after the other, each with what is free, weights and steps.

A weight is what its loss is multiplied by; the losses are means over frames, so weights do not depend on a video's
length, resolution or the hand's distance. What the number means is said beside it.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

Block = Literal["transl", "global_orient", "hand_pose", "betas"]
BLOCKS: tuple[Block, ...] = get_args(Block)


@dataclass(frozen=True)
class Weights:
    """What each loss is multiplied by."""

    reprojection: float = 400.0  # (share of the hand's box)^2: all joints 5 % off cost one
    landmarks: float = 1000.0  # m^2, the detector's metric joints about their centre: 1 cm costs 0.1
    acceleration: float = 0.003  # (m/s^2)^2 of every joint in the world: 18 m/s^2 costs one
    angular_acceleration: float = 1e-6  # (rad/s^2)^2 of every rotation
    limits: float = 300.0  # rad^2 beyond the range of motion: all joints 3 degrees beyond cost one
    initial_pose: float = 0.1  # of each finger joint from its initial rotation; 2 rad^2 costs this
    initial_depth: float = 0.0  # m^2 of the hand from its initial depth: 10 cm off costs a hundredth of this
    shape: float = 0.03  # standard deviations^2

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"Weights.{name} is {value}; a loss is multiplied by a finite number, zero or above")


@dataclass(frozen=True)
class StageConfig:
    """One named block of steps: some parameters move, the others stay."""

    name: str
    free: tuple[Block, ...]
    weights: Weights = field(default_factory=Weights)
    robust_scale: float = 0.2  # share of the box beyond which a detected joint stops pulling
    robust_scale_m: float = 0.03  # the same for the detector's metric joints
    max_steps: int = 15
    tolerance: float = 1e-3  # a track is done when a step lowers its objective by less than this share

    def __post_init__(self) -> None:
        where = f"stage '{self.name}'"
        unknown = [block for block in self.free if block not in BLOCKS]
        if not self.free or unknown or len(set(self.free)) != len(self.free):
            raise ValueError(f"{where}: free is {list(self.free)}; name each at most once, at least one of {BLOCKS}")
        if self.robust_scale <= 0 or self.robust_scale_m <= 0:
            raise ValueError(
                f"{where}: robust_scale is {self.robust_scale} and robust_scale_m {self.robust_scale_m}; both must be "
                "above zero"
            )
        if self.max_steps < 0:
            raise ValueError(f"{where}: max_steps is {self.max_steps}; it must be zero or more")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"{where}: tolerance is {self.tolerance}; it must lie in [0, 1)")


def fast_stages() -> tuple[StageConfig, ...]:
    """Return the stages of `--refine fast`.

    First the hand as a whole follows a stiffer path, so that an estimate that followed a wrong detection comes off it;
    then everything moves.
    """
    stiff = Weights(acceleration=0.05)
    place: tuple[Block, ...] = ("transl", "global_orient")
    return (
        StageConfig(name="place", free=place, weights=stiff, robust_scale=0.3, max_steps=8, tolerance=1e-2),
        StageConfig(name="all", free=BLOCKS, max_steps=25),
    )


@dataclass(frozen=True)
class RefinementConfig:
    """The stages, and how many frames are held in memory as matrices at a time.

    `network_depth` is what every stage's `initial_depth` grows by where the network placed the hand: it tells changes
    of depth better than pixels do, which keypoints alone do not (docs/results.md).
    """

    stages: tuple[StageConfig, ...] = field(default_factory=fast_stages)
    chunk_frames: int = 300  # no influence on the result: longer tracks are solved as one, in pieces
    network_depth: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.network_depth < float("inf"):
            raise ValueError(f"network_depth is {self.network_depth}; a weight is a finite number, zero or above")
        if self.chunk_frames < 3:
            raise ValueError(f"chunk_frames is {self.chunk_frames}; it must be 3 or more")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stages are named {names}; each name may appear once, since the report goes by it")

    def from_network(self) -> "RefinementConfig":
        """Return what refines a start that the network placed."""
        return replace(self, stages=tuple(self._holding_depth(stage) for stage in self.stages), network_depth=0.0)

    def _holding_depth(self, stage: StageConfig) -> StageConfig:
        held = replace(stage.weights, initial_depth=stage.weights.initial_depth + self.network_depth)
        return replace(stage, weights=held)
