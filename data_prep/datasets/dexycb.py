"""DexYCB (Chao et al. 2021): one hand and YCB objects, eight cameras, 1000 sequences.

Fingers are PCA coefficients with the mean pose left out; left hands were made with MANO_LEFT as published. Frames
without a label have zeros as pose and -1 as joints.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.arrays import read_lines, read_npz, read_yaml, vector
from data_prep.dataset import DamagedError, DataSet, HandTruth, Request, Source, SourceClip, Split, Unit
from data_prep.mano_files import ManoNumbers
from data_prep.pictures import PictureFiles

SERIALS = (
    "836212060125", "839512060362", "840412060917", "841412060263",
    "932122060857", "932122060861", "932122061900", "932122062010",
)  # fmt: skip
WIDTH_PX, HEIGHT_PX, FPS = 640, 480, 30.0
SUBJECTS = 10
SEQUENCES_PER_SUBJECT = 100
UNANNOTATED = -1.0
SPLITS = {
    "s0_train": Split(465_504, "frames"), "s0_val": Split(40, "sequences"), "s0_test": Split(160, "sequences"),
    "s1_train": Split(700, "sequences"), "s1_val": Split(100, "sequences"), "s1_test": Split(200, "sequences"),
    "s2_train": Split(1000, "sequences"), "s2_val": Split(1000, "sequences"), "s2_test": Split(1000, "sequences"),
    "s3_train": Split(750, "sequences"), "s3_val": Split(100, "sequences"), "s3_test": Split(150, "sequences"),
}  # fmt: skip


def in_split(split: str, subject: int, place: int) -> bool:
    """Say whether a subject's sequence (both counted from 0) is in a split; s2 splits by cameras instead."""
    setup, part = split.split("_")
    if setup == "s0":
        held_out = "train" if place % 5 != 4 else "val" if subject < 2 else "test"
    elif setup == "s1":
        held_out = "val" if subject == 6 else "test" if subject in (7, 8) else "train"
    elif setup == "s3":
        group = place // 5
        held_out = "val" if group in (3, 19) else "test" if group in (7, 11, 15) else "train"
    else:
        return True
    return part == held_out


def split_serials(split: str) -> tuple[str, ...]:
    """Return the cameras of a split."""
    return {"s2_train": SERIALS[:6], "s2_val": SERIALS[6:7], "s2_test": SERIALS[7:]}.get(split, SERIALS)


def open_dexycb(request: Request) -> Source:
    """List the sequences of a split, in the toolkit's order."""
    root, split = request.root, request.split
    missing: list[str] = []
    units = []
    for subject, sequences in enumerate(_sequences(request)):
        for place, name in enumerate(sequences):
            if not in_split(split, subject, place):
                continue
            if not (root / name / "meta.yml").is_file():
                missing.append(name)
                continue
            num_frames = int(_record(root / name / "meta.yml", "num_frames")["num_frames"])
            serials = [serial for serial in split_serials(split) if (root / name / serial).is_dir()]
            missing += [f"{name}/{serial}" for serial in split_serials(split) if serial not in serials]
            if serials:
                units.append(Unit(name, num_frames * len(serials), num_frames * len(serials)))
    return Source(units, lambda unit: _clips(request, unit), missing)


def _sequences(request: Request) -> list[list[str]]:
    """Return each subject's sequences by name, complete: the splits go by their places.

    Raises:
        ValueError: some are missing, and no list tells which.
    """
    root = request.root
    if "sequences" in request.options:
        lines = [line.strip() for line in read_lines(Path(request.options["sequences"]))]
        subjects = sorted({line.split("/")[0] for line in lines})
        return [sorted(line for line in lines if line.startswith(f"{subject}/")) for subject in subjects]
    found = []
    for subject in sorted(path for path in root.glob("*-subject-*") if path.is_dir()):
        found.append(sorted(f"{subject.name}/{path.parent.name}" for path in subject.glob("*/meta.yml")))
    counts = [len(sequences) for sequences in found]
    if counts != [SEQUENCES_PER_SUBJECT] * SUBJECTS and not request.split.startswith("s2"):
        raise ValueError(
            f"{root}: {len(counts)} subjects with {', '.join(map(str, counts))} sequences; DexYCB has 10 with 100 "
            "each, and its splits go by a sequence's place among them. For a part of the download give the whole list, "
            "a line SUBJECT/SEQUENCE each, with --option sequences=FILE"
        )
    return found


def _clips(request: Request, unit: Unit) -> Iterator[SourceClip]:
    """Give a clip for each camera of a sequence."""
    root = request.root
    folder = root / unit.name
    meta = _record(folder / "meta.yml", "num_frames", "extrinsics", "mano_sides", "mano_calib")
    calibration = root / "calibration"
    poses, shape = (
        calibration / f"extrinsics_{meta['extrinsics']}" / "extrinsics.yml",
        calibration / f"mano_{meta['mano_calib'][0]}" / "mano.yml",
    )
    extrinsics = _record(poses, "extrinsics")["extrinsics"]
    is_right = meta["mano_sides"][0] == "right"
    betas = vector(_record(shape, "betas"), "betas", (10,), where=str(shape))
    for serial in split_serials(request.split):
        if not (folder / serial).is_dir():
            continue
        T_world_cam = np.eye(4)
        T_world_cam[:3] = vector(extrinsics, serial, (3, 4), where=str(poses))
        yield _clip(request, unit, serial, int(meta["num_frames"]), betas, is_right, T_world_cam)


def _clip(
    request: Request,
    unit: Unit,
    serial: str,
    num_frames: int,
    betas: np.ndarray,
    is_right: bool,
    T_world_cam: np.ndarray,
) -> SourceClip:
    folder = request.root / unit.name / serial
    pose, joints_cam, joints_img, damaged = _read_labels(folder, num_frames)
    pose[(pose == 0).all(axis=1)] = np.nan
    joints_cam[(joints_cam == UNANNOTATED).all(axis=-1)] = np.nan
    joints_img[(joints_img == UNANNOTATED).all(axis=-1)] = np.nan
    params = {}
    if request.mano is not None:
        numbers = ManoNumbers(
            is_right=is_right, global_aa=pose[:, :3], finger=pose[:, 3:48], betas=np.tile(betas, (num_frames, 1)),
            transl=pose[:, 48:], is_pca=True, is_mean_left_out=True, left_shape="published",
        )  # fmt: skip
        params = vars(request.mano.params(numbers))
    hand = HandTruth(
        is_right=is_right,
        K=np.tile(_intrinsics(request.root, serial), (num_frames, 1, 1)),
        joints_cam=joints_cam,
        joints_img=joints_img,
        T_world_cam=np.tile(T_world_cam, (num_frames, 1, 1)),
        **params,
    )
    return SourceClip(
        key=f"{unit.name.replace('/', '_')}_{serial}",
        pictures=PictureFiles([folder / f"color_{frame:06d}.jpg" for frame in range(num_frames)]),
        hands=[hand],
        width_px=WIDTH_PX,
        height_px=HEIGHT_PX,
        fps=FPS,
        source=f"{unit.name}/{serial}",
        damaged=damaged,
    )


def _read_labels(folder: Path, num_frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    pose = np.zeros((num_frames, 51))
    joints_cam = np.full((num_frames, 21, 3), UNANNOTATED)
    joints_img = np.full((num_frames, 21, 2), UNANNOTATED)
    damaged = []
    for frame in range(num_frames):
        path = folder / f"labels_{frame:06d}.npz"
        try:
            labels = read_npz(path, "pose_m", "joint_3d", "joint_2d")
            pose[frame] = vector(labels, "pose_m", (51,), where=str(path))
            joints_cam[frame] = vector(labels, "joint_3d", (21, 3), where=str(path))
            joints_img[frame] = vector(labels, "joint_2d", (21, 2), where=str(path))
        except DamagedError as error:
            damaged.append(str(error))
    return pose, joints_cam, joints_img, damaged


def _record(path: Path, *names: str) -> Mapping[str, Any]:
    """Return a YAML file's record, which has these entries."""
    record = read_yaml(path)
    lacking = [name for name in names if not isinstance(record, Mapping) or record.get(name) in (None, "", [])]
    if lacking:
        raise DamagedError(f"{path}: no {lacking[0]} in it; is the download complete?")
    return record


def _intrinsics(root: Path, serial: str) -> np.ndarray:
    path = root / "calibration" / "intrinsics" / f"{serial}_640x480.yml"
    color = _record(path, "color")["color"]
    fx, fy, ppx, ppy = (float(vector(color, name, (), where=str(path))) for name in ("fx", "fy", "ppx", "ppy"))
    return np.array([[fx, 0, ppx], [0, fy, ppy], [0, 0, 1]])


DATA_SETS = (
    DataSet(
        name="dexycb",
        title="DexYCB",
        licence="CC-BY-NC-4.0",
        link="https://dex-ycb.github.io",
        splits=SPLITS,
        layout=("calibration/intrinsics/*_640x480.yml", "*-subject-*/*/meta.yml"),
        open=open_dexycb,
        mano="for parameters",
        needs_left_mano=True,
        options={"sequences": "a text file of all 1000 SUBJECT/SEQUENCE, for a part of the download"},
    ),
)
