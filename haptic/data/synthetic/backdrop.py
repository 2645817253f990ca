"""What is behind the hands, cheaply: a wall and a desk's top are planes, and a plane's picture is a warp.

Both move with the camera as real walls and desks do. Walls are painted by rule or are pictures from any folder.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32

from haptic.data.samples import decode_image
from haptic.data.synthetic.textures import (
    Texture,
    cloud,
    draw_color,
    make_texture,
    paint_cloth,
    paint_plain,
    paint_poster,
    paint_wall,
    paint_wood,
)

BANK_SIZE = 48  # of each kind of painted picture; a clip draws one and its own tint
NEAREST_M = 0.05  # of a desk's part before the camera
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
PICTURE_PX = 768
LARGEST_TEXELS = 512


@dataclass(frozen=True)
class Plane:
    """A textured plane: a point on it, its unit axes (columns and rows of the texture), its edges as ranges or None."""

    point: Float[np.ndarray, " 3"]
    across: Float[np.ndarray, " 3"]
    along: Float[np.ndarray, " 3"]
    texture: Texture
    gain: Float[np.ndarray, " 3"]
    edges_m: tuple[tuple[float, float], tuple[float, float]] | None = None

    @property
    def normal(self) -> Float[np.ndarray, " 3"]:
        """The side from which the plane is seen, if across x along points towards it."""
        return np.cross(self.across, self.along)


def place_plane(plane: Plane, T_cam_body: Float[np.ndarray, "4 4"]) -> Plane:
    """Return the plane in the camera's frame."""
    rotation, translation = T_cam_body[:3, :3], T_cam_body[:3, 3]
    return Plane(
        rotation @ plane.point + translation, rotation @ plane.across, rotation @ plane.along, plane.texture,
        plane.gain, plane.edges_m,
    )  # fmt: skip


def plane_picture(
    plane: Plane, K: Float[np.ndarray, "3 3"], *, width: int, height: int
) -> tuple[Float32[np.ndarray, "H W 3"], Float32[np.ndarray, "H W"] | None]:
    """Return the colours of a plane in the camera's frame, and where it is seen; None: everywhere."""
    to_plane = plane_map(plane, K)
    distance_px = abs(float(plane.normal @ plane.point)) / float(K[0, 0])
    if plane.edges_m is not None:  # a desk: hands are about as far as its middle, and it is seen at an angle
        distance_px = 1.4 * float(np.linalg.norm(plane.point)) / float(K[0, 0])
    level = int(np.clip(np.round(np.log2(max(distance_px / plane.texture.texel, 1))), 0, len(plane.texture.levels) - 1))
    picture, texel = plane.texture.levels[level], plane.texture.texel * 2**level
    to_texel = np.array([[1 / texel, 0, -0.5], [0, 1 / texel, -0.5], [0, 0, 1]])
    seen = cv2.warpPerspective(
        picture, to_texel @ to_plane, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_WRAP,
    )  # fmt: skip
    cv2.patchNaNs(seen, 0.0)  # a pixel that lies on the horizon to the last digit sees a place infinitely far away
    seen *= plane.gain.astype(np.float32)
    return seen, None if plane.edges_m is None else _outline(plane, K, width=width, height=height)


def plane_map(plane: Plane, K: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """Return the homography from pixels to metres on the plane; its last row is positive where the plane is ahead."""
    normal, point = plane.normal, plane.point
    height = float(normal @ point)
    rows = np.stack(
        [height * plane.across - (plane.across @ point) * normal, height * plane.along - (plane.along @ point) * normal]
    )
    return np.sign(height) * np.concatenate([rows, normal[None]]) @ np.linalg.inv(K)


def _outline(plane: Plane, K: np.ndarray, *, width: int, height: int) -> Float32[np.ndarray, "H W"]:
    """Return the share of each pixel that the plane's rectangle covers, cut where it comes near the camera."""
    assert plane.edges_m is not None
    (x_low, x_high), (y_low, y_high) = plane.edges_m
    corners = [(x_low, y_low), (x_high, y_low), (x_high, y_high), (x_low, y_high)]
    polygon = [plane.point + x * plane.across + y * plane.along for x, y in corners]
    ahead: list[np.ndarray] = []
    for first, second in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if first[2] >= NEAREST_M:
            ahead.append(first)
        if (first[2] >= NEAREST_M) != (second[2] >= NEAREST_M):
            ahead.append(first + (NEAREST_M - first[2]) / (second[2] - first[2]) * (second - first))
    mask = np.zeros((height, width), np.uint8)
    if len(ahead) >= 3:
        points = np.array(ahead) @ K.T
        pixels = np.clip(points[:, :2] / points[:, 2:] * 16, -2e6, 2e6).round().astype(np.int32)
        cv2.fillConvexPoly(mask, pixels, 255, cv2.LINE_AA, 4)
    return mask.astype(np.float32) / 255


class BackdropBank:
    """Painted pictures, each made when it is first wanted; equal seeds give equal banks."""

    def __init__(self, seed: int, *, folder: Path | None = None) -> None:
        self._seed = seed
        self._pictures = [] if folder is None else find_pictures(folder)
        self._painted = lru_cache(maxsize=3 * BANK_SIZE)(lambda kind, number: _reduced(self._paint(kind, number)))

    def wall(self, *, view_m: float, rng: np.random.Generator) -> Texture:
        """Return a wall whose picture is about as large as what the camera sees of it."""
        if self._pictures and rng.random() < 0.85:
            picture = _read_picture(self._pictures[rng.integers(len(self._pictures))])
            texture = make_texture(np.concatenate([picture, picture[:, ::-1]], axis=1), 1.0)
        else:
            texture = self._painted("wall", int(rng.integers(BANK_SIZE)))
        size = view_m * np.exp(rng.uniform(np.log(0.5), np.log(2.5)))
        return Texture(texture.levels, float(size / texture.levels[0].shape[0]))

    def desk(self, *, rng: np.random.Generator) -> Texture:
        """Return a desk's top."""
        return self._painted("desk", int(rng.integers(BANK_SIZE)))

    def cloth(self, *, rng: np.random.Generator) -> Texture:
        """Return what clothes and some things are made of."""
        return self._painted("cloth", int(rng.integers(BANK_SIZE)))

    def _paint(self, kind: str, number: int) -> Texture:
        rng = np.random.default_rng([self._seed, {"wall": 1, "desk": 2, "cloth": 3}[kind], number])
        if kind == "cloth":
            return paint_cloth(rng=rng) if number % 3 else paint_plain(rng=rng, lightness=(0.03, 0.8))
        if kind == "desk":
            style = number % 4
            if style == 3:
                cloth = paint_cloth(rng=rng)
                return Texture(cloth.levels, cloth.texel * 2)
            return paint_plain(rng=rng) if style == 2 else paint_wood(rng=rng)
        style = number % 6
        if style == 0:
            return paint_plain(rng=rng)
        if style in (1, 2):
            return paint_wall(rng=rng)
        return paint_surroundings(rng=rng, is_soft=style == 3)


def paint_surroundings(*, rng: np.random.Generator, is_soft: bool) -> Texture:
    """Return what may be anything: colours that run into each other, and if not soft, patches and patterns on them."""
    side = 512
    picture = np.zeros((side, side, 3), np.float32)
    for cell, strength in ((256, 1.0), (96, 0.6), (32, 0.3), (9, 0.12)):
        share = cloud(side, side, cell=cell, rng=rng)[..., None]
        picture += strength * share * (draw_color(rng, lightness=(0.05, 0.6), saturation=0.8) - 0.2)
    picture = draw_color(rng, lightness=(0.1, 0.6), saturation=0.4) * np.exp(picture)
    for _ in range(0 if is_soft else rng.integers(6, 40)):
        width, height = rng.integers(12, 220, 2)
        left, top = rng.integers(0, side - width), rng.integers(0, side - height)
        part = picture[top : top + height, left : left + width]
        kind = rng.integers(4)
        color = draw_color(rng, lightness=(0.01, 0.9), saturation=0.9)
        if kind == 0:
            part[:] = paint_poster(int(height), int(width), rng=rng)
        elif kind == 1:
            part[:] = (
                color * (1 + 0.15 * cloud(int(height), int(width), cell=int(rng.integers(4, 40)), rng=rng))[..., None]
            )
        elif kind == 2:
            stripes = 0.5 + 0.5 * np.sin(np.arange(width) * rng.uniform(0.1, 1.5))[None, :, None]
            part[:] = stripes * color + (1 - stripes) * part.mean(axis=(0, 1))
        else:
            mask = np.zeros((height, width), np.float32)
            axes = (int(width // 2), int(height // 2))
            cv2.ellipse(mask, axes, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1, cv2.LINE_AA)
            part[:] = part * (1 - mask[..., None]) + mask[..., None] * color
    return make_texture(np.clip(picture, 0.005, 1.2), 4.0 / side)


def _reduced(texture: Texture) -> Texture:
    """Leave out what is finer than crops show: a bank of large pictures would take a gigabyte."""
    if max(texture.levels[0].shape[:2]) <= LARGEST_TEXELS:
        return texture
    return Texture(texture.levels[1:], texture.texel * 2)


def find_pictures(folder: Path) -> list[Path]:
    """Return the pictures below a folder, in order.

    Raises:
        ValueError: there are none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    if not found:
        raise ValueError(
            f"{folder}: no pictures for backgrounds; expected files ending in {', '.join(sorted(PICTURE_SUFFIXES))}"
        )
    return found


@lru_cache(maxsize=64)
def _read_picture(path: Path) -> Float32[np.ndarray, "h w 3"]:
    image = decode_image(path.read_bytes(), where=str(path))
    ratio = PICTURE_PX / max(image.shape[:2])
    if ratio < 1:
        image = cv2.resize(image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
    return ((image.astype(np.float32) + 0.5) / 256) ** 2.2


def shadow_grid(
    plane: Plane, K: Float[np.ndarray, "3 3"], *, width: int, height: int, step_px: int
) -> tuple[Float[np.ndarray, "N 3"], Bool[np.ndarray, " N"], tuple[int, int]]:
    """Return points of the plane under every `step_px`-th pixel, which of them are ahead, and the grid's shape."""
    columns, rows = np.meshgrid(np.arange(0, width + step_px, step_px), np.arange(0, height + step_px, step_px))
    pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1).reshape(-1, 3).astype(np.float64)
    rays = pixels @ np.linalg.inv(K).T
    facing = rays @ plane.normal
    depth = (plane.normal @ plane.point) / np.where(np.abs(facing) < 1e-9, 1e-9, facing)
    ahead = (depth > 0) & (depth < 6)
    return rays * np.where(ahead, depth, 1.0)[:, None], ahead, rows.shape  # type: ignore[return-value]
