"""Halpe Full-Body (Fang et al.): hands among 136 joints of people in HICO-DET's and COCO's pictures."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from data_prep.coco_people import HandRow, open_people
from data_prep.dataset import DataSet, Request, Source, Split
from data_prep.single_images import box_about, first_file, where_known

NUM_POINTS = 136
FIRST_POINT = {"left": 94, "right": 115}
FILES = {"train": "halpe_train_v1.json", "val": "halpe_val_v1.json"}
FOLDERS = {
    "train": ("hico_20160224_det/images/train2015", "images/train2015", "train2015", "."),
    "val": ("val2017", "images/val2017", "coco/val2017", "coco/images/val2017", "."),
}


def person_hands(person: Mapping[str, Any]) -> list[HandRow]:
    """Return both hands of a person; a joint counts if its third number is 1 or 2. There are no boxes of hands."""
    points = np.asarray(person["keypoints"], np.float32).reshape(NUM_POINTS, 3)
    rows = []
    for side in ("right", "left"):
        hand = points[FIRST_POINT[side] : FIRST_POINT[side] + 21]
        weight = (hand[:, 2] > 0).astype(np.float32)
        rows.append(HandRow(side == "right", hand[:, :2], weight, box_about(where_known(hand[:, :2], weight))))
    return rows


def open_halpe(request: Request) -> Source:
    """List a split's pictures with hands."""
    name = FILES[request.split]
    annotation = first_file(request.root, name, (".", "annotations"))
    if annotation is None:
        raise ValueError(f"{request.root}: no {name} in it, nor in annotations/")
    return open_people(
        request.root, annotation, FOLDERS[request.split], person_hands, data_set="Halpe",
        is_training=request.split == "train",
    )  # fmt: skip


DATA_SETS = (
    DataSet(
        name="halpe",
        title="Halpe Full-Body hands",
        licence="non-commercial (annotations); HICO-DET and COCO (pictures)",
        link="https://github.com/Fang-Haoshu/Halpe-FullBody",
        splits={"train": Split(0, "hands"), "val": Split(0, "hands")},
        layout=("halpe_*_v1.json or annotations/halpe_*_v1.json",),
        open=open_halpe,
        is_video=False,
    ),
)
