"""The whole program on one video, stage by stage, import excluded; and its memory over a video of any length.

    python benchmarks/pipeline.py VIDEO [--repeat-frames 10000]

The first table is one run of everything `infer.py VIDEO` does. With `--repeat-frames` the video is written again and
again into films of a tenth of that many frames and of all of them, and the whole program runs on each, but for the
overlay, in a process of its own: how memory grows with length. `benchmarks/length.py` says which stage needs what.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from haptic.cli.main import main
from haptic.perception.video import open_video
from haptic.vis.film import open_film


def peak_rss_mb() -> float:
    """Return the largest memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_film(video: Path, film_path: Path, num_frames: int) -> None:
    """Write a video again and again into one film of so many frames."""
    source = open_video(video)
    with open_film(film_path, fps=source.info.fps) as film:
        written = 0
        while written < num_frames:
            for frame in islice(source.frames(), num_frames - written):
                film.add(frame.image, written / source.info.fps)
                written += 1


def whole_program(video: Path, *flags: str) -> None:
    """Run everything once and print seconds per stage."""
    with tempfile.TemporaryDirectory() as out:
        started, cpu_started = time.perf_counter(), time.process_time()
        code = main([str(video), "--out", out, "--quiet", *flags])
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        summary = json.loads((Path(out) / video.stem / "summary.json").read_text())
    print(f"{video.name}: exit {code}, {summary['video']['frames']} frames, {summary['hands_found']} hands")
    for stage, cost in summary["seconds"].items():
        print(f"  {stage:<16} {cost:7.2f} s")
    print(f"  {'all':<16} {seconds:7.2f} s wall, {cpu_seconds:.2f} CPU-s, peak memory {peak_rss_mb():.0f} MB")
    print(f"  load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def memory_over_length(video: Path, num_frames: int) -> None:
    """Run the whole program, but for the overlay, on a short and on a long film, each in its own process."""
    for length in (num_frames // 10, num_frames):
        with tempfile.TemporaryDirectory() as folder:
            film_path = Path(folder) / f"{length}_frames.mp4"
            write_film(video, film_path, length)
            subprocess.run([sys.executable, __file__, str(film_path), "--no-overlay"], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--repeat-frames", type=int, default=0)
    parser.add_argument("--no-overlay", action="store_true")
    options = parser.parse_args()
    if options.repeat_frames:
        memory_over_length(options.video, options.repeat_frames)
    else:
        whole_program(options.video, *(["--no-overlay"] if options.no_overlay else []))
