"""The first moments of a command: what fails before a program is loaded."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent


def start(program, *arguments, first_on_path=REPOSITORY):
    environment = {**os.environ, "PYTHONPATH": f"{first_on_path}{os.pathsep}{REPOSITORY}"}
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / program), *arguments],
        env=environment, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell may ignore it for us
    )  # fmt: skip


def test_a_system_library_that_is_missing_is_said_in_one_line(tmp_path):
    (tmp_path / "cv2.py").write_text('raise ImportError("libGL.so.1: cannot open shared object file")')
    process = start("infer.py", "clip.mp4", first_on_path=tmp_path)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    assert "apt install libgl1" in errors
    assert len(errors.strip().splitlines()) == 1


def test_ctrl_c_while_everything_is_still_being_loaded_is_no_traceback():
    process = start("infer.py", "--demo")
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert len(errors.strip().splitlines()) == 1
