"""Hands whose depth is another program's: a depth map's over the visible hand, or a body's wrist (HaPTIC's baselines).

A hand keeps its pose and the ray of its wrist; only how far along the ray it is changes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from haptic.data.readers import Picture
from haptic.evaluation.depth_maps import DepthNetwork
from haptic.files import load_joblib, load_plain_npz, load_plain_pickle
from haptic.geometry.cameras import project
from haptic.geometry.raster import RayScene, join_meshes
from haptic.hand.model import HandModel, trajectory_faces, trajectory_joints, trajectory_mesh
from haptic.inference.network import MIN_DEPTH_M
from haptic.records import Trajectory

SAMPLES = 40  # pixels looked at along each side of a hand's box
MIN_VISIBLE = 20  # samples on the hand without which a frame has no offset of its own
ROBUST_STEPS = 20
MIN_SCALE_M = 0.005
WHAM_FILE = "wham_output.pkl"
SMPL_WRISTS = {False: 20, True: 21}  # left, right
SMPL_VERTS, SMPL_JOINTS = 6890, 24


def robust_offset(differences: Float[np.ndarray, " N"]) -> float:
    """Return the value that most differences agree on: from the median on, weights by Geman and McClure.

    The scale is the median absolute deviation, so that an object before the hand, or the wall behind it, has no say
    unless it is the majority.
    """
    offset = float(np.median(differences))
    scale = max(1.4826 * float(np.median(np.abs(differences - offset))), MIN_SCALE_M)
    for _step in range(ROBUST_STEPS):
        weight = 1 / (1 + ((differences - offset) / scale) ** 2) ** 2
        offset = float((weight * differences).sum() / weight.sum())
    return offset


def uplift_by_depth_maps(
    model: HandModel,
    hands: Mapping[str, Trajectory],
    picture: Callable[[int], Picture],
    network: DepthNetwork,
    *,
    width_px: int,
    height_px: int,
) -> tuple[dict[str, Trajectory], list[str]]:
    """Return the hands at the depth that the network sees them at, and a line for each that it does not see at all.

    Per frame all hands are rendered where they are; over the pixels at which a hand is seen the network's depth less
    the rendered one is the offset of its wrist. Frames without enough such pixels take what lies between neighbours.
    """
    offsets = {name: np.full(len(hand.frame_index), np.nan) for name, hand in hands.items()}
    place_of = {
        name: {frame: place for place, frame in enumerate(hand.frame_index.tolist())} for name, hand in hands.items()
    }
    with torch.no_grad():
        for frame in sorted({frame for places in place_of.values() for frame in places}):
            there = {name: places[frame] for name, places in place_of.items() if frame in places}
            view = picture(frame)
            depth = network.metres(view.pixels)
            meshes = [
                (trajectory_mesh(model, hands[name][place : place + 1]).verts[0].numpy(),
                 trajectory_faces(model, hands[name]).numpy())
                for name, place in there.items()
            ]  # fmt: skip
            found = _frame_offsets(
                meshes, [hands[name].camera.K[place].double().numpy() for name, place in there.items()],
                view, depth, size_px=(width_px, height_px),
            )  # fmt: skip
            for (name, place), offset in zip(there.items(), found, strict=True):
                offsets[name][place] = offset
    lifted, notes = {}, []
    for name, hand in hands.items():
        seen = np.flatnonzero(~np.isnan(offsets[name]))
        if not len(seen):
            notes.append(f"{name}: the depth map sees no pixel of it in any frame")
            continue
        offset = np.interp(np.arange(len(offsets[name])), seen, offsets[name][seen])
        wrist = trajectory_joints(model, hand)[:, 0]
        lifted[name] = at_depth(model, hand, wrist[:, 2] + torch.from_numpy(offset).to(wrist))
    return lifted, notes


def _frame_offsets(
    meshes: Sequence[tuple[np.ndarray, np.ndarray]],
    cameras: Sequence[np.ndarray],
    view: Picture,
    depth: Float[np.ndarray, "H W"],
    *,
    size_px: tuple[int, int],
) -> list[float]:
    """Return the offset of each of a frame's hands; NaN where too little of it is seen."""
    joined = join_meshes(meshes)
    scene = RayScene(joined.verts, joined.faces)
    offsets = []
    for index, ((verts, _faces), K) in enumerate(zip(meshes, cameras, strict=True)):
        points_img = project(torch.from_numpy(verts).double(), torch.from_numpy(K)).numpy()
        low = np.maximum(points_img.min(0), 0)
        high = np.minimum(points_img.max(0), np.array(size_px) - 1)
        if (high <= low).any() or verts[:, 2].min() < MIN_DEPTH_M:
            offsets.append(np.nan)
            continue
        columns, rows = (np.linspace(low[axis], high[axis], SAMPLES) for axis in (0, 1))
        grid = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
        hits = scene.cast_pixels(grid, K)
        own = hits.is_hit & (joined.mesh_index[np.maximum(hits.face_index, 0)] == index)
        pixels = np.round(grid * view.scale + view.offset_px).astype(int)
        own &= (pixels >= 0).all(-1) & (pixels[:, 0] < depth.shape[1]) & (pixels[:, 1] < depth.shape[0])
        seen = depth[pixels[own, 1], pixels[own, 0]]
        known = np.isfinite(seen) & (seen > 0)
        if known.sum() < MIN_VISIBLE:
            offsets.append(np.nan)
            continue
        offsets.append(robust_offset(seen[known].astype(np.float64) - hits.depth[own][known]))
    return offsets


def at_depth(model: HandModel, hand: Trajectory, depth_m: Float[Tensor, " T"]) -> Trajectory:
    """Return the hand with its wrists moved along their rays to these depths."""
    with torch.no_grad():
        wrist = trajectory_joints(model, hand)[:, 0]
    share = depth_m.clamp(min=MIN_DEPTH_M) / wrist[:, 2].clamp(min=MIN_DEPTH_M)
    moved = wrist * share[:, None]
    return replace(hand, params=replace(hand.params, transl=hand.params.transl + moved - wrist))


@dataclass(frozen=True)
class BodyWrists:
    """One person's wrists as WHAM has them, in the camera: the left one, then the right one."""

    frame_index: np.ndarray
    wrists_cam: Float[np.ndarray, "T 2 3"]


def load_smpl_wrists(path: Path) -> Float[np.ndarray, "2 V"]:
    """Return SMPL's regressor of its two wrists, left and right, from the user's own SMPL file.

    Raises:
        ValueError: there is no such file, or it is not SMPL.
    """
    if not path.is_file():
        raise ValueError(f"--smpl {path}: no such file; expected SMPL_NEUTRAL.pkl, which WHAM needs too")
    raw = load_plain_npz(path) if path.suffix == ".npz" else load_plain_pickle(path)
    regressor = np.asarray(raw["J_regressor"]) if isinstance(raw, dict) and "J_regressor" in raw else np.zeros(0)
    if regressor.shape != (SMPL_JOINTS, SMPL_VERTS):
        raise ValueError(f"--smpl {path}: J_regressor is {regressor.shape}; SMPL's is ({SMPL_JOINTS}, {SMPL_VERTS})")
    return regressor[[SMPL_WRISTS[False], SMPL_WRISTS[True]]]


def read_wham(path: Path, regressor: Float[np.ndarray, "2 V"]) -> list[BodyWrists]:
    """Return everyone in a `wham_output.pkl`; nothing in it is executed.

    Its `verts` (T, 6890, 3) are in the camera, in metres; `frame_ids` count the video's frames.

    Raises:
        ValueError: it is damaged, holds more than plain data, or is not WHAM's.
    """
    content = load_joblib(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}; expected WHAM's dict of people")
    bodies = []
    for number, person in content.items():
        verts, frames = (np.asarray(person.get(key, ())) if isinstance(person, dict) else np.zeros(0)
                         for key in ("verts", "frame_ids"))  # fmt: skip
        if verts.shape != (len(frames), SMPL_VERTS, 3) or verts.dtype.kind != "f" or not np.isfinite(verts).all():
            raise ValueError(
                f"{path}: person {number} has verts {verts.shape} for {len(frames)} frame_ids; expected one body of "
                f"({SMPL_VERTS}, 3) finite numbers each"
            )
        order = np.argsort(frames)
        wrists = np.einsum("jv,tvc->tjc", regressor, verts[order].astype(np.float64))
        if len(frames):
            bodies.append(BodyWrists(frames[order].astype(np.int64), wrists))
    return bodies


def uplift_by_wham(model: HandModel, hand: Trajectory, bodies: Sequence[BodyWrists]) -> Trajectory | None:
    """Return the hand at the depth of the wrist of whoever it is nearest to in the picture; None if no one is there.

    Between WHAM's frames depth is interpolated, before and after them it is held.
    """
    with torch.no_grad():
        own_img = project(trajectory_joints(model, hand)[:, :1].double(), hand.camera.K.double())[:, 0].numpy()
    frames = hand.frame_index.numpy()
    side = int(bool(hand.is_right))
    best: tuple[float, np.ndarray] | None = None
    for body in bodies:
        shared, rows, body_rows = np.intersect1d(frames, body.frame_index, return_indices=True)
        if not len(shared):
            continue
        wrists = body.wrists_cam[:, side]
        seen = torch.from_numpy(wrists[body_rows])[:, None]
        their_img = project(seen, hand.camera.K[rows].double())[:, 0].numpy()
        apart_px = float(np.median(np.linalg.norm(their_img - own_img[rows], axis=-1)))
        if best is None or apart_px < best[0]:
            best = (apart_px, np.interp(frames, body.frame_index, wrists[:, 2]))
    return None if best is None else at_depth(model, hand, torch.from_numpy(best[1]).to(hand.params.transl))
