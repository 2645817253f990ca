"""Pixels that become network input."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from haptic.data.crops import IMAGE_MEAN, IMAGE_STD, crop_matrix, cut_crop, cut_full_frame, normalise
from haptic.hand.mirror import mirror_image

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def recorded(shared_dir):
    return dict(np.load(shared_dir / "golden/geometry.npz", allow_pickle=False))


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    return cv2.resize(rng.integers(0, 256, (30, 50, 3), dtype=np.uint8), (200, 120))


@pytest.mark.parametrize("number", range(5))
def test_crops_of_right_and_left_hands_are_as_recorded(recorded, number):
    image = recorded["crop/img"]
    x, y, side_px = recorded["crop/boxes"][number]
    right = cut_crop(image, center_img=(x, y), box_side_px=side_px)
    np.testing.assert_allclose(normalise(right), recorded[f"crop/demo_{number}_1"], atol=TOLERANCE, rtol=0)
    flipped_x = image.shape[1] - 1 - x
    left = cut_crop(mirror_image(image), center_img=(flipped_x, y), box_side_px=side_px)
    np.testing.assert_allclose(normalise(left), recorded[f"crop/demo_{number}_0"], atol=TOLERANCE, rtol=0)


def test_full_frames_are_as_recorded(recorded):
    image = recorded["crop/img"]
    frame = normalise(cut_full_frame(image))
    np.testing.assert_allclose(frame, recorded["crop/full_1"], atol=TOLERANCE, rtol=0)
    frame = normalise(cut_full_frame(mirror_image(image), is_flipped=True))
    np.testing.assert_allclose(frame, recorded["crop/full_0"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("is_right", [0, 1])
def test_a_turned_and_scaled_crop_is_as_recorded(recorded, is_right):
    """The recorded training example: scale, rotation, shift and colour were given, the box is the first one."""
    image = recorded["crop/img"]
    zoom, turn_deg, *colour, shift_x, shift_y = recorded["ex/aug"]
    x, y, side_px = recorded["crop/boxes"][0]
    center = (x + shift_x * side_px, y + shift_y * side_px)
    if not is_right:  # the shift was made before the flip
        image, center = mirror_image(image), (image.shape[1] - 1 - center[0], center[1])
    matrix = crop_matrix(center, side_px * zoom, side_px=256, rotation_rad=np.deg2rad(turn_deg))
    np.testing.assert_allclose(matrix, recorded[f"ex{is_right}/trans"], atol=2e-4, rtol=0)
    crop = cut_crop(image, center_img=center, box_side_px=side_px * zoom, rotation_rad=np.deg2rad(turn_deg))
    coloured = np.clip(crop.astype(np.float32) * np.array(colour), 0, 255)
    ours = (coloured / 255 - IMAGE_MEAN) / IMAGE_STD
    theirs = recorded[f"ex{is_right}/img"].transpose(1, 2, 0)
    assert (
        np.mean(np.abs(ours - theirs) > TOLERANCE) < 1e-3
    )  # a coordinate on the edge of two 32nds may fall either way
    assert np.abs(ours - theirs).max() < 0.1


@settings(max_examples=30)
@given(x=st.floats(-50, 250), y=st.floats(-50, 170), side_px=st.floats(8, 900))
def test_a_crop_of_a_smooth_picture_is_that_picture_at_the_right_place(x, y, side_px):
    columns, rows = np.meshgrid(np.arange(200.0), np.arange(120.0))
    image = np.stack([columns, rows, np.full_like(rows, 255)], axis=-1).astype(np.uint8)
    crop = cut_crop(image, center_img=(x, y), box_side_px=side_px).astype(float)
    step = side_px / 256
    seen_x = x + (np.arange(256) - 128) * step
    seen_y = y + (np.arange(256) - 128) * step
    inside_x = (seen_x > 1) & (seen_x < 198)
    inside_y = (seen_y > 1) & (seen_y < 118)
    inside = np.ix_(inside_y, inside_x)
    np.testing.assert_allclose(crop[..., 0][inside], np.broadcast_to(seen_x, (256, 256))[inside], atol=0.6, rtol=0)
    np.testing.assert_allclose(
        crop[..., 1][inside], np.broadcast_to(seen_y[:, None], (256, 256))[inside], atol=0.6, rtol=0
    )
    outside = np.ix_((seen_y < -1) | (seen_y > 120), np.ones(256, bool))
    assert not crop[outside].any()


def test_a_flipped_picture_with_a_flipped_box_gives_the_flipped_hand(picture):
    """Crops have even sides, so their own middle lies between pixels: the flipped crop is off by that one pixel."""
    right = cut_crop(picture, center_img=(80.0, 60.0), box_side_px=256)
    left = cut_crop(mirror_image(picture), center_img=(119.0, 60.0), box_side_px=256)
    np.testing.assert_array_equal(left[:, 1:], right[:, ::-1][:, :-1])


def test_the_whole_picture_is_in_the_full_frame(picture):
    frame = cut_full_frame(picture)
    rows = np.flatnonzero(frame.any(axis=(1, 2)))
    assert 256 * 120 / 200 - 3 < len(rows) < 256 * 120 / 200 + 3
    assert frame[128].any(axis=-1).sum() > 253


def test_blur_takes_the_shimmer_out_of_what_is_shrunk_and_leaves_large_hands_alone():
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (1500, 1600, 3), dtype=np.uint8)
    args = {"center_img": (800.0, 750.0), "box_side_px": 1400.0}
    sharp, smooth = cut_crop(noise, **args), cut_crop(noise, **args, anti_alias="blur")
    assert smooth.std() < 0.5 * sharp.std()
    assert abs(smooth.mean() - sharp.mean()) < 2
    args["box_side_px"] = 500.0
    np.testing.assert_array_equal(cut_crop(noise, **args), cut_crop(noise, **args, anti_alias="blur"))


def test_blurring_only_the_surroundings_equals_blurring_everything(picture):
    large = cv2.resize(picture, (2000, 1200))
    sigma = (1300 / 512 - 1) / 2
    reach = int(4 * sigma + 0.5)
    blurred = cv2.GaussianBlur(large, (2 * reach + 1, 2 * reach + 1), sigma, borderType=cv2.BORDER_REPLICATE)
    args = {"center_img": (300.0, 500.0), "box_side_px": 1300.0}
    np.testing.assert_array_equal(cut_crop(blurred, **args), cut_crop(large, **args, anti_alias="blur"))


def test_normalised_pictures_are_channels_first_with_imagenets_spread():
    images = np.zeros((2, 3, 4, 4, 3), dtype=np.uint8)
    images[..., 0] = 255
    normal = normalise(images)
    assert normal.shape == (2, 3, 3, 4, 4)
    torch.testing.assert_close(normal[0, 0, 0, 0, 0], torch.tensor((1 - 0.485) / 0.229))
    torch.testing.assert_close(normal[0, 0, 2, 0, 0], torch.tensor(-0.406 / 0.225))


@pytest.mark.parametrize("side_px", [0.0, -3.0, float("nan")])
def test_a_box_that_is_none_is_refused_in_words(picture, side_px):
    with pytest.raises(ValueError, match="cannot be cut"):
        cut_crop(picture, center_img=(10.0, 10.0), box_side_px=side_px)
