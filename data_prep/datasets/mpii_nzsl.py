"""MPII + NZSL of CMU's hand database (Simon et al., CVPR 2017): 2D joints, one hand for each copy of a picture."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.dataset import DamagedError, DataSet, Request, Source, SourceClip, Split
from data_prep.pictures import PictureFiles, picture_size
from data_prep.single_images import (
    MIN_JOINTS,
    box_about,
    one_frame,
    picture_source,
    safe_key,
    split_by_presence,
    where_known,
)


@dataclass(frozen=True)
class ManualHand:
    """What one JSON file says; `head_box` is what PCKh scales by, in the words of the file."""

    is_right: bool
    joints_img: np.ndarray  # (21, 2), NaN where not annotated
    head_box: str


def read_hand(path: Path) -> ManualHand:
    """Return a hand.

    Raises:
        DamagedError: it is not the set's JSON; the file is named.
    """
    try:
        record = json.loads(path.read_bytes())
        points = np.asarray(record["hand_pts"], np.float64).reshape(21, 3)
        is_right = not bool(record["is_left"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path}: expected a dict with hand_pts (21, 3) and is_left ({error})") from None
    return ManualHand(is_right, where_known(points[:, :2], points[:, 2]), json.dumps(record.get("head_box")))


def open_mpii_nzsl(request: Request) -> Source:
    """List the hands of a split."""
    folder = request.root / request.split
    stems = sorted(path.stem for path in folder.glob("*.json"))
    if not stems:
        raise ValueError(f"{folder}: no JSON files; expected hand_labels as it is unpacked")
    there, missing = split_by_presence(folder, stems, lambda stem: f"{stem}.jpg")

    min_joints = MIN_JOINTS if request.split == "manual_train" else 1

    def make(stem: str) -> SourceClip | None:
        hand = read_hand(folder / f"{stem}.json")
        if np.isfinite(hand.joints_img).all(axis=-1).sum() < min_joints:
            return None
        path = folder / f"{stem}.jpg"
        width_px, height_px = picture_size(path)
        truth = one_frame(
            is_right=hand.is_right, K=None, width_px=width_px, height_px=height_px, joints_img=hand.joints_img,
            box_xyxy=box_about(hand.joints_img),
        )  # fmt: skip
        return SourceClip(
            key=safe_key(stem), pictures=PictureFiles([path]), hands=(truth,), width_px=width_px,
            height_px=height_px, fps=0.0, source=f"{request.split}/{stem}.json, head_box {hand.head_box}",
        )  # fmt: skip

    return picture_source(there, make, missing=missing)


DATA_SETS = (
    DataSet(
        name="mpii-nzsl",
        title="MPII+NZSL (CMU HandDB)",
        licence="research only (CMU HandDB)",
        link="http://domedb.perception.cs.cmu.edu/handdb.html",
        splits={"manual_train": Split(1912, "images"), "manual_test": Split(846, "images")},
        layout=("manual_*/*.json", "manual_*/*.jpg"),
        open=open_mpii_nzsl,
        is_video=False,
    ),
)
