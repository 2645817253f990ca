"""Augmentation: the official one as recorded; labels, boxes and cameras stay in step with the pixels."""

import numpy as np
import pytest
import torch

from haptic.data.augment import Augmentation, AugmentConfig, draw_augmentation, make_clip
from haptic.data.crops import CutConfig, cut_full_frame
from haptic.data.readers import ClipSet, Picture, Window, right_hand_labels, whole_picture
from haptic.data.samples import HandLabels
from haptic.data.shards import ShardStore
from haptic.geometry.cameras import intrinsics, project
from haptic.geometry.rotations import rotation_from_aa
from haptic.geometry.transforms import apply_transform
from haptic.records import Camera, HandParams

TIP = 8


@pytest.fixture(scope="module")
def recorded(shared_dir):
    return dict(np.load(shared_dir / "golden/geometry.npz", allow_pickle=False))


def recorded_window(recorded, is_right):
    """The recorded example: one frame, its labels as the camera saw it."""
    image = recorded["crop/img"]
    height, width = image.shape[:2]
    x, y, side_px = recorded["crop/boxes"][0]
    labels = HandLabels(
        frame_index=torch.tensor([0]),
        box_center_img=torch.tensor([[x, y]]).float(),
        box_side_px=torch.tensor([side_px]).float(),
        joints_img=torch.from_numpy(recorded["ex/kp2"][None, :, :2]).float(),
        joints_img_weight=torch.ones(1, 21),
        joints_visible=torch.full((1, 21), -1),
        joints_cam=torch.from_numpy(recorded["ex/kp3"][None, :, :3]).float(),
        joints_cam_weight=torch.from_numpy(recorded["ex/kp3"][None, :, 3]).float(),
        place_weight=torch.ones(1),
        params=HandParams(
            global_orient=rotation_from_aa(torch.from_numpy(recorded["ex/global_orient"]))[None],
            hand_pose=rotation_from_aa(torch.from_numpy(recorded["ex/hand_pose"]).reshape(15, 3))[None],
            betas=torch.from_numpy(recorded["ex/betas"])[None],
            transl=torch.zeros(1, 3),
        ),
        params_weight=torch.ones(1),
        betas_weight=torch.ones(1),
        camera=Camera(K=intrinsics(400.0, width=width, height=height)[None], T_world_cam=torch.eye(4)[None]),
        camera_weight=torch.ones(1),
        is_right=torch.tensor(bool(is_right)),
    )
    picture = whole_picture(image, width, height)
    picture = picture if is_right else picture.mirrored(width)
    return Window(
        (picture,), (picture,), right_hand_labels(labels, width), np.zeros(1), width, height, bool(is_right), "recorded"
    )


def recorded_augmentation(recorded, is_right):
    zoom, turn_deg, *gain, shift_x, shift_y = recorded["ex/aug"]
    # The official shift is made before a left hand is turned over, ours after.
    shift = np.array([shift_x if is_right else -shift_x, shift_y])
    gain = np.array([gain])
    turn_rad = float(np.deg2rad(turn_deg))
    return Augmentation(
        crop_zoom=np.array([zoom]), crop_shift=shift[None], crop_gain=gain, turn_rad=turn_rad,
        frame_zoom=float(zoom), frame_shift=shift, frame_gain=gain, frame_turn_rad=turn_rad, is_coherent=False,
    )  # fmt: skip


@pytest.mark.parametrize("is_right", [1, 0])
def test_official_augmentation_is_as_recorded(recorded, is_right):
    clip = make_clip(
        recorded_window(recorded, is_right),
        recorded_augmentation(recorded, is_right),
        cut=CutConfig(crop_side_px=256, frame_side_px=256),
    )
    name = f"ex{is_right}"
    seen = clip.as_clip()
    for ours, theirs in ((seen.crops, recorded[f"{name}/img"]), (seen.frames, recorded[f"{name}/bg"])):
        off = np.abs(ours[0, 0].numpy() - theirs)
        assert np.mean(off > 2e-5) < 1e-3  # a coordinate on the edge of two 32nds may fall either way
        assert off.max() < 0.1
    np.testing.assert_allclose(clip.joints_crop[0, 0], recorded[f"{name}/kp2"][:, :2], atol=2e-6, rtol=0)
    ours, theirs = clip.targets.joints_cam[0, 0].numpy(), recorded[f"{name}/kp3"][:, :3]
    np.testing.assert_allclose(ours - ours[:1], theirs - theirs[:1], atol=2e-6, rtol=0)
    np.testing.assert_allclose(ours, theirs, atol=2e-6, rtol=0)
    params = clip.targets.params
    theirs = rotation_from_aa(torch.from_numpy(recorded[f"{name}/global_orient"]))
    torch.testing.assert_close(params.global_orient[0, 0], theirs, atol=2e-6, rtol=0)
    theirs = rotation_from_aa(torch.from_numpy(recorded[f"{name}/hand_pose"]).reshape(15, 3))
    torch.testing.assert_close(params.hand_pose[0, 0], theirs, atol=2e-6, rtol=0)


@pytest.mark.parametrize("is_right", [1, 0])
def test_a_smaller_share_of_the_box_is_the_middle_of_the_whole_one(recorded, is_right):
    window = recorded_window(recorded, is_right)
    whole, half = (
        make_clip(window, Augmentation.none(1), cut=CutConfig(crop_side_px=side_px, frame_side_px=64, box_share=share))
        for side_px, share in ((128, 1.0), (64, 0.5))
    )
    assert torch.equal(half.box_side_px, 0.5 * whole.box_side_px)
    assert torch.equal(half.box_center_img, whole.box_center_img)
    torch.testing.assert_close(half.joints_crop, 2 * whole.joints_crop, atol=1e-5, rtol=0)
    middle = whole.crops[0, 0, 32:96, 32:96].float()
    assert (half.crops[0, 0].float() - middle).abs().mean() < 1.0


@pytest.mark.parametrize("is_right", [1, 0])
def test_a_network_that_wants_smooth_pictures_gets_what_inference_cuts(recorded, is_right):
    window = recorded_window(recorded, is_right)
    sharp, smooth = (
        make_clip(window, Augmentation.none(1), cut=CutConfig(crop_side_px=32, frame_side_px=32, anti_alias=name))
        for name in ("off", "blur")
    )
    picture = window.frames[0].pixels
    expected = cut_full_frame(picture, is_flipped=not is_right, side_px=32, anti_alias="blur")
    np.testing.assert_array_equal(smooth.frames[0, 0].numpy(), expected)
    assert not torch.equal(sharp.crops, smooth.crops)


@pytest.mark.parametrize("is_right", [1, 0])
def test_without_augmentation_the_full_frame_is_the_one_inference_cuts(recorded, is_right):
    window = recorded_window(recorded, is_right)
    clip = make_clip(window, Augmentation.none(1), cut=CutConfig(crop_side_px=128, frame_side_px=128))
    expected = cut_full_frame(window.frames[0].pixels, is_flipped=not is_right, side_px=128)
    np.testing.assert_array_equal(clip.frames[0, 0], expected)


@pytest.fixture(scope="module")
def tracks(shard_dir, tmp_path_factory):
    one = ClipSet("painted", str(shard_dir / "*.tar"), store=ShardStore(cache_dir=tmp_path_factory.mktemp("cache")))
    return {side: one.open(next(t for t in range(12) if one.key(t)[1].startswith(side))) for side in ("right", "left")}


def crop_place(clip, frame, side_px):
    return ((clip.joints_crop[0, frame, TIP] + 0.5) * side_px).numpy()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("mode", ["official", "coherent", "off"])
def test_labels_follow_the_pixels_whatever_is_done_to_them(tracks, blob_place, mode, side):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        augmentation = draw_augmentation(3, AugmentConfig(mode=mode, turn_rate=1.0, frame_rate=1.0), rng=rng)
        clip = make_clip(
            tracks[side].window([0, 4, 8]), augmentation, cut=CutConfig(crop_side_px=256, frame_side_px=256)
        )
        for frame in range(3):
            place = crop_place(clip, frame, 256)
            assert np.abs(blob_place(clip.crops[0, frame].numpy(), side) - place).max() < 1.0
        assert (clip.targets.joints_cam_weight == 1).all()
        seen = project(clip.targets.joints_cam, clip.camera.K)
        torch.testing.assert_close(seen, clip.targets.joints_img, atol=2e-3, rtol=0)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_coherent_full_frame_shows_the_hand_where_its_camera_sees_it(tracks, blob_place, side):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        config = AugmentConfig(mode="coherent", turn_rate=1.0, frame_rate=1.0, turn_deg=15.0, zoom=0.2)
        augmentation = draw_augmentation(2, config, rng=rng)
        clip = make_clip(tracks[side].window([0, 4]), augmentation, cut=CutConfig(crop_side_px=256, frame_side_px=256))
        middle_x = 160.0 if side == "right" else 159.0
        for frame in range(2):
            tip_img = project(clip.targets.joints_cam[0, frame], clip.camera.K[0, frame])[TIP].numpy()
            place = (tip_img - [middle_x, 120.0]) * 256 / 320 + 128
            if ((place > 12) & (place < 244)).all():
                assert np.abs(blob_place(clip.frames[0, frame].numpy(), side) - place).max() < 1.0


def test_the_hand_stays_where_it_is_in_the_world(tracks):
    window = tracks["left"].window([0, 4, 8])
    plain = make_clip(window, Augmentation.none(3), cut=CutConfig(crop_side_px=64, frame_side_px=64))
    turned = make_clip(
        window,
        draw_augmentation(3, AugmentConfig(turn_rate=1.0), rng=np.random.default_rng(0)),
        cut=CutConfig(crop_side_px=64, frame_side_px=64),
    )
    worlds = [apply_transform(clip.camera.T_world_cam, clip.targets.joints_cam) for clip in (plain, turned)]
    torch.testing.assert_close(*worlds, atol=1e-5, rtol=0)
    depths = [clip.wrist_depth for clip in (plain, turned)]
    torch.testing.assert_close(*depths, atol=1e-6, rtol=0)


def test_turned_parameters_still_make_the_turned_joints(tracks, open_hand):
    rng = np.random.default_rng(3)
    augmentation = draw_augmentation(2, AugmentConfig(turn_rate=1.0), rng=rng)
    clip = make_clip(tracks["left"].window([1, 2]), augmentation, cut=CutConfig(crop_side_px=64, frame_side_px=64))
    joints = open_hand.joints(clip.targets.params)
    torch.testing.assert_close(joints, clip.targets.joints_cam, atol=2e-5, rtol=0)


def test_official_draws_have_the_published_spreads():
    rng = np.random.default_rng(0)
    drawn = [draw_augmentation(8, AugmentConfig(mode="official"), rng=rng) for _ in range(2000)]
    zoom = np.stack([one.crop_zoom for one in drawn])
    assert (zoom.min(), zoom.max()) == (0.7, 1.3)
    assert 0.6 < np.mean((zoom > 0.7) & (zoom < 1.3)) < 0.76  # of a normal draw, 68 % lie within one spread
    turns = np.degrees([one.turn_rad for one in drawn])
    assert 0.37 < np.mean(turns == 0) < 0.43
    assert abs(turns).max() == pytest.approx(60)
    assert max(abs(one.crop_shift).max() for one in drawn) == pytest.approx(0.02)
    gains = np.stack([one.crop_gain for one in drawn])
    assert 0.8 <= gains.min() < 0.81
    assert 1.19 < gains.max() <= 1.2
    unchanged = [one.frame_zoom == 1 and not one.frame_shift.any() and (one.frame_gain == 1).all() for one in drawn]
    assert 0.46 < np.mean(unchanged) < 0.54
    frame_turns = [one.frame_turn_rad != 0 for one in drawn]
    assert 0.03 < np.mean(frame_turns) < 0.07  # a tenth of one half


def test_a_window_has_one_turn_and_every_frame_its_own_zoom():
    one = draw_augmentation(8, AugmentConfig(mode="official"), rng=np.random.default_rng(1))
    assert len(set(one.crop_zoom.tolist())) > 4
    assert isinstance(one.turn_rad, float)
    assert (one.frame_gain == one.frame_gain[0]).all()


def test_what_augmentation_reaches_was_stored(painted_clip, make_writer):
    """The strongest zoom, turn and shift show no black but what lies outside the image."""
    images, hands = painted_clip(1, focal_px=60.0)
    bright = [np.maximum(images[0], 90)]
    with make_writer() as writer:
        writer.add_clip("clip", bright, hands, fps=0.0)
    one = ClipSet("painted", str(writer.paths[0]), store=ShardStore())
    for turn_deg in (0.0, 45.0, 60.0):
        for sign in (-1.0, 1.0):
            ones = np.ones((1, 3))
            strongest = Augmentation(
                np.array([1.3]), np.full((1, 2), sign * 0.02), ones, float(np.radians(turn_deg)), 1.0, np.zeros(2),
                ones, 0.0, is_coherent=False,
            )  # fmt: skip
            for track in range(2):
                clip = make_clip(
                    one.open(track).window([0]), strongest, cut=CutConfig(crop_side_px=128, frame_side_px=64)
                )
                assert clip.crops.min() > 40


@pytest.mark.parametrize(("name", "value"), [("zoom", 0.5), ("turn_rate", 1.5), ("shift", -0.1), ("turn_deg", 100.0)])
def test_an_augmentation_that_cannot_be_is_refused(name, value):
    with pytest.raises(ValueError, match=f"augment.{name} is"):
        AugmentConfig(**{name: value})


def test_a_flipped_picture_maps_the_flipped_point_to_the_same_pixel():
    picture = Picture(np.zeros((50, 80, 3), np.uint8), np.array([0.5, 0.5]), np.array([-10.0, 3.0]))
    flipped = picture.mirrored(200)
    x = 70.0
    assert flipped.scale[0] * (199 - x) + flipped.offset_px[0] == pytest.approx(79 - (0.5 * x - 10.0))
