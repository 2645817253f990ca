"""What every writer of shards says and keeps: the recipe of a folder, and how long it will take."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from haptic.files import atomic_write


def keep_recipe(path: Path, values: Mapping[str, Any], *, shards: str = "its shards") -> None:
    """Write down what a folder's shards are made of, or compare it with what is written there.

    Raises:
        ValueError: they were made of something else.
    """
    recipe = json.loads(json.dumps(dict(values), default=str))
    if path.exists():
        written: Any = {}
        with suppress(ValueError):
            written = json.loads(path.read_text())
        changed = sorted(name for name in recipe if recipe[name] != written.get(name))
        if changed:
            raise ValueError(
                f"{path.parent}: {shards} were made with another {', '.join(changed)}; take another folder, or the "
                "same options to go on"
            )
        return
    with atomic_write(path) as file:
        file.write(json.dumps(recipe, indent=1).encode())


def time_in_words(seconds: float) -> str:
    """Return a time with a unit that suits it."""
    if seconds > 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
