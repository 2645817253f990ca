"""The evaluation finds what data_prep writes: names of sets and splits, folders, boxes, cameras that are not known."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_prep.__main__ import main as convert_by_command
from data_prep.convert import ConvertConfig, convert
from data_prep.dataset import Request
from data_prep.registry import all_data_sets, find_data_set
from haptic.data.shards import ShardStore
from haptic.evaluation.benchmarks import FIXED, MADE, SHARDS, find_benchmark, find_shards
from haptic.evaluation.checks import pair_hands
from haptic.evaluation.clips import list_clips
from haptic.evaluation.predictions import PredictedHand, Prediction
from haptic.evaluation.runner import main, read_config
from haptic.evaluation.scoring import score_hand, summarise
from haptic.geometry.cameras import ray_directions

CONFIGS = Path(__file__).parents[2] / "configs" / "eval"
METHODS = ("keypoints-gt", "keypoints-gt/constant-depth")


def write_shards(folder, data_set, root, split, *, mano=None, **options):
    """Convert a split to where docs/datasets.md puts it."""
    config = ConvertConfig(is_partial_fine=True)
    convert(
        find_data_set(data_set), Request(root, split, mano, options), folder / data_set, config, say=lambda _text: None
    )


@pytest.fixture(scope="module")
def shards_dir(dexycb_download, arctic_download, freihand_download, hint_download, mano, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    root, _names, _truth, listed = dexycb_download
    write_shards(folder, "dexycb", root, "s0_val", mano=mano, sequences=listed)
    arctic = tmp_path_factory.mktemp("arctic")
    shutil.copytree(arctic_download[0], arctic, dirs_exist_ok=True)
    for part in ("raw_seqs", "images"):  # the subject that the evaluation is of
        (arctic / part / "s01").rename(arctic / part / "s05")
    misc = json.loads((arctic / "meta" / "misc.json").read_text())
    (arctic / "meta" / "misc.json").write_text(json.dumps({"s05": misc["s01"]}))
    write_shards(folder, "arctic-exo", arctic, "p1_val", mano=mano)
    write_shards(folder, "arctic-ego", arctic, "p2_val", mano=mano)
    write_shards(folder, "freihand", freihand_download[0], "evaluation", mano=mano)
    write_shards(folder, "hint", hint_download[0], "TEST_newdays_img")
    return folder


def run(shards_dir, out, benchmark, *more, methods=METHODS):
    pytest.importorskip("braceexpand")
    code = main([
        "--benchmark", benchmark, "--shards-dir", str(shards_dir), "--out", str(out), "--workers", "1",
        "--frames", "csv", "--no-pictures", "--methods", *methods, *more,
    ])  # fmt: skip
    assert code == 0
    return list(csv.DictReader((out / "sequences.csv").open()))


def clips_of(shards_dir, name):
    source = SHARDS[name]
    return list_clips(
        name, sorted(map(str, (shards_dir / source.data_set).glob(f"{source.split}-*.tar"))), ShardStore()
    )


def test_every_set_of_the_benchmarks_is_a_split_that_data_prep_writes():
    sets = all_data_sets()
    for name, source in SHARDS.items():
        if source.split == MADE:
            continue
        assert source.data_set in sets, name
        assert source.split in sets[source.data_set].splits, name
    of_benchmarks = {name for benchmark in FIXED.values() for name in benchmark.sets}
    assert set(SHARDS) <= of_benchmarks
    assert of_benchmarks - set(SHARDS) == {"hot3d"}  # said to be the user's to choose


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_that_reads_shards_finds_those_of_data_prep(path, tmp_path):
    more = ["--checkpoint", "x.ckpt"] if "--checkpoint" in path.read_text() else []
    config = read_config(["--config", str(path), "--out", str(tmp_path / "out"), *more])
    benchmark = find_benchmark(config.benchmark, seed=0, is_quick=config.is_quick)
    if benchmark.makes_own_data:
        return
    for name in benchmark.sets:
        folder = tmp_path / SHARDS[name].data_set
        folder.mkdir(exist_ok=True)
        (folder / f"{SHARDS[name].split}-000000.tar").touch()
    assert config.shards_dir is not None
    assert not config.shards_dir.is_absolute()
    assert set(find_shards(benchmark, config.shards, tmp_path)) == set(benchmark.sets)


def test_dexycb_and_arctic_are_scored_from_their_shards(shards_dir, tmp_path, capsys):
    rows = run(shards_dir, tmp_path, "haptic-table1")
    own = [row for row in rows if row["method"] == "keypoints-gt"]
    assert {row["set"] for row in own} == {"dexycb-s0-val", "arctic-exo-s05", "arctic-ego-s05"}
    assert all(float(row["GA"]) < 10 for row in own)  # cm; the hands are random, but they are hands
    told = capsys.readouterr().err
    assert "python -m data_prep dexycb --split s0_test" in told  # the one that is missing
    assert {row["hand"] for row in own if row["set"] == "arctic-exo-s05"} == {"right_0", "left_0"}


def test_arctics_own_measures_relate_both_hands_and_need_manos_file_for_vertices(shards_dir, mano, tmp_path, capsys):
    rows = run(shards_dir, tmp_path / "a", "arctic", methods=METHODS[:1])
    both = [row for row in rows if row["hand"] == "both"]
    assert {row["set"] for row in both} == {"arctic-exo-s05", "arctic-ego-s05"}
    assert all(float(row["MRRPE"]) > 0 for row in both)
    assert all(row["PA-V"] == "" for row in rows)
    assert "give that file with --hand-model" in capsys.readouterr().err
    rows = run(shards_dir, tmp_path / "b", "arctic", "--hand-model", str(mano.right_path), methods=METHODS[:1])
    single = [row for row in rows if row["hand"] != "both"]
    assert all(0 < float(row["PA-V"]) < 40 for row in single)  # mm


def test_a_table_of_one_view_takes_the_clips_of_that_view_only(shards_dir, tmp_path, capsys):
    pytest.importorskip("braceexpand")
    (view,) = {clip.key for clip in clips_of(shards_dir, "arctic-exo-view0-s05")}
    assert view == "s05_box_grab_01_3"
    arguments = ["--benchmark", "haptic-table5", "--shards-dir", str(shards_dir), "--out", str(tmp_path), "--methods"]
    assert main([*arguments, "keypoints-gt"]) == 2
    assert "none of the 1 sequences of its shards belongs to it" in capsys.readouterr().err


def test_freihand_is_scored_from_its_shards_and_its_scorer_wants_all_pictures(shards_dir, mano, tmp_path, capsys):
    more = ("--hand-model", str(mano.right_path))
    rows = run(shards_dir, tmp_path, "freihand", *more, methods=METHODS[:1])
    assert len(rows) == 3
    for row in rows:
        assert 0 < float(row["PA"]) < 30
        assert 0 < float(row["PA-V"]) < 30
        assert 0 < float(row["F@5"]) < float(row["F@15"]) <= 1
    arguments = [
        "--benchmark",
        "freihand",
        "--shards-dir",
        str(shards_dir),
        "--out",
        str(tmp_path),
        "--official",
        *more,
    ]
    assert main([*arguments, "--methods", "keypoints-gt"]) == 2
    assert "needs all 3960 pictures, the shards have 3" in capsys.readouterr().err


def test_hint_is_scored_from_its_shards_by_a_share_of_the_annotated_box(shards_dir, tmp_path):
    rows = run(shards_dir, tmp_path, "haptic-table3", methods=METHODS[:1])
    assert len(rows) == 2
    table = (tmp_path / "table.md").read_text()
    (line,) = [line for line in table.splitlines() if line.startswith("| keypoints-gt |")]
    assert "-" not in line.split("|")[2]  # a number stands there
    protocol = FIXED["haptic-table3"].protocols[0]
    longer_side_px = 120.0  # of the fixture's annotated box
    for share, expected in ((0.04, 100.0), (0.06, 100 * 20 / 21)):
        scores = []
        for clip in clips_of(shards_dir, "hint-newdays"):
            ((name, hand),) = clip.hands.items()
            joints_img = hand.labels.joints_img.double().clone()
            joints_img[:, 8, 0] += share * longer_side_px
            place = 0.5 * ray_directions(joints_img, hand.labels.camera.K.double())
            found = PredictedHand(torch.tensor([0]), place, None, bool(hand.labels.is_right))
            for pair in pair_hands(clip, Prediction({name: found}, where="mine"))[0]:
                scores += score_hand(pair, protocol, "mine")[0]
        assert summarise(scores, "PCK@0.05", protocol, seed=0, resamples=3).mean == pytest.approx(expected)
    scores = [
        score
        for clip in clips_of(shards_dir, "hint-newdays")
        for pair in pair_hands(clip, Prediction({}, where="mine"))[0]
        for score in score_hand(pair, protocol, "mine")[0]
    ]
    assert summarise(scores, "PCK@0.05", protocol, seed=0, resamples=3).mean == 0


def renamed(root, *pairs):
    """Make another split of a miniature: files and folders get another name."""
    for old, new in pairs:
        for path in sorted(root.rglob(old), reverse=True):
            path.rename(path.with_name(path.name.replace(old.strip("*"), new)))


# From the miniature of a set to the split that a benchmark is of.
ANOTHER_SPLIT = {
    "h2o": lambda root: renamed(root, ("pose_train.txt", "pose_test.txt")),
    "hint-visor": lambda root: renamed(root, ("TEST_newdays_img", "TEST_epick_img")),
    "hint-ego4d": lambda root: renamed(root, ("TEST_ego4d_img", "TEST_other"), ("TEST_newdays_img", "TEST_ego4d_img")),
    "interhand26m": lambda root: renamed(root, ("train", "test"), ("*_train_*", "_test_")),
    "interhand26m-5fps": lambda root: renamed(root, ("train", "test"), ("*_train_*", "_test_")),
    "egoexo4d": lambda root: renamed(root, ("train", "val"), ("*_train_*", "_val_")),
    "fpha": lambda root: (root / "data_split_action_recognition.txt").write_text("Test 1\nSubject_1/open_juice/1 16\n"),
    "ho3d-v2-eval": None, "ho3d-v3-eval": None,
    "hoi4d": lambda _root: None, "hint-newdays": lambda _root: None,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(ANOTHER_SPLIT))
def test_what_the_command_line_converts_is_found_and_read_as_a_benchmarks_set(
    name, lay_miniature, arguments_for, make_ho3d_evaluation, tmp_path
):
    source = SHARDS[name]
    if name.startswith("ho3d"):
        one = replace(lay_miniature(source.data_set), split=source.split, root=tmp_path / "evaluation")
        make_ho3d_evaluation(one.root, source.data_set)
    else:
        one = replace(lay_miniature(source.data_set), split=source.split)
        ANOTHER_SPLIT[name](one.root)
    assert convert_by_command(arguments_for(one, "--out", str(tmp_path / "shards" / source.data_set))) == 0
    (benchmark, *_) = [one for one in FIXED.values() if name in one.sets]
    found = find_shards(benchmark, {}, tmp_path / "shards")
    assert name in found
    shards = Path(found[name]).parent.glob(Path(found[name]).name)
    clips = list_clips(name, sorted(map(str, shards)), ShardStore())
    assert clips
    assert all(clip.hands for clip in clips)


def test_every_set_of_the_benchmarks_is_converted_by_a_test_here():
    scored = {"dexycb-s0-val", "dexycb-s0-test", "freihand-eval"} | {name for name in SHARDS if "arctic" in name}
    scored |= {"hot3d-hawor27"}  # its recordings need a stand-in: test_hot3d_full.py
    made = {name for name, source in SHARDS.items() if source.split == MADE}
    assert set(ANOTHER_SPLIT) | scored | made == set(SHARDS)
