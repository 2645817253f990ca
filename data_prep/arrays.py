"""Small readers that name the file they failed on."""

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dataset import DamagedError
from haptic.files import load_plain_pickle


def read_lines(path: Path) -> list[str]:
    """Return a text file's lines that are not blank.

    Raises:
        DamagedError: it is missing, no text, or has no such line.
    """
    return [line for _number, line in numbered_lines(path)]


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Return a text file's lines that are not blank, with their numbers in it, from 1.

    Raises:
        DamagedError: it is missing, no text, or has no such line.
    """
    text = _read(path, lambda: path.read_text(encoding="utf-8"))
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise DamagedError(f"{path}: no line in it; is the download complete?")
    return lines


def read_frame_list(path: Path, pattern: str) -> list[tuple[str, int]]:
    """Return the pairs of sequence and frame number that a list of frames names.

    Args:
        pattern: a regular expression that matches a line, of two groups.

    Raises:
        DamagedError: a line is another.
    """
    frames = []
    for number, line in numbered_lines(path):
        found = re.fullmatch(pattern, line.strip())
        if found is None:
            raise DamagedError(f"{path}, line {number}: {line[:60]!r} names no frame; is the download complete?")
        frames.append((found[1], int(found[2])))
    return frames


def read_json(path: Path) -> Any:
    """Return a JSON file's content."""
    return _read(path, lambda: json.loads(path.read_text()))


def read_yaml(path: Path) -> Any:
    """Return a YAML file's content."""
    import yaml

    return _read(path, lambda: yaml.safe_load(path.read_text()))


def read_npy(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return an npy of numbers."""
    return vector({"array": _read(path, lambda: np.load(path, allow_pickle=False))}, "array", shape, where=str(path))


def read_table(path: Path, *columns: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file that has these columns.

    Raises:
        DamagedError: it is missing or no text, a column is, or a line is cut off.
    """

    def load() -> list[dict[str, str]]:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in columns if name not in (reader.fieldnames or ())]
            if lacking:
                raise ValueError(f"no column {lacking[0]}")
            rows = list(reader)
        if any(row[name] is None for row in rows for name in columns):
            raise ValueError("a line is cut off")
        return rows

    return _read(path, load)


def read_npz(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Return some arrays of an npz; the others are not unpacked."""

    def load() -> dict[str, np.ndarray]:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}

    return _read(path, load)


def read_pickle(path: Path) -> Any:
    """Return a pickle of plain data; nothing in it is run."""
    return _read(path, lambda: load_plain_pickle(path))


def read_numbers(path: Path, count: int) -> np.ndarray:
    """Return a text file of `count` numbers."""

    def load() -> np.ndarray:
        numbers = np.array(path.read_text().replace(",", " ").split(), np.float64)
        if numbers.size != count:
            raise ValueError(f"{numbers.size} numbers, expected {count}")
        return numbers

    return _read(path, load)


def object_array(path: Path) -> Any:
    """Return what `numpy.save` made of a dict: an npy of one pickled object, read without running anything."""

    def load() -> Any:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            _shape, _order, kind = reader(file)
            if not kind.hasobject:
                file.seek(0)
                return np.load(file, allow_pickle=False)
            from haptic.files import load_plain_pickle_bytes

            values = load_plain_pickle_bytes(file.read(), name=str(path))
        return values.item() if isinstance(values, np.ndarray) and values.ndim == 0 else values

    return _read(path, load)


def vector(record: Mapping[str, Any], name: str, shape: tuple[int, ...], *, where: str) -> np.ndarray:
    """Return a record's numbers in their shape, or say that they are not there."""
    try:
        values = np.asarray(record[name], np.float64)
    except (KeyError, TypeError, ValueError):
        raise DamagedError(f"{where}: {name} is missing or no numbers; expected {shape}") from None
    if values.size != int(np.prod(shape)):
        raise DamagedError(f"{where}: {name} has the shape {values.shape}; expected {shape}")
    return values.reshape(shape)


def _read(path: Path, load: Any) -> Any:
    try:
        return load()
    except FileNotFoundError:
        raise DamagedError(f"{path}: no such file") from None
    except Exception as error:  # damaged files raise anything
        raise DamagedError(f"{path}: not readable ({type(error).__name__}: {error})") from None
