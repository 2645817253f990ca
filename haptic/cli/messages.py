"""Errors as one line: where, what came, what was expected, what to do."""

import errno
import sys
from contextlib import suppress
from pathlib import Path

DEBUG = "HAPTIC_DEBUG"  # set, it shows where an error came from


def say(text: str) -> None:
    """Print one line for the user; nothing if nobody reads any more."""
    with suppress(OSError):
        print(f"infer.py: {text}", file=sys.stderr)  # noqa: T201


def describe_error(error: Exception, *, place: Path | None = None) -> str:
    """Return one line; `place` is named instead of a temporary file inside it."""
    if isinstance(error, OSError) and error.errno is not None:
        return _describe_os_error(error, place)
    text = " ".join(str(error).split())
    if isinstance(error, ValueError | OSError):
        return text
    return f"an error of ours ({type(error).__name__}: {text}); please report it; {DEBUG}=1 shows where it is"


def _describe_os_error(error: OSError, place: Path | None) -> str:
    path = place or error.filename
    where = f"{path}: " if path else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}the disk is full; nothing half-written was kept; free some space and say the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where}not permitted ({error.strerror}); choose another folder with --out or change its permissions"
    where = f"{error.filename}: " if error.filename else where
    return f"{where}{error.strerror or error}"
