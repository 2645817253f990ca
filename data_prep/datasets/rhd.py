"""RHD (Zimmermann & Brox, ICCV 2017): rendered people, both hands with exact 3D joints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dataset import DamagedError, DataSet, HandTruth, Request, Source, SourceClip, Split
from data_prep.pictures import PictureFiles
from data_prep.single_images import MIN_JOINTS, one_frame, picture_source, split_by_presence
from haptic.files import load_plain_pickle

WIDTH_PX = HEIGHT_PX = 320
FIRST_JOINT = {"left": 0, "right": 21}
# RHD goes from each finger's tip to its base.
OPENPOSE_FROM_RHD = (0, 4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9, 16, 15, 14, 13, 20, 19, 18, 17)


def picture_hands(record: Mapping[str, Any], *, where: str) -> list[HandTruth]:
    """Return the hands of a picture of which enough is seen. 2D and 3D are exact for hidden joints too.

    Raises:
        DamagedError: a field is missing or of wrong shape.
    """
    try:
        uv_vis = np.asarray(record["uv_vis"], np.float64).reshape(42, 3)
        xyz = np.asarray(record["xyz"], np.float64).reshape(42, 3)
        K = np.asarray(record["K"], np.float64).reshape(3, 3)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{where}: expected uv_vis (42, 3), xyz (42, 3) and K (3, 3) ({error})") from None
    hands = []
    for side in ("right", "left"):
        rows = FIRST_JOINT[side] + np.array(OPENPOSE_FROM_RHD)
        visible = (uv_vis[rows, 2] > 0).astype(np.int64)
        if visible.sum() < MIN_JOINTS:
            continue
        truth = one_frame(
            is_right=side == "right", K=K, width_px=WIDTH_PX, height_px=HEIGHT_PX,
            joints_img=uv_vis[rows, :2], joints_cam=xyz[rows], joints_visible=visible,
        )  # fmt: skip
        hands.append(truth)
    return hands


def open_rhd(request: Request) -> Source:
    """List the pictures of a split."""
    path = annotation_path(request.root, request.split)
    records = load_plain_pickle(path)
    if not isinstance(records, dict):
        raise ValueError(f"{path}: expected a dict of one record per picture, got a {type(records).__name__}")
    folder = path.parent / "color"
    there, missing = split_by_presence(folder, sorted(records), lambda number: f"{number:05d}.png")

    def make(number: int) -> SourceClip:
        picture = folder / f"{number:05d}.png"
        return SourceClip(
            key=f"{request.split}-{number:05d}", pictures=PictureFiles([picture]),
            hands=picture_hands(records[number], where=f"{path}, picture {number}"),
            width_px=WIDTH_PX, height_px=HEIGHT_PX, fps=0.0, source=f"{request.split}/color/{picture.name}",
        )  # fmt: skip

    return picture_source(there, make, missing=missing)


def annotation_path(root: Path, split: str) -> Path:
    """Return the pickle of a split.

    Raises:
        ValueError: it is not there.
    """
    path = root / split / f"anno_{split}.pickle"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected RHD_published_v2 as it is unpacked")
    return path


DATA_SETS = (
    DataSet(
        name="rhd",
        title="RHD (Rendered Handpose Dataset)",
        licence="research only (RHD)",
        link="https://lmb.informatik.uni-freiburg.de/resources/datasets/RenderedHandposeDataset.en.html",
        splits={"training": Split(41258, "images"), "evaluation": Split(2728, "images")},
        layout=("*/anno_*.pickle", "*/color/*.png"),
        open=open_rhd,
        is_video=False,
    ),
)
