"""ARCTIC (Fan et al. 2023): two hands and articulated objects, eight fixed cameras and one on the head.

Hands are MANO in the world frame, mean pose left out, left shapes as published. A picture's number is its row plus the
subject's `ioi_offset`. The head camera's pictures are distorted (eight rational coefficients): they are straightened
here, as the official labels of view 0 are for the straightened camera. The first and last ten frames are left out,
as in the official lists.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.arrays import object_array, read_json, vector
from data_prep.dataset import DataSet, HandTruth, Request, Source, SourceClip, Split, Unit
from data_prep.frames import inverse, points_in_camera, rigid
from data_prep.mano_files import ManoNumbers, ManoTruth
from data_prep.pictures import PictureFiles, Undistorted

FPS = 30.0
EDGE_FRAMES = 10  # pictures may be black there
EGO_VIEW = 0
EXO_VIEWS = tuple(range(1, 9))
TRAIN_SUBJECTS = ("s01", "s02", "s04", "s06", "s07", "s08", "s09", "s10")
SUBJECTS = {"train": TRAIN_SUBJECTS, "val": ("s05",)}  # the truth of s03, the test subject, is hidden
SIDES = ("right", "left")


def open_exo(request: Request) -> Source:
    """Open protocol 1: the eight fixed cameras."""
    return _open(request, EXO_VIEWS)


def open_ego(request: Request) -> Source:
    """Open protocol 2: the head camera."""
    return _open(request, (EGO_VIEW,))


def _open(request: Request, views: tuple[int, ...]) -> Source:
    subjects = SUBJECTS[request.split.split("_")[1]]
    misc = read_json(request.root / "meta" / "misc.json")
    units, missing = [], []
    for subject in subjects:
        found = sorted((request.root / "raw_seqs" / subject).glob("*.mano.npy"))
        if not found or subject not in misc:
            missing.append(f"raw_seqs/{subject} or its entry in meta/misc.json")
            continue
        for path in found:
            name = f"{subject}/{path.name.removesuffix('.mano.npy')}"
            there = [view for view in views if (request.root / "images" / name / str(view)).is_dir()]
            missing += [f"images/{name}/{view}" for view in views if view not in there]
            if there:
                frames = len(object_array(path)["right"]["rot"])
                units.append(Unit(name, 2 * frames * len(there), frames * len(there)))
    return Source(units, lambda unit: _clips(request, unit, views, misc), missing)


def _clips(request: Request, unit: Unit, views: tuple[int, ...], misc: Any) -> Iterator[SourceClip]:
    assert request.mano is not None, "asked for by DataSet.mano"
    subject = misc[unit.name.split("/")[0]]
    stored = object_array(request.root / "raw_seqs" / f"{unit.name}.mano.npy")
    hands = {side: _numbers(stored[side], side == "right", f"{unit.name}, {side}") for side in SIDES}
    joints_world = {side: request.mano.joints(numbers) for side, numbers in hands.items()}
    count = len(hands["right"].transl)
    for view in views:
        folder = request.root / "images" / unit.name / str(view)
        if not folder.is_dir():
            continue
        K, T_cam_world, distortion = _camera(request.root, unit.name, view, subject, count)
        width_px, height_px = (int(value) for value in subject["image_size"][view])
        truths = [_hand(request, numbers, joints_world[side], K, T_cam_world) for side, numbers in hands.items()]
        numbers_on_disk = [row + int(subject["ioi_offset"]) for row in range(count)]
        yield SourceClip(
            key=f"{unit.name.replace('/', '_')}_{view}",
            pictures=PictureFiles(
                [folder / f"{number:05d}.jpg" for number in numbers_on_disk],
                prepare=None
                if distortion is None
                else Undistorted(K, distortion, width_px=width_px, height_px=height_px),
            ),
            hands=truths,
            width_px=width_px,
            height_px=height_px,
            fps=FPS,
            source=f"{unit.name}/{view}",
        )


def _numbers(stored: Any, is_right: bool, where: str) -> ManoNumbers:
    count = len(np.asarray(stored["rot"]))
    shape = vector(stored, "shape", (10,), where=where)
    return ManoNumbers(
        is_right=is_right,
        global_aa=vector(stored, "rot", (count, 3), where=where),
        finger=vector(stored, "pose", (count, 45), where=where),
        betas=np.tile(shape, (count, 1)),
        transl=vector(stored, "trans", (count, 3), where=where),
        is_pca=False,
        is_mean_left_out=True,
        left_shape="published",
    )


def _camera(
    root: Path, name: str, view: int, subject: Any, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return K, camera from world for every frame, and the lens's distortion if it has any."""
    if view != EGO_VIEW:
        K = np.asarray(subject["intris_mat"], np.float64)[view - 1]
        return K, np.tile(np.asarray(subject["world2cam"], np.float64)[view - 1], (count, 1, 1)), None
    path = root / "raw_seqs" / f"{name}.egocam.dist.npy"
    stored = object_array(path)
    rotation = vector(stored, "R_k_cam_np", (count, 3, 3), where=str(path))
    translation = vector(stored, "T_k_cam_np", (count, 3), where=str(path))
    K = vector(stored, "intrinsics", (3, 3), where=str(path))
    return K, rigid(rotation, translation), vector(stored, "dist8", (8,), where=str(path))


def _hand(
    request: Request, numbers: ManoNumbers, joints_world: np.ndarray, K: np.ndarray, T_cam_world: np.ndarray
) -> HandTruth:
    assert request.mano is not None
    count = len(numbers.transl)
    truth: ManoTruth = request.mano.params(numbers, rotation=T_cam_world[:, :3, :3], translation=T_cam_world[:, :3, 3])
    joints_cam = points_in_camera(joints_world, T_cam_world)
    joints_cam[:EDGE_FRAMES] = np.nan
    joints_cam[max(0, count - EDGE_FRAMES) :] = np.nan
    return HandTruth(
        is_right=numbers.is_right,
        K=np.tile(K, (count, 1, 1)),
        joints_cam=joints_cam,
        T_world_cam=inverse(T_cam_world),
        **vars(truth),
    )


def _description(name: str, title: str, protocol: str, opener: Any) -> DataSet:
    return DataSet(
        name=name,
        title=title,
        licence="ARCTIC licence (non-commercial, no redistribution)",
        link="https://arctic.is.tue.mpg.de",
        splits={f"{protocol}_train": Split(), f"{protocol}_val": Split()},
        layout=("raw_seqs/s*/*.mano.npy", "meta/misc.json", "images/s*/*"),
        open=opener,
        mano="needed",
    )


DATA_SETS = (
    _description("arctic-exo", "ARCTIC, fixed cameras", "p1", open_exo),
    _description("arctic-ego", "ARCTIC, head camera", "p2", open_ego),
)
