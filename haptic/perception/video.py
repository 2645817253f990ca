"""Decoding: a video file, a folder of pictures or one picture becomes a stream of upright RGB frames with times.

Frames come one by one and are never kept, so memory does not grow with length. A source can be read again and again
and gives the same frames each time.
"""

import glob
import heapq
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import av
import numpy as np
from av.error import FFmpegError
from PIL import Image, ImageOps, UnidentifiedImageError

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".jp2", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"}
    | {".ogv", ".ts", ".webm", ".wmv"}
)
DEFAULT_FPS = 30.0

# The diagonal of a 36 x 24 mm negative: "35 mm equivalent" compares fields of view over the diagonal.
FILM_DIAGONAL_MM = math.hypot(36.0, 24.0)
FOCAL_35MM_KEYS = (
    "com.apple.quicktime.camera.focal_length.35mm_equivalent",
    "com.apple.quicktime.camera.focal_length.35mm",
)
EXIF_IFD, EXIF_FOCAL_35MM = 0x8769, 0xA405

URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # Path makes one slash of two

# Each decoding thread holds a few frames, and an 8K frame is 50 MB.
MAX_DECODER_THREADS = 4
# A shorter way from picture to picture is no hole, even where packets between gave no picture (some never do).
HOLE_FRAMES = 1.5
MAX_ERRORS_AT_END = 64  # no decoder holds back more pictures
# Headers count frames that edit lists skip; only a larger shortfall means that the file was cut.
MISSING_FRAMES_ALLOWED = 0.02


@dataclass(frozen=True)
class Frame:
    """One upright picture of a video: RGB, 8 bits. `time_s` counts from the first frame.

    `is_lost` is True where the file is damaged: the frame has its number and its time, but its picture is the last one
    before it that could be read, and says nothing of this moment.
    """

    index: int
    time_s: float
    image: np.ndarray
    is_lost: bool = False


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before it is read through.

    `num_frames` is what the file says, or None. `focal_px` comes from the camera's own metadata, or is None.
    """

    name: str
    path: Path
    width: int
    height: int
    fps: float
    num_frames: int | None
    focal_px: float | None


@dataclass(frozen=True)
class VideoInput:
    """One thing to reconstruct, named for its output folder. `files` are one video, or the pictures of one video."""

    name: str
    files: tuple[Path, ...]
    kind: Literal["video", "pictures"]


@runtime_checkable
class VideoSource(Protocol):
    """A video that can be read several times.

    `warning` is None, or says after a whole reading that the file stopped early or has holes; `num_decoded` is then the
    number of frames that came.
    """

    info: VideoInfo
    warning: str | None
    num_decoded: int | None

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Yield the frames with start <= index < stop, in order."""
        ...


def find_inputs(paths: Sequence[Path | str], *, images: bool = False) -> list[VideoInput]:
    """Expand files, folders and glob patterns into the videos they mean, each with a name of its own.

    A folder of videos is a batch; a folder of pictures, a glob of pictures, or several pictures named from one folder
    are one video in natural name order. `images=True` takes every picture alone. What cannot be opened stays
    in the list, so that `open_video` can say what is wrong with it while the others run.
    """
    found: list[VideoInput] = []
    loose_pictures: dict[Path, list[Path]] = {}
    for path in map(Path, paths):
        if path.is_dir():
            found += _inputs_of_files(path.resolve().name, sorted(path.iterdir()), path, images=images)
        elif not path.exists() and glob.has_magic(str(path)):
            files = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207 (absolute patterns)
            found += _inputs_of_files(path.parent.name or path.parent.resolve().name, files, path, images=images)
        elif path.suffix.lower() in PICTURE_SUFFIXES:
            if images:
                found.append(VideoInput(path.stem, (path,), "pictures"))
            else:
                folder = path.parent
                if folder not in loose_pictures:
                    found.append(VideoInput(path.stem, (folder,), "pictures"))  # holds the place in the order
                loose_pictures.setdefault(folder, []).append(path)
        else:
            found.append(VideoInput(path.stem, (path,), "video"))
    return _with_own_names([_gather_loose(item, loose_pictures) for item in found])


def open_video(source: VideoInput | Path | str, *, fps: float = DEFAULT_FPS) -> VideoSource:
    """Open a video, a folder of pictures or a picture. `fps` is for pictures, which carry no time.

    Raises:
        ValueError: it cannot be used; the message names the file, what it is and what to do.
    """
    if not isinstance(source, VideoInput):
        inputs = find_inputs([source])
        if len(inputs) > 1:
            raise ValueError(f"{source}: holds {len(inputs)} videos; expected one; open them one by one")
        source = inputs[0]
    return PictureSequence(source, fps=fps) if source.kind == "pictures" else VideoFile(source)


class VideoFile:
    """A video file, decoded with PyAV: rotated upright, square pixels, timestamps kept."""

    def __init__(self, source: VideoInput) -> None:
        self.path = source.files[0]
        self.warning: str | None = None
        self.num_decoded: int | None = None
        _require_file(self.path)
        with self._open() as container:
            stream = self._video_stream(container)
            expected = stream.frames or None
            fps = float(stream.average_rate or stream.guessed_rate or stream.base_rate or 0)
            self._fps = fps if 0 < fps < 1000 else DEFAULT_FPS
            if expected is None and container.duration:
                expected = max(1, round(container.duration / 1e6 * self._fps))
            metadata = {**container.metadata, **stream.metadata}
            first = self._first_frame(container, stream)
            # Before turning; a stream that changes its size half-way is brought back to this one.
            self._stored_size = _square_pixel_size(first, stream.sample_aspect_ratio)
        height, width = _upright_rgb(first, self._stored_size).shape[:2]
        self.info = VideoInfo(
            name=source.name,
            path=self.path,
            width=width,
            height=height,
            fps=self._fps,
            num_frames=expected,
            focal_px=_focal_from_tags(metadata, width, height),
        )

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Yield the frames with start <= index < stop; every call decodes from the file's beginning."""
        limits = [limit for limit in (stop, self.num_decoded) if limit is not None]
        end = min(limits) if limits else None
        if end == 0:
            return
        index, previous_s = 0, -math.inf
        first_s: float | None = None
        last: Any = None
        lost: list[int] = []
        with self._open() as container:
            reading = _Reading(container, self._video_stream(container), self._fps)
            for read_s, raw in reading.pictures():
                time_s = index / self._fps if read_s is None else read_s
                first_s = time_s if first_s is None else first_s
                # Repeated or falling stamps occur in broken files; time must grow all the same.
                time_s = max(time_s - first_s, previous_s + 1e-3)
                previous_s = time_s
                if raw is None:
                    lost.append(index)
                else:
                    last = raw
                if index >= start:
                    yield Frame(index, time_s, _upright_rgb(last, self._stored_size), is_lost=raw is None)
                index += 1
                if end is not None and index >= end:
                    return
        self._note_end(index, lost, reading.failure)

    def _note_end(self, index: int, lost: list[int], failure: FFmpegError | None) -> None:
        """Remember how many frames there are, and say so if the file promised more or some of them are lost."""
        self.num_decoded = index
        expected = self.info.num_frames
        short = expected is not None and index < expected * (1 - MISSING_FRAMES_ALLOWED) - 2
        promised = f" of {expected}" if expected else ""
        reason = f" ({failure.strerror})" if failure else ""
        if lost:
            ending = f", and all from {index} on" if short else ""
            self.warning = (
                f"{self.path}: the file is damaged{reason}: {len(lost)} frames are lost, the first of them {lost[0]}"
                f"{ending}; the other {index - len(lost)}{promised} are used, at their true times"
            )
        elif failure is not None or short:
            self.warning = (
                f"{self.path}: the file is cut or damaged: {index}{promised} frames decode{reason}; those are used"
            )

    def _open(self) -> Any:
        try:
            return av.open(str(self.path), metadata_errors="replace", options={"protocol_whitelist": "file"})
        except FFmpegError as error:
            raise ValueError(
                f"{self.path}: not a video that can be decoded ({error.strerror}); expected mp4, mov, webm, mkv or the "
                "like; check that it plays, or convert it to mp4"
            ) from None

    def _video_stream(self, container: Any) -> Any:
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not streams:
            what = "only sound" if container.streams.audio else "no video stream"
            raise ValueError(f"{self.path}: holds {what}; expected a video with pictures; give another file")
        stream = streams[0]
        if stream.codec_context is None:
            raise ValueError(
                f"{self.path}: its video stream is unreadable (a codec unknown here, or the file is cut inside its "
                "header); expected H.264 or the like; copy it again, or convert it to mp4"
            )
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.thread_count = MAX_DECODER_THREADS
        return stream

    def _first_frame(self, container: Any, stream: Any) -> Any:
        reading = _Reading(container, stream, self._fps)
        for _, raw in reading.pictures():
            return raw
        reason = str(reading.failure.strerror) if reading.failure else "it has no frames"
        raise ValueError(
            f"{self.path}: not one frame decodes ({reason}); expected at least one; check that it plays, or convert it "
            "to mp4"
        )


class _Reading:
    """One pass through a video stream that goes on behind damaged places.

    What follows a damaged place is predicted from what is lost, and comes out smeared without a word until the next
    key frame: only with that one pictures are sound again. The times of those between are in the file all the same.
    """

    def __init__(self, container: Any, stream: Any, fps: float) -> None:
        self.failure: FFmpegError | None = None
        self._container, self._stream, self._fps = container, stream, fps
        self._waiting: list[int] = []  # times, in the stream's ticks, of the packets whose picture has not come
        self._is_smeared = False
        self._last_ticks: int | None = None  # of the last picture that came

    def pictures(self) -> Iterator[tuple[float | None, Any]]:
        """Yield time and picture in the order of time; the picture is None where it is lost between sound ones."""
        for packet in self._packets():
            if packet.pts is not None and not packet.is_discard:
                heapq.heappush(self._waiting, packet.pts)
            for raw in self._decoded(packet):
                if self._is_sound(raw):
                    yield from ((ticks * float(self._stream.time_base), None) for ticks in self._lost_before(raw))
                    self._last_ticks = raw.pts
                    yield (None if raw.time is None else float(raw.time)), raw

    def _packets(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                yield next(packets)
            except StopIteration:
                return
            except FFmpegError as error:  # the container itself ends here
                self.failure = self.failure or error
                return

    def _decoded(self, packet: Any) -> list[Any]:
        """Return the pictures that come with a packet; at the film's end errors stand before those still held back."""
        is_last = packet.size == 0
        for _ in range(MAX_ERRORS_AT_END if is_last else 1):
            try:
                return list(packet.decode())
            except EOFError:
                return []
            except FFmpegError as error:
                self.failure = self.failure or error
                self._is_smeared = True
        return []

    def _is_sound(self, raw: Any) -> bool:
        if raw.key_frame and not raw.is_corrupt:
            self._is_smeared = False
        elif raw.is_corrupt and self._last_ticks is not None:
            self._is_smeared = True
        return not self._is_smeared

    def _lost_before(self, raw: Any) -> list[int]:
        """Return the times of the pictures that should have come since the last one; packets may also hold none."""
        if raw.pts is None:
            return []
        passed = []
        while self._waiting and self._waiting[0] <= raw.pts:
            passed.append(heapq.heappop(self._waiting))
        last_ticks = self._last_ticks
        if last_ticks is None or (raw.pts - last_ticks) * float(self._stream.time_base) < HOLE_FRAMES / self._fps:
            return []
        return sorted({ticks for ticks in passed if last_ticks < ticks < raw.pts})


class PictureSequence:
    """Pictures in name order as one video at a given rate; a single picture is a video of one frame."""

    def __init__(self, source: VideoInput, *, fps: float = DEFAULT_FPS) -> None:
        if not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"fps of the pictures is {fps}; expected a positive number of frames per second")
        self.warning: str | None = None
        self.num_decoded: int | None = None
        self._files = source.files
        first = source.files[0]
        if first.is_dir() or (glob.has_magic(str(first)) and not first.exists()):
            raise ValueError(
                f"{first}: holds no picture and no video; expected files such as .jpg, .png or .mp4; check the path"
            )
        image = read_picture(first)
        height, width = image.shape[:2]
        self.info = VideoInfo(
            name=source.name,
            path=first if len(source.files) == 1 else first.parent,
            width=width,
            height=height,
            fps=fps,
            num_frames=len(source.files),
            focal_px=_focal_from_exif(first, width, height),
        )

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Yield the pictures with start <= index < stop."""
        size = (self.info.height, self.info.width)
        for index, path in list(enumerate(self._files))[start:stop]:
            image = read_picture(path)
            if image.shape[:2] != size:
                raise ValueError(
                    f"{path}: is {image.shape[1]} x {image.shape[0]} pixels, but {self._files[0].name} is "
                    f"{size[1]} x {size[0]}; pictures of one video have one size; use --images to take each alone"
                )
            yield Frame(index, index / self.info.fps, image)
        if stop is None or stop >= len(self._files):
            self.num_decoded = len(self._files)


def read_picture(path: Path) -> np.ndarray:
    """Read a picture as upright RGB, 8 bits: grey, palette, 16-bit and transparent ones too (over black)."""
    _require_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged EXIF, transparency in palettes: the pixels are what counts
            with Image.open(path) as opened:
                return _rgb_pixels(ImageOps.exif_transpose(opened))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not a known format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ValueError(
            f"{path}: the picture cannot be read ({reason}); expected a whole .jpg, .png or the like; save it anew"
        ) from None


def natural_key(path: Path) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which frame_2 comes before frame_10."""
    parts = re.split(r"(\d+)", path.name.lower())
    return tuple((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts)


def _inputs_of_files(name: str, files: list[Path], origin: Path, *, images: bool) -> list[VideoInput]:
    """Sort the files of a folder or glob into videos and pictures; videos win, since a thumbnail is no video."""
    seen = sorted((file for file in files if not file.name.startswith(".") and file.is_file()), key=natural_key)
    videos = [file for file in seen if file.suffix.lower() in VIDEO_SUFFIXES]
    pictures = [file for file in seen if file.suffix.lower() in PICTURE_SUFFIXES]
    if images and pictures:
        return [VideoInput(file.stem, (file,), "pictures") for file in pictures]
    if videos:
        return [VideoInput(file.stem, (file,), "video") for file in videos]
    if pictures:
        return [VideoInput(name, tuple(pictures), "pictures")]
    return [VideoInput(name, (origin,), "pictures")]


def _gather_loose(item: VideoInput, loose_pictures: dict[Path, list[Path]]) -> VideoInput:
    """Put the pictures named one by one from one folder into the input that holds their place."""
    files = loose_pictures.get(item.files[0]) if item.kind == "pictures" else None
    if files is None or item.files[0].is_file():
        return item
    folder = item.files[0]
    name = item.name if len(files) == 1 else folder.resolve().name
    return VideoInput(name, tuple(sorted(files, key=natural_key)), "pictures")


def _with_own_names(inputs: list[VideoInput]) -> list[VideoInput]:
    """Append _2, _3, ... to names that are taken, so that no video writes over another's results."""
    taken: set[str] = set()
    named = []
    for item in inputs:
        name, number = item.name, 1
        while name in taken:
            number += 1
            name = f"{item.name}_{number}"
        taken.add(name)
        named.append(VideoInput(name, item.files, item.kind))
    return named


def _require_file(path: Path) -> None:
    if URL.match(str(path)):
        raise ValueError(f"{path}: is an address; expected a file; download it first")
    if not path.exists():
        raise ValueError(f"{path}: no such file; expected a video or a picture; check the path")
    if not path.is_file():
        what = "is a folder without videos or pictures" if path.is_dir() else "is not a file"
        raise ValueError(f"{path}: {what}; expected a video or a picture; check the path")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty; expected a video or a picture; copy it again")


def _upright_rgb(raw: Any, size: tuple[int, int]) -> np.ndarray:
    """Convert a decoded frame to RGB of `size` (width, height) and turn it as the file's display matrix says."""
    transposed, flip_x, flip_y = _display_orientation(raw)
    if size == (raw.width, raw.height):
        image = raw.to_ndarray(format="rgb24")
    else:
        image = raw.reformat(width=size[0], height=size[1], format="rgb24").to_ndarray()
    if transposed:
        image = image.transpose(1, 0, 2)
    if flip_x:
        image = image[:, ::-1]
    if flip_y:
        image = image[::-1]
    return np.ascontiguousarray(image)


def _square_pixel_size(raw: Any, aspect: Any) -> tuple[int, int]:
    """Return the width and height that make the pixels of a frame square (old camcorders store narrow ones)."""
    if not aspect or not 0.1 < aspect < 10:
        return raw.width, raw.height
    return max(1, round(raw.width * aspect)), raw.height


def _display_orientation(raw: Any) -> tuple[bool, bool, bool]:
    """Read the display matrix: are the axes swapped, then is x, then is y turned over? Other angles are left alone."""
    matrix = raw.side_data.get("DISPLAYMATRIX") if raw.side_data is not None else None
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].astype(int)
    if a and d and not (b or c):
        return False, bool(a < 0), bool(d < 0)
    if b and c and not (a or d):
        return True, bool(c < 0), bool(b < 0)
    return False, False, False


def _focal_from_tags(tags: dict[str, str], width: int, height: int) -> float | None:
    """Return the focal length in pixels if the file carries a 35 mm equivalent, else None."""
    for key in FOCAL_35MM_KEYS:
        try:
            focal = _focal_px(float(tags[key]), width, height)
        except (KeyError, ValueError):
            continue
        if focal is not None:
            return focal
    return None


def _focal_from_exif(path: Path, width: int, height: int) -> float | None:
    try:
        with Image.open(path) as opened:
            return _focal_px(float(opened.getexif().get_ifd(EXIF_IFD)[EXIF_FOCAL_35MM]), width, height)
    except (KeyError, ValueError, TypeError, OSError, SyntaxError):
        return None


def _focal_px(focal_35mm: float, width: int, height: int) -> float | None:
    """Convert a 35 mm equivalent to pixels; zero means unknown, and beyond 5 to 2000 mm no camera is meant."""
    if not 5 <= focal_35mm <= 2000:
        return None
    return focal_35mm / FILM_DIAGONAL_MM * math.hypot(width, height)


def _rgb_pixels(image: Image.Image) -> np.ndarray:
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image, dtype=np.float64)
        # Grey beyond 8 bits: PNG and TIFF store 16; floats are taken as 0..1.
        full = 1.0 if image.mode == "F" else 65535.0
        grey = np.round(np.clip(values / full, 0, 1) * 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.array(image.convert("RGB"))
