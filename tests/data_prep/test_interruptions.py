"""Control-C, killed processes and a full disk, for real: nothing half-written counts, and the same command goes on.

What an uninterrupted run writes is compared byte by byte.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from haptic.data.shards import scan_shard

CLONE = Path(__file__).parents[2]
PATIENCE_S = 240
SIZE = (320, 240)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    """A video set, an image set and own videos, large enough to be stopped midway."""
    top = tmp_path_factory.mktemp("downloads")
    rng = np.random.default_rng(0)

    def picture():
        return cv2.resize(rng.integers(60, 180, (30, 40, 3)).astype(np.uint8), SIZE, interpolation=cv2.INTER_CUBIC)

    listed = []
    for take in range(10):
        folder = top / "h2o" / "subject1" / "h1" / str(take) / "cam4"
        for name in ("rgb", "cam_pose", "hand_pose"):
            (folder / name).mkdir(parents=True)
        hand = rng.uniform(-0.06, 0.06, (21, 3)) + np.array([0, 0, 0.5])
        for frame in range(12):
            cv2.imwrite(str(folder / "rgb" / f"{frame:06d}.png"), picture())
            numbers = [*np.zeros(64), 1.0, *(hand + np.array([0.002 * frame, 0, 0])).ravel()]
            for name, values in (("hand_pose", numbers), ("cam_pose", np.eye(4).ravel())):
                (folder / name / f"{frame:06d}.txt").write_text(" ".join(map(str, values)))
            listed.append(f"subject1/h1/{take}/cam4/rgb/{frame:06d}.png")
        (folder / "cam_intrinsics.txt").write_text(f"300 300 160 120 {SIZE[0]} {SIZE[1]}")
    (top / "h2o" / "pose_train.txt").write_text("\n".join(listed))

    folder = top / "hint" / "TRAIN_newdays_img"
    folder.mkdir(parents=True)
    for number in range(800):
        points = rng.uniform(80, 200, (21, 2)).tolist()
        record = [{"keypoints": points, "occlusion": [0] * 21, "bbox": [[70, 70, 210, 210]]}]
        path = folder / f"ND_{number:05d}_{'lr'[number % 2]}.json"
        path.write_text(json.dumps(record))
        cv2.imwrite(str(path.with_suffix(".jpg")), picture())

    folder = top / "own-videos"
    folder.mkdir()
    for number in range(12):
        film = cv2.VideoWriter(str(folder / f"v{number:02d}.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 30, SIZE)
        found = []
        for frame in range(40):
            film.write(picture())
            points = (rng.uniform(80, 160, (21, 2)) + np.array([frame / 2, 0])).tolist()
            found.append({"frame_index": frame, "hand": "right", "track_id": "a", "joints_img": points})
        film.release()
        (folder / f"v{number:02d}.json").write_text(json.dumps({"format_version": 1, "detections": found}))
    return top


COMMANDS = {
    "h2o": ("--split", "train", "--hands-per-shard", "24"),
    "hint": ("--split", "TRAIN_newdays_img", "--hands-per-shard", "200"),
    "own-videos": ("--split", "train", "--hands-per-shard", "1"),
}


def begin(name, downloads, out):
    command = [sys.executable, "-m", "data_prep", name, "--root", str(downloads / name), "--out", str(out),
               "--workers", "2", *COMMANDS[name]]  # fmt: skip
    # A session of its own: the signal for its group reaches nobody else. SIGINT as a terminal leaves it.
    return subprocess.Popen(
        command, cwd=CLONE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def finish(process):
    out, err = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in out + err, err
    return process.returncode, out, err


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def wait_for(what, seconds=PATIENCE_S):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return found


def group_of(leader):
    """Return the processes of the leader's group that live."""
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(words[2]) == leader and words[0] != "Z":
            members.append(int(path.parent.name))
    return sorted(members)


def workers_of(leader):
    found = []
    for member in group_of(leader):
        try:
            command = Path(f"/proc/{member}/cmdline").read_bytes()
        except OSError:
            continue
        if b"spawn_main" in command:
            found.append(member)
    return found


@pytest.fixture(scope="module")
def whole(downloads, tmp_path_factory):
    """What uninterrupted runs write."""
    made = {}

    def of(name):
        if name not in made:
            out = tmp_path_factory.mktemp("whole") / name
            code, _out, err = finish(begin(name, downloads, out))
            assert code == 0, err
            made[name] = contents(out)
        return made[name]

    return of


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("name", "how"),
    [("h2o", "control-C"), ("hint", "control-C"), ("own-videos", "control-C"), ("h2o", "a worker"),
     ("h2o", "all"), ("hint", "the parent")],
)  # fmt: skip
def test_a_run_that_was_stopped_goes_on_to_the_same_shards(name, how, downloads, whole, tmp_path):
    expected = whole(name)
    num_shards = sum(file.endswith(".tar") for file in expected)
    assert num_shards >= 4
    out = tmp_path / "out"
    process = begin(name, downloads, out)
    # Both workers are then within a shard.
    wait_for(lambda: len(list(out.glob("*.tar"))) >= 1 and len(list(out.glob(".writing-*"))) >= 1)
    if how == "control-C":
        os.killpg(process.pid, signal.SIGINT)
    elif how == "a worker":
        os.kill(wait_for(lambda: workers_of(process.pid))[0], signal.SIGKILL)
    elif how == "the parent":
        os.kill(process.pid, signal.SIGKILL)
    else:
        os.killpg(process.pid, signal.SIGKILL)
    code, _said, err = finish(process)
    wait_for(lambda: not group_of(process.pid), seconds=20)
    lines = [line for line in err.splitlines() if line and "without --mano" not in line]
    if how == "control-C":
        assert code == 130
        assert len(lines) == 1, err
        assert lines[0].startswith("interrupted; ")
        assert "the same command goes on from there" in lines[0]
        assert not list(out.glob(".*"))
    elif how == "a worker":
        assert code == 1
        assert len(lines) == 1, err
        assert "a process was ended from outside" in lines[0]
    else:
        assert code == -signal.SIGKILL
    there = sorted(out.glob("*.tar"))
    assert 1 <= len(there) < num_shards
    for path in there:
        assert not scan_shard(path).fault
        assert path.read_bytes() == expected[path.name]
    code, said, _err = finish(begin(name, downloads, out))
    assert code == 0
    assert f"in {num_shards} shards, of which {len(there)} are there" in said
    assert contents(out) == expected


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_more_space_lets_it_go_on(downloads, whole, tmp_path):
    expected = whole("h2o")
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(len(data) for data in expected.values()) // 2
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    try:
        code, _out, err = finish(begin("h2o", downloads, disk / "out"))
        assert code == 1
        assert "no space is left (No space left on device); the shards that are there are complete" in err
        there = sorted((disk / "out").glob("*.tar"))
        for path in there:
            assert path.read_bytes() == expected[path.name]
        assert not list((disk / "out").glob("*.tmp*"))
        subprocess.run(["mount", "-o", f"remount,size={4 * size}", str(disk)], check=True)
        assert finish(begin("h2o", downloads, disk / "out"))[0] == 0
        assert contents(disk / "out") == expected
    finally:
        shutil.rmtree(disk / "out", ignore_errors=True)
        subprocess.run(["umount", str(disk)], check=True)
