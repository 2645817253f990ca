"""The command line does the whole job, once, and says no in one line."""

import errno
import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from haptic.cli import batch
from haptic.cli.main import main
from haptic.export.npz import read_npz
from haptic.files import find_asset
from haptic.geometry.cameras import project
from haptic.hand.model import load_hand_model, trajectory_joints
from haptic.models.backbone import BackboneConfig
from haptic.models.checkpoint import save_checkpoint
from haptic.models.decoder import DecoderConfig
from haptic.models.haptic import Haptic, HapticConfig
from haptic.perception.video import open_video

DEMO_CLIP = "demo/two_hands.mp4"
FAST = ["--quiet", "--no-overlay", "--no-glb", "--no-html", "--no-plot"]


def write_video(path: Path, images: list[np.ndarray], fps: int = 10) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def demo_frames() -> list[np.ndarray]:
    """The first frames of the shipped clip."""
    return [frame.image for frame in open_video(find_asset(DEMO_CLIP)).frames(stop=4)]


@pytest.fixture(scope="module")
def short_clip(tmp_path_factory, demo_frames) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "short.mp4", demo_frames)


def run(capsys, *arguments: object) -> tuple[int, list[str]]:
    """Return the exit code and the lines on standard error."""
    code = main([str(argument) for argument in arguments])
    return code, capsys.readouterr().err.splitlines()


def refused(capsys, *arguments: object) -> str:
    """Return the one line of a refusal."""
    code, lines = run(capsys, *arguments)
    assert code == 2, (code, lines)
    assert len(lines) == 1, lines
    return lines[0]


def test_a_video_gives_every_documented_file_and_a_second_run_skips_it(short_clip, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(short_clip), "--out", str(out), "--quiet"]) == 0
    folder = out / "short"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "trajectory.npz", "summary.json", "scene.glb", "scene.html", "overlay.mp4", "trajectory.png",
    }  # fmt: skip
    assert {path.name for path in out.iterdir()} == {"short"}
    result = read_npz(folder / "trajectory.npz")
    assert set(result.hands) == {"right_0", "left_0"}
    written = (folder / "trajectory.npz").stat().st_mtime_ns
    code, lines = run(capsys, short_clip, "--out", out)
    assert code == 0
    assert any("done already" in line for line in lines)
    assert (folder / "trajectory.npz").stat().st_mtime_ns == written
    code, lines = run(capsys, short_clip, "--out", out, *FAST[1:])  # other options: done again
    assert code == 0
    assert any("was made with other options or another version; it is replaced" in line for line in lines)
    assert (folder / "trajectory.npz").stat().st_mtime_ns != written
    assert {path.name for path in folder.iterdir()} == {"trajectory.npz", "summary.json"}


def test_one_video_that_fails_does_not_stop_the_others(short_clip, tmp_path, capsys):
    (tmp_path / "text.mp4").write_text("no video")
    code, lines = run(capsys, tmp_path / "text.mp4", short_clip, "--out", tmp_path / "out", *FAST)
    assert code == 2
    assert "text.mp4" in lines[0]
    assert (tmp_path / "out" / "short" / "trajectory.npz").is_file()
    assert not (tmp_path / "out" / "text").exists()


def test_a_video_without_hands_gives_an_empty_result_and_no_error(tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 255, (3, 120, 160, 3), dtype=np.uint8)
    video = write_video(tmp_path / "empty.mp4", list(noise))
    code, lines = run(capsys, video, "--out", tmp_path / "out")
    assert code == 0
    assert any("no hand found" in line for line in lines)
    summary = json.loads((tmp_path / "out" / "empty" / "summary.json").read_text())
    assert summary["hands_found"] == 0
    assert read_npz(tmp_path / "out" / "empty" / "trajectory.npz").hands == {}


@pytest.mark.parametrize("num_frames", [1, 2])
def test_very_short_videos_work(tmp_path, demo_frames, num_frames):
    video = write_video(tmp_path / "tiny.mp4", demo_frames[:num_frames])
    assert main([str(video), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    hands = read_npz(tmp_path / "out" / "tiny" / "trajectory.npz").hands
    assert len(hands) == 2
    assert all(len(hand.frame_index) == num_frames for hand in hands.values())


def test_pictures_alone_each_give_a_result_grey_and_alpha_too(tmp_path, demo_frames):
    folder = tmp_path / "photos"
    folder.mkdir()
    picture = Image.fromarray(demo_frames[0])
    picture.convert("L").save(folder / "grey.png")
    picture.convert("RGBA").save(folder / "alpha.png")
    assert main([str(folder), "--images", "--out", str(tmp_path / "out"), *FAST]) == 0
    for name in ("grey", "alpha"):
        assert len(read_npz(tmp_path / "out" / name / "trajectory.npz").hands) == 2


def test_the_network_runs_from_a_checkpoint_of_ours(short_clip, tmp_path):
    config = HapticConfig(
        backbone=BackboneConfig(dim=32, depth=1, heads=2, drop_path=0.0),
        decoder=DecoderConfig(dim=32, depth=1, heads=2, head_dim=8, mlp_dim=32),
    )
    torch.manual_seed(0)
    checkpoint = tmp_path / "tiny.ckpt"
    save_checkpoint(checkpoint, Haptic(config), hand_model_name=load_hand_model().name)
    arguments = [str(short_clip), "--out", str(tmp_path / "out"), "--checkpoint", str(checkpoint), *FAST]
    assert main(arguments) == 0
    summary = json.loads((tmp_path / "out" / "short" / "summary.json").read_text())
    assert summary["details"]["init"] == "network"
    assert summary["details"]["refine"] == "off"


def test_ctrl_c_ends_with_130_and_keeps_what_is_finished(short_clip, tmp_path, capsys, monkeypatch, demo_frames):
    other = write_video(tmp_path / "zz_other.mp4", demo_frames)
    first = batch.reconstruct
    calls = []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return first(*arguments, **options)

    monkeypatch.setattr(batch, "reconstruct", interrupted)
    code, _ = run(capsys, short_clip, other, "--out", tmp_path / "out", *FAST)
    assert code == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["short"]


def test_a_full_disk_is_said_in_one_line_and_leaves_nothing_half_written(short_clip, tmp_path, capsys, monkeypatch):
    def full(path, *_arguments, **_options):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(batch, "write_npz", full)
    line = refused(capsys, short_clip, "--out", tmp_path / "out", *FAST)
    assert "disk is full" in line
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--bogus"], "unknown option --bogus"),
        (["--fp", "3"], "unknown option --fp"),
        (["--max-frames", "1.5"], "expected a whole number"),
        (["--focal-px", "1e-9"], "full image"),
        (["--intrinsics", "800", "800"], "commas"),
        (["--network.windows.clip_frames", "0"], "clip_frames is 0"),
        (["--overwritee"], "did you mean --overwrite"),
        (["--focal-px", "-3"], "focal_px is -3"),
        (["--focal-px", "abc"], "expected a number"),
        (["--fov-deg", "200"], "fov_deg is 200"),
        (["--intrinsics", "500,500,320"], "four"),
        (["--intrinsics", "-500,500,320,240"], "positive pixels"),
        (["--intrinsics"], "expected one argument"),
        (["--focal-px", "500", "--fov-deg", "60"], "leave out the others"),
        (["--first-depth-m", "-1"], "first_depth_m"),
        (["--max-frames", "0"], "max_frames"),
        (["--init", "magic"], "init"),
        (["--tracker.track.max_gap_s", "-1"], "max_gap_s"),
        (["--tracker.no_such_thing", "1"], "unknown option"),
        (["--device", "cuda"], "cuda"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["--checkpoint", "absent.ckpt"], "absent.ckpt"),
        (["--hand-model", "absent.pkl"], "absent.pkl"),
        (["--detections", "absent.json"], "absent.json"),
        (["--cameras", "absent.npz"], "absent.npz"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(short_clip, tmp_path, capsys, flags, words):
    if flags == ["--device", "cuda"] and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    line = refused(capsys, short_clip, "--out", tmp_path / "out", *FAST, *flags)
    assert words in line
    assert not (tmp_path / "out" / "short").exists()


def test_an_unknown_key_in_a_yaml_file_is_named(short_clip, tmp_path, capsys):
    config = tmp_path / "mine.yaml"
    config.write_text("tracker:\n  max_gapp_s: 1\n")
    line = refused(capsys, short_clip, "--out", tmp_path / "out", "--config", config)
    assert "max_gapp_s" in line


@pytest.mark.parametrize("name", ["absent.mp4", "empty.mp4", "text.mp4", "sound.mp4", "folder"])
def test_what_is_no_video_is_refused_in_one_line(tmp_path, capsys, name):
    path = tmp_path / name
    match name:
        case "empty.mp4":
            path.touch()
        case "text.mp4":
            path.write_text("hello")
        case "folder":
            path.mkdir()
        case "sound.mp4":
            with av.open(str(path), "w") as container:
                stream = container.add_stream("aac", rate=44100)
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.rate = 44100
                container.mux(stream.encode(frame))
                container.mux(stream.encode())
    line = refused(capsys, path, "--out", tmp_path / "out", *FAST)
    assert name in line


class Hostile:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self):
        return (os.mkdir, (self.target,))


@pytest.mark.parametrize("flag", ["--checkpoint", "--hand-model"])
@pytest.mark.parametrize("init", ["keypoints", "network"])
def test_a_hostile_file_is_refused_and_nothing_in_it_runs(short_clip, tmp_path, capsys, flag, init):
    target = tmp_path / "ran"
    path = tmp_path / ("x.ckpt" if flag == "--checkpoint" else "x.pkl")
    path.write_bytes(pickle.dumps(Hostile(str(target))))
    if init == "network" and flag == "--hand-model":
        pytest.skip("the network needs a checkpoint first")
    line = refused(capsys, short_clip, "--out", tmp_path / "out", "--init", init, flag, path)
    assert path.name in line
    assert not target.exists()


def test_a_checkpoint_of_another_network_is_refused(short_clip, tmp_path, capsys):
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": {"layer.weight": torch.zeros(3, 3)}}, path)
    line = refused(capsys, short_clip, "--out", tmp_path / "out", "--checkpoint", path)
    assert "other.ckpt" in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"format_version": 1, "detections": [{"frame_index": 0, "box": [0, 0, 50, 50], "colour": 1}]}, "colour"),
        ({"format_version": 1, "detections": [{"frame_index": 99, "box": [0, 0, 50, 50]}]}, "frame 99"),
        ({"format_version": 1, "detections": [{"frame_index": 0, "box": [9000, 0, 9050, 50]}]}, "outside"),
        ({"format_version": 1, "detections": [{"frame_index": 0, "box": [float("nan"), 0, 9, 9]}]}, "NaN"),
        ({"format_version": 7, "detections": []}, "format_version"),
    ],
)
def test_a_detections_file_with_a_fault_is_refused(short_clip, tmp_path, capsys, content, words):
    path = tmp_path / "found.json"
    path.write_text(json.dumps(content))
    line = refused(capsys, short_clip, "--out", tmp_path / "out", "--detections", path, *FAST)
    assert "found.json" in line
    assert words in line


def test_an_output_folder_that_cannot_be_is_refused_before_the_work(short_clip, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert "file" in refused(capsys, short_clip, "--out", tmp_path / "file")
    assert "file" in refused(capsys, short_clip, "--out", tmp_path / "file" / "below")


def test_a_printed_config_is_a_config(short_clip, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([str(short_clip), "--focal-px", "300", *FAST, "--out", str(tmp_path / "out"), "--print_config"])
    assert ended.value.code == 0
    config = tmp_path / "printed.yaml"
    config.write_text(capsys.readouterr().out)
    assert main(["--config", str(config)]) == 0
    summary = json.loads((tmp_path / "out" / "short" / "summary.json").read_text())
    assert summary["camera"]["K"][0][0] == 300


def test_folders_that_are_not_ours_are_never_touched(short_clip, tmp_path, capsys):
    work = tmp_path / "work"
    (work / "short").mkdir(parents=True)
    (work / "short" / "thesis.txt").write_text("years of work")
    line = refused(capsys, short_clip, "--out", work, *FAST)
    assert "no result of ours" in line
    assert (work / "short" / "thesis.txt").read_text() == "years of work"
    bare = tmp_path / "bare"
    bare.mkdir()
    video = bare / "short"  # a video without a suffix, in the folder the results go to
    video.write_bytes(short_clip.read_bytes())
    refused(capsys, video, "--out", bare, *FAST)
    assert video.is_file()


def test_notes_beside_our_files_survive_a_second_run(short_clip, tmp_path):
    out = tmp_path / "out"
    assert main([str(short_clip), "--out", str(out), *FAST]) == 0
    (out / "short" / "notes.txt").write_text("keep me")
    assert main([str(short_clip), "--out", str(out), *FAST, "--overwrite"]) == 0
    assert (out / "short" / "notes.txt").read_text() == "keep me"


def test_another_video_of_the_same_name_gets_a_folder_of_its_own(short_clip, tmp_path, demo_frames):
    other = tmp_path / "elsewhere"
    other.mkdir()
    second = write_video(other / "short.mp4", demo_frames[:2])
    out = tmp_path / "out"
    for video in (short_clip, second, short_clip):
        assert main([str(video), "--out", str(out), *FAST]) == 0
    assert {path.name for path in out.iterdir()} == {"short", "short_2"}
    assert len(read_npz(out / "short" / "trajectory.npz").frame_time_s) == 4
    assert len(read_npz(out / "short_2" / "trajectory.npz").frame_time_s) == 2


def test_what_a_killed_run_left_is_cleared_away(short_clip, tmp_path):
    out = tmp_path / "out"
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = out / f".short{batch.DRAFT}{socket.gethostname()}-{int(ended.stdout)}-abc"
    left.mkdir(parents=True)
    (left / "trajectory.npz").write_bytes(b"half")
    assert main([str(short_clip), "--out", str(out), *FAST]) == 0
    assert {path.name for path in out.iterdir()} == {"short"}


def test_a_fault_of_ours_in_one_video_does_not_lose_the_next(short_clip, tmp_path, capsys, monkeypatch, demo_frames):
    other = write_video(tmp_path / "zz.mp4", demo_frames[:1])
    first = batch.reconstruct
    calls = []

    def faulty(*arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("not foreseen")
        return first(*arguments, **options)

    monkeypatch.setattr(batch, "reconstruct", faulty)
    code, lines = run(capsys, short_clip, other, "--out", tmp_path / "out", *FAST)
    assert code == 2
    assert "please report" in lines[0]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["zz"]


@pytest.mark.parametrize("extra", [[], ["--refine", "off"]])
def test_a_known_first_depth_is_where_the_first_wrist_is(short_clip, tmp_path, extra):
    arguments = [str(short_clip), *FAST, *extra]
    assert main([*arguments, "--out", str(tmp_path / "plain")]) == 0
    plain = read_npz(tmp_path / "plain" / "short" / "trajectory.npz").hands
    model = load_hand_model()
    name = min(plain, key=lambda name: int(plain[name].frame_index[0]))
    before_m = float(trajectory_joints(model, plain[name])[0, 0, 2])
    assert main([*arguments, "--out", str(tmp_path / "known"), "--first-depth-m", str(1.05 * before_m)]) == 0
    known = read_npz(tmp_path / "known" / "short" / "trajectory.npz").hands
    after = trajectory_joints(model, known[name])
    assert float(after[0, 0, 2]) == pytest.approx(1.05 * before_m, rel=1e-4)
    K = known[name].camera.K
    moved_px = project(after, K) - project(trajectory_joints(model, plain[name]), K)
    assert float(moved_px.norm(dim=-1).mean()) < 2  # a hand of the new size covers the old one in the picture


def test_help_teaches_by_example():
    script = Path(__file__).parent.parent.parent / "infer.py"
    result = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=True)
    assert "python infer.py clip.mp4 --out results" in result.stdout
    assert "--focal-px" in result.stdout
