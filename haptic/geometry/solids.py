"""Volumes of triangle meshes: closing a hand's open wrist, and how much of space two meshes share."""

import numpy as np
from jaxtyping import Float, Int

# Columns stand this share of a cell off the middle, so that none runs exactly through a corner or an edge.
OFF_CENTRE = (1.3e-7, 2.9e-7)


def close_holes(faces: Int[np.ndarray, "F 3"]) -> Int[np.ndarray, "F_closed 3"]:
    """Return the faces with a fan over every open rim (MANO's wrist: 14 more), turned like their neighbours."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    directed = {(int(start), int(stop)) for start, stop in edges}
    if len(directed) != len(edges):
        raise ValueError("close_holes: an edge is used twice in one direction; faces must all turn the same way")
    rim = {start: stop for start, stop in directed if (stop, start) not in directed}
    if len(rim) != sum((stop, start) not in directed for start, stop in directed) or set(rim) != set(rim.values()):
        raise ValueError("close_holes: two open rims touch at a vertex; which side is inside cannot be told")
    fans = [np.asarray(faces)]
    while rim:
        first, after = rim.popitem()
        loop = [first]
        while after != first:
            loop.append(after)
            after = rim.pop(after)
        # A neighbour of the rim edge a -> b must run b -> a.
        fans.append(np.array([[loop[0], loop[k + 1], loop[k]] for k in range(1, len(loop) - 1)]).reshape(-1, 3))
    return np.concatenate(fans).astype(np.int64)


def intersection_volume(
    verts_a: Float[np.ndarray, "V_a 3"],
    faces_a: Int[np.ndarray, "F_a 3"],
    verts_b: Float[np.ndarray, "V_b 3"],
    faces_b: Int[np.ndarray, "F_b 3"],
    *,
    cell: float,
) -> float:
    """Return the volume inside both closed meshes, in the cube of the vertices' unit.

    Columns along z, at most `cell` wide, are cut by both surfaces; along a column the shared length is exact. A point
    is inside where the surface winds around it, so a mesh that cuts through itself counts once.
    """
    if not cell > 0:
        raise ValueError(f"intersection_volume: cell is {cell}; the width of a column must be above zero")
    meshes = [(np.asarray(verts, np.float64), faces) for verts, faces in ((verts_a, faces_a), (verts_b, faces_b))]
    low = np.max([verts.min(axis=0) for verts, _ in meshes], axis=0)
    high = np.min([verts.max(axis=0) for verts, _ in meshes], axis=0)
    if (high <= low).any():
        return 0.0
    shape = np.ceil((high - low)[:2] / cell).astype(np.int64)
    step = (high - low)[:2] / shape
    crossings = []
    for verts, faces in meshes:
        in_cells = verts.copy()
        in_cells[:, :2] = (verts[:, :2] - low[:2]) / step - 0.5 - OFF_CENTRE
        crossings.append(_column_crossings(in_cells, np.asarray(faces), shape))
    return _shared_length(crossings) * float(step.prod())


def _column_crossings(
    verts: np.ndarray, faces: np.ndarray, shape: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return column, height and direction (+1, -1) of every meeting of a surface with the columns at whole x, y."""
    corners = verts[faces]
    first = np.maximum(np.ceil(corners[..., :2].min(axis=1)), 0).astype(np.int64)
    last = np.minimum(np.floor(corners[..., :2].max(axis=1)), shape - 1).astype(np.int64)
    size = np.maximum(last - first + 1, 0)
    count = size.prod(axis=1)
    face = np.repeat(np.arange(len(faces)), count)
    place = np.arange(len(face)) - np.repeat(count.cumsum() - count, count)
    column = first[face] + np.stack([place // np.maximum(size[face, 1], 1), place % np.maximum(size[face, 1], 1)], -1)
    sides = np.stack([_side(verts, faces[face], corner, column) for corner in range(3)], axis=-1)
    area = sides.sum(axis=-1)
    met = ((sides > 0).all(axis=-1) | (sides < 0).all(axis=-1)) & (area != 0)
    height = (sides * corners[face, :, 2]).sum(axis=-1)[met] / area[met]
    return column[met, 0] * shape[1] + column[met, 1], height, np.sign(area[met]).astype(np.int64)


def _side(verts: np.ndarray, face: np.ndarray, corner: int, column: np.ndarray) -> np.ndarray:
    """Return twice the area of column and the edge opposite `corner`; exactly opposite for the neighbour's edge."""
    start, stop = face[:, (corner + 1) % 3], face[:, (corner + 2) % 3]
    turned = start > stop
    low, high = np.where(turned, stop, start), np.where(turned, start, stop)
    to_low, to_high = verts[low, :2] - column, verts[high, :2] - column
    area = to_low[:, 0] * to_high[:, 1] - to_low[:, 1] * to_high[:, 0]
    return np.where(turned, -area, area)


def _shared_length(crossings: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> float:
    column, height, _ = (np.concatenate(parts) for parts in zip(*crossings, strict=True))
    turns = np.zeros((len(column), 2), np.int64)
    num_a = len(crossings[0][0])
    turns[:num_a, 0], turns[num_a:, 1] = crossings[0][2], crossings[1][2]
    order = np.lexsort((height, column))
    column, height, winding = column[order], height[order], turns[order].cumsum(axis=0)
    inside_both = (winding[:-1] != 0).all(axis=1)
    # Both surfaces are closed, so nothing is left open when a column ends and the next one begins.
    assert not (inside_both & (column[:-1] != column[1:])).any(), "a column left a closed mesh open"
    return float(np.diff(height)[inside_both].sum())
