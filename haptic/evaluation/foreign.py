"""Other programs' results, read without running anything in them."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from haptic.evaluation.clips import EvalClip
from haptic.evaluation.predictions import PredictedHand, Prediction, load_arrays
from haptic.files import RestrictedUnpickler, UnsafePickleError
from haptic.geometry.rotations import rotation_from_aa
from haptic.hand.mirror import mirror_points
from haptic.hand.model import HandModel
from haptic.records import HandParams

NUM_JOINTS = 21


def read_foreign(kind: str, folder: Path, clip: EvalClip, hand_model: HandModel | None) -> Prediction | None:
    """Return another program's prediction of a sequence, None if it has none.

    Raises:
        ValueError: a file is damaged, holds anything but plain data, or needs a hand model that is not given.
    """
    return READERS[kind](folder, clip, hand_model)


def _read_haptic(folder: Path, clip: EvalClip, _model: HandModel | None) -> Prediction | None:
    """HaPTIC: `NAME/*.pkl`, one per frame in order of name, or `NAME/<hand>/*.pkl`; `cJoints` in metres.

    A file may be of one hand (21 x 3) or of several (H x 21 x 3); `right` says which.
    """
    paths = sorted((folder / clip.key).rglob("*.pkl"))
    if not paths:
        return None
    numbered: dict[str, int] = {}
    found: dict[str, dict[int, tuple[bool, np.ndarray]]] = {}
    for path in paths:
        group = path.parent.name
        frame = int(path.stem) if path.stem.isdecimal() else numbered.get(group, 0)
        numbered[group] = frame + 1
        content = load_tensor_pickle(path)
        if not isinstance(content, dict) or "cJoints" not in content or "right" not in content:
            raise ValueError(f"{path}: expected HaPTIC's per-frame file with cJoints and right")
        joints = np.asarray(content["cJoints"], np.float64).reshape(-1, NUM_JOINTS, 3)
        sides = np.asarray(content["right"]).reshape(-1) > 0.5
        if len(sides) != len(joints):
            raise ValueError(f"{path}: {len(joints)} hands and {len(sides)} sides; expected as many")
        for is_right, points in zip(sides.tolist(), joints, strict=True):
            name = "right_0" if is_right else "left_0"
            if frame in found.setdefault(name, {}):
                raise ValueError(f"{path}: two {name[:-2]} hands in frame {frame}; keep one per side")
            found[name][frame] = (is_right, points)
    hands = {
        name: PredictedHand(
            frame_index=torch.tensor(sorted(frames)),
            joints_cam=torch.from_numpy(np.stack([frames[frame][1] for frame in sorted(frames)])),
            joints_world=None,
            is_right=name.startswith("right"),
        )
        for name, frames in found.items()
    }
    return Prediction(hands, where=str(folder / clip.key))


def _read_world_results(folder: Path, clip: EvalClip, model: HandModel | None) -> Prediction | None:
    """Dyn-HaMR (and HaWoR's export in its form): the last `NAME*_world_results.npz`; parameters, so MANO is needed.

    A left hand is stored as a right one that is mirrored after the model, its translation included. `cam_R`, `cam_t`
    take world points to the camera.
    """
    paths = sorted(folder.rglob(f"{clip.key}*_world_results.npz"))
    if not paths:
        return None
    model = _needed(model, paths[-1])
    arrays = load_arrays(paths[-1])
    for key in ("trans", "root_orient", "pose_body", "betas", "is_right", "cam_R", "cam_t"):
        if key not in arrays:
            raise ValueError(f"{paths[-1]}: {key} is missing; expected Dyn-HaMR's world results")
    hands: dict[str, PredictedHand] = {}
    for row in range(len(arrays["trans"])):
        is_right = bool(np.asarray(arrays["is_right"][row]).mean() > 0.5)
        joints = _joints(
            model, arrays["root_orient"][row], arrays["pose_body"][row], arrays["betas"][row], arrays["trans"][row]
        )
        world = joints if is_right else mirror_points(joints)
        turn, shift = (torch.from_numpy(np.asarray(arrays[key][row], np.float64)) for key in ("cam_R", "cam_t"))
        hands[_next_name(hands, is_right=is_right)] = PredictedHand(
            frame_index=torch.arange(len(world)),
            joints_cam=world @ turn.mT + shift[:, None],
            joints_world=world,
            is_right=is_right,
        )
    return Prediction(hands, where=str(paths[-1]))


def _read_hawor(folder: Path, clip: EvalClip, model: HandModel | None) -> Prediction | None:
    """HaWoR: `NAME/**/world_space_res.pth`, [trans, root, hand_pose, betas, valid], left hand first; needs MANO."""
    paths = sorted((folder / clip.key).rglob("world_space_res.pth"))
    if not paths:
        return None
    model = _needed(model, paths[-1])
    try:
        content = torch.load(paths[-1], map_location="cpu", weights_only=True)
        trans, root, pose, betas, valid = (np.asarray(part, np.float64) for part in content)
    except (pickle.UnpicklingError, RuntimeError, ValueError, TypeError, EOFError) as error:
        raise ValueError(f"{paths[-1]}: not HaWoR's list of five plain tensors ({error})") from None
    hands = {}
    for row, is_right in enumerate((False, True)):
        frames = np.flatnonzero(valid[row] > 0)
        if not len(frames):
            continue
        sign = np.array([1.0, 1, 1]) if is_right else np.array([1.0, -1, -1])  # an axis-angle, mirrored
        points = np.array([1.0, 1, 1]) if is_right else np.array([-1.0, 1, 1])
        joints = _joints(
            model, root[row, frames] * sign, pose[row, frames].reshape(-1, 15, 3) * sign, betas[row, frames],
            trans[row, frames] * points,
        )  # fmt: skip
        hands["right_0" if is_right else "left_0"] = PredictedHand(
            frame_index=torch.from_numpy(frames),
            joints_cam=None,
            joints_world=joints if is_right else mirror_points(joints),
            is_right=is_right,
        )
    return Prediction(hands, where=str(paths[-1]))


def _read_hamer(folder: Path, clip: EvalClip, _model: HandModel | None) -> Prediction | None:
    """HaMeR and WiLoR: `NAME/*.npz`, one per frame and hand or per frame, with `joints`, `cam_t` and `is_right`.

    Neither demo writes such files itself; these are the arrays of its output (`pred_keypoints_3d`, `pred_cam_t_full`,
    `right`), with either's names. A left hand is a right one with x negated, as both demos draw it.
    """
    paths = sorted((folder / clip.key).rglob("*.npz"))
    if not paths:
        return None
    found: dict[str, dict[int, Tensor]] = {}
    for path in paths:
        arrays = load_arrays(path)
        joints, shift, sides = (
            next((arrays[name] for name in names if name in arrays), None)
            for names in (("joints", "pred_keypoints_3d"), ("cam_t", "pred_cam_t_full"), ("is_right", "right"))
        )
        digits = path.stem.split("_")[0]
        if joints is None or shift is None or sides is None or not digits.isdecimal():
            raise ValueError(
                f"{path}: expected FRAME.npz or FRAME_HAND.npz with joints (H, 21, 3) about the wrist, cam_t (H, 3) "
                f"and is_right (H,); it has {', '.join(arrays) or 'nothing'}"
            )
        joints, shift = joints.reshape(-1, NUM_JOINTS, 3).astype(np.float64), shift.reshape(-1, 3).astype(np.float64)
        for is_right, points, place in zip(np.reshape(sides, -1) > 0.5, joints, shift, strict=True):
            name = "right_0" if is_right else "left_0"
            signed = points * ([1, 1, 1] if is_right else [-1, 1, 1])
            found.setdefault(name, {})[int(digits)] = torch.from_numpy(signed + place)
    hands = {
        name: PredictedHand(
            torch.tensor(sorted(frames)), torch.stack([frames[frame] for frame in sorted(frames)]), None,
            name.startswith("right"),
        )
        for name, frames in found.items()
    }  # fmt: skip
    return Prediction(hands, where=str(folder / clip.key))


READERS: dict[str, Callable[[Path, EvalClip, HandModel | None], Prediction | None]] = {
    "haptic": _read_haptic,
    "hamer": _read_hamer,
    "wilor": _read_hamer,
    "dynhamr": _read_world_results,
    "hawor": _read_hawor,
}


def _joints(model: HandModel, root: Any, pose: Any, betas: Any, trans: Any) -> Tensor:
    """Return a right hand's joints from axis-angles; one shape, or one per frame."""
    num = len(trans)
    turned = rotation_from_aa(torch.from_numpy(np.array(root, np.float64)).float().reshape(num, 3))
    bent = rotation_from_aa(torch.from_numpy(np.array(pose, np.float64)).float().reshape(num, 15, 3))
    shape = torch.from_numpy(np.array(betas, np.float64)).float().expand(num, 10)
    place = torch.from_numpy(np.array(trans, np.float64)).float().reshape(num, 3)
    with torch.no_grad():
        return model.joints(HandParams(turned, bent, shape, place)).double()


def _needed(model: HandModel | None, path: Path) -> HandModel:
    if model is None or not model.name.startswith("mano"):
        raise ValueError(f"{path}: holds MANO parameters, no joints; give --hand-model MANO_RIGHT.pkl to place them")
    return model


def _next_name(hands: dict[str, PredictedHand], *, is_right: bool) -> str:
    side = "right" if is_right else "left"
    return f"{side}_{sum(name.startswith(side) for name in hands)}"


class _TensorUnpickler(RestrictedUnpickler):
    """Admits tensors too: their bytes are read by torch's own safe loader."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _load_storage
        return super().find_class(module, name)


def load_tensor_pickle(path: Path) -> Any:
    """Return a pickle of arrays and tensors; nothing in it is executed.

    Raises:
        UnsafePickleError: it holds anything else; the class is named.
        ValueError: it is no pickle, or a damaged one.
    """
    try:
        return _plain(_TensorUnpickler(io.BytesIO(path.read_bytes()), name=str(path)).load())
    except UnsafePickleError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(f"{path}: not a readable pickle ({type(error).__name__}: {error})") from None


def _load_storage(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _rebuild_tensor(storage: Any, offset: int, size: Any, stride: Any, *_rest: Any) -> Tensor:
    if not isinstance(storage, torch.TypedStorage | torch.UntypedStorage):
        raise UnsafePickleError(f"a tensor whose storage is {type(storage)!r}")
    return torch._utils._rebuild_tensor(storage, offset, tuple(size), tuple(stride))


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return value
