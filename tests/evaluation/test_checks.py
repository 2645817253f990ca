"""What cannot be a fair prediction is refused with its likely cause; what can is paired with its truth."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from haptic.evaluation.checks import pair_hands
from haptic.hand.joints import OPENPOSE_FROM_MANO


def changed(prediction, change):
    hands = {name: replace(hand, **change(hand)) for name, hand in prediction.hands.items()}
    return replace(prediction, hands=hands)


def refused(clip, prediction):
    with pytest.raises(ValueError, match=r"system\.npz") as caught:
        pair_hands(clip, prediction)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_truth_is_paired_with_itself(clip, perfect):
    pairs, notes = pair_hands(clip, perfect(clip))
    assert [pair.name for pair in pairs] == ["left_0", "right_0"]
    assert not notes
    for pair in pairs:
        assert pair.predicted.all()
        torch.testing.assert_close(pair.pred, pair.target)
        torch.testing.assert_close(pair.pred_world, pair.target_world)


@pytest.mark.parametrize(("factor", "unit"), [(1000, "millimetres"), (1700, "millimetres"), (100, "centimetres")])
def test_a_hand_in_another_unit_is_refused_by_name(clip, noisy, factor, unit):
    assert unit in refused(clip, changed(noisy(clip), lambda hand: {"joints_cam": factor * hand.joints_cam}))


def test_joints_about_the_wrist_are_refused(clip, noisy):
    about_wrist = changed(noisy(clip), lambda hand: {"joints_cam": hand.joints_cam - hand.joints_cam[:, :1]})
    assert "translation" in refused(clip, about_wrist)


def test_joints_in_manos_order_are_refused_by_name(clip, noisy):
    mano_from_openpose = np.argsort(OPENPOSE_FROM_MANO)
    other = changed(noisy(clip), lambda hand: {"joints_cam": hand.joints_cam[:, mano_from_openpose]})
    assert "MANO's 16 joints" in refused(clip, other)


def test_a_left_hand_drawn_as_a_right_one_is_refused(clip, noisy):
    def mirrored(hand):
        if hand.is_right:
            return {}
        wrist = hand.joints_cam[:, :1]
        return {"joints_cam": wrist + (hand.joints_cam - wrist) * torch.tensor([-1.0, 1, 1], dtype=torch.float64)}

    assert "mirrored" in refused(clip, changed(noisy(clip), mirrored))


def test_swapped_hands_are_refused(clip, noisy):
    assert "swapped" in refused(clip, changed(noisy(clip), lambda hand: {"is_right": not hand.is_right}))


def test_swapped_hands_are_refused_though_their_depth_is_far_off(clip, noisy):
    swapped = changed(
        noisy(clip), lambda hand: {"is_right": not hand.is_right, "joints_cam": 1.5 * hand.joints_cam[:, :1] + (
            hand.joints_cam - hand.joints_cam[:, :1])})  # fmt: skip
    assert "swapped" in refused(clip, swapped)


def test_only_the_wrong_side_is_refused(clips, noisy):
    assert "only left hands" in refused(clips[1], changed(noisy(clips[1]), lambda _hand: {"is_right": False}))


def test_nan_is_refused_with_its_frame(clip, noisy):
    def spoiled(hand):
        joints = hand.joints_cam.clone()
        joints[7, 3, 1] = torch.nan
        return {"joints_cam": joints}

    assert "frame 7" in refused(clip, changed(noisy(clip), spoiled))


def test_another_frame_rate_is_refused(clip, noisy):
    assert "60 frames per second" in refused(clip, replace(noisy(clip), fps=60.0))


def test_frames_beyond_the_sequence_are_refused(clip, noisy):
    assert "frames 0 to 19" in refused(clip, changed(noisy(clip), lambda hand: {"frame_index": hand.frame_index + 1}))


def test_pieces_of_one_hand_are_joined(clips, noisy):
    whole = noisy(clips[1])
    (hand,) = whole.hands.values()
    pieces = {
        f"right_{number}": replace(hand, frame_index=hand.frame_index[part], joints_cam=hand.joints_cam[part])
        for number, part in enumerate((slice(0, 5), slice(7, 12)))
    }
    (pair,), _notes = pair_hands(clips[1], replace(whole, hands=pieces))
    assert pair.predicted.tolist() == [True] * 5 + [False] * 2 + [True] * 5
    torch.testing.assert_close(pair.pred[pair.predicted], hand.joints_cam[pair.predicted])


def test_two_hands_at_once_that_could_be_one_must_be_named(clips, noisy):
    whole = noisy(clips[1])
    (hand,) = whole.hands.values()
    assert "who is who" in refused(clips[1], replace(whole, hands={"right_1": hand, "right_2": hand}))


def test_a_hand_that_truth_does_not_know_is_told_and_not_scored(clips, clip, noisy):
    both = noisy(clip)
    extra = {"right_0": noisy(clips[1]).hands["right_0"], "left_0": both.hands["left_0"]}
    pairs, notes = pair_hands(clips[1], replace(both, hands={
        "right_0": extra["right_0"],
        "left_0": replace(extra["left_0"], frame_index=extra["left_0"].frame_index[:12],
                          joints_cam=extra["left_0"].joints_cam[:12]),
    }))  # fmt: skip
    assert len(pairs) == 1
    assert any("left_0 has no counterpart" in note for note in notes)


def test_a_hand_that_was_not_predicted_is_paired_with_nothing(clip, noisy):
    both = noisy(clip)
    pairs, _notes = pair_hands(clip, replace(both, hands={"right_0": both.hands["right_0"]}))
    assert {pair.name: bool(pair.predicted.any()) for pair in pairs} == {"left_0": False, "right_0": True}
