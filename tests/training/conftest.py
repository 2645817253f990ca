"""Made-up batches: hands in natural poses before a camera, with pictures of noise that differ from hand to hand."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from haptic.data.batches import ClipBatch, RealHands, TrainingBatch
from haptic.data.samples import SampleWriter, WriterConfig, labels_from_trajectory
from haptic.geometry.cameras import project
from haptic.geometry.rotations import rotation_from_aa
from haptic.hand.anatomy import sample_pose
from haptic.hand.joints import PARENTS_21
from haptic.hand.model import trajectory_joints
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


def paint_hands(joints_img, *, width_px=320, height_px=240):
    """Draw bones as thick lines, each finger in its own colour: enough to learn from."""
    image = np.full((height_px, width_px, 3), 40, np.uint8)
    colors = [(250, 80, 80), (80, 250, 80), (80, 120, 250), (240, 240, 70), (230, 90, 240)]
    for joints in joints_img:
        points = [(round(float(x)), round(float(y))) for x, y in joints]
        for joint, parent in enumerate(PARENTS_21):
            if parent >= 0:
                cv2.line(image, points[parent], points[joint], colors[(joint - 1) // 4], 4)
    return image


@pytest.fixture(scope="session")
def shard_folder(make_result, open_hand, tmp_path_factory):
    """A folder with two shards of hands drawn as bones: right and left, 20 frames each clip."""
    folder = tmp_path_factory.mktemp("shards")
    with SampleWriter(
        folder, prefix="bones", data_set="bones", licence="CC0-1.0", hand_model=open_hand.name,
        config=WriterConfig(max_crop_px=96, max_frame_px=96, max_shard_clips=2),
    ) as writer:  # fmt: skip
        for number in range(4):
            result = make_result(spans=((0, 20), (0, 20)), num_frames=20, moving_camera=number % 2 == 1)
            hands, joints_img = {}, []
            for name, trajectory in result.hands.items():
                joints_cam = trajectory_joints(open_hand, trajectory)
                hands[name] = labels_from_trajectory(trajectory, joints_cam)
                joints_img.append(project(joints_cam, trajectory.camera.K))
            images = [paint_hands([one[frame] for one in joints_img]) for frame in range(20)]
            writer.add_clip(f"clip{number}", images, hands, fps=30.0)
    return folder


TINY_YAML = """
run: {{out: {out}, log_every_steps: 1, save_every_steps: 2, validate_every_steps: null}}
data:
  sets: {{bones: {{shards: "{shards}/*.tar"}}}}
  video: {{bones: 1.0}}
  image: {{bones: 1.0}}
  validation: [bones]
  validation_max_tracks: 2
  clip_frames: 4
  windows_per_batch: 2
  images_per_batch: 2
  real_hands_per_batch: 8
  num_workers: 0
network:
  backbone: {{dim: 32, depth: 1, heads: 2, patch_px: 16, patch_padding_px: 0, drop_path: 0.1}}
  decoder: {{dim: 32, depth: 2, heads: 2, head_dim: 16, mlp_dim: 32}}
  crop_side_px: 32
  frame_side_px: 32
  keep_width: 1.0
objective: {{guide_only_steps: 2, weights: {{guide_cells: 1.0, guide_2d: 1.0, guide_depth: 1.0}}}}
optim: {{total_steps: 6, lr: 1.0e-3, warmup_steps: 1, schedule: cosine, clip_norm: 10.0, ema_decay: 0.9}}
trainer: {{accelerator: cpu, devices: 1}}
"""


@pytest.fixture
def tiny_yaml(shard_folder, tmp_path):
    """The path of a config of a run that takes a moment, in `tmp_path/run`."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_YAML.format(out=tmp_path / "run", shards=shard_folder))
    return path
