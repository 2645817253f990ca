"""scene.glb, read back by a reader of its own: the skin moves as the mesh does, in glTF's axes, scale and time."""

import json
import os
import shutil
import struct
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch

from haptic.export.glb import increasing_times, visibility_changes, write_glb
from haptic.geometry.transforms import apply_transform
from haptic.hand.joints import MANO_NAMES
from haptic.hand.model import load_hand_model, trajectory_joints, trajectory_mesh
from haptic.hand.reprojection import trajectory_joints_img

DTYPES = {5126: np.float32, 5123: np.uint16, 5121: np.uint8}
WIDTHS = {"SCALAR": (), "VEC3": (3,), "VEC4": (4,), "MAT4": (4, 4)}
TO_GLTF = np.array([1.0, -1.0, -1.0])


class Reader:
    """Evaluates a glb at a moment in time, as the glTF 2.0 specification says."""

    def __init__(self, path):
        data = path.read_bytes()
        magic, version, length = struct.unpack_from("<4sII", data)
        assert (magic, version, length) == (b"glTF", 2, len(data))
        size, kind = struct.unpack_from("<I4s", data, 12)
        assert kind == b"JSON"
        self.document = json.loads(data[20 : 20 + size])
        rest = data[20 + size :]
        self.binary = b""
        if rest:
            size, kind = struct.unpack_from("<I4s", rest)
            assert kind == b"BIN\0"
            self.binary = rest[8 : 8 + size]
        self.nodes = self.document["nodes"]
        self.parent = {child: node for node, item in enumerate(self.nodes) for child in item.get("children", [])}

    def array(self, index):
        accessor = self.document["accessors"][index]
        view = self.document["bufferViews"][accessor["bufferView"]]
        shape = (accessor["count"], *WIDTHS[accessor["type"]])
        dtype = DTYPES[accessor["componentType"]]
        return np.frombuffer(self.binary, dtype, int(np.prod(shape)), view["byteOffset"]).reshape(shape)

    def node_named(self, name):
        return next(index for index, node in enumerate(self.nodes) if node["name"] == name)

    def places(self, time_s):
        """Return each node's 4x4 place in the scene at a time."""
        state = [
            {
                "translation": np.array(node.get("translation", [0, 0, 0]), float),
                "rotation": np.array(node.get("rotation", [0, 0, 0, 1]), float),
                "scale": np.array(node.get("scale", [1, 1, 1]), float),
            }
            for node in self.nodes
        ]
        for animation in self.document.get("animations", []):
            for channel in animation["channels"]:
                sampler = animation["samplers"][channel["sampler"]]
                state[channel["target"]["node"]][channel["target"]["path"]] = self._sample(sampler, time_s)
        local = [make_place(**item) for item in state]
        places = {}

        def place(node):
            if node not in places:
                places[node] = place(self.parent[node]) @ local[node] if node in self.parent else local[node]
            return places[node]

        return [place(node) for node in range(len(self.nodes))]

    def _sample(self, sampler, time_s):
        times, values = self.array(sampler["input"]), self.array(sampler["output"]).astype(float)
        assert (np.diff(times) > 0).all()
        after = int(np.searchsorted(times, np.float32(time_s), side="right"))
        before = max(after - 1, 0)
        if sampler["interpolation"] == "STEP" or after in (0, len(times)):
            return values[before]
        share = (np.float32(time_s) - times[before]) / (times[after] - times[before])
        mixed = (1 - share) * values[before] + share * values[after]
        return mixed / np.linalg.norm(mixed) if values.shape[1] == 4 else mixed

    def verts(self, name, time_s):
        """Return the skinned vertices of a hand at a time, in glTF's axes."""
        node = self.nodes[self.node_named(f"{name}_mesh")]
        skin = self.document["skins"][node["skin"]]
        attributes = self.document["meshes"][node["mesh"]]["primitives"][0]["attributes"]
        places = self.places(time_s)
        inverse_bind = self.array(skin["inverseBindMatrices"]).transpose(0, 2, 1)  # glTF writes columns first
        matrices = np.stack([places[joint] for joint in skin["joints"]]) @ inverse_bind
        rest = self.array(attributes["POSITION"])
        rest = np.concatenate([rest, np.ones((len(rest), 1))], axis=1)
        bones, weights = self.array(attributes["JOINTS_0"]), self.array(attributes["WEIGHTS_0"])
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
        return np.einsum("vk,vkab,vb->va", weights, matrices[bones], rest)[:, :3]


def make_place(translation, rotation, scale):
    x, y, z, w = rotation
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    place = np.eye(4)
    place[:3, :3] = turn * scale
    place[:3, 3] = translation
    return place


def straighten(result):
    """Return the result with flat hands, whose pose correctives are zero."""

    def flat(hand):
        pose = torch.eye(3).expand_as(hand.params.hand_pose).clone()
        return replace(hand, params=replace(hand.params, hand_pose=pose))

    return replace(result, hands={name: flat(hand) for name, hand in result.hands.items()})


def world_verts(model, hand):
    return apply_transform(hand.camera.T_world_cam, trajectory_mesh(model, hand).verts).numpy()


@pytest.mark.parametrize("moving_camera", [False, True])
def test_flat_hands_of_either_side_move_in_the_scene_as_in_the_world(moving_camera, make_result, open_hand, tmp_path):
    result = straighten(make_result(((0, 20), (4, 16)), moving_camera=moving_camera))
    error_mm = write_glb(tmp_path / "scene.glb", result, open_hand)
    assert error_mm < 0.01
    reader = Reader(tmp_path / "scene.glb")
    for name, hand in result.hands.items():
        expected = world_verts(open_hand, hand) * TO_GLTF
        for row in (0, 5, len(expected) - 1):
            actual = reader.verts(name, float(hand.time_s[row]))
            np.testing.assert_allclose(actual, expected[row], atol=2e-5)


def test_bent_hands_stray_from_the_mesh_by_no_more_than_what_is_reported(make_result, open_hand, tmp_path):
    result = make_result(((0, 20), (4, 16)), moving_camera=True)
    error_mm = write_glb(tmp_path / "scene.glb", result, open_hand)
    reader = Reader(tmp_path / "scene.glb")
    worst_mm = 0.0
    for name, hand in result.hands.items():
        expected = world_verts(open_hand, hand) * TO_GLTF
        for row, time_s in enumerate(hand.time_s.tolist()):
            distance = np.linalg.norm(reader.verts(name, time_s) - expected[row], axis=1)
            worst_mm = max(worst_mm, 1000 * float(distance.max()))
    assert worst_mm == pytest.approx(error_mm, abs=0.02), (
        "the reported figure is the largest, not a bound out of the air"
    )
    assert error_mm < 20


def test_bones_carry_the_joints_and_bear_their_names(make_result, open_hand, tmp_path):
    result = make_result(((0, 20), (4, 16)))
    write_glb(tmp_path / "scene.glb", result, open_hand)
    reader = Reader(tmp_path / "scene.glb")
    for name, hand in result.hands.items():
        joints = trajectory_joints(open_hand, hand).numpy() * TO_GLTF
        places = reader.places(float(hand.time_s[7]))
        for joint, openpose in (("wrist", 0), ("thumb_ip", 3), ("index_mcp", 5), ("pinky_dip", 19)):
            place = places[reader.node_named(f"{name}_{joint}")]
            np.testing.assert_allclose(place[:3, 3], joints[7, openpose], atol=1e-5)
            assert joint in MANO_NAMES
        tip = places[reader.node_named(f"{name}_index_tip")][:3, 3]
        assert np.linalg.norm(tip - joints[7, 8]) < 0.01, "fingertips end the fingers, but for their correctives"


def test_the_outside_of_both_hands_is_outside(make_result, open_hand, tmp_path):
    write_glb(tmp_path / "scene.glb", make_result(((0, 20), (0, 20))), open_hand)
    reader = Reader(tmp_path / "scene.glb")
    for mesh in reader.document["meshes"]:
        primitive = mesh["primitives"][0]
        verts = reader.array(primitive["attributes"]["POSITION"]).astype(float)
        faces = reader.array(primitive["indices"]).reshape(-1, 3)
        corners = (verts - verts.mean(axis=0))[faces]
        volume_litres = 1000 * np.linalg.det(corners).sum() / 6
        assert 0.15 < volume_litres < 0.7, f"{mesh['name']} holds {volume_litres} litres"
        normals = reader.array(primitive["attributes"]["NORMAL"])
        face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        assert ((normals[faces].sum(axis=1) * face_normals).sum(axis=1) > 0).mean() > 0.99


def test_a_hand_is_hidden_where_it_is_not_tracked(make_result, open_hand, tmp_path):
    result = make_result(((4, 16), (0, 20)))
    write_glb(tmp_path / "scene.glb", result, open_hand)
    reader = Reader(tmp_path / "scene.glb")

    def size_m(name, frame):
        verts = reader.verts(name, frame / 30 + 0.001)
        return float(np.ptp(verts, axis=0).max())

    assert [size_m("right_0", frame) > 0.1 for frame in (0, 3, 4, 15, 16, 19)] == [
        False,
        False,
        True,
        True,
        False,
        False,
    ]
    assert all(size_m("left_0", frame) > 0.1 for frame in (0, 10, 19))


def test_a_hand_that_leaves_and_returns_is_hidden_in_between():
    assert visibility_changes(np.array([1, 2, 5, 6]), 8) == [(0, False), (1, True), (3, False), (5, True), (7, False)]
    assert visibility_changes(np.array([0, 1]), 2) == [(0, True)]


def test_the_camera_of_the_scene_sees_what_the_video_saw(make_result, open_hand, tmp_path):
    result = make_result(((0, 20),), moving_camera=True)
    write_glb(tmp_path / "scene.glb", result, open_hand)
    reader = Reader(tmp_path / "scene.glb")
    frame = 13
    place = reader.places(frame / 30)[reader.node_named("camera")]
    joints_world = apply_transform(
        result.camera.T_world_cam[frame], trajectory_joints(open_hand, result.hands["right_0"])[frame]
    ).numpy()
    seen = (joints_world * TO_GLTF - place[:3, 3]) @ place[:3, :3]  # in a glTF camera: y up, looking along -z
    lens = reader.document["cameras"][0]["perspective"]
    focal_px = 240 / 2 / np.tan(lens["yfov"] / 2)
    pixels = seen[:, :2] / -seen[:, 2:] * focal_px * [1, -1] + [(320 - 1) / 2, (240 - 1) / 2]
    expected = trajectory_joints_img(open_hand, result.hands["right_0"])[frame].numpy()
    np.testing.assert_allclose(pixels, expected, atol=0.05)
    assert lens["aspectRatio"] == pytest.approx(320 / 240)


def test_times_that_repeat_or_step_back_become_increasing():
    times = increasing_times(np.array([0.0, 0.1, 0.1, 0.05, 3600.0, 3600.00001]))
    assert (np.diff(times) > 0).all()
    np.testing.assert_allclose(times, [0, 0.1, 0.1, 0.1, 3600, 3600], atol=1e-3)


def test_a_scene_without_hands_is_still_a_scene(make_result, open_hand, tmp_path):
    assert write_glb(tmp_path / "scene.glb", make_result(()), open_hand) == 0
    reader = Reader(tmp_path / "scene.glb")
    assert [node["name"] for node in reader.nodes] == ["camera"]
    assert "buffers" not in reader.document


def test_trimesh_reads_the_scene(make_result, open_hand, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    write_glb(tmp_path / "scene.glb", make_result(((0, 20), (4, 16))), open_hand)
    scene = trimesh.load(tmp_path / "scene.glb")
    assert sorted(len(mesh.vertices) for mesh in scene.geometry.values()) == [778, 778]


def test_the_licensed_layout_is_exported_too(make_result, shared_dir, tmp_path):
    model = load_hand_model(shared_dir / "golden" / "synthetic_MANO_RIGHT.pkl")
    result = straighten(make_result(((0, 3), (0, 3)), num_frames=3))
    error_mm = write_glb(tmp_path / "scene.glb", result, model)
    reader = Reader(tmp_path / "scene.glb")
    for name, hand in result.hands.items():
        distance = np.linalg.norm(reader.verts(name, 0.0) - world_verts(model, hand)[0] * TO_GLTF, axis=1)
        assert 1000 * distance.max() <= error_mm + 0.02, "more than four bones per vertex are cut, and that is reported"


def validator_paths():
    """Where node may find gltf-validator: NODE_PATH, and npm's global folder."""
    roots = [os.environ.get("NODE_PATH", "")]
    if shutil.which("npm"):
        roots.append(subprocess.run(["npm", "root", "-g"], capture_output=True, text=True, check=False).stdout.strip())
    return os.pathsep.join(root for root in roots if root)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_khronos_validator_finds_no_error(make_result, open_hand, tmp_path):
    environment = {**os.environ, "NODE_PATH": validator_paths()}
    found = subprocess.run(
        ["node", "-e", "require('gltf-validator')"], env=environment, capture_output=True, check=False
    )
    if found.returncode:
        pytest.skip("the npm package gltf-validator is not installed (npm install -g gltf-validator, or set NODE_PATH)")
    cases = {
        "both": make_result(((0, 20), (4, 16)), moving_camera=True),
        "none": make_result(()),
        "one_frame": make_result(((0, 1),), num_frames=1),
        "six": make_result(((0, 20), (2, 9), (0, 5), (3, 9), (1, 9), (5, 20))),
        "early": replace(make_result(((0, 20),)), frame_time_s=torch.arange(20, dtype=torch.float64) / 30 - 0.2),
    }
    for name, result in cases.items():
        write_glb(tmp_path / f"{name}.glb", result, open_hand)
    script = (
        "const v=require('gltf-validator'),fs=require('fs');Promise.all(process.argv.slice(1).map(f=>"
        "v.validateBytes(new Uint8Array(fs.readFileSync(f))))).then(r=>console.log(JSON.stringify(r.map(x=>x.issues))))"
    )
    files = [str(tmp_path / f"{name}.glb") for name in cases]
    answer = subprocess.run(["node", "-e", script, *files], env=environment, capture_output=True, text=True, check=True)
    for name, issues in zip(cases, json.loads(answer.stdout), strict=True):
        assert (issues["numErrors"], issues["numWarnings"]) == (0, 0), f"{name}: {issues['messages'][:3]}"
