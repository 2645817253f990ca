"""Pictures of meshes by ray casting (Embree, through embreex): exact visibility, depth and smooth normals; no OpenGL.

Plain arrays in and out, since Embree has no gradients. Pixel centres are integers: the ray of pixel (x, y) goes through
K^-1 (x, y, 1), and a hit's depth is its z in the camera, not its distance. Faces are seen from both sides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

NEAR_M = 1e-4  # vertices nearer than this have no pixel to bound the window by


@dataclass(frozen=True)
class RayHits:
    """What each ray met first. A ray that met nothing has depth inf, face -1 and barycentric weights of zero."""

    depth: Float[np.ndarray, "*rays"]
    face_index: Int[np.ndarray, "*rays"]
    barycentric: Float[np.ndarray, "*rays 3"]

    @property
    def is_hit(self) -> Bool[np.ndarray, "*rays"]:
        """Where something was met."""
        return self.face_index >= 0

    def __getitem__(self, index: np.ndarray | slice) -> "RayHits":
        """Return some of the rays."""
        return RayHits(self.depth[index], self.face_index[index], self.barycentric[index])

    def reshape(self, *shape: int) -> "RayHits":
        """Return the same rays in another arrangement."""
        return RayHits(self.depth.reshape(*shape), self.face_index.reshape(*shape), self.barycentric.reshape(*shape, 3))


@dataclass(frozen=True)
class JoinedMesh:
    """Several meshes as one, so that they hide each other; `mesh_index` says which one a face came from."""

    verts: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    mesh_index: Int[np.ndarray, " F"]


def join_meshes(meshes: Sequence[tuple[np.ndarray, np.ndarray]]) -> JoinedMesh:
    """Return (verts, faces) pairs as one mesh."""
    verts: list[np.ndarray] = [np.zeros((0, 3), np.float32)]
    faces: list[np.ndarray] = [np.zeros((0, 3), np.int64)]
    mesh_index: list[np.ndarray] = [np.zeros(0, np.int64)]
    first_vertex = 0
    for index, (mesh_verts, mesh_faces) in enumerate(meshes):
        verts.append(np.asarray(mesh_verts, np.float32))
        faces.append(np.asarray(mesh_faces, np.int64) + first_vertex)
        mesh_index.append(np.full(len(mesh_faces), index, np.int64))
        first_vertex += len(mesh_verts)
    return JoinedMesh(np.concatenate(verts), np.concatenate(faces), np.concatenate(mesh_index))


class RayScene:
    """One mesh, ready to be met by rays. Building it costs under a millisecond for a hand: make one per frame."""

    def __init__(self, verts: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> None:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        self.verts = np.ascontiguousarray(verts, np.float32)
        self.faces = np.ascontiguousarray(faces, np.int32)
        assert np.isfinite(self.verts).all(), "a mesh to be drawn has NaN or infinite vertices"
        assert not self.faces.size or 0 <= self.faces.min() <= self.faces.max() < len(self.verts)
        self._embree = None
        if self.faces.size:
            self._embree = EmbreeScene()
            TriangleMesh(self._embree, self.verts, self.faces)

    def first_hits(self, origins: Float[np.ndarray, "N 3"], directions: Float[np.ndarray, "N 3"]) -> RayHits:
        """Return what each ray meets first; `depth` is in units of its direction's length."""
        if self._embree is None or not len(directions):
            return _no_hits(len(directions))
        answer = self._embree.run(*_as_rays(origins, directions), output=1)
        depth, face_index, u, v = answer["tfar"], answer["primID"], answer["u"], answer["v"]
        missed = face_index < 0
        depth[missed] = np.inf
        barycentric = np.empty((len(depth), 3), np.float32)
        barycentric[:, 0], barycentric[:, 1], barycentric[:, 2] = 1 - u - v, u, v  # of the triangle's three corners
        barycentric[missed] = 0
        return RayHits(depth=depth, face_index=face_index, barycentric=barycentric)

    def is_blocked(
        self, origins: Float[np.ndarray, "N 3"], directions: Float[np.ndarray, "N 3"]
    ) -> Bool[np.ndarray, " N"]:
        """Return whether each ray meets anything at all: for shadows. Start it a little off its own surface."""
        if self._embree is None or not len(directions):
            return np.zeros(len(directions), bool)
        return self._embree.run(*_as_rays(origins, directions), query="OCCLUDED") >= 0

    def cast_pixels(self, points_img: Float[np.ndarray, "N 2"], K: Float[np.ndarray, "3 3"]) -> RayHits:
        """Return what a camera at the origin sees at these pixels, which need not be whole."""
        directions = pixel_rays(points_img, K)
        return self.first_hits(np.zeros_like(directions), directions)


def raycast(
    verts_cam: Float[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "F 3"],
    K: Float[np.ndarray, "3 3"],
    *,
    x0: int = 0,
    y0: int = 0,
    width: int,
    height: int,
) -> RayHits:
    """Return what the pixels x0 .. x0 + width - 1, y0 .. y0 + height - 1 see, as (height, width) arrays."""
    return raycast_scene(RayScene(verts_cam, faces), K, x0=x0, y0=y0, width=width, height=height)


def raycast_scene(
    scene: RayScene, K: Float[np.ndarray, "3 3"], *, x0: int = 0, y0: int = 0, width: int, height: int
) -> RayHits:
    """Do what `raycast` does, for a scene in the camera's frame that is used more than once."""
    hits = _no_hits(height * width).reshape(height, width)
    left, top, right, bottom = _pixel_bounds(scene.verts, K)
    left, right = max(left - x0, 0), min(right - x0 + 1, width)
    top, bottom = max(top - y0, 0), min(bottom - y0 + 1, height)
    if left >= right or top >= bottom:
        return hits
    inside = scene.cast_pixels(_pixel_grid(left + x0, top + y0, right - left, bottom - top), K)
    inside = inside.reshape(bottom - top, right - left)
    hits.depth[top:bottom, left:right] = inside.depth
    hits.face_index[top:bottom, left:right] = inside.face_index
    hits.barycentric[top:bottom, left:right] = inside.barycentric
    return hits


def render(
    scene: RayScene,
    K: Float[np.ndarray, "3 3"],
    *,
    x0: int = 0,
    y0: int = 0,
    width: int,
    height: int,
    shade: Callable[[RayHits], Float[np.ndarray, "N C"]],
    edge_samples: int = 4,
    depth_jump: float = 0.01,
) -> Float[np.ndarray, "H W D"]:
    """Return the picture with D = C + 1 channels: what `shade` says of the hits, and how much of the pixel is covered.

    Pixels at a silhouette, beside which rays miss or the depth breaks off by the share `depth_jump`, are averaged over
    `edge_samples` squared rays (1: no anti-aliasing). The colours are already multiplied by the coverage:
    picture = render[..., :C] + (1 - render[..., C:]) * background. `shade` is given hits only, as a flat list.
    """
    hits = raycast_scene(scene, K, x0=x0, y0=y0, width=width, height=height)
    flat = hits.reshape(-1)
    found = np.flatnonzero(flat.is_hit)
    colours = shade(flat[found])
    picture = np.zeros((height * width, colours.shape[-1] + 1), np.float32)
    picture[found, :-1] = colours
    picture[found, -1] = 1
    edge = np.flatnonzero(silhouette(hits, depth_jump=depth_jump)) if edge_samples > 1 else found[:0]
    if len(edge):
        offsets = (np.arange(edge_samples) + 0.5) / edge_samples - 0.5
        offsets_img = np.stack(np.meshgrid(offsets, offsets), axis=-1).reshape(1, -1, 2)
        centres_img = np.stack([edge % width + x0, edge // width + y0], axis=-1)[:, None]
        samples = scene.cast_pixels((centres_img + offsets_img).reshape(-1, 2), K)
        sample_found = np.flatnonzero(samples.is_hit)
        sample_picture = np.zeros((len(samples.depth), picture.shape[-1]), np.float32)
        sample_picture[sample_found, :-1] = shade(samples[sample_found])
        sample_picture[sample_found, -1] = 1
        picture[edge] = sample_picture.reshape(len(edge), -1, picture.shape[-1]).mean(axis=1)
    return picture.reshape(height, width, -1)


def silhouette(hits: RayHits, *, depth_jump: float = 0.01) -> Bool[np.ndarray, "H W"]:
    """Return the pixels beside which the surface breaks off: by more than this share of its depth, or into nothing.

    Inverse depth is linear over the image of a plane, so its second difference is zero even where a plane is seen at a
    grazing angle and its depth changes fast.
    """
    depth = np.where(hits.is_hit, hits.depth, np.float32(1e9))
    nearness = 1 / depth
    edge = np.zeros(depth.shape, bool)
    for left, middle, right in (
        (np.s_[:-2], np.s_[1:-1], np.s_[2:]),
        (np.s_[:, :-2], np.s_[:, 1:-1], np.s_[:, 2:]),
    ):
        bend = np.abs(nearness[left] - 2 * nearness[middle] + nearness[right])
        edge[middle] |= bend > depth_jump * nearness[middle]
    return edge


def interpolate(
    hits: RayHits, faces: Int[np.ndarray, "F 3"], vertex_values: Float[np.ndarray, "V C"]
) -> Float[np.ndarray, "*rays C"]:
    """Return the vertices' values at the hits, e.g. smooth normals (not of length one); zero where nothing was hit."""
    values = np.zeros((hits.face_index.size, vertex_values.shape[-1]), vertex_values.dtype)
    found = np.flatnonzero(hits.is_hit)
    corners = np.take(faces, hits.face_index.ravel()[found], axis=0)
    weights = hits.barycentric.reshape(-1, 3)[found]
    for corner in range(3):
        values[found] += weights[:, corner, None] * np.take(vertex_values, corners[:, corner], axis=0)
    return values.reshape(*hits.face_index.shape, -1)


def vertex_normals(verts: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> Float[np.ndarray, "V 3"]:
    """Return unit normals, outward where faces turn counter-clockwise seen from outside; larger faces count more."""
    corners = verts[faces]
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.stack(
        [np.bincount(faces.ravel(), np.repeat(face_normals[:, axis], 3), len(verts)) for axis in range(3)], axis=-1
    )
    lengths = np.linalg.norm(normals, axis=-1, keepdims=True)
    return (normals / np.maximum(lengths, 1e-12)).astype(np.float32)


def pixel_rays(points_img: Float[np.ndarray, "N 2"], K: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "N 3"]:
    """Return the directions, with z = 1, of the rays through the pixels."""
    inverse = np.linalg.inv(np.asarray(K, np.float64)).astype(np.float32)
    return np.asarray(points_img, np.float32) @ inverse[:, :2].T + inverse[:, 2]


def _no_hits(num_rays: int) -> RayHits:
    return RayHits(
        depth=np.full(num_rays, np.inf, np.float32),
        face_index=np.full(num_rays, -1, np.int32),
        barycentric=np.zeros((num_rays, 3), np.float32),
    )


def _as_rays(origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embreex reads plain float32 memory and does not broadcast: one origin would be taken for one ray."""
    assert origins.shape == directions.shape, f"{origins.shape} origins for {directions.shape} directions"
    return np.ascontiguousarray(origins, np.float32), np.ascontiguousarray(directions, np.float32)


def _pixel_grid(x0: int, y0: int, width: int, height: int) -> np.ndarray:
    columns, rows = np.meshgrid(np.arange(x0, x0 + width), np.arange(y0, y0 + height))
    return np.stack([columns, rows], axis=-1).reshape(-1, 2).astype(np.float32)


def _pixel_bounds(verts_cam: np.ndarray, K: np.ndarray) -> tuple[int, int, int, int]:
    """Return the first and last column and row that the mesh can touch: left, top, right, bottom."""
    anywhere = (-(1 << 30), -(1 << 30), 1 << 30, 1 << 30)
    if not len(verts_cam):
        return 0, 0, -1, -1
    if verts_cam[:, 2].min() < NEAR_M:  # part of it is beside or behind the camera: it may be seen anywhere
        return anywhere
    homogeneous = verts_cam.astype(np.float64) @ np.asarray(K, np.float64).T
    points_img = np.clip(homogeneous[:, :2] / homogeneous[:, 2:], -(1 << 30), 1 << 30)
    left, top = np.floor(points_img.min(axis=0)).astype(int)
    right, bottom = np.ceil(points_img.max(axis=0)).astype(int)
    return int(left), int(top), int(right), int(bottom)
