"""What a system says of one sequence, as plain arrays: the file everyone's numbers are made from (docs/evaluation.md).

`joints_cam` is in metres, in the camera of each frame (x right, y down, z forward), joints in OpenPose order, left
hands as left hands. Frames without a prediction are left out. Who has a mesh adds `verts_cam`, or the parameters it is
posed by and the name of their hand model.
"""

import io
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from haptic.files import atomic_write, load_plain_npz
from haptic.geometry.transforms import apply_transform
from haptic.records import HandParams

SIDES = ("right", "left")
PARAM_SHAPES: dict[str, tuple[int, ...]] = {"global_orient": (3, 3), "hand_pose": (15, 3, 3), "transl": (3,)}
NUM_BETAS = 10
UNNAMED_MODEL = "mano"  # what a mesh or parameters are taken for if the file does not say


@dataclass(frozen=True)
class PredictedHand:
    """One hand. `joints_world` is set by systems that place their own cameras; K if it is not the sequence's own.

    `params` (left hands in MANO_LEFT's convention) or `verts_cam` give its mesh, in the topology of `hand_model`.
    """

    frame_index: Int[Tensor, " T"]
    joints_cam: Float[Tensor, "T 21 3"] | None
    joints_world: Float[Tensor, "T 21 3"] | None
    is_right: bool
    K: Float[Tensor, "T 3 3"] | None = None
    verts_cam: Float[Tensor, "T V 3"] | None = None
    params: HandParams | None = None
    hand_model: str = ""


@dataclass(frozen=True)
class Prediction:
    """All hands of one sequence, by name; `fps` is that of the frames which `frame_index` counts, None: not said."""

    hands: dict[str, PredictedHand]
    where: str  # the file, for messages
    fps: float | None = None
    fingerprint: str = ""
    notes: tuple[str, ...] = field(default=())


def write_prediction(path: Path, prediction: Prediction) -> None:
    """Write a prediction; equal predictions give equal bytes."""
    arrays: dict[str, np.ndarray] = {"hands": np.array(list(prediction.hands), dtype=np.str_)}
    if prediction.fps is not None:
        arrays["fps"] = np.array(prediction.fps, np.float64)
    if prediction.fingerprint:
        arrays["fingerprint"] = np.array(prediction.fingerprint)
    if prediction.notes:
        arrays["notes"] = np.array(prediction.notes, dtype=np.str_)
    for name, hand in prediction.hands.items():
        arrays[f"{name}/frame_index"] = hand.frame_index.numpy()
        arrays[f"{name}/is_right"] = np.array(hand.is_right)
        for key in ("joints_cam", "joints_world", "K", "verts_cam"):
            value = getattr(hand, key)
            if value is not None:
                arrays[f"{name}/{key}"] = value.numpy().astype(np.float32)
        if hand.params is not None:
            arrays |= {f"{name}/{key}": value.numpy().astype(np.float32) for key, value in vars(hand.params).items()}
        if hand.hand_model:
            arrays["hand_model"] = np.array(hand.hand_model)
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, array in arrays.items():
            data = io.BytesIO()
            np.save(data, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{key}.npy"), data.getvalue())  # no time in it: equal bytes


def read_prediction(path: Path) -> Prediction:
    """Read the plain npz; `trajectory.npz` of infer.py is one too.

    Raises:
        ValueError: it cannot be read, or lacks an array, or has one of a wrong shape.
    """
    arrays = load_arrays(path)
    names = [str(name) for name in np.atleast_1d(arrays["hands"])] if "hands" in arrays else _names_in(arrays)
    if not names and "hands" not in arrays:
        raise ValueError(
            f"{path}: no hands; expected arrays right_0/frame_index and right_0/joints_cam (docs/evaluation.md), the "
            f"file has {', '.join(list(arrays)[:6]) or 'nothing'}"
        )
    T_world_cam = arrays.get("T_world_cam")
    has_cameras = T_world_cam is not None and not np.array_equal(
        T_world_cam, np.broadcast_to(np.eye(4), T_world_cam.shape)
    )
    hands = {}
    for name in names:
        joints = _hand(path, name, arrays, T_world_cam if has_cameras else None)
        hands[name] = replace(joints, **_mesh(path, name, arrays))
    fps = float(arrays["fps"]) if "fps" in arrays else None
    return Prediction(
        hands=hands,
        where=str(path),
        fps=fps,
        fingerprint=str(arrays.get("fingerprint", "")),
        notes=tuple(str(note) for note in arrays.get("notes", ())),
    )


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an npz; nothing in it is executed.

    Raises:
        ValueError: there is no such file, or it is no npz of plain arrays.
    """
    try:
        return load_plain_npz(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except ValueError as error:
        raise ValueError(f"{path}: not a readable npz of plain arrays ({error})") from None


def _names_in(arrays: dict[str, np.ndarray]) -> list[str]:
    return sorted({key.split("/")[0] for key in arrays if "/" in key})


def _hand(path: Path, name: str, arrays: dict[str, np.ndarray], T_world_cam: np.ndarray | None) -> PredictedHand:
    side = name.split("_")[0]
    is_right_array = arrays.get(f"{name}/is_right")
    if is_right_array is None and side not in SIDES:
        raise ValueError(f"{path}: a hand is named {name!r}; name it right_0, left_0, ... or add {name}/is_right")
    is_right = side == "right" if is_right_array is None else bool(is_right_array)
    frames = _array(path, arrays, f"{name}/frame_index", (None,))
    if frames.dtype.kind not in "iu":
        raise ValueError(f"{path}: {name}/frame_index holds {frames.dtype}; expected whole numbers, frames from 0")
    num = len(frames)
    if len(np.unique(frames)) != num or (num and frames.min() < 0):
        raise ValueError(f"{path}: {name}/frame_index names a frame twice or one below 0; each frame once, from 0")
    order = np.argsort(frames)
    points: dict[str, Tensor | None] = {}
    for key in ("joints_cam", "joints_world"):
        points[key] = None
        if f"{name}/{key}" in arrays:
            values = _array(path, arrays, f"{name}/{key}", (num, 21, 3))
            points[key] = torch.from_numpy(values[order].astype(np.float64))
    if points["joints_cam"] is None and points["joints_world"] is None:
        raise ValueError(f"{path}: {name}/joints_cam (T, 21, 3) is missing; metres, in the camera of each frame")
    if points["joints_world"] is None and T_world_cam is not None and points["joints_cam"] is not None:
        if num and frames.max() >= len(T_world_cam):
            raise ValueError(f"{path}: {name} names frame {frames.max()}, T_world_cam has {len(T_world_cam)} frames")
        cameras = torch.from_numpy(T_world_cam[frames[order]].astype(np.float64))
        points["joints_world"] = apply_transform(cameras, points["joints_cam"])
    K = None
    if f"{name}/K" in arrays:
        K = torch.from_numpy(_array(path, arrays, f"{name}/K", (num, 3, 3))[order].astype(np.float64))
    return PredictedHand(
        frame_index=torch.from_numpy(frames[order].astype(np.int64)),
        joints_cam=points["joints_cam"],
        joints_world=points["joints_world"],
        is_right=is_right,
        K=K,
    )


def _mesh(path: Path, name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return vertices or parameters of a hand, sorted by frame, and whose they are; nothing if the file has neither."""
    order = np.argsort(arrays[f"{name}/frame_index"])
    num = len(order)
    mesh: dict[str, Any] = {}
    if f"{name}/verts_cam" in arrays:
        verts = _array(path, arrays, f"{name}/verts_cam", (num, None, 3))[order]
        mesh["verts_cam"] = torch.from_numpy(verts.astype(np.float32))
    elif all(f"{name}/{key}" in arrays for key in (*PARAM_SHAPES, "betas")):
        parts = {
            key: _array(path, arrays, f"{name}/{key}", (num, *shape))[order] for key, shape in PARAM_SHAPES.items()
        }
        betas = arrays[f"{name}/betas"]
        is_shared = betas.ndim == 1
        betas = _array(path, arrays, f"{name}/betas", (NUM_BETAS,) if is_shared else (num, NUM_BETAS))
        parts["betas"] = np.broadcast_to(betas, (num, NUM_BETAS)) if is_shared else betas[order]
        mesh["params"] = HandParams(**{key: torch.tensor(part, dtype=torch.float32) for key, part in parts.items()})
    if mesh:
        mesh["hand_model"] = str(arrays.get("hand_model", UNNAMED_MODEL))
    return mesh


def _array(path: Path, arrays: dict[str, np.ndarray], key: str, shape: tuple[int | None, ...]) -> Any:
    if key not in arrays:
        raise ValueError(f"{path}: {key} is missing (docs/evaluation.md)")
    array = arrays[key]
    fits = array.ndim == len(shape) and all(w in (None, h) for h, w in zip(array.shape, shape, strict=True))
    if not fits or array.dtype.kind not in "fiu":
        due = "(" + ", ".join("T" if side is None else str(side) for side in shape) + ")"
        raise ValueError(f"{path}: {key} is {array.dtype} {array.shape}; expected numbers of shape {due}")
    return array
