"""The hand landmarker: sides, axes, pixels, silence; on real pictures where they are at hand."""

import os
import subprocess
import sys
import zipfile
from itertools import pairwise

import cv2
import numpy as np
import pytest

from haptic.files import find_asset, sha256_of
from haptic.perception import detector as detector_module
from haptic.perception.association import same_hand
from haptic.perception.detector import (
    DetectorConfig,
    DetectorLoadError,
    HandDetector,
    HandLandmarker,
    Region,
    detection_from_joints,
)
from haptic.perception.tracker import HandTracker
from haptic.perception.video import Frame, open_video

# Beyond the picture, landmarks are the network's guess; on it, its answers to two sizes of one picture differ a little.
SAME_PLACE_SIDES = 0.08


@pytest.fixture(scope="module")
def landmarker():
    with HandLandmarker() as found:
        yield found


@pytest.fixture(scope="module")
def egocentric(shared_dir):
    """Both hands of the wearer from above, fingers away from the bottom edge; the left one is on the left."""
    return next(iter(open_video(shared_dir / "videos" / "test_arctic.mp4").frames()))


def by_side(detections):
    return {found.is_right: found for found in detections}


def test_a_detector_outlives_its_librarys_profiler_and_whoever_puts_signals_back():
    code = (
        "import signal, os\n"
        "from haptic.perception.detector import HandLandmarker\n"
        "HandLandmarker().close()\n"
        "signal.signal(signal.SIGPROF, signal.getsignal(signal.SIGPROF))\n"  # as Lightning does after a training
        "os.kill(os.getpid(), signal.SIGPROF)\n"
        "print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.endswith("alive\n"), (done.returncode, done.stderr[-500:])


def test_the_label_is_the_persons_own_hand(landmarker, egocentric):
    hands = by_side(landmarker.detect(egocentric))
    assert set(hands) == {False, True}
    assert hands[False].center[0] < hands[True].center[0]
    for hand in hands.values():
        assert hand.p_right > 0.9 or hand.p_right < 0.1


def test_a_mirrored_picture_has_the_other_hands(landmarker, egocentric):
    width = egocentric.image.shape[1]
    mirrored = Frame(0, 0.0, np.ascontiguousarray(egocentric.image[:, ::-1]))
    hands, others = by_side(landmarker.detect(egocentric)), by_side(landmarker.detect(mirrored))
    for is_right, hand in hands.items():
        assert np.abs(width - 1 - others[not is_right].center[0] - hand.center[0]) < SAME_PLACE_SIDES * hand.side_px


def test_joints_come_in_openpose_order_from_wrist_to_tips(landmarker, egocentric):
    for hand in landmarker.detect(egocentric):
        wrist, tips = hand.joints_img[0], hand.joints_img[[8, 12, 16]]
        assert (tips[:, 1] < wrist[1] - 0.4 * hand.side_px).all()  # the fingers point away from the wearer
        for finger in range(5):
            steps = np.linalg.norm(
                np.diff(hand.joints_img[[0, *range(1 + 4 * finger, 5 + 4 * finger)]], axis=0), axis=1
            )
            assert steps[0] > steps[-1]
        thumb_side = hand.joints_img[2, 0] - hand.joints_img[17, 0]
        assert thumb_side < 0 if hand.is_right else thumb_side > 0  # backs of the hands are seen


def test_landmarks_are_metric_and_in_the_cameras_axes(landmarker, egocentric):
    for hand in landmarker.detect(egocentric):
        np.testing.assert_allclose(hand.landmarks.mean(axis=0), 0, atol=1e-9)
        spread = hand.landmarks[:, :2] - hand.landmarks[:, :2].mean(0)
        joints = hand.joints_img - hand.joints_img.mean(0)
        turn = np.vdot(spread @ [1, 1j], joints @ [1, 1j])  # how the one must be turned to lie on the other
        assert abs(np.angle(turn, deg=True)) < 8
        assert abs(turn) > 0.85 * np.linalg.norm(spread) * np.linalg.norm(joints)
        assert 0.05 < np.linalg.norm(np.ptp(hand.landmarks, axis=0)) < 0.3


def test_depth_grows_away_from_the_camera(landmarker, shared_dir):
    """An arm reaches forward from the wearer's head: the fingers are farther from the camera than the knuckles."""
    frames = list(open_video(shared_dir / "videos" / "P28_101_3.mp4").frames(12, 24))
    landmarker.restart()
    hands = [hand for frame in frames for hand in landmarker.detect_next(frame)]
    assert len(hands) >= 6
    depths = np.median([hand.landmarks[[8, 12, 16], 2].mean() - hand.landmarks[[5, 9, 13], 2].mean() for hand in hands])
    assert depths > 0.01


def test_a_picture_gives_the_same_answer_every_time(landmarker, egocentric):
    first = landmarker.detect(egocentric)
    landmarker.detect(Frame(0, 0.0, np.zeros_like(egocentric.image)))
    for a, b in zip(first, landmarker.detect(egocentric), strict=True):
        np.testing.assert_array_equal(a.joints_img, b.joints_img)
        np.testing.assert_array_equal(a.landmarks, b.landmarks)


def test_a_video_gives_the_same_answer_after_restart(landmarker, shared_dir):
    frames = list(open_video(shared_dir / "videos" / "P28_101_5.mp4").frames(0, 6))

    def joints():
        landmarker.restart()
        return [hand.joints_img for frame in frames for hand in landmarker.detect_next(frame)]

    np.testing.assert_array_equal(joints(), joints())


@pytest.mark.parametrize("tilt", [0.0, 0.6, np.pi / 2, -2.5])
@pytest.mark.parametrize("sides", [3.0, 4.0])
def test_a_close_look_finds_the_same_joints_however_it_is_turned(landmarker, egocentric, tilt, sides):
    for hand in landmarker.detect(egocentric):
        found = landmarker.detect_in(egocentric, Region(hand.center, sides * hand.side_px, tilt))
        again = [other for other in found if same_hand(other, hand)]
        assert len(again) >= 1
        error = min(np.linalg.norm(other.joints_img - hand.joints_img, axis=1).mean() for other in again)
        assert error < SAME_PLACE_SIDES * hand.side_px
        axes = min((np.abs(other.landmarks - hand.landmarks).mean() for other in again), default=1)
        assert axes < 0.02


def test_a_close_look_may_reach_over_the_edge(landmarker, egocentric):
    height, width = egocentric.image.shape[:2]
    for center in ((0, 0), (width, height), (-500, -500), (width / 2, height + 900)):
        for side in (1.0, 300.0, 5000.0):
            landmarker.detect_in(egocentric, Region(np.array(center, dtype=float), side))


def test_an_8k_frame_has_its_joints_in_its_own_pixels(landmarker, egocentric):
    factor = 10.5
    large = cv2.resize(egocentric.image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    assert large.shape[1] > 7000
    hands, others = by_side(landmarker.detect(egocentric)), by_side(landmarker.detect(Frame(0, 0.0, large)))
    for is_right, hand in hands.items():
        error = np.linalg.norm(others[is_right].joints_img / factor - hand.joints_img, axis=1).mean()
        assert error < SAME_PLACE_SIDES * hand.side_px


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (37, 53), (480, 640)])
def test_pictures_without_hands_have_none(landmarker, shape):
    noise = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    for image in (noise, np.zeros_like(noise)):
        assert landmarker.detect(Frame(0, 0.0, image)) == []
        assert landmarker.detect_in(Frame(0, 0.0, image), Region(np.array([0.0, 0.0]), 50.0)) == []


def test_joints_outside_the_picture_weigh_little():
    joints = np.stack([np.linspace(-20, 120, 21), np.full(21, 40.0)], axis=1)
    hand = detection_from_joints(0, joints, p_right=0.2, image_shape=(80, 100, 3))
    outside = (joints[:, 0] < -0.5) | (joints[:, 0] > 99.5)
    assert (hand.joints_img_weight[outside] < 0.2).all()
    assert (hand.joints_img_weight[~outside] == 1).all()
    np.testing.assert_array_equal(hand.box, [-20, 40, 120, 40])
    assert not hand.is_right
    assert hand.side_px == 140


def test_the_landmarker_fits_the_interface(landmarker):
    assert isinstance(landmarker, HandDetector)


def test_the_shipped_model_is_the_one_that_the_table_names():
    path = find_asset("hand_landmarker.task")
    with zipfile.ZipFile(path) as bundle:
        assert bundle.namelist() == ["hand_detector.tflite", "hand_landmarks_detector.tflite"]
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in bundle.infolist())
        assert all(
            (entry.header_offset + 30 + len(entry.filename) + len(entry.extra)) % 16 == 0 for entry in bundle.infolist()
        )
    assert sha256_of(path) in (path.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("reason", "package"),
    [
        ("libGLESv2.so.2: cannot open shared object file: No such file or directory", "libgles2"),
        ("libEGL.so.1: cannot open shared object file", "libegl1"),
        ("libGL.so.1: cannot open shared object file", "libgl1"),
    ],
)
def test_a_missing_system_library_is_named_with_its_package(monkeypatch, reason, package):
    def fails(_options):
        raise OSError(reason)

    with HandLandmarker() as broken:
        monkeypatch.setattr(broken._mediapipe.tasks.vision.HandLandmarker, "create_from_options", fails)
        with pytest.raises(DetectorLoadError, match=rf"{reason[:8]}.*apt-get install .*{package}"):
            broken.detect(Frame(0, 0.0, np.zeros((10, 10, 3), np.uint8)))


def test_a_missing_mediapipe_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(DetectorLoadError, match="pip install mediapipe"):
        HandLandmarker()


def test_importing_the_package_does_not_load_mediapipe():
    code = "import sys, haptic.perception.tracker; sys.exit('mediapipe' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_library_says_nothing_on_its_own(shared_dir):
    """Its native lines would tear the progress bars; what Python writes must still come through."""
    code = (
        "import sys, pathlib\n"
        "from haptic.perception.video import open_video\n"
        "from haptic.perception.detector import HandLandmarker\n"
        "from haptic.perception.tracker import HandTracker\n"
        "with HandLandmarker() as landmarker:\n"
        "    tracker = HandTracker(landmarker)\n"
        "    for frame in open_video(pathlib.Path(sys.argv[1])).frames(0, 8):\n"
        "        tracker.step(frame)\n"
        "print('end', file=sys.stderr)\n"
    )
    clip = shared_dir / "videos" / "P28_101_3.mp4"
    done = subprocess.run([sys.executable, "-c", code, str(clip)], capture_output=True, text=True, check=True)
    assert done.stderr == "end\n"


@pytest.mark.parametrize("wrong", [{"num_hands": 0}, {"detection_confidence": 1.5}, {"max_side_px": 10}])
def test_senseless_detector_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*; expected"):
        DetectorConfig(**wrong)


def test_stderr_comes_back_even_after_an_error(capfd):
    with pytest.raises(RuntimeError), detector_module._native_stderr_muted():
        raise RuntimeError
    os.write(2, b"still here")
    assert "still here" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count", "sides", "observed"),
    [
        ("test_arctic", 100, [False, True], 0.95),
        ("P28_101_5", 107, [False, True], 0.98),
        ("P28_101_3", 42, [False], 0.85),
        ("yt_aopS3q6f1GY", 48, [False, True], 0.8),
    ],
)
def test_real_clips_have_their_hands_from_beginning_to_end(landmarker, shared_dir, name, count, sides, observed):
    tracker = HandTracker(landmarker)
    for frame in open_video(shared_dir / "videos" / f"{name}.mp4").frames():
        tracker.step(frame)
    tracks = sorted(tracker.finish(), key=lambda track: bool(track.is_right))
    assert [bool(track.is_right) for track in tracks] == sides
    for track in tracks:
        assert len(track.frame_index) >= 0.85 * count
        assert track.observed.float().mean() > observed
        steps = track.box_center_img.diff(dim=0).norm(dim=1) / track.box_side_px[1:]
        assert steps.max() < 0.35
        sides_px = [float(side) for side in track.box_side_px]
        assert all(0.7 < b / a < 1.4 for a, b in pairwise(sides_px))
    for left, right in [tracks] if len(tracks) == 2 else []:
        apart = left.box_center_img[:, 0] < right.box_center_img[:, 0]
        # The wearer's left hand is on the left; the cook faces the camera.
        assert (apart.float().mean() > 0.95) == (name != "yt_aopS3q6f1GY")
