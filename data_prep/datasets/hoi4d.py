"""HOI4D (Liu et al. 2022): hands with objects before a head-worn camera, 15 frames per second.

Hands are MANO in the camera, mean pose in them, a pickle for each frame; the folder has one of two names and frames may
be numbered without leading zeros. Many released sequences have no hand pose. K is of the camera named by the sequence.
Joints are made as the authors made them (manopth: its fingertip vertices). Camera poses (`output.log`) are read as
Open3D defines the file: world from camera.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.arrays import read_lines, read_npy, read_pickle, vector
from data_prep.dataset import DamagedError, DataSet, HandTruth, Pictures, Request, Source, SourceClip, Split, Unit
from data_prep.mano_files import MANOPTH_LEFT_TIPS, MANOPTH_RIGHT_TIPS, ManoNumbers
from data_prep.pictures import FilmFrames, PictureFiles

WIDTH_PX, HEIGHT_PX, FPS = 1920, 1080, 15.0
HAND_FOLDERS = {
    "right": ("Hand_pose/handpose_right_hand", "handpose/refinehandpose_right", "refinehandpose_right"),
    "left": ("Hand_pose/handpose_left_hand", "handpose/refinehandpose_left", "refinehandpose_left"),
}


def open_hoi4d(request: Request) -> Source:
    """List the released sequences that have a hand."""
    listed = request.root / f"{request.split}.txt"
    if not listed.is_file():
        raise ValueError(f"{request.root}: no {listed.name}; it is in the set's GitHub repository, put it here")
    units, missing = [], []
    for name in (line.strip() for line in read_lines(listed)):
        count = sum(len(list(folder.glob("*.pickle"))) for folder in _folders(request.root, name).values())
        if not count:
            continue
        rgb = request.root / "HOI4D_release" / name / "align_rgb"
        parts = [rgb, request.root / "camera_params" / name.split("/")[0] / "intrin.npy"]
        missing += [str(path.relative_to(request.root)) for path in parts if not path.exists()]
        if all(path.exists() for path in parts):
            units.append(Unit(name, count, 1))
    return Source(units, lambda unit: _clips(request, unit), missing)


def _folders(root: Path, name: str) -> dict[str, Path]:
    """Return the folders of a sequence's hands, by side."""
    found = {}
    for side, places in HAND_FOLDERS.items():
        folder = next((root / place / name for place in places if (root / place / name).is_dir()), None)
        if folder is not None:
            found[side] = folder
    return found


def _clips(request: Request, unit: Unit) -> Iterator[SourceClip]:
    assert request.mano is not None, "asked for by DataSet.mano"
    folders = _folders(request.root, unit.name)
    files = {side: {int(path.stem): path for path in folder.glob("*.pickle")} for side, folder in folders.items()}
    count = max(max(frames) for frames in files.values() if frames) + 1
    K = read_npy(request.root / "camera_params" / unit.name.split("/")[0] / "intrin.npy", (3, 3))
    damaged: list[str] = []
    poses = _camera_poses(request.root / "HOI4D_annotations" / unit.name / "3Dseg" / "output.log", count, damaged)
    hands = []
    for side, frames in files.items():
        numbers = _numbers(side == "right", frames, count, damaged)
        tips = MANOPTH_RIGHT_TIPS if side == "right" else MANOPTH_LEFT_TIPS
        hands.append(
            HandTruth(
                is_right=side == "right",
                K=np.tile(K, (count, 1, 1)),
                joints_cam=request.mano.joints(numbers, tips=tips),
                T_world_cam=poses,
                **vars(request.mano.params(numbers)),
            )
        )
    yield SourceClip(
        key=unit.name.replace("/", "_"),
        pictures=_pictures(request.root / "HOI4D_release" / unit.name / "align_rgb", count),
        hands=hands,
        width_px=WIDTH_PX,
        height_px=HEIGHT_PX,
        fps=FPS,
        source=unit.name,
        damaged=damaged,
    )


def _pictures(folder: Path, count: int) -> Pictures:
    """Return the decoded frames if they were made, else the film."""
    if (folder / "00000.jpg").is_file():
        return PictureFiles([folder / f"{frame:05d}.jpg" for frame in range(count)])
    return FilmFrames(folder / "image.mp4", count)


def _numbers(is_right: bool, frames: dict[int, Path], count: int, damaged: list[str]) -> ManoNumbers:
    pose, betas, transl = np.full((count, 48), np.nan), np.full((count, 10), np.nan), np.full((count, 3), np.nan)
    for frame, path in sorted(frames.items()):
        try:
            stored = read_pickle(path)
            row = [
                vector(stored, *part, where=str(path))
                for part in (("poseCoeff", (48,)), ("beta", (10,)), ("trans", (3,)))
            ]
        except DamagedError as error:
            damaged.append(str(error))
            continue
        pose[frame], betas[frame], transl[frame] = row
    return ManoNumbers(
        is_right=is_right, global_aa=pose[:, :3], finger=pose[:, 3:], betas=betas, transl=transl, is_pca=False,
        is_mean_left_out=False, left_shape="published",
    )  # fmt: skip


def _camera_poses(path: Path, count: int, damaged: list[str]) -> np.ndarray | None:
    """Return world from camera of every frame; None if the file is absent, or damaged, which is written down."""
    if not path.exists():
        return None
    try:
        lines = read_lines(path)
        blocks = [lines[start + 1 : start + 5] for start in range(0, len(lines) - 4, 5)]
        if len(blocks) < count:
            raise DamagedError(f"{path}: {len(blocks)} camera poses for {count} frames; hands keep the camera's frame")
        rows = [[[float(value) for value in line.split()] for line in block] for block in blocks[:count]]
        return vector({"poses": rows}, "poses", (count, 4, 4), where=str(path))
    except DamagedError as error:
        damaged.append(str(error))
    except ValueError as error:
        damaged.append(f"{path}: no camera poses ({error})")
    return None


DATA_SETS = (
    DataSet(
        name="hoi4d",
        title="HOI4D",
        licence="CC-BY-NC-4.0",
        link="https://github.com/leolyliu/HOI4D-Instructions",
        splits={"release": Split(2971, "sequences")},
        layout=("HOI4D_release/ZY*", "camera_params/ZY*/intrin.npy", "[Hhr]*and*pose*"),
        open=open_hoi4d,
        mano="needed",
    ),
)
