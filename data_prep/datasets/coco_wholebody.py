"""COCO-WholeBody (Jin et al., ECCV 2020): 2D joints of hands of people in COCO's pictures, many of them small."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from data_prep.coco_people import HandRow, open_people
from data_prep.dataset import DataSet, Request, Source, Split
from data_prep.single_images import box_from_xywh, first_file

FILES = {"train": "coco_wholebody_train_v1.0.json", "val": "coco_wholebody_val_v1.0.json"}


def person_hands(person: Mapping[str, Any]) -> list[HandRow]:
    """Return the valid hands of a person; a joint counts if its third number, a confidence, is above zero."""
    rows = []
    for side in ("right", "left"):
        if not person.get(f"{side}hand_valid"):
            continue
        points = np.asarray(person[f"{side}hand_kpts"], np.float32).reshape(21, 3)
        box_xyxy = box_from_xywh(person[f"{side}hand_box"])
        rows.append(HandRow(side == "right", points[:, :2], np.clip(points[:, 2], 0, 1), box_xyxy))
    return rows


def open_coco_wholebody(request: Request) -> Source:
    """List a split's pictures with hands."""
    name = FILES[request.split]
    folders = tuple(f"{part}{request.split}2017" for part in ("", "images/", "coco/", "coco/images/"))
    annotation = first_file(request.root, name, (".", "annotations", "coco/annotations"))
    if annotation is None:
        raise ValueError(f"{request.root}: no {name} in it, nor in annotations/; it is a download of its own")
    return open_people(
        request.root, annotation, (*folders, "."), person_hands, data_set="COCO-WholeBody",
        is_training=request.split == "train",
    )  # fmt: skip


DATA_SETS = (
    DataSet(
        name="coco-wholebody",
        title="COCO-WholeBody hands",
        licence="CC BY-NC 4.0 (annotations); Flickr terms (pictures)",
        link="https://github.com/jin-s13/COCO-WholeBody",
        splits={"train": Split(0, "hands"), "val": Split(0, "hands")},
        layout=(
            "coco_wholebody_*_v1.0.json or annotations/coco_wholebody_*_v1.0.json or "
            "coco/annotations/coco_wholebody_*_v1.0.json",
        ),
        open=open_coco_wholebody,
        is_video=False,
    ),
)
