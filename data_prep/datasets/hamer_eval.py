"""HaMeR's evaluation files (Pavlakos et al., CVPR 2024): the hands and boxes of the published numbers."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from data_prep.dataset import DataSet, Request, Source, SourceClip, Split
from data_prep.mano_files import matrices
from data_prep.pictures import PictureFiles, picture_size
from data_prep.single_images import (
    first_file,
    one_frame,
    picture_folder,
    picture_source,
    present,
    safe_key,
    where_known,
)
from haptic.files import load_plain_pickle_bytes

HINT = ("HInt_annotation", "HInt_annotation_partial", "")
# The file, where its pictures may lie below the root, and how many hands there are.
SETS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "FREIHAND-VAL": ("freihand_val.npz", ("FreiHAND_pub_v2_eval/evaluation/rgb", "evaluation/rgb", "."), 3960),
    "HO3D-VAL": ("ho3d_val.npz", ("HO3D_v2/evaluation", "evaluation", "."), 11524),
}
for _name, _folder, _count in (("NEWDAYS", "newdays", 1754), ("EPICK", "epick", 1906), ("EGO4D", "ego4d", 1714)):
    for _part in ("ALL", "VIS", "OCC"):
        SETS[f"{_name}-TEST-{_part}"] = (
            f"TEST_{_folder}_img_{_part.lower()}.npz",
            tuple(f"{place}/TEST_{_folder}_img".lstrip("/") for place in HINT),
            _count,
        )


def read_object_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an npz; those of objects go through the restricted unpickler, which runs nothing.

    Raises:
        ValueError: it is no npz, or holds more than plain data.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    arrays[member.removesuffix(".npy")] = _read_npy(file, where=f"{path}, {member}")
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path}: not a readable npz ({error})") from None
    return arrays


def open_hamer_eval(request: Request) -> Source:
    """List the hands of one evaluation file."""
    name, folders, _count = SETS[request.split]
    path = first_file(request.root, name, (".", "hamer_evaluation_data"))
    if path is None:
        raise ValueError(f"{request.root}: no {name} in it, nor in hamer_evaluation_data/")
    arrays = read_object_npz(path)
    lacking = [key for key in ("imgname", "center", "scale") if key not in arrays]
    if lacking:
        raise ValueError(f"{path}: no array {lacking[0]!r}; expected one of HaMeR's evaluation files")
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in arrays["imgname"].tolist()]
    folder = picture_folder(request.root, folders, names, data_set=f"{request.split} ({name})")
    there, missing = present(folder, range(len(names)), lambda row: names[row])
    width = len(str(len(names)))

    def make(row: int) -> SourceClip:
        picture = folder / names[row]
        width_px, height_px = picture_size(picture)
        return SourceClip(
            key=safe_key(f"{request.split}-{row:0{width}d}"), pictures=PictureFiles([picture]),
            hands=(one_frame(K=None, width_px=width_px, height_px=height_px, **row_truth(arrays, row)),),
            width_px=width_px, height_px=height_px, fps=0.0, source=f"{name}, row {row}, {names[row]}",
        )  # fmt: skip

    return picture_source(there, make, missing=missing)


def row_truth(arrays: dict[str, np.ndarray], row: int) -> dict[str, Any]:
    """Return what one row says, under the names of `one_frame`.

    `scale` is in pixels and tight: HaMeR's network sees twice its longer side, and PCK's threshold is a share of it.
    """
    size_px = np.broadcast_to(np.asarray(arrays["scale"][row], np.float64).reshape(-1), (2,))
    center = np.asarray(arrays["center"][row], np.float64)
    truth: dict[str, Any] = {
        "is_right": bool(arrays["right"][row]) if "right" in arrays else True,
        "box_xyxy": np.concatenate([center - size_px / 2, center + size_px / 2]),
        "is_box_kept": True,
        "is_placed": False,
        "joints_img": np.full((21, 2), np.nan),
    }
    if "hand_keypoints_2d" in arrays:
        points = np.asarray(arrays["hand_keypoints_2d"][row], np.float64).reshape(21, 3)
        truth |= {"joints_img": where_known(points[:, :2], points[:, 2]), "joints_img_weight": points[:, 2]}
    if "hand_keypoints_3d" in arrays:
        points = np.asarray(arrays["hand_keypoints_3d"][row], np.float64).reshape(21, 4)
        truth["joints_cam"] = where_known(points[:, :3], points[:, 3])
    if "hand_pose" in arrays and _has(arrays, "has_hand_pose", row):
        rotation = matrices(np.asarray(arrays["hand_pose"][row], np.float64).reshape(16, 3))
        truth |= {"global_orient": rotation[0], "hand_pose": rotation[1:]}
    if "betas" in arrays and _has(arrays, "has_betas", row):
        truth["betas"] = np.asarray(arrays["betas"][row], np.float64)
    return truth


def _has(arrays: dict[str, np.ndarray], flag: str, row: int) -> bool:
    """Say whether a parameter is known; HaMeR takes those without a flag for unknown."""
    return flag in arrays and bool(np.asarray(arrays[flag][row], np.float64) > 0)


def _read_npy(file: Any, *, where: str) -> np.ndarray:
    try:
        version = npy.read_magic(file)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, is_fortran, dtype = read_header(file)
        data = file.read()
        if dtype.hasobject:
            array = np.asarray(load_plain_pickle_bytes(data, name=where))
        else:
            array = np.frombuffer(data, dtype, count=int(np.prod(shape)))
        return array.reshape(shape, order="F" if is_fortran else "C")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{where}: not a readable array ({error})") from None


DATA_SETS = (
    DataSet(
        name="hamer-eval",
        title="HaMeR's evaluation files",
        licence="that of each set; research only",
        link="https://github.com/geopavlakos/hamer",
        splits={name: Split(count, "images") for name, (_file, _folders, count) in SETS.items()},
        layout=("TEST_newdays_img_all.npz or hamer_evaluation_data/TEST_newdays_img_all.npz",),
        open=open_hamer_eval,
        is_video=False,
        mano="in the labels",
    ),
)
