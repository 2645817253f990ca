"""Four image sets in the COCO files that MMPose publishes for them: who has these need not fetch the originals' labels.

FreiHAND and OneHand10K and Panoptic (MPII+NZSL) have 2D joints there, RHD also 3D joints in millimetres.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dataset import DataSet, HandTruth, Request, Source, SourceClip, Split
from data_prep.datasets.rhd import OPENPOSE_FROM_RHD
from data_prep.hand_side import SideJudge
from data_prep.pictures import PictureFiles, read_picture
from data_prep.single_images import (
    MIN_JOINTS,
    box_about,
    box_from_xywh,
    one_frame,
    picture_folder,
    picture_source,
    present,
    safe_key,
    where_known,
)

logger = logging.getLogger(__name__)

MM_PER_M = 1000.0


@dataclass(frozen=True)
class MMPoseSet:
    """What is particular about a set: where its pictures are, and its hands' side (None: ask a detector)."""

    prefix: str  # of the files: annotations/PREFIX_SPLIT.json
    title: str
    folders: tuple[str, ...]
    side: Callable[[Mapping[str, Any], Mapping[str, Any]], bool | None]  # of an annotation and its picture


@dataclass(frozen=True)
class Annotated:
    """A picture's entry with one hand's."""

    image: Mapping[str, Any]
    hand: Mapping[str, Any]


def hand_in_picture(one: Annotated, *, is_right: bool, is_rhd: bool) -> HandTruth:
    """Return what an annotation says. RHD's fingers go from tip to base here too."""
    order = np.array(OPENPOSE_FROM_RHD if is_rhd else range(21))
    points = np.asarray(one.hand["keypoints"], np.float64).reshape(21, 3)[order]
    joints_img = where_known(points[:, :2], points[:, 2])
    size: dict[str, Any] = {"width_px": int(one.image["width"]), "height_px": int(one.image["height"])}
    others: dict[str, Any] = {}
    K = None
    if "joint_cam" in one.hand:
        others["joints_cam"] = np.asarray(one.hand["joint_cam"], np.float64).reshape(21, 3)[order] / MM_PER_M
        (fx, fy), (cx, cy) = one.image["cam_param"]["focal"], one.image["cam_param"]["princpt"]
        K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    box_xyxy = box_about(joints_img, box_from_xywh(one.hand["bbox"]))
    return one_frame(is_right=is_right, K=K, **size, joints_img=joints_img, box_xyxy=box_xyxy, **others)


def open_mmpose(request: Request, which: MMPoseSet, judge: SideJudge | None = None) -> Source:
    """List the hands of a split."""
    path = request.root / "annotations" / f"{which.prefix}_{request.split}.json"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected MMPose's annotation of {which.title}")
    try:
        content = json.loads(path.read_bytes())
        images = {image["id"]: image for image in content["images"]}
        samples = [Annotated(images[hand["image_id"]], hand) for hand in content["annotations"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not COCO's format ({type(error).__name__}: {error})") from None
    names = [sample.image["file_name"] for sample in samples]
    folder = picture_folder(request.root, which.folders, names, data_set=which.title)
    there, missing = present(folder, samples, lambda sample: sample.image["file_name"])
    min_joints = MIN_JOINTS if request.split == "train" else 1
    side_judge = judge or SideJudge()

    def make(sample: Annotated) -> SourceClip | None:
        points = np.asarray(sample.hand["keypoints"], np.float64).reshape(21, 3)
        if (points[:, 2] > 0).sum() < min_joints:
            return None
        picture = folder / sample.image["file_name"]
        is_right = which.side(sample.hand, sample.image)
        if is_right is None:
            is_right = side_judge.is_right(read_picture(picture), where_known(points[:, :2], points[:, 2]))
        if is_right is None:
            logger.info("%s: left out, its side cannot be told", picture)
            return None
        truth = hand_in_picture(sample, is_right=is_right, is_rhd=which.prefix.startswith("rhd"))
        return SourceClip(
            key=safe_key(f"{request.split}-{sample.hand['id']}"), pictures=PictureFiles([picture]), hands=(truth,),
            width_px=int(sample.image["width"]), height_px=int(sample.image["height"]), fps=0.0,
            source=f"{path.name}, annotation {sample.hand['id']}, {sample.image['file_name']}",
        )  # fmt: skip

    return picture_source(there, make, missing=missing)


def _side_by_name(_hand: Mapping[str, Any], image: Mapping[str, Any]) -> bool | None:
    """Read the side off the picture's name: NAME_l.jpg or NAME_r.jpg."""
    return {"_r": True, "_l": False}.get(Path(image["file_name"]).stem[-2:])


def _always_right(_hand: Mapping[str, Any], _image: Mapping[str, Any]) -> bool | None:
    return True


def _unknown_side(_hand: Mapping[str, Any], _image: Mapping[str, Any]) -> bool | None:
    return None


def _side_by_label(hand: Mapping[str, Any], _image: Mapping[str, Any]) -> bool | None:
    return {"right": True, "left": False}.get(str(hand.get("hand_type")))


SETS = {
    "freihand-mmpose": MMPoseSet("freihand", "FreiHAND (MMPose's files)", (".",), _always_right),
    "onehand10k-mmpose": MMPoseSet("onehand10k", "OneHand10K (MMPose's files)", (".",), _unknown_side),
    "mpii-nzsl-mmpose": MMPoseSet("panoptic", "MPII+NZSL (MMPose's files)", (".",), _side_by_name),
    "rhd-mmpose": MMPoseSet("rhd", "RHD (MMPose's files)", (".",), _side_by_label),
}
SPLITS = {
    "freihand-mmpose": ("train", "val", "test"),
    "onehand10k-mmpose": ("train", "test"),
    "mpii-nzsl-mmpose": ("train", "test"),
    "rhd-mmpose": ("train", "test"),
}


def _opener(which: MMPoseSet) -> Callable[[Request], Source]:
    return lambda request: open_mmpose(request, which)


DATA_SETS = tuple(
    DataSet(
        name=name,
        title=which.title,
        licence="that of the original set; research only",
        link="https://mmpose.readthedocs.io",
        splits={split: Split(0, "images") for split in SPLITS[name]},
        layout=(f"annotations/{which.prefix}_*.json",),
        open=_opener(which),
        is_video=False,
    )
    for name, which in SETS.items()
)
