"""Other programs' results, read without running anything in them."""

import io
import pickle
import re
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
from haptic.hand.joints import FINGERTIP_VERTICES, OPENPOSE_FROM_MANO
from haptic.hand.mirror import mirror_mesh
from haptic.hand.model import HandModel
from haptic.records import HandMesh, HandParams

NUM_JOINTS, NUM_VERTS = 21, 778
MANO = "mano"
OPENGL = (1.0, -1.0, -1.0)
# Dyn-HaMR writes each phase's results; a later one is better.
PHASES = ("hamer", "init", "root_fit", "smooth_fit", "prior")
Placed = dict[str, dict[int, tuple[Tensor, Tensor | None]]]  # hand: frame: joints, and vertices if there are any


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
    found: Placed = {}
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
        verts = _meshes(content.get("cHands"), len(joints))
        for row, is_right in enumerate(sides.tolist()):
            _put(found, path, frame, joints[row], None if verts is None else verts[row], is_right=is_right)
    return _prediction(found, folder / clip.key)


def _read_world_results(folder: Path, clip: EvalClip, model: HandModel | None) -> Prediction | None:
    """Dyn-HaMR (and HaWoR in its form): the last `NAME_000100_world_results.npz`; parameters, so MANO is needed.

    A left hand is stored as a right one that is mirrored after the model, its translation included. `cam_R`, `cam_t`
    take world points to the camera.
    """
    path = _last_results(folder, clip.key)
    if path is None:
        return None
    model = _needed(model, path)
    arrays = load_arrays(path)
    for key in ("trans", "root_orient", "pose_body", "betas", "is_right", "cam_R", "cam_t"):
        if key not in arrays:
            raise ValueError(f"{path}: {key} is missing; expected Dyn-HaMR's world results")
    hands: dict[str, PredictedHand] = {}
    for row in range(len(arrays["trans"])):
        is_right = bool(np.asarray(arrays["is_right"][row]).mean() > 0.5)
        mesh = _mesh(
            model, arrays["root_orient"][row], arrays["pose_body"][row], arrays["betas"][row], arrays["trans"][row],
            is_right=is_right,
        )  # fmt: skip
        turn, shift = (torch.from_numpy(np.asarray(arrays[key][row], np.float64)) for key in ("cam_R", "cam_t"))
        hands[_next_name(hands, is_right=is_right)] = PredictedHand(
            frame_index=torch.arange(len(mesh.joints)),
            joints_cam=mesh.joints @ turn.mT + shift[:, None],
            joints_world=mesh.joints,
            is_right=is_right,
            verts_cam=mesh.verts @ turn.mT + shift[:, None],
            hand_model=model.name,
        )
    return Prediction(hands, where=str(path))


def _last_results(folder: Path, key: str) -> Path | None:
    """Return a sequence's world results of the last phase and iteration."""
    form = re.compile(re.escape(key) + r"(?:_(\d+))?_world_results\.npz")
    ranked = []
    for path in sorted(folder.rglob(f"{key}*_world_results.npz")):
        match = form.fullmatch(path.name)  # S1 is not S10
        if match is not None:
            phase = PHASES.index(path.parent.name) if path.parent.name in PHASES else -1
            ranked.append((phase, int(match[1] or 0), path))
    return max(ranked)[2] if ranked else None


def _read_hawor(folder: Path, clip: EvalClip, model: HandModel | None) -> Prediction | None:
    """HaWoR: `NAME/**/world_space_res.pth`, [trans, root, hand_pose, betas, valid], left hand first; needs MANO.

    Where there is none, `NAME*_world_results.npz` as Dyn-HaMR writes it.
    """
    paths = sorted((folder / clip.key).rglob("world_space_res.pth"))
    if not paths:
        return _read_world_results(folder, clip, model)
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
        mesh = _mesh(
            model, root[row, frames] * sign, pose[row, frames].reshape(-1, 15, 3) * sign, betas[row, frames],
            trans[row, frames] * points, is_right=is_right,
        )  # fmt: skip
        hands["right_0" if is_right else "left_0"] = PredictedHand(
            frame_index=torch.from_numpy(frames),
            joints_cam=None,
            joints_world=mesh.joints,
            is_right=is_right,
        )
    return Prediction(hands, where=str(paths[-1]))


def _read_hamer(folder: Path, clip: EvalClip, model: HandModel | None) -> Prediction | None:
    """HaMeR and WiLoR: `NAME/*.npz` of their output's arrays, or `NAME/*.obj` as their demos write them.

    npz: one per frame and hand or per frame, with `joints`, `cam_t`, `is_right` and, if wanted, `verts` (or the names
    of their code: `pred_keypoints_3d`, `pred_cam_t_full`, `right`, `pred_vertices`). A left hand is a right one with x
    negated, as both demos draw it.
    """
    paths = sorted((folder / clip.key).rglob("*.npz"))
    if not paths:
        return _read_obj(folder, clip, model)
    found: Placed = {}
    for path in paths:
        arrays = load_arrays(path)
        joints, shift, sides = (
            next((arrays[name] for name in names if name in arrays), None)
            for names in (("joints", "pred_keypoints_3d"), ("cam_t", "pred_cam_t_full"), ("is_right", "right"))
        )
        frame = _frame_of(path)
        if joints is None or shift is None or sides is None or frame is None:
            raise ValueError(
                f"{path}: expected FRAME.npz or FRAME_HAND.npz with joints (H, 21, 3) about the wrist, cam_t (H, 3) "
                f"and is_right (H,); it has {', '.join(arrays) or 'nothing'}"
            )
        joints, shift = joints.reshape(-1, NUM_JOINTS, 3).astype(np.float64), shift.reshape(-1, 3).astype(np.float64)
        verts = _meshes(arrays.get("verts", arrays.get("pred_vertices")), len(joints))
        for row, is_right in enumerate((np.reshape(sides, -1) > 0.5).tolist()):
            side = [1, 1, 1] if is_right else [-1, 1, 1]
            mesh = None if verts is None else verts[row] * side + shift[row]
            _put(found, path, frame, joints[row] * side + shift[row], mesh, is_right=is_right)
    return _prediction(found, folder / clip.key)


def _read_obj(folder: Path, clip: EvalClip, model: HandModel | None) -> Prediction | None:
    """HaMeR's and WiLoR's demos with `--save_mesh`: `NAME/FRAME_HAND.obj`, one hand each, 778 vertices.

    They lie before the camera in metres, in OpenGL's axes. Which side it is, the turn of the faces says: the demos turn
    a left hand's over. Joints are regressed from the vertices by MANO's own regressor, the tips are vertices.
    """
    paths = sorted((folder / clip.key).rglob("*.obj"))
    if not paths:
        return None
    if model is None or not model.name.startswith(MANO):
        raise ValueError(f"{paths[0]}: holds a mesh, no joints; give --hand-model MANO_RIGHT.pkl, which has its joints")
    found: Placed = {}
    turned = _face_codes(model.faces.numpy())
    for path in paths:
        frame = _frame_of(path)
        verts, faces = _load_obj(path)
        if frame is None or len(verts) != NUM_VERTS:
            raise ValueError(
                f"{path}: {len(verts)} vertices; expected FRAME_HAND.obj with MANO's {NUM_VERTS}, as HaMeR's and "
                "WiLoR's demos write them"
            )
        as_right, as_left = (float(np.isin(_face_codes(one), turned).mean()) for one in (faces, faces[:, ::-1]))
        if not max(as_right, as_left) > 0.5:
            raise ValueError(f"{path}: its {len(faces)} faces are not MANO's, so its vertices are not either")
        verts = verts * OPENGL
        _put(found, path, frame, _regressed(model, verts), verts, is_right=as_right > as_left)
    return _prediction(found, folder / clip.key)


def _load_obj(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices and triangles of a Wavefront file; colours, normals and the like are passed over."""
    verts, faces = [], []
    try:
        for line in path.read_text().splitlines():
            kind, *parts = line.split() or [""]
            if kind == "v":
                verts.append([float(part) for part in parts[:3]])
            elif kind == "f":
                faces.append([int(part.split("/")[0]) - 1 for part in parts])
        return np.array(verts, np.float64).reshape(-1, 3), np.array(faces, np.int64).reshape(-1, 3)
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable OBJ ({error})") from None


def _face_codes(faces: np.ndarray) -> np.ndarray:
    """Return a number for each triangle: the same whichever corner comes first, another if it is turned over."""
    first = faces.argmin(axis=1)
    rows = np.arange(len(faces))
    corners = [faces[rows, (first + step) % 3] for step in range(3)]
    return (corners[0] * NUM_VERTS + corners[1]) * NUM_VERTS + corners[2]


def _regressed(model: HandModel, verts: np.ndarray) -> np.ndarray:
    bones = model.layer.J_regressor.double().numpy() @ verts
    return np.concatenate([bones, verts[list(FINGERTIP_VERTICES)]])[list(OPENPOSE_FROM_MANO)]


def _frame_of(path: Path) -> int | None:
    digits = path.stem.split("_")[0]
    return int(digits) if digits.isdecimal() else None


def _meshes(values: Any, num_hands: int) -> np.ndarray | None:
    """Return MANO's vertices of some hands, None if the file has none, or something else under that name."""
    array = np.asarray(values if values is not None else [])
    if array.dtype.kind not in "fiu" or array.size != num_hands * NUM_VERTS * 3:
        return None
    return array.reshape(num_hands, NUM_VERTS, 3).astype(np.float64)


def _put(
    found: Placed, path: Path, frame: int, joints: np.ndarray, verts: np.ndarray | None, *, is_right: bool
) -> None:
    name = "right_0" if is_right else "left_0"
    own = found.setdefault(name, {})
    if frame in own:
        raise ValueError(f"{path}: two {name[:-2]} hands in frame {frame}; keep one per side")
    own[frame] = (torch.from_numpy(joints), None if verts is None else torch.from_numpy(verts))


def _prediction(found: Placed, folder: Path) -> Prediction:
    """Return what was found frame by frame; vertices only where every frame of a hand has them."""
    hands = {}
    for name, frames in found.items():
        order = sorted(frames)
        verts = [verts for _joints, verts in (frames[frame] for frame in order) if verts is not None]
        hands[name] = PredictedHand(
            frame_index=torch.tensor(order),
            joints_cam=torch.stack([frames[frame][0] for frame in order]),
            joints_world=None,
            is_right=name.startswith("right"),
            verts_cam=torch.stack(verts) if len(verts) == len(order) else None,
            hand_model=MANO if len(verts) == len(order) else "",
        )
    return Prediction(hands, where=str(folder))


READERS: dict[str, Callable[[Path, EvalClip, HandModel | None], Prediction | None]] = {
    "haptic": _read_haptic,
    "hamer": _read_hamer,
    "wilor": _read_hamer,
    "dynhamr": _read_world_results,
    "hawor": _read_hawor,
}


def _mesh(model: HandModel, root: Any, pose: Any, betas: Any, trans: Any, *, is_right: bool) -> HandMesh:
    """Return a hand from axis-angles of a right one, mirrored after the model; one shape, or one per frame."""
    num = len(trans)
    turned = rotation_from_aa(torch.from_numpy(np.array(root, np.float64)).float().reshape(num, 3))
    bent = rotation_from_aa(torch.from_numpy(np.array(pose, np.float64)).float().reshape(num, 15, 3))
    shape = torch.from_numpy(np.array(betas, np.float64)).float().expand(num, 10)
    place = torch.from_numpy(np.array(trans, np.float64)).float().reshape(num, 3)
    with torch.no_grad():
        mesh = model(HandParams(turned, bent, shape, place))
    mesh = HandMesh(mesh.verts.double(), mesh.joints.double())
    return mesh if is_right else mirror_mesh(mesh)


def _needed(model: HandModel | None, path: Path) -> HandModel:
    if model is None or not model.name.startswith(MANO):
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
