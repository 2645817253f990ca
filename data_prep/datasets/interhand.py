"""InterHand2.6M (Moon et al. 2020), the 5 and the 30 frames per second version: one or two hands, some eighty cameras.

Joints are in a world frame in millimetres, each finger from tip to base, the wrist last; right hand first. MANO is the
authors' NeuralAnnot fit: world frame in metres, mean pose left out, left shapes mirrored; it disagrees with the joints
by some 5 mm, so the joints are the truth. A hand whose wrist is not valid is not used, as in the official code.
Pictures are portrait or landscape, by camera. The large list of pictures (`*_data.json`) is not needed.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.arrays import read_json, vector
from data_prep.dataset import DataSet, HandTruth, Request, Source, SourceClip, Split, Unit
from data_prep.frames import inverse, pinhole, points_in_camera, rigid
from data_prep.mano_files import ManoNumbers
from data_prep.pictures import PictureFiles, picture_size

# Thumb 0-3, index 4-7, middle 8-11, ring 12-15, little 16-19, each from the tip; wrist 20.
OPENPOSE_FROM_INTERHAND = (20, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 19, 18, 17, 16)
WRIST = 20
MM = 1e-3
FIRST_JOINT = {"right": 0, "left": 21}


def open_interhand(request: Request, fps: float) -> Source:
    """List the sequences of a split from the folders of pictures."""
    root, split = request.root, request.split
    folder = root / "annotations" / split
    joints, cameras = (read_json(folder / f"InterHand2.6M_{split}_{name}.json") for name in ("joint_3d", "camera"))
    mano_path = folder / f"InterHand2.6M_{split}_MANO_NeuralAnnot.json"
    missing = []
    mano: Any = {}
    if request.mano is not None:
        if mano_path.is_file():
            mano = read_json(mano_path)
        else:
            missing.append(f"annotations/{split}/{mano_path.name}")
    units = []
    for capture in sorted(joints, key=int):
        there = root / "images" / split / f"Capture{capture}"
        if not there.is_dir():
            missing.append(f"images/{split}/Capture{capture}")
            continue
        for sequence in sorted(path for path in there.iterdir() if path.is_dir()):
            count = sum(1 for _path in sequence.glob("cam*/image*.jpg"))
            hands = 2 if _is_interacting(sequence, joints[capture]) else 1
            units.append(Unit(f"{split}/Capture{capture}/{sequence.name}", count * hands, count))
    return Source(units, lambda unit: _clips(request, unit, fps, joints, cameras, mano), missing)


def _is_interacting(sequence: Path, joints: Any) -> bool:
    camera = next(sequence.glob("cam*"), None)
    first = None if camera is None else next(camera.glob("image*.jpg"), None)
    return first is not None and joints.get(_number(first), {}).get("hand_type") == "interacting"


def _number(path: Path) -> str:
    return path.stem.removeprefix("image")


def _clips(request: Request, unit: Unit, fps: float, joints: Any, cameras: Any, mano: Any) -> Iterator[SourceClip]:
    folder = request.root / "images" / unit.name
    capture = unit.name.split("/")[1].removeprefix("Capture")
    for camera_folder in sorted(path for path in folder.glob("cam*") if path.is_dir()):
        frames = sorted(int(_number(path)) for path in camera_folder.glob("image*.jpg"))
        frames = [frame for frame in frames if str(frame) in joints[capture]]
        camera = camera_folder.name.removeprefix("cam")
        if not frames or camera not in cameras[capture]["campos"]:
            continue
        for run in _even_runs(frames):
            yield _clip(
                request, unit, camera_folder, run, fps, joints[capture], cameras[capture], mano.get(capture, {})
            )


def _even_runs(frames: list[int]) -> list[list[int]]:
    """Cut picture numbers where their step is not the sequence's usual one."""
    if len(frames) < 2:
        return [frames]
    steps = np.diff(frames)
    usual = Counter(steps.tolist()).most_common(1)[0][0]
    cuts = (np.flatnonzero(steps != usual) + 1).tolist()
    return [frames[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(frames)], strict=True)]


def _clip(
    request: Request,
    unit: Unit,
    folder: Path,
    frames: list[int],
    fps: float,
    joints: Any,
    cameras: Any,
    mano: Any,
) -> SourceClip:
    camera = folder.name.removeprefix("cam")
    where = f"{unit.name}/{folder.name}"
    rotation, place, focal, middle = (
        vector(cameras[name], camera, shape, where=where)
        for name, shape in (("camrot", (3, 3)), ("campos", (3,)), ("focal", (2,)), ("princpt", (2,)))
    )
    K = pinhole(focal[0], focal[1], middle[0], middle[1])
    T_cam_world = rigid(rotation[None], -(rotation @ place)[None] * MM)
    pictures = [folder / f"image{frame}.jpg" for frame in frames]
    width_px, height_px = picture_size(pictures[0])
    return SourceClip(
        key=f"{unit.name.replace('/', '_')}_{camera}_{frames[0]}",
        pictures=PictureFiles(pictures),
        hands=[_hand(request, side, frames, K, T_cam_world, joints, mano, where) for side in ("right", "left")],
        width_px=width_px,
        height_px=height_px,
        fps=fps,
        source=where,
    )


def _hand(
    request: Request,
    side: str,
    frames: list[int],
    K: np.ndarray,
    T_cam_world: np.ndarray,
    joints: Any,
    mano: Any,
    where: str,
) -> HandTruth:
    count = len(frames)
    first = FIRST_JOINT[side]
    joints_world = np.full((count, 21, 3), np.nan)
    numbers = np.full((count, 61), np.nan)
    for row, frame in enumerate(frames):
        entry = joints[str(frame)]
        valid = vector(entry, "joint_valid", (42,), where=f"{where}, {frame}")[first : first + 21] > 0
        if valid[WRIST]:
            coordinates = vector(entry, "world_coord", (42, 3), where=f"{where}, {frame}")[first : first + 21] * MM
            joints_world[row] = np.where(valid[:, None], coordinates, np.nan)
            fit = (mano.get(str(frame)) or {}).get(side)
            if fit is not None:
                parts = (("pose", (48,)), ("shape", (10,)), ("trans", (3,)))
                numbers[row] = np.concatenate(
                    [vector(fit, name, shape, where=f"{where}, {frame}, MANO") for name, shape in parts]
                )
    transforms = np.tile(T_cam_world, (count, 1, 1))
    params = {}
    if request.mano is not None:
        stored = ManoNumbers(
            is_right=side == "right", global_aa=numbers[:, :3], finger=numbers[:, 3:48], betas=numbers[:, 48:58],
            transl=numbers[:, 58:], is_pca=False, is_mean_left_out=True, left_shape="mirrored",
        )  # fmt: skip
        params = vars(request.mano.params(stored, rotation=transforms[:, :3, :3], translation=transforms[:, :3, 3]))
    return HandTruth(
        is_right=side == "right",
        K=np.tile(K, (count, 1, 1)),
        joints_cam=points_in_camera(joints_world[:, list(OPENPOSE_FROM_INTERHAND)], transforms),
        T_world_cam=inverse(transforms),
        **params,
    )


def _description(fps: float, splits: dict[str, Split]) -> DataSet:
    return DataSet(
        name=f"interhand26m-{fps:.0f}fps",
        title=f"InterHand2.6M, {fps:.0f} fps",
        licence="CC-BY-NC-4.0",
        link="https://mks0601.github.io/InterHand2.6M",
        splits=splits,
        layout=("annotations/*/InterHand2.6M_*_joint_3d.json", "images/*/Capture*/*/cam*"),
        open=partial(open_interhand, fps=fps),
        mano="for parameters",
    )


DATA_SETS = (
    _description(30.0, {name: Split() for name in ("train", "val", "test")}),
    _description(5.0, {"train": Split(1_361_062), "val": Split(380_125), "test": Split(849_160)}),
)
