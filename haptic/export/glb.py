"""`scene.glb`: every hand as a skinned, animated mesh, and the camera, in glTF 2.0's binary form.

glTF's axes are x right, y up and a camera that looks along -z; ours are x right, y down, z forward. Half a turn about x
takes one to the other, so nothing is mirrored. Everything is written in glTF's axes already: no node turns the scene.
"""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

import haptic
from haptic.export.rig import BONE_NAMES, BONE_PARENTS, Rig, make_rig, skin_error_mm
from haptic.files import atomic_write
from haptic.geometry.raster import vertex_normals
from haptic.geometry.rotations import quat_from_rotation, rotation_from_quat
from haptic.hand.model import HandModel
from haptic.hand.palette import skin_color
from haptic.records import Reconstruction, Trajectory

FLIP = np.diag([1.0, -1.0, -1.0])  # our axes to glTF's; its own inverse
FLOAT, UNSIGNED_SHORT, UNSIGNED_BYTE = 5126, 5123, 5121  # glTF's component types
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
CAMERA_NEAR_M, CAMERA_FAR_M = 0.01, 100.0
JSON_CHUNK, BINARY_CHUNK = 0x4E4F534A, 0x004E4942


def write_glb(path: Path, result: Reconstruction, model: HandModel) -> float:
    """Write the scene; return how far any skin strays from the model's mesh, in mm (pose correctives are left out).

    A hand is hidden outside its frames by a scale of zero at its wrist, glTF's own means of animating visibility. The
    camera is a node too; its principal point and lens changes have no place in glTF.
    """
    scene = _Scene(result)
    scene.add_camera()
    worst_mm = 0.0
    for name, trajectory in result.hands.items():
        if not len(trajectory.frame_index):
            continue
        rig = make_rig(model, trajectory)
        scene.add_hand(name, trajectory, rig)
        worst_mm = max(worst_mm, skin_error_mm(model, trajectory, rig))
    with atomic_write(path) as file:
        scene.write(file)
    return worst_mm


@dataclass
class _Scene:
    """A glTF document as it grows: its JSON, and one buffer."""

    result: Reconstruction
    binary: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.start_s = min(0.0, float(self.result.frame_time_s.min())) if len(self.result.frame_time_s) else 0.0
        self.frame_time_s = increasing_times(self.result.frame_time_s.numpy() - self.start_s)
        self.nodes: list[dict[str, Any]] = []
        self.roots: list[int] = []
        self.channels: list[dict[str, Any]] = []
        self.samplers: list[dict[str, Any]] = []
        self.tables: dict[str, list[dict[str, Any]]] = {
            key: [] for key in ("accessors", "bufferViews", "cameras", "materials", "meshes", "skins")
        }

    def add_camera(self) -> None:
        """Add the camera of the video, moving if it moves."""
        K = self.result.camera.K.numpy()
        width, height = self.result.image_width_px, self.result.image_height_px
        lens: dict[str, Any] = {"type": "perspective", "name": "camera"}
        focal_px = float(np.median(K[:, 1, 1])) if len(K) else float(max(width, height))
        lens["perspective"] = {
            "yfov": float(2 * np.arctan(height / 2 / focal_px)),
            "aspectRatio": width / height,
            "znear": CAMERA_NEAR_M,
            "zfar": CAMERA_FAR_M,
        }
        if len(K):
            lens["extras"] = {"K": K[0].tolist(), "image_size": [width, height]}
        self.tables["cameras"].append(lens)
        places = self.result.camera.T_world_cam.numpy()
        node = self._add_node({"name": "camera", "camera": 0})
        self.roots.append(node)
        if not len(places):
            return
        quats, translations = _quats(places[:, :3, :3]), places[:, :3, 3] @ FLIP
        self.nodes[node] |= {"rotation": quats[0].tolist(), "translation": translations[0].tolist()}
        if np.ptp(places, axis=0).max() > 0:
            times = self._add_times(self.frame_time_s)
            self._animate(node, "rotation", times, quats)
            self._animate(node, "translation", times, translations)

    def add_hand(self, name: str, trajectory: Trajectory, rig: Rig) -> None:
        """Add one hand: its bones, its skin and its motion."""
        rest_bones = (rig.rest_bones @ FLIP).astype(np.float32)
        bones = self._add_bones(name, rig, rest_bones)
        inverse_bind = np.tile(np.eye(4, dtype=np.float32), (len(bones), 1, 1))
        inverse_bind[:, 3, :3] = -rest_bones  # columns lie one after the other in glTF: this is the translation
        self.tables["skins"].append(
            {"name": name, "joints": bones, "skeleton": bones[0], "inverseBindMatrices": self._add_array(inverse_bind)}
        )
        self.tables["meshes"].append({"name": name, "primitives": [self._add_primitive(name, rig)]})
        skin_node = {"name": f"{name}_mesh", "mesh": len(self.tables["meshes"]) - 1}
        skin = self._add_node(skin_node | {"skin": len(self.tables["skins"]) - 1})
        armature = {"name": name, "children": [bones[0]]}
        self.roots += [self._add_node(armature), skin]
        self._animate_hand(trajectory, rig, bones)

    def _add_bones(self, name: str, rig: Rig, rest_bones: np.ndarray) -> list[int]:
        first = len(self.nodes)
        for bone, parent in enumerate(BONE_PARENTS):
            node: dict[str, Any] = {"name": f"{name}_{BONE_NAMES[bone]}"}
            if parent < 0:
                node["translation"] = (FLIP @ rig.bone_positions[0, 0]).tolist()
            else:
                node["translation"] = (rest_bones[bone] - rest_bones[parent]).tolist()
            if bone < rig.bone_quats.shape[1]:
                node["rotation"] = _quats(_local_rotation(rig, bone, slice(0, 1)))[0].tolist()
            children = [first + child for child, owner in enumerate(BONE_PARENTS) if owner == bone]
            self._add_node(node | ({"children": children} if children else {}))
        return list(range(first, first + len(BONE_PARENTS)))

    def _add_primitive(self, name: str, rig: Rig) -> dict[str, Any]:
        verts = (rig.rest_verts @ FLIP).astype(np.float32)
        self.tables["materials"].append(
            {
                "name": name,
                "doubleSided": True,  # the wrist is open: one can look inside
                "pbrMetallicRoughness": {
                    "baseColorFactor": [*_linear(skin_color(name)), 1.0],
                    "metallicFactor": 0.0,
                    "roughnessFactor": 0.65,
                },
            }
        )
        return {
            "attributes": {
                "POSITION": self._add_array(verts, target=ARRAY_BUFFER, bounds=True),
                "NORMAL": self._add_array(vertex_normals(verts, rig.faces), target=ARRAY_BUFFER),
                "JOINTS_0": self._add_array(rig.skin_bones.astype(np.uint8), target=ARRAY_BUFFER),
                "WEIGHTS_0": self._add_array(rig.skin_weights, target=ARRAY_BUFFER),
            },
            "indices": self._add_array(rig.faces.astype(np.uint16).reshape(-1), target=ELEMENT_ARRAY_BUFFER),
            "material": len(self.tables["materials"]) - 1,
        }

    def _animate_hand(self, trajectory: Trajectory, rig: Rig, bones: list[int]) -> None:
        times = self._add_times(increasing_times(trajectory.time_s.numpy() - self.start_s))
        for bone in range(rig.bone_quats.shape[1]):  # one at a time: a film has many frames
            self._animate(bones[bone], "rotation", times, _quats(_local_rotation(rig, bone, slice(None))))
        self._animate(bones[0], "translation", times, rig.bone_positions[:, 0] @ FLIP)
        changes = visibility_changes(trajectory.frame_index.numpy(), len(self.frame_time_s))
        frames = np.array([frame for frame, _ in changes])
        scales = np.array([[float(is_visible)] * 3 for _, is_visible in changes])
        self._animate(bones[0], "scale", self._add_times(self.frame_time_s[frames]), scales, interpolation="STEP")

    def _animate(self, node: int, path: str, times: int, values: np.ndarray, interpolation: str = "LINEAR") -> None:
        sampler = {"input": times, "output": self._add_array(values.astype(np.float32)), "interpolation": interpolation}
        self.samplers.append(sampler)
        self.channels.append({"sampler": len(self.samplers) - 1, "target": {"node": node, "path": path}})

    def _add_times(self, times_s: np.ndarray) -> int:
        return self._add_array(times_s.astype(np.float32), bounds=True)

    def _add_node(self, node: dict[str, Any]) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def _add_array(self, array: np.ndarray, *, target: int | None = None, bounds: bool = False) -> int:
        kinds = {(): "SCALAR", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}
        components = {
            np.dtype(np.float32): FLOAT,
            np.dtype(np.uint16): UNSIGNED_SHORT,
            np.dtype(np.uint8): UNSIGNED_BYTE,
        }
        self.binary += b"\0" * (-len(self.binary) % 4)  # accessors start at multiples of their component's size
        view = {"buffer": 0, "byteOffset": len(self.binary), "byteLength": array.nbytes}
        self.binary += np.ascontiguousarray(array).tobytes()
        self.tables["bufferViews"].append(view | ({"target": target} if target else {}))
        accessor: dict[str, Any] = {
            "bufferView": len(self.tables["bufferViews"]) - 1,
            "componentType": components[array.dtype],
            "count": len(array),
            "type": kinds[array.shape[1:]],
        }
        if bounds:
            accessor["min"] = np.atleast_1d(array.min(axis=0)).tolist()
            accessor["max"] = np.atleast_1d(array.max(axis=0)).tolist()
        self.tables["accessors"].append(accessor)
        return len(self.tables["accessors"]) - 1

    def write(self, file: BinaryIO) -> None:
        """Write a header, the JSON and the buffer, each padded to four bytes."""
        document: dict[str, Any] = {
            "asset": {
                "version": "2.0",
                "generator": f"haptic {haptic.__version__}",
                "extras": {"hand_model": self.result.hand_model, "fps": self.result.fps, "start_s": self.start_s},
            },
            "scene": 0,
            "scenes": [{"name": "reconstruction", "nodes": self.roots}],
            "nodes": self.nodes,
        }
        document |= {key: table for key, table in self.tables.items() if table}
        if self.channels:
            document["animations"] = [{"name": "reconstruction", "channels": self.channels, "samplers": self.samplers}]
        self.binary += b"\0" * (-len(self.binary) % 4)
        if self.binary:
            document["buffers"] = [{"byteLength": len(self.binary)}]
        text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
        chunks = [(JSON_CHUNK, text + b" " * (-len(text) % 4))] + ([(BINARY_CHUNK, self.binary)] if self.binary else [])
        file.write(struct.pack("<4sII", b"glTF", 2, 12 + sum(8 + len(data) for _, data in chunks)))
        for kind, data in chunks:
            file.write(struct.pack("<II", len(data), kind))
            file.write(data)


def increasing_times(times_s: np.ndarray) -> np.ndarray:
    """Return the times in float32, each later than the one before: glTF asks for it, and a video may repeat one."""
    times = times_s.astype(np.float32)
    for index in range(1, len(times)):
        if times[index] <= times[index - 1]:
            times[index] = np.nextafter(times[index - 1], np.float32(np.inf))
    return times


def visibility_changes(frame_index: np.ndarray, num_frames: int) -> list[tuple[int, bool]]:
    """Return (frame, is visible) where a hand appears or goes, from frame 0 on."""
    is_there = np.zeros(num_frames, bool)
    is_there[frame_index] = True
    turns = np.flatnonzero(np.diff(is_there)) + 1
    return [(int(frame), bool(is_there[frame])) for frame in [0, *turns]]


def _local_rotation(rig: Rig, bone: int, frames: slice) -> np.ndarray:
    """Return a bone's rotation within its parent's, the wrist's in the world, as (T, 3, 3)."""
    own, parent = (
        rotation_from_quat(torch.from_numpy(rig.bone_quats[frames, number]).double()).numpy()
        for number in (bone, max(BONE_PARENTS[bone], 0))
    )
    return own if BONE_PARENTS[bone] < 0 else parent.transpose(0, 2, 1) @ own


def _quats(rotation: np.ndarray) -> np.ndarray:
    """Return glTF's quaternions (x, y, z, w) of our rotations, in glTF's axes, without jumps of sign over time."""
    flipped = torch.from_numpy(np.ascontiguousarray(FLIP @ rotation @ FLIP))
    quats = quat_from_rotation(flipped).numpy()[:, [1, 2, 3, 0]]
    signs = np.where((quats[1:] * quats[:-1]).sum(axis=1) < 0, -1.0, 1.0)
    quats[1:] *= np.cumprod(signs)[:, None]
    return quats / np.linalg.norm(quats, axis=1, keepdims=True)


def _linear(color: tuple[float, float, float]) -> list[float]:
    """Return a screen colour (sRGB) as glTF wants it: linear."""
    value = np.asarray(color)
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).tolist()
