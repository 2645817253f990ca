"""Whole runs through the command line: what they leave behind, how they go on, what they refuse."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from haptic.cli.train import main
from haptic.models.checkpoint import load_checkpoint
from haptic.training.logbook import COLUMNS, Logbook

REPOSITORY = Path(__file__).parent.parent.parent
# What a step computes; the other columns tell of the clock.
EXACT = [name for name in COLUMNS if name.startswith(("train/", "val/"))] + ["step", "lr", "hands_seen"]


def rows_of(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def exact_rows(folder):
    return [[row[name] for name in EXACT] for row in rows_of(folder)]


def run(config, *more):
    return main(["--config", str(config), *map(str, more)])


class Crash(BaseException):
    """Ends a run as a killed process does: nothing of ours sees it."""


@pytest.fixture
def crash_at(monkeypatch):
    """Lets the next run end while it writes the row of a step."""

    def arm(step):
        write = Logbook.write

        def crashing(self, at, numbers):
            if at == step:
                raise Crash
            write(self, at, numbers)

        monkeypatch.setattr(Logbook, "write", crashing)

    yield arm
    monkeypatch.undo()


@pytest.fixture
def crash_and_go_on(crash_at, monkeypatch):
    """Lets a run end while it writes the row of a step, and says its command again."""

    def both(step, config, *arguments):
        crash_at(step)
        with pytest.raises(Crash):
            run(config, *arguments)
        monkeypatch.undo()
        assert run(config, *arguments) == 0

    return both


def test_a_run_leaves_numbers_pictures_and_a_network_that_inference_takes(tiny_yaml, tmp_path, open_hand):
    assert run(tiny_yaml, "--run.validate_every_steps", 3) == 0
    rows = rows_of(tmp_path / "run")
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert all(float(row["train/loss"]) > 0 for row in rows)
    assert float(rows[2]["val/ga_mpjpe_mm"]) > 0
    assert (tmp_path / "run/config.yaml").is_file()
    assert len(list((tmp_path / "run/pictures").glob("*.png"))) == 2
    network, info = load_checkpoint(tmp_path / "run/last.ckpt")
    assert info.hand_model_name == open_hand.name
    assert network.config.crop_side_px == 32
    best, _info = load_checkpoint(tmp_path / "run/best.ckpt")
    assert best.has_depth
    assert len(list((tmp_path / "run").glob("step_*.ckpt"))) == 3


def test_a_run_that_was_cut_off_goes_on_bit_for_bit(tiny_yaml, tmp_path, crash_at, monkeypatch):
    assert run(tiny_yaml, "--run.out", tmp_path / "whole", "--run.validate_every_steps", 4) == 0
    crash_at(4)
    with pytest.raises(Crash):
        run(tiny_yaml, "--run.validate_every_steps", 4)
    monkeypatch.undo()
    assert [row["step"] for row in rows_of(tmp_path / "run")] == ["1", "2", "3"]  # the checkpoint is of step 2
    torch.rand(100)  # the state of the process has no say
    assert run(tiny_yaml, "--run.validate_every_steps", 4) == 0
    assert exact_rows(tmp_path / "run") == exact_rows(tmp_path / "whole")
    ours, theirs = (torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("run", "whole"))
    for name, value in ours["state_dict"].items():
        assert torch.equal(value, theirs["state_dict"][name]), name
    for mine, other in zip(ours["training"]["module"]["optimisers"], theirs["training"]["module"]["optimisers"],
                           strict=True):  # fmt: skip
        for number, memory in mine["state"].items():
            assert all(torch.equal(memory[key], other["state"][number][key]) for key in memory)


def test_a_finished_run_has_nothing_left_to_do(tiny_yaml, tmp_path):
    assert run(tiny_yaml, "--optim.total_steps", 3) == 0
    before = exact_rows(tmp_path / "run")
    assert run(tiny_yaml, "--optim.total_steps", 3) == 0
    assert exact_rows(tmp_path / "run") == before


def test_a_changed_config_is_named_field_by_field_and_can_be_insisted_on(tiny_yaml, tmp_path, capsys):
    assert run(tiny_yaml, "--optim.total_steps", 3) == 0
    assert run(tiny_yaml, "--optim.total_steps", 4, "--optim.lr", 0.002, "--run.log_every_steps", 2) == 2
    message = capsys.readouterr().err
    assert "optim.lr (was 0.001, is 0.002)" in message
    assert "optim.total_steps (was 3, is 4)" in message
    assert "log_every_steps" not in message
    assert run(tiny_yaml, "--optim.total_steps", 4, "--run.allow_changes", "true") == 0
    assert rows_of(tmp_path / "run")[-1]["step"] == "4"


def test_accumulated_batches_make_one_step(tiny_yaml, tmp_path):
    assert run(tiny_yaml, "--optim.accumulate", 2, "--optim.total_steps", 2) == 0
    rows = rows_of(tmp_path / "run")
    assert [row["step"] for row in rows] == ["1", "2"]
    assert [row["hands_seen"] for row in rows] == ["20", "40"]
    state = torch.load(tmp_path / "run/last.ckpt", weights_only=True)["training"]
    assert state["data"]["next_batch"] == 4


def test_a_run_can_start_from_the_weights_of_another(tiny_yaml, tmp_path):
    assert run(tiny_yaml, "--run.out", tmp_path / "first", "--optim.total_steps", 2) == 0
    weights = tmp_path / "first/last.ckpt"
    arguments = ["--run.init", weights, "--optim.total_steps", 1, "--optim.lr", 1e-12, "--optim.ema_decay", "null"]
    assert run(tiny_yaml, *arguments, "--network", "null") == 0
    first, _info = load_checkpoint(weights)
    second, _info = load_checkpoint(tmp_path / "run/last.ckpt")
    for (name, before), after in zip(first.named_parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(before, after, msg=name)


def test_a_run_from_weights_compares_before_and_after_if_cut_off_too(tiny_yaml, tmp_path, crash_and_go_on):
    assert run(tiny_yaml, "--run.out", tmp_path / "first", "--optim.total_steps", 2) == 0
    arguments = ["--run.init", tmp_path / "first/last.ckpt", "--run.validate_every_steps", 3]
    assert run(tiny_yaml, *arguments, "--run.out", tmp_path / "whole") == 0
    rows = rows_of(tmp_path / "whole")
    assert [row["step"] for row in rows] == ["0", "1", "2", "3", "4", "5", "6"]
    assert rows[0]["train/loss"] == ""
    assert float(rows[0]["val/ga_mpjpe_mm"]) > 0
    table = (tmp_path / "whole/before_after.md").read_text()
    for name in ("GA-MPJPE", "FA-MPJPE", "PA-MPJPE", "RA-MPJPE", "ACC-NORM", "2D error"):
        assert f"| {name}, " in table
    assert f"{float(rows[0]['val/ga_mpjpe_mm']):.1f} | {float(rows[6]['val/ga_mpjpe_mm']):.1f} |" in table
    crash_and_go_on(4, tiny_yaml, *arguments)
    assert exact_rows(tmp_path / "run") == exact_rows(tmp_path / "whole")
    assert (tmp_path / "run/before_after.md").read_text() == table


def test_a_run_that_never_saved_looks_again_before_its_first_step(tiny_yaml, tmp_path, crash_at, monkeypatch):
    assert run(tiny_yaml, "--run.out", tmp_path / "first", "--optim.total_steps", 1) == 0
    arguments = ["--run.init", tmp_path / "first/last.ckpt", "--run.validate_every_steps", 2, "--optim.total_steps", 2]
    crash_at(1)
    with pytest.raises(Crash):
        run(tiny_yaml, *arguments)
    monkeypatch.undo()
    assert run(tiny_yaml, *arguments) == 0
    assert [row["step"] for row in rows_of(tmp_path / "run")] == ["0", "1", "2"]


def test_validation_before_the_first_step_changes_no_loss(tiny_yaml, tmp_path):
    assert run(tiny_yaml, "--run.out", tmp_path / "first", "--optim.total_steps", 1) == 0
    arguments = ["--run.init", tmp_path / "first/last.ckpt", "--optim.total_steps", 3]
    assert run(tiny_yaml, *arguments, "--run.out", tmp_path / "blind") == 0
    assert not (tmp_path / "blind/before_after.md").exists()
    assert run(tiny_yaml, *arguments, "--run.validate_every_steps", 3) == 0
    losses = [[row["train/loss"] for row in rows_of(tmp_path / name)] for name in ("blind", "run")]
    assert losses[1] == ["", *losses[0]]


def test_weights_of_another_size_are_refused(tiny_yaml, tmp_path, capsys):
    assert run(tiny_yaml, "--run.out", tmp_path / "first", "--optim.total_steps", 1) == 0
    weights = tmp_path / "first/last.ckpt"
    assert run(tiny_yaml, "--run.init", weights, "--network.decoder.mlp_dim", 48) == 2
    assert "another size than the config's network" in capsys.readouterr().err


def test_weights_that_go_on_with_narrower_crops_see_hands_of_the_same_size(tiny_yaml, tmp_path):
    first = ["--run.out", tmp_path / "first", "--optim.total_steps", 1]
    assert run(tiny_yaml, *first) == 0
    arguments = ["--run.init", tmp_path / "first/last.ckpt", "--optim.total_steps", 1, "--optim.lr", 1e-12]
    assert run(tiny_yaml, *arguments, "--optim.ema_decay", "null", "--network.box_share", 0.5) == 0
    wide, narrow = (load_checkpoint(tmp_path / name / "last.ckpt")[0].readout for name in ("first", "run"))
    token = torch.randn(1, 3, wide.camera.in_features)
    before, after = wide(token), narrow(token)
    torch.testing.assert_close(after.scale, 2 * before.scale)  # s is 2 over the crop's width in metres
    torch.testing.assert_close(after.shift_crop, before.shift_crop)
    torch.testing.assert_close(after.hand_pose, before.hand_pose)


def test_an_ablation_starts_from_weights_that_have_more_attentions(tiny_yaml, tmp_path):
    assert run(tiny_yaml, "--run.out", tmp_path / "first", "--optim.total_steps", 1) == 0
    arguments = ["--run.init", tmp_path / "first/last.ckpt", "--network.decoder.added_attention", "[global]"]
    assert run(tiny_yaml, *arguments, "--optim.total_steps", 1) == 0


def test_a_network_that_begins_to_see_joints_goes_on_after_a_crash_and_may_forget_them(
    tiny_yaml, tmp_path, crash_and_go_on, caplog
):
    sees = ["--network.decoder.sees_joints", "true", "--objective.projection", "camera"]
    assert run(tiny_yaml, "--run.out", tmp_path / "first", "--optim.total_steps", 1) == 0
    arguments = ["--run.init", tmp_path / "first/last.ckpt", *sees, "--run.save_every_steps", 1]
    assert run(tiny_yaml, *arguments, "--run.out", tmp_path / "whole") == 0
    assert "guide, joint_reader are new, and begin silent" in caplog.text
    crash_and_go_on(4, tiny_yaml, *arguments)
    assert exact_rows(tmp_path / "run") == exact_rows(tmp_path / "whole")
    seeing, _info = load_checkpoint(tmp_path / "run/last.ckpt")
    assert seeing.joint_reader.contract.weight.abs().max() > 0  # it has learned to speak
    assert run(tiny_yaml, "--run.init", tmp_path / "run/last.ckpt", "--run.out", tmp_path / "blind") == 0
    assert "guide, joint_reader are left out" in caplog.text


@pytest.mark.parametrize(("arguments", "words"), [
    (["--optim.learning_rate", "1"], ["optim.learning_rate"]),
    (["--optim.lr", "fast"], ["optim.lr"]),
    (["--optim.accumulate", "0"], ["optim.accumulate is 0"]),
    (["--data.video", "{bones: 0.4}"], ["shares sum to 0.4"]),
    (["--data.image", "{stones: 1.0}"], ["unknown set 'stones'", "bones"]),
    (["--data.sets", "{bones: {shards: /no/such/*.tar}}"], ["set bones", "/no/such/*.tar"]),
    (["--run.init", "/no/such.ckpt"], ["/no/such.ckpt"]),
    (["--trainer.precision", "int3"], ["trainer.precision is 'int3'", "bf16-mixed"]),
    (["--network.decoder.added_attention", "[sideways]"], ["network", "added_attention", "cross_view, global"]),
    (["--network.backbone.dmi", "3"], ["train.py: network: ", "backbone.dmi"]),
    (["--network.decoder.heads", "0"], ["train.py: decoder.heads is 0; it must be 1 or more"]),
    (["--optim.total_steps", "few"], ["train.py: --optim.total_steps is 'few'; expected a whole number"]),
    (["--optim.freeze", "[kitchen]"], ["optim.freeze is 'kitchen'", "backbone, decoder, readout, new"]),
    (["--optim.freeze", "[backbone,decoder,readout,new]"], ["nothing would be left"]),
    (["--objective.weights.betas", "-1"], ["betas is -1"]),
])  # fmt: skip
def test_what_cannot_be_used_is_said_in_one_line(tiny_yaml, arguments, words, capsys):
    assert run(tiny_yaml, *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0], lines[0]


def test_a_damaged_checkpoint_is_refused_in_one_line(tiny_yaml, tmp_path, capsys):
    assert run(tiny_yaml, "--optim.total_steps", 2) == 0
    last = tmp_path / "run/last.ckpt"
    last.unlink()
    last.write_bytes(b"PK\x03\x04 cut off")
    capsys.readouterr()
    assert run(tiny_yaml, "--optim.total_steps", 2) == 2
    assert "not a readable checkpoint" in capsys.readouterr().err


def start(arguments, **environment):
    """Start a run in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_for_lines(process, metrics, count):
    """Wait until a run has written more than so many lines of its metrics."""
    deadline = time.monotonic() + 300
    while not (metrics.is_file() and metrics.read_text().count("\n") > count):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_run_killed_at_a_random_moment_goes_on_bit_for_bit(tiny_yaml, tmp_path):
    steps = 40
    more = ["--optim.total_steps", str(steps), "--data.num_workers", "1", "--run.save_every_steps", "7"]
    command = ["train.py", "--config", str(tiny_yaml), *more]
    whole = start([*command, "--run.out", str(tmp_path / "whole")])
    killed = start(command)
    wanted = 8 + int.from_bytes(os.urandom(2)) % (steps - 16)
    wait_for_lines(killed, tmp_path / "run/metrics.csv", wanted)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert whole.wait(timeout=300) == 0, whole.stderr.read().decode()
    again = start([*command, "--data.num_workers", "0"])
    _out, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors.decode()
    assert b"going on after step" in errors
    assert exact_rows(tmp_path / "run") == exact_rows(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_that_is_asked_to_end_keeps_its_last_step_and_says_so(tiny_yaml, tmp_path):
    process = start(["train.py", "--config", str(tiny_yaml), "--optim.total_steps", "5000", "--run.save_every_steps",
                     "5000"])  # fmt: skip
    wait_for_lines(process, tmp_path / "run/metrics.csv", 5)
    process.send_signal(signal.SIGTERM)
    _out, errors = process.communicate(timeout=120)
    assert process.returncode == 143
    kept = torch.load(tmp_path / "run/last.ckpt", weights_only=True)["training"]["module"]["step"]
    assert f"asked to end after step {kept};" in errors.decode()
    assert rows_of(tmp_path / "run")[-1]["step"] == str(kept)


@pytest.mark.slow
def test_two_processes_that_are_asked_to_end_do_so_after_the_same_step_and_keep_it(tiny_yaml, tmp_path):
    arguments = ["--config", str(tiny_yaml), "--optim.total_steps", "5000", "--run.save_every_steps", "5000"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = start([*torchrun, "train.py", *arguments, "--trainer.devices", "2", "--trainer.strategy", "ddp"])
    wait_for_lines(process, tmp_path / "run/metrics.csv", 5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    kept = torch.load(tmp_path / "run/last.ckpt", weights_only=True)["training"]["module"]["step"]
    assert rows_of(tmp_path / "run")[-1]["step"] == str(kept)


@pytest.mark.slow
@pytest.mark.parametrize("sees_joints", ["false", "true"])
def test_two_processes_have_the_losses_of_one_at_the_same_global_batch(tiny_yaml, tmp_path, sees_joints):
    common = ["--config", str(tiny_yaml), "--network.backbone.drop_path", "0", "--run.validate_every_steps", "3"]
    common += ["--network.decoder.sees_joints", sees_joints]
    alone = start(["train.py", *common, "--run.out", str(tmp_path / "one")])
    halves = ["--data.windows_per_batch", "1", "--data.images_per_batch", "1", "--data.real_hands_per_batch", "4"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = ["--run.out", str(tmp_path / "two"), "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    together = start([*torchrun, "train.py", *common, *halves, *two])
    for process in (alone, together):
        _out, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors.decode()
    rows, others = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    assert len(rows) == len(others) == 6
    for one, other in zip(rows, others, strict=True):
        for name in ("train/loss", "train/joints_4d", "train/discriminator", "train/grad_norm", "val/ga_mpjpe_mm"):
            if one[name]:
                assert float(other[name]) == pytest.approx(float(one[name]), rel=1e-5, abs=1e-5), (one["step"], name)
        assert one["hands_seen"] == other["hands_seen"]
