"""`trajectory.npz`: a reconstruction as plain arrays, and back. The schema is in docs/outputs.md."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from haptic.files import atomic_write, load_plain_npz
from haptic.geometry.cameras import project
from haptic.hand.model import HandModel, trajectory_joints, trajectory_mesh
from haptic.records import Camera, HandParams, HandTrack, Reconstruction, Trajectory

FORMAT_VERSION = 1
VERTS_CHUNK_FRAMES = 256  # smplx keeps some thirty times the size of the vertices it returns

# What the detector said beyond the schema's two arrays, so that a reconstruction can be read back whole.
TRACK_FIELDS = (
    "box_center_img", "box_side_px", "landmarks", "landmarks_weight", "confidence", "observed"
)  # fmt: skip


def write_npz(path: Path, result: Reconstruction, model: HandModel, *, save_verts: bool = False) -> None:
    """Write everything a reconstruction holds; the mesh too if `save_verts` (19 kB per frame and hand, unpacked)."""
    K = result.camera.K
    arrays: dict[str, np.ndarray] = {
        "format_version": np.array(FORMAT_VERSION),
        "hand_model": np.array(result.hand_model),
        "fps": np.array(result.fps, dtype=np.float64),
        "image_size": np.array([result.image_width_px, result.image_height_px]),
        "time_s": _array(result.frame_time_s),
        "K": _array(K[0]) if len(K) else np.eye(3, dtype=np.float32),
        "T_world_cam": _array(result.camera.T_world_cam),
        "hands": np.array(list(result.hands), dtype=np.str_),
    }
    if len(K) and not torch.equal(K, K[:1].expand_as(K)):
        arrays["K_frames"] = _array(K)
    for name, trajectory in result.hands.items():
        hand = _hand_arrays(model, trajectory, result.tracks.get(name))
        if save_verts:
            hand["verts_cam"] = _verts_cam(model, trajectory)
        arrays.update({f"{name}/{key}": value for key, value in hand.items()})
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_npz(path: Path) -> Reconstruction:
    """Return the reconstruction that `write_npz` wrote.

    Raises:
        ValueError: the file is missing, is no such file, lacks an array or has one of a wrong shape.
    """
    arrays = _load(path)
    reader = _Reader(path, arrays)
    version = int(reader.get("format_version"))
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version is {version}; this version of haptic reads {FORMAT_VERSION}: update haptic or "
            "write the file again"
        )
    width_px, height_px = (int(side) for side in reader.get("image_size", 2))
    T_world_cam = reader.tensor("T_world_cam", None, 4, 4)
    num_frames = len(T_world_cam)
    if "K_frames" in arrays:
        K = reader.tensor("K_frames", num_frames, 3, 3)
    else:
        K = reader.tensor("K", 3, 3).expand(num_frames, 3, 3).clone()
    camera = Camera(K=K, T_world_cam=T_world_cam)
    names = [str(name) for name in reader.get("hands", None)]
    return Reconstruction(
        hands={name: _read_hand(reader, name, camera) for name in names},
        tracks={name: _read_track(reader, name) for name in names if f"{name}/detected_box_side_px" in arrays},
        camera=camera,
        frame_time_s=reader.tensor("time_s", num_frames),
        image_width_px=width_px,
        image_height_px=height_px,
        fps=float(reader.get("fps")),
        hand_model=str(reader.get("hand_model")),
    )


def _hand_arrays(model: HandModel, trajectory: Trajectory, track: HandTrack | None) -> dict[str, np.ndarray]:
    joints_cam = trajectory_joints(model, trajectory)
    params = trajectory.params
    num_frames = len(trajectory.frame_index)
    hand = {
        "frame_index": _array(trajectory.frame_index),
        "time_s": _array(trajectory.time_s),
        "joints_cam": _array(joints_cam),
        "joints_img": _array(project(joints_cam, trajectory.camera.K)),
        "detected_img": np.zeros((num_frames, 21, 2), np.float32),
        "detected_weight": np.zeros((num_frames, 21), np.float32),
        "global_orient": _array(params.global_orient),
        "hand_pose": _array(params.hand_pose),
        "betas": _array(params.betas[0]) if num_frames else np.zeros(10, np.float32),
        "transl": _array(params.transl),
        "confidence": _array(trajectory.confidence),
        "observed": _array(trajectory.observed),
        "is_right": _array(trajectory.is_right),
    }
    if track is not None:
        assert torch.equal(track.frame_index, trajectory.frame_index), (
            "a trajectory and its track cover different frames"
        )
        hand["detected_img"] = _array(track.joints_img)
        hand["detected_weight"] = _array(track.joints_img_weight)
        hand.update({f"detected_{field}": _array(getattr(track, field)) for field in TRACK_FIELDS})
    return hand


def _verts_cam(model: HandModel, trajectory: Trajectory) -> np.ndarray:
    num_frames = len(trajectory.frame_index)
    verts = np.zeros((num_frames, model.weights.shape[0], 3), np.float32)
    with torch.no_grad():
        for start in range(0, num_frames, VERTS_CHUNK_FRAMES):
            frames = torch.arange(start, min(start + VERTS_CHUNK_FRAMES, num_frames))
            verts[start : start + len(frames)] = trajectory_mesh(model, trajectory[frames]).verts.cpu().numpy()
    return verts


def _read_hand(reader: "_Reader", name: str, camera: Camera) -> Trajectory:
    frame_index = reader.tensor(f"{name}/frame_index", None)
    num_frames = len(frame_index)
    if num_frames and not 0 <= int(frame_index.min()) <= int(frame_index.max()) < len(camera.K):
        raise ValueError(
            f"{reader.path}: {name}/frame_index reaches from {int(frame_index.min())} to {int(frame_index.max())}; "
            f"the video has frames 0 to {len(camera.K) - 1}"
        )
    return Trajectory(
        frame_index=frame_index,
        time_s=reader.tensor(f"{name}/time_s", num_frames),
        params=HandParams(
            global_orient=reader.tensor(f"{name}/global_orient", num_frames, 3, 3),
            hand_pose=reader.tensor(f"{name}/hand_pose", num_frames, 15, 3, 3),
            betas=reader.tensor(f"{name}/betas", 10).expand(num_frames, 10).clone(),
            transl=reader.tensor(f"{name}/transl", num_frames, 3),
        ),
        camera=camera[frame_index],
        confidence=reader.tensor(f"{name}/confidence", num_frames),
        observed=reader.tensor(f"{name}/observed", num_frames),
        is_right=reader.tensor(f"{name}/is_right"),
    )


def _read_track(reader: "_Reader", name: str) -> HandTrack:
    frame_index = reader.tensor(f"{name}/frame_index", None)
    num_frames = len(frame_index)
    shapes = {"box_center_img": (2,), "landmarks": (21, 3)}
    return HandTrack(
        frame_index=frame_index,
        time_s=reader.tensor(f"{name}/time_s", num_frames),
        joints_img=reader.tensor(f"{name}/detected_img", num_frames, 21, 2),
        joints_img_weight=reader.tensor(f"{name}/detected_weight", num_frames, 21),
        is_right=reader.tensor(f"{name}/is_right"),
        **{
            field: reader.tensor(f"{name}/detected_{field}", num_frames, *shapes.get(field, ()))
            for field in TRACK_FIELDS
        },
    )


class _Reader:
    """Arrays of one file, each checked when it is asked for."""

    def __init__(self, path: Path, arrays: dict[str, np.ndarray]) -> None:
        self.path = path
        self.arrays = arrays

    def get(self, key: str, *shape: int | None) -> np.ndarray:
        """Return an array; None in `shape` stands for any length."""
        if key not in self.arrays:
            raise ValueError(f"{self.path}: no array named {key}; this is no trajectory.npz that haptic wrote")
        array = self.arrays[key]
        fits = array.ndim == len(shape) and all(
            want is None or have == want for have, want in zip(array.shape, shape, strict=True)
        )
        if not fits:
            expected = "(" + ", ".join("any" if side is None else str(side) for side in shape) + ")"
            raise ValueError(f"{self.path}: {key} has the shape {array.shape}; expected {expected}")
        return array

    def tensor(self, key: str, *shape: int | None) -> Tensor:
        """Return an array of numbers as a tensor of its own."""
        array = self.get(key, *shape)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{self.path}: {key} holds {array.dtype}; expected numbers")
        return torch.from_numpy(array.copy()) if array.ndim else torch.tensor(array.item())


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_plain_npz(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; expected a trajectory.npz that haptic wrote") from None
    except ValueError as error:
        raise ValueError(f"{path}: not a readable trajectory.npz ({error})") from None


def _array(tensor: Tensor) -> Any:
    return tensor.detach().cpu().numpy()
