"""The shipped clip: it belongs to the shipped hand, its truth to its pictures, and the detector finds its hands."""

import av
import numpy as np
import pytest
import torch

from data_prep.make_demo_clip import FOCAL_PX, FPS, HEIGHT_PX, NUM_FRAMES, WIDTH_PX, demo_scene, demo_truth
from haptic.data.synthetic.render import RenderConfig, SceneRenderer
from haptic.export.npz import read_npz
from haptic.files import find_asset
from haptic.geometry.cameras import project
from haptic.hand.model import load_hand_model, trajectory_joints

CLIP, TRUTH = "demo/two_hands.mp4", "demo/two_hands_truth.npz"


@pytest.fixture(scope="module")
def model():
    return load_hand_model(None)


@pytest.fixture(scope="module")
def truth():
    return read_npz(find_asset(TRUTH))


def decoded():
    with av.open(str(find_asset(CLIP))) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def test_the_truth_belongs_to_the_shipped_hand(truth, model):
    assert truth.hand_model == model.name, "the openhand changed: run python -m data_prep.make_demo_clip again"


def test_the_truth_is_what_the_scene_says(truth, model):
    scene = demo_truth(demo_scene(), model)
    assert set(truth.hands) == {"right_0", "left_0"}
    torch.testing.assert_close(truth.camera.T_world_cam, scene.camera.T_world_cam, atol=1e-5, rtol=0)
    torch.testing.assert_close(truth.camera.T_world_cam[0], torch.eye(4), atol=1e-6, rtol=0)
    for name, hand in truth.hands.items():
        expected = trajectory_joints(model, scene.hands[name])
        torch.testing.assert_close(trajectory_joints(model, hand), expected, atol=1e-4, rtol=0)


def test_the_clip_is_small_and_carries_its_focal_length_as_a_phone_would(truth):
    from haptic.perception.video import open_video

    info = open_video(find_asset(CLIP)).info
    assert (info.width, info.height, info.fps) == (WIDTH_PX, HEIGHT_PX, FPS)
    assert info.focal_px == pytest.approx(FOCAL_PX, rel=1e-3)
    assert float(truth.camera.K[0, 0, 0]) == pytest.approx(FOCAL_PX, rel=1e-3)
    assert abs(FOCAL_PX - np.hypot(WIDTH_PX, HEIGHT_PX)) > 200  # the default for unknown cameras is not the truth
    assert find_asset(CLIP).stat().st_size < 1.5e6


def test_the_clip_moves_and_its_pictures_are_the_scene(model):
    frames = list(decoded())
    assert len(frames) == NUM_FRAMES
    renderer = SceneRenderer(demo_scene(), model, RenderConfig(edge_samples=2, shadow_rays=4))
    index = 40
    drawn = renderer.frame(index).astype(float)
    assert np.abs(drawn - frames[index]).mean() < 5  # out of 255: compression and noise
    assert np.abs(drawn - frames[index + 8]).mean() > 8  # and not just any of its pictures


def test_most_joints_are_seen_and_some_are_not():
    with np.load(find_asset(TRUTH), allow_pickle=False) as arrays:
        for name in ("right_0", "left_0"):
            assert 0.6 < arrays[f"{name}/joints_visible"].mean() < 0.99


@pytest.mark.slow
def test_the_detector_finds_both_hands_on_the_right_side_in_nine_frames_of_ten(truth, model):
    from haptic.perception.detector import HandLandmarker
    from haptic.perception.video import Frame

    joints_img = {
        name: project(trajectory_joints(model, hand), hand.camera.K).numpy() for name, hand in truth.hands.items()
    }
    both_found = 0
    with HandLandmarker() as detector:
        for index, image in enumerate(decoded()):
            detections = detector.detect_next(Frame(index, index / FPS, image))
            both_found += all(
                any(
                    np.linalg.norm(seen.joints_img - joints[index], axis=-1).mean()
                    < 0.25 * np.ptp(joints[index], 0).max()
                    and seen.is_right == name.startswith("right")
                    for seen in detections
                )
                for name, joints in joints_img.items()
            )
    assert both_found >= 0.9 * NUM_FRAMES, f"both hands in {both_found} of {NUM_FRAMES} frames"
