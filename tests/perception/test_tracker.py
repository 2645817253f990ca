"""Following hands: scripted detections whose truth is known."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from haptic.perception.association import MatchConfig, TrackedHand, is_plausible, match, same_hand
from haptic.perception.detector import HandDetection, Region, detection_from_joints
from haptic.perception.tracker import HandTracker, TrackerConfig, build_tracks
from haptic.perception.tracks import TrackConfig, hand_tracks
from haptic.perception.video import Frame

WIDTH, HEIGHT = 640, 480
FPS = 30.0


def hand_at(frame_index, center, *, side=80.0, p_right=0.95, tilt=0.0):
    """An open hand of 21 points around a place; a left one is the mirror image of a right one."""
    finger, along = np.divmod(np.arange(20), 4)
    points = np.concatenate([[[0.0, 0.5]], np.stack([(finger - 2) * 0.2 + 0.05, -0.2 - 0.2 * along], axis=1)])
    if p_right < 0.5:
        points[:, 0] *= -1
    points = points @ np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    points -= (points.max(0) + points.min(0)) / 2
    points = points / np.ptp(points, axis=0).max() * side
    found = detection_from_joints(
        frame_index, points + np.asarray(center, dtype=float), p_right=p_right, image_shape=(HEIGHT, WIDTH)
    )
    flat = points / side * 0.1
    return replace(found, landmarks=np.concatenate([flat, np.zeros((21, 1))], axis=1))


class Scripted:
    """A detector that answers from a script; `hidden` hands are seen only in a close look."""

    def __init__(self, seen, hidden=None):
        self.seen, self.hidden = seen, hidden or {}
        self.looks = []

    def restart(self):
        pass

    def detect(self, frame):
        return list(self.seen.get(frame.index, []))

    detect_next = detect

    def detect_in(self, frame, region: Region):
        self.looks.append((frame.index, region))
        there = [*self.seen.get(frame.index, []), *self.hidden.get(frame.index, [])]
        return [hand for hand in there if np.abs(hand.center - region.center).max() < region.side_px / 2]


def picture(index, *, scene=0):
    rng = np.random.default_rng(scene)
    return Frame(
        index, index / FPS, np.kron(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8), np.ones((40, 40, 1), np.uint8))
    )


QUIET = TrackerConfig(tile_every_frames=0)


def track(seen, count, hidden=None, config=QUIET, scenes=None):
    tracker = HandTracker(Scripted(seen, hidden), config)
    for index in range(count):
        tracker.step(picture(index, scene=scenes(index) if scenes else 0))
    return tracker.finish()


def script(count, *makers):
    """Per frame, what each maker gives for it; None is no detection."""
    found = {}
    for index in range(count):
        found[index] = [hand for hand in (maker(index) for maker in makers) if hand is not None]
    return found


def steady(center, **kind):
    return lambda index: hand_at(index, center, **kind)


def test_a_hand_seen_throughout_is_one_track_as_detected():
    seen = script(20, lambda index: hand_at(index, (200 + 3 * index, 150)))
    (found,) = track(seen, 20)
    assert found.is_right
    assert found.frame_index.tolist() == list(range(20))
    assert found.observed.all()
    torch.testing.assert_close(found.time_s, torch.arange(20, dtype=torch.float64) / FPS)
    for index in range(20):
        np.testing.assert_allclose(found.joints_img[index].numpy(), seen[index][0].joints_img, atol=1e-3)
    torch.testing.assert_close(found.box_side_px, torch.full((20,), 80.0), atol=0.01, rtol=0)
    torch.testing.assert_close(found.joints_img_weight, torch.full((20, 21), 0.95))


def test_a_missing_frame_is_filled_marked_and_weighs_nothing():
    seen = script(20, lambda index: None if 8 <= index < 12 else hand_at(index, (200 + 5 * index, 150)))
    (found,) = track(seen, 20)
    filled = ~found.observed
    assert filled.nonzero().ravel().tolist() == [8, 9, 10, 11]
    assert (found.joints_img_weight[filled] == 0).all()
    assert (found.landmarks_weight[filled] == 0).all()
    assert (found.confidence[filled] < found.confidence[~filled].min()).all()
    assert found.confidence[9] < found.confidence[8]
    centers = found.box_center_img[:, 0]
    torch.testing.assert_close(centers, 200 + 5 * torch.arange(20.0), atol=0.5, rtol=0)
    torch.testing.assert_close(
        found.joints_img[10, :, 0].mean() - found.joints_img[7, :, 0].mean(), torch.tensor(15.0), atol=0.5, rtol=0
    )


def test_a_frame_lost_to_damage_is_filled_and_not_looked_into():
    """The picture that is shown there is an older one: a hand in it is not where the hand is."""
    detector = Scripted(script(20, steady((300, 200))), script(20, steady((300, 200))))
    tracker = HandTracker(detector, QUIET)
    for index in range(20):
        frame = picture(index)
        tracker.step(replace(frame, is_lost=True) if 8 <= index < 12 else frame)
    (found,) = tracker.finish()
    assert found.frame_index.tolist() == list(range(20))
    assert found.observed.tolist() == [not 8 <= index < 12 for index in range(20)]
    assert not any(8 <= index < 12 for index, _ in detector.looks)


def test_a_hand_is_never_invented_before_its_first_and_after_its_last_sighting():
    seen = script(30, lambda index: hand_at(index, (200, 150)) if 10 <= index < 20 else None)
    (found,) = track(seen, 30)
    assert found.frame_index.tolist() == list(range(10, 20))


def test_a_long_absence_ends_a_track_and_begins_another():
    seen = script(60, lambda index: None if 15 <= index < 40 else hand_at(index, (200, 150)))
    first, second = track(seen, 60)
    assert first.frame_index.tolist() == list(range(15))
    assert second.frame_index.tolist() == list(range(40, 60))


def test_two_hands_that_cross_are_not_swapped():
    """They pass over one another; the labels help, and the speeds do too."""
    seen = script(
        41,
        lambda index: hand_at(index, (160 + 8 * index, 200), p_right=0.97),
        lambda index: hand_at(index, (480 - 8 * index, 210), p_right=0.04),
    )
    for hands in seen.values():
        hands.sort(key=lambda hand: hand.center[0])  # the order within a frame says nothing
    right, left = sorted(track(seen, 41), key=lambda found: not found.is_right)
    torch.testing.assert_close(right.box_center_img[:, 0], 160 + 8 * torch.arange(41.0), atol=2, rtol=0)
    torch.testing.assert_close(left.box_center_img[:, 0], 480 - 8 * torch.arange(41.0), atol=2, rtol=0)


def test_hands_of_one_side_that_pass_each_other_keep_their_ways():
    seen = script(
        41,
        lambda index: hand_at(index, (160 + 8 * index, 200)),
        lambda index: hand_at(index, (480 - 8 * index, 290), tilt=0.8),
    )
    a, b = sorted(track(seen, 41), key=lambda found: float(found.box_center_img[0, 0]))
    torch.testing.assert_close(a.box_center_img[:, 0], 160 + 8 * torch.arange(41.0), atol=2, rtol=0)
    torch.testing.assert_close(b.box_center_img[:, 0], 480 - 8 * torch.arange(41.0), atol=2, rtol=0)


def test_the_side_is_voted_and_a_contrary_frame_is_not_believed():
    """Where the detector sees the other hand its joints are mirrored: the box stays, the joints are the neighbours'."""
    seen = script(20, lambda index: hand_at(index, (200, 150), p_right=0.03 if index in (7, 8) else 0.97))
    (found,) = track(seen, 20)
    assert found.is_right
    assert (~found.observed).nonzero().ravel().tolist() == [7, 8]
    assert (found.joints_img_weight[7:9] == 0).all()
    torch.testing.assert_close(found.joints_img[7], found.joints_img[6], atol=0.5, rtol=0)


def test_a_contrary_frame_is_looked_at_again():
    seen = script(20, lambda index: hand_at(index, (200, 150), p_right=0.03 if index in (7, 8) else 0.97))
    hidden = {index: [hand_at(index, (201, 151), p_right=0.9)] for index in (7, 8)}
    (found,) = track(seen, 20, hidden)
    assert found.observed.all()
    torch.testing.assert_close(found.joints_img_weight[7], torch.full((21,), 0.9))


def test_one_hand_seen_twice_with_both_labels_is_one_track():
    seen = script(
        20,
        lambda index: hand_at(index, (200, 150), p_right=0.97),
        lambda index: hand_at(index, (203, 152), p_right=0.05, side=84) if index % 2 else None,
    )
    (found,) = track(seen, 20)
    assert found.is_right
    assert found.observed.all()


def test_a_settled_left_and_right_that_clasp_stay_two():
    seen = script(
        40,
        lambda index: hand_at(index, (200 + min(index, 20) * 5, 200), p_right=0.03),
        lambda index: hand_at(index, (415 - min(index, 20) * 5, 200), p_right=0.97),
    )
    assert same_hand(*seen[30])
    found = track(seen, 40)
    assert [len(hand.frame_index) for hand in found] == [40, 40]
    assert {bool(hand.is_right) for hand in found} == {False, True}
    assert all(hand.observed.all() for hand in found)


def test_a_short_false_track_is_dropped_but_short_videos_keep_their_hands():
    seen = script(40, steady((200, 150)), lambda index: hand_at(index, (500, 350)) if 10 <= index < 13 else None)
    assert len(track(seen, 40)) == 1
    assert len(track(script(1, steady((200, 150))), 1)) == 1
    assert len(track(script(2, lambda index: hand_at(0, (200, 150)) if index == 0 else None), 2)) == 1


def test_a_lost_hand_is_found_again_in_a_crop_around_its_expected_place():
    def seen(index):
        return None if 10 <= index < 20 else hand_at(index, (150 + 6 * index, 200))

    hidden = {index: [hand_at(index, (150 + 6 * index, 200))] for index in range(10, 20)}
    (found,) = track(script(30, seen), 30, hidden)
    assert found.observed.all()
    (blind,) = track(script(30, seen), 30, hidden, replace(QUIET, look_again=False))
    assert blind.observed.sum() == 20


def test_looking_again_never_puts_two_tracks_on_one_hand():
    """The right hand leaves; where it was, a close look sees the left hand beside it."""
    seen = script(
        30,
        lambda index: hand_at(index, (300, 200), p_right=0.97) if index < 12 else None,
        lambda index: hand_at(index, (240, 200), p_right=0.04),
    )
    right, left = sorted(track(seen, 30), key=lambda found: not found.is_right)
    assert right.frame_index.tolist() == list(range(12))
    assert left.observed.all()


def test_a_new_hand_is_followed_backwards_to_where_it_was_missed():
    seen = script(30, lambda index: hand_at(index, (200 + 2 * index, 150)) if index >= 8 else None)
    hidden = {index: [hand_at(index, (200 + 2 * index, 150))] for index in range(3, 8)}
    (found,) = track(seen, 30, hidden)
    assert found.frame_index[0] == 3
    assert found.observed.all()


def test_a_small_hand_is_found_in_tiles():
    hidden = {index: [hand_at(index, (400, 300), side=30)] for index in range(20)}
    assert track({}, 20, hidden) == []
    (found,) = track({}, 20, hidden, TrackerConfig())
    assert found.observed.all()
    assert len(found.frame_index) == 20


def test_a_cut_to_another_scene_ends_all_tracks():
    seen = script(40, steady((200, 150)))
    first, second = track(seen, 40, scenes=lambda index: int(index >= 20))
    assert (first.frame_index[-1], second.frame_index[0]) == (19, 20)


def test_a_flash_does_not_end_a_track():
    tracker = HandTracker(Scripted(script(20, steady((200, 150)))), QUIET)
    for index in range(20):
        frame = picture(index)
        tracker.step(frame if index != 9 else replace(frame, image=np.full_like(frame.image, 255)))
    assert len(tracker.finish()) == 1


def test_several_people_have_their_own_tracks():
    places = [(100, 100), (230, 120), (400, 110), (540, 130), (150, 350), (500, 360)]
    seen = script(20, *(steady(place, p_right=0.95 if number % 2 else 0.05) for number, place in enumerate(places)))
    found = track(seen, 20)
    assert len(found) == 6
    starts = {tuple(hand.box_center_img[0].round().int().tolist()) for hand in found}
    assert starts == set(places)


def test_a_doubtful_hand_beside_a_firm_one_is_its_other_hand():
    seen = script(
        20,
        steady((200, 150), p_right=0.02),
        lambda index: hand_at(index, (400, 150), p_right=0.2 if index % 3 else 0.9),
    )
    assert {bool(hand.is_right) for hand in track(seen, 20)} == {False, True}
    alone = script(20, lambda index: hand_at(index, (400, 150), p_right=0.2 if index % 3 else 0.9))
    assert not track(alone, 20)[0].is_right


def test_tracks_come_by_first_frame_then_by_confidence():
    seen = script(
        30,
        steady((120, 100), p_right=0.7),
        steady((320, 100), p_right=0.99),
        lambda index: hand_at(index, (520, 100), p_right=0.99) if index >= 5 else None,
    )
    assert [round(float(hand.box_center_img[0, 0])) for hand in track(seen, 30)] == [320, 120, 520]


def test_a_box_that_jitters_is_calmed_and_a_moving_one_is_not_held_back():
    rng = np.random.default_rng(0)
    shake = rng.normal(0, 2, (60, 2))
    seen = script(60, lambda index: hand_at(index, np.array([150 + 4 * index, 200]) + shake[index]))
    (found,) = track(seen, 60)
    path = torch.stack([150 + 4 * torch.arange(60.0), torch.full((60,), 200.0)], dim=1)
    raw = torch.from_numpy(shake).float()
    error = found.box_center_img - path
    assert error.norm(dim=1).mean() < raw.norm(dim=1).mean()
    assert error.diff(n=2, dim=0).norm(dim=1).mean() < 0.5 * raw.diff(n=2, dim=0).norm(dim=1).mean()
    assert error.mean(dim=0).abs().max() < 1


def test_collapsed_joints_and_joints_unlike_their_landmarks_are_refused():
    config = MatchConfig()
    good = hand_at(0, (200, 150))
    assert is_plausible(good, config)
    assert not is_plausible(hand_at(0, (200, 150), side=2), config)
    assert not is_plausible(replace(good, joints_img=good.joints_img[np.random.default_rng(0).permutation(21)]), config)
    assert not is_plausible(replace(good, joints_img=np.full((21, 2), np.nan)), config)


def test_matching_is_optimal_not_greedy():
    """Greedy by the nearest pair would leave the second hand without a detection."""
    hands = [TrackedHand(hand_at(0, (200, 150))), TrackedHand(hand_at(0, (250, 150)))]
    found = [hand_at(1, (246, 150)), hand_at(1, (300, 150))]
    matched = match(hands, [hand.expected_at(1) for hand in hands], found, MatchConfig())
    assert matched == {0: 0, 1: 1}


def test_a_detection_of_another_size_or_far_away_is_another_hand():
    hand = TrackedHand(hand_at(0, (200, 150)))
    for other in (hand_at(1, (200, 150), side=200), hand_at(1, (300, 150))):
        assert match([hand], [hand.expected_at(1)], [other], MatchConfig()) == {}


def test_following_twice_gives_the_same_tracks():
    rng = np.random.default_rng(1)
    seen = script(
        30, lambda index: hand_at(index, rng.normal(200, 3, 2)), lambda index: hand_at(index, rng.normal(400, 3, 2))
    )
    for a, b in zip(track(seen, 30), track(seen, 30), strict=True):
        assert torch.equal(a.joints_img, b.joints_img)
        assert torch.equal(a.box_center_img, b.box_center_img)


def test_no_detections_give_no_tracks():
    assert track({}, 10) == []
    assert build_tracks([], [0.0, 0.1]) == []
    assert build_tracks([], []) == []


def test_frames_out_of_order_are_a_mistake_of_the_caller():
    tracker = HandTracker(Scripted({}), QUIET)
    tracker.step(picture(0))
    with pytest.raises(AssertionError):
        tracker.step(picture(2))


@pytest.mark.parametrize("wrong", [{"max_gap_s": -1.0}, {"min_track_s": float("nan")}, {"box_stiffness": -0.1}])
def test_senseless_track_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*; expected"):
        TrackConfig(**wrong)


def test_memory_does_not_hold_the_frames():
    tracker = HandTracker(Scripted(script(60, steady((200, 150)))), replace(QUIET, look_back_frames=4))
    for index in range(60):
        tracker.step(picture(index))
    assert len(tracker._recent) == 4
    assert isinstance(tracker._association.hands()[0].seen[0], HandDetection)


class Endless(Scripted):
    """A detector that sees two hands that move, in every frame of a film of any length."""

    def __init__(self):
        super().__init__({})

    def detect(self, frame):
        sway = 20 * np.sin(frame.index / 9)
        return [hand_at(frame.index, (200 + sway, 150)), hand_at(frame.index, (450 - sway, 200), p_right=0.04)]

    detect_next = detect


def test_following_hands_costs_a_few_kilobytes_a_frame():
    tracker, image = HandTracker(Endless(), QUIET), picture(0).image
    begin, count, num_hands = 20, 120, 2
    for index in range(begin):
        tracker.step(Frame(index, index / FPS, image))
    tracemalloc.start()
    try:
        for index in range(begin, count):
            tracker.step(Frame(index, index / FPS, image))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    # 21 joints and 21 landmarks, their weights and their box are 1 kB; a frame of the film would be 900.
    assert held / ((count - begin) * num_hands) < 4_000


def test_making_tracks_takes_memory_in_step_with_their_length():
    count, hands = 1500, []
    for center, p_right in (((200, 150), 0.95), ((450, 200), 0.05)):
        first = hand_at(0, center, p_right=p_right)
        hand = TrackedHand(first)
        for index in range(1, count):
            hand.add(replace(first, frame_index=index))
        hands.append(hand)
    tracemalloc.start()
    try:
        tracks = hand_tracks(hands, [index / FPS for index in range(count)], TrackConfig())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [len(track.time_s) for track in tracks] == [count, count]
    assert peak / (count * 2) < 4_000  # each frame against each other would be 12,000


@pytest.mark.parametrize("seen", [[0], [0, 1, 6], [0, 7, 8], [2, 3, 9]])
def test_confidence_falls_with_the_distance_to_the_nearest_sighting(seen):
    given = [replace(hand_at(index, (200, 150)), track_id="a") for index in seen]
    (only,) = build_tracks(given, [index / FPS for index in range(10)], QUIET)
    nearest = [min(abs(int(index) - other) for other in seen) for index in only.frame_index]
    assert torch.allclose(only.confidence, torch.tensor([0.95 * 0.85**distance for distance in nearest]))
