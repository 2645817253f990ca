"""HO3D v2 and v3, and H2O3D (Hampali et al. 2020, 2022): hands and YCB objects before fixed cameras.

Everything is in OpenGL axes. Fingers are axis-angle with the mean pose in them. Joints are in MANO's order with tips
thumb to little finger. A frame without annotation has None for its pose. The evaluation split's joints were published
apart, as `evaluation_xyz.json`; its meta files hold the root joint only.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.arrays import read_frame_list, read_json, read_pickle, vector
from data_prep.dataset import DamagedError, DataSet, HandTruth, Request, Source, SourceClip, Split, Unit
from data_prep.frames import OPENGL
from data_prep.mano_files import ManoNumbers
from data_prep.pictures import PictureFiles
from haptic.hand.joints import OPENPOSE_FROM_MANO

WIDTH_PX, HEIGHT_PX, FPS = 640, 480, 30.0
EVALUATION_JOINTS = "evaluation_xyz.json"
# The keys of a hand in a meta file.
ONE_HAND = {"right": ("handPose", "handTrans", "handJoints3D")}
TWO_HANDS = {
    "right": ("rightHandPose", "rightHandTrans", "rightHandJoints3D"),
    "left": ("leftHandPose", "leftHandTrans", "leftHandJoints3D"),
}


def open_ho3d(request: Request) -> Source:
    """Open HO3D."""
    return _open(request, ONE_HAND)


def open_h2o3d(request: Request) -> Source:
    """Open H2O3D."""
    return _open(request, TWO_HANDS)


def _open(request: Request, keys: dict[str, tuple[str, str, str]]) -> Source:
    root, split = request.root, request.split
    listed: dict[str, list[int]] = {}
    order = read_frame_list(root / f"{split}.txt", r"(.+)/(\d+)")
    for sequence, frame in order:
        listed.setdefault(sequence, []).append(frame)
    missing = [f"{split}/{name}" for name in listed if not (root / split / name / "meta").is_dir()]
    units = [
        Unit(name, len(frames) * len(keys), len(frames))
        for name, frames in sorted(listed.items())
        if f"{split}/{name}" not in missing
    ]
    published: dict[tuple[str, int], Any] = {}
    if split == "evaluation" and len(keys) == 1:
        if not (root / EVALUATION_JOINTS).is_file():
            raise ValueError(
                f"{root}: no {EVALUATION_JOINTS}; the joints of the evaluation split were published apart from the "
                "images (November 2024, see the project's page). Put the file beside evaluation.txt"
            )
        joints = read_json(root / EVALUATION_JOINTS)
        if len(joints) != len(order):
            raise ValueError(f"{root / EVALUATION_JOINTS}: {len(joints)} entries for {len(order)} lines of {split}.txt")
        published = dict(zip(order, joints, strict=True))
    return Source(units, lambda unit: _clips(request, unit, sorted(listed[unit.name]), keys, published), missing)


def _clips(
    request: Request,
    unit: Unit,
    frames: list[int],
    keys: dict[str, tuple[str, str, str]],
    published: dict[tuple[str, int], Any],
) -> Iterator[SourceClip]:
    folder = request.root / request.split / unit.name
    count = frames[-1] + 1
    K = np.full((count, 3, 3), np.nan)
    stored = {side: _Rows(count) for side in keys}
    damaged = []
    for frame in frames:
        path = folder / "meta" / f"{frame:04d}.pkl"
        try:
            meta = read_pickle(path)
            if meta.get("camMat") is None:
                continue
            K[frame] = vector(meta, "camMat", (3, 3), where=str(path))
            for side, names in keys.items():
                stored[side].read(frame, meta, names, path)
        except DamagedError as error:
            damaged.append(str(error))
    for frame in frames if published else ():
        where = f"{request.root / EVALUATION_JOINTS}, {unit.name}/{frame:04d}"
        stored["right"].joints[frame] = vector({"xyz": published[unit.name, frame]}, "xyz", (21, 3), where=where)
    known = np.flatnonzero(np.isfinite(K[:, 0, 0]))
    if not len(known):
        return
    K[np.isnan(K[:, 0, 0])] = K[known[0]]  # of frames without labels
    suffix = _suffix(folder / "rgb")
    yield SourceClip(
        key=unit.name,
        pictures=PictureFiles([folder / "rgb" / f"{frame:04d}{suffix}" for frame in range(count)]),
        hands=[_hand(request, side == "right", rows, K) for side, rows in stored.items()],
        width_px=WIDTH_PX,
        height_px=HEIGHT_PX,
        fps=FPS,
        source=f"{request.split}/{unit.name}",
        damaged=damaged,
    )


class _Rows:
    """The numbers of one hand, a row for each frame."""

    def __init__(self, count: int) -> None:
        self.pose = np.full((count, 48), np.nan)
        self.trans = np.full((count, 3), np.nan)
        self.betas = np.full((count, 10), np.nan)
        self.joints = np.full((count, 21, 3), np.nan)

    def read(self, frame: int, meta: Any, names: tuple[str, str, str], path: Path) -> None:
        """Take a frame's numbers; None means not annotated."""
        pose, trans, joints = names
        if meta.get(joints) is not None and np.size(meta[joints]) == 63:
            self.joints[frame] = vector(meta, joints, (21, 3), where=str(path))
        if any(meta.get(name) is None for name in (pose, trans, "handBeta")):
            return
        self.pose[frame] = vector(meta, pose, (48,), where=str(path))
        self.trans[frame] = vector(meta, trans, (3,), where=str(path))
        self.betas[frame] = vector(meta, "handBeta", (10,), where=str(path))


def _hand(request: Request, is_right: bool, rows: _Rows, K: np.ndarray) -> HandTruth:
    params = {}
    if request.mano is not None:
        numbers = ManoNumbers(
            is_right=is_right, global_aa=rows.pose[:, :3], finger=rows.pose[:, 3:], betas=rows.betas,
            transl=rows.trans, is_pca=False, is_mean_left_out=False, left_shape="published",
        )  # fmt: skip
        params = vars(request.mano.params(numbers, rotation=np.tile(OPENGL, (len(K), 1, 1))))
    return HandTruth(is_right=is_right, K=K, joints_cam=rows.joints[:, list(OPENPOSE_FROM_MANO)] @ OPENGL, **params)


def _suffix(folder: Path) -> str:
    """Return .jpg (v3) or .png (v2)."""
    first = next(folder.iterdir(), None) if folder.is_dir() else None
    return ".jpg" if first is None else first.suffix


def _description(name: str, title: str, opener: Any, train: int, evaluation: int, pictures: str) -> DataSet:
    return DataSet(
        name=name,
        title=title,
        licence="HO-3D licence (academic, non-commercial, no redistribution)",
        link="https://github.com/shreyashampali/ho3d",
        splits={"train": Split(train), "evaluation": Split(evaluation)} if evaluation else {"train": Split(train)},
        layout=("train.txt", f"train/*/rgb/*{pictures}", "train/*/meta/*.pkl"),
        open=opener,
        mano="for parameters",
    )


DATA_SETS = (
    _description("ho3d-v2", "HO3D v2", open_ho3d, 66_034, 11_524, ".png"),
    _description("ho3d-v3", "HO3D v3", open_ho3d, 83_325, 20_137, ".jpg"),
    _description("h2o3d", "H2O3D", open_h2o3d, 0, 0, ".*"),
)
