"""Memory that is free goes back to the system: over a long film what the C library keeps adds up."""

import ctypes
import sys
from functools import cache
from typing import Any


def give_back_memory() -> None:
    """Let the C library return what is free; between the pieces of long work. Other systems give back by themselves."""
    trim = _trim()
    if trim is not None:
        trim(0)


def give_back_memory_every(count: int, number: int) -> None:
    """Do it after every `count`-th of the pieces, which are numbered from 0."""
    if number % count == count - 1:
        give_back_memory()


@cache
def _trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None  # glibc's own
