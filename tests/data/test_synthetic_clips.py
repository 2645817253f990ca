"""Synthetic clips for training: labels lie on the hands that are seen, grips touch, shards are readable."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from data_prep.synthetic import main as write_synthetic
from haptic.data.readers import ClipSet
from haptic.data.shards import ShardStore
from haptic.data.synthetic.backdrop import BackdropBank, Plane, plane_map, plane_picture
from haptic.data.synthetic.clips import ClipsConfig, draw_clip, seen_frames
from haptic.data.synthetic.fast import SyntheticClips
from haptic.data.synthetic.film import smear
from haptic.data.synthetic.gestures import SIGNS, GestureBook, draw_sign, hand_joints
from haptic.data.synthetic.objects import distance_to, draw_palm_object, make_mesh, turned
from haptic.data.synthetic.textures import make_texture, paint_skin
from haptic.geometry.cameras import project
from haptic.hand.anatomy import angle_violation
from haptic.hand.mirror import mirror_params
from haptic.hand.model import load_hand_model

TINY = ClipsConfig(num_frames=4, crop_px=96, frame_px=64, object_share=0.0)


@pytest.fixture(scope="module")
def model():
    return load_hand_model(None)


@pytest.fixture(scope="module")
def skin(model):
    return paint_skin(model, skin=0.4, redness=0.5, rng=np.random.default_rng(0))


def make_clips(model, skin, seed):
    """Return clips that share one skin, since painting forty takes longer than all tests."""
    clips = SyntheticClips(TINY, seed=seed, model=model)
    clips.wardrobe.skin = lambda _number: skin
    return clips


@pytest.fixture(scope="module")
def clips(model, skin):
    return make_clips(model, skin, seed=3)


@pytest.fixture(scope="module")
def book(model):
    return GestureBook(model)


def test_a_clip_is_the_same_whatever_was_rendered_before_it(clips, model, skin):
    first = clips[2]
    clips[0]
    fresh = make_clips(model, skin, seed=3)[2]
    np.testing.assert_array_equal(first.frames, fresh.frames)
    for name in first.crops:
        np.testing.assert_array_equal(first.crops[name], fresh.crops[name])
        assert torch.equal(first.hands[name].labels.joints_cam, fresh.hands[name].labels.joints_cam)
    assert not np.array_equal(make_clips(model, skin, seed=4)[2].frames, first.frames)


def test_labels_of_either_side_are_what_the_hand_model_makes_of_the_parameters(clips, model):
    sides = set()
    for index in range(6):
        for hand in clips[index].hands.values():
            labels = hand.labels
            is_right = bool(labels.is_right)
            joints = model.joints(labels.params if is_right else mirror_params(labels.params))
            joints = joints * torch.tensor([1.0 if is_right else -1.0, 1, 1])
            torch.testing.assert_close(joints, labels.joints_cam, atol=1e-4, rtol=0)
            torch.testing.assert_close(project(joints, labels.camera.K), labels.joints_img, atol=0.2, rtol=0)
            sides.add(is_right)
    assert sides == {True, False}


def test_the_crop_shows_skin_where_the_labels_say_that_the_hand_is_seen(clips):
    """Clips that differ in the skin alone differ at the joints that are seen, and not where no limb is."""
    at_joints, elsewhere = [], []
    for index in range(8):
        renderer = clips.renderer(index)
        plain = replace(renderer.drawing.film, noise=0.0, exposure_s=0.0, softness_px=0.0, resolution=1.0)
        crops = []
        for gain in (0.6, 1.4):
            drawing = replace(renderer.drawing, film=plain, skin_gain=(gain,) * 3)
            crops.append(type(renderer)(drawing, clips.config, clips.wardrobe, index=index).clip())
        for name, hand in crops[0].hands.items():
            difference = np.abs(crops[0].crops[name][0].astype(int) - crops[1].crops[name][0]).max(axis=-1)
            joints_crop = hand.crop_scale[0] * hand.labels.joints_img[0].numpy() + hand.crop_offset_px[0]
            for joint in np.flatnonzero(hand.labels.joints_visible[0].numpy() == 1):
                x, y = np.round(joints_crop[joint]).astype(int)
                at_joints.append(difference[y, x] > 4)
            elsewhere.append((difference < 4).mean())
    assert len(at_joints) > 40
    assert np.mean(at_joints) > 0.97
    assert np.mean(elsewhere) > 0.5


def test_crops_and_frames_show_the_same_picture(clips):
    clip = clips[1]
    name, hand = next(iter(clip.hands.items()))
    ratio = clip.frames.shape[2] / clip.width_px
    # From pixels of the crop to those of the frame: both are affine maps of the image.
    scale = ratio / hand.crop_scale[0]
    offset = ratio / 2 - 0.5 - scale * hand.crop_offset_px[0]
    to_frame = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    size = clip.frames.shape[2], clip.frames.shape[1]
    seen = cv2.warpAffine(clip.crops[name][0], to_frame, size)
    inside = cv2.warpAffine(np.full(clip.crops[name][0].shape[:2], 255, np.uint8), to_frame, size) == 255
    inside &= seen.max(axis=-1) > 0
    difference = np.abs(cv2.blur(seen, (3, 3)).astype(float) - cv2.blur(clip.frames[0], (3, 3)))[inside]
    assert inside.mean() > 0.1
    assert np.median(difference) < 12


def test_what_lies_outside_the_image_is_black_in_the_crop(clips):
    clip = next(
        clip for clip in map(clips.__getitem__, range(20)) if any((c == 0).all(-1).any() for c in clip.crops.values())
    )
    for name, hand in clip.hands.items():
        rows, columns = np.mgrid[0:96, 0:96]
        image_x = (columns - hand.crop_offset_px[0, 0]) / hand.crop_scale[0]
        image_y = (rows - hand.crop_offset_px[0, 1]) / hand.crop_scale[0]
        outside = (
            (image_x < -0.5) | (image_x > clip.width_px - 0.5) | (image_y < -0.5) | (image_y > clip.height_px - 0.5)
        )
        assert (clip.crops[name][0][outside] == 0).all()
        assert clip.crops[name][0][~outside].mean() > 5


def test_every_gesture_stays_within_the_ranges_of_motion(book):
    rng = np.random.default_rng(0)
    for kind in ("natural", "sign", "pinch", "chance"):
        angles = torch.from_numpy(book.draw(kind, 40, rng=rng)).float()
        assert torch.rad2deg(angle_violation(angles)).max() < 0.1
    assert {draw_sign(name, rng=rng).shape for name in SIGNS} == {(15, 3)}


def test_a_pointing_hand_points_and_a_fist_is_closed(model):
    rng = np.random.default_rng(0)
    joints = hand_joints(model, np.stack([draw_sign(name, rng=rng) for name in ("point", "fist", "open")]))
    reach = np.linalg.norm(joints[:, [8, 12, 16, 20]], axis=-1)
    point, fist, wide = reach
    assert point[0] > 1.4 * point[1:].max()
    assert fist.max() < 0.6 * wide.min()


def test_pinching_fingertips_meet(book):
    tips = book.tips(book.draw("pinch", 50, rng=np.random.default_rng(1)))
    gap_mm = 1e3 * np.linalg.norm(tips[:, 0] - tips[:, 1], axis=-1)
    assert np.median(gap_mm) < 14


def test_a_grip_closes_the_fingers_onto_the_object_and_not_through_it(book, model):
    rng = np.random.default_rng(2)
    nearest = []
    for _ in range(8):
        shape = turned([-0.08, -0.08, 0.08, 0.08], [0, 0.022, 0.022, 0])
        grip = book.grip(shape, rng=rng)
        joints = hand_joints(model, grip.angles[None])[0]
        distance = distance_to(shape, (joints - grip.place) @ grip.rotation)
        assert distance[[6, 7, 8, 10, 11, 12]].min() > 0.003  # bones stay outside
        nearest.append(np.sort(distance[[7, 8, 11, 12, 15, 16]])[:3].mean())
    assert np.mean(nearest) < 0.015


def test_meshes_of_objects_lie_on_their_own_surface_with_normals_outward():
    rng = np.random.default_rng(5)
    for _ in range(12):
        shape = draw_palm_object(rng=rng)
        mesh = make_mesh(shape)
        assert np.isfinite(mesh.verts).all()
        np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=-1), 1, atol=1e-4)
        if shape.kind != "lump":
            assert np.abs(distance_to(shape, mesh.verts.astype(float))).max() < 2e-3
        corners = mesh.verts[mesh.faces]
        turned_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        areas = np.linalg.norm(turned_normals, axis=-1)
        agree = (turned_normals * mesh.normals[mesh.faces].mean(axis=1)).sum(-1)[areas > 1e-9] > 0
        assert agree.mean() > 0.99


def test_the_longest_stretch_in_view_is_what_is_labelled():
    joints_img = torch.full((7, 21, 2), 50.0)
    joints_img[[1, 6], :15] = -30.0
    depth_m = torch.full((7, 21), 0.5)
    assert seen_frames(joints_img, depth_m, (100, 100)) == slice(2, 6)
    depth_m[4, 3] = 0.05  # too near to the camera
    assert seen_frames(joints_img, depth_m, (100, 100)) == slice(2, 4)


def test_a_plane_is_seen_where_its_points_project_to():
    point, across, along = np.array([0.1, 0.4, 1.5]), np.array([1.0, 0, 0]), np.array([0, 0.2, -1.0]) / np.hypot(0.2, 1)
    checks = ((np.indices((64, 64)).sum(axis=0) // 8) % 2).astype(np.float32)[..., None].repeat(3, axis=-1)
    plane = Plane(point, across, along, make_texture(checks, 0.02), np.ones(3))
    K = np.array([[200.0, 0, 80], [0, 200, 60], [0, 0, 1]])
    for a, b in ((0.1, 0.2), (-0.3, 0.05)):
        pixel = K @ (point + a * across + b * along)
        metres = plane_map(plane, K) @ (pixel / pixel[2])
        np.testing.assert_allclose(metres[:2] / metres[2], [a, b], atol=1e-9)
        assert metres[2] > 0
    picture, seen = plane_picture(plane, K, width=160, height=120)
    assert picture.shape == (120, 160, 3)
    assert seen is None


def test_pictures_of_a_folder_become_backgrounds(tmp_path, model):
    cv2.imwrite(str(tmp_path / "one.png"), np.full((40, 60, 3), (0, 0, 250), np.uint8))
    bank = BackdropBank(0, folder=tmp_path)
    walls = [bank.wall(view_m=1.0, rng=np.random.default_rng(seed)).levels[0] for seed in range(8)]
    assert sum(wall[..., 0].mean() > 0.8 and wall[..., 1].mean() < 0.05 for wall in walls) >= 4
    with pytest.raises(ValueError, match="no pictures for backgrounds"):
        BackdropBank(0, folder=tmp_path / "nothing")


def test_motion_blur_spreads_along_the_way_and_keeps_the_light():
    picture = np.zeros((41, 41, 3), np.float32)
    picture[20, 20] = 1
    blurred = smear(picture, np.array([10.0, 0.0]))
    assert blurred.sum() == pytest.approx(3, rel=1e-4)
    rows, columns = np.nonzero(blurred[..., 0])
    assert np.ptp(columns) >= 9
    assert np.ptp(rows) <= 2
    assert columns.mean() == pytest.approx(20, abs=0.6)


def test_a_broken_off_run_goes_on_and_the_reader_takes_its_shards(tmp_path, capsys):
    options = ["--out", str(tmp_path), "--frames", "2", "--seed", "7", "--workers", "1", "--crop-px", "64"]
    options += ["--frame-px", "48"]
    write_synthetic([*options, "--clips", "3"])
    (shard,) = tmp_path.glob("*.tar")
    before = shard.read_bytes()
    write_synthetic([*options, "--clips", "3"])
    assert "1 are there" in capsys.readouterr().out
    shard.unlink()
    write_synthetic([*options, "--clips", "3"])
    assert shard.read_bytes() == before
    tracks = ClipSet("synthetic", str(shard), store=ShardStore(cache_dir=tmp_path / "cache"))
    assert not tracks.faults
    window = tracks.open(0).window([0, 1])
    assert window.crops[0].pixels.shape == (64, 64, 3)
    assert set(window.labels.joints_visible.unique().tolist()) <= {0, 1}
    with pytest.raises(SystemExit, match="made with another crop_px"):
        write_synthetic([*options[:-4], "--crop-px", "80", "--frame-px", "48", "--clips", "3"])
    assert json.loads((tmp_path / "synthetic.json").read_text())["seed"] == 7


def test_cameras_are_what_was_asked_for(model, book):
    config = replace(TINY, view="allocentric", focal_widths=(2.0, 4.0))
    for seed in range(4):
        drawing = draw_clip(config, model, book, rng=np.random.default_rng(seed))
        assert not drawing.is_egocentric
        focal_widths = drawing.scene.camera.K[0, 0] / drawing.scene.config.width_px
        assert 2.0 <= focal_widths <= 4.0
    with pytest.raises(ValueError, match="focal_widths"):
        ClipsConfig(focal_widths=(4.0, 0.5))


def test_a_pixel_on_the_horizon_is_as_bright_as_any():
    """As it was once met: the ray of pixel (0, 122) runs along the plane, to 1e-8."""
    point = np.array([0.18520608, 0.24588148, 0.31990178])
    across, along = np.array([0.33572105, 0.02803838, -0.94154411]), np.array([-0.92822682, -0.16022171, -0.33574388])
    checks = ((np.indices((512, 512)).sum(axis=0) // 8) % 2).astype(np.float32)[..., None].repeat(3, axis=-1)
    plane = Plane(point, across, along, make_texture(checks, 0.004), np.ones(3))
    K = np.array([[238.92582116, 0, 109.42598285], [0, 238.92582116, 133.05133083], [0, 0, 1]])
    picture, _seen = plane_picture(plane, K, width=243, height=241)
    assert np.isfinite(picture).all()
    assert 0 <= picture.min() <= picture.max() <= 1
