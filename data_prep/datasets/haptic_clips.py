"""HaPTIC's released clip labels (Ye et al. 2025): eight frames each of ARCTIC, DexYCB, HO3D, H2O and InterHand2.6M.

A list (`SET/clip/SET_SPLIT_clip.data.pyd`) names a pickle for each clip. There are no pictures: they come from the
data sets themselves, below `--option images=FOLDER`, under the names the labels give. Poses are axis-angle with the
mean pose in them; joints are in the camera, with confidences. Boxes are made from the joints, as for all sets.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.arrays import read_pickle, vector
from data_prep.dataset import DamagedError, DataSet, HandTruth, Request, Source, SourceClip, Split, Unit
from data_prep.frames import inverse, pinhole
from data_prep.mano_files import ManoNumbers
from data_prep.pictures import PictureFiles, picture_size

CLIPS_PER_UNIT = 200
MIN_CONFIDENCE = 0.3
NOMINAL_FPS = 30.0
GUESSED_FOCAL = 5000.0 / 256.0  # HaMeR's, in sides of the picture


def open_haptic_clips(request: Request) -> Source:
    """Read the lists of a split."""
    images = Path(request.options.get("images", request.root))
    lists = sorted(request.root.glob(f"*/clip/*_{request.split}*clip.data.pyd"))
    units, missing = [], []
    files: dict[str, list[Path]] = {}
    for path in lists:
        names = [_found(request.root, path, str(name)) for name in read_pickle(path)]
        missing += [str(name) for name in names if isinstance(name, str)]
        there = [name for name in names if isinstance(name, Path)]
        for start in range(0, len(there), CLIPS_PER_UNIT):
            part = there[start : start + CLIPS_PER_UNIT]
            name = f"{path.name.removesuffix('_clip.data.pyd')}-{start // CLIPS_PER_UNIT:05d}"
            files[name] = part
            units.append(Unit(name, 8 * len(part), len(part)))
    return Source(units, lambda unit: _clips(request, unit, files[unit.name], images), missing)


def _found(root: Path, listed_in: Path, name: str) -> Path | str:
    """Return a clip's file; lists name it from their own folder, the set's or the release's."""
    for folder in (root, listed_in.parent, listed_in.parent.parent):
        if (folder / name).is_file():
            return folder / name
    return name


def _clips(request: Request, unit: Unit, files: list[Path], images: Path) -> Iterator[SourceClip]:
    damaged: list[str] = []
    for number, path in enumerate(files):
        try:
            clip = _clip(request, path, images, f"{unit.name}-{number:03d}")
        except DamagedError as error:
            damaged.append(str(error))
            continue
        yield replace(clip, damaged=tuple(damaged))
        damaged.clear()
    if damaged:
        raise DamagedError("; ".join(damaged))


def _clip(request: Request, path: Path, images: Path, key: str) -> SourceClip:
    record = read_pickle(path)
    where = str(path)
    if not isinstance(record, dict) or "imgname" not in record:
        raise DamagedError(f"{where}: not a clip of HaPTIC's release; expected a dict with imgname")
    pictures = [images / str(name) for name in np.asarray(record["imgname"]).reshape(-1)]
    count = len(pictures)
    width_px, height_px = picture_size(pictures[0])
    joints_3d = vector(record, "hand_keypoints_3d", (count, 21, 4), where=where)
    joints_2d = vector(record, "hand_keypoints_2d", (count, 21, 3), where=where)
    K, is_known = _intrinsics(record, count, width_px, height_px, where)
    is_right = bool(np.asarray(record["right"], np.float64).reshape(-1)[0] > 0)
    joints_cam = np.where(joints_3d[..., 3:] > 0, joints_3d[..., :3], np.nan)
    world: dict[str, Any] = {}
    if "cTw" in record:
        world["T_world_cam"] = inverse(vector(record, "cTw", (count, 4, 4), where=where))
    return SourceClip(
        key=key,
        pictures=PictureFiles(pictures),
        hands=[
            HandTruth(
                is_right=is_right,
                K=K,
                joints_cam=joints_cam,
                joints_img=np.where(joints_2d[..., 2:] >= MIN_CONFIDENCE, joints_2d[..., :2], np.nan),
                is_placed=is_known,
                is_camera_known=is_known,
                **world,
                **_params(request, record, is_right, joints_cam, where),
            )
        ],
        width_px=width_px,
        height_px=height_px,
        fps=NOMINAL_FPS,
        source=where,
    )


def _params(request: Request, record: Any, is_right: bool, joints_cam: np.ndarray, where: str) -> dict[str, Any]:
    """Return the parameters; the place follows from the wrist."""
    if request.mano is None:
        return {}
    count = len(joints_cam)
    pose = vector(record, "hand_pose", (count, 48), where=where)
    pose[np.asarray(record["has_hand_pose"], np.float64).reshape(-1) * np.ones(count) == 0] = np.nan
    betas = vector(record, "betas", (count, 10), where=where)
    betas[np.asarray(record["has_betas"], np.float64).reshape(-1) * np.ones(count) == 0] = np.nan
    rest = request.mano.rest_wrist(np.nan_to_num(betas), is_right=is_right)
    numbers = ManoNumbers(
        is_right=is_right, global_aa=pose[:, :3], finger=pose[:, 3:], betas=betas, transl=joints_cam[:, 0] - rest,
        is_pca=False, is_mean_left_out=False,
    )  # fmt: skip
    return vars(request.mano.params(numbers))


def _intrinsics(record: Any, count: int, width_px: int, height_px: int, where: str) -> tuple[np.ndarray, bool]:
    if "intrinsics" in record:
        K = np.asarray(record["intrinsics"], np.float64)
        if K.shape[-2:] == (3, 3):
            return np.broadcast_to(K, (count, 3, 3)).copy(), True
        raise DamagedError(f"{where}: intrinsics has the shape {K.shape}; expected (3, 3) or ({count}, 3, 3)")
    if "focal" in record:
        focal = np.broadcast_to(np.asarray(record["focal"], np.float64).reshape(-1), (2,))
        return np.tile(pinhole(focal[0], focal[1], (width_px - 1) / 2, (height_px - 1) / 2), (count, 1, 1)), True
    guess = GUESSED_FOCAL * max(width_px, height_px)
    return np.tile(pinhole(guess, guess, (width_px - 1) / 2, (height_px - 1) / 2), (count, 1, 1)), False


DATA_SETS = (
    DataSet(
        name="haptic-clips",
        title="HaPTIC's clip labels",
        licence="of the five data sets",
        link="https://github.com/judyye/haptic",
        splits={"train": Split(), "val": Split()},
        layout=("*/clip/*_clip.data.pyd",),
        open=open_haptic_clips,
        mano="for parameters",
        options={"images": "the folder below which the data sets' pictures lie under the labels' names"},
    ),
)
