"""What is around the hands: walls, a desk with things on it, and the person who faces the camera."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from haptic.data.synthetic.textures import Texture, make_texture, paint_cloth, paint_plain, paint_wall, paint_wood

ROOM_LOW, ROOM_HIGH = (-2.2, -1.3, -2.0), (2.2, 1.15, 2.6)  # body frame; y is down
DESK_LOW, DESK_HIGH = (-0.95, 0.16), (0.95, 1.2)  # x and z
DESK_THICKNESS_M = 0.03
CLEAR_OF_THINGS = ((-0.42, 0.42), (0.0, 0.66))  # x and z of the part of the desk over which hands move
HEAD_SHOWS_BEYOND_M = 0.4  # a camera nearer to the eyes than this is worn on the head


@dataclass(frozen=True)
class Surface:
    """A textured mesh; `places` are its vertices' coordinates on the texture, in metres."""

    verts: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    normals: Float[np.ndarray, "V 3"]
    places: Float[np.ndarray, "V 2"]
    texture: Texture
    gloss: float


@dataclass(frozen=True)
class Room:
    """`shell` is what stands behind everything and casts no shadow; `things` do."""

    shell: tuple[Surface, ...]
    things: tuple[Surface, ...]


def make_room(
    *,
    desk_height_m: float,
    skin_color: Float[np.ndarray, " 3"],
    shirt: Texture,
    camera_distance_m: float,
    rng: np.random.Generator,
) -> Room:
    """Draw a room with a desk, things on the desk, and the person's trunk; the head only if the camera is before it."""
    shell = _box(ROOM_LOW, ROOM_HIGH, paint_wall(rng=rng), gloss=0.0)
    top = paint_wood(rng=rng) if rng.random() < 0.7 else paint_plain(rng=rng)
    low = (DESK_LOW[0], desk_height_m, DESK_LOW[1])
    high = (DESK_HIGH[0], desk_height_m + DESK_THICKNESS_M, DESK_HIGH[1])
    things = [_box(low, high, top, gloss=0.15)]
    for _ in range(rng.integers(4, 10)):
        x, z = _free_place(rng)
        texture = paint_cloth(rng=rng) if rng.random() < 0.4 else paint_plain(rng=rng, lightness=(0.03, 0.8))
        if rng.random() < 0.65:
            size = rng.uniform([0.06, 0.015, 0.08], [0.24, 0.16, 0.26])
            things.append(_standing_box(x, z, desk_height_m, size, rng.uniform(0, np.pi), texture))
        else:
            things.append(_cylinder(x, z, desk_height_m, rng.uniform(0.03, 0.05), rng.uniform(0.08, 0.14), texture))
    things.append(make_ellipsoid((0, 0.52, -0.14), (0.21, 0.34, 0.12), shirt))
    if camera_distance_m > HEAD_SHOWS_BEYOND_M:
        skin = make_texture(np.ones((16, 16, 3)) * skin_color, 0.1)
        hair = make_texture(np.ones((16, 16, 3)) * np.array([0.05, 0.03, 0.02]) * rng.uniform(0.3, 6), 0.1)
        things.append(make_ellipsoid((0, 0.02, -0.09), (0.074, 0.115, 0.09), skin))
        things.append(make_ellipsoid((0, -0.03, -0.11), (0.083, 0.09, 0.09), hair))
        things.append(make_ellipsoid((0, 0.15, -0.11), (0.055, 0.10, 0.055), skin))
    return Room(shell=(shell,), things=tuple(things))


def _free_place(rng: np.random.Generator) -> tuple[float, float]:
    (x_low, x_high), (z_low, z_high) = CLEAR_OF_THINGS
    while True:
        x, z = rng.uniform(DESK_LOW[0] + 0.15, DESK_HIGH[0] - 0.15), rng.uniform(DESK_LOW[1] + 0.15, DESK_HIGH[1] - 0.1)
        if not (x_low < x < x_high and z_low < z < z_high):
            return float(x), float(z)


def _box(low: tuple[float, ...], high: tuple[float, ...], texture: Texture, *, gloss: float) -> Surface:
    """Return six sides with their own vertices, so that edges stay sharp."""
    verts: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    normals: list[np.ndarray] = []
    places: list[np.ndarray] = []
    low_corner, high_corner = np.array(low), np.array(high)
    for axis in range(3):
        across, upward = (axis + 1) % 3, (axis + 2) % 3
        for end, sign in ((low_corner, -1.0), (high_corner, 1.0)):
            side = np.tile(end, (4, 1))
            side[[0, 3], across], side[[1, 2], across] = low_corner[across], high_corner[across]
            side[[0, 1], upward], side[[2, 3], upward] = low_corner[upward], high_corner[upward]
            faces.append(np.array([[0, 1, 2], [0, 2, 3]]) + 4 * len(verts))
            verts.append(side)
            normals.append(np.tile(sign * np.eye(3)[axis], (4, 1)))
            # Walls are looked at upright: the picture's rows run down, along y, wherever a side has a y.
            right = 0 if axis == 2 else 2
            down = 2 if axis == 1 else 1
            places.append(side[:, [right if axis != 1 else 0, down]] + 3.0 * axis + sign)
    return Surface(
        np.concatenate(verts).astype(np.float32),
        np.concatenate(faces),
        np.concatenate(normals).astype(np.float32),
        np.concatenate(places).astype(np.float32),
        texture,
        gloss,
    )


def _standing_box(x: float, z: float, desk_y: float, size: np.ndarray, turn: float, texture: Texture) -> Surface:
    half = size / 2
    box = _box(tuple(-half), tuple(half), texture, gloss=0.1)
    turned = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]], np.float32)
    centre = np.array([x, desk_y - half[1], z], np.float32)
    return Surface(box.verts @ turned.T + centre, box.faces, box.normals @ turned.T, box.places, texture, box.gloss)


def _cylinder(x: float, z: float, desk_y: float, radius: float, height: float, texture: Texture) -> Surface:
    """Return a mug without its handle: a wall, open above."""
    count = 24
    angle = np.arange(count + 1) * 2 * np.pi / count
    around = np.stack([np.cos(angle), np.zeros_like(angle), np.sin(angle)], axis=-1)
    base = np.array([x, desk_y, z]) + radius * around
    verts = np.concatenate([base, base - [0, height, 0]])
    index = np.arange(count)
    faces = np.concatenate(
        [
            np.stack([index, index + 1, index + count + 1], -1),
            np.stack([index + 1, index + count + 2, index + count + 1], -1),
        ]
    )
    places = np.stack([np.tile(angle * radius, 2), verts[:, 1]], axis=-1)
    normals = np.tile(around, (2, 1))
    return Surface(verts.astype(np.float32), faces, normals.astype(np.float32), places.astype(np.float32), texture, 0.3)


def make_ellipsoid(
    centre: tuple[float, ...], radii: tuple[float, ...], texture: Texture, *, rows: int = 14, columns: int = 24
) -> Surface:
    """Return a ball stretched along the axes."""
    latitude = np.linspace(-np.pi / 2, np.pi / 2, rows + 1)[:, None]
    longitude = np.linspace(0, 2 * np.pi, columns + 1)[None]
    unit = np.stack(
        [
            np.cos(latitude) * np.cos(longitude),
            np.sin(latitude) + 0 * longitude,
            np.cos(latitude) * np.sin(longitude),
        ],
        axis=-1,
    ).reshape(-1, 3)
    index = np.arange((rows + 1) * (columns + 1)).reshape(rows + 1, columns + 1)
    here, right, down, across = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    faces = np.concatenate(
        [np.stack([here, right, down], -1).reshape(-1, 3), np.stack([right, across, down], -1).reshape(-1, 3)]
    )
    normals = unit / np.array(radii)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    places = np.stack(np.broadcast_arrays(longitude * max(radii), latitude * max(radii)), axis=-1).reshape(-1, 2)
    verts = unit * np.array(radii) + np.array(centre)
    return Surface(
        verts.astype(np.float32), faces, normals.astype(np.float32), places.astype(np.float32), texture, 0.02
    )
