"""ARCTIC's `cropped_images`: where its squares lie in the full pictures, found again as its authors made them.

A fixed camera's picture is a square about the object, 1.5 times the object's box (never below 900 px), reduced to
1000 px. So its camera has another K in every frame. The head camera's pictures are whole, at 0.3 of their size.
"""

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float

from data_prep.arrays import object_array, read_json, read_lines
from data_prep.dataset import DamagedError, UnusableError
from data_prep.mano_files import matrices

CROP_PX = 1000
EGO_SCALE = 0.3
BOX_MARGIN = 1.1 + 0.6  # the box of the network over the object's extent
MIN_BOX_PX = 600.0
LOOSE = 1.5  # the stored square over that box
MM = 1e-3


@lru_cache(maxsize=16)
def object_template(folder: Path) -> tuple[Float[np.ndarray, "V 3"], Bool[np.ndarray, " V"]]:
    """Return the vertices of an object (metres) and which of them turn with its hinge.

    Raises:
        UnusableError: its files are not there.
        DamagedError: they cannot be read, or do not fit together.
    """
    mesh, parts = folder / "mesh.obj", folder / "parts.json"
    if not mesh.is_file() or not parts.is_file():
        raise UnusableError(
            f"{folder}: no mesh.obj and parts.json; cropped pictures are squares about the object, so `meta` of the "
            "download must have its object_vtemplates (or take the full `images`)"
        )
    lines = (line.split()[1:4] for line in read_lines(mesh) if line.startswith("v "))
    vertices = np.array([[float(value) for value in line] for line in lines]) * MM
    # The authors' code turns the vertices of part 0, whatever the words of its documentation.
    is_turning = ~np.array(read_json(parts)).astype(bool)
    if vertices.shape != (len(is_turning), 3):
        raise DamagedError(f"{folder}: {len(vertices)} vertices in mesh.obj, {len(is_turning)} in parts.json")
    return vertices, is_turning


def object_squares(
    root: Path, sequence: str, K: Float[np.ndarray, "3 3"], T_cam_world: Float[np.ndarray, "4 4"]
) -> tuple[Float[np.ndarray, "T 2"], Float[np.ndarray, " T"]]:
    """Return left upper corner and side of every frame's square, whole pixels of the full picture.

    Args:
        sequence: SUBJECT/OBJECT_ACTION_NN.
    """
    name = sequence.split("/")[1].split("_")[0]
    vertices, is_turning = object_template(root / "meta" / "object_vtemplates" / name)
    path = root / "raw_seqs" / f"{sequence}.object.npy"
    states = np.asarray(object_array(path), np.float64)
    if states.ndim != 2 or states.shape[1] != 7:
        raise DamagedError(f"{path}: the shape {states.shape}; expected (frames, 7)")
    corner, side = np.empty((len(states), 2)), np.empty(len(states))
    for frame, (angle, *pose) in enumerate(states):
        posed = vertices.copy()
        posed[is_turning] = posed[is_turning] @ cv2.Rodrigues(np.array([0.0, 0.0, -angle]))[0].T
        in_world = posed @ matrices(np.array(pose[:3])).T + np.array(pose[3:]) * MM
        seen = (in_world @ T_cam_world[:3, :3].T + T_cam_world[:3, 3]) @ K.T
        pixels = seen[:, :2] / seen[:, 2:]
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        loose = LOOSE * max(BOX_MARGIN * float((high - low).max()), MIN_BOX_PX)
        # Pillow rounds both corners of what it cuts out.
        corner[frame] = np.round((low + high - loose) / 2)
        side[frame] = np.round((low + high + loose) / 2)[0] - corner[frame, 0]
    return corner, side


def cropped_K(
    K: Float[np.ndarray, "3 3"], corner: Float[np.ndarray, "T 2"], side: Float[np.ndarray, " T"]
) -> Float[np.ndarray, "T 3 3"]:
    """Return the camera of every cropped picture."""
    scale = CROP_PX / side
    cropped = np.tile(K, (len(side), 1, 1)) * np.stack([scale, scale, np.ones_like(scale)], axis=1)[:, :, None]
    cropped[:, :2, 2] = (K[:2, 2] - corner + 0.5) * scale[:, None] - 0.5
    return cropped


def ego_size(width_px: int, height_px: int) -> tuple[int, int]:
    """Return width and height of the head camera's reduced pictures."""
    return int(width_px * EGO_SCALE), int(height_px * EGO_SCALE)


def reduced_K(K: Float[np.ndarray, "3 3"], full: tuple[int, int], reduced: tuple[int, int]) -> np.ndarray:
    """Return the camera of a picture that was reduced as a whole."""
    scale = np.array([reduced[0] / full[0], reduced[1] / full[1]])
    other = K.copy()
    other[:2] *= scale[:, None]
    other[:2, 2] = (K[:2, 2] + 0.5) * scale - 0.5
    return other
