"""What training costs: hands per second and peak memory of the shipped size, and of one step of the full size.

    OMP_NUM_THREADS=2 python benchmarks/train.py tiny              training, 8 windows of 8 frames, and forward alone
    OMP_NUM_THREADS=2 python benchmarks/train.py full              ViT-H: 1 window, bf16, checkpointing, no average
    python benchmarks/train.py tiny --accelerator gpu --windows 64

A hand is two pictures, its crop and its full frame. Weights, pixels and poses are made up: the cost is the same. The
full size must stay below 16 GB; loading libraries and building the network count, since they need memory too.
"""

import argparse
import resource
import statistics
import sys
import time
from dataclasses import replace

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from haptic.cli.train import build_parser
from haptic.data.batches import ClipBatch, RealHands, TrainingBatch
from haptic.geometry.cameras import project
from haptic.geometry.rotations import rotation_from_aa
from haptic.hand.anatomy import sample_pose
from haptic.hand.model import HandModel, load_hand_model
from haptic.models.haptic import Haptic, HapticConfig
from haptic.records import Camera, HandParams, Targets
from haptic.training.module import TrainingModule
from haptic.training.objective import Objective, ObjectiveConfig
from haptic.training.optimisation import OptimConfig

CLIP_FRAMES = 8
TINY = "configs/train/openhand_tiny.yaml"
GB = 1024**3
FEW_STEPS = 3  # no more than these: the full size, whose forward pass benchmarks/network.py measures


class Repeated(Dataset[TrainingBatch]):
    """The same batch, with the numbers of a run's first steps."""

    def __init__(self, batch: TrainingBatch, length: int) -> None:
        self.batch, self.length = batch, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> TrainingBatch:
        return replace(self.batch, index=index)


class Clock(pl.Callback):
    """When each step was over."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_arguments: object) -> None:
        """Look at the clock; a GPU's work is waited for."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def made_up_clips(hand_model: HandModel, windows: int, side_px: int) -> ClipBatch:
    """Return hands in natural poses before a camera; the pixels are noise."""
    rng, lead = np.random.default_rng(0), (windows, CLIP_FRAMES)
    generator = torch.Generator().manual_seed(0)
    params = HandParams(
        global_orient=rotation_from_aa(torch.randn(*lead, 3, generator=generator)),
        hand_pose=sample_pose(windows * CLIP_FRAMES, rng=rng).float().reshape(*lead, 15, 3, 3),
        betas=torch.zeros(*lead, 10),
        transl=torch.tensor([0.0, 0.0, 0.6]).expand(*lead, 3).clone(),
    )
    joints_cam = hand_model.joints(params)
    K = torch.tensor([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]]).expand(*lead, 3, 3).clone()
    joints_img = project(joints_cam, K)
    low, high = joints_img.amin(-2), joints_img.amax(-2)
    pixels = torch.from_numpy(rng.integers(0, 256, (2, *lead, side_px, side_px, 3), dtype=np.uint8))
    ones, joint_ones, gain = torch.ones(lead), torch.ones(*lead, 21), torch.ones(*lead, 3)
    return ClipBatch(
        crops=pixels[0], frames=pixels[1], crop_gain=gain, frame_gain=gain,
        box_center_img=(low + high) / 2, box_side_px=3 * (high - low).amax(-1),
        camera=Camera(K=K, T_world_cam=torch.eye(4).expand(*lead, 4, 4).clone()), camera_weight=ones,
        targets=Targets(
            joints_img=joints_img, joints_img_weight=joint_ones, joints_cam=joints_cam, joints_cam_weight=joint_ones,
            params=params, params_weight=ones,
        ),
        betas_weight=ones, place_weight=ones,
        frame_index=torch.arange(CLIP_FRAMES).expand(lead).clone(), frame_time_s=torch.zeros(lead),
        is_right=torch.ones(windows, dtype=torch.bool), set_index=torch.zeros(windows, dtype=torch.long),
        keys=tuple(f"made up {number}" for number in range(windows)),
    )  # fmt: skip


def measure(
    network: HapticConfig, optim: OptimConfig, *, windows: int, steps: int, accelerator: str, precision: str
) -> None:
    """Train a few steps, then only answer, and print what that took."""
    hand_model = load_hand_model(None)
    torch.manual_seed(0)
    module = TrainingModule(Haptic(network), Objective(ObjectiveConfig(), hand_model), optim)
    clips = made_up_clips(hand_model, windows, network.crop_side_px)
    real = RealHands(hand_pose=clips.targets.params.hand_pose.flatten(0, 1), betas=torch.zeros(clips.num_hands, 10))
    batch = TrainingBatch(video=clips, image=None, real=real, index=0)
    clock = Clock()
    trainer = pl.Trainer(
        accelerator=accelerator, devices=1, precision=precision, max_epochs=1, logger=False, callbacks=[clock],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    cpu_s = time.process_time()
    started = time.perf_counter()
    trainer.fit(module, DataLoader(Repeated(batch, steps), batch_size=None))
    cpu_s = time.process_time() - cpu_s
    step_s = np.diff([started, *clock.times])
    usual_s = statistics.median(step_s[1:]) if len(step_s) > 1 else step_s[0]  # the first step also warms up
    parameters = sum(one.numel() for one in module.network.parameters()) / 1e6
    print(f"{parameters:.1f} M parameters, {windows} windows of {CLIP_FRAMES} frames, {precision}, {steps} steps, "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    print(f"  training   {clips.num_hands / usual_s:8.1f} hands/s   {usual_s:.2f} s a step, the first "
          f"{step_s[0]:.2f} s, {cpu_s / steps:.2f} CPU-s a step")  # fmt: skip
    print(f"  memory     {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB:8.2f} GB at most")
    if torch.cuda.is_available() and accelerator != "cpu":
        print(f"  on the GPU {torch.cuda.max_memory_allocated() / GB:8.2f} GB at most")
    if steps > FEW_STEPS:
        print_forward(module, clips, steps)


def print_forward(module: TrainingModule, clips: ClipBatch, steps: int) -> None:
    """Print how fast the network answers, in single precision."""
    network, clip = module.network.eval(), clips.as_clip()
    device = next(network.parameters()).device
    clip = clip.to(device)
    times = []
    with torch.inference_mode():
        for _step in range(max(steps // 2, 2)):
            started = time.perf_counter()
            network.predict_clips([clip])
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
    print(f"  forward    {clips.num_hands / statistics.median(times[1:] or times):8.1f} hands/s in fp32")


def main() -> None:
    """Measure one size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=["tiny", "full"])
    parser.add_argument("--windows", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed", "16-mixed"])
    arguments = parser.parse_args()
    if arguments.size == "tiny":
        config = build_parser()
        parts = config.instantiate(config.parse_args(["--config", TINY]))
        network, optim = parts.network, parts.optim
    else:
        network, optim = HapticConfig(), OptimConfig(checkpointing=True)
    windows = arguments.windows or (8 if arguments.size == "tiny" else 1)
    steps = arguments.steps or (8 if arguments.size == "tiny" else 2)
    precision = arguments.precision or ("32-true" if arguments.size == "tiny" else "bf16-mixed")
    measure(network, optim, windows=windows, steps=steps, accelerator=arguments.accelerator, precision=precision)


if __name__ == "__main__":
    sys.exit(main())
