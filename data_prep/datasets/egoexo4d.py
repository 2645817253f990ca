"""Ego-Exo4D hand pose (Grauman et al. 2024), as the official preparation writes it: about a frame per second.

`ego_pose_gt_anno_SPLIT_public.json` holds for each take and frame both hands in the ego camera (metres, OpenPose order,
right hand first), NaN for joints that are not seen and empty lists for a hand that is not there. Pictures are the
straightened Aria frames, 512 x 512 with a focal length of 150 px, landscape. The public test file holds boxes only.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.arrays import read_json
from data_prep.dataset import DamagedError, DataSet, HandTruth, Request, Source, SourceClip, Split, Unit
from data_prep.frames import pinhole
from data_prep.pictures import PictureFiles

SIDE_PX, FOCAL_PX = 512, 150.0
K = pinhole(FOCAL_PX, FOCAL_PX, (SIDE_PX - 1) / 2, (SIDE_PX - 1) / 2)


def open_egoexo4d(request: Request) -> Source:
    """List the takes of a split."""
    name = f"ego_pose_gt_anno_{request.split}_public.json"
    path = next(iter(sorted(request.root.rglob(name))), None)
    if path is None:
        raise ValueError(f"{request.root}: no {name} in it; it is what the official hand pose preparation writes")
    annotations = read_json(path)
    units, missing, folders = [], [], {}
    for take, frames in sorted(annotations.items()):
        if not frames:
            continue
        take_name = next(iter(frames.values()))["metadata"]["take_name"]
        folder = _folder(request, take_name)
        if folder is None:
            missing.append(f"image/undistorted/{request.split}/{take_name}")
            continue
        folders[take] = folder
        units.append(Unit(take, 2 * len(frames), len(frames)))
    return Source(units, lambda unit: _clips(unit, annotations[unit.name], folders[unit.name]), missing)


def _folder(request: Request, take_name: str) -> Path | None:
    images = request.root / "image" / "undistorted" / request.split / take_name
    places = [images, Path(request.options["images"]) / take_name] if "images" in request.options else [images]
    return next((place for place in places if place.is_dir()), None)


def _clips(unit: Unit, frames: Any, folder: Path) -> Iterator[SourceClip]:
    """Give a picture for each frame."""
    for number, record in sorted(frames.items(), key=lambda item: int(item[0])):
        damaged: list[str] = []
        hands = []
        for side in ("right", "left"):
            where = f"{unit.name}, frame {number}, {side}"
            try:
                hand = _hand(record, side, where)
            except DamagedError as error:
                damaged.append(str(error))
                continue
            hands += [] if hand is None else [hand]
        picture = int(record["metadata"].get("frame_number", number))
        yield SourceClip(
            key=f"{unit.name}_{int(number):06d}",
            pictures=PictureFiles([folder / f"{picture:06d}.jpg"]),
            hands=hands,
            width_px=SIDE_PX,
            height_px=SIDE_PX,
            fps=0.0,
            source=f"{record['metadata']['take_name']}, frame {number}",
            damaged=damaged,
        )


def _hand(record: Any, side: str, where: str) -> HandTruth | None:
    joints_3d, joints_2d = record.get(f"{side}_hand_3d") or [], record.get(f"{side}_hand_2d") or []
    if not joints_3d and not joints_2d:
        return None
    try:
        joints_cam = np.array(joints_3d or np.full((21, 3), np.nan), np.float64).reshape(1, 21, 3)
        joints_img = np.array(joints_2d or np.full((21, 2), np.nan), np.float64).reshape(1, 21, 2)
    except (ValueError, TypeError) as error:
        raise DamagedError(f"{where}: not 21 joints ({error})") from None
    valid = record.get(f"{side}_hand_valid_3d")
    if valid:
        joints_cam[0, ~np.asarray(valid, bool)] = np.nan
    return HandTruth(is_right=side == "right", K=K[None], joints_cam=joints_cam, joints_img=joints_img)


DATA_SETS = (
    DataSet(
        name="egoexo4d",
        title="Ego-Exo4D hand pose (prepared)",
        licence="Ego4D licence (signed agreement)",
        link="https://github.com/EGO4D/ego-exo4d-egopose",
        splits={"train": Split(), "val": Split()},
        layout=("**/ego_pose_gt_anno_*_public.json", "image/undistorted/*"),
        open=open_egoexo4d,
        is_video=False,
        options={"images": "folder of TAKE_NAME/FRAME.jpg, if not image/undistorted/SPLIT"},
    ),
)
