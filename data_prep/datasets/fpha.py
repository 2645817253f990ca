"""FPHA, First-Person Hand Action (Garcia-Hernando et al. 2018): a right hand with magnetic sensors, head-worn camera.

Joints are in millimetres before the depth camera: wrist, the five knuckles, then PIP, DIP and tip of each finger. One
constant transform leads to the colour camera, whose pictures are converted. No MANO.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.arrays import read_lines
from data_prep.dataset import DamagedError, DataSet, HandTruth, Request, Source, SourceClip, Split, Unit, taking_apart
from data_prep.frames import pinhole
from data_prep.pictures import PictureFiles

WIDTH_PX, HEIGHT_PX, FPS = 1920, 1080, 30.0
MM = 1e-3
OPENPOSE_FROM_FPHA = (0, 1, 6, 7, 8, 2, 9, 10, 11, 3, 12, 13, 14, 4, 15, 16, 17, 5, 18, 19, 20)
K = pinhole(1395.749023, 1395.749268, 935.732544, 540.681030)
# Colour from depth camera, millimetres, as the set's README prints it.
T_COLOR_DEPTH = np.array(
    [
        [0.999988496304, -0.00468848412856, 0.000982563360594, 25.7],
        [0.00469115935266, 0.999985218048, -0.00273845880292, 1.22],
        [-0.000969709653873, 0.00274303671904, 0.99999576807, 3.902],
    ]
)
BAD_SEQUENCES = ("Subject_2/close_milk/4", "Subject_2/put_tea_bag/2", "Subject_4/flip_sponge/2")  # as its README says
ACTION_LIST = "data_split_action_recognition.txt"
TRAIN_SUBJECTS = ("Subject_1", "Subject_3", "Subject_4")
POSES = ("Hand_pose_annotation_v1_1", "Hand_pose_annotation_v1")
SKELETON = 1 + 63


def open_fpha(request: Request) -> Source:
    """List the sequences of a split."""
    poses = next((request.root / name for name in POSES if (request.root / name).is_dir()), request.root / POSES[-1])
    units, missing = [], []
    for name in _names(request, poses):
        if name in BAD_SEQUENCES:
            continue
        skeleton, color = poses / name / "skeleton.txt", request.root / "Video_files" / name / "color"
        lacking = [path for path in (skeleton, color) if not path.exists()]
        missing += [str(path.relative_to(request.root)) for path in lacking]
        if not lacking:
            count = len(read_lines(skeleton)) if skeleton.stat().st_size else 0  # an empty one is told of later
            units.append(Unit(name, count, 1))
    return Source(units, lambda unit: _clips(request.root, poses, unit), missing)


def _names(request: Request, poses: Path) -> list[str]:
    kind, part = request.split.split("_")
    if kind == "subject":
        everything = sorted(str(path.parent.relative_to(poses)) for path in poses.glob("Subject_*/*/*/skeleton.txt"))
        return [name for name in everything if (name.split("/")[0] in TRAIN_SUBJECTS) == (part == "train")]
    path = request.root / ACTION_LIST
    if not path.is_file():
        raise ValueError(f"{request.root}: no {ACTION_LIST}; it comes with the annotations and names the action splits")
    names: dict[str, list[str]] = {"train": [], "test": []}
    current = ""
    for line in read_lines(path):
        words = line.split()
        if words[0] in ("Training", "Test"):
            current = "train" if words[0] == "Training" else "test"
        elif current:
            names[current].append(words[0])
        else:
            raise DamagedError(f"{path}: begins with {line[:60]!r}; expected 'Training' and the list of sequences")
    return names[part]


def _clips(root: Path, poses: Path, unit: Unit) -> Iterator[SourceClip]:
    path = poses / unit.name / "skeleton.txt"
    with taking_apart(path, "not readable"):
        rows = np.loadtxt(read_lines(path), ndmin=2)
        if rows.shape[1] != SKELETON:
            raise ValueError(f"{rows.shape[1]} numbers in a line, expected {SKELETON}")
    count = int(rows[:, 0].max()) + 1
    joints = np.full((count, 21, 3), np.nan)
    in_color = rows[:, 1:].reshape(-1, 21, 3) @ T_COLOR_DEPTH[:, :3].T + T_COLOR_DEPTH[:, 3]
    joints[rows[:, 0].astype(int)] = in_color[:, list(OPENPOSE_FROM_FPHA)] * MM
    folder = root / "Video_files" / unit.name / "color"
    yield SourceClip(
        key=unit.name.replace("/", "_"),
        pictures=PictureFiles([folder / f"color_{frame:04d}.jpeg" for frame in range(count)]),
        hands=[HandTruth(is_right=True, K=np.tile(K, (count, 1, 1)), joints_cam=joints)],
        width_px=WIDTH_PX,
        height_px=HEIGHT_PX,
        fps=FPS,
        source=unit.name,
    )


DATA_SETS = (
    DataSet(
        name="fpha",
        title="FPHA",
        licence="FPHA licence (academic, no redistribution)",
        link="https://github.com/guiggh/hand_pose_action",
        splits={
            "action_train": Split(600, "sequences"), "action_test": Split(575, "sequences"),
            "subject_train": Split(), "subject_test": Split(),
        },
        layout=("Video_files/Subject_*", "Hand_pose_annotation_v1*/Subject_*"),
        open=open_fpha,
    ),
)  # fmt: skip
