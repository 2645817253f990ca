"""scene.html: one page that needs nothing else, shows both hands where they are, and lasts as long as the video."""

import base64
import re
import shutil
import subprocess
import threading

import numpy as np
import pytest

from haptic.export.html import HtmlConfig, frame_stride, write_html
from haptic.geometry.transforms import apply_transform
from haptic.hand.model import trajectory_joints


def recording(path):
    """Return the duration and the timed messages of viser's recording in a page."""
    msgspec, zstandard = pytest.importorskip("msgspec"), pytest.importorskip("zstandard")
    packed = base64.b64decode(re.search(r'__VISER_EMBED_DATA__="([^"]+)"', path.read_text()).group(1))
    data = zstandard.ZstdDecompressor().decompressobj().decompress(packed[8:])
    size = int.from_bytes(data[:8], "little")
    content = msgspec.msgpack.decode(data[8 : 8 + size])
    return content["durationSeconds"], content["messages"]


def test_the_page_asks_nothing_of_the_network(make_result, open_hand, tmp_path):
    write_html(tmp_path / "scene.html", make_result(), open_hand)
    page = (tmp_path / "scene.html").read_text()
    assert not re.findall(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)\s*=\s*["']?https?://""", page)


def test_the_page_lasts_as_long_as_the_video_and_shows_both_hands(make_result, open_hand, tmp_path):
    result = make_result(((0, 20), (4, 16)), moving_camera=True)
    assert write_html(tmp_path / "scene.html", result, open_hand) == 1
    duration_s, messages = recording(tmp_path / "scene.html")
    assert duration_s == pytest.approx(20 / 30)
    skins = {message["name"] for _, message in messages if message["type"] == "SkinnedMeshMessage"}
    assert skins == {"/right_0", "/left_0"}
    for name, hand in result.hands.items():
        wrists = apply_transform(hand.camera.T_world_cam, trajectory_joints(open_hand, hand))[:, 0].numpy()
        moves = [
            (time_s, message["position"])
            for time_s, message in messages
            if message["type"] == "SetBonePositionMessage"
            and message["name"] == f"/{name}"
            and message["bone_index"] == 0
            and time_s > 0
        ]
        assert len(moves) >= len(wrists) - 1
        for time_s, position in moves:
            row = round(time_s * 30) - int(hand.frame_index[0])
            np.testing.assert_allclose(position, wrists[row], atol=1e-5)


def test_a_hand_is_shown_only_while_it_is_tracked(make_result, open_hand, tmp_path):
    write_html(tmp_path / "scene.html", make_result(((4, 16),)), open_hand)
    _, messages = recording(tmp_path / "scene.html")
    turns = [
        (round(time_s * 30), message["visible"])
        for time_s, message in messages
        if message["type"] == "SetSceneNodeVisibilityMessage" and message["name"] == "/right_0"
    ]
    assert turns[-2:] == [(4, True), (16, False)]


def test_nothing_is_printed_and_no_thread_is_left(make_result, open_hand, tmp_path, capfd):
    before = set(threading.enumerate())
    write_html(tmp_path / "scene.html", make_result(), open_hand)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("spans", [(), ((0, 1),)])
def test_empty_and_one_frame_videos_give_a_page(spans, make_result, open_hand, tmp_path):
    write_html(tmp_path / "scene.html", make_result(spans, num_frames=1), open_hand)
    duration_s, _ = recording(tmp_path / "scene.html")
    assert duration_s == pytest.approx(1 / 30)


def test_a_long_video_is_thinned_and_says_so(make_result, open_hand, tmp_path):
    result = make_result(((0, 20), (0, 20)))
    stride = write_html(tmp_path / "scene.html", result, open_hand, HtmlConfig(max_frames=10))
    assert stride == 2
    duration_s, _ = recording(tmp_path / "scene.html")
    assert duration_s == pytest.approx(20 / 30), "time stays true"
    assert frame_stride(result, HtmlConfig(max_frames=1000, max_hand_frames=10)) == 4


def test_a_page_must_hold_something():
    with pytest.raises(ValueError, match="max_frames is 0"):
        HtmlConfig(max_frames=0)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_draws_both_hands(make_result, open_hand, tmp_path):
    cv2 = pytest.importorskip("cv2")
    write_html(tmp_path / "scene.html", make_result(((0, 20), (0, 20))), open_hand)
    command = [
        "chromium", "--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", "--window-size=900,600", "--lang=en-US",
        "--virtual-time-budget=6000", f"--screenshot={tmp_path / 'page.png'}", f"file://{tmp_path / 'scene.html'}",
    ]  # fmt: skip
    subprocess.run(
        command, check=True, capture_output=True, timeout=180, env={"LANG": "en_US.UTF-8", "HOME": str(tmp_path)}
    )
    picture = cv2.imread(str(tmp_path / "page.png")).astype(int)
    warmth = picture[80:, :, 2] - picture[80:, :, 0]
    assert (warmth > 40).sum() > 1500, "the right hand is warm"
    assert (warmth[:, 320:] < -40).sum() > 1500, "the left hand is cool"
