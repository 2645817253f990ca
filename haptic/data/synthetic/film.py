"""From light to a file's pixels: blur by motion and lens, exposure, contrast, noise, fewer pixels."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from haptic.data.synthetic.clips import Film

LEVELS = 4096  # of light in the table; what is brighter is white
BRIGHTEST = 4.0
NOISE_MARGIN_PX = 384  # the noise field is larger than any picture, which lies in it by chance
SHORTEST_BLUR_PX = 1.2


class Developer:
    """Turns linear light into pixels as one camera does; the noise is cut out of one large field."""

    def __init__(self, film: Film, *, exposure: float, largest_px: int, rng: np.random.Generator) -> None:
        self._film = film
        light = np.arange(LEVELS, dtype=np.float64)[:, None] * BRIGHTEST / LEVELS
        shown = 1 - np.exp(-1.5 * exposure * light * np.array(film.gain))
        srgb = np.where(shown < 0.0031308, 12.92 * shown, 1.055 * np.maximum(shown, 1e-6) ** (1 / 2.4) - 0.055)
        table = np.clip(0.5 + (srgb - 0.5) * film.contrast, 0, 1) * 255
        self._table = np.ascontiguousarray(table, np.float32)
        self._noise_px = largest_px + NOISE_MARGIN_PX
        noise: np.ndarray = rng.standard_normal((self._noise_px, self._noise_px, 3), dtype=np.float32)
        # Neighbouring colours' noise is alike in most cameras' pictures.
        noise = 0.7 * noise[..., :1] + 0.5 * noise
        if film.noise_grain_px > 0:
            noise = cv2.GaussianBlur(noise, (0, 0), film.noise_grain_px)
        self._noise = noise * np.float32(film.noise / noise.std())

    def develop(
        self, light: Float[np.ndarray, "H W 3"], *, sharpness_px: float, rng: np.random.Generator
    ) -> UInt8[np.ndarray, "H W 3"]:
        """Return the picture; `sharpness_px` is how many of its pixels one of the crop's is."""
        height, width = light.shape[:2]
        softness = self._film.softness_px * sharpness_px
        if softness > 0.3:
            light = cv2.GaussianBlur(light, (0, 0), softness)
        if self._film.resolution < 1 and sharpness_px == 1:
            small = (round(width * self._film.resolution), round(height * self._film.resolution))
            light = cv2.resize(light, small, interpolation=cv2.INTER_AREA)
        index = np.minimum(light * np.float32(LEVELS / BRIGHTEST), LEVELS - 1).astype(np.int16)
        pixels = np.stack([self._table[:, channel].take(index[..., channel]) for channel in range(3)], axis=-1)
        top, left = (rng.integers(self._noise_px - side) for side in pixels.shape[:2])
        pixels += self._noise[top : top + pixels.shape[0], left : left + pixels.shape[1]]
        developed = cv2.convertScaleAbs(np.maximum(pixels, 0))
        if developed.shape[:2] != (height, width):
            developed = cv2.resize(developed, (width, height), interpolation=cv2.INTER_CUBIC)
        return developed


def smear(picture: Float[np.ndarray, "H W C"], way_px: Float[np.ndarray, " 2"]) -> Float[np.ndarray, "H W C"]:
    """Return the picture blurred along a straight way, its middle where it was."""
    length = float(np.hypot(*way_px))
    if length < SHORTEST_BLUR_PX:
        return picture
    way = np.asarray(way_px) * min(1.0, 24 / length)
    half = int(np.ceil(np.abs(way).max() / 2))
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    first, second = (np.round((half + sign * way / 2) * 16).astype(int) for sign in (-1, 1))
    cv2.line(kernel, tuple(first.tolist()), tuple(second.tolist()), 1.0, 1, cv2.LINE_AA, 4)
    kernel /= max(float(kernel.sum()), 1e-6)
    return cv2.filter2D(picture, -1, kernel, borderType=cv2.BORDER_REPLICATE)
