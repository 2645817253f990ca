"""A small set of shards with known truth, and predictions made from it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from haptic.data.samples import SampleWriter, labels_from_trajectory
from haptic.data.shards import ShardStore
from haptic.evaluation.clips import EvalClip, list_clips
from haptic.evaluation.predictions import PredictedHand, Prediction
from haptic.hand.model import HandModel, trajectory_joints
from haptic.records import Reconstruction

SET = "dexycb-s0-val"


@pytest.fixture(scope="session")
def shard(tmp_path_factory: pytest.TempPathFactory, make_result: Callable[..., Reconstruction], open_hand: HandModel):
    """Two sequences: `one` of both hands in 20 frames, `two` of a right hand in 12, before a moving camera."""
    return _write(tmp_path_factory.mktemp("shards"), make_result, open_hand, frames=(20, 12))


@pytest.fixture(scope="session")
def short_shard(
    tmp_path_factory: pytest.TempPathFactory, make_result: Callable[..., Reconstruction], open_hand: HandModel
):
    """The same hands in 6 and 4 frames, for whole runs."""
    return _write(tmp_path_factory.mktemp("short"), make_result, open_hand, frames=(6, 4))


def _write(
    folder: Path, make_result: Callable[..., Reconstruction], model: HandModel, *, frames: tuple[int, int]
) -> Path:
    with SampleWriter(folder, prefix="val", data_set=SET, licence="CC0-1.0", hand_model=model.name) as writer:
        for key, num_frames, num_hands in (("one", frames[0], 2), ("two", frames[1], 1)):
            result = make_result(((0, num_frames),) * num_hands, num_frames=num_frames, moving_camera=True)
            hands = {
                name: labels_from_trajectory(hand, trajectory_joints(model, hand))
                for name, hand in result.hands.items()
            }
            images = [np.full((240, 320, 3), 90, np.uint8)] * num_frames
            writer.add_clip(key, images, hands, fps=30.0)
    return writer.paths[0]


@pytest.fixture(scope="session")
def clips(shard: Path) -> list[EvalClip]:
    return list_clips(SET, [str(shard)], ShardStore())


@pytest.fixture(scope="session")
def clip(clips: list[EvalClip]) -> EvalClip:
    """The sequence with both hands."""
    return clips[0]


@pytest.fixture(scope="session")
def perfect() -> Callable[[EvalClip], Prediction]:
    """Return the truth as if a system had found it."""

    def make(clip: EvalClip) -> Prediction:
        hands = {
            name: PredictedHand(
                hand.labels.frame_index, hand.labels.joints_cam.double(), None, bool(hand.labels.is_right)
            )
            for name, hand in clip.hands.items()
        }
        return Prediction(hands, where="system.npz", fps=30.0)

    return make


@pytest.fixture(scope="session")
def noisy(perfect: Callable[[EvalClip], Prediction]) -> Callable[[EvalClip], Prediction]:
    """Return the truth with 4 mm of noise in each axis of every joint."""

    def make(clip: EvalClip) -> Prediction:
        rng = torch.Generator().manual_seed(3)
        hands = {}
        for name, hand in perfect(clip).hands.items():
            assert hand.joints_cam is not None
            noise = 0.004 * torch.randn(hand.joints_cam.shape, generator=rng, dtype=torch.float64)
            hands[name] = PredictedHand(hand.frame_index, hand.joints_cam + noise, None, hand.is_right)
        return Prediction(hands, where="system.npz", fps=30.0)

    return make
