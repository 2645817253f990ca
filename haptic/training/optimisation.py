"""How weights move: which of them, how fast at which step, and their moving average."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from haptic.models.haptic import Haptic, is_optional

Room = Literal["backbone", "decoder", "readout", "new"]
ROOMS: tuple[Room, ...] = ("backbone", "decoder", "readout", "new")


@dataclass(frozen=True)
class OptimConfig:
    """How the weights are learned. The defaults are HaPTIC's: constant rate, no warm-up, everything decays and moves.

    The rooms: `backbone`; `decoder` and `readout` are what HaMeR has; `new` is what HaPTIC adds, the attentions across
    frames and to the whole picture and the depth readout, and what sees boxes. Freezing the first three trains new
    layers only.
    """

    total_steps: int = 500_000
    lr: float = 1e-5
    lr_factors: dict[str, float] = field(default_factory=dict)  # by room; those not named have 1
    discriminator_lr: float = 1e-5
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 0  # the rate grows from nothing in a straight line
    final_lr_share: float = 0.01  # where the cosine ends
    weight_decay: float = 1e-4
    decay_everything: bool = True  # False spares norms, biases and positions
    clip_norm: float | None = None  # longest gradient of all the network's weights together
    accumulate: int = 1  # batches whose gradients are averaged into a step
    freeze: tuple[Room, ...] = ()
    ema_decay: float | None = None  # of the moving average, which is then what is validated and shipped
    checkpointing: bool = False  # in the backbone: less memory, a third more time
    compile: bool = False  # torch.compile for the backbone and the decoder

    def __post_init__(self) -> None:
        self._check_numbers()
        if not 0 <= self.warmup_steps <= self.total_steps:
            raise ValueError(f"optim.warmup_steps is {self.warmup_steps}; expected 0 to total_steps")
        if not 0 <= self.final_lr_share <= 1:
            raise ValueError(f"optim.final_lr_share is {self.final_lr_share}; it is a share, from 0 to 1")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"optim.clip_norm is {self.clip_norm}; expected a length above 0, or null for none")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"optim.ema_decay is {self.ema_decay}; expected between 0 and 1, e.g. 0.999, or null")
        _check_rooms(self.lr_factors, self.freeze)

    def _check_numbers(self) -> None:
        for name in ("total_steps", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"optim.{name} is {getattr(self, name)}; it must be 1 or more")
        for name in ("lr", "discriminator_lr"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"optim.{name} is {getattr(self, name)}; expected a rate between 0 and 1, e.g. 1e-5")
        if self.weight_decay < 0:
            raise ValueError(f"optim.weight_decay is {self.weight_decay}; it must be 0 or more")


def _check_rooms(lr_factors: Mapping[str, float], freeze: tuple[Room, ...]) -> None:
    for name, factor in lr_factors.items():
        if name not in ROOMS:
            raise ValueError(f"optim.lr_factors: unknown room {name!r}; the rooms are {', '.join(ROOMS)}")
        if not 0 < factor < math.inf:
            raise ValueError(f"optim.lr_factors.{name} is {factor}; expected above 0 (to stop a room, freeze it)")
    if set(freeze) == set(ROOMS):
        raise ValueError("optim.freeze names every room; nothing would be left to train")


def lr_share(step: int, config: OptimConfig) -> float:
    """Return what the rates are multiplied by at a step (counted from 0)."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    span = max(config.total_steps - config.warmup_steps, 1)
    done = min((step - config.warmup_steps) / span, 1.0)
    return config.final_lr_share + (1 - config.final_lr_share) * 0.5 * (1 + math.cos(math.pi * done))


def room_of(parameter_name: str) -> Room:
    """Return the room that one of the network's parameters belongs to."""
    if parameter_name.startswith("backbone."):
        return "backbone"
    if is_optional(parameter_name) or parameter_name.startswith("readout.depth."):  # the one thing every HaPTIC adds
        return "new"
    return "readout" if parameter_name.startswith("readout.") else "decoder"


def freeze_rooms(network: Haptic, freeze: tuple[Room, ...]) -> None:
    """Let the weights of some rooms stay as they are."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(room_of(name) not in freeze)


def parameter_groups(network: Haptic, config: OptimConfig) -> list[dict[str, Any]]:
    """Return AdamW's groups: by room, and by whether weights decay; `lr_factor` is what their rate is multiplied by."""
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decays = config.decay_everything or not (parameter.ndim < 2 or "position" in name or "pos_embed" in name)
            groups.setdefault((room_of(name), decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.lr,
            "lr_factor": config.lr_factors.get(room, 1.0),
            "weight_decay": config.weight_decay if decays else 0.0,
            "name": room if decays else f"{room}, no decay",
        }
        for (room, decays), parameters in sorted(groups.items())
    ]


class MovingAverage:
    """A network's weights averaged over the last steps; buffers are copied.

    The first steps count more, so that the start does not linger: the decay grows as (1 + n) / (10 + n).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self.num_updates = 0
        self._parameters = {name: value.detach().clone() for name, value in network.named_parameters()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights as they are now."""
        self.num_updates += 1
        decay = min(self._decay, (1 + self.num_updates) / (10 + self.num_updates))
        parameters = dict(network.named_parameters())
        torch._foreach_lerp_(
            list(self._parameters.values()), [parameters[name] for name in self._parameters], 1 - decay
        )

    @contextmanager
    def in_place_of(self, network: nn.Module) -> Iterator[None]:
        """Let the network have the averaged weights for a while."""
        own = {name: value.detach().clone() for name, value in network.named_parameters()}
        self._write(network, self._parameters)
        try:
            yield
        finally:
            self._write(network, own)

    def to(self, device: torch.device) -> None:
        """Move the average to where the network is."""
        self._parameters = {name: value.to(device) for name, value in self._parameters.items()}

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        """Return a state dict of the network with the averaged weights."""
        return {**network.state_dict(), **self._parameters}

    def load(self, weights: Mapping[str, Tensor], num_updates: int) -> None:
        """Go on from a stored average."""
        self.num_updates = num_updates
        for name, value in self._parameters.items():
            value.copy_(weights[name])

    @staticmethod
    @torch.no_grad()
    def _write(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
        for name, parameter in network.named_parameters():
            parameter.copy_(weights[name])
