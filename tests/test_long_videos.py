"""Memory over length: ten times the film is not ten times the memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHORT, LONG = 700, 2100
# What start and refinement may need of each frame, the track and both trajectories (2 kB) included. When each of their
# steps copied whole tracks it was 16.
MOST_KB_PER_FRAME = 10.0

# Few steps: more of them take time, not memory. Peaks are the system's own count, so that nothing escapes it.
MEASURE = """
import sys
from pathlib import Path
import torch
from benchmarks.refinement import synthetic_hand
from haptic.hand.landmarks import load_landmark_model
from haptic.hand.model import load_hand_model
from haptic.inference.keypoints import init_from_keypoints
from haptic.refinement.refine import refine
from haptic.refinement.stages import BLOCKS, RefinementConfig, StageConfig

def resident_kb(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind))

def run(num_frames):
    model = load_hand_model(None)
    example, track = synthetic_hand(model, num_frames, 0)
    start = init_from_keypoints(model, track, example.camera)
    config = RefinementConfig((StageConfig(name="all", free=BLOCKS, max_steps=2),), chunk_frames=100)
    refine(model, [start], [track], config, landmark_model=load_landmark_model("mediapipe"))

run(600)  # what does not grow is there from now on
Path("/proc/self/clear_refs").write_text("5")
before = resident_kb("VmRSS")
run(int(sys.argv[1]))
print(resident_kb("VmHWM") - before)
"""


def peak_kb(num_frames: int) -> int:
    """Memory that start and refinement of so many frames need at most, in a process of its own."""
    environment = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144", "PYTHONPATH": str(ROOT)
    }  # fmt: skip
    answer = subprocess.run(
        [sys.executable, "-c", MEASURE, str(num_frames)], env=environment, stdout=subprocess.PIPE, check=True, text=True
    )
    return int(answer.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is counted as Linux counts it")
def test_a_frame_more_costs_little_more_memory_than_its_results():
    growth_kb = (peak_kb(LONG) - peak_kb(SHORT)) / (LONG - SHORT)
    assert growth_kb < MOST_KB_PER_FRAME
