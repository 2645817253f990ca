"""HInt (Pavlakos et al., CVPR 2024): 2D joints of hands in New Days, VISOR and Ego4D, with what is hidden."""

import json
from pathlib import Path

import numpy as np

from data_prep.dataset import DamagedError, DataSet, Request, Source, SourceClip, Split
from data_prep.pictures import PictureFiles, picture_size
from data_prep.single_images import one_frame, picture_source, safe_key, split_by_presence

# jpg and json files of the complete set, as its own script counts them
FILES = {
    "TRAIN_newdays_img": 19332, "TRAIN_epick_img": 5560, "TRAIN_ego4d_img": 23304,
    "VAL_newdays_img": 1100, "VAL_epick_img": 1250, "VAL_ego4d_img": 1028, "VAL_ego4d_seq": 4640,
    "TEST_newdays_img": 3508, "TEST_epick_img": 3812, "TEST_ego4d_img": 3428, "TEST_ego4d_seq": 13906,
}  # fmt: skip


def read_hand(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return joints (21, 2) in pixels, whether each is seen (21,), and the annotated box.

    All 21 joints are annotated; those that cannot be seen were guessed by the annotators.

    Raises:
        DamagedError: it is not HInt's JSON: a list of one dict; the file is named.
    """
    try:
        (record,) = json.loads(path.read_bytes())
        joints_img = np.asarray(record["keypoints"], np.float64).reshape(21, 2)
        visible = np.asarray(record["occlusion"], np.float64).reshape(21) == 0
        box_xyxy = np.asarray(record["bbox"], np.float64).reshape(4)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path}: expected a list of one dict with keypoints, occlusion, bbox ({error})") from None
    if not (np.isfinite(joints_img).all() and (box_xyxy[2:] > box_xyxy[:2]).all()):
        raise DamagedError(f"{path}: its box {box_xyxy.tolist()} or its joints are no numbers of a hand")
    return joints_img, visible, box_xyxy


def open_hint(request: Request) -> Source:
    """List the hands of a split (a folder of HInt)."""
    folder = request.root / request.split
    stems = sorted(path.stem for path in folder.glob("*.json"))
    if not stems:
        raise ValueError(f"{folder}: no JSON files; expected HInt's folder of that name")
    wrong = [stem for stem in stems if stem[-2:] not in ("_l", "_r")]
    if wrong:
        raise ValueError(f"{folder / wrong[0]}.json: expected a name that ends in _l or _r, the hand's side")
    there, missing = split_by_presence(folder, stems, lambda stem: f"{stem}.jpg")
    if missing and "ego4d" in request.split:
        missing = (f"{missing[0]} (extract Ego4D's frames with prep_ego4d.py of github.com/ddshan/hint)",)

    def make(stem: str) -> SourceClip:
        joints_img, visible, box_xyxy = read_hand(folder / f"{stem}.json")
        path = folder / f"{stem}.jpg"
        width_px, height_px = picture_size(path)
        truth = one_frame(
            is_right=stem.endswith("_r"), K=None, width_px=width_px, height_px=height_px, joints_img=joints_img,
            joints_visible=visible.astype(np.int64), box_xyxy=box_xyxy, is_box_kept=True,
        )  # fmt: skip
        return SourceClip(
            key=safe_key(stem), pictures=PictureFiles([path]), hands=(truth,),
            width_px=width_px, height_px=height_px, fps=0.0, source=f"{request.split}/{stem}.json",
        )  # fmt: skip

    return picture_source(there, make, missing=missing)


DATA_SETS = (
    DataSet(
        name="hint",
        title="HInt",
        licence="research only (Hands23, VISOR / EPIC-KITCHENS, Ego4D)",
        link="https://github.com/ddshan/hint",
        splits={name: Split(count // 2, "images") for name, count in FILES.items()},
        layout=("*_*_*/*_[lr].json",),
        open=open_hint,
        is_video=False,
    ),
)
