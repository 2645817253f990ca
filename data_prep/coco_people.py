"""Hands of people in COCO's file format: grouped by picture, streamed, kept as small arrays."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dataset import DamagedError, Source, SourceClip
from data_prep.json_stream import stream_lists
from data_prep.pictures import PictureFiles
from data_prep.single_images import (
    MIN_JOINTS,
    box_about,
    one_frame,
    picture_folder,
    picture_source,
    present,
    safe_key,
    where_known,
)


@dataclass(frozen=True)
class HandRow:
    """One annotated hand: joints in pixels, their confidence (0: not annotated), and the set's box."""

    is_right: bool
    joints_img: np.ndarray  # (21, 2)
    weight: np.ndarray  # (21,)
    box_xyxy: np.ndarray | None = None  # (4,)


@dataclass
class PeoplePicture:
    """A picture with its hands."""

    file_name: str
    width_px: int
    height_px: int
    hands: list[HandRow] = field(default_factory=list)
    people: list[int] = field(default_factory=list)  # whose hands they are


def read_people(
    path: Path, person_hands: Callable[[Mapping[str, Any]], list[HandRow]], *, min_joints: int
) -> list[PeoplePicture]:
    """Return the pictures that have hands with enough known joints, in the order of their ids.

    Raises:
        ValueError: it is damaged, or an annotation speaks of a picture that is not listed.
    """
    pictures: dict[int, PeoplePicture] = {}
    found: list[tuple[int, int, HandRow]] = []
    try:
        for name, item in stream_lists(path):
            if name == "images":
                pictures[item["id"]] = PeoplePicture(item["file_name"], int(item["width"]), int(item["height"]))
            elif name == "annotations":
                hands = (hand for hand in person_hands(item) if (hand.weight > 0).sum() >= min_joints)
                found += [(item["image_id"], item["id"], hand) for hand in hands]
    except DamagedError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not COCO's format as expected ({type(error).__name__}: {error})") from None
    for image_id, person, hand in found:
        if image_id not in pictures:
            raise ValueError(f"{path}: annotation {person} speaks of picture {image_id}, which is not listed")
        pictures[image_id].hands.append(hand)
        pictures[image_id].people.append(person)
    return [picture for _id, picture in sorted(pictures.items()) if picture.hands]


def open_people(
    root: Path,
    annotation: Path,
    folders: tuple[str, ...],
    person_hands: Callable[[Mapping[str, Any]], list[HandRow]],
    *,
    data_set: str,
    is_training: bool,
) -> Source:
    """Return the source of a COCO file: one clip for each picture with hands, all people's hands in it.

    Training sets leave out hands with fewer than `MIN_JOINTS` joints; others those without any.
    """
    pictures = read_people(annotation, person_hands, min_joints=MIN_JOINTS if is_training else 1)
    folder = picture_folder(root, folders, [picture.file_name for picture in pictures], data_set=data_set)
    there, missing = present(folder, pictures, lambda picture: picture.file_name)

    def make(picture: PeoplePicture) -> SourceClip:
        size: dict[str, Any] = {"width_px": picture.width_px, "height_px": picture.height_px}
        hands = []
        for row in picture.hands:
            joints_img = where_known(row.joints_img, row.weight)
            truth = one_frame(
                is_right=row.is_right, K=None, **size, joints_img=joints_img, joints_img_weight=row.weight,
                box_xyxy=box_about(joints_img, row.box_xyxy),
            )  # fmt: skip
            hands.append(truth)
        people = ", ".join(str(person) for person in dict.fromkeys(picture.people))
        return SourceClip(
            key=safe_key(Path(picture.file_name).stem), pictures=PictureFiles([folder / picture.file_name]),
            hands=hands, **size, fps=0.0, source=f"{annotation.name}, {picture.file_name}, annotations {people}",
        )  # fmt: skip

    def count(picture: PeoplePicture) -> int:
        return len(picture.hands)

    return picture_source(there, make, num_hands=count, num_counted=count, missing=missing)
