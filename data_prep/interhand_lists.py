"""InterHand2.6M's annotations as small arrays: read once, kept in the cache folder, shared by all processes.

The JSON files of a split hold some gigabytes as Python objects. They are gone through frame by frame; what is kept are
a capture's frame numbers and one row of numbers for each, a hundredth of that.
"""

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from data_prep.arrays import vector
from data_prep.dataset import DamagedError
from data_prep.json_stream import stream_entries
from haptic.files import atomic_write, load_plain_npz

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "haptic" / "data_prep"
SIDES = ("right", "left")
JOINTS, MANO_NUMBERS = 42, 61
MANO_PARTS = (("pose", (48,)), ("shape", (10,)), ("trans", (3,)))


@dataclass(frozen=True)
class FrameRows:
    """One row for each frame of a capture, in the order of the frames' numbers; NaN where nothing is known."""

    frames: Int[np.ndarray, " N"]
    values: Float[np.ndarray, "N ..."]
    flags: Bool[np.ndarray, "N K"]

    def row(self, frame: int) -> int | None:
        """Return the row of a frame, if it has one."""
        place = int(np.searchsorted(self.frames, frame))
        return place if place < len(self.frames) and self.frames[place] == frame else None


def joint_rows(path: Path) -> dict[str, FrameRows]:
    """Return joints by capture: values (N, 42, 3) in millimetres; flags: 42 joints valid, interacting, damaged."""
    return _rows(path, _joint_entry, (JOINTS, 3), JOINTS + 2)


def mano_rows(path: Path) -> dict[str, FrameRows]:
    """Return fits by capture: values (N, 2, 61), right hand first; flags: damaged."""
    return _rows(path, _mano_entry, (len(SIDES), MANO_NUMBERS), 1)


def _joint_entry(entry: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    flags = np.zeros(JOINTS + 2, bool)
    flags[:JOINTS] = vector(entry, "joint_valid", (JOINTS,), where=where) > 0
    flags[JOINTS] = entry.get("hand_type") == "interacting"
    return vector(entry, "world_coord", (JOINTS, 3), where=where), flags


def _mano_entry(entry: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    values = np.full((len(SIDES), MANO_NUMBERS), np.nan)
    for place, side in enumerate(SIDES):
        if (entry or {}).get(side) is not None:
            parts = [vector(entry[side], name, shape, where=f"{where}, {side}") for name, shape in MANO_PARTS]
            values[place] = np.concatenate(parts)
    return values, np.zeros(1, bool)


def _rows(path: Path, read: Any, shape: tuple[int, ...], num_flags: int) -> dict[str, FrameRows]:
    """Return the list of a file from the cache; make it where there is none of this very file."""
    state = path.stat()
    name = f"{path.resolve()} {state.st_size} {state.st_mtime_ns}"
    cached = CACHE / f"{path.stem}-{hashlib.sha256(name.encode()).hexdigest()[:24]}.npz"
    if cached.is_file():
        try:
            return _unpacked(load_plain_npz(cached))
        except (ValueError, KeyError):
            cached.unlink(missing_ok=True)  # cut off, or of another version
    arrays = _packed(path, read, shape, num_flags)
    try:
        with atomic_write(cached) as file:
            file.write(_npz(arrays))
    except OSError:
        pass  # every process then reads for itself
    return _unpacked(arrays)


def _packed(path: Path, read: Any, shape: tuple[int, ...], num_flags: int) -> dict[str, np.ndarray]:
    found: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = {}
    for capture, frame, entry in stream_entries(path):
        try:
            values, flags = read(entry, f"{path}, {capture}, {frame}")
        except (DamagedError, AttributeError):
            values, flags = np.full(shape, np.nan), np.zeros(num_flags, bool)
            flags[-1] = True
        found.setdefault(capture, []).append((int(frame), values.astype(np.float32), flags))
    arrays = {}
    for capture, rows in found.items():
        rows.sort(key=lambda row: row[0])
        arrays[f"{capture}/frames"] = np.array([row[0] for row in rows], np.int64)
        arrays[f"{capture}/values"] = np.stack([row[1] for row in rows])
        arrays[f"{capture}/flags"] = np.stack([row[2] for row in rows])
    return arrays


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _unpacked(arrays: dict[str, np.ndarray]) -> dict[str, FrameRows]:
    captures = {name.split("/")[0] for name in arrays}
    return {
        capture: FrameRows(*(arrays[f"{capture}/{part}"] for part in ("frames", "values", "flags")))
        for capture in captures
    }


def damaged_frames(rows: FrameRows, frames: list[int]) -> Iterator[int]:
    """Give the frames whose entry could not be read."""
    for frame in frames:
        row = rows.row(frame)
        if row is not None and rows.flags[row, -1]:
            yield frame
