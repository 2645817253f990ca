"""A film on disk: pictures in, H.264 in mp4 out, each at its own time."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from haptic.files import atomic_path

if TYPE_CHECKING:
    import av

TICKS_PER_S = 90_000  # divides evenly by 24, 25, 30, 29.97, 50 and 60 frames per second


class Film:
    """Takes pictures one by one and keeps none of them."""

    def __init__(self, container: "av.container.OutputContainer", *, fps: float, crf: int, preset: str) -> None:
        self._container = container
        self._fps = Fraction(fps).limit_denominator(1001)
        self._options = {"crf": str(crf), "preset": preset}
        self._stream: av.VideoStream | None = None
        self._start_s = 0.0
        self._last_ticks = -1

    def add(self, picture: UInt8[np.ndarray, "H W 3"], time_s: float) -> None:
        """Show a picture (RGB) from `time_s` on. All have the size of the first, whose time is the film's zero."""
        import av

        if self._stream is None:
            self._stream = self._open(width=picture.shape[1], height=picture.shape[0])
            self._start_s = time_s
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        # A video may repeat a time or step back; a film may not.
        ticks = max(round((time_s - self._start_s) * TICKS_PER_S), self._last_ticks + 1)
        self._last_ticks = ticks
        frame.pts = ticks
        frame.time_base = Fraction(1, TICKS_PER_S)
        self._write(frame)

    def close(self) -> None:
        """Write what the encoder still holds."""
        if self._stream is not None:
            self._write(None)

    def _open(self, *, width: int, height: int) -> "av.VideoStream":
        assert width % 2 == 0, f"4:2:0 colour needs an even width, got {width}"
        assert height % 2 == 0, f"4:2:0 colour needs an even height, got {height}"
        stream = self._container.add_stream("libx264", rate=self._fps, options=self._options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS_PER_S)
        stream.time_base = Fraction(1, TICKS_PER_S)
        return stream

    def _write(self, frame: "av.VideoFrame | None") -> None:
        assert self._stream is not None
        for packet in self._stream.encode(frame):
            if not packet.duration:  # else the last picture would be shown for no time
                packet.duration = round(TICKS_PER_S / self._fps)
            self._container.mux(packet)


@contextmanager
def open_film(path: Path, *, fps: float, crf: int = 20, preset: str = "veryfast") -> Iterator[Film]:
    """Open a film that appears under its name when it is complete."""
    import av

    with (
        atomic_path(path) as temporary,
        av.open(str(temporary), "w", options={"movflags": "faststart"}) as container,
    ):
        film = Film(container, fps=fps, crf=crf, preset=preset)
        yield film
        film.close()
