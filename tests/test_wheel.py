"""An installed wheel is whole: it finds the hand, the detector's model and the shipped clip from any folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent

CHECK = """
import haptic
from pathlib import Path
from haptic.files import PACKAGE_ASSETS, find_asset
from haptic.hand.model import load_hand_model
assert Path(haptic.__file__).is_relative_to(Path({target!r})), haptic.__file__
for name in ("hand_landmarker.task", "openhand/OPENHAND_RIGHT.npz", "openhand/LICENSE", "demo/two_hands.mp4",
    "openhand_tiny.ckpt"):
    assert find_asset(name).is_relative_to(PACKAGE_ASSETS), name
print(load_hand_model().name)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder into which the wheel of this checkout was installed."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    return target


def run_from(folder: Path, installed: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, "-P", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_a_wheel_finds_what_ships_with_it_from_another_folder(installed, tmp_path):
    result = run_from(tmp_path, installed, "-c", CHECK.format(target=str(installed)))
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("openhand-")


def test_a_wheel_reconstructs_a_clip_from_another_folder(installed, tmp_path):
    arguments = ["-m", "haptic.cli", "--demo", "--max-frames", "4", "--out", "out", "--quiet", "--no-overlay"]
    arguments += ["--init", "network"]  # with the weights that ship
    result = run_from(tmp_path, installed, *arguments)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "two_hands" / "trajectory.npz").is_file()
