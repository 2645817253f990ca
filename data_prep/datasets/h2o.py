"""H2O (Kwon et al. 2021): two hands and objects, four fixed cameras and a head camera (cam4), the splits' own.

Text files of numbers, metres, camera frame. A hand of flag 0 is not annotated. `hand_pose_mano` holds 62 numbers a hand
(flag, translation, 48 axis-angle, 10 shape), left first, mean pose in them; the README's 59 is wrong.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.arrays import read_frame_list, read_numbers
from data_prep.dataset import DamagedError, DataSet, HandTruth, Request, Source, SourceClip, Split, Unit
from data_prep.frames import pinhole
from data_prep.mano_files import ManoNumbers
from data_prep.pictures import PictureFiles

FPS = 30.0
MANO_FOLDERS = ("hand_pose_mano", "hand_pose_MANO")
SIDES = ("left", "right")  # in the files' order
JOINT_NUMBERS, MANO_NUMBERS = 64, 62


def open_h2o(request: Request) -> Source:
    """List the takes of a split from the official list of frames."""
    path = _list_of(request.root, request.split)
    takes: dict[str, list[int]] = {}
    for take, frame in read_frame_list(path, r"(.+)/rgb/(\d+)\.png"):
        takes.setdefault(take, []).append(frame)
    missing = [take for take in takes if not (request.root / take / "cam_intrinsics.txt").is_file()]
    units = [Unit(take, 2 * len(frames), len(frames)) for take, frames in takes.items() if take not in missing]
    return Source(units, lambda unit: _clips(request, unit, sorted(takes[unit.name])), missing)


def _list_of(root: Path, split: str) -> Path:
    name = f"pose_{split}.txt"
    for path in (root / name, root / "label_split" / name):
        if path.is_file():
            return path
    raise ValueError(
        f"{root}: no {name}, neither here nor in label_split/; download the lists of frames from the set's GitHub page "
        "(its README swaps the links: the training list has 55,742 lines)"
    )


def _clips(request: Request, unit: Unit, frames: list[int]) -> Iterator[SourceClip]:
    folder = request.root / unit.name
    fx, fy, cx, cy, width, height = read_numbers(folder / "cam_intrinsics.txt", 6)
    count = frames[-1] + 1
    poses = np.tile(np.eye(4), (count, 1, 1))
    joints = {side: np.full((count, 21, 3), np.nan) for side in SIDES}
    mano = {side: np.full((count, MANO_NUMBERS), np.nan) for side in SIDES}
    damaged = []
    mano_folder = next((name for name in MANO_FOLDERS if (folder / name).is_dir()), None)
    for frame in frames:
        name = f"{frame:06d}.txt"
        try:
            poses[frame] = read_numbers(folder / "cam_pose" / name, 16).reshape(4, 4)
            hands = read_numbers(folder / "hand_pose" / name, 2 * JOINT_NUMBERS).reshape(2, JOINT_NUMBERS)
            for side, numbers in zip(SIDES, hands, strict=True):
                if numbers[0] > 0:
                    joints[side][frame] = numbers[1:].reshape(21, 3)
            if mano_folder is not None:
                blocks = read_numbers(folder / mano_folder / name, 2 * MANO_NUMBERS).reshape(2, MANO_NUMBERS)
                for side, numbers in zip(SIDES, blocks, strict=True):
                    if numbers[0] > 0:
                        mano[side][frame] = numbers
        except DamagedError as error:
            damaged.append(str(error))
    K = np.tile(pinhole(fx, fy, cx, cy), (count, 1, 1))
    yield SourceClip(
        key=unit.name.replace("/", "_"),
        pictures=PictureFiles([folder / "rgb" / f"{frame:06d}.png" for frame in range(count)]),
        hands=[_hand(request, side == "right", joints[side], mano[side], K, poses) for side in SIDES],
        width_px=int(width),
        height_px=int(height),
        fps=FPS,
        source=unit.name,
        damaged=damaged,
    )


def _hand(
    request: Request, is_right: bool, joints_cam: np.ndarray, mano: np.ndarray, K: np.ndarray, poses: np.ndarray
) -> HandTruth:
    params = {}
    if request.mano is not None:
        numbers = ManoNumbers(
            is_right=is_right, transl=mano[:, 1:4], global_aa=mano[:, 4:7], finger=mano[:, 7:52], betas=mano[:, 52:],
            is_pca=False, is_mean_left_out=False, left_shape="published",
        )  # fmt: skip
        params = vars(request.mano.params(numbers))
    return HandTruth(is_right=is_right, K=K, joints_cam=joints_cam, T_world_cam=poses, **params)


DATA_SETS = (
    DataSet(
        name="h2o",
        title="H2O",
        licence="H2O licence (research only)",
        link="https://taeinkwon.com/projects/h2o",
        splits={"train": Split(55_742), "val": Split(11_638), "test": Split(23_391)},
        layout=("subject*/*/*/cam4/cam_intrinsics.txt", "subject*/*/*/cam4/hand_pose/*.txt"),
        open=open_h2o,
        mano="for parameters",
    ),
)
