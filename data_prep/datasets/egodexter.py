"""EgoDexter (Mueller et al. 2017): the fingertips of left hands before a head-worn depth camera; for evaluation.

Tips are in pixels and millimetres of the depth camera, so the colour pictures warped to it are converted. Lines end in
`;`; -1 in 2D and zeros in 3D mean not annotated. Where the corrected `my_annotation.txt_3D.txt` is there it is used:
some original annotations, of Kitchen above all, are wrong.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.arrays import read_lines
from data_prep.dataset import DamagedError, DataSet, HandTruth, Request, Source, SourceClip, Split, Unit, taking_apart
from data_prep.frames import pinhole
from data_prep.pictures import PictureFiles

WIDTH_PX, HEIGHT_PX, FPS = 640, 480, 30.0
MM = 1e-3
K = pinhole(475.62, 475.62, 311.125, 245.965)  # of the depth camera
TIPS = (4, 8, 12, 16, 20)
SEQUENCES = ("Desk", "Fruits", "Kitchen", "Rotunda")


def open_egodexter(request: Request) -> Source:
    """List the four sequences."""
    units, missing = [], []
    for name in SEQUENCES:
        folder = request.root / "data" / name
        wanted = ("annotation.txt", "annotation.txt_3D.txt", "color_on_depth")
        lacking = [f"data/{name}/{one}" for one in wanted if not (folder / one).exists()]
        missing += lacking
        if lacking:
            continue
        count = len(read_lines(folder / "annotation.txt_3D.txt"))
        units.append(Unit(name, count, count))
    return Source(units, lambda unit: _clips(request.root / "data" / unit.name, unit), missing)


def _clips(folder: Path, unit: Unit) -> Iterator[SourceClip]:
    corrected = folder / "my_annotation.txt_3D.txt"
    places = _tips(corrected if corrected.is_file() else folder / "annotation.txt_3D.txt", 3)
    pixels = _tips(folder / "annotation.txt", 2)
    if len(places) != len(pixels):
        raise DamagedError(f"{folder}: {len(pixels)} lines of 2D and {len(places)} of 3D annotations")
    places[(places == 0).all(axis=-1)] = np.nan
    pixels[(pixels < 0).any(axis=-1)] = np.nan
    count = len(places)
    joints_cam, joints_img = np.full((count, 21, 3), np.nan), np.full((count, 21, 2), np.nan)
    joints_cam[:, list(TIPS)], joints_img[:, list(TIPS)] = places * MM, pixels
    pictures = [folder / "color_on_depth" / f"image_{frame:05d}_color_on_depth.png" for frame in range(count)]
    yield SourceClip(
        key=unit.name,
        pictures=PictureFiles(pictures),
        hands=[HandTruth(is_right=False, K=np.tile(K, (count, 1, 1)), joints_cam=joints_cam, joints_img=joints_img)],
        width_px=WIDTH_PX,
        height_px=HEIGHT_PX,
        fps=FPS,
        source=f"data/{unit.name}",
    )


def _tips(path: Path, numbers: int) -> np.ndarray:
    """Return the five tips of every line."""
    with taking_apart(path, "not five fingertips in every line"):
        lines = read_lines(path)
        rows = [
            [[float(value) for value in tip.split(",")] for tip in line.strip().strip(";").split(";")] for line in lines
        ]
        # A tip without annotation may be one -1.
        full = [
            [tip if len(tip) == numbers else [-1.0 if numbers == 2 else 0.0] * numbers for tip in row] for row in rows
        ]
        return np.array(full, np.float64).reshape(len(lines), 5, numbers)


DATA_SETS = (
    DataSet(
        name="egodexter",
        title="EgoDexter",
        licence="EgoDexter licence (research only)",
        link="http://handtracker.mpi-inf.mpg.de/projects/OccludedHands/EgoDexter.htm",
        splits={"all": Split(3190)},
        layout=("data/*/annotation.txt_3D.txt", "data/*/color_on_depth"),
        open=open_egodexter,
    ),
)
