"""InterHand2.6M (Moon et al. 2020), the 5 and the 30 frames per second version: one or two hands, some eighty cameras.

Joints are in a world frame in millimetres, each finger from tip to base, the wrist last; right hand first. MANO is the
authors' NeuralAnnot fit: world frame in metres, mean pose left out, left shapes mirrored; it disagrees with the joints
by some 5 mm, so the joints are the truth. A hand whose wrist is not valid is not used, as in the official code.
Pictures are portrait or landscape, by camera. The large list of pictures (`*_data.json`) is not needed; the other files
are read once, into small arrays that all processes share (`data_prep.interhand_lists`).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.arrays import read_json, vector
from data_prep.dataset import DataSet, HandTruth, Request, Source, SourceClip, Split, Unit
from data_prep.frames import inverse, pinhole, points_in_camera, rigid
from data_prep.interhand_lists import JOINTS, MANO_NUMBERS, SIDES, FrameRows, damaged_frames, joint_rows, mano_rows
from data_prep.mano_files import ManoNumbers
from data_prep.pictures import PictureFiles, picture_size

# Thumb 0-3, index 4-7, middle 8-11, ring 12-15, little 16-19, each from the tip; wrist 20.
OPENPOSE_FROM_INTERHAND = (20, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 19, 18, 17, 16)
WRIST = 20
MM = 1e-3
FIRST_JOINT = {"right": 0, "left": 21}


@dataclass(frozen=True)
class Annotations:
    """What the files of a split say; fits are empty without the user's MANO."""

    joints: dict[str, FrameRows]
    fits: dict[str, FrameRows]
    cameras: Any


def open_interhand(request: Request, fps: float) -> Source:
    """List the sequences of a split from the folders of pictures."""
    root, split = request.root, request.split
    folder = root / "annotations" / split
    names = {kind: folder / f"InterHand2.6M_{split}_{kind}.json" for kind in ("joint_3d", "camera", "MANO_NeuralAnnot")}
    for kind in ("joint_3d", "camera"):
        if not names[kind].is_file():
            raise ValueError(f"{names[kind]}: no such file; expected the annotations of {split} beside images/")
    missing = []
    fits: dict[str, FrameRows] = {}
    if request.mano is not None:
        if names["MANO_NeuralAnnot"].is_file():
            fits = mano_rows(names["MANO_NeuralAnnot"])
        else:
            missing.append(f"annotations/{split}/{names['MANO_NeuralAnnot'].name}")
    told = Annotations(joint_rows(names["joint_3d"]), fits, read_json(names["camera"]))
    units = []
    for capture in sorted(told.joints, key=int):
        there = root / "images" / split / f"Capture{capture}"
        if not there.is_dir():
            missing.append(f"images/{split}/Capture{capture}")
            continue
        for sequence in sorted(path for path in there.iterdir() if path.is_dir()):
            count = sum(1 for _path in sequence.glob("cam*/image*.jpg"))
            hands = 2 if _is_interacting(sequence, told.joints[capture]) else 1
            units.append(Unit(f"{split}/Capture{capture}/{sequence.name}", count * hands, count))
    return Source(units, lambda unit: _clips(request, unit, fps, told), missing)


def _is_interacting(sequence: Path, joints: FrameRows) -> bool:
    camera = next(sequence.glob("cam*"), None)
    first = None if camera is None else next(camera.glob("image*.jpg"), None)
    row = None if first is None else joints.row(int(_number(first)))
    return row is not None and bool(joints.flags[row, JOINTS])


def _number(path: Path) -> str:
    return path.stem.removeprefix("image")


def _clips(request: Request, unit: Unit, fps: float, told: Annotations) -> Iterator[SourceClip]:
    folder = request.root / "images" / unit.name
    capture = unit.name.split("/")[1].removeprefix("Capture")
    joints = told.joints[capture]
    damaged = _damage(request, capture, told, sorted(folder.glob("cam*/image*.jpg")))
    for camera_folder in sorted(path for path in folder.glob("cam*") if path.is_dir()):
        frames = sorted(int(_number(path)) for path in camera_folder.glob("image*.jpg"))
        frames = [frame for frame in frames if joints.row(frame) is not None]
        camera = camera_folder.name.removeprefix("cam")
        if not frames or camera not in told.cameras[capture]["campos"]:
            continue
        for run in _even_runs(frames):
            clip = _clip(request, unit, camera_folder, run, fps, joints, told.cameras[capture], told.fits.get(capture))
            yield replace(clip, damaged=damaged)
            damaged = []


def _damage(request: Request, capture: str, told: Annotations, pictures: list[Path]) -> list[str]:
    """Return a line for each entry of a sequence's frames that could not be read."""
    frames = sorted({int(_number(path)) for path in pictures})
    kinds = {"joint_3d": told.joints.get(capture), "MANO_NeuralAnnot": told.fits.get(capture)}
    return [
        f"InterHand2.6M_{request.split}_{kind}.json, {capture}, {frame}: numbers are missing or of another shape"
        for kind, rows in kinds.items() if rows is not None
        for frame in damaged_frames(rows, frames)
    ]  # fmt: skip


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
    joints: FrameRows,
    cameras: Any,
    fits: FrameRows | None,
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
        hands=[_hand(request, side, frames, K, T_cam_world, joints, fits) for side in SIDES],
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
    joints: FrameRows,
    fits: FrameRows | None,
) -> HandTruth:
    count = len(frames)
    first = FIRST_JOINT[side]
    joints_world = np.full((count, 21, 3), np.nan)
    numbers = np.full((count, MANO_NUMBERS), np.nan)
    for row, frame in enumerate(frames):
        there = joints.row(frame)
        assert there is not None, "frames without an entry were left out"
        valid = joints.flags[there, first : first + 21]
        if valid[WRIST]:
            coordinates = joints.values[there, first : first + 21].astype(np.float64) * MM
            joints_world[row] = np.where(valid[:, None], coordinates, np.nan)
            fit = None if fits is None else fits.row(frame)
            if fits is not None and fit is not None:
                numbers[row] = fits.values[fit, SIDES.index(side)]
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
