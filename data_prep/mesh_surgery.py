"""Triangle meshes under the knife: weld, cut by a plane, collapse to a fixed size, bend without losing volume."""

import heapq
from dataclasses import dataclass, field

import numpy as np
import trimesh
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.sparse.linalg import splu

# Collapsing prefers short edges among those that keep the surface, so that triangles stay round enough to bend.
SHORT_EDGE_PREFERENCE = 0.02
# A collapse may turn a face by at most acos(0.3), about 72 degrees.
MIN_NORMAL_COSINE = 0.3
# 4 sqrt(3) area / sum of squared sides: 1 for an equilateral triangle, 0 for a needle.
MIN_TRIANGLE_ROUNDNESS = 0.2


def weld(
    verts: Float[np.ndarray, "N 3"], faces: Int[np.ndarray, "F 3"]
) -> tuple[Int[np.ndarray, " V"], Int[np.ndarray, "F 3"]]:
    """Merge vertices that lie on one point (seams of the texture).

    Returns: the index of one original vertex per point, and the faces over these points.
    """
    _, first, inverse = np.unique(verts, axis=0, return_index=True, return_inverse=True)
    return first, inverse.reshape(-1)[faces]


def edges_of(faces: Int[np.ndarray, "F 3"]) -> tuple[Int[np.ndarray, "E 2"], Int[np.ndarray, " E"]]:
    """Return every edge once, lower index first, and how many faces meet at it."""
    sides = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    return np.unique(sides, axis=0, return_counts=True)


def neighbour_mean(faces: Int[np.ndarray, "F 3"], num_verts: int) -> sparse.csr_matrix:
    """Return the matrix that puts in a vertex's place the mean over its neighbours."""
    edges, _ = edges_of(faces)
    i, j = edges.T
    links = sparse.coo_matrix((np.ones(len(i)), (i, j)), (num_verts, num_verts))
    links = (links + links.T).tocsr()
    return sparse.diags(1 / np.asarray(links.sum(axis=1)).ravel()) @ links


def smoothed(
    values: Float[np.ndarray, "V C"], faces: Int[np.ndarray, "F 3"], *, rounds: int, step: float = 0.5
) -> Float[np.ndarray, "V C"]:
    """Move values on a mesh `rounds` times by `step` towards their neighbours' mean."""
    mean = neighbour_mean(faces, len(values))
    for _ in range(rounds):
        values = (1 - step) * values + step * (mean @ values)
    return values


def closest_on_mesh(
    points: Float[np.ndarray, "P 3"], verts: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]
) -> tuple[Int[np.ndarray, "P 3"], Float[np.ndarray, "P 3"], Float[np.ndarray, " P"]]:
    """Return for each point the corners of the nearest face, barycentric weights there, and the distance.

    Brute force: meshes here have some thousand faces.
    """
    triangles = verts[faces]
    corners, weights, distances = [], [], []
    for point in points:
        near = trimesh.triangles.closest_point(triangles, np.broadcast_to(point, (len(faces), 3)))
        distance = np.linalg.norm(near - point, axis=1)
        best = int(distance.argmin())
        corners.append(faces[best])
        weights.append(trimesh.triangles.points_to_barycentric(triangles[best][None], near[best][None])[0])
        distances.append(distance[best])
    return np.array(corners), np.clip(weights, 0, 1), np.array(distances)


def bend(
    verts: Float[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "F 3"],
    local_maps: Float[np.ndarray, "V 3 3"],
    anchor_verts: Float[np.ndarray, "V 3"],
    *,
    anchor_weight: float,
) -> Float[np.ndarray, "V 3"]:
    """Deform a mesh so that around each vertex it follows `local_maps`, while it stays near `anchor_verts`.

    Poisson editing (Yu et al. 2004): the edges take the turned and stretched shapes that the maps ask for, and
    the positions follow from the edges. Blending positions instead would cave in where two bones disagree.
    """
    edges, _ = edges_of(faces)
    i, j = edges.T
    num_edges = len(edges)
    row = np.arange(num_edges)
    difference = sparse.coo_matrix(
        (np.r_[np.ones(num_edges), -np.ones(num_edges)], (np.r_[row, row], np.r_[i, j])), (num_edges, len(verts))
    ).tocsr()
    edge_maps = (local_maps[i] + local_maps[j]) / 2
    wanted = np.einsum("eij,ej->ei", edge_maps, verts[i] - verts[j])
    normal = difference.T @ difference + anchor_weight * sparse.identity(len(verts))
    return splu(normal.tocsc()).solve(difference.T @ wanted + anchor_weight * anchor_verts)


def cut_by_plane(
    verts: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], *, axis: int, limit: float, snap: float
) -> tuple[Float[np.ndarray, "W 3"], Int[np.ndarray, "G 3"]]:
    """Keep what lies below `limit` along `axis`; faces astride it are cut, and the cut stays open.

    Vertices within `snap` of the plane are put on it first: cutting beside them would leave needles.
    """
    verts = verts.copy()
    verts[np.abs(verts[:, axis] - limit) < snap, axis] = limit
    height = verts[:, axis] - limit
    points = list(verts)
    on_edge: dict[tuple[int, int], int] = {}

    def crossing(a: int, b: int) -> int:
        if height[a] == 0 or height[b] == 0:
            return a if height[a] == 0 else b
        key = (min(a, b), max(a, b))
        if key not in on_edge:
            share = height[a] / (height[a] - height[b])
            on_edge[key] = len(points)
            points.append(verts[a] + share * (verts[b] - verts[a]))
        return on_edge[key]

    kept: list[list[int]] = []
    for face in faces[(height[faces] < 0).any(axis=1)]:
        polygon: list[int] = []
        for a, b in zip(face.tolist(), np.roll(face, -1).tolist(), strict=True):
            polygon += [a] if height[a] <= 0 else []
            polygon += [crossing(a, b)] if (height[a] <= 0) != (height[b] <= 0) else []
        polygon = list(dict.fromkeys(polygon))
        kept += [[polygon[0], polygon[k], polygon[k + 1]] for k in range(1, len(polygon) - 1)]
    used, faces_out = np.unique(np.array(kept), return_inverse=True)
    return np.array(points)[used], faces_out.reshape(-1, 3)


def boundary_loop(faces: Int[np.ndarray, "F 3"]) -> Int[np.ndarray, " L"]:
    """Return the vertices of the one open loop, in the order in which faces run along it."""
    sides = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    known = {tuple(side) for side in sides.tolist()}
    follow = {a: b for a, b in known if (b, a) not in known}
    loop = [min(follow)]
    while (nxt := follow[loop[-1]]) != loop[0]:
        loop.append(nxt)
    if len(loop) != len(follow):
        raise ValueError(f"the mesh has more than one open loop: {len(follow)} open edges, {len(loop)} in the first")
    return np.array(loop)


def close_loop(faces: Int[np.ndarray, "F 3"]) -> Int[np.ndarray, "G 3"]:
    """Add a fan of faces over the open loop."""
    loop = boundary_loop(faces)
    first = np.full(len(loop) - 2, loop[0])
    return np.vstack([faces, np.stack([first, loop[2:], loop[1:-1]], axis=1)])


def volume(verts: Float[np.ndarray, "V 3"], closed_faces: Int[np.ndarray, "F 3"]) -> float:
    """Return the volume within a closed mesh in m^3."""
    a, b, c = verts[closed_faces].transpose(1, 0, 2)
    return float((a * np.cross(b, c)).sum() / 6)


def vertex_areas(
    verts: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]
) -> tuple[Float[np.ndarray, "V 3"], Float[np.ndarray, " V"]]:
    """Return each vertex's unit normal and its share of the surface in m^2."""
    a, b, c = verts[faces].transpose(1, 0, 2)
    per_face = np.cross(b - a, c - a) / 6
    normals, areas = np.zeros_like(verts), np.zeros(len(verts))
    for corner in range(3):
        np.add.at(normals, faces[:, corner], per_face)
        np.add.at(areas, faces[:, corner], np.linalg.norm(per_face, axis=1))
    return normals / np.linalg.norm(normals, axis=1, keepdims=True), areas


@dataclass
class EdgeCollapse:
    """Garland & Heckbert's quadric edge collapse, to exact numbers of vertices inside and on the open loop.

    Vertices in `is_kept` never move or vanish. Vertices of the loop slide along it only. Where `importance` is
    high, more vertices stay.
    """

    verts: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    is_kept: Bool[np.ndarray, " V"]
    importance: Float[np.ndarray, " V"]
    is_loop: Bool[np.ndarray, " V"] = field(init=False)

    def __post_init__(self) -> None:
        self.verts = self.verts.copy()
        self.is_loop = np.zeros(len(self.verts), bool)
        self.is_loop[boundary_loop(self.faces)] = True
        self.quadrics = self._quadrics()
        self.triangles = {k: tuple(face) for k, face in enumerate(self.faces.tolist())}
        self.faces_at: list[set[int]] = [set() for _ in self.verts]
        for k, face in self.triangles.items():
            for vertex in face:
                self.faces_at[vertex].add(k)
        self.is_alive = np.ones(len(self.verts), bool)

    def run(self, *, num_verts: int, num_loop: int) -> tuple[Float[np.ndarray, "W 3"], Int[np.ndarray, "G 3"]]:
        """Collapse the loop to `num_loop` vertices, then the inside until `num_verts` remain in all."""
        self._collapse_until(on_loop=True, target=num_loop)
        self._collapse_until(on_loop=False, target=num_verts - num_loop)
        faces = np.array([face for _, face in sorted(self.triangles.items())])
        alive = np.flatnonzero(self.is_alive)
        return self.verts[alive], np.searchsorted(alive, faces)

    def _collapse_until(self, *, on_loop: bool, target: int) -> None:
        edges, _ = edges_of(np.array(list(self.triangles.values())))
        heap = [self._candidate(int(a), int(b)) for a, b in edges if self._may_collapse(int(a), int(b), on_loop)]
        heapq.heapify(heap)
        stamp = np.zeros(len(self.verts), int)
        queue = [(cost, a, b, 0, 0, place) for cost, a, b, place in heap]
        while int((self.is_alive & (self.is_loop == on_loop)).sum()) > target:
            if not queue:
                raise ValueError(f"no edge is left to collapse before {target} vertices are reached")
            _, a, b, stamp_a, stamp_b, place = heapq.heappop(queue)
            if stamp[a] != stamp_a or stamp[b] != stamp_b or not (self.is_alive[a] and self.is_alive[b]):
                continue
            if not self._is_sound(a, b, np.array(place)):
                continue
            self._collapse(a, b, np.array(place))
            stamp[a] += 1
            for other in self._neighbours(a):
                if self._may_collapse(a, other, on_loop):
                    low, high = min(a, other), max(a, other)
                    cost, _, _, spot = self._candidate(low, high)
                    heapq.heappush(queue, (cost, low, high, int(stamp[low]), int(stamp[high]), spot))

    def _quadrics(self) -> Float[np.ndarray, "V 4 4"]:
        corners = self.verts[self.faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        area = np.linalg.norm(normals, axis=1) / 2
        normals /= 2 * area[:, None]
        plane = np.c_[normals, -(normals * corners[:, 0]).sum(axis=1)]
        per_face = area[:, None, None] * plane[:, :, None] * plane[:, None, :]
        quadrics = np.zeros((len(self.verts), 4, 4))
        for corner in range(3):
            np.add.at(quadrics, self.faces[:, corner], per_face)
        return quadrics

    def _neighbours(self, vertex: int) -> list[int]:
        return sorted({v for k in self.faces_at[vertex] for v in self.triangles[k]} - {vertex})

    def _may_collapse(self, a: int, b: int, on_loop: bool) -> bool:
        if self.is_kept[a] or self.is_kept[b]:
            return False
        if on_loop:
            shared = self.faces_at[a] & self.faces_at[b]
            return bool(self.is_loop[a] and self.is_loop[b] and len(shared) == 1)
        return not (self.is_loop[a] or self.is_loop[b])

    def _candidate(self, a: int, b: int) -> tuple[float, int, int, tuple[float, float, float]]:
        quadric = self.quadrics[a] + self.quadrics[b]
        middle = (self.verts[a] + self.verts[b]) / 2
        place = middle
        if not self.is_loop[a]:
            # The pull to the middle settles what the planes leave open on flat ground.
            pull = 1e-3 * np.trace(quadric[:3, :3])
            place = np.linalg.solve(quadric[:3, :3] + pull * np.eye(3), pull * middle - quadric[:3, 3])
        point = np.append(place, 1.0)
        length2 = float(((self.verts[a] - self.verts[b]) ** 2).sum())
        area = float(np.trace(quadric[:3, :3]))
        cost = float(point @ quadric @ point) + SHORT_EDGE_PREFERENCE**2 * area * length2
        cost *= float(self.importance[a] + self.importance[b]) / 2
        return cost, a, b, (float(place[0]), float(place[1]), float(place[2]))

    def _is_sound(self, a: int, b: int, place: Float[np.ndarray, "3"]) -> bool:
        """Say whether the surface stays a manifold without folded or needle-like faces."""
        shared = self.faces_at[a] & self.faces_at[b]
        if len(set(self._neighbours(a)) & set(self._neighbours(b))) != len(shared):
            return False
        for k in (self.faces_at[a] | self.faces_at[b]) - shared:
            before = self.verts[list(self.triangles[k])]
            after = np.where(np.isin(self.triangles[k], (a, b))[:, None], place, before)
            n0 = np.cross(before[1] - before[0], before[2] - before[0])
            n1 = np.cross(after[1] - after[0], after[2] - after[0])
            size = np.linalg.norm(n1)
            if n0 @ n1 < MIN_NORMAL_COSINE * np.linalg.norm(n0) * size:
                return False
            sides2 = ((after - np.roll(after, 1, axis=0)) ** 2).sum()
            if 2 * np.sqrt(3) * size < MIN_TRIANGLE_ROUNDNESS * sides2:
                return False
        return True

    def _collapse(self, a: int, b: int, place: Float[np.ndarray, "3"]) -> None:
        for k in self.faces_at[a] & self.faces_at[b]:
            for vertex in self.triangles[k]:
                self.faces_at[vertex].discard(k)
            del self.triangles[k]
        for k in self.faces_at[b]:
            self.triangles[k] = tuple(a if v == b else v for v in self.triangles[k])
            self.faces_at[a].add(k)
        self.faces_at[b] = set()
        self.is_alive[b] = False
        self.verts[a] = place
        self.quadrics[a] += self.quadrics[b]
