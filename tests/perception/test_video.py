"""Decoding: every kind of file a user may give, whole, odd or broken."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from haptic.perception.video import VideoInput, find_inputs, natural_key, open_video, read_picture

RED, GREEN, BLUE = (220, 20, 20), (20, 200, 20), (20, 20, 220)


def corner_picture(width=64, height=48):
    """A grey picture whose top-left quarter is red and whose top-right quarter is green."""
    image = np.full((height, width, 3), 128, dtype=np.uint8)
    image[: height // 2, : width // 2] = RED
    image[: height // 2, width // 2 :] = GREEN
    return image


def write_video(
    path: Path,
    images,
    *,
    codec="mpeg4",
    pix_fmt="yuv420p",
    fps=25,
    rotation=None,
    matrix=None,
    pts=None,
    metadata=None,
    aspect=None,
):
    options = {"movflags": "use_metadata_tags+faststart"} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", options=options) as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream(codec, rate=fps, options={"qmin": "1", "qmax": "3"} if codec == "mpeg4" else {})
        height, width = images[0].shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        stream.codec_context.time_base = Fraction(1, 1000) if pts else Fraction(1, fps)
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix_fmt)
            frame.pts = pts[index] if pts else index
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbered(count, width=64, height=48):
    """Pictures whose brightness says their number."""
    return [np.full((height, width, 3), 10 + 5 * index, dtype=np.uint8) for index in range(count)]


def is_colour(pixel, colour):
    return np.abs(pixel.astype(int) - colour).max() < 45


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi"])
def test_frames_come_in_order_with_their_times(tmp_path, suffix):
    video = open_video(write_video(tmp_path / f"clip.{suffix}", numbered(12)))
    frames = list(video.frames())
    assert [frame.index for frame in frames] == list(range(12))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(12) / 25, atol=2e-3)
    brightness = [frame.image.mean() for frame in frames]
    np.testing.assert_allclose(brightness, [10 + 5 * index for index in range(12)], atol=3)
    assert (video.info.name, video.info.width, video.info.height, video.info.fps) == ("clip", 64, 48, 25)
    assert video.warning is None
    assert video.num_decoded == 12


def test_webm_is_read(tmp_path):
    video = open_video(write_video(tmp_path / "clip.webm", numbered(5), codec="libvpx-vp9"))
    assert len(list(video.frames())) == 5


def test_reading_twice_gives_the_same_pixels_and_a_part_is_a_part(tmp_path):
    rng = np.random.default_rng(0)
    video = open_video(write_video(tmp_path / "clip.mp4", list(rng.integers(0, 255, (9, 48, 64, 3), dtype=np.uint8))))
    first, second = list(video.frames()), list(video.frames())
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
    part = list(video.frames(3, 6))
    assert [frame.index for frame in part] == [3, 4, 5]
    for a, b in zip(first[3:6], part, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        assert a.time_s == b.time_s


@pytest.mark.parametrize(
    ("rotation", "red", "green"),
    [(90, "bottom left", "top left"), (-90, "top right", "bottom right"), (180, "bottom right", "bottom left")],
)
def test_a_phone_held_sideways_is_turned_upright(tmp_path, rotation, red, green):
    """Angles are counter-clockwise: the red top-left corner moves to the bottom left by 90."""
    path = write_video(tmp_path / "clip.mp4", [corner_picture()] * 3, rotation=rotation)
    video = open_video(path)
    assert (video.info.width, video.info.height) == ((64, 48) if rotation == 180 else (48, 64))
    for frame in video.frames():
        assert frame.image.shape == (video.info.height, video.info.width, 3)
        rows, columns = {"top": 6, "bottom": -7}, {"left": 6, "right": -7}
        for place, colour in ((red, RED), (green, GREEN)):
            vertical, horizontal = place.split()
            assert is_colour(frame.image[rows[vertical], columns[horizontal]], colour)


def test_a_mirrored_display_matrix_is_mirrored(tmp_path):
    path = write_video(tmp_path / "clip.mp4", [corner_picture()] * 2)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # the track's matrix begins with a = 1.0
    assert data[at : at + 4] == (1 << 16).to_bytes(4, "big")
    data[at : at + 4] = (-(1 << 16)).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    image = next(iter(open_video(path).frames())).image
    assert is_colour(image[6, -7], RED)
    assert is_colour(image[6, 6], GREEN)


def test_variable_frame_rate_keeps_its_timestamps(tmp_path):
    pts = [0, 40, 80, 500, 510, 1200]
    video = open_video(write_video(tmp_path / "clip.mkv", numbered(6), pts=pts, codec="ffv1", pix_fmt="bgr0"))
    np.testing.assert_allclose([frame.time_s for frame in video.frames()], np.array(pts) / 1000, atol=2e-3)


def test_time_counts_from_the_first_frame(tmp_path):
    path = write_video(tmp_path / "clip.mkv", numbered(3), pts=[5000, 5040, 5080], codec="ffv1", pix_fmt="bgr0")
    np.testing.assert_allclose([frame.time_s for frame in open_video(path).frames()], [0, 0.04, 0.08], atol=2e-3)


@pytest.mark.parametrize("count", [1, 2])
def test_a_video_of_one_or_two_frames_is_a_video(tmp_path, count):
    assert len(list(open_video(write_video(tmp_path / "clip.mp4", numbered(count))).frames())) == count


@pytest.mark.parametrize("size", [(63, 47), (1, 1), (17, 200)])
def test_odd_sizes_are_read_without_shear(tmp_path, size):
    width, height = size
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[:, : (width + 1) // 2] = 200
    frame = next(iter(open_video(write_video(tmp_path / "clip.mkv", [image], codec="ffv1", pix_fmt="bgr0")).frames()))
    np.testing.assert_array_equal(frame.image, image)


@pytest.mark.parametrize(
    ("codec", "pix_fmt"),
    [("ffv1", "gray"), ("ffv1", "gray16le"), ("ffv1", "yuv420p10le"), ("ffv1", "bgra"), ("ffv1", "gbrp16le")],
)
def test_grey_deep_and_transparent_pixels_come_out_as_rgb(tmp_path, codec, pix_fmt):
    video = open_video(write_video(tmp_path / "clip.mkv", numbered(3), codec=codec, pix_fmt=pix_fmt))
    for frame, expected in zip(video.frames(), numbered(3), strict=True):
        assert frame.image.dtype == np.uint8
        np.testing.assert_allclose(frame.image.astype(int), expected, atol=2)


def test_narrow_pixels_are_made_square(tmp_path):
    video = open_video(write_video(tmp_path / "clip.mp4", [corner_picture()] * 2, aspect=Fraction(2, 1)))
    assert (video.info.width, video.info.height) == (128, 48)
    assert next(iter(video.frames())).image.shape == (48, 128, 3)


def test_an_8k_frame_is_read(tmp_path):
    image = np.full((4320, 7680, 3), 90, dtype=np.uint8)
    video = open_video(write_video(tmp_path / "clip.mp4", [image], codec="mjpeg", pix_fmt="yuvj420p"))
    frame = next(iter(video.frames()))
    assert frame.image.shape == (4320, 7680, 3)
    assert abs(int(frame.image[2000, 4000, 0]) - 90) < 4


def test_a_cut_video_gives_its_beginning_and_says_so(tmp_path):
    rng = np.random.default_rng(0)
    noise = list(rng.integers(0, 255, (40, 96, 128, 3), dtype=np.uint8))
    path = write_video(tmp_path / "clip.mp4", noise)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    video = open_video(path)
    assert video.info.num_frames == 40
    assert video.warning is None
    first = [frame.image for frame in video.frames()]
    assert 10 < len(first) < 35
    assert video.num_decoded == len(first)
    assert str(path) in video.warning
    assert f"{len(first)} of 40" in video.warning
    second = [frame.image for frame in video.frames()]
    np.testing.assert_array_equal(np.stack(first), np.stack(second))


def moving_dot(count):
    """Pictures on which a light square wanders over noise: what is predicted from a lost picture shows."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 120, (96, 128, 3), dtype=np.uint8)
    pictures = []
    for index in range(count):
        picture = np.roll(noise, 3 * index, axis=1)
        picture[30:60, index : index + 30] = 255
        pictures.append(picture)
    return pictures


def film_with_key_frames(path, count=90, every=15, pts=None, bframes=2):
    """A film in H.264 whose pictures are predicted from one another between key frames."""
    options = {"g": str(every), "bf": str(bframes), "sc_threshold": "0", "crf": "18"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, picture in enumerate(moving_dot(count)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = (40 * index if pts is None else pts[index]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def damage(path, first, last):
    """Write noise over the packets whose pictures are shown from `first` to `last`, in order of time."""
    with av.open(str(path)) as container:
        packets = sorted((packet for packet in container.demux(video=0) if packet.size), key=lambda packet: packet.pts)
        places = [(packet.pos, packet.size) for packet in packets[first : last + 1]]
    data = bytearray(path.read_bytes())
    for position, size in places:
        data[position : position + size] = np.random.default_rng(position).bytes(size)
    path.write_bytes(data)


@pytest.mark.parametrize("bframes", [0, 2])
def test_behind_a_hole_frames_have_their_numbers_their_times_and_sound_pictures(tmp_path, bframes):
    whole = list(open_video(film_with_key_frames(tmp_path / "whole.mp4", bframes=bframes)).frames())
    assert not any(frame.is_lost for frame in whole)
    path = film_with_key_frames(tmp_path / "clip.mp4", bframes=bframes)
    damage(path, 34, 36)
    video = open_video(path)
    frames = list(video.frames())
    assert [frame.index for frame in frames] == list(range(90))
    assert [frame.time_s for frame in frames] == pytest.approx([index / 25 for index in range(90)])
    lost = [frame.index for frame in frames if frame.is_lost]
    assert set(range(34, 37)) <= set(lost) <= set(range(30, 45))  # up to the next key frame, in which nothing is wrong
    for frame in frames:
        off = np.abs(frame.image.astype(int) - whole[frame.index].image).mean()
        assert off < 0.5 or frame.is_lost, f"picture {frame.index} is off by {off:.1f} and is not called lost"
    held = frames[lost[0] - 1].image
    np.testing.assert_array_equal(frames[lost[0]].image, held)
    assert f"{len(lost)} frames are lost, the first of them {lost[0]}" in video.warning
    assert str(path) in video.warning
    assert video.num_decoded == 90
    again = list(video.frames())
    assert [frame.is_lost for frame in again] == [frame.is_lost for frame in frames]
    assert [frame.index for frame in video.frames(start=lost[0] + 1, stop=60)] == list(range(lost[0] + 1, 60))


def test_a_hole_in_a_film_of_variable_rate_keeps_every_time(tmp_path):
    pts = list(np.cumsum(np.random.default_rng(1).integers(20, 90, 90)).tolist())
    path = film_with_key_frames(tmp_path / "clip.mp4", pts=pts)
    damage(path, 40, 41)
    frames = list(open_video(path).frames())
    assert any(frame.is_lost for frame in frames)
    assert [frame.time_s for frame in frames] == pytest.approx([(stamp - pts[0]) / 1000 for stamp in pts], abs=1e-3)


def test_a_film_damaged_behind_its_last_key_frame_ends_there(tmp_path):
    path = film_with_key_frames(tmp_path / "clip.mp4")
    damage(path, 80, 81)
    video = open_video(path)
    frames = list(video.frames())
    assert 75 <= len(frames) <= 80
    assert not any(frame.is_lost for frame in frames)
    assert f"{len(frames)} of 90" in video.warning


def test_two_holes_and_a_damaged_end_are_said_in_one_line(tmp_path):
    path = film_with_key_frames(tmp_path / "clip.mp4")
    damage(path, 20, 21)
    damage(path, 50, 52)
    damage(path, 78, 79)
    video = open_video(path)
    frames = list(video.frames())
    lost = [frame.index for frame in frames if frame.is_lost]
    assert {20, 21, 50, 51, 52} <= set(lost)
    assert f"and all from {len(frames)} on" in video.warning
    assert "\n" not in video.warning


def test_a_film_whose_first_picture_is_damaged_begins_with_its_first_sound_one(tmp_path):
    whole = list(open_video(film_with_key_frames(tmp_path / "whole.mp4", bframes=0)).frames())
    path = film_with_key_frames(tmp_path / "clip.mp4", bframes=0)
    damage(path, 0, 0)
    frames = list(open_video(path).frames())
    assert len(frames) == 75
    assert frames[0].time_s == 0
    assert np.abs(frames[0].image.astype(int) - whole[15].image).mean() < 0.5


def text_file(path):
    path.write_text("this is not a video\n" * 200)


def sound_only(path):
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def no_frames(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()


def undecodable(path):
    write_video(path, numbered(4))
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + 4
    end = len(data) if data.find(b"moov") < at else data.find(b"moov") - 4
    data[at:end] = bytes(end - at)
    path.write_bytes(data)


def header_only(path):
    write_video(path, numbered(4))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.touch(), "the file is empty"),
        (text_file, "not a video that can be decoded"),
        (sound_only, "only sound"),
        (no_frames, "clip.mp4"),
        (undecodable, "not one frame decodes"),
        (header_only, "not a video that can be decoded|unreadable"),
        (lambda path: path.mkdir(), "holds no picture and no video"),
    ],
    ids=["missing", "empty", "text", "sound", "no frames", "damaged", "header", "folder"],
)
def test_what_is_no_video_is_refused_in_one_line_that_names_it(tmp_path, make, words):
    path = tmp_path / "clip.mp4"
    make(path)
    with pytest.raises(ValueError, match=words) as caught:
        open_video(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_cameras_own_focal_length_is_read(tmp_path):
    metadata = {"com.apple.quicktime.camera.focal_length.35mm_equivalent": "26"}
    path = write_video(tmp_path / "clip.mov", [corner_picture(400, 300)], metadata=metadata)
    assert open_video(path).info.focal_px == pytest.approx(26 / 43.2666 * 500, rel=1e-4)


@pytest.mark.parametrize("value", ["0", "wide", "-3"])
def test_a_senseless_focal_length_is_unknown(tmp_path, value):
    metadata = {"com.apple.quicktime.camera.focal_length.35mm_equivalent": value}
    assert open_video(write_video(tmp_path / "clip.mov", numbered(1), metadata=metadata)).info.focal_px is None


def save_pictures(folder, names, size=(64, 48)):
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(np.full((size[1], size[0], 3), 10 * number, dtype=np.uint8)).save(folder / name)
    return folder


def test_pictures_of_a_folder_are_one_video_in_natural_order(tmp_path):
    folder = save_pictures(tmp_path / "take", ["f10.png", "f2.png", "f1.png"])
    video = open_video(folder)
    frames = list(video.frames())
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [20, 10, 0]
    np.testing.assert_allclose([frame.time_s for frame in frames], [0, 1 / 30, 2 / 30])
    assert (video.info.name, video.info.num_frames, video.num_decoded) == ("take", 3, 3)
    assert [frame.index for frame in video.frames(1, 2)] == [1]


def test_a_glob_and_pictures_named_one_by_one_are_one_video(tmp_path):
    folder = save_pictures(tmp_path / "take", ["f10.png", "f2.png", "f1.png"])
    expected = (folder / "f1.png", folder / "f2.png", folder / "f10.png")
    assert find_inputs([folder / "f*.png"]) == [VideoInput("take", expected, "pictures")]
    assert find_inputs([folder / "f10.png", folder / "f1.png", folder / "f2.png"]) == [
        VideoInput("take", expected, "pictures")
    ]
    assert find_inputs([folder / "f2.png"]) == [VideoInput("f2", (folder / "f2.png",), "pictures")]


def test_images_takes_every_picture_alone(tmp_path):
    folder = save_pictures(tmp_path / "take", ["f10.png", "f2.png"])
    assert [(item.name, len(item.files)) for item in find_inputs([folder], images=True)] == [("f2", 1), ("f10", 1)]
    assert len(find_inputs([folder / "*.png"], images=True)) == 2
    frames = list(open_video(find_inputs([folder], images=True)[0]).frames())
    assert len(frames) == 1


def test_a_folder_of_videos_is_a_batch_with_names_of_their_own(tmp_path):
    folder = tmp_path / "batch"
    folder.mkdir()
    for name in ("b.mp4", "a.mp4", "a.mov"):
        write_video(folder / name, numbered(1))
    save_pictures(folder, ["thumbnail.png"])
    inputs = find_inputs([folder, tmp_path / "missing.mp4"])
    assert [item.name for item in inputs] == ["a", "a_2", "b", "missing"]
    with pytest.raises(ValueError, match="no such file"):
        open_video(inputs[-1])
    with pytest.raises(ValueError, match="holds 3 videos"):
        open_video(folder)


def test_natural_order_counts():
    names = [Path(name) for name in ("x10", "x9", "X2", "x", "10", "9")]
    assert [path.name for path in sorted(names, key=natural_key)] == ["9", "10", "x", "X2", "x9", "x10"]


def test_pictures_of_two_sizes_are_no_video(tmp_path):
    folder = save_pictures(tmp_path / "take", ["a.png"])
    save_pictures(folder, ["b.png"], size=(32, 48))
    with pytest.raises(ValueError, match=r"b\.png: is 32 x 48 .* --images"):
        list(open_video(folder).frames())


def test_a_damaged_picture_is_named(tmp_path):
    folder = save_pictures(tmp_path / "take", ["a.png", "b.png"], size=(300, 300))
    data = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"b\.png: the picture cannot be read"):
        list(open_video(folder).frames())
    (folder / "a.png").write_text("text")
    with pytest.raises(ValueError, match=r"a\.png: the picture cannot be read \(not a known format\)"):
        open_video(folder)


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match="holds no picture and no video"):
        open_video(tmp_path)
    with pytest.raises(ValueError, match=r"\*\.png: holds no picture"):
        open_video(tmp_path / "*.png")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "I;16", "CMYK"])
def test_pictures_of_every_kind_come_out_as_rgb(tmp_path, mode):
    grey = np.full((20, 30), 200, dtype=np.uint8)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    pixels = read_picture(path)
    assert (pixels.shape, pixels.dtype) == ((20, 30, 3), np.uint8)
    expected = 255 if mode == "1" else 200
    if mode == "1":  # dithered
        assert set(np.unique(pixels)) <= {0, 255}
    else:
        np.testing.assert_allclose(pixels.astype(int), expected, atol=2)


def test_what_is_transparent_is_black(tmp_path):
    pixels = np.full((4, 4, 4), 255, dtype=np.uint8)
    pixels[:, :2, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_picture(tmp_path / "a.png")
    assert (image[:, :2] == 0).all()
    assert (image[:, 2:] == 255).all()


def test_exif_turns_a_picture_and_gives_its_focal_length(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    exif.get_ifd(0x8769)[0xA405] = 28
    Image.fromarray(corner_picture(400, 300)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    video = open_video(tmp_path / "a.jpg")
    assert (video.info.width, video.info.height) == (300, 400)
    assert video.info.focal_px == pytest.approx(28 / 43.2666 * 500, rel=1e-4)
    image = next(iter(video.frames())).image
    assert is_colour(image[20, -20], RED)
    assert is_colour(image[-20, -20], GREEN)


def test_real_clips_decode_to_the_promised_frames(shared_dir):
    for name, count, size in [("test_arctic", 100, (704, 512)), ("P28_101_3", 42, (464, 256))]:
        video = open_video(shared_dir / "videos" / f"{name}.mp4")
        assert (video.info.width, video.info.height) == size
        assert sum(1 for _ in video.frames()) == count == video.info.num_frames
        assert video.warning is None
