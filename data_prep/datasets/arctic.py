"""ARCTIC (Fan et al. 2023): two hands and articulated objects, eight fixed cameras and one on the head.

Hands are MANO in the world frame, mean pose left out, left shapes as published. A picture's number is its row plus the
subject's `ioi_offset`. The head camera's pictures are distorted (eight rational coefficients): they are straightened
here, as the official labels of view 0 are for the straightened camera. The first and last ten frames are left out,
as in the official lists. Pictures are those of `images`, or else of `cropped_images` (`data_prep.arctic_crops`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.arctic_crops import CROP_PX, cropped_K, ego_size, object_squares, reduced_K
from data_prep.arrays import object_array, read_json, vector
from data_prep.dataset import DamagedError, DataSet, HandTruth, Request, Source, SourceClip, Split, Unit
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
FOLDERS = ("images", "cropped_images")


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
            there = [view for view in views if _folder(request.root, name, view) is not None]
            missing += [f"images/{name}/{view} (or cropped_images)" for view in views if view not in there]
            if there:
                frames = len(object_array(path)["right"]["rot"])
                units.append(Unit(name, 2 * frames * len(there), frames * len(there)))
    return Source(units, lambda unit: _clips(request, unit, views, misc), missing)


def _folder(root: Path, name: str, view: int) -> Path | None:
    """Return where a view's pictures are, full ones first."""
    places = [root / folder / name / str(view) for folder in FOLDERS]
    return next((place for place in places if place.is_dir()), None)


def _clips(request: Request, unit: Unit, views: tuple[int, ...], misc: Any) -> Iterator[SourceClip]:
    assert request.mano is not None, "asked for by DataSet.mano"
    subject = misc[unit.name.split("/")[0]]
    stored = object_array(request.root / "raw_seqs" / f"{unit.name}.mano.npy")
    hands = {side: _numbers(stored[side], side == "right", f"{unit.name}, {side}") for side in SIDES}
    joints_world = {side: request.mano.joints(numbers) for side, numbers in hands.items()}
    count = len(hands["right"].transl)
    for view in views:
        folder = _folder(request.root, unit.name, view)
        if folder is None:
            continue
        camera = _camera(request.root, unit.name, view, subject, count)
        if folder.is_relative_to(request.root / FOLDERS[1]):
            camera = _cropped(request.root, unit.name, view, camera)
        numbers_on_disk = [row + int(subject["ioi_offset"]) for row in range(count)]
        yield SourceClip(
            key=f"{unit.name.replace('/', '_')}_{view}",
            pictures=PictureFiles(
                [folder / f"{number:05d}.jpg" for number in numbers_on_disk],
                prepare=None
                if camera.distortion is None
                else Undistorted(camera.K[0], camera.distortion, width_px=camera.width_px, height_px=camera.height_px),
            ),
            hands=[_hand(request, numbers, joints_world[side], camera) for side, numbers in hands.items()],
            width_px=camera.width_px,
            height_px=camera.height_px,
            fps=FPS,
            source=f"{folder.relative_to(request.root)}",
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


@dataclass(frozen=True)
class _Camera:
    """A view's camera in T frames; `distortion` is its lens's, if it has any."""

    K: np.ndarray  # (T, 3, 3)
    T_cam_world: np.ndarray  # (T, 4, 4)
    distortion: np.ndarray | None
    width_px: int
    height_px: int


def _camera(root: Path, name: str, view: int, subject: Any, count: int) -> _Camera:
    """Return the camera of the full pictures."""
    width_px, height_px = (int(value) for value in subject["image_size"][view])
    if view != EGO_VIEW:
        K = np.asarray(subject["intris_mat"], np.float64)[view - 1]
        T_cam_world = np.tile(np.asarray(subject["world2cam"], np.float64)[view - 1], (count, 1, 1))
        return _Camera(np.tile(K, (count, 1, 1)), T_cam_world, None, width_px, height_px)
    path = root / "raw_seqs" / f"{name}.egocam.dist.npy"
    stored = object_array(path)
    rotation = vector(stored, "R_k_cam_np", (count, 3, 3), where=str(path))
    translation = vector(stored, "T_k_cam_np", (count, 3), where=str(path))
    K = np.tile(vector(stored, "intrinsics", (3, 3), where=str(path)), (count, 1, 1))
    distortion = vector(stored, "dist8", (8,), where=str(path))
    return _Camera(K, rigid(rotation, translation), distortion, width_px, height_px)


def _cropped(root: Path, name: str, view: int, full: _Camera) -> _Camera:
    """Return the camera of the cropped pictures."""
    if view == EGO_VIEW:
        size = ego_size(full.width_px, full.height_px)
        K = reduced_K(full.K[0], (full.width_px, full.height_px), size)
        return replace(full, K=np.tile(K, (len(full.K), 1, 1)), width_px=size[0], height_px=size[1])
    corner, side = object_squares(root, name, full.K[0], full.T_cam_world[0])
    if len(side) != len(full.K):
        raise DamagedError(f"raw_seqs/{name}: {len(side)} rows of the object and {len(full.K)} of the hands")
    return replace(full, K=cropped_K(full.K[0], corner, side), width_px=CROP_PX, height_px=CROP_PX)


def _hand(request: Request, numbers: ManoNumbers, joints_world: np.ndarray, camera: _Camera) -> HandTruth:
    assert request.mano is not None
    rotation, translation = camera.T_cam_world[:, :3, :3], camera.T_cam_world[:, :3, 3]
    truth: ManoTruth = request.mano.params(numbers, rotation=rotation, translation=translation)
    joints_cam = points_in_camera(joints_world, camera.T_cam_world)
    joints_cam[:EDGE_FRAMES] = np.nan
    joints_cam[max(0, len(joints_cam) - EDGE_FRAMES) :] = np.nan
    return HandTruth(
        is_right=numbers.is_right,
        K=camera.K,
        joints_cam=joints_cam,
        T_world_cam=inverse(camera.T_cam_world),
        **vars(truth),
    )


def _description(name: str, title: str, protocol: str, opener: Any) -> DataSet:
    return DataSet(
        name=name,
        title=title,
        licence="ARCTIC licence (non-commercial, no redistribution)",
        link="https://arctic.is.tue.mpg.de",
        splits={f"{protocol}_train": Split(), f"{protocol}_val": Split()},
        layout=("raw_seqs/s*/*.mano.npy", "meta/misc.json", "images/s*/* or cropped_images/s*/*"),
        open=opener,
        mano="needed",
    )


DATA_SETS = (
    _description("arctic-exo", "ARCTIC, fixed cameras", "p1", open_exo),
    _description("arctic-ego", "ARCTIC, head camera", "p2", open_ego),
)
