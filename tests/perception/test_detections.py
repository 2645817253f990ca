"""Detections from elsewhere: read strictly, completed carefully."""

import json

import numpy as np
import pytest

from haptic.perception.detections import complete, follow_given, read_detections
from haptic.perception.detector import detection_from_joints
from haptic.perception.video import Frame

SIZE = {"width": 640, "height": 480, "num_frames": 10}


def hand_points(center=(200.0, 150.0), side=80.0):
    """Twenty-one points that spread like an open hand."""
    finger, along = np.divmod(np.arange(20), 4)
    points = np.stack([(finger - 2) * 0.25, -0.3 - 0.2 * along], axis=1)
    points = np.concatenate([[[0.0, 0.5]], points])
    points = (points - (points.max(0) + points.min(0)) / 2) / np.ptp(points, axis=0).max()
    return points * side + np.array(center)


def entry(frame_index=0, **changes):
    full = {
        "frame_index": frame_index,
        "hand": "right",
        "confidence": 0.75,
        "box": [150, 100, 250, 200],
        "joints_img": hand_points().tolist(),
        "joints_img_weight": [0.5] * 21,
        "track_id": "a",
    }
    full.update(changes)
    return {name: value for name, value in full.items() if value is not ...}


def write(tmp_path, *entries, **changes):
    path = tmp_path / "hands.json"
    path.write_text(json.dumps({"format_version": 1, "detections": list(entries), **changes}))
    return path


def test_a_full_detection_is_read_as_written(tmp_path):
    (found,) = read_detections(write(tmp_path, entry(3), image_size=[640, 480]), **SIZE)
    assert (found.frame_index, found.p_right, found.score, found.track_id) == (3, 1.0, 0.75, "a")
    np.testing.assert_array_equal(found.box, [150, 100, 250, 200])
    np.testing.assert_array_equal(found.joints_img, hand_points())
    np.testing.assert_array_equal(found.joints_img_weight, np.full(21, 0.5))


def test_a_box_alone_has_joints_of_weight_zero_and_an_unknown_side(tmp_path):
    path = write(tmp_path, {"frame_index": 0, "box": [150, 100, 250, 200]})
    (found,) = read_detections(path, **SIZE)
    assert not found.has_joints
    assert found.p_right == 0.5
    (track,) = follow_given([Frame(0, 0.0, np.zeros((480, 640, 3), np.uint8))], [found], None)
    assert (track.joints_img_weight == 0).all()
    assert track.box_center_img[0].tolist() == [200, 150]
    assert track.box_side_px[0] == 100


def test_joints_alone_have_the_tight_box_of_the_known_ones(tmp_path):
    weight = [1.0] * 21
    joints = hand_points()
    joints[4], weight[4] = [5000, 5000], 0.0
    path = write(tmp_path, entry(box=..., joints_img=joints.tolist(), joints_img_weight=weight))
    (found,) = read_detections(path, **SIZE)
    known = np.delete(joints, 4, axis=0)
    np.testing.assert_allclose(found.box, [*known.min(0), *known.max(0)])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"boxx": [1, 2, 3, 4]}, "unknown field boxx"),
        ({"frame_index": 10}, "frame_index is 10; expected at most 9"),
        ({"frame_index": -1}, "frame_index is -1"),
        ({"frame_index": 1.5}, "frame_index is 1.5"),
        ({"frame_index": True}, "frame_index is True"),
        ({"frame_index": ...}, "frame_index is missing"),
        ({"hand": "both"}, "hand is 'both'"),
        ({"hand": ...}, "hand is None"),
        ({"confidence": 1.5}, "confidence is 1.5"),
        ({"confidence": "high"}, "confidence is 'high'"),
        ({"box": [250, 100, 150, 200]}, "box spans .* left < right"),
        ({"box": [700, 100, 800, 200]}, "box .* lies outside the image"),
        ({"box": [-90, 100, -10, 200]}, "box .* lies outside the image"),
        ({"box": [1, 2, 3]}, "box has shape 3; expected 4 finite numbers"),
        ({"box": "big"}, "box is no list of numbers"),
        ({"box": [[150, 100, 250, 200]]}, "box is no list of numbers"),
        ({"joints_img": hand_points()[:20].tolist()}, "joints_img has shape 20 x 2; expected 21 x 2"),
        ({"joints_img": [[1, 2]] * 20 + [[1]]}, "joints_img has rows of different lengths"),
        ({"joints_img": [[1, None]] * 21}, "joints_img is no list of numbers"),
        ({"joints_img": [[1e300, 2]] * 21}, "joints_img holds numbers that are no pixels"),
        ({"joints_img_weight": [2.0] * 21}, "joints_img_weight has 2 to 2"),
        ({"joints_img": ...}, "joints_img_weight without joints_img"),
        ({"box": ..., "joints_img": ..., "joints_img_weight": ...}, "neither a box nor two joints"),
        ({"box": ..., "joints_img": [[5, 5]] * 21}, "joints_img all lie in one pixel"),
        ({"track_id": [1]}, "track_id is"),
    ],
    ids=lambda value: value[:28] if isinstance(value, str) else "",
)
def test_a_wrong_entry_is_refused_by_file_entry_and_field(tmp_path, changes, words):
    path = write(tmp_path, entry(), entry(**{"frame_index": 1, **changes}))
    with pytest.raises(ValueError, match=words) as caught:
        read_detections(path, **SIZE)
    assert str(caught.value).startswith(f"{path}: detections[1]: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not readable as JSON"),
        ("[]", "holds a list"),
        ('{"format_version": 1}', "detections is missing"),
        ('{"format_version": 2, "detections": []}', "format_version is 2; expected 1"),
        ('{"format_version": 1, "detections": [], "fps": 30}', "unknown field fps"),
        ('{"format_version": 1, "detections": {}}', "detections is no list"),
        ('{"format_version": 1, "detections": [3]}', r"detections\[0\]: is a int"),
        ('{"format_version": 1, "detections": [{"frame_index": NaN}]}', "holds NaN"),
        ('{"format_version": 1, "detections": [{"box": [0, 0, Infinity, 3]}]}', "holds Infinity"),
        ('{"format_version": 1, "format_version": 1, "detections": []}', "format_version occurs twice"),
        ('{"format_version": 1, "image_size": [64, 48], "detections": []}', r"image_size is \[64, 48\]"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, text, words):
    path = tmp_path / "hands.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        read_detections(path, **SIZE)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such detections file"):
        read_detections(tmp_path / "hands.json", **SIZE)


def test_one_track_has_one_hand_per_frame(tmp_path):
    with pytest.raises(ValueError, match=r"detections\[1\]: track_id 'a' occurs twice in frame 0"):
        read_detections(write(tmp_path, entry(), entry()), **SIZE)


def frames(count):
    return [Frame(index, index / 30, np.zeros((480, 640, 3), np.uint8)) for index in range(count)]


def test_given_tracks_are_taken_at_their_word_however_the_hands_move(tmp_path):
    """Two right hands that change places in one frame: no tracker could know, but the file says so."""
    entries = []
    for index in range(10):
        places = ((200, 150), (450, 300)) if index < 5 else ((450, 300), (200, 150))
        for name, center in zip("ab", places, strict=True):
            points = hand_points(center)
            entries.append(entry(index, box=..., joints_img=points.tolist(), track_id=name))
    tracks = follow_given(frames(10), read_detections(write(tmp_path, *entries), **SIZE), None)
    assert [len(track.frame_index) for track in tracks] == [10, 10]
    for track in tracks:
        jump = (track.box_center_img[5] - track.box_center_img[4]).norm()
        assert jump > 100
        assert track.observed.all()


def test_detections_without_names_are_associated(tmp_path):
    entries = [
        entry(index, box=..., hand=hand, joints_img=hand_points(center).tolist(), track_id=...)
        for index in range(10)
        for hand, center in (("left", (200 + 3 * index, 150)), ("right", (450 - 3 * index, 300)))
    ]
    tracks = follow_given(frames(10), read_detections(write(tmp_path, *entries), **SIZE), None)
    assert sorted((bool(track.is_right), len(track.frame_index)) for track in tracks) == [(False, 10), (True, 10)]


def test_a_detection_beyond_the_last_frame_is_refused(tmp_path):
    found = read_detections(write(tmp_path, entry(7)), **{**SIZE, "num_frames": None})
    with pytest.raises(ValueError, match="names frame 7, but the video has frames 0 to 2"):
        follow_given(frames(3), found, None)


class OneHand:
    """A detector that sees one left hand, wherever it looks."""

    def __init__(self, center=(200.0, 150.0)):
        self.center = center

    def detect(self, frame):
        joints = hand_points(self.center)
        found = detection_from_joints(frame.index, joints, p_right=0.1, image_shape=(480, 640))
        return [type(found)(**{**vars(found), "landmarks": np.ones((21, 3))})]

    def detect_next(self, frame):
        return self.detect(frame)

    def detect_in(self, frame, region):
        return self.detect(frame)

    def restart(self):
        pass


def test_a_box_gets_its_joints_and_side_from_the_detector(tmp_path):
    path = write(tmp_path, {"frame_index": 0, "box": [160, 110, 240, 190]})
    (given,) = read_detections(path, **SIZE)
    found = complete(given, frames(1)[0], OneHand())
    np.testing.assert_array_equal(found.joints_img, hand_points())
    assert found.has_joints
    assert not found.is_right
    assert found.landmarks is not None
    assert not complete(given, frames(1)[0], OneHand((500.0, 300.0))).has_joints


def test_given_joints_and_sides_are_never_replaced(tmp_path):
    (given,) = read_detections(write(tmp_path, entry(box=..., hand="left")), **SIZE)
    moved = type(given)(**{**vars(given), "joints_img": given.joints_img + 2.0})
    found = complete(moved, frames(1)[0], OneHand())
    np.testing.assert_array_equal(found.joints_img, given.joints_img + 2.0)
    assert found.landmarks is not None
    (other,) = read_detections(write(tmp_path, entry(box=..., hand="right")), **SIZE)
    assert complete(other, frames(1)[0], OneHand()).landmarks is None
