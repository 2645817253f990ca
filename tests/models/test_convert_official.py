"""The converter of official weights, as a user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from haptic.models.checkpoint import load_checkpoint, load_official, read_official

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "checkpoints" / "convert_official.py"


def convert(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments), "--backbone-heads", "4", "--decoder-heads", "2"]
    return subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)


def test_the_converted_file_is_the_same_network_without_the_licensed_hand(shared_dir, tmp_path):
    official, converted = shared_dir / "golden/haptic_tiny_module_state.ckpt", tmp_path / "ours.ckpt"
    done = convert(official, converted)
    assert done.returncode == 0, done.stderr
    assert "13 of mano" in done.stdout
    assert "46 of discriminator" in done.stdout
    model, info = load_checkpoint(converted)
    assert info.hand_model_name == "mano"
    names = torch.load(converted, weights_only=True)["state_dict"]
    assert not any(name.startswith("mano") for name in names)
    expected = load_official(read_official(official), backbone_heads=4, decoder_heads=2).state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=0, rtol=0)
    again = convert(official, converted)
    assert again.returncode == 2
    assert "exists already" in again.stderr


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_what_cannot_be_converted_is_said_in_one_line_and_leaves_no_file(tmp_path, content):
    source, target = tmp_path / "in.ckpt", tmp_path / "out.ckpt"
    if content is not None:
        source.write_bytes(content)
    done = convert(source, target)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not target.exists()
