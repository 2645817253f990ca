"""Where infer.py and train.py begin: what fails before a program is loaded is said in one line too.

Imports take seconds and load system libraries (OpenCV's libGL, MediaPipe's libEGL); so nothing heavy is imported here.
"""

import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from haptic.cli.messages import DEBUG

INTERRUPTED = 130
PROGRAMS = {"infer": "haptic.cli.main", "train": "haptic.cli.train"}


def infer() -> int:
    """Run `infer.py`, also known as the command `haptic`."""
    return run("infer")


def train() -> int:
    """Run `train.py`."""
    return run("train")


def run(name: str) -> int:
    """Load a program and run it; return its exit code. Ctrl-C is 130 from the first moment on."""
    try:
        with _leaving_at_once(name):
            program = importlib.import_module(PROGRAMS[name])
        return int(program.main())
    except KeyboardInterrupt:
        print(f"{name}.py: interrupted", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except ImportError as error:
        if os.environ.get(DEBUG):
            raise
        print(f"{name}.py: {describe_import(error)}", file=sys.stderr)  # noqa: T201
        return 2


@contextmanager
def _leaving_at_once(name: str) -> Iterator[None]:
    """End the process on Ctrl-C: libraries that are half loaded make anything of a KeyboardInterrupt."""

    def leave(_number: int, _frame: Any) -> None:
        os.write(2, f"{name}.py: interrupted\n".encode())
        os._exit(INTERRUPTED)

    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or usual is not signal.default_int_handler:
        yield  # somebody else's process, or one that is not to hear Ctrl-C
        return
    signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def describe_import(error: ImportError) -> str:
    """Say what could not be loaded, and what to do about it."""
    reason = " ".join(str(error).split())
    if ".so" in reason:
        return (
            f"a system library is missing ({reason}); on Debian and Ubuntu: apt install libgl1 libegl1 libgles2 "
            "(README, installation)"
        )
    return f"cannot be loaded ({reason}); is haptic's environment active (. .venv/bin/activate), and installed whole?"
