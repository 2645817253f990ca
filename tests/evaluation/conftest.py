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
    folder = tmp_path_factory.mktemp("shards")
    with SampleWriter(folder, prefix="val", data_set=SET, licence="CC0-1.0", hand_model=open_hand.name) as writer:
        for key, spans in (("one", ((0, 20), (0, 20))), ("two", ((0, 12),))):
            result = make_result(spans, num_frames=20 if key == "one" else 12, moving_camera=True)
            hands = {
                name: labels_from_trajectory(hand, trajectory_joints(open_hand, hand))
                for name, hand in result.hands.items()
            }
            images = [np.full((240, 320, 3), 90, np.uint8)] * len(result.frame_time_s)
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
