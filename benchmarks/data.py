"""How fast training data comes from shards, and whether a small network waits for it.

    OMP_NUM_THREADS=1 python benchmarks/data.py [--shards 'FOLDER/*.tar'] [--workers 2] [--steps 30]

Without `--shards` it writes its own: 640 x 480 frames with the detail of photographs, two hands, 16 frames a clip. The
processor's own time is what counts per core; the clock also tells what else the machine does.
"""

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from haptic.data.augment import AugmentConfig
from haptic.data.crops import CutConfig
from haptic.data.datamodule import DataConfig, SetConfig, TrainingData
from haptic.data.loader import BatchLoader
from haptic.data.samples import SampleWriter, labels_from_trajectory
from haptic.geometry.cameras import intrinsics
from haptic.hand.anatomy import sample_pose
from haptic.hand.mirror import mirror_params
from haptic.hand.model import load_hand_model, trajectory_joints
from haptic.models.backbone import BackboneConfig
from haptic.models.decoder import DecoderConfig
from haptic.models.haptic import Haptic, HapticConfig
from haptic.records import Camera, HandParams, Trajectory

WIDTH_PX, HEIGHT_PX = 640, 480
NUM_CLIPS, NUM_FRAMES = 12, 16


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", help="a pattern; without it shards are made up")
    parser.add_argument("--batches", type=int, default=6, help="of 8 windows, for each row of the first table")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20, help="of the small network; 0: leave it out")
    parser.add_argument("--timm", default="mobilenetv4_conv_small", help="the small network's backbone")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        shards = options.shards or write_shards(Path(folder))
        print("windows of 8 frames (crop + full frame) per second and core; target: 25 at 256 px\n")
        print(f"{'side':>6} {'augmentation':14} {'processor':>10} {'clock':>10}")
        for side_px, mode in ((256, "off"), (256, "official"), (256, "coherent"), (128, "off"), (128, "coherent")):
            processor, clock = making_rate(shards, side_px, mode, options.batches)
            print(f"{side_px:>6} {mode:14} {processor:>10.1f} {clock:>10.1f}")
        if options.steps:
            step_s, waited = waiting_share(shards, options)
            print(
                f"\n{options.timm} at 128 px, batches of 8 windows and 8 images, {options.workers} workers: "
                f"{step_s:.2f} s a step, {waited:.1%} of it spent waiting for data"
            )


def making_rate(shards: str, side_px: int, mode: str, num_batches: int) -> tuple[float, float]:
    """Return windows per second of one process, by its processor time and by the clock."""
    loader = loader_of(shards, side_px, mode, num_workers=0, with_images=False)
    batches = iter(loader)
    next(batches)  # lists and label tables are there now
    start_s, start_processor_s = time.perf_counter(), time.process_time()
    for _ in range(num_batches):
        next(batches)
    processor_s, clock_s = time.process_time() - start_processor_s, time.perf_counter() - start_s
    return 8 * num_batches / processor_s, 8 * num_batches / clock_s


def waiting_share(shards: str, options: argparse.Namespace) -> tuple[float, float]:
    """Return seconds per training step of a small network, and the share of them spent waiting."""
    network = Haptic(
        HapticConfig(
            backbone=BackboneConfig(timm_name=options.timm, drop_path=0.0),
            decoder=DecoderConfig(dim=256, depth=4, heads=4, mlp_dim=512),
            crop_side_px=128,
            frame_side_px=128,
        )
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    loader = loader_of(shards, 128, "coherent", num_workers=options.workers, with_images=True)
    start_s = waited_before_s = 0.0
    for number, batch in zip(range(options.steps + 3), loader, strict=False):
        if number == 3:  # workers have started and fill their queues
            start_s, waited_before_s = time.perf_counter(), loader.wait_s
        loss = torch.zeros(())
        for part in batch.parts:
            clip = part.as_clip()
            prediction = network.predict_clips([clip])[0]
            loss = loss + prediction.depth.square().mean() + (prediction.betas - part.targets.params.betas).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    elapsed_s = time.perf_counter() - start_s
    waited_s = loader.wait_s - waited_before_s
    loader.close()
    return elapsed_s / options.steps, waited_s / elapsed_s


def loader_of(shards: str, side_px: int, mode: str, *, num_workers: int, with_images: bool) -> BatchLoader:
    """Return the loader of a data module over the shards."""
    config = DataConfig(
        sets={"clips": SetConfig(shards=shards)},
        video={"clips": 1.0},
        image={"clips": 1.0} if with_images else {},
        cut=CutConfig(crop_side_px=side_px, frame_side_px=side_px),
        augment=AugmentConfig(mode=mode),  # type: ignore[arg-type]
        num_workers=num_workers,
        real_hands_per_batch=128 if with_images else 0,
    )
    return TrainingData(config).train_dataloader()


def write_shards(folder: Path) -> str:
    """Write clips of two hands over a moving texture; return their pattern."""
    rng = np.random.default_rng(0)
    model = load_hand_model(None)
    texture = sum(
        cv2.resize(rng.normal(0, 12 * 2**octave, (2048 >> octave, 2048 >> octave, 3)), (2048, 2048)) / 2
        for octave in range(1, 8)
    )
    texture = (np.asarray(texture) / 6 + 128).clip(0, 255).astype(np.uint8)
    K = intrinsics(500.0, width=WIDTH_PX, height=HEIGHT_PX).expand(NUM_FRAMES, 3, 3).clone()
    with SampleWriter(
        folder, prefix="clips", data_set="noise", licence="CC0-1.0", hand_model=model.name
    ) as writer:  # fmt: skip
        for number in range(NUM_CLIPS):
            hands = {}
            for name, side in (("right_0", 1.0), ("left_0", -1.0)):
                place = torch.tensor([0.15 + 0.1 * rng.random(), 0.1 * rng.random(), 0.4 + 0.3 * rng.random()])
                params = HandParams(
                    global_orient=torch.eye(3).expand(NUM_FRAMES, 3, 3).clone(),
                    hand_pose=sample_pose(1, rng=rng).float().expand(NUM_FRAMES, 15, 3, 3).clone(),
                    betas=torch.zeros(NUM_FRAMES, 10),
                    transl=place + 0.003 * torch.arange(NUM_FRAMES)[:, None],
                )
                trajectory = Trajectory(
                    frame_index=torch.arange(NUM_FRAMES),
                    time_s=torch.arange(NUM_FRAMES) / 30,
                    params=params if side > 0 else mirror_params(params),
                    camera=Camera(K=K, T_world_cam=torch.eye(4).expand(NUM_FRAMES, 4, 4).clone()),
                    confidence=torch.ones(NUM_FRAMES),
                    observed=torch.ones(NUM_FRAMES, dtype=torch.bool),
                    is_right=torch.tensor(side > 0),
                )
                hands[name] = labels_from_trajectory(trajectory, trajectory_joints(model, trajectory))
            corners = rng.integers(0, 1000, 2) + 4 * np.arange(NUM_FRAMES)[:, None]
            images = (texture[y : y + HEIGHT_PX, x : x + WIDTH_PX] for x, y in corners)
            writer.add_clip(f"clip-{number:03d}", images, hands, fps=30.0)
    size_kb = sum(path.stat().st_size for path in writer.paths) / 1e3 / (NUM_CLIPS * NUM_FRAMES * 2)
    print(f"{NUM_CLIPS} clips of {NUM_FRAMES} frames with two hands: {size_kb:.0f} kB a hand and frame\n")
    return str(folder / "*.tar")


if __name__ == "__main__":
    main()
