"""Build the open hand: a free, rigged hand in MANO's file layout, from the WebXR generic hand (MIT licence).

    python -m data_prep.build_openhand [--glb right.glb] [--out checkpoints/openhand/OPENHAND_RIGHT.npz]

Without `--glb` the file comes out of the npm package, through `npm pack`. The same input gives the same arrays.
Nothing in it is MANO's but the conventions: the order of the joints, the axes, the flat rest pose, the counts.
"""

import argparse
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from data_prep.mesh_surgery import volume, weld
from data_prep.openhand_pose import (
    fit_posedirs,
    joint_rotations,
    linear_skin,
    natural_poses,
    rest_correction,
    sample_poses,
)
from data_prep.openhand_rest import PARENTS, Hand, SourceHand, fit_regressor, make_rest_hand
from data_prep.openhand_shape import make_shapedirs
from haptic.files import atomic_path, sha256_of

NPM_PACKAGE = "@webxr-input-profiles/assets@1.0.20"
GLB_IN_PACKAGE = "package/dist/profiles/generic-hand/right.glb"
GLB_SHA256 = "291790c14f7f88a7f9bd35330c47392ed8e8d395ae6728f4bb7089f1bc1f2b96"


def main() -> None:
    """Read the command line, build, write, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--glb", type=Path, help="right.glb of the generic hand; default: fetched with npm pack")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/openhand/OPENHAND_RIGHT.npz"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = read_source(args.glb or fetch_glb(Path(folder)))
    arrays = build(source)
    with atomic_path(args.out) as path:
        np.savez_compressed(path, **arrays)
    print(f"{args.out}: {args.out.stat().st_size / 1024:.0f} KiB, sha256 {sha256_of(args.out)}")


def fetch_glb(folder: Path) -> Path:
    """Get the npm package into `folder` and take the right hand out of it."""
    done = subprocess.run(
        ["npm", "pack", "--silent", NPM_PACKAGE], cwd=folder, check=True, capture_output=True, text=True
    )
    with tarfile.open(folder / done.stdout.split()[-1]) as archive:
        member = archive.extractfile(GLB_IN_PACKAGE)
        if member is None:
            raise ValueError(f"{NPM_PACKAGE} has no file {GLB_IN_PACKAGE}")
        path = folder / "right.glb"
        path.write_bytes(member.read())
    return path


def read_source(path: Path) -> SourceHand:
    """Read the hand from its glb file, after checking that it is the one that this script knows."""
    if (digest := sha256_of(path)) != GLB_SHA256:
        raise ValueError(f"{path} has sha256 {digest}; expected {GLB_SHA256}, right.glb of {NPM_PACKAGE}")
    document, read = _open_glb(path)
    primitive = document["meshes"][0]["primitives"][0]
    attributes = primitive["attributes"]
    raw_verts = read(attributes["POSITION"])
    first, faces = weld(raw_verts, read(primitive["indices"]).reshape(-1, 3).astype(int))
    nodes = [document["nodes"][k] for k in document["skins"][0]["joints"]]
    weights = np.zeros((len(first), len(nodes)))
    slots = read(attributes["JOINTS_0"])[first], read(attributes["WEIGHTS_0"])[first]
    np.add.at(weights, (np.arange(len(first))[:, None], slots[0]), slots[1])
    # WebXR's generic hand: fingers towards -y, back +x, thumb -z. This turn takes it to MANO's axes.
    to_mano = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    frames = to_mano @ Rotation.from_quat([node["rotation"] for node in nodes]).as_matrix()
    return SourceHand(
        verts=raw_verts[first].astype(float) @ to_mano.T,
        faces=faces,
        names=tuple(node["name"] for node in nodes),
        weights=weights / weights.sum(axis=1, keepdims=True),
        joints=np.array([node["translation"] for node in nodes]) @ to_mano.T,
        up=frames[:, :, 1],  # a WebXR bone points along its own -z, its back along +y
    )


def build(source: SourceHand) -> dict[str, np.ndarray]:
    """Turn the source hand into the arrays of a MANO file, and print how well that went."""
    hand, surface_mm = make_rest_hand(source)
    regressor = fit_regressor(hand)
    posedirs = fit_posedirs(hand)
    hands_mean, components = natural_poses(hand)
    arrays = {
        "v_template": hand.verts,
        "J_regressor": regressor,
        "J": regressor @ hand.verts,
        "weights": hand.weights,
        "shapedirs": make_shapedirs(hand, regressor),
        "posedirs": posedirs,
        "hands_mean": hands_mean,
        "hands_components": components,
    }
    print(f"distance to the re-posed source: mean {surface_mm.mean():.3f}, max {surface_mm.max():.3f} mm")
    report(hand, posedirs)
    return {
        **{name: array.astype(np.float32) for name, array in arrays.items()},
        "f": hand.faces.astype(np.uint32),
        # MANO writes "no parent" as -1 in unsigned numbers.
        "kintree_table": np.array([PARENTS, range(16)]).astype(np.uint32),
    }


def report(hand: Hand, posedirs: Float[np.ndarray, "V 3 135"]) -> None:
    """Print what the pose directions achieve: on poses that they have not seen, and on right angles."""
    poses = sample_poses(hand, 100, rng=np.random.default_rng(2))
    wanted = np.stack([rest_correction(hand, pose) for pose in poses])
    fitted = (poses - np.eye(3)).reshape(-1, 135) @ posedirs.reshape(-1, 135).T
    left = wanted - fitted.reshape(wanted.shape)
    before, after = (np.sqrt((d**2).sum(axis=-1).mean()) * 1e3 for d in (wanted, left))
    print(f"unseen poses, rms distance to the aim: {before:.3f} mm without posedirs, {after:.3f} mm with them")
    at_rest = volume(hand.verts, hand.closed_faces)
    for joint in range(1, 16):
        angles = np.zeros((1, 15, 3))
        angles[0, joint - 1, 0] = np.pi / 2
        rotations = joint_rotations(hand, angles)[0]
        correction = posedirs @ (rotations - np.eye(3)).ravel()
        without, with_them = (
            (volume(linear_skin(hand, verts, rotations), hand.closed_faces) - at_rest) * 1e6
            for verts in (hand.verts, hand.verts + correction)
        )
        print(f"joint {joint:2d} bent by 90 degrees: {without:+6.2f} cm3 without posedirs, {with_them:+6.2f} with")


def _open_glb(path: Path) -> tuple[dict[str, Any], Callable[[int], np.ndarray]]:
    """Return a binary glTF's JSON document and a function that reads its accessor of a number as rows."""
    content = path.read_bytes()
    json_bytes = int.from_bytes(content[12:16], "little")
    document = json.loads(content[20 : 20 + json_bytes])
    buffer = content[28 + json_bytes :]
    kinds = {5121: "<u1", 5123: "<u2", 5126: "<f4"}
    widths = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}

    def read(number: int) -> np.ndarray:
        accessor = document["accessors"][number]
        start = document["bufferViews"][accessor["bufferView"]]["byteOffset"]
        width = widths[accessor["type"]]
        values = np.frombuffer(buffer, kinds[accessor["componentType"]], accessor["count"] * width, start)
        return values.reshape(-1, width)

    return document, read


if __name__ == "__main__":
    main()
