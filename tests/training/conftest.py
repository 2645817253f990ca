"""Made-up batches: hands in natural poses before a camera, with pictures of noise that differ from hand to hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from haptic.data.batches import ClipBatch, RealHands, TrainingBatch
from haptic.geometry.cameras import project
from haptic.geometry.rotations import rotation_from_aa
from haptic.hand.anatomy import sample_pose
from haptic.models.backbone import BackboneConfig
from haptic.models.decoder import DecoderConfig
from haptic.models.haptic import HapticConfig
from haptic.records import Camera, HandParams, Targets

SIDE_PX = 32


@pytest.fixture(scope="session")
def tiny_network() -> HapticConfig:
    """A network that takes a step in a moment."""
    return HapticConfig(
        backbone=BackboneConfig(dim=32, depth=1, heads=2, patch_px=16, patch_padding_px=0, drop_path=0.0),
        decoder=DecoderConfig(dim=32, depth=1, heads=2, head_dim=16, mlp_dim=32),
        crop_side_px=SIDE_PX,
        frame_side_px=SIDE_PX,
        keep_width=1.0,
    )


@pytest.fixture(scope="session")
def make_clips(open_hand):
    """Makes a `ClipBatch` in which everything is known."""

    def make(num_clips: int = 2, num_frames: int = 8, *, seed: int = 0, side_px: int = SIDE_PX) -> ClipBatch:
        rng = np.random.default_rng(seed)
        generator = torch.Generator().manual_seed(seed)
        shape = (num_clips, num_frames)
        betas = torch.randn(num_clips, 1, 10, generator=generator).expand(*shape, 10) * 0.5
        steps = torch.linspace(0, 1, num_frames)[None, :, None]
        place = torch.tensor([0.0, 0.0, 0.5]) + 0.1 * torch.randn(num_clips, 1, 3, generator=generator)
        params = HandParams(
            global_orient=rotation_from_aa(0.5 * torch.randn(*shape, 3, generator=generator)),
            hand_pose=sample_pose(num_clips, rng=rng).float()[:, None].expand(*shape, 15, 3, 3),
            betas=betas,
            transl=place + 0.1 * steps * torch.randn(num_clips, 1, 3, generator=generator),
        )
        params = replace(params, transl=params.transl - open_hand.rest_joints(betas)[..., 0, :])
        joints_cam = open_hand.joints(params)
        K = torch.tensor([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]]).expand(*shape, 3, 3)
        joints_img = project(joints_cam, K)
        low, high = joints_img.amin(-2), joints_img.amax(-2)
        ones = torch.ones(shape)
        pixels = torch.from_numpy(rng.integers(0, 256, (2, *shape, side_px, side_px, 3), dtype=np.uint8))
        return ClipBatch(
            crops=pixels[0],
            frames=pixels[1],
            crop_gain=torch.ones(*shape, 3),
            frame_gain=torch.ones(*shape, 3),
            box_center_img=(low + high) / 2,
            box_side_px=3 * (high - low).amax(-1),
            camera=Camera(K=K.clone(), T_world_cam=torch.eye(4).expand(*shape, 4, 4).clone()),
            camera_weight=ones,
            targets=Targets(
                joints_img=joints_img,
                joints_img_weight=torch.ones(*shape, 21),
                joints_cam=joints_cam,
                joints_cam_weight=torch.ones(*shape, 21),
                params=params,
                params_weight=ones,
            ),
            betas_weight=ones,
            place_weight=ones,
            frame_index=torch.arange(num_frames).expand(shape).clone(),
            frame_time_s=torch.arange(num_frames).expand(shape) / 30,
            is_right=torch.ones(num_clips, dtype=torch.bool),
            set_index=torch.zeros(num_clips, dtype=torch.long),
            keys=tuple(f"made/shard-{seed}/clip{number}/right_0" for number in range(num_clips)),
        )

    return make


@pytest.fixture(scope="session")
def make_real():
    """Makes hands for the discriminator."""

    def make(count: int = 4, *, seed: int = 0) -> RealHands:
        pose = sample_pose(count, rng=np.random.default_rng(seed)).float()
        return RealHands(hand_pose=pose, betas=torch.randn(count, 10, generator=torch.Generator().manual_seed(seed)))

    return make


@pytest.fixture(scope="session")
def make_batch(make_clips, make_real):
    """Makes the training batch of a step."""

    def make(index: int = 0, *, num_windows: int = 2, num_images: int = 2, clip_frames: int = 3) -> TrainingBatch:
        return TrainingBatch(
            video=make_clips(num_windows, clip_frames, seed=2 * index),
            image=make_clips(num_images, 1, seed=2 * index + 1),
            real=make_real(seed=index),
            index=index,
        )

    return make
