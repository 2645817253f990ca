"""The hand's mesh with its arm: the tube grows out of the open wrist loop, so that there is no gap to see."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from haptic.geometry.raster import vertex_normals
from haptic.hand.model import HandModel

# Rings of the arm by their way along it from the wrist loop, in metres; the elbow is where it comes to lie.
FOREARM_RINGS_M = (0.008, 0.018, 0.03, 0.045, 0.062, 0.08, 0.1, 0.12, 0.145, 0.17, 0.2, 0.23)
UPPER_ARM_RINGS = (0.04, 0.12, 0.25, 0.5, 0.75, 1.0)  # as shares of the way from the elbow to the shoulder
# Half the breadth and half the thickness of an adult's arm along it.
ARM_PROFILE_M = (
    (0.0, 0.0285, 0.0205), (0.05, 0.029, 0.0225), (0.11, 0.036, 0.031), (0.18, 0.043, 0.040),
    (0.25, 0.044, 0.042), (0.32, 0.045, 0.045), (0.5, 0.052, 0.052),
)  # fmt: skip
ROUND_AFTER_M = 0.05  # where the tube has forgotten the wrist loop's own outline
BEND_M = 0.07  # the stretch behind the wrist over which the arm turns from the hand's axis to the forearm's
PHONG_SHARE = 0.75  # of the way to the tangent planes (Boubekeur & Alexa 2008)


@dataclass(frozen=True)
class LimbTopology:
    """What does not change with the pose. Vertices: the hand's, then the arm's rings, then the midpoints of edges.

    `rest` is where each vertex lies in the rest pose (the arm straight along +x): textures are painted there.
    """

    num_hand_verts: int
    wrist_loop: Int[np.ndarray, " L"]
    coarse_faces: Int[np.ndarray, "F 3"]
    edges: Int[np.ndarray, "E 2"]
    faces: Int[np.ndarray, "G 3"]
    rest: Float[np.ndarray, "W 3"]
    rest_normals: Float[np.ndarray, "W 3"]


def limb_topology(model: HandModel) -> LimbTopology:
    """Return the limb of a right hand; a left one has the same vertices and turned faces."""
    template = model.layer.v_template.numpy().astype(np.float32)
    hand_faces = model.faces.numpy()
    loop = open_loop(hand_faces)
    num_rings, size = len(_ring_ways(0.25, 0.25)), len(loop)
    rings = np.concatenate([loop[None], len(template) + np.arange(num_rings * size).reshape(num_rings, size)])
    here, outward = rings[:-1], rings[1:]
    after_here, after_outward = np.roll(here, -1, axis=1), np.roll(outward, -1, axis=1)
    first = np.stack([after_here, here, outward], axis=-1).reshape(-1, 3)
    second = np.stack([after_here, outward, after_outward], axis=-1).reshape(-1, 3)
    coarse_faces = np.concatenate([hand_faces, first, second])
    edges, faces = _split_faces(coarse_faces, len(template) + num_rings * size)
    straight = template[loop].mean(axis=0) + np.array([1.0, 0, 0], np.float32)
    coarse_rest = _with_arm(template, loop, np.eye(3), straight * [0.25, 1, 1], straight * [0.6, 1, 1])
    rest = _smooth_midpoints(coarse_rest, coarse_faces, edges)
    return LimbTopology(len(template), loop, coarse_faces, edges, faces, rest, vertex_normals(rest, faces))


def limb_verts(
    topology: LimbTopology,
    hand_verts: Float[np.ndarray, "V 3"],
    *,
    orientation: Float[np.ndarray, "3 3"],
    elbow: Float[np.ndarray, " 3"],
    shoulder: Float[np.ndarray, " 3"],
) -> Float[np.ndarray, "W 3"]:
    """Return the vertices of a right limb, all in one frame; the hand's own vertices come first and are not moved."""
    coarse = _with_arm(hand_verts, topology.wrist_loop, orientation, elbow, shoulder)
    return _smooth_midpoints(coarse, topology.coarse_faces, topology.edges)


def coarse_limb_verts(
    topology: LimbTopology,
    hand_verts: Float[np.ndarray, "V 3"],
    *,
    orientation: Float[np.ndarray, "3 3"],
    elbow: Float[np.ndarray, " 3"],
    shoulder: Float[np.ndarray, " 3"],
) -> Float[np.ndarray, "U 3"]:
    """Return the vertices of `coarse_faces`: the limb without the midpoints, for small pictures."""
    return _with_arm(hand_verts, topology.wrist_loop, orientation, elbow, shoulder)


def open_loop(faces: Int[np.ndarray, "F 3"]) -> Int[np.ndarray, " L"]:
    """Return the vertices of a mesh's only open edge, in the order in which its faces go round it."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    present = set(map(tuple, edges.tolist()))
    following = {first: second for first, second in present if (second, first) not in present}
    assert following, "the hand's mesh has no open wrist"
    loop = [min(following)]
    while (after := following[loop[-1]]) != loop[0]:
        loop.append(after)
    assert len(loop) == len(following), "the hand's mesh has more than one opening"
    return np.array(loop)


def _ring_ways(forearm_m: float, upper_arm_m: float) -> np.ndarray:
    """Return each ring's way along the arm, pressed together or stretched to end at the elbow and the shoulder."""
    forearm = np.array(FOREARM_RINGS_M) * (max(forearm_m, 0.1) - 0.01) / FOREARM_RINGS_M[-1]
    return np.concatenate([forearm, forearm_m + np.array(UPPER_ARM_RINGS) * max(upper_arm_m, 0.1)])


def _with_arm(
    hand_verts: np.ndarray, loop: np.ndarray, orientation: np.ndarray, elbow: np.ndarray, shoulder: np.ndarray
) -> np.ndarray:
    """Append the arm's rings to a hand's vertices."""
    ring = hand_verts[loop].astype(np.float64)
    middle = ring.mean(axis=0)
    ways = _ring_ways(float(np.linalg.norm(elbow - middle)), float(np.linalg.norm(shoulder - elbow)))
    centres, tangents = _arm_path(middle, orientation[:, 0], elbow, shoulder, ways)
    local = (ring - middle) @ orientation  # the loop lies across the hand's x axis
    angle = np.arctan2(local[:, 1], local[:, 2])
    across_scale = np.ptp(local[:, 2]) / 2 / ARM_PROFILE_M[0][1]
    frame = orientation.astype(np.float64)
    verts = [np.asarray(hand_verts, np.float32)]
    profile = np.array(ARM_PROFILE_M)
    for way, centre, tangent in zip(ways, centres, tangents, strict=True):
        frame = _least_turn(frame[:, 0], tangent) @ frame
        breadth = np.interp(way, profile[:, 0], profile[:, 1]) * across_scale
        thickness = np.interp(way, profile[:, 0], profile[:, 2]) * across_scale
        ellipse = np.stack([np.zeros_like(angle), thickness * np.sin(angle), breadth * np.cos(angle)], axis=-1)
        share = min(way / ROUND_AFTER_M, 1.0)
        share = share * share * (3 - 2 * share)
        outline = (1 - share) * local * [0, 1, 1] + share * ellipse
        verts.append((centre + outline @ frame.T).astype(np.float32))
    return np.concatenate(verts)


def _arm_path(
    middle: np.ndarray, hand_axis: np.ndarray, elbow: np.ndarray, shoulder: np.ndarray, ways: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return places and unit tangents: out of the wrist along the hand, then to the elbow, then to the shoulder."""
    to_elbow = (elbow - middle) / max(float(np.linalg.norm(elbow - middle)), 1e-6)
    to_shoulder = (shoulder - elbow) / max(float(np.linalg.norm(shoulder - elbow)), 1e-6)
    elbow_way = float(np.linalg.norm(elbow - middle))
    steps = np.linspace(0, ways[-1], 200)
    bend = np.clip(steps / BEND_M, 0, 1)[:, None]
    bend = bend * bend * (3 - 2 * bend)
    at_elbow = np.clip((steps - elbow_way + 0.03) / 0.06, 0, 1)[:, None]
    tangents = (1 - bend) * hand_axis + bend * ((1 - at_elbow) * to_elbow + at_elbow * to_shoulder)
    tangents /= np.maximum(np.linalg.norm(tangents, axis=-1, keepdims=True), 1e-6)
    moves = (tangents[1:] + tangents[:-1]) / 2 * np.diff(steps)[:, None]
    places = middle + np.concatenate([np.zeros((1, 3)), np.cumsum(moves, axis=0)])
    at = np.stack([np.interp(ways, steps, places[:, axis]) for axis in range(3)], axis=-1)
    towards = np.stack([np.interp(ways, steps, tangents[:, axis]) for axis in range(3)], axis=-1)
    return at, towards / np.linalg.norm(towards, axis=-1, keepdims=True)


def _least_turn(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the smallest rotation that takes one unit vector to the other (not defined for opposite ones)."""
    axis = np.cross(source, target)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + cross + cross @ cross / max(1 + float(source @ target), 1e-3)


def _split_faces(faces: np.ndarray, num_verts: int) -> tuple[np.ndarray, np.ndarray]:
    """Split every face into four; return the edges, whose midpoints are the new vertices in order, and the faces."""
    corners = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=-1)
    edges, which = np.unique(corners, axis=0, return_inverse=True)
    ab, bc, ca = (which.reshape(3, -1) + num_verts).astype(faces.dtype)
    a, b, c = faces.T
    return edges, np.stack(
        [np.stack([a, ab, ca], -1), np.stack([ab, b, bc], -1), np.stack([ca, bc, c], -1), np.stack([ab, bc, ca], -1)],
        axis=1,
    ).reshape(-1, 3)


def _smooth_midpoints(verts: np.ndarray, faces: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Append the edges' midpoints, moved towards the tangent planes of their ends: a rounder outline."""
    normals = vertex_normals(verts, faces)
    first, second = verts[edges[:, 0]], verts[edges[:, 1]]
    middle = (first + second) / 2
    pull = sum(
        ((middle - end) * normal).sum(-1, keepdims=True) * normal
        for end, normal in ((first, normals[edges[:, 0]]), (second, normals[edges[:, 1]]))
    )
    return np.concatenate([verts, middle - PHONG_SHARE * pull / 2]).astype(np.float32)
