"""Checkpoints of a run: a network that `infer.py` takes as it is, and with it all that training needs to go on.

They are written to a temporary name and renamed, hold tensors and plain values only, and the last few are kept beside
the best.
"""

import logging
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from haptic.models.checkpoint import save_checkpoint
from haptic.models.haptic import Haptic

logger = logging.getLogger(__name__)

TRAINING_FORMAT = 1
LAST, BEST = "last.ckpt", "best.ckpt"
NUMBERED = re.compile(r"step_(\d+)\.ckpt")


@dataclass(frozen=True)
class RunState:
    """What a run goes on from. `config` is the whole config, flat: dotted names and plain values."""

    weights: dict[str, Tensor]
    module: dict[str, Any]
    data: dict[str, Any]
    config: dict[str, Any]
    best: float | None


class CheckpointFolder:
    """The checkpoints of one run.

    `last.ckpt` is always there and complete; `step_N.ckpt` are the last few, hard links where the disk knows them.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder, self._keep = folder, keep

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.folder / LAST

    @property
    def best(self) -> Path:
        """The checkpoint with the best validation."""
        return self.folder / BEST

    def save(self, network: Haptic, state: RunState, *, hand_model_name: str, is_best: bool = False) -> bool:
        """Write a checkpoint. If the disk is full the older ones survive, and the run may go on: False is returned."""
        step = int(state.module["step"])
        numbered = self.folder / f"step_{step:08d}.ckpt"
        try:
            save_checkpoint(
                numbered,
                network,
                hand_model_name=hand_model_name,
                weights=state.weights,
                training={
                    "format": TRAINING_FORMAT,
                    "module": state.module,
                    "data": state.data,
                    "config": state.config,
                    "best": state.best,
                },
            )
            _link(numbered, self.last)
            if is_best:
                _link(numbered, self.best)
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            logger.error(
                "%s: the checkpoint of step %d could not be written (%s); %s",
                self.folder, step, reason, self._what_is_left(),
            )  # fmt: skip
            return False
        self._forget_old()
        return True

    def _what_is_left(self) -> str:
        if self.last.is_file():
            return "the one before is whole; make room, training goes on"
        return "there is none before it; make room, training goes on"

    def _forget_old(self) -> None:
        found = sorted(
            (int(match[1]), path) for path in self.folder.iterdir() if (match := NUMBERED.fullmatch(path.name))
        )
        for _step, path in found[: -self._keep]:
            path.unlink()


def read_run(path: Path) -> RunState:
    """Return what a checkpoint of a run holds.

    Raises:
        ValueError: it is damaged, no checkpoint, or one without the state of a run (as shipped weights are).
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{path}: not a readable checkpoint ({reason}); resume from an older one") from None
    training = content.get("training") if isinstance(content, dict) else None
    if not isinstance(training, dict) or training.get("format") != TRAINING_FORMAT:
        raise ValueError(
            f"{path}: these are weights without the state of a run, from which none can be resumed; start a new run "
            "from them with run.init"
        )
    return RunState(
        weights=content["state_dict"],
        module=training["module"],
        data=training["data"],
        config=training["config"],
        best=training["best"],
    )


def changed_fields(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the names of fields whose values differ, with both values."""
    missing = object()
    return [
        f"{name} (was {before.get(name)!r}, is {now.get(name)!r})"
        for name in sorted({*before, *now})
        if before.get(name, missing) != now.get(name, missing)
    ]


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, in place of whatever has that name; a copy where the disk knows no links."""
    temporary = target.with_name(f".{target.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(source)
    except OSError:
        try:
            with source.open("rb") as read, temporary.open("wb") as written:
                while piece := read.read(1 << 22):
                    written.write(piece)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    temporary.replace(target)
