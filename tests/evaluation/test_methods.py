"""Methods do what their names say: depth held, cameras believed, networks run, objectives lowered."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from haptic.data.shards import ShardStore
from haptic.evaluation.baselines import Method, MethodRunner, hold_depth, method_camera, parse_method
from haptic.evaluation.clips import ClipPictures, truth_track
from haptic.evaluation.first_order import FirstOrderConfig, objective_value, refine_first_order
from haptic.evaluation.observing import detector_track
from haptic.geometry.boxes import HAPTIC_EXPANSION
from haptic.hand.landmarks import load_landmark_model
from haptic.hand.model import trajectory_joints
from haptic.inference.network import NetworkConfig, run_network
from haptic.models.backbone import BackboneConfig
from haptic.models.checkpoint import CheckpointInfo
from haptic.models.decoder import DecoderConfig
from haptic.models.haptic import Haptic, HapticConfig
from haptic.perception.detector import HandDetection
from haptic.pipeline import Network
from haptic.records import Camera, HandParams, Trajectory
from haptic.refinement.refine import refine
from haptic.refinement.stages import RefinementConfig


@pytest.fixture
def network(open_hand):
    """A small network whose every parameter has a random value."""
    model = Haptic(
        HapticConfig(
            backbone=BackboneConfig(dim=32, depth=2, heads=4),
            decoder=DecoderConfig(dim=32, depth=2, heads=2, head_dim=8, mlp_dim=32),
        )
    )
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=rng))
    return Network(model.eval(), CheckpointInfo(open_hand.name, "haptic"))


class FakeDetector:
    """Sees nothing, until a test says what it sees in a region."""

    def detect(self, frame):
        raise AssertionError("only regions are looked at")

    detect_next = detect

    def detect_in(self, frame, region):
        return []

    def restart(self):
        pass


def true_trajectory(clip, name):
    labels = clip.labels(name)
    num = len(labels.frame_index)
    return Trajectory(
        frame_index=labels.frame_index,
        time_s=clip.time_s(name),
        params=labels.params,
        camera=labels.camera,
        confidence=torch.ones(num),
        observed=torch.ones(num, dtype=torch.bool),
        is_right=labels.is_right,
    )


def disturbed(clip, name):
    """The truth, off by a centimetre to the side and with bent fingers half straightened."""
    truth = true_trajectory(clip, name)
    params = HandParams(
        truth.params.global_orient,
        truth.params.hand_pose,
        truth.params.betas,
        truth.params.transl + torch.tensor([0.01, 0.0, 0.0]),
    )
    return replace(truth, params=params)


def make_runner(clip, open_hand, network=None):
    return MethodRunner(clip, ClipPictures(clip, ShardStore()), open_hand, network=network)


@pytest.mark.parametrize("name", ["right_0", "left_0"])
def test_constant_depth_keeps_the_rays_and_the_first_depth_seen(clip, open_hand, name):
    truth = true_trajectory(clip, name)
    truth.observed[:3] = False
    held = hold_depth(open_hand, truth)
    before, after = (trajectory_joints(open_hand, one)[:, 0] for one in (truth, held))
    torch.testing.assert_close(after[:, 2], before[3, 2].expand(len(after)), atol=1e-5, rtol=0)
    torch.testing.assert_close(after / after[:, 2:], before / before[:, 2:], atol=1e-5, rtol=0)


def test_a_believed_camera_has_another_focal_length_and_the_same_place(clip):
    camera = clip.labels("right_0").camera
    size = {"width_px": 320, "height_px": 240}
    longer = method_camera(parse_method("keypoints@x1.5"), camera, **size)
    assert longer.K[0, 0, 0] == pytest.approx(1.5 * float(camera.K[0, 0, 0]))
    assert torch.equal(longer.K[:, :2, 2], camera.K[:, :2, 2])
    diagonal = method_camera(parse_method("keypoints@diagonal"), camera, **size)
    assert diagonal.K[0, 0, 0] == pytest.approx(400)
    assert torch.equal(diagonal.T_world_cam, camera.T_world_cam)
    assert method_camera(Method("keypoints"), camera, **size) is camera


def test_keypoints_of_the_truth_find_the_hand(clips, open_hand):
    clip = clips[1]
    found = dict(make_runner(clip, open_hand).run(parse_method("keypoints-gt")))
    for name in clip.hands:
        joints = trajectory_joints(open_hand, found[name])
        wrists = (joints - clip.labels(name).joints_cam)[:, 0]
        assert float(wrists.norm(dim=-1).median()) < 0.12


def test_a_hand_in_which_the_detector_sees_no_joints_is_left_out_and_said_so(clip, open_hand):
    runner = make_runner(clip, open_hand)
    runner.detector = FakeDetector()
    prediction = runner.predict(parse_method("keypoints"))
    assert not prediction.hands
    assert prediction.notes == tuple(f"{name}: the detector found no joints in any frame" for name in clip.hands)


def test_what_the_detector_sees_in_a_stored_picture_is_told_in_pixels_of_the_image(clip):
    labels = clip.labels("left_0")
    pictures = ClipPictures(clip, ShardStore())
    looked = []

    class Seeing(FakeDetector):
        def detect_in(self, frame, region):
            looked.append(frame.index)
            picture = pictures.sharpest("left_0", frame.index)
            joints = labels.joints_img[frame.index].double().numpy() * picture.scale + picture.offset_px
            box = np.concatenate([joints.min(0), joints.max(0)])
            assert np.abs(region.center - (box[:2] + box[2:]) / 2).max() < 0.1
            return [HandDetection(frame.index, 0.0, 0.9, box, joints, np.ones(21), np.zeros((21, 3)))]

    track = detector_track(clip, pictures, "left_0", Seeing())
    assert looked == list(range(20))
    torch.testing.assert_close(track.joints_img.float(), labels.joints_img, atol=1e-2, rtol=0)
    assert not bool(track.is_right)


@pytest.mark.parametrize("name", ["right_0", "left_0"])
def test_the_network_on_stored_crops_says_what_it_says_on_the_video(clip, open_hand, network, name):
    labels = clip.labels(name)
    found = dict(make_runner(clip, open_hand, network).run(parse_method("haptic")))[name]
    track = replace(
        truth_track(clip, name),
        box_center_img=labels.box_center_img,
        box_side_px=labels.box_side_px / HAPTIC_EXPANSION,
    )
    images = [(frame, np.full((240, 320, 3), 90, np.uint8)) for frame in range(20)]
    camera = Camera(labels.camera.K, labels.camera.T_world_cam)
    (expected,) = run_network(
        network.model, images, [track], camera=camera, config=NetworkConfig(device="cpu"), hand_model=open_hand
    )
    joints = [trajectory_joints(open_hand, one) for one in (found, expected)]
    spread = (joints[1] - joints[1].mean((0, 1))).norm(dim=-1).mean()
    # Stored crops are reduced and JPEG, and weights drawn at random make much of it.
    assert float((joints[0] - joints[1]).norm(dim=-1).mean()) < 0.05 * float(spread)


def test_weak2full_goes_with_the_believed_focal_length(clips, open_hand, network):
    clip = clips[1]
    runner = make_runner(clip, open_hand, network)
    true, longer = (dict(runner.run(parse_method(name)))["right_0"] for name in ("weak2full", "weak2full@x1.5"))
    wrists = [trajectory_joints(open_hand, one)[:, 0, 2] for one in (true, longer)]
    rest = open_hand.rest_joints(true.params.betas)[:, 0, 2]
    deep = wrists[0] - rest > 0.2
    assert deep.any()
    torch.testing.assert_close((wrists[1] - rest)[deep] / (wrists[0] - rest)[deep], torch.full((int(deep.sum()),), 1.5))


def test_a_network_method_without_a_network_is_refused(clip, open_hand):
    with pytest.raises(ValueError, match="--checkpoint"):
        make_runner(clip, open_hand).run(parse_method("haptic"))


def test_first_order_steps_lower_our_objective_and_keep_the_shape(clip, open_hand):
    name = "left_0"
    start, track = disturbed(clip, name), truth_track(clip, name)
    joints = load_landmark_model("joints")
    config = RefinementConfig()
    after = refine_first_order(open_hand, start, track, joints, refinement=config, config=FirstOrderConfig(steps=8))

    def value(trajectory):
        return float(objective_value(open_hand, start, trajectory, track, joints, refinement=config))

    values = [value(one) for one in (start, after)]
    assert values[1] < 0.95 * values[0]
    torch.testing.assert_close(after.params.betas, start.params.betas)
    assert bool(after.is_right) == bool(start.is_right)
    ((ours, _report),) = refine(open_hand, [start], [track], landmark_model=joints)
    assert value(ours) < values[1]


def test_only_a_depth_that_the_network_told_holds_the_refinement():
    held = {
        name: parse_method(name).refinement_config.stages[-1].weights.initial_depth
        for name in ("haptic+refine", "haptic/constant-depth+refine", "weak2full+refine", "keypoints+refine")
    }
    assert held.pop("haptic+refine") == RefinementConfig().network_depth > 0
    assert set(held.values()) == {0.0}


@pytest.mark.parametrize(("name", "needed"), [
    ("keypoints", True), ("keypoints+refine", True), ("keypoints-gt", False), ("keypoints-gt+refine", False),
    ("haptic", False), ("haptic+refine", True), ("weak2full/constant-depth", False), ("weak2full+first-order", True),
])  # fmt: skip
def test_who_starts_from_joints_or_is_refined_by_them_needs_the_detector(name, needed):
    assert parse_method(name).needs_detector is needed
