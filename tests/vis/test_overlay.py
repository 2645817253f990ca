"""overlay.mp4: plays anywhere, keeps the video's times and sizes, and shows hands where and when they are."""

from dataclasses import replace

import av
import numpy as np
import pytest
import torch

from haptic.hand.model import trajectory_mesh
from haptic.hand.palette import hand_color
from haptic.hand.reprojection import trajectory_joints_img
from haptic.vis import overlay
from haptic.vis.overlay import OverlayConfig, OverlayPainter, scale_K, write_overlay

GREY = 90


def plain_frames(result, *, start=0):
    """Give a grey video, frame by frame."""
    for index, time_s in enumerate(result.frame_time_s.tolist()):
        yield start + index, time_s, np.full((result.image_height_px, result.image_width_px, 3), GREY, np.uint8)


def decoded(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [
            (float(frame.pts * frame.time_base), frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)
        ]
        return stream.codec_context.name, stream.codec_context.pix_fmt, frames


def test_the_film_is_h264_and_keeps_an_uneven_rhythm(make_result, open_hand, tmp_path):
    times_s = torch.tensor([0.0, 0.04, 0.05, 0.2, 0.21, 1.0], dtype=torch.float64) + 3
    result = replace(make_result(((0, 6),), num_frames=6), frame_time_s=times_s)
    assert write_overlay(tmp_path / "overlay.mp4", plain_frames(result), result, open_hand) == 6
    codec, pixels, frames = decoded(tmp_path / "overlay.mp4")
    assert (codec, pixels) == ("h264", "yuv420p")
    np.testing.assert_allclose([time_s for time_s, _ in frames], times_s.numpy() - 3, atol=1e-4)


@pytest.mark.parametrize(("width", "height"), [(321, 241), (97, 45), (704, 512), (240, 427), (2500, 1300)])
def test_any_size_of_video_gives_an_even_film_of_bounded_size(width, height, make_result, open_hand, tmp_path):
    result = make_result(((0, 2), (0, 2)), num_frames=2, width_px=width, height_px=height)
    write_overlay(tmp_path / "overlay.mp4", plain_frames(result), result, open_hand)
    picture = decoded(tmp_path / "overlay.mp4")[2][0][1]
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    assert picture.shape[1] <= 1922
    assert picture.shape[0] >= 160


def test_a_one_frame_video_gives_a_film_of_one_frame(make_result, open_hand, tmp_path):
    result = make_result(((0, 1),), num_frames=1)
    write_overlay(tmp_path / "overlay.mp4", plain_frames(result), result, open_hand)
    assert len(decoded(tmp_path / "overlay.mp4")[2]) == 1


def test_without_hands_the_video_is_shown_as_it_is(make_result, open_hand):
    result = make_result((), num_frames=3, width_px=640, height_px=480)
    picture = OverlayPainter(result, open_hand).draw(1, np.full((480, 640, 3), GREY, np.uint8))
    assert (picture[:480, :640] == GREY).all()
    assert (picture[:480, 640:] != GREY).any()


def test_hands_are_painted_while_they_are_tracked_and_only_then(make_result, open_hand):
    result = make_result(((4, 16),), width_px=640, height_px=480)
    painter = OverlayPainter(result, open_hand)
    image = np.full((480, 640, 3), GREY, np.uint8)
    touched = [(painter.draw(frame, image)[:480, :640] != GREY).any() for frame in (0, 3, 4, 15, 16, 19)]
    assert touched == [False, False, True, True, False, False]
    assert (image == GREY).all(), "the caller's image is left alone"


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1920, 1080), (200, 150)])
def test_each_hand_has_its_colour_at_its_own_joints_at_any_scale(width, height, make_result, open_hand):
    result = make_result(((0, 20), (0, 20)), width_px=width, height_px=height)
    painter = OverlayPainter(result, open_hand, OverlayConfig(opacity=1.0))
    picture = painter.draw(3, np.full((height, width, 3), GREY, np.uint8)).astype(float)
    for name, hand in result.hands.items():
        joints = trajectory_joints_img(open_hand, hand)[3].numpy()
        pixels = np.round((joints + 0.5) * painter.scale - 0.5).astype(int)
        colours = np.array([picture[y, x] for x, y in pixels[[5, 9, 13, 17]]])  # the knuckles
        expected = np.array(hand_color(name))
        cosine = (colours @ expected) / np.linalg.norm(colours, axis=1) / np.linalg.norm(expected)
        assert cosine.min() > 0.99, name


def test_the_side_view_has_the_farther_hand_to_the_right_and_the_higher_one_above(make_result, open_hand):
    result = make_result(((0, 20), (0, 20)), width_px=640, height_px=480)
    moved = result.hands["left_0"].params
    away = torch.tensor([0.0, -0.25, 0.4])  # up and away
    hand = replace(result.hands["left_0"], params=replace(moved, transl=moved.transl + away))
    result = replace(result, hands={**result.hands, "left_0": hand})
    painter = OverlayPainter(result, open_hand)
    side = painter.draw(3, np.full((480, 640, 3), GREY, np.uint8))[:480, 640:].astype(int)
    warm = np.argwhere(side[..., 0] - side[..., 2] > 60).mean(axis=0)
    cool = np.argwhere(side[..., 2] - side[..., 0] > 60).mean(axis=0)
    assert cool[1] > warm[1] + 40, "farther is to the right"
    assert cool[0] < warm[0] - 40, "higher is above"


def test_the_side_view_is_to_scale(make_result, open_hand):
    painter = OverlayPainter(make_result(((0, 20),), width_px=640, height_px=480), open_hand)
    view = painter.side_view
    pixels = view.to_pixels(np.array([[0.0, 0.0, 0.3], [0.0, 0.0, 0.4], [0.0, -0.1, 0.3]]))
    np.testing.assert_allclose(pixels[1] - pixels[0], [0.1 * view.px_per_m, 0], atol=1e-9)
    np.testing.assert_allclose(pixels[2] - pixels[0], [0, -0.1 * view.px_per_m], atol=1e-9)
    eye = view.to_eye(np.array([[0.1, -0.05, 0.55]]))
    seen = (eye @ view.K.T)[0]
    np.testing.assert_allclose(seen[:2] / seen[2], view.to_pixels(np.array([[0.1, -0.05, 0.55]]))[0], atol=1.0)


def test_a_far_camera_is_pointed_at_so_that_the_hands_stay_large(make_result, open_hand):
    result = make_result(((0, 20),), width_px=640, height_px=480)
    params = result.hands["right_0"].params
    far = replace(result.hands["right_0"], params=replace(params, transl=params.transl + torch.tensor([0, 0, 4.0])))
    view = OverlayPainter(replace(result, hands={"right_0": far}), open_hand).side_view
    assert not view.shows_camera
    assert view.px_per_m * 0.18 > 60, "a hand is at least sixty pixels long"
    assert OverlayPainter(result, open_hand).side_view.shows_camera


def test_resizing_moves_pixels_as_their_edges_move():
    K = np.array([[100.0, 0, 49.5], [0, 100, 39.5], [0, 0, 1]])
    np.testing.assert_allclose(scale_K(K, 2, 2), [[200, 0, 99.5], [0, 200, 79.5], [0, 0, 1]])


def test_a_frame_of_another_size_is_refused_in_words(make_result, open_hand, tmp_path):
    result = make_result(((0, 2),), num_frames=2)
    with pytest.raises(ValueError, match="frame 0 of the video is 100 x 50"):
        write_overlay(tmp_path / "overlay.mp4", [(0, 0.0, np.zeros((50, 100, 3), np.uint8))], result, open_hand)
    assert list(tmp_path.iterdir()) == []


def test_a_video_without_frames_is_refused_and_leaves_no_file(make_result, open_hand, tmp_path):
    with pytest.raises(ValueError, match="no frame"):
        write_overlay(tmp_path / "overlay.mp4", [], make_result(((0, 2),), num_frames=2), open_hand)
    assert list(tmp_path.iterdir()) == []


def test_a_long_video_has_a_few_meshes_in_memory_and_makes_each_once(make_result, open_hand, monkeypatch):
    made = []

    def counting(model, trajectory):
        made.append(len(trajectory.frame_index))
        return trajectory_mesh(model, trajectory)

    monkeypatch.setattr(overlay, "trajectory_mesh", counting)
    result = make_result(((0, 300), (10, 290)), num_frames=300, width_px=64, height_px=48)
    painter = OverlayPainter(result, open_hand, OverlayConfig(max_video_side_px=64))
    for frame in range(0, 300, 5):
        painter.draw(frame, np.zeros((48, 64, 3), np.uint8))
    assert max(made) <= overlay.CHUNK_FRAMES
    assert sum(made) == 300 + 280


@pytest.mark.parametrize("change", [{"max_video_side_px": 10}, {"opacity": 0.0}, {"crf": 99}])
def test_settings_that_cannot_be_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        OverlayConfig(**change)
