"""One command gives tables, and again the same bytes; other systems stand beside ours; bad folders are refused."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from haptic.data.shards import ShardStore
from haptic.evaluation import runner
from haptic.evaluation.baselines import DEFAULT_METHODS, NETWORK_METHODS, parse_method
from haptic.evaluation.benchmarks import find_benchmark
from haptic.evaluation.exchange import export_inputs, read_system
from haptic.evaluation.predictions import read_prediction, write_prediction
from haptic.evaluation.report import refinement_table
from haptic.evaluation.runner import main, read_config
from haptic.models.checkpoint import shipped_checkpoint
from haptic.perception.cameras import CameraConfig, video_camera
from haptic.perception.detections import read_detections
from haptic.perception.video import VideoInfo

SET = "dexycb-s0-val"
CONFIGS = Path(__file__).parents[2] / "configs" / "eval"
METHODS = ("keypoints-gt", "keypoints-gt/constant-depth")


def run(shard: Path, out: Path, *more: str, methods: tuple[str, ...] = ()) -> int:
    return main([
        "--benchmark", "haptic-table1", "--shards", f"{SET}={shard}", "--out", str(out), "--workers", "1",
        "--frames", "csv", "--methods", *methods, *more,
    ])  # fmt: skip


@pytest.fixture(scope="module")
def done(short_shard, tmp_path_factory):
    """A finished run of two methods that need no detector."""
    pytest.importorskip("braceexpand")
    out = tmp_path_factory.mktemp("done")
    assert run(short_shard, out, methods=METHODS) == 0
    return out


def test_a_run_leaves_tables_numbers_and_pictures(done):
    table = (done / "table.md").read_text()
    assert "| keypoints-gt | " in table
    assert "HaPTIC, as printed* | 1.80 | 5.80 | 1.70" in table  # its numbers for DexYCB, not those for ARCTIC
    assert "no shards of arctic-exo-s05" in table
    (line,) = [line for line in table.splitlines() if line.startswith("Protocol `")]
    assert line.split("`")[1] in json.loads((done / "protocols.json").read_text())
    assert r"\begin{tabular}" in (done / "table.tex").read_text()
    rows = list(csv.DictReader((done / "sequences.csv").open()))
    assert len(rows) == 2 * 3  # methods x hands
    with gzip.open(done / "frames.csv.gz", "rt") as file:
        frames = list(csv.DictReader(file))
    assert len(frames) == 2 * (6 + 6 + 4)
    pictures = {path.name for path in (done / "pictures").iterdir()}
    assert {"worst-keypoints-gt.jpg", "ga-against-focal.png", f"{SET}-ga-over-time.png"} <= pictures


def test_the_sequence_table_and_the_printed_mean_agree(done):
    rows = [row for row in csv.DictReader((done / "sequences.csv").open()) if row["method"] == "keypoints-gt"]
    mean = np.mean([float(row["GA"]) for row in rows])
    line = next(line for line in (done / "table.md").read_text().splitlines() if line.startswith("| keypoints-gt |"))
    assert line.split("|")[2].split()[0] == f"{mean:.2f}"


def test_two_runs_write_the_same_bytes_but_for_the_seconds(short_shard, done, tmp_path):
    assert run(short_shard, tmp_path / "again", methods=METHODS) == 0
    ours = {path.relative_to(done) for path in done.rglob("*") if path.is_file()}
    assert ours == {path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()}
    for path in sorted(ours):
        if path.parts[0] in ("timing", "timing.csv"):
            continue
        first, second = (folder / path for folder in (done, tmp_path / "again"))
        texts = [one.read_bytes().replace(str(folder).encode(), b"OUT")
                 for one, folder in ((first, done), (second, tmp_path / "again"))]  # fmt: skip
        assert texts[0] == texts[1], path


def test_a_second_run_makes_no_prediction_anew_but_a_changed_one(short_shard, done, monkeypatch):
    made = []
    inner = runner.run_methods
    monkeypatch.setattr(runner, "run_methods", lambda job: made.append((job.clip.key, job.methods)) or inner(job))
    assert run(short_shard, done, methods=METHODS) == 0
    assert not made
    path = done / "predictions" / "keypoints-gt" / "two.npz"
    stale = read_prediction(path)
    write_prediction(path, type(stale)(stale.hands, stale.where, stale.fps, "of another code", stale.notes))
    assert run(short_shard, done, methods=METHODS) == 0
    assert made == [("two", ("keypoints-gt",))]


def test_another_systems_results_stand_beside_ours(shard, clips, noisy, tmp_path):
    for clip in clips:
        write_prediction(tmp_path / "mine" / f"{clip.key}.npz", noisy(clip))
    assert run(shard, tmp_path / "out", "--predictions", f"mine={tmp_path / 'mine'}") == 0
    rows = [row for row in csv.DictReader((tmp_path / "out" / "sequences.csv").open()) if row["method"] == "mine"]
    assert len(rows) == 3
    assert all(0.1 < float(row["GA"]) < 1.0 for row in rows)  # 4 mm in each axis


def test_missing_sequences_are_named_and_scored_only_if_allowed(shard, clips, noisy, tmp_path, capsys):
    write_prediction(tmp_path / "mine" / "one.npz", noisy(clips[0]))
    write_prediction(tmp_path / "mine" / "three.npz", noisy(clips[0]))
    asked = ("--predictions", f"mine={tmp_path / 'mine'}")
    assert run(shard, tmp_path / "out", *asked) == 2
    assert "no prediction of 1 of 2 sequences (two)" in capsys.readouterr().err
    assert run(shard, tmp_path / "out", *asked, "--allow-missing") == 0
    told = capsys.readouterr().err
    assert "are of no sequence of this benchmark (three)" in told
    rows = [row for row in csv.DictReader((tmp_path / "out" / "sequences.csv").open()) if row["method"] == "mine"]
    assert [(row["sequence"], row["num_predicted"]) for row in rows] == [("one", "20"), ("one", "20"), ("two", "0")]


def test_all_that_is_wrong_is_said_in_a_line_each_and_nothing_is_scored(shard, clips, noisy, tmp_path, capsys):
    for clip in clips:
        metres = noisy(clip)
        for hand in metres.hands.values():
            hand.joints_cam.mul_(1000)
        write_prediction(tmp_path / "mine" / f"{clip.key}.npz", metres)
    assert run(shard, tmp_path / "out", "--predictions", f"mine={tmp_path / 'mine'}") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "millimetres" in line]
    assert len(lines) == 2
    assert not (tmp_path / "out" / "table.md").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--benchmark", "nonsense"], "expected one of openhand"),
        (["--methods", "magic"], "there is no method"),
        (["--methods", "haptic", "--hand-model", "MANO_RIGHT.pkl"], "--checkpoint"),
        (["--benchmark", "haptic-table1", "--quick"], "only the openhand benchmark"),
        (["--benchmark", "haptic-table1"], "no shards of"),
        (["--predictions", "mine"], "expected NAME=DIR"),
        (["--shards", "dexycb-s0-val=x.tar"], "makes its own data"),
        (["--workers", "0"], "at least one process"),
        (["--nonsense", "1"], "unknown option --nonsense"),
        (["--first-frames", "many"], "--first-frames is 'many'; expected a whole number or null"),
        (["--frames", "pdf"], "--frames is 'pdf'; expected one of auto, parquet, csv"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, words, tmp_path, capsys):
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert len(told.strip().splitlines()) == 1


@pytest.mark.parametrize(("text", "words"), [
    ("benchmrk: openhand\n", "benchmrk is no option; did you mean benchmark?"),
    ("methods: 5\n", "methods is 5; expected a list"),
    ("first_frames: many\n", "first_frames is 'many'; expected a whole number or null"),
    ("a: [\n", "line 2: not YAML"),
])  # fmt: skip
def test_what_is_wrong_with_its_config_file_is_told_by_file_and_key(text, words, tmp_path, capsys):
    config = tmp_path / "mine.yaml"
    config.write_text(text)
    assert main(["--config", str(config), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{config}: {words}")


def test_the_command_alone_scores_the_network_that_ships_into_a_folder_of_its_own():
    config = read_config(["--benchmark", "openhand", "--quick"])
    assert config.out == Path("results/openhand-quick")
    assert config.weights == shipped_checkpoint()
    assert {"keypoints", "haptic", "weak2full@x1.5"} <= set(config.chosen_methods)


def test_every_method_is_called_by_its_own_name():
    for name in (*DEFAULT_METHODS, *NETWORK_METHODS, "haptic/constant-depth@x0.67+first-order"):
        assert parse_method(name).name == name


@pytest.mark.parametrize("name", ["keypoints@x", "keypoints@x1.2.3", "keypoints@x900", "keypoints+", "+refine", ""])
def test_names_that_are_no_method_are_refused(name):
    with pytest.raises(ValueError, match="there is no method"):
        parse_method(name)


def test_exported_inputs_are_what_infer_takes(clips, tmp_path):
    export_inputs(tmp_path, clips, ShardStore())
    index = json.loads((tmp_path / "sequences.json").read_text())
    assert [entry["sequence"] for entry in index] == ["one", "two"]
    assert len(list((tmp_path / "frames" / "one").glob("*.jpg"))) == 20
    info = VideoInfo("one", tmp_path, index[0]["width_px"], index[0]["height_px"], 30.0, 20, None)
    camera = video_camera(info, 20, CameraConfig(cameras=tmp_path / "cameras" / "one.npz")).camera
    labels = clips[0].labels("right_0")
    torch.testing.assert_close(camera.K[labels.frame_index], labels.camera.K)
    torch.testing.assert_close(camera.T_world_cam[labels.frame_index], labels.camera.T_world_cam)
    boxes = read_detections(tmp_path / "boxes" / "one.json", width=info.width, height=info.height, num_frames=20)
    assert len(boxes) == 40
    joints = labels.joints_img[5].numpy()
    (box,) = [one.box for one in boxes if one.frame_index == 5 and one.track_id == "right_0"]
    assert (joints > box[:2] - 0.01).all()
    assert (joints < box[2:] + 0.01).all()


def test_an_unknown_folder_or_format_is_refused(clips, tmp_path):
    with pytest.raises(ValueError, match="no such folder, and no format 'magic'"):
        read_system(f"magic:{tmp_path}", "mine", clips, allow_missing=False)
    with pytest.raises(ValueError, match="no such folder"):
        read_system(str(tmp_path / "nowhere"), "mine", clips, allow_missing=False)
    with pytest.raises(ValueError, match="no prediction of 2 of 2"):
        read_system(str(tmp_path), "mine", clips, allow_missing=True)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_is_understood(path, tmp_path):
    more = ["--checkpoint", "x.ckpt"] if "--checkpoint" in path.read_text() else []
    config = read_config(["--config", str(path), "--out", str(tmp_path), *more])
    assert find_benchmark(config.benchmark, seed=0, is_quick=config.is_quick).protocols
    for name in config.shards:
        assert name in find_benchmark(config.benchmark, seed=0, is_quick=False).sets


def test_the_beginnings_of_sequences_are_another_protocol_and_end_where_they_are_cut(short_shard, tmp_path):
    pytest.importorskip("braceexpand")
    assert run(short_shard, tmp_path, "--first-frames", "3", "--no-pictures", methods=METHODS[:1]) == 0
    rows = list(csv.DictReader((tmp_path / "sequences.csv").open()))
    assert [row["num_frames"] for row in rows] == ["3"] * 3
    (used,) = [one for one in json.loads((tmp_path / "protocols.json").read_text()).values() if one["data_set"] == SET]
    assert used["split"] == "s0 val, first 3 frames"
    assert len(read_prediction(tmp_path / "predictions" / METHODS[0] / "one.npz").hands["right_0"].frame_index) == 3


def test_refinements_of_one_start_are_compared_on_the_tracks_that_both_have():
    rows = [
        {"method": f"keypoints+{kind}", "sequence": str(track), "hand": "right_0", "at": at, "objective": value,
         "seconds": seconds, "frames": 8}
        for kind, values, seconds in (("refine", (1.0, 3.0), 2.0), ("first-order", (2.0, 2.0), 50.0))
        for track, after in enumerate(values)
        for at, value in (("before", 10.0), ("after", after))
    ]  # fmt: skip
    table = refinement_table(rows).splitlines()
    assert "| keypoints+refine | 2 | 16 | 10 | 2 | 2 | 1 of 2 | 2.0 |" in table
    assert "| keypoints+first-order | 2 | 16 | 10 | 2 | 2 | 1 of 2 | 50.0 |" in table
    assert refinement_table([]) == ""
