"""The network run over a video."""

from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from haptic.data.crops import cut_crop, cut_full_frame, normalise
from haptic.geometry.boxes import seen_boxes
from haptic.geometry.cameras import intrinsics
from haptic.geometry.lift import lift_at_depth, official_lift_weak, weak_depth
from haptic.hand.mirror import mirror_camera, mirror_image, mirror_params, mirror_track
from haptic.inference.network import NetworkConfig, NetworkRunner, choose_device, run_network
from haptic.inference.windows import WindowConfig
from haptic.models.backbone import BackboneConfig
from haptic.models.decoder import DecoderConfig
from haptic.models.haptic import Haptic, HapticConfig
from haptic.records import Camera, HandParams, HandTrack

WIDTH, HEIGHT = 96, 64
OFFICIAL = WindowConfig(mode="official")


def tiny_network(
    *, added_attention=("cross_view", "global"), crop_side_px=64, frame_side_px=64, box_share=1.0, sees_box=False
):
    model = Haptic(
        HapticConfig(
            backbone=BackboneConfig(dim=32, depth=1, heads=4),
            decoder=DecoderConfig(
                dim=32, depth=2, heads=2, head_dim=8, mlp_dim=32, added_attention=added_attention, sees_box=sees_box
            ),
            crop_side_px=crop_side_px,
            frame_side_px=frame_side_px,
            box_share=box_share,
        )
    )
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=rng))
        for readout in (model.readout.camera, model.readout.depth):
            readout.weight.mul_(0.02)
            readout.bias.mul_(0.02)
    return model.eval()


@pytest.fixture(scope="module")
def network():
    return tiny_network()


@pytest.fixture
def count_passes(network):
    """Counts the pictures that pass through the backbone."""
    counter = Counter()
    hook = network.backbone.register_forward_hook(
        lambda _module, args, _output: counter.update(pictures=args[0].shape[0], calls=1)
    )
    yield counter
    hook.remove()


def video(num_frames, seed=0):
    rng = np.random.default_rng(seed)
    return [(index, rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)) for index in range(num_frames)]


def track(start, num_frames, *, is_right=True, seed=0):
    rng = torch.Generator().manual_seed(seed)
    center = torch.tensor([40.0, 30.0]) + 8 * torch.randn(num_frames, 2, generator=rng)
    frames = torch.arange(start, start + num_frames)
    return HandTrack(
        frame_index=frames,
        time_s=frames / 30,
        box_center_img=center,
        box_side_px=16 + 4 * torch.rand(num_frames, generator=rng),
        joints_img=center[:, None] + 5 * torch.randn(num_frames, 21, 2, generator=rng),
        joints_img_weight=torch.ones(num_frames, 21),
        landmarks=torch.zeros(num_frames, 21, 3),
        landmarks_weight=torch.zeros(num_frames),
        confidence=torch.rand(num_frames, generator=rng),
        observed=torch.ones(num_frames, dtype=torch.bool),
        is_right=torch.tensor(is_right),
    )


def still_camera():
    return Camera(K=intrinsics(90.0, width=WIDTH, height=HEIGHT), T_world_cam=torch.eye(4))


def assert_same_motion(one, other, atol=1e-5):
    for f in fields(HandParams):
        torch.testing.assert_close(getattr(one.params, f.name), getattr(other.params, f.name), atol=atol, rtol=0)


def predict_at_once(network, images, hand, expansion=3):
    """The whole track as one clip through the network's front door, without runner or windows."""
    box = zip(hand.box_center_img.tolist(), (expansion * hand.box_side_px).tolist(), strict=True)
    crops = [
        cut_crop(image, center_img=(x, y), box_side_px=side, side_px=64)
        for image, ((x, y), side) in zip(images, box, strict=True)
    ]
    frames = [cut_full_frame(image, side_px=64) for image in images]
    boxes = seen_boxes(hand.box_center_img, expansion * hand.box_side_px, still_camera().K.expand(len(crops), 3, 3))
    with torch.no_grad():
        return network.predict(normalise(np.stack(crops))[None], normalise(np.stack(frames))[None], boxes[None])


@pytest.mark.parametrize("sees_box", [False, True])
def test_a_short_track_comes_out_as_the_network_says_and_the_lift_places_it(sees_box):
    network = tiny_network(sees_box=sees_box)
    hand, images = track(2, 6), video(10)
    result = run_network(network, images, [hand], camera=still_camera())[0]
    answer = predict_at_once(network, [image for _, image in images[2:8]], hand)
    torch.testing.assert_close(result.params.global_orient, answer.global_orient[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(result.params.hand_pose, answer.hand_pose[0], atol=1e-5, rtol=0)
    relative = answer.depth[0] - answer.depth[0, 0]
    K = still_camera().K.expand(6, 3, 3)
    first = (weak_depth(answer.scale[0], 3 * hand.box_side_px, K) - relative).median()
    expected = lift_at_depth(answer.shift_crop[0], hand.box_center_img, first + relative, K)
    torch.testing.assert_close(result.params.transl, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(result.frame_index, torch.arange(2, 8))
    weight = hand.confidence / hand.confidence.sum()
    torch.testing.assert_close(result.params.betas, (weight @ answer.betas[0]).expand(6, 10), atol=1e-5, rtol=0)


def test_the_official_mode_starts_from_weak2full_of_the_first_frame_and_mean_box(network):
    hand, images = track(0, 8), video(8)
    config = NetworkConfig(windows=OFFICIAL)
    result = run_network(network, images, [hand], camera=still_camera(), config=config)[0]
    answer = predict_at_once(network, [image for _, image in images], hand)
    mean_side = (3 * hand.box_side_px).mean()
    first = official_lift_weak(
        answer.scale[0, 0], answer.shift_crop[0, 0], hand.box_center_img[0], mean_side, still_camera().K
    )
    torch.testing.assert_close(result.params.transl[0], first, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        result.params.transl[:7, 2], (first[2] + answer.depth[0] - answer.depth[0, 0])[:7], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(result.params.betas[:7], answer.betas[0, :7], atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["ours", "official"])
def test_windows_in_batches_give_what_windows_one_by_one_give(network, mode):
    hands = [
        track(0, 17),
        track(3, 12, seed=1),
        track(1, 5, is_right=False, seed=2),
        track(4, 14, is_right=False, seed=3),
    ]
    results = [
        run_network(
            network,
            video(19),
            hands,
            camera=still_camera(),
            config=NetworkConfig(windows=WindowConfig(mode=mode), batch_windows=batch),
        )
        for batch in (1, 3, 50)
    ]
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            assert_same_motion(one, same)


@pytest.mark.parametrize("mode", ["ours", "official"])
def test_a_long_clip_of_one_hand_takes_one_pass_per_crop_and_one_per_frame(network, count_passes, mode):
    config = NetworkConfig(windows=WindowConfig(mode=mode))
    run_network(network, video(128), [track(0, 128)], camera=still_camera(), config=config)
    assert count_passes["pictures"] == 128 + 128  # 19 windows of 16 would be 304


def test_hands_of_one_side_share_the_full_frame_and_frames_without_a_hand_cost_nothing(network, count_passes):
    rights = [track(0, 10), track(5, 10, seed=1)]
    run_network(network, video(30), rights, camera=still_camera())
    assert count_passes["pictures"] == 20 + 15
    count_passes.clear()
    both = [track(0, 10), track(0, 10, is_right=False, seed=1)]
    run_network(network, video(12), both, camera=still_camera())
    assert count_passes["pictures"] == 20 + 20  # the left hand sees the flipped picture
    count_passes.clear()
    assert run_network(network, video(5), [], camera=still_camera()) == []
    assert not count_passes


def test_features_live_no_longer_than_their_window(network):
    """A long video must not fill the memory: whatever its length, no more is kept than a few windows need."""
    most = {}
    for num_frames in (60, 120):
        hands = [track(0, num_frames), track(0, num_frames, is_right=False, seed=1)]
        runner = NetworkRunner(network, hands, camera=still_camera(), config=NetworkConfig(batch_windows=2))
        most[num_frames] = 0
        for index, image in video(num_frames):
            runner.push(index, image)
            kept = sum(len(state.crop_features) + len(state.frame_features) for state in runner._states)
            waiting = len(runner._pictures) + sum(2 * window.crop_features.shape[0] for window in runner._ready)
            most[num_frames] = max(most[num_frames], kept + waiting)
        runner.finish()
        assert not any(state.crop_features or state.frame_features for state in runner._states)
    assert most[60] == most[120] <= 120


@pytest.mark.parametrize("sees_box", [False, True])
def test_a_left_hand_is_the_mirror_image_of_the_right_hand_in_the_flipped_video(sees_box):
    # Without the full frame: its square is half a pixel off the middle, and so one pixel apart for the two sides.
    crops_only = tiny_network(added_attention=("cross_view",), sees_box=sees_box)
    right, images = track(0, 11), video(11)
    flipped = [(index, mirror_image(image)) for index, image in images]
    K = still_camera().K
    K[0, 2] += 7
    camera = replace(still_camera(), K=K)
    as_right = run_network(crops_only, images, [right], camera=camera)[0]
    flipped_camera = mirror_camera(camera, WIDTH)
    as_left = run_network(crops_only, flipped, [mirror_track(right, WIDTH)], camera=flipped_camera)[0]
    assert not as_left.is_right
    for f in fields(HandParams):
        mirrored = getattr(mirror_params(as_right.params), f.name)
        torch.testing.assert_close(getattr(as_left.params, f.name), mirrored, atol=1e-4, rtol=0)
    torch.testing.assert_close(as_left.camera.K[0], flipped_camera.K)


def test_a_given_first_depth_takes_the_place_of_weak2full(network):
    free, held = (
        run_network(
            network, video(20), [track(0, 20)], camera=still_camera(), config=NetworkConfig(first_depth_m=depth)
        )[0]
        for depth in (None, 0.75)
    )
    torch.testing.assert_close(held.params.transl[0, 2], torch.tensor(0.75))
    shift = held.params.transl[:, 2] - free.params.transl[:, 2]
    torch.testing.assert_close(shift, shift[:1].expand(20), atol=1e-5, rtol=0)


def test_weights_without_a_depth_place_each_frame_by_its_weak_camera():
    hamer = tiny_network()
    with torch.no_grad():
        hamer.readout.depth.weight.zero_()
        hamer.readout.depth.bias.zero_()
    hand, images = track(0, 6), video(6)
    result = run_network(hamer, images, [hand], camera=still_camera())[0]
    answer = predict_at_once(hamer, [image for _, image in images], hand)
    expected = weak_depth(answer.scale[0], 3 * hand.box_side_px, still_camera().K.expand(6, 3, 3))
    torch.testing.assert_close(result.params.transl[:, 2], expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.01


def test_one_shape_for_all_frames_leaves_the_wrists_where_they_were(network, open_hand):
    hand, images = track(0, 9), video(9)
    result = run_network(network, images, [hand], camera=still_camera(), hand_model=open_hand)[0]
    free = run_network(
        network,
        images,
        [hand],
        camera=still_camera(),
        config=NetworkConfig(windows=OFFICIAL, first_depth_m=float(result.params.transl[0, 2])),
        hand_model=open_hand,
    )[0]
    wrist = open_hand.rest_joints(result.params.betas)[:, 0] + result.params.transl
    own_wrist = open_hand.rest_joints(free.params.betas)[:, 0] + free.params.transl
    assert (result.params.betas == result.params.betas[0]).all()
    assert not (free.params.betas == free.params.betas[0]).all()
    moved = wrist - own_wrist
    torch.testing.assert_close(moved[:7, 2], moved[:1, 2].expand(7), atol=1e-5, rtol=0)


def test_a_shape_of_another_hand_is_set_to_the_mean(network):
    result = run_network(network, video(4), [track(0, 4)], camera=still_camera(), zero_betas=True)[0]
    assert not result.params.betas.any()


def test_cameras_of_each_frame_are_used_and_handed_on(network):
    K = still_camera().K.repeat(12, 1, 1)
    K[:, 0, 2] += torch.arange(12.0)
    world = torch.eye(4).repeat(12, 1, 1)
    world[:, 0, 3] = torch.arange(12.0)
    result = run_network(network, video(12), [track(3, 5)], camera=Camera(K=K, T_world_cam=world))[0]
    torch.testing.assert_close(result.camera.K, K[3:8])
    torch.testing.assert_close(result.camera.T_world_cam, world[3:8])
    still = run_network(network, video(12), [track(3, 5)], camera=Camera(K=K[3], T_world_cam=torch.eye(4)))[0]
    moved = result.params.transl[:, 0] - still.params.transl[:, 0]
    torch.testing.assert_close(moved, -torch.arange(5.0) * result.params.transl[:, 2] / 90, atol=1e-4, rtol=0)


def test_a_video_that_ends_before_its_track_is_said(network):
    with pytest.raises(ValueError, match="track 0 covers frames 0 to 9, but the video ended at 6"):
        run_network(network, video(7), [track(0, 10)], camera=still_camera())


def test_crop_and_frame_of_other_sides_go_through_the_same_run():
    model = tiny_network(crop_side_px=128)
    result = run_network(model, video(9), [track(0, 9)], camera=still_camera())[0]
    assert result.params.transl.isfinite().all()


def test_half_precision_stays_near_single(network):
    single, half = (
        run_network(network, video(8), [track(0, 8)], camera=still_camera(), config=NetworkConfig(precision=name))[0]
        for name in ("fp32", "bf16")
    )
    assert half.params.transl.dtype == torch.float32
    assert 0 < (single.params.betas - half.params.betas).abs().max() < 0.1


def test_hamers_box_rule_cuts_another_square(network):
    wide = run_network(network, video(3), [track(0, 3)], camera=still_camera(), config=NetworkConfig(box_rule="hamer"))
    usual = run_network(network, video(3), [track(0, 3)], camera=still_camera())
    assert (wide[0].params.hand_pose - usual[0].params.hand_pose).abs().max() > 1e-4


def test_a_network_of_smaller_crops_sees_and_places_the_hand_within_them(network):
    model, hand, images = tiny_network(box_share=0.5), track(0, 5), video(5)
    result = run_network(model, images, [hand], camera=still_camera())[0]
    expected = predict_at_once(model, [image for _, image in images], hand, expansion=1.5)
    torch.testing.assert_close(result.params.hand_pose, expected.hand_pose[0], atol=1e-5, rtol=0)
    weak = weak_depth(expected.scale[0], 1.5 * hand.box_side_px, still_camera().K.expand(5, 3, 3))
    settings = NetworkConfig(depth_from="weak camera")
    lifted = run_network(model, images, [hand], camera=still_camera(), config=settings)[0]
    torch.testing.assert_close(lifted.params.transl[:, 2], weak, atol=1e-4, rtol=0)


def test_a_network_that_wants_smooth_pictures_is_not_shown_sharp_ones(network):
    images, hand = video(3), track(0, 3)
    big = [(index, np.kron(image, np.ones((8, 8, 1), np.uint8))) for index, image in images]
    rng = np.random.default_rng(1)
    noisy = [(index, (image // 2 + rng.integers(0, 128, image.shape)).astype(np.uint8)) for index, image in big]
    large = replace(hand, box_center_img=8 * hand.box_center_img, box_side_px=8 * hand.box_side_px)
    camera = Camera(K=intrinsics(720.0, width=8 * WIDTH, height=8 * HEIGHT), T_world_cam=torch.eye(4))
    smooth = tiny_network()
    smooth.config = replace(smooth.config, anti_alias="blur")
    of_sharp, of_smooth = (run_network(one, noisy, [large], camera=camera)[0] for one in (tiny_network(), smooth))
    assert (of_sharp.params.hand_pose - of_smooth.params.hand_pose).abs().max() > 1e-4


def test_trajectories_can_be_refined_with_gradients(network):
    params = run_network(network, video(3), [track(0, 3)], camera=still_camera())[0].params
    free = params.transl.clone().requires_grad_()
    (free * params.transl + params.hand_pose.sum()).sum().backward()
    assert free.grad is not None


@pytest.mark.parametrize(("values", "words"), [
    ({"batch_windows": 0}, "batch_windows is 0"),
    ({"first_depth_m": -1.0}, "first_depth_m is -1.0"),
    ({"first_depth_m": float("nan")}, "first_depth_m is nan"),
])  # fmt: skip
def test_a_bad_run_is_refused_in_words(values, words):
    with pytest.raises(ValueError, match=words):
        NetworkConfig(**values)


def test_a_device_that_is_not_there_is_said():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cuda", "mps", "cpu")
    if not torch.backends.mps.is_available():
        with pytest.raises(ValueError, match=r"--device mps: torch finds no such device here; it has .*cpu"):
            choose_device("mps")
