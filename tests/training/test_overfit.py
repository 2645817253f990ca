"""One batch, learned by heart: the proof that gradients, labels and readouts belong together."""

from dataclasses import replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from haptic.data.augment import AugmentConfig
from haptic.data.batches import TrainingBatch
from haptic.data.crops import CutConfig
from haptic.data.datamodule import DataConfig, SetConfig, TrainingData
from haptic.metrics import ra_mpjpe
from haptic.models.backbone import BackboneConfig
from haptic.models.decoder import DecoderConfig
from haptic.models.haptic import Haptic, HapticConfig
from haptic.training.module import TrainingModule
from haptic.training.objective import LossWeights, Objective, ObjectiveConfig
from haptic.training.optimisation import OptimConfig

SHARDS = Path(__file__).parent.parent.parent / "checkpoints/smoke/*.tar"
SIDE_PX = 32
STEPS = 2000


class TheSameAgain(torch.utils.data.Dataset):
    """One batch for ever; only its number changes."""

    def __init__(self, batch: TrainingBatch):
        self.batch = batch

    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        return replace(self.batch, index=index)


@pytest.mark.slow
def test_a_small_network_learns_eight_windows_to_two_millimetres(open_hand):
    data = TrainingData(
        DataConfig(
            sets={"made": SetConfig(shards=str(SHARDS))},
            video={"made": 1.0},
            cut=CutConfig(crop_side_px=SIDE_PX, frame_side_px=SIDE_PX),
            augment=AugmentConfig(mode="off"),
            num_workers=0,
        )
    )
    batch = next(iter(data.train_dataloader()))
    assert batch.video.num_clips == 8
    torch.manual_seed(0)
    network = Haptic(
        HapticConfig(
            backbone=BackboneConfig(dim=96, depth=3, heads=4, patch_px=8, patch_padding_px=0, drop_path=0.0),
            decoder=DecoderConfig(dim=128, depth=2, heads=4, head_dim=32, mlp_dim=256),
            crop_side_px=SIDE_PX,
            frame_side_px=SIDE_PX,
            keep_width=0.75,
        )
    )
    module = TrainingModule(
        network,
        Objective(ObjectiveConfig(weights=LossWeights(adversarial=0.0), projection="camera"), open_hand),
        OptimConfig(lr=1.5e-3, warmup_steps=50, schedule="cosine", total_steps=STEPS, clip_norm=50.0),
        has_adversary=False,
        starts_from_nothing=True,
    )
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TheSameAgain(batch), batch_size=None))
    clip = batch.video.as_clip()
    with torch.no_grad():
        answer = network.predict(clip.crops, clip.frames)
    joints, target = module.objective.joints_of(answer), batch.video.targets.joints_cam
    error_mm = 1000 * float(ra_mpjpe(joints.flatten(0, 1), target.flatten(0, 1)))
    assert error_mm < 2.0, f"RA-MPJPE {error_mm:.2f} mm after {STEPS} steps"
