"""FISHEYE624, the lens of Aria and Quest 3: angle from the axis, six radial, two tangential, four prism numbers."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from data_prep.dataset import DamagedError
from data_prep.frames import pinhole

RADIAL, TANGENTIAL, PRISM = slice(0, 6), slice(6, 8), slice(8, 12)
NUM_DISTORTION = 12


@dataclass(frozen=True)
class Fisheye624:
    """A lens. `params`: f, cx, cy and the 12 distortion numbers; or f twice, as Quest 3 lists them."""

    params: Float[np.ndarray, " P"]
    width_px: int
    height_px: int

    def __post_init__(self) -> None:
        if len(self.params) not in (3 + NUM_DISTORTION, 4 + NUM_DISTORTION):
            raise DamagedError(f"FISHEYE624 with {len(self.params)} numbers; expected 15 (Aria) or 16 (Quest 3)")

    def project(self, points_cam: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 2"]:
        """Return pixels of the picture as it was taken."""
        focal_x, focal_y, center_x, center_y = self._linear()
        distortion = self.params[-NUM_DISTORTION:]
        across = np.linalg.norm(points_cam[..., :2], axis=-1)
        angle = np.arctan2(across, points_cam[..., 2])
        squared = (angle**2)[..., None]
        radial = 1 + (distortion[RADIAL] * squared ** np.arange(1, 7)).sum(axis=-1)
        uv = points_cam[..., :2] * (angle * radial / np.maximum(across, 1e-12))[..., None]
        p = distortion[TANGENTIAL]
        r2 = (uv**2).sum(axis=-1, keepdims=True)
        s = distortion[PRISM]
        prism = np.concatenate([s[0] * r2 + s[1] * r2**2, s[2] * r2 + s[3] * r2**2], axis=-1)
        uv = uv + 2 * uv * (uv @ p)[..., None] + r2 * p + prism
        return uv * [focal_x, focal_y] + [center_x, center_y]

    @property
    def K(self) -> Float[np.ndarray, "3 3"]:
        """The pinhole camera of the same focal length that straightened pictures have."""
        return pinhole(*self._linear())

    def straightened(
        self, K: Float[np.ndarray, "3 3"] | None = None, size: tuple[int, int] | None = None
    ) -> "Straightened":
        """Return what makes pictures of a pinhole camera from this lens's: of `self.K` and its size, or of another."""
        width_px, height_px = size or (self.width_px, self.height_px)
        columns, rows = np.meshgrid(np.arange(width_px), np.arange(height_px))
        rays = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ np.linalg.inv(self.K if K is None else K).T
        return Straightened(self.project(rays).astype(np.float32), source_size=(self.width_px, self.height_px))

    def _linear(self) -> tuple[float, float, float, float]:
        first = self.params[:-NUM_DISTORTION]
        focal_x, focal_y = first[0], first[-3]
        return float(focal_x), float(focal_y), float(first[-2]), float(first[-1])


class Straightened:
    """Resamples fisheye pictures to a pinhole camera's."""

    def __init__(self, seen_at: Float[np.ndarray, "H W 2"], *, source_size: tuple[int, int]) -> None:
        self._source_size = source_size
        columns, rows = (np.ascontiguousarray(part) for part in np.moveaxis(seen_at, -1, 0))
        self._maps = cv2.convertMaps(columns, rows, cv2.CV_16SC2)

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """Return the picture as the pinhole camera would have seen it, black where the lens saw nothing."""
        if (image.shape[1], image.shape[0]) != self._source_size:
            raise DamagedError(f"a picture of {image.shape[1]} x {image.shape[0]}, which its calibration is not for")
        whole, fraction = self._maps
        return np.asarray(cv2.remap(image, whole, fraction, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT))
