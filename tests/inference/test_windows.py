"""Windows and their stitching."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from haptic.inference.windows import WindowConfig, cut_windows, first_depth, sane_weak_depth, stitch
from haptic.records import HandPrediction

# A strict subset of the recorded windows of the official demo.
OFFICIAL = {
    1: [[0] * 8],
    7: [[0, 1, 2, 3, 4, 5, 6, 6]],
    8: [[0, 1, 2, 3, 4, 5, 6, 7], [7] * 8],
    9: [[0, 1, 2, 3, 4, 5, 6, 7], [7, 8, 8, 8, 8, 8, 8, 8]],
}


def answers_for(windows, depths):
    """One prediction per window whose every number says which window and place it comes from."""
    made = []
    for number, (window, depth) in enumerate(zip(windows, depths, strict=True)):
        length = len(window.frames)
        mark = 100.0 * number + torch.arange(length)
        made.append(
            HandPrediction(
                global_orient=mark[None, :, None, None].expand(1, length, 3, 3),
                hand_pose=mark[None, :, None, None, None].expand(1, length, 15, 3, 3),
                betas=mark[None, :, None].expand(1, length, 10),
                scale=mark[None],
                shift_crop=mark[None, :, None].expand(1, length, 2),
                depth=torch.as_tensor(depth, dtype=torch.float32)[None],
            )
        )
    return made


@pytest.mark.parametrize("num_frames", OFFICIAL)
def test_official_windows_are_those_of_the_demo(num_frames):
    windows = cut_windows(num_frames, WindowConfig(mode="official"))
    assert [list(window.frames) for window in windows] == OFFICIAL[num_frames]


def test_official_windows_are_those_recorded(shared_dir):
    recorded = np.load(shared_dir / "golden/geometry.npz", allow_pickle=False)
    lengths = [int(key.removeprefix("windows/")) for key in recorded.files if key.startswith("windows/")]
    assert len(lengths) >= 9
    for length in lengths:
        windows = cut_windows(length, WindowConfig(mode="official"))
        np.testing.assert_array_equal([window.frames for window in windows], recorded[f"windows/{length}"])


@given(num_frames=st.integers(1, 80), clip_frames=st.integers(2, 10), data=st.data())
def test_our_windows_keep_every_frame_once_and_touch_and_copy_nothing(num_frames, clip_frames, data):
    overlap = data.draw(st.integers(1, clip_frames - 1))
    config = WindowConfig(clip_frames=clip_frames, overlap_frames=overlap)
    windows = cut_windows(num_frames, config)
    kept = [window.frames[place] for window in windows for place in window.keep]
    assert kept == list(range(num_frames))
    for window in windows:
        assert len(window.frames) == min(clip_frames, num_frames)
        assert list(window.frames) == list(range(window.frames[0], window.frames[0] + len(window.frames)))
    for before, after in itertools.pairwise(windows):
        assert len(set(before.frames) & set(after.frames)) >= overlap


def test_a_window_of_copies_is_never_ours():
    assert len(cut_windows(8, WindowConfig())) == 1
    assert len(cut_windows(8, WindowConfig(mode="official"))) == 2


@given(num_frames=st.integers(1, 60), seed=st.integers(0, 1000), mode=st.sampled_from(["ours", "official"]))
def test_windows_that_see_the_same_motion_from_other_starts_are_stitched_to_that_motion(num_frames, seed, mode):
    rng = np.random.default_rng(seed)
    true = rng.normal(size=num_frames).cumsum()
    windows = cut_windows(num_frames, WindowConfig(mode=mode))
    seen = [true[list(window.frames)] + rng.normal() * 3 for window in windows]
    track = stitch(windows, answers_for(windows, seen))
    np.testing.assert_allclose(track.depth[0], true - true[0], atol=1e-4)


def test_the_official_mode_keeps_the_last_copy_and_ours_the_first_answer():
    official = cut_windows(9, WindowConfig(mode="official"))
    track = stitch(official, answers_for(official, np.zeros((2, 8))))
    assert track.scale[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 107]
    ours = cut_windows(9, WindowConfig())
    track = stitch(ours, answers_for(ours, np.zeros((2, 8))))
    assert track.scale[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 107]
    eight = cut_windows(8, WindowConfig(mode="official"))
    track = stitch(eight, answers_for(eight, np.zeros((2, 8))))
    assert track.scale[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 107]  # the good answer to frame 7 is lost
    assert track.hand_pose.shape == (1, 8, 15, 3, 3)


def test_official_depth_is_chained_through_the_last_frame_of_each_window():
    windows = cut_windows(10, WindowConfig(mode="official"))
    depths = [np.arange(8) * 0.1, 5 + np.arange(8) * 0.01]
    track = stitch(windows, answers_for(windows, depths))
    # Frame 8 is 0.01 beyond frame 7; frame 9's answer is the last copy's, 0.07 beyond.
    np.testing.assert_allclose(track.depth[0, 7:], [0.7, 0.71, 0.77], atol=1e-6)


def test_the_first_depth_is_the_first_frames_officially_and_the_windows_median_in_ours():
    relative = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4])
    weak = torch.tensor([0.9, 0.7, 0.8, -3.0, 1.0])  # says 0.9, 0.6, 0.6, nonsense, 0.6 about frame 0
    torch.testing.assert_close(first_depth(relative, weak, mode="official"), torch.tensor(0.9))
    torch.testing.assert_close(first_depth(relative, weak, mode="ours"), torch.tensor(0.6))


def test_a_hand_behind_the_camera_is_put_between_its_neighbours():
    weak = torch.tensor([0.6, -2.0, 0.8, torch.inf])
    torch.testing.assert_close(sane_weak_depth(weak), torch.tensor([0.6, 0.7, 0.8, 0.8]))
    assert (sane_weak_depth(-weak[:3]) > 0).all()
    assert first_depth(torch.zeros(2), torch.tensor([-1.0, -2.0]), mode="ours") > 0


@pytest.mark.parametrize(("given_config", "words"), [
    ({"overlap_frames": 8}, "overlap_frames is 8"),
    ({"overlap_frames": 0}, "overlap_frames is 0"),
    ({"overlap_frames": 2, "mode": "official"}, "official mode knows only 1"),
])  # fmt: skip
def test_a_bad_window_is_refused_in_words(given_config, words):
    with pytest.raises(ValueError, match=words):
        WindowConfig(**given_config)
