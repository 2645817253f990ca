"""The whole program on one video, stage by stage, import excluded; and its memory over a video of any length.

    python benchmarks/pipeline.py VIDEO [--repeat-frames 10000]

The first table is one run of everything `infer.py VIDEO` does. With `--repeat-frames` the video is looped to that many
frames and reconstructed without pictures, to show how memory grows with length.
"""

import argparse
import json
import os
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from haptic.cli.main import main
from haptic.perception.video import Frame, VideoSource, open_video
from haptic.pipeline import reconstruct


def peak_rss_mb() -> float:
    """Return the largest memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rss_mb() -> float:
    """Return the memory this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Looped:
    """A video played again and again, as one long video."""

    def __init__(self, source: VideoSource, num_frames: int) -> None:
        self.info = replace(source.info, num_frames=num_frames)
        self.warning = None
        self.num_decoded = num_frames
        self._source = source
        self._num_frames = num_frames

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Yield frames with growing index and time."""
        index = 0
        end = self._num_frames if stop is None else min(stop, self._num_frames)
        while index < end:
            for frame in self._source.frames():
                if index >= end:
                    return
                if index >= start:
                    yield Frame(index, index / self.info.fps, frame.image)
                index += 1


def whole_program(video: Path) -> None:
    """Run everything once and print seconds per stage."""
    with tempfile.TemporaryDirectory() as out:
        started, cpu_started = time.perf_counter(), time.process_time()
        code = main([str(video), "--out", out, "--quiet"])
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        summary = json.loads((Path(out) / video.stem / "summary.json").read_text())
    print(f"{video.name}: exit {code}, {summary['video']['frames']} frames, {summary['hands_found']} hands")
    for stage, cost in summary["seconds"].items():
        print(f"  {stage:<16} {cost:7.2f} s")
    print(f"  {'all':<16} {seconds:7.2f} s wall, {cpu_seconds:.2f} CPU-s, peak memory {peak_rss_mb():.0f} MB")
    print(f"  load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def memory_over_length(video: Path, num_frames: int) -> None:
    """Print memory while a long video is worked through, without outputs."""
    samples: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(1.0):
            samples.append(rss_mb())

    for length in (num_frames // 10, num_frames):
        samples.clear()
        done.clear()
        watcher = threading.Thread(target=watch)
        watcher.start()
        started = time.perf_counter()
        result = reconstruct(Looped(open_video(video), length))
        done.set()
        watcher.join()
        print(
            f"{length} frames: memory at most {max(samples):.0f} MB, {time.perf_counter() - started:.0f} s, "
            f"{len(result.reconstruction.hands)} tracks"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--repeat-frames", type=int, default=0)
    options = parser.parse_args()
    if options.repeat_frames:
        memory_over_length(options.video, options.repeat_frames)
    else:
        whole_program(options.video)
