"""The objective against the official training module's numbers, and what it promises beside them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from haptic.data.batches import RealHands
from haptic.geometry.rotations import rotation_from_aa
from haptic.hand.model import load_hand_model
from haptic.losses.adversarial import deceiving_loss, official_discriminator_loss
from haptic.losses.keypoints import keypoint_2d_loss, official_keypoint_3d_loss
from haptic.losses.parameters import rotation_loss
from haptic.losses.reduce import weighted_sum
from haptic.models.discriminator import Discriminator
from haptic.models.haptic import Haptic
from haptic.records import Camera, HandParams, HandPrediction, Targets
from haptic.training.objective import GUIDE_TERMS, REFERENCE_COUNTS, LossWeights, Objective, ObjectiveConfig

OFFICIAL = ObjectiveConfig(reduction="official", trajectory="official")
OFFICIAL_NAMES = {
    "joints_2d": "loss_keypoints_2d",
    "joints_3d": "loss_keypoints_3d",
    "global_orient": "loss_global_orient",
    "hand_pose": "loss_hand_pose",
    "betas": "loss_betas",
    "joints_4d": "loss_keypoints_3d_full_cam",
    "first_depth": "loss_1st_depth",
}


@pytest.fixture(scope="module")
def golden(shared_dir):
    with np.load(shared_dir / "golden/haptic_tiny_module.npz", allow_pickle=False) as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files if name.startswith(GOLDEN_PARTS)}


GOLDEN_PARTS = ("gt", "video", "single", "loss", "disc", "mocap")


@pytest.fixture(scope="module")
def official_hand(shared_dir):
    return load_hand_model(shared_dir / "golden/synthetic_MANO_RIGHT.pkl")


@pytest.fixture(scope="module")
def official_discriminator(shared_dir):
    content = torch.load(shared_dir / "golden/haptic_tiny_module_state.ckpt", weights_only=True)["state_dict"]
    prefix = "discriminator."
    discriminator = Discriminator()
    discriminator.load_state_dict({k.removeprefix(prefix): v for k, v in content.items() if k.startswith(prefix)})
    return discriminator


def prediction_of(golden, part):
    """The official outputs as our record, (2, 8) windows or (4, 1) images."""
    lead = (2, 8) if part == "video" else (4, 1)
    camera = golden[f"{part}/pred_cam"]
    return HandPrediction(
        global_orient=golden[f"{part}/mano/global_orient"].reshape(*lead, 3, 3),
        hand_pose=golden[f"{part}/mano/hand_pose"].reshape(*lead, 15, 3, 3),
        betas=golden[f"{part}/mano/betas"].reshape(*lead, 10),
        scale=camera[:, 0].reshape(lead),
        shift_crop=camera[:, 1:].reshape(*lead, 2),
        depth=golden[f"{part}/pred_depth"].reshape(lead),
    )


def labels_of(golden, part, make_clips):
    """The official labels as a batch; its boxes are such that pixels are the crop's own units."""
    lead, name = ((2, 8), "gt") if part == "video" else ((4, 1), "gt_single")
    joints_2d = golden[f"{name}/keypoints_2d"].reshape(*lead, 21, 3)
    joints_3d = golden[f"{name}/keypoints_3d"].reshape(*lead, 21, 4)
    targets = Targets(
        joints_img=joints_2d[..., :2],
        joints_img_weight=joints_2d[..., 2],
        joints_cam=joints_3d[..., :3],
        joints_cam_weight=joints_3d[..., 3],
        params=HandParams(
            global_orient=rotation_from_aa(golden[f"{name}/global_orient"]).reshape(*lead, 3, 3),
            hand_pose=rotation_from_aa(golden[f"{name}/hand_pose"].reshape(*lead, 15, 3)),
            betas=golden[f"{name}/betas"].reshape(*lead, 10),
            transl=torch.zeros(*lead, 3),
        ),
        params_weight=golden[f"{name}/has_pose"].reshape(lead),
    )
    return replace(
        make_clips(*lead),
        targets=targets,
        betas_weight=golden[f"{name}/has_betas"].reshape(lead),
        box_center_img=torch.zeros(*lead, 2),
        box_side_px=torch.ones(lead),
    )


@pytest.mark.parametrize("part", ["video", "single"])
def test_every_term_is_the_official_one(golden, official_hand, make_clips, part):
    objective = Objective(OFFICIAL, official_hand)
    prediction, labels = prediction_of(golden, part), labels_of(golden, part, make_clips)
    terms = objective.clip_terms(prediction, labels)
    if part == "video":
        terms |= objective.window_terms(prediction, labels)
    for name, value in terms.items():
        expected = golden[f"{part}/losses/{OFFICIAL_NAMES[name]}"]
        torch.testing.assert_close(value, expected, rtol=2e-6, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_the_total_is_the_official_one(golden, official_hand, make_clips):
    video = prediction_of(golden, "video"), labels_of(golden, "video", make_clips)
    image = prediction_of(golden, "single"), labels_of(golden, "single", make_clips)
    objective = Objective(OFFICIAL, official_hand)
    loss = objective(video, image, discriminator=Discriminator(), real=None, step=0)
    expected = golden["loss_total"] + golden["loss_single"]
    torch.testing.assert_close(loss.total, expected, rtol=2e-6, atol=2e-5)


def test_discriminator_and_both_adversarial_losses_are_the_official_ones(golden, official_discriminator):
    fakes = [prediction_of(golden, part) for part in ("video", "single")]
    real_pose = rotation_from_aa(golden["mocap_pose"].reshape(-1, 15, 3))
    with torch.no_grad():
        fake = official_discriminator(
            torch.cat([one.hand_pose.flatten(0, 1) for one in fakes]),
            torch.cat([one.betas.flatten(0, 1) for one in fakes]),
        )
        real = official_discriminator(real_pose, golden["mocap_betas"])
    torch.testing.assert_close(fake, golden["disc_out"], rtol=0, atol=2e-5)
    torch.testing.assert_close(real, golden["disc_real"], rtol=0, atol=2e-5)
    torch.testing.assert_close(deceiving_loss(fake), golden["loss_adv"], rtol=2e-6, atol=2e-5)
    torch.testing.assert_close(official_discriminator_loss(fake, real), golden["loss_disc"], rtol=2e-6, atol=2e-5)


def test_adversarial_terms_of_a_step_are_the_official_ones(golden, official_hand, official_discriminator):
    real = RealHands(rotation_from_aa(golden["mocap_pose"].reshape(-1, 15, 3)), golden["mocap_betas"])
    fakes = [prediction_of(golden, part) for part in ("video", "single")]
    deceived, judged = Objective(OFFICIAL, official_hand).adversarial_terms(official_discriminator, fakes, real)
    torch.testing.assert_close(deceived, golden["loss_adv"], rtol=2e-6, atol=2e-5)
    torch.testing.assert_close(judged, golden["loss_disc"], rtol=2e-6, atol=2e-5)


def test_the_losses_of_single_functions_are_the_official_ones(shared_dir):
    with np.load(shared_dir / "golden/geometry.npz", allow_pickle=False) as archive:
        given = {name[5:]: torch.from_numpy(archive[name]) for name in archive.files if name.startswith("loss/")}
    two_d = keypoint_2d_loss(given["p2"], given["q2"][..., :2], given["q2"][..., 2], reduce=weighted_sum)
    torch.testing.assert_close(two_d, given["kp2d"], rtol=2e-6, atol=0)
    three_d = official_keypoint_3d_loss(given["p3"], given["q3"][..., :3], given["q3"][..., 3])
    torch.testing.assert_close(three_d, given["kp3d"], rtol=2e-6, atol=0)
    rotation, target = given["pa"].reshape(-1, 3, 3), given["pb"].reshape(-1, 3, 3)
    torch.testing.assert_close(
        rotation_loss(rotation, target, given["pm"], reduce=weighted_sum), given["param"], rtol=2e-6, atol=0
    )


def test_means_and_official_sums_agree_on_the_reference_batch(open_hand, make_clips, make_real, tiny_network):
    torch.manual_seed(0)
    network = Haptic(tiny_network)
    video, image = make_clips(8, 8, seed=1), make_clips(8, 1, seed=2)
    with torch.no_grad():
        answers = [(network.predict(one.as_clip().crops, one.as_clip().frames), one) for one in (video, image)]
        totals = [
            Objective(ObjectiveConfig(reduction=reduction), open_hand)(
                *answers, discriminator=Discriminator(), real=None, step=0
            ).total
            for reduction in ("mean", "official")
        ]
    torch.testing.assert_close(totals[0], totals[1], rtol=1e-5, atol=0)


def true_prediction(clips, open_hand):
    """What a perfect network would say."""
    params = clips.targets.params
    rest = open_hand.joints(replace(params, transl=torch.zeros_like(params.transl)))
    depth = params.transl[..., 2]
    ray = (clips.box_center_img - clips.camera.K[..., :2, 2]) / clips.camera.K[..., 0, 0, None]
    assert rest.shape[-2:] == (21, 3)
    return HandPrediction(
        global_orient=params.global_orient,
        hand_pose=params.hand_pose,
        betas=params.betas,
        scale=2 * clips.camera.K[..., 0, 0] / (clips.box_side_px * depth),
        shift_crop=params.transl[..., :2] - ray * depth[..., None],
        depth=depth - depth[:, :1],
    )


def test_a_perfect_network_has_no_loss_along_the_true_path(open_hand, make_clips):
    clips = make_clips(3, 8)
    prediction = true_prediction(clips, open_hand)
    objective = Objective(ObjectiveConfig(), open_hand)
    terms = objective.clip_terms(prediction, clips) | objective.window_terms(prediction, clips)
    for name in ("joints_3d", "joints_4d", "global_orient", "hand_pose", "betas", "first_depth"):
        assert terms[name] < 1e-5, name
    # HaMeR's imagined camera is far away: it has another perspective than the true one.
    assert 1e-3 < terms["joints_2d"] < 0.1
    through_the_lens = Objective(ObjectiveConfig(projection="camera"), open_hand)
    assert through_the_lens.clip_terms(prediction, clips)["joints_2d"] < 1e-5
    unknown_lens = replace(clips, camera_weight=torch.zeros(3, 8))
    torch.testing.assert_close(through_the_lens.clip_terms(prediction, unknown_lens)["joints_2d"], terms["joints_2d"])


def test_a_hand_thought_to_be_at_the_lens_gives_a_finite_gradient(open_hand, make_clips):
    clips = make_clips(2, 8)
    objective = Objective(ObjectiveConfig(projection="camera"), open_hand)
    for scale in (-3.0, 0.0, 1e6):
        scales = torch.full((2, 8), scale, requires_grad=True)
        loss = objective.clip_terms(replace(true_prediction(clips, open_hand), scale=scales), clips)["joints_2d"]
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(scales.grad).all()


def test_only_the_differences_of_the_depth_count_in_4d_and_the_official_slip_is_an_option(open_hand, make_clips):
    clips = make_clips(3, 8)
    prediction = true_prediction(clips, open_hand)
    farther = replace(prediction, depth=prediction.depth + 0.3)
    terms = Objective(ObjectiveConfig(), open_hand).window_terms(farther, clips)
    assert terms["joints_4d"] < 1e-5
    torch.testing.assert_close(terms["first_depth"], torch.tensor(0.3))
    slip = Objective(ObjectiveConfig(trajectory="official"), open_hand).window_terms(prediction, clips)
    assert slip["joints_4d"] > 0.01


def test_unknown_place_or_camera_leaves_the_4d_loss_out(open_hand, make_clips):
    clips = make_clips(2, 8)
    prediction = replace(true_prediction(clips, open_hand), depth=torch.rand(2, 8))
    objective = Objective(ObjectiveConfig(), open_hand)
    assert objective.window_terms(prediction, clips)["joints_4d"] > 0.01
    for name in ("place_weight", "camera_weight"):
        unknown = replace(clips, **{name: torch.zeros(2, 8)})
        assert objective.window_terms(prediction, unknown)["joints_4d"] == 0


def test_one_backward_pass_gives_each_network_the_gradient_of_its_own_loss_only(
    open_hand, make_clips, make_real, tiny_network
):
    torch.manual_seed(0)
    network, discriminator = Haptic(tiny_network), Discriminator()
    clips = make_clips(2, 3)
    config = ObjectiveConfig(weights=LossWeights(adversarial=0.3))

    def step(part):
        network.zero_grad()
        discriminator.zero_grad()
        seen = clips.as_clip()
        answer = network.predict(seen.crops, seen.frames)
        loss = Objective(config, open_hand)(
            (answer, clips), None, discriminator=discriminator, real=make_real(), step=0
        )
        part(loss).backward()
        return [
            [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in one.parameters()]
            for one in (network, discriminator)
        ]

    together = step(lambda loss: loss.total + loss.discriminator)
    generator_alone = step(lambda loss: loss.total)
    discriminator_alone = step(lambda loss: loss.discriminator)
    assert not any(grad.any() for grad in generator_alone[1])
    assert not any(grad.any() for grad in discriminator_alone[0])
    for mine, alone in zip(together[0] + together[1], generator_alone[0] + discriminator_alone[1], strict=True):
        torch.testing.assert_close(mine, alone)


def test_the_first_steps_may_see_joints_alone(open_hand):
    objective = Objective(ObjectiveConfig(joints_only_steps=10), open_hand)
    at_start = {name for name in REFERENCE_COUNTS if objective.weight_of(name, step=9) > 0}
    assert at_start == {"joints_2d", "joints_3d"}
    assert all(objective.weight_of(name, step=10) > 0 for name in REFERENCE_COUNTS if name not in GUIDE_TERMS)


def test_a_weight_below_zero_is_refused_by_name():
    with pytest.raises(ValueError, match="joints_4d is -1"):
        LossWeights(joints_4d=-1.0)


def test_labels_of_unknown_hands_do_not_reach_the_gradient(open_hand, make_clips, tiny_network):
    clips = make_clips(2, 3)
    nothing = replace(
        clips,
        targets=replace(
            clips.targets,
            joints_img_weight=torch.zeros(2, 3, 21),
            joints_cam_weight=torch.zeros(2, 3, 21),
            params_weight=torch.zeros(2, 3),
            joints_cam=torch.full((2, 3, 21, 3), float("nan")),
        ),
        betas_weight=torch.zeros(2, 3),
        camera=Camera(K=clips.camera.K, T_world_cam=clips.camera.T_world_cam),
    )
    network = Haptic(tiny_network)
    seen = nothing.as_clip()
    objective = Objective(ObjectiveConfig(weights=LossWeights(first_depth=0)), open_hand)
    answer = network.predict(seen.crops, seen.frames)
    loss = objective((answer, nothing), None, discriminator=Discriminator(), real=None, step=0)
    loss.total.backward()
    assert all(p.grad is None or not p.grad.any() for p in network.parameters())
