"""Hands painted into a picture: who hides whom by ray casting, smooth shading, see-through; filled ones are hatched."""

from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int, UInt8

from haptic.geometry.raster import RayHits, RayScene, interpolate, join_meshes, render, vertex_normals

LIGHT = np.array([-0.35, -0.55, -0.76], np.float32)  # towards the light: over the viewer's left shoulder
AMBIENT = 0.5
FILLED_OPACITY = (0.75, 0.12)  # of the stripes and between them
FILLED_PALENESS = 0.55
STRIPE_PX = 5.0

Window = tuple[int, int, int, int]  # first column and row, and the ones after the last


@dataclass(frozen=True)
class PaintedHand:
    """One hand as it is to be painted, in the frame of the eye that looks: x right, y down, z away from it."""

    verts: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    color: tuple[float, float, float]
    is_filled: bool


def paint_hands(
    picture: UInt8[np.ndarray, "H W 3"],
    hands: list[PaintedHand],
    K: Float[np.ndarray, "3 3"],
    *,
    opacity: float,
    depth_jump: float = 0.02,
    stripe_px: float = STRIPE_PX,
) -> None:
    """Paint hands over `picture`, in place. Hands that may hide each other are painted together."""
    height, width = picture.shape[:2]
    hands = [hand for hand in hands if np.isfinite(hand.verts).all() and (hand.verts[:, 2] > 0).any()]
    windows = [_window(hand.verts, K, width=width, height=height) for hand in hands]
    for members in _overlapping(windows):
        x0, y0, x1, y1 = _union([windows[member] for member in members])
        if x0 >= x1 or y0 >= y1:
            continue
        group = [hands[member] for member in members]
        mesh = join_meshes([(hand.verts, hand.faces) for hand in group])
        values = np.concatenate([_vertex_values(hand, K, opacity, stripe_px) for hand in group])
        layer = render(
            RayScene(mesh.verts, mesh.faces), K, x0=x0, y0=y0, width=x1 - x0, height=y1 - y0,
            shade=partial(_shade, faces=mesh.faces, values=values), edge_samples=3, depth_jump=depth_jump,
        )  # fmt: skip
        window = picture[y0:y1, x0:x1]
        window[...] = np.clip(255 * layer[..., :3] + (1 - layer[..., 3:4]) * window + 0.5, 0, 255).astype(np.uint8)


def _vertex_values(hand: PaintedHand, K: np.ndarray, opacity: float, stripe_px: float) -> np.ndarray:
    """Return what the shader needs of each vertex: normal (3), colour (3), opacity (2), place across stripes (1)."""
    color = np.array(hand.color, np.float32)
    if hand.is_filled:
        color = color + FILLED_PALENESS * (1 - color)
    opacities = FILLED_OPACITY if hand.is_filled else (opacity, opacity)
    flat = np.broadcast_to(np.array([*color, *opacities], np.float32), (len(hand.verts), 5))
    points_img = hand.verts @ K.T.astype(np.float32)
    points_img = points_img[:, :2] / np.maximum(points_img[:, 2:], 1e-3)
    across = points_img.sum(axis=1, keepdims=True) / (2 * stripe_px)
    return np.concatenate([vertex_normals(hand.verts, hand.faces), flat, across], axis=1, dtype=np.float32)


def _shade(hits: RayHits, faces: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return red, green, blue, already multiplied by the opacity, and the opacity."""
    at_hits = interpolate(hits, faces, values)
    normals, color, opacities, across = at_hits[:, :3], at_hits[:, 3:6], at_hits[:, 6:8], at_hits[:, 8]
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)
    normals = np.where(normals[:, 2:] > 0, -normals, normals)  # the inside, seen through the wrist, is lit as well
    lit = AMBIENT + (1 - AMBIENT) * np.maximum(normals @ LIGHT, 0)
    rim = 1 - 0.35 * (1 + normals[:, 2]) ** 2  # darker where the surface turns away: fingers stand out
    is_stripe = (across % 1 < 0.5).astype(np.float32)
    opacity = opacities[:, 0] * is_stripe + opacities[:, 1] * (1 - is_stripe)
    shaded = color * (lit * rim)[:, None]
    return np.concatenate([shaded * opacity[:, None], opacity[:, None]], axis=1)


def _window(verts: np.ndarray, K: np.ndarray, *, width: int, height: int) -> Window:
    """Return the part of the picture that the mesh can touch."""
    if verts[:, 2].min() < 1e-3:  # some of it is beside or behind the eye
        return 0, 0, width, height
    points_img = verts @ np.asarray(K, np.float64).T
    points_img = np.clip(points_img[:, :2] / points_img[:, 2:], -1e6, 1e6)
    low = np.floor(points_img.min(axis=0)).astype(int) - 2
    high = np.ceil(points_img.max(axis=0)).astype(int) + 3
    return int(max(low[0], 0)), int(max(low[1], 0)), int(min(high[0], width)), int(min(high[1], height))


def _overlapping(windows: list[Window]) -> list[list[int]]:
    """Return the windows' indices in groups, such that the whole window of one group touches that of no other."""
    groups = [([index], window) for index, window in enumerate(windows)]
    pair: tuple[int, int] | None = (0, 0)
    while pair:
        pairs = combinations(range(len(groups)), 2)
        pair = next(((i, j) for i, j in pairs if _touch(groups[i][1], groups[j][1])), None)
        if pair:
            members, window = groups.pop(pair[1])
            kept_members, kept_window = groups[pair[0]]
            groups[pair[0]] = (kept_members + members, _union([kept_window, window]))
    return [members for members, _ in groups]


def _touch(one: Window, other: Window) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _union(windows: list[Window]) -> Window:
    corners = np.array(windows)
    x0, y0 = corners[:, :2].min(axis=0)
    x1, y1 = corners[:, 2:].max(axis=0)
    return int(x0), int(y0), int(x1), int(y1)
