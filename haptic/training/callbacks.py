"""What happens between steps: numbers are written, tracks validated, pictures drawn, checkpoints kept."""

import logging
import signal
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.utilities.exceptions import SIGTERMException

from haptic.data.batches import ClipBatch, TrainingBatch
from haptic.data.datamodule import TrainingData
from haptic.data.loader import said_plainly
from haptic.hand.model import HandModel
from haptic.records import HandPrediction
from haptic.training.checkpointing import CheckpointFolder, RunState
from haptic.training.logbook import Logbook
from haptic.training.module import TrainingModule
from haptic.training.pictures import draw_predictions
from haptic.training.validation import (
    ScoredWindow,
    best_value,
    gather_windows,
    scored_windows,
    validation_scores,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cadence:
    """How often what happens, in steps; None is never."""

    log: int
    validate: int | None
    save: int
    save_minutes: float | None


class RunKeeper(pl.Callback):
    """Keeps the books of a run. Every process counts and validates; the first one writes.

    All is counted in the run's own steps, not in Lightning's, which begin anew when a run is resumed.

    Args:
        compares: validate before the first step too, and write a table of before and after.
    """

    def __init__(
        self,
        data: TrainingData,
        hand_model: HandModel,
        *,
        cadence: Cadence,
        total_steps: int,
        checkpoints: CheckpointFolder,
        logbook: Logbook | None,
        config: dict[str, Any],
        resumed: RunState | None = None,
        compares: bool = False,
    ) -> None:
        self._data, self._hand_model = data, hand_model
        self._cadence, self._total_steps = cadence, total_steps
        self._checkpoints, self._logbook = checkpoints, logbook
        self._config = config
        self._resumed = resumed
        self._compares = compares and cadence.validate is not None
        self._best = None if resumed is None else resumed.best
        self._step = 0 if resumed is None else int(resumed.module["step"])
        self._hands_seen = 0 if resumed is None else int(resumed.module["hands_seen"])
        self._saved_step = self._step
        self._saved_at = self._logged_at = time.monotonic()
        self._hands_logged = self._hands_seen
        self._wait_logged_s = 0.0
        self._started_at = time.monotonic()
        self._is_stopping = False  # asked to by SIGTERM

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give resumed optimisers their memory back, now that they are there."""
        module = _ours(pl_module)
        if self._resumed is not None:
            module.load_optimisers(self._resumed.module)
            self._resumed = None
        if module.step >= self._total_steps:
            trainer.should_stop = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See what the weights are worth before they are changed. Then count time: building and listing are over."""
        if self._compares and self._step == 0:
            scores = self._validate(trainer, _ours(pl_module))
            if trainer.is_global_zero:
                self._report(_named(scores))
        self._saved_at = self._logged_at = self._started_at = time.monotonic()
        self._wait_logged_s = self._data.loader.wait_s
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            # Lightning's own handler speaks to the other processes at once, in the middle of what they are exchanging.
            signal.signal(signal.SIGTERM, self._note_stop)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: TrainingBatch, batch_idx: int
    ) -> None:
        """Do what is due after a step."""
        module = _ours(pl_module)
        if module.step == self._step:
            return  # part of a step whose gradients are still being gathered
        self._step = module.step
        assert module.report is not None
        self._hands_seen += module.report.num_hands * trainer.world_size
        is_last = self._step >= self._total_steps
        numbers: dict[str, float] = {}
        if self._is_due(self._cadence.log) or self._step == 1 or is_last:
            numbers |= self._training_numbers(module)
        is_best = False
        scores: dict[str, float] = {}
        if self._cadence.validate is not None and (self._is_due(self._cadence.validate) or is_last):
            scores = self._validate(trainer, module)
            is_best = self._is_best(scores)
            numbers |= _named(scores)
        if numbers and trainer.is_global_zero:
            self._report(numbers)
        if scores and self._compares and self._logbook is not None:
            table = self._logbook.write_before_after()
            if is_last and table is not None:
                logger.info("\n%s", table)
        if self._is_save_due() or is_best or is_last:
            is_kept = self._save(trainer, module, is_best=is_best)
            if is_last and not is_kept:
                raise OSError(f"{self._checkpoints.folder}: the run is over, but its last step could not be kept")
        if is_last:
            trainer.should_stop = True
        else:
            self._stop_if_asked(trainer, module)

    def _stop_if_asked(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        """End the run of several processes where one of them was asked to; `on_exception` keeps what was learned."""
        if trainer.world_size > 1 and self._anyone_stops(module.device):
            raise SIGTERMException

    def _note_stop(self, _number: int, _frame: Any) -> None:
        self._is_stopping = True

    def _anyone_stops(self, device: torch.device) -> bool:
        """Say whether any process was asked to end; all of them hear it after the same step."""
        asked = torch.tensor(float(self._is_stopping), device=device)
        dist.all_reduce(asked, op=dist.ReduceOp.MAX)
        return bool(asked > 0)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Keep what was learned when a cluster asks the run to end; it does so between steps."""
        if isinstance(exception, SIGTERMException) and self._saved_step != self._step:
            self._save(trainer, _ours(pl_module), is_best=False)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the books."""
        if self._logbook is not None:
            self._logbook.close()

    def _is_due(self, every: int) -> bool:
        return self._step % every == 0

    def _is_save_due(self) -> bool:
        minutes = self._cadence.save_minutes
        return self._is_due(self._cadence.save) or (
            minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes
        )

    def _training_numbers(self, module: TrainingModule) -> dict[str, float]:
        """Return a row's numbers, means over all processes."""
        report = module.report
        assert report is not None
        names = ["train/loss", *(f"train/{name}" for name in report.terms), "train/grad_norm"]
        values = torch.stack([report.loss, *report.terms.values(), report.grad_norm.to(report.loss)])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(values)
            values = values / dist.get_world_size()
        now, wait_s = time.monotonic(), self._data.loader.wait_s
        elapsed_s = max(now - self._logged_at, 1e-9)
        numbers = dict(zip(names, values.tolist(), strict=True))
        numbers |= {
            "lr": report.lr,
            "hands_seen": self._hands_seen,
            "hands_per_s": (self._hands_seen - self._hands_logged) / elapsed_s,
            "data_wait_share": min((wait_s - self._wait_logged_s) / elapsed_s, 1.0),
            "seconds": now - self._started_at,
        }
        self._logged_at, self._hands_logged, self._wait_logged_s = now, self._hands_seen, wait_s
        return numbers

    def _validate(self, trainer: pl.Trainer, module: TrainingModule) -> dict[str, float]:
        """Return the scores that the labels tell; the same in every process."""
        started_at, wait_s = time.monotonic(), self._data.loader.wait_s
        scores, picture = self.validate(trainer, module)
        if picture is not None and self._logbook is not None:
            self._logbook.add_picture(self._step, draw_predictions(*picture, self._hand_model))
        # What validation took is no time of training.
        self._logged_at += time.monotonic() - started_at
        self._wait_logged_s += self._data.loader.wait_s - wait_s
        return {name: score for name, score in scores.items() if score == score}

    def _is_best(self, scores: dict[str, float]) -> bool:
        value = best_value(scores)
        is_best = value == value and (self._best is None or value < self._best)
        if is_best:
            self._best = value
        return is_best

    @torch.no_grad()
    def validate(
        self, trainer: pl.Trainer, module: TrainingModule
    ) -> tuple[dict[str, float], tuple[HandPrediction, ClipBatch] | None]:
        """Return the scores of the network that would be shipped, and the first batch with its answers."""
        loader = self._data.val_dataloader()
        if not isinstance(loader, torch.utils.data.DataLoader):
            return {}, None
        windows: list[tuple[str, ScoredWindow]] = []
        first: tuple[HandPrediction, ClipBatch] | None = None
        network = module.network
        network.eval()
        weights: AbstractContextManager[None] = (
            nullcontext() if module.average is None else module.average.in_place_of(network)
        )
        with weights, trainer.precision_plugin.forward_context():
            for cpu_batch in said_plainly(loader):
                batch = cpu_batch.to(module.device)
                clip = batch.as_clip()
                answer = network.predict_clips([clip])[0]
                windows += scored_windows(answer, batch)
                first = first or (answer, batch)
        module.train()
        everything = gather_windows(windows)
        device = self._hand_model.weights.device
        scores = validation_scores([(key, one.to(device)) for key, one in everything], self._hand_model)
        return scores, first

    def _report(self, numbers: dict[str, float]) -> None:
        assert self._logbook is not None
        self._logbook.write(self._step, numbers)
        parts = [f"step {self._step}"]
        if "train/loss" in numbers:
            parts += [
                f"loss {numbers['train/loss']:.4g}",
                f"{numbers['hands_per_s']:.1f} hands/s",
                f"waiting for data {100 * numbers['data_wait_share']:.0f} %",
            ]
        parts += [_said(name.removeprefix("val/"), value) for name, value in numbers.items() if name.startswith("val/")]
        logger.info("  ".join(parts))

    def _save(self, trainer: pl.Trainer, module: TrainingModule, *, is_best: bool) -> bool:
        """Write a checkpoint; say whether it is on the disk (or another process's to write)."""
        self._saved_at, self._saved_step = time.monotonic(), self._step
        if not trainer.is_global_zero:
            return True
        place = {**self._data.state_dict(), "next_batch": module.next_batch}
        state = RunState(
            weights=module.averaged_weights(),
            module={**module.training_state(), "hands_seen": self._hands_seen},
            data=place,
            config=self._config,
            best=self._best,
        )
        return self._checkpoints.save(module.network, state, hand_model_name=self._hand_model.name, is_best=is_best)


def _named(scores: dict[str, float]) -> dict[str, float]:
    """Return validation scores by their names in the books."""
    return {f"val/{name}": score for name, score in scores.items()}


def _said(name: str, value: float) -> str:
    if name.endswith("_percent"):
        return f"{name.removesuffix('_percent')} {value:.1f} %"
    return f"{name.removesuffix('_mm')} {value:.1f} mm"


def _ours(module: pl.LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module
