"""Which hand comes when: shares hold, every hand has its turn, and nothing depends on who asks."""

import pickle
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest

from haptic.data.mixture import BLOCK, IMAGE, VIDEO, Stream


@dataclass
class FakeSet:
    """Tracks of given lengths, two to a shard."""

    name: str
    num_frames: np.ndarray
    faults: tuple = ()
    shard_of: np.ndarray = field(init=False)

    def __post_init__(self):
        self.num_frames = np.array(self.num_frames)
        self.shard_of = np.arange(len(self.num_frames)) // 2

    def open(self, track):
        raise AssertionError("tracks are drawn without opening one")

    def prepare(self, track):
        raise AssertionError("tracks are drawn without opening one")


def make_stream(sets, shares, *, clip_frames=8, seed=0, kind=VIDEO, **options):
    return Stream(sets, shares, name="data.video", kind=kind, seed=seed, clip_frames=clip_frames, **options)


def draw(stream, position, attempt=0):
    return stream.draw(position, attempt, rng=stream.rng(position, attempt))


def test_shares_hold_exactly_in_every_block():
    sets = [FakeSet("a", [20] * 5), FakeSet("b", [20] * 70), FakeSet("c", [8])]
    stream = make_stream(sets, {"c": 0.015, "a": 0.735, "b": 0.25})
    counts = Counter(draw(stream, position).set_index for position in range(BLOCK, 2 * BLOCK))
    assert counts == {0: 7350, 1: 2500, 2: 150}
    near = Counter(draw(stream, position).set_index for position in range(400))
    assert 250 < near[0] < 330  # mixed, not one after the other


def test_every_frame_has_its_turn_in_every_pass():
    one = FakeSet("a", [3, 1, 4, 1, 5])
    stream = make_stream([one], {"a": 1.0}, clip_frames=1, kind=IMAGE)
    drawn = [draw(stream, position) for position in range(42)]
    for start in (0, 14, 28):
        shown = sorted((each.track, each.places[0]) for each in drawn[start : start + 14])
        assert shown == [(track, place) for track, length in enumerate([3, 1, 4, 1, 5]) for place in range(length)]
    assert [each.track for each in drawn[:14]] != [each.track for each in drawn[14:28]]


def test_long_tracks_give_as_many_windows_as_they_have_stretches_and_short_ones_none():
    stream = make_stream([FakeSet("a", [64, 7, 16])], {"a": 1.0})
    counts = Counter(draw(stream, position).track for position in range(100))
    assert counts == {0: 80, 2: 20}


def test_windows_are_taken_at_every_stride_and_stay_inside():
    one = FakeSet("a", [40])
    stream = make_stream([one], {"a": 1.0}, stride_rate=0.5, max_strides={"a": 5})
    strides, starts = Counter(), set()
    for position in range(4000):
        places = draw(stream, position).places
        assert len(places) == 8
        assert places[0] >= 0
        assert places[-1] < 40
        (stride,) = set(np.diff(places))
        strides[int(stride)] += 1
        starts.add(places[0])
    assert 0.57 < strides[1] / 4000 < 0.63  # half, and a fifth of the other half
    assert all(0.08 < strides[stride] / 4000 < 0.12 for stride in (2, 3, 4, 5))
    assert starts == set(range(33))
    short = make_stream([FakeSet("b", [15])], {"b": 1.0}, stride_rate=1.0, max_strides={"b": 5})
    assert {draw(short, position).places[-1] for position in range(200)} <= set(range(15))


def test_a_draw_does_not_depend_on_what_was_drawn_before():
    sets = [FakeSet("a", [20] * 9), FakeSet("b", [30] * 4)]
    options = {"stride_rate": 0.5, "max_strides": {"a": 5, "b": 3}}
    forward = make_stream(sets, {"a": 0.6, "b": 0.4}, **options)
    expected = [draw(forward, position) for position in range(300)]
    backward = pickle.loads(pickle.dumps(make_stream(sets, {"a": 0.6, "b": 0.4}, **options)))
    assert [draw(backward, position) for position in reversed(range(300))][::-1] == expected
    other = make_stream(sets, {"a": 0.6, "b": 0.4}, seed=1, **options)
    assert [draw(other, position) for position in range(300)] != expected


def test_the_next_attempt_is_another_hand_of_the_same_set():
    sets = [FakeSet("a", [20] * 50), FakeSet("b", [20] * 50)]
    stream = make_stream(sets, {"a": 0.5, "b": 0.5})
    for position in range(20):
        tries = [draw(stream, position, attempt) for attempt in range(4)]
        assert len({one.set_index for one in tries}) == 1
        assert len({one.track for one in tries}) > 1
        assert tries[1] == draw(stream, position, 1)


def test_hands_are_shuffled_within_a_few_shards_at_a_time():
    stream = make_stream([FakeSet("a", [8] * 40)], {"a": 1.0}, shards_at_once=2)
    tracks = [draw(stream, position).track for position in range(40)]
    for start in range(0, 40, 4):
        assert len({track // 2 for track in tracks[start : start + 4]}) == 2
    assert tracks != sorted(tracks)


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ({"a": 0.5, "b": 0.4}, "the shares sum to 0.9; expected 1"),
        ({"a": 0.5, "x": 0.5}, "unknown set 'x'; the config's sets are a, b"),
        ({"a": 1.0, "b": 0.0}, "the share of b is 0.0; expected above 0"),
        ({"a": 1.0, "b": float("nan")}, "the share of b is nan"),
        ({"a": 1.0, "b": 1e-6}, "the smallest is"),
    ],
)
def test_shares_that_are_none_are_refused_in_words(shares, says):
    with pytest.raises(ValueError, match=f"data.video: .*{says}"):
        make_stream([FakeSet("a", [8]), FakeSet("b", [8])], shares)


def test_a_set_of_short_clips_is_no_set_of_windows():
    with pytest.raises(ValueError, match="set a: none of its 2 tracks has 8 frames"):
        make_stream([FakeSet("a", [7, 1])], {"a": 1.0})
