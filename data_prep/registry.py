"""Finds the data sets: every module in `data_prep.datasets` names its own. Recognises a download by its files."""

import importlib
import pkgutil
from functools import lru_cache
from pathlib import Path

import data_prep.datasets
from data_prep.dataset import DataSet

MAX_LOOKED_AT = 200  # folders in which a download is looked for


@lru_cache(maxsize=1)
def all_data_sets() -> dict[str, DataSet]:
    """Return the data sets by name."""
    found: dict[str, DataSet] = {}
    for module in sorted(one.name for one in pkgutil.iter_modules(data_prep.datasets.__path__)):
        for data_set in importlib.import_module(f"data_prep.datasets.{module}").DATA_SETS:
            assert data_set.name not in found, f"two data sets are named {data_set.name}"
            found[data_set.name] = data_set
    return found


def find_data_set(name: str) -> DataSet:
    """Return a data set by its name.

    Raises:
        ValueError: there is none of that name.
    """
    sets = all_data_sets()
    if name not in sets:
        raise ValueError(f"there is no data set {name!r}; there are {', '.join(sorted(sets))}")
    return sets[name]


def check_root(data_set: DataSet, root: Path) -> None:
    """Refuse a folder that is not a download of the set, and say what it rather looks like.

    Raises:
        ValueError: it is none; the first file that was looked for in vain is named.
    """
    if not root.is_dir():
        wanted = f"the download of {data_set.title}" if data_set.link else "the folder of your videos"
        raise ValueError(f"--root {root}: there is no such folder; expected {wanted}")
    lacking = _first_lacking(data_set, root)
    if lacking is None:
        return
    raise ValueError(
        f"--root {root}: no {lacking} here, which the download of {data_set.title} has; {_guess(data_set, root)}. See "
        "docs/datasets.md for what to download"
    )


def _first_lacking(data_set: DataSet, root: Path) -> str | None:
    for pattern in data_set.layout:
        if not any(next(iter(root.glob(one)), None) for one in pattern.split(" or ")):
            return pattern
    return None


def _guess(wanted: DataSet, root: Path) -> str:
    below = sorted(path for path in root.iterdir() if path.is_dir())[:MAX_LOOKED_AT]
    for folder in (*below, root.parent):
        if _first_lacking(wanted, folder) is None:
            return f"it lies in {folder}: give that as --root"
    for folder, place in ((root, "this folder"), *((path, f"{path.name}/ in it") for path in below)):
        fits = [one for one in all_data_sets().values() if one.layout and _first_lacking(one, folder) is None]
        if fits:
            best = max(fits, key=lambda one: len(one.layout))
            return f"{place} rather looks like {best.title} ({best.name})"
    return "it looks like no data set that is known here"
