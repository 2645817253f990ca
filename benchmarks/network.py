"""What the network costs: one full-size window against timm alone, and how many backbone passes a long clip takes.

    OMP_NUM_THREADS=2 python benchmarks/network.py [--repeats 2]

The first number is a ratio of CPU-seconds within one run, ours and timm's in turns, so that the machine's speed and its
other work fall out of it. Weights are random: the cost is the same.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from haptic.geometry.cameras import intrinsics
from haptic.inference.network import NetworkConfig, run_network
from haptic.models.backbone import BackboneConfig, window_of
from haptic.models.decoder import DecoderConfig
from haptic.models.haptic import Haptic, HapticConfig
from haptic.records import Camera, HandTrack

CLIP_FRAMES = 8
LONG_CLIP_FRAMES = 128
WIDTH, HEIGHT = 96, 64


def window_against_timm(repeats: int) -> None:
    """Print CPU-seconds of one 8-frame window, and of its 16 backbone passes through timm alone."""
    torch.manual_seed(0)
    model = Haptic().eval()
    crops, frames = torch.randn(2, 1, CLIP_FRAMES, 3, 256, 256).unbind(0)
    vit = model.backbone.vit
    pictures = [window_of(clip[0], model.config.keep_width).contiguous() for clip in (crops, frames)]

    def ours() -> None:
        model.predict(crops, frames)

    def timm_alone() -> None:
        for batch in pictures:
            vit.forward_features(batch)

    with torch.inference_mode():
        vit.forward_features(pictures[0][:1])  # the first pass also pays for loading libraries
        spent: dict[str, list[tuple[float, float]]] = {"ours": [], "timm": []}
        for _repeat in range(repeats):
            spent["ours"].append(seconds(ours))
            spent["timm"].append(seconds(timm_alone))
    cpu = {name: median(cpu_s for cpu_s, _ in times) for name, times in spent.items()}
    wall = {name: median(wall_s for _, wall_s in times) for name, times in spent.items()}
    print(f"one 8-frame window, 16 passes, {torch.get_num_threads()} threads, fp32, median of {repeats}")
    print(f"  ours        {cpu['ours']:6.1f} CPU-s  {wall['ours']:6.1f} s wall")
    print(f"  timm alone  {cpu['timm']:6.1f} CPU-s  {wall['timm']:6.1f} s wall")
    print(f"  ratio       {cpu['ours'] / cpu['timm']:6.3f}  (at most 1.05 is the aim)")


def passes_of_a_long_clip() -> None:
    """Print how many pictures pass through the backbone in a 128-frame clip of one hand."""
    model = Haptic(
        HapticConfig(
            backbone=BackboneConfig(dim=32, depth=1, heads=4),
            decoder=DecoderConfig(dim=32, depth=1, heads=2, head_dim=8, mlp_dim=32),
        )
    )
    counter: Counter[str] = Counter()
    model.backbone.register_forward_hook(lambda _module, args, _output: counter.update(passes=args[0].shape[0]))
    rng = np.random.default_rng(0)
    images = ((index, rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)) for index in range(LONG_CLIP_FRAMES))
    camera = Camera(K=intrinsics(100.0, width=WIDTH, height=HEIGHT), T_world_cam=torch.eye(4))
    run_network(model, images, [still_hand(LONG_CLIP_FRAMES)], camera=camera, config=NetworkConfig(device="cpu"))
    print(
        f"a {LONG_CLIP_FRAMES}-frame clip of one hand: {counter['passes']} backbone passes (19 windows of 16 are 304)"
    )


def still_hand(num_frames: int) -> HandTrack:
    """Return a track that stays in the middle of the picture."""
    middle = torch.tensor([WIDTH / 2, HEIGHT / 2])
    return HandTrack(
        frame_index=torch.arange(num_frames),
        time_s=torch.arange(num_frames) / 30,
        box_center_img=middle.expand(num_frames, 2),
        box_side_px=torch.full((num_frames,), 20.0),
        joints_img=middle.expand(num_frames, 21, 2),
        joints_img_weight=torch.ones(num_frames, 21),
        landmarks=torch.zeros(num_frames, 21, 3),
        landmarks_weight=torch.zeros(num_frames),
        confidence=torch.ones(num_frames),
        observed=torch.ones(num_frames, dtype=torch.bool),
        is_right=torch.tensor(True),
    )


def seconds(work: Callable[[], None]) -> tuple[float, float]:
    """Return the CPU-seconds of all threads, and the wall clock's."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    passes_of_a_long_clip()
    window_against_timm(arguments.repeats)
