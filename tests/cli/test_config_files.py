"""A fault in a `--config` file is told by file, key, what came and what was expected, in one line."""

from pathlib import Path

import pytest

from haptic.cli import main as infer
from haptic.cli import train

ROOT = Path(__file__).parents[2]

INFER = [
    ("tracker:\n  max_gapp_s: 1\n", "tracker.max_gapp_s is no option; did you mean tracker.track.max_gap_s?"),
    ("trackr:\n  look_again: true\n", "trackr is no option; did you mean tracker?"),
    ("focal_px: abc\n", "focal_px is 'abc'; expected a number"),
    ("max_frames: x\n", "max_frames is 'x'; expected a whole number"),
    ("tracker:\n  track:\n    max_gap_s: foo\n", "tracker.track.max_gap_s is 'foo'; expected a number"),
    (
        "tracker:\n  track:\n    max_gap_s: -1\n",
        "tracker.track.max_gap_s is -1; expected a finite number",
    ),
    ("refine: slow\n", "refine is 'slow'; expected one of off, fast"),
    ("overlay: maybe\n", "overlay is 'maybe'; expected true or false"),
    ("tracker: 5\n", "tracker is 5; expected its fields: kept_side_px, look_again"),
    (
        "refinement:\n  stages:\n  - name: all\n    free: [no]\n",
        "refinement.stages: free is 'False'; expected one of",
    ),
    (
        "refinement:\n  stages:\n  - names: all\n",
        "refinement.stages[0].names is no option; did you mean refinement.stages",
    ),
    ("fov_deg: 200\n", "fov_deg is 200"),
    ("focal_px: [1, 2\n", "line 2: not YAML"),
    ("- 1\n- 2\n", "holds [1, 2]; expected keys and values"),
    ("", "holds nothing; expected keys and values"),
]
TRAIN = [
    ("optim:\n  total_steps: x\n", "optim.total_steps is 'x'; expected a whole number"),
    ("optim:\n  totl_steps: 5\n", "optim.totl_steps is no option; did you mean optim.total_steps?"),
    ("network:\n  decoder: 5\n", "network.decoder is 5; expected its fields: dim, depth"),
    ("network:\n  backbone:\n    drop_path: many\n", "backbone.drop_path is 'many'; expected a number"),
    ("objective:\n  reduction: all\n", "objective.reduction is 'all'; expected one of mean, official"),
    ("run: 5\n", "run is 5; expected its fields: allow_changes"),
    ("nonsense: 5\n", "nonsense is no option"),
]


@pytest.mark.parametrize(("text", "words"), INFER)
def test_a_fault_in_a_file_of_infer_is_told_by_file_and_key(tmp_path, capsys, text, words):
    config = tmp_path / "mine.yaml"
    config.write_text(text)
    assert infer.main([str(tmp_path / "clip.mp4"), "--out", str(tmp_path / "out"), "--config", str(config)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"infer.py: {config}: {words}")


@pytest.mark.parametrize(("text", "words"), TRAIN)
def test_a_fault_in_a_file_of_train_is_told_by_file_and_key(tmp_path, capsys, text, words):
    config = tmp_path / "mine.yaml"
    config.write_text(text)
    assert train.main([f"--config={config}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"train.py: {config}: ")
    assert words in line


def test_of_two_files_the_one_with_the_fault_is_named(tmp_path, capsys):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("focal_px: 500\n")
    bad.write_text("max_frames: x\n")
    flags = ["--config", str(bad), "--config", str(good)]
    assert infer.main([str(tmp_path / "clip.mp4"), "--out", str(tmp_path / "out"), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(bad) in line
    assert str(good) not in line


def test_a_fault_on_the_command_line_is_not_laid_to_a_file(tmp_path, capsys):
    config = tmp_path / "mine.yaml"
    config.write_text("max_frames: 5\n")
    flags = ["--config", str(config), "--focal-px", "abc"]
    assert infer.main([str(tmp_path / "clip.mp4"), "--out", str(tmp_path / "out"), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--focal-px is 'abc'; expected a number" in line
    assert str(config) not in line


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "train").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_configs_of_train_have_no_fault(path):
    from haptic.options import check_config_files

    check_config_files(train.build_parser(), [path])
