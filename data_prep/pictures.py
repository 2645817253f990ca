"""Pictures of a download: files, frames of films, undistorted, or turned."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from data_prep.dataset import DamagedError

RGBImage = UInt8[np.ndarray, "H W 3"]


def read_picture(path: Path) -> RGBImage:
    """Return a picture, RGB.

    Raises:
        DamagedError: it is missing, empty or cannot be decoded.
    """
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise DamagedError(f"{path}: {error.strerror or error}") from None
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if len(data) else None
    if image is None:
        raise DamagedError(f"{path}: not a readable picture ({len(data)} bytes)")
    return image


def picture_size(path: Path) -> tuple[int, int]:
    """Return width and height from a picture's header.

    Raises:
        DamagedError: it is missing or no picture.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise DamagedError(f"{path}: not a readable picture ({error})") from None


class PictureFiles:
    """A picture file for each frame. `prepare` is what must be done to the pixels (undistortion, a quarter turn)."""

    def __init__(self, paths: Sequence[Path], *, prepare: Callable[[RGBImage], RGBImage] | None = None) -> None:
        self._paths, self._prepare = paths, prepare

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, frame: int) -> RGBImage:
        """Return a frame."""
        image = read_picture(self._paths[frame])
        return image if self._prepare is None else self._prepare(image)


class FilmFrames:
    """The frames of a film, decoded once and in order."""

    def __init__(self, path: Path, num_frames: int) -> None:
        self._path, self._num_frames = path, num_frames
        self._frames: Iterator[RGBImage] | None = None
        self._next = 0

    def __len__(self) -> int:
        return self._num_frames

    def read(self, frame: int) -> RGBImage:
        """Return a frame; going back starts the film anew."""
        if self._frames is None or frame < self._next:
            self._frames, self._next = self._decode(), 0
        for image in self._frames:
            self._next += 1
            if self._next == frame + 1:
                return image
        raise DamagedError(f"{self._path}: the film ends before frame {frame}; labels expect {self._num_frames} frames")

    def _decode(self) -> Iterator[RGBImage]:
        import av

        try:
            with av.open(str(self._path)) as film:
                for image in film.decode(video=0):
                    yield image.to_ndarray(format="rgb24")
        except (av.FFmpegError, OSError) as error:
            raise DamagedError(f"{self._path}: the film cannot be decoded ({error})") from None


class Undistorted:
    """Resamples pictures of a lens with OpenCV's rational distortion to the pinhole camera of the same K."""

    def __init__(
        self, K: Float[np.ndarray, "3 3"], distortion: Float[np.ndarray, " D"], *, width_px: int, height_px: int
    ) -> None:
        self._maps = cv2.initUndistortRectifyMap(K, distortion, None, K, (width_px, height_px), cv2.CV_16SC2)
        self._size = (width_px, height_px)

    def __call__(self, image: RGBImage) -> RGBImage:
        """Return the picture as the pinhole camera would have seen it, black where it saw nothing."""
        if (image.shape[1], image.shape[0]) != self._size:
            raise DamagedError(
                f"a picture of {image.shape[1]} x {image.shape[0]} where the calibration is for "
                f"{self._size[0]} x {self._size[1]}"
            )
        return cv2.remap(image, *self._maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
