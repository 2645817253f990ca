"""Things that hands hold: primitives, turned profiles and lumps, as meshes and as distances to their surfaces.

An object's frame has its middle at the origin and its long axis along y.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

AROUND = 20  # vertices about a turned profile
ShapeKind = Literal["box", "turned", "lump"]


@dataclass(frozen=True)
class Shape:
    """An object's outline: a box of half sides, or a profile of radii over heights turned about y, maybe lumpy."""

    kind: ShapeKind
    half_size_m: tuple[float, float, float]
    heights_m: tuple[float, ...] = ()
    radii_m: tuple[float, ...] = ()
    lumps: tuple[tuple[float, float, float], ...] = ()  # share of the radius, waves about, phase

    @property
    def half_thickness_m(self) -> float:
        """From the middle to the surface where a hand closes about it, along z: the palm's way."""
        return self.half_size_m[2] if self.kind == "box" else float(np.interp(0.0, self.heights_m, self.radii_m))


@dataclass(frozen=True)
class ObjectMesh:
    """Vertices with their normals and places on a texture, in metres."""

    verts: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    normals: Float[np.ndarray, "V 3"]
    places: Float[np.ndarray, "V 2"]


def draw_palm_object(*, rng: np.random.Generator) -> Shape:
    """Draw something that fills a hand: a bottle, a stick, a ball, a box, a tool's handle, a stone."""
    kind = rng.integers(6)
    if kind == 0:
        sides = (rng.uniform(0.015, 0.045), rng.uniform(0.04, 0.11), rng.uniform(0.008, 0.03))
        return Shape("box", tuple(float(side) for side in sides))  # type: ignore[arg-type]
    radius = rng.uniform(0.011, 0.038)
    if kind == 1:  # a stick or a tool's handle, perhaps with a head
        length = rng.uniform(0.08, 0.2)
        radius = rng.uniform(0.009, 0.017)
        head = radius * rng.choice([1.0, 1.0, 2.2])
        return turned([-length, -length, 0, 0.05, length * 0.8, length * 0.81, length, length],
                      [0, radius, radius, radius, radius, head, head, 0])  # fmt: skip
    if kind == 2:  # a ball, an egg
        radius = rng.uniform(0.02, 0.045)
        long = radius * rng.uniform(1, 1.5)
        angle = np.linspace(-np.pi / 2, np.pi / 2, 11)
        return turned(long * np.sin(angle), radius * np.cos(angle))
    if kind == 3:  # a lump: a stone, a fruit
        angle = np.linspace(-np.pi / 2, np.pi / 2, 11)
        lumps = tuple(
            (float(rng.uniform(0.03, 0.12)), float(waves), float(rng.uniform(0, 6.3)))
            for waves in rng.integers(1, 6, rng.integers(2, 5))
        )
        shape = turned(rng.uniform(0.025, 0.06) * np.sin(angle), radius * np.cos(angle))
        return Shape("lump", shape.half_size_m, shape.heights_m, shape.radii_m, lumps)
    if kind == 4:  # a can, a cup, a cone
        half = rng.uniform(0.035, 0.07)
        taper = rng.uniform(0.7, 1.3)
        return turned([-half, -half, half, half], [0, radius * taper, radius / taper, 0])
    half = rng.uniform(0.05, 0.1)  # a bottle
    neck = radius * rng.uniform(0.3, 0.5)
    return turned([-half, -half, half * 0.5, half * 0.8, half * 1.3, half * 1.3], [0, radius, radius, neck, neck, 0])


def draw_pinched_object(*, rng: np.random.Generator) -> Shape:
    """Draw something held between the fingertips: a pen, a card, a small box or ball."""
    kind = rng.integers(4)
    if kind == 0:
        radius, half = rng.uniform(0.003, 0.006), rng.uniform(0.05, 0.09)
        return turned([-half, -half * 0.85, half, half], [0.0005, radius, radius, 0])
    if kind == 1:
        return Shape("box", (float(rng.uniform(0.02, 0.06)), float(rng.uniform(0.03, 0.08)), 0.0012))
    if kind == 2:
        return Shape("box", tuple(float(side) for side in rng.uniform(0.004, 0.02, 3)))  # type: ignore[arg-type]
    angle = np.linspace(-np.pi / 2, np.pi / 2, 9)
    radius = rng.uniform(0.005, 0.014)
    return turned(radius * np.sin(angle), radius * np.cos(angle))


def draw_standing_object(*, rng: np.random.Generator) -> Shape:
    """Draw something that stands on a desk: a box, a book, a mug, a bottle, a lamp's foot."""
    if rng.random() < 0.6:
        return Shape("box", tuple(float(side) for side in rng.uniform(0.01, 0.1, 3)))  # type: ignore[arg-type]
    count = int(rng.integers(3, 7))
    half = rng.uniform(0.04, 0.13)
    heights = np.concatenate([[-half], np.linspace(-half, half, count), [half]])
    radii = np.concatenate([[0], rng.uniform(0.02, 0.06) * rng.uniform(0.5, 1.2, count), [0]])
    return turned(heights, radii)


def turned(heights_m: Float[np.ndarray, " N"] | list[float], radii_m: Float[np.ndarray, " N"] | list[float]) -> Shape:
    """Return a profile turned about y."""
    heights, radii = np.asarray(heights_m, np.float64), np.abs(np.asarray(radii_m, np.float64))
    size = (float(radii.max()), float(np.abs(heights).max()), float(radii.max()))
    return Shape("turned", size, tuple(heights.tolist()), tuple(radii.tolist()))


def distance_to(shape: Shape, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n"]:
    """Return the distance to the surface, negative inside; a turned profile's side is taken at the point's height."""
    if shape.kind == "box":
        beyond = np.abs(points) - np.array(shape.half_size_m)
        return np.linalg.norm(np.maximum(beyond, 0), axis=-1) + np.minimum(beyond.max(axis=-1), 0)
    heights, radii = np.array(shape.heights_m), np.array(shape.radii_m)
    # Flat ends have two radii at one height, of which the inner one is the side's.
    within = np.clip(points[..., 1], heights.min() + 1e-6, heights.max() - 1e-6)
    radius = np.interp(within, heights + 1e-9 * np.arange(len(heights)), radii)
    over = np.abs(points[..., 1] - (heights.min() + heights.max()) / 2) - np.ptp(heights) / 2
    beside = np.hypot(points[..., 0], points[..., 2]) - radius
    return np.hypot(np.maximum(beside, 0), np.maximum(over, 0)) + np.minimum(np.maximum(beside, over), 0)


def make_mesh(shape: Shape) -> ObjectMesh:
    """Return the object's mesh; edges of boxes and of flat ends stay sharp."""
    return _box_mesh(np.array(shape.half_size_m)) if shape.kind == "box" else _turned_mesh(shape)


def _turned_mesh(shape: Shape) -> ObjectMesh:
    """Return strips between neighbouring heights, each with its own normals where the profile has a corner."""
    heights, radii = np.array(shape.heights_m), np.array(shape.radii_m)
    angle = np.arange(AROUND + 1) * 2 * np.pi / AROUND
    steps_h, steps_r = np.diff(heights), np.diff(radii)
    slopes = np.stack([steps_h, -steps_r], axis=-1)  # outward, in (radius, height)
    slopes /= np.maximum(np.linalg.norm(slopes, axis=-1, keepdims=True), 1e-9)
    way = np.concatenate([[0], np.cumsum(np.hypot(steps_h, steps_r))])
    verts: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    normals: list[np.ndarray] = []
    places: list[np.ndarray] = []
    for strip, slope in enumerate(slopes):
        for end in (strip, strip + 1):
            neighbour = slopes[min(max(end - 1 if end == strip else end, 0), len(slopes) - 1)]
            smooth = slope + neighbour if slope @ neighbour > 0.75 else slope
            swell = np.ones_like(angle)
            for share, waves, phase in shape.lumps:
                swell = swell + share * np.sin(waves * angle + phase + 40 * heights[end])
            radius = radii[end] * swell
            verts.append(
                np.stack([radius * np.cos(angle), np.full_like(angle, heights[end]), radius * np.sin(angle)], -1)
            )
            normals.append(
                np.stack([smooth[0] * np.cos(angle), np.full_like(angle, smooth[1]), smooth[0] * np.sin(angle)], -1)
            )
            places.append(np.stack([angle * max(radii.max(), 0.005), np.full_like(angle, way[end])], -1))
        index = np.arange(AROUND) + 2 * strip * (AROUND + 1)
        above = index + AROUND + 1
        faces.append(np.stack([index, above, index + 1], -1))
        faces.append(np.stack([index + 1, above, above + 1], -1))
    all_normals = np.concatenate(normals)
    all_normals /= np.maximum(np.linalg.norm(all_normals, axis=-1, keepdims=True), 1e-9)
    return ObjectMesh(
        np.concatenate(verts).astype(np.float32), np.concatenate(faces), all_normals.astype(np.float32),
        np.concatenate(places).astype(np.float32),
    )  # fmt: skip


def _box_mesh(half: np.ndarray) -> ObjectMesh:
    verts: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    normals: list[np.ndarray] = []
    places: list[np.ndarray] = []
    for axis in range(3):
        across, upward = (axis + 1) % 3, (axis + 2) % 3
        for sign in (-1.0, 1.0):
            corners = np.zeros((4, 3))
            corners[:, axis] = sign * half[axis]
            corners[:, across] = np.array([-1, 1, 1, -1]) * half[across]
            corners[:, upward] = np.array([-1, -1, 1, 1]) * half[upward]
            quad = np.array([[0, 1, 2], [0, 2, 3]]) if sign > 0 else np.array([[0, 2, 1], [0, 3, 2]])
            faces.append(quad + 4 * len(verts))
            verts.append(corners)
            normals.append(np.tile(sign * np.eye(3)[axis], (4, 1)))
            places.append(corners[:, [across, upward]] + 0.05 * axis)
    return ObjectMesh(
        np.concatenate(verts).astype(np.float32), np.concatenate(faces), np.concatenate(normals).astype(np.float32),
        np.concatenate(places).astype(np.float32),
    )  # fmt: skip
