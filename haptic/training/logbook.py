"""What a run has to report, step by step: `metrics.csv` always, Weights & Biases where asked for."""

import csv
import hashlib
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from haptic.files import atomic_path, atomic_write
from haptic.training.before_after import before_after_table
from haptic.training.objective import IMAGE_PREFIX, JOINT_TERMS, REFERENCE_COUNTS
from haptic.training.validation import SCORE_NAMES

logger = logging.getLogger(__name__)

CLIP_TERMS = (*JOINT_TERMS, "global_orient", "hand_pose", "betas")
COLUMNS = (
    "step", "train/loss",
    *(f"train/{name}" for name in REFERENCE_COUNTS), "train/discriminator",
    *(f"train/{IMAGE_PREFIX}{name}" for name in CLIP_TERMS),
    "train/grad_norm", "lr", "hands_seen", "hands_per_s", "data_wait_share", "seconds",
    *(f"val/{name}" for name in SCORE_NAMES),
)  # fmt: skip

WandbMode = Literal["off", "offline", "online"]


class Logbook:
    """Writes rows of numbers, and pictures, into the run's folder; one row per logged step."""

    def __init__(self, folder: Path, *, wandb: WandbMode = "off", config: Mapping[str, Any] | None = None) -> None:
        self.path = folder / "metrics.csv"
        self._folder = folder
        self._wandb = None if wandb == "off" else _start_wandb(folder, wandb, config or {})

    def go_back_to(self, step: int) -> None:
        """Forget rows after `step`: the run goes on from there and will write them again."""
        if not self.path.is_file():
            return
        with self.path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if _step_of(row) <= step]
        with atomic_write(self.path) as file:
            file.write(_lines([{name: row.get(name, "") for name in COLUMNS} for row in rows], with_header=True))

    def validations(self) -> dict[int, dict[str, float]]:
        """Return the validation scores that are written down, by step."""
        if not self.path.is_file():
            return {}
        with self.path.open(newline="") as file:
            rows = [
                (_step_of(row), {name: row.get(f"val/{name}") for name in SCORE_NAMES}) for row in csv.DictReader(file)
            ]
        told = {step: {name: float(text) for name, text in scores.items() if text} for step, scores in rows}
        return {step: scores for step, scores in told.items() if scores}

    def write_before_after(self) -> str | None:
        """Write and return the table of before and after, if step 0 was validated."""
        table = before_after_table(self.validations())
        if table is not None:
            with atomic_write(self._folder / "before_after.md") as file:
                file.write(table.encode())
        return table

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add a row; it is on disk when this returns."""
        unknown = set(numbers) - set(COLUMNS)
        assert not unknown, f"no column for {unknown}"
        is_new = not self.path.is_file()
        row = {name: _text(numbers[name]) if name in numbers else "" for name in COLUMNS}
        row["step"] = str(step)
        with self.path.open("ab") as file:
            file.write(_lines([row], with_header=is_new))
        if self._wandb is not None:
            self._wandb.log(dict(numbers), step=step)

    def add_picture(self, step: int, picture: UInt8[np.ndarray, "H W 3"]) -> None:
        """Keep a picture of predictions."""
        import cv2

        path = self._folder / "pictures" / f"step_{step:08d}.png"
        with atomic_path(path) as temporary:
            cv2.imwrite(str(temporary), picture[..., ::-1])
        if self._wandb is not None:
            import wandb

            self._wandb.log({"predictions": wandb.Image(picture)}, step=step)

    def close(self) -> None:
        """Tell Weights & Biases that this was all."""
        if self._wandb is not None:
            self._wandb.finish()


def _start_wandb(folder: Path, mode: Literal["offline", "online"], config: Mapping[str, Any]) -> Any:
    try:
        import wandb
    except ImportError:
        raise ValueError("run.wandb needs the package wandb: pip install 'haptic[train]', or run.wandb off") from None
    # The same folder is the same run, also after it was resumed.
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return wandb.init(
        project="haptic", name=folder.name, id=name, resume="allow", dir=folder, mode=mode, config=dict(config)
    )


def _text(value: float) -> str:
    # Nine digits give a single precision number back exactly: runs can be compared bit for bit.
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else format(float(value), ".9g")


def _step_of(row: Mapping[str, str]) -> int:
    text = row.get("step") or ""
    return int(text) if text.isdecimal() else 1 << 62  # a row that was cut off is forgotten too


def _lines(rows: list[dict[str, str]], *, with_header: bool) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if with_header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
