"""OneHand10K (Wang et al., TCSVT 2018): one hand in each of 11,703 web pictures, 2D joints, no sides."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.arrays import numbered_lines
from data_prep.dataset import DataSet, Request, Source, SourceClip, Split
from data_prep.hand_side import SideJudge
from data_prep.pictures import PictureFiles, read_picture
from data_prep.single_images import MIN_JOINTS, box_about, one_frame, picture_source, safe_key, split_by_presence

logger = logging.getLogger(__name__)

FIRST_COORDINATE = 4  # after name, width, height, number of hands
NOT_ANNOTATED = -1


@dataclass(frozen=True)
class JointLine:
    """One line of label_joint.txt."""

    name: str
    width_px: int
    height_px: int
    joints_img: np.ndarray  # (21, 2), NaN where not annotated


def read_line(line: str, *, where: str) -> JointLine:
    """Return what a line says: name, width, height, number of hands, 21 times x, y; -1 is not annotated.

    Raises:
        ValueError: it is no such line.
    """
    words = [word.strip() for word in line.split(",")]
    try:
        numbers = np.array([float(word) for word in words[1:] if word])
        joints_img = numbers[FIRST_COORDINATE - 1 :].reshape(21, 2)
    except ValueError:
        raise ValueError(
            f"{where}: expected a name, width, height, number of hands and 21 pairs, divided by commas; got "
            f"{line[:60]!r}"
        ) from None
    known = (joints_img != NOT_ANNOTATED).all(axis=-1, keepdims=True)
    return JointLine(words[0], int(numbers[0]), int(numbers[1]), np.where(known, joints_img, np.nan))


def open_onehand10k(request: Request, judge: SideJudge | None = None) -> Source:
    """List the pictures of a split. Hands whose side the detector cannot tell are left out."""
    path = request.root / request.split / "label_joint.txt"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected OneHand10K as it is unpacked, with Train/ and Test/")
    lines = [read_line(line, where=f"{path}, line {number}") for number, line in numbered_lines(path)]
    folder = path.parent / "source"
    there, missing = split_by_presence(folder, lines, lambda line: line.name)
    return picture_source(there, ClipMaker(folder, request.split, judge or SideJudge()), missing=missing)


class ClipMaker:
    """From a line to a clip, looking at the picture for the hand's side."""

    def __init__(self, folder: Path, split: str, judge: SideJudge) -> None:
        self._folder, self._split, self._judge = folder, split, judge

    def __call__(self, line: JointLine) -> SourceClip | None:
        """Return the clip, or None if the side or too many joints are unknown."""
        min_joints = MIN_JOINTS if self._split == "Train" else 1
        if np.isfinite(line.joints_img).all(axis=-1).sum() < min_joints:
            return None
        path = self._folder / line.name
        is_right = self._judge.is_right(read_picture(path), line.joints_img)
        if is_right is None:
            logger.info("%s: left out, its side cannot be told", path)
            return None
        truth = one_frame(
            is_right=is_right, K=None, width_px=line.width_px, height_px=line.height_px, joints_img=line.joints_img,
            box_xyxy=box_about(line.joints_img),
        )  # fmt: skip
        return SourceClip(
            key=safe_key(f"{self._split}-{path.stem}"), pictures=PictureFiles([path]), hands=(truth,),
            width_px=line.width_px, height_px=line.height_px, fps=0.0,
            source=f"{self._split}/source/{line.name}; its side is the detector's word",
        )  # fmt: skip


DATA_SETS = (
    DataSet(
        name="onehand10k",
        title="OneHand10K",
        licence="research only (OneHand10K)",
        link="https://www.yangangwang.com/papers/WANG-MCC-2018-10.html",
        splits={"Train": Split(10000, "images"), "Test": Split(1703, "images")},
        layout=("*/label_joint.txt", "*/source/*.jpg"),
        open=open_onehand10k,
        is_video=False,
    ),
)
