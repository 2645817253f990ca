"""How memory grows with a video's length: start, refinement and files of a synthetic hand, no detector and no pictures.

    python -m benchmarks.length [--frames 1000 4000 10000] [--hands 1]

Each length runs in a process of its own. For each stage the table gives the most memory that the process held while
it ran, over what it held before the first; the last column is the growth per frame and hand over the shortest length.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.refinement import synthetic_hand
from haptic.export.glb import write_glb
from haptic.export.html import write_html
from haptic.export.npz import write_npz
from haptic.hand.landmarks import load_landmark_model
from haptic.hand.model import load_hand_model
from haptic.inference.keypoints import init_from_keypoints
from haptic.records import Reconstruction, Trajectory
from haptic.refinement.refine import refine
from haptic.vis.plots import write_plot

STAGES = ("keypoint start", "refinement", "trajectory.npz", "scene.glb", "scene.html", "trajectory.png")
WARM_FRAMES = 320  # one run of each solver's, so that what does not grow is there before


@dataclass(frozen=True)
class Peaks:
    """Memory and time of each stage at one length, in MB over the start and in seconds."""

    num_frames: int
    held_mb: float  # by the results when all is done
    peak_mb: dict[str, float]
    seconds: dict[str, float]


def main() -> None:
    """Run every length and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[1000, 4000, 10000])
    parser.add_argument("--hands", type=int, default=1)
    parser.add_argument("--one", action="store_true", help="this process is one length's: print plain figures")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(vars(measure(options.frames[0], options.hands))))
        return
    runs = [_in_own_process(num_frames, options.hands) for num_frames in options.frames]
    first, last = runs[0], runs[-1]
    frames = max((last.num_frames - first.num_frames) * options.hands, 1)
    print(f"{'':<16}" + "".join(f"{run.num_frames:>20} frames" for run in runs) + f"{'kB per frame and hand':>26}")
    for stage in STAGES:
        cells = "".join(f"{run.peak_mb[stage]:>14.1f} MB {run.seconds[stage]:>7.1f} s" for run in runs)
        print(f"{stage:<16}{cells}{(last.peak_mb[stage] - first.peak_mb[stage]) * 1000 / frames:>26.1f}")
    held = "".join(f"{run.held_mb:>14.1f} MB{'':>10}" for run in runs)
    print(f"{'held afterwards':<16}{held}{(last.held_mb - first.held_mb) * 1000 / frames:>26.1f}")


def measure(num_frames: int, num_hands: int) -> Peaks:
    """Return what each stage needs at most; memory is the whole process's, as the system counts it."""
    model, landmark_model = load_hand_model(None), load_landmark_model("mediapipe")
    _run(WARM_FRAMES, num_hands, {}, {})
    base = _resident_mb("VmRSS")
    peaks: dict[str, float] = {}
    seconds: dict[str, float] = {}
    kept = _run(num_frames, num_hands, peaks, seconds)
    held = _resident_mb("VmRSS") - base
    del kept, model, landmark_model
    return Peaks(num_frames, held, {stage: peak - base for stage, peak in peaks.items()}, seconds)


def _run(num_frames: int, num_hands: int, peaks: dict[str, float], seconds: dict[str, float]) -> Reconstruction:
    model, landmark_model = load_hand_model(None), load_landmark_model("mediapipe")

    @contextmanager
    def watched(stage: str) -> Iterator[None]:
        Path("/proc/self/clear_refs").write_text("5")  # the most held is counted anew
        started = time.perf_counter()
        yield
        peaks[stage], seconds[stage] = _resident_mb("VmHWM"), time.perf_counter() - started

    tracks = [synthetic_hand(model, num_frames, seed)[1] for seed in range(num_hands)]
    camera = synthetic_hand(model, 1, 0)[0].camera[torch.zeros(num_frames, dtype=torch.long)]
    with watched("keypoint start"):
        hands: list[Trajectory] = [init_from_keypoints(model, track, camera) for track in tracks]
    with watched("refinement"):
        hands = [hand for hand, _ in refine(model, hands, tracks, landmark_model=landmark_model)]
    names = [f"right_{number}" for number in range(num_hands)]
    found = Reconstruction(
        hands=dict(zip(names, hands, strict=True)),
        tracks=dict(zip(names, tracks, strict=True)),
        camera=camera,
        frame_time_s=tracks[0].time_s.double(),
        image_width_px=640,
        image_height_px=480,
        fps=30.0,
        hand_model=model.name,
    )
    with tempfile.TemporaryDirectory() as folder:
        with watched("trajectory.npz"):
            write_npz(Path(folder) / "trajectory.npz", found, model)
        with watched("scene.glb"):
            write_glb(Path(folder) / "scene.glb", found, model)
        with watched("scene.html"):
            write_html(Path(folder) / "scene.html", found, model)
        with watched("trajectory.png"):
            write_plot(Path(folder) / "trajectory.png", found, model)
    return found


def _in_own_process(num_frames: int, num_hands: int) -> Peaks:
    command = [sys.executable, "-m", "benchmarks.length", "--one", "--hands", str(num_hands), "--frames"]
    # Freed memory goes back to the system at once, so that what is held is what is counted.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}
    answer = subprocess.run([*command, str(num_frames)], env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return Peaks(**json.loads(answer.stdout.splitlines()[-1]))


def _resident_mb(kind: str) -> float:
    """Return what this process holds (VmRSS) or held at most (VmHWM), as the system counts it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError(f"/proc/self/status names no {kind}; this benchmark runs on Linux")


if __name__ == "__main__":
    main()
