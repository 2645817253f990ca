"""FreiHAND (Zimmermann et al., ICCV 2019): single right hands before a green screen, four backgrounds each."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dataset import DataSet, Request, Source, SourceClip, Split
from data_prep.mano_files import ManoFiles, ManoNumbers
from data_prep.pictures import PictureFiles
from data_prep.single_images import one_frame, picture_source, split_by_presence

WIDTH_PX = HEIGHT_PX = 224
BACKGROUNDS = {"training": ("gs", "hom", "sample", "auto"), "evaluation": ("gs",)}


@dataclass(frozen=True)
class FreiHands:
    """The annotation of one split, one row for each unique hand; pictures i, i + N, i + 2 N, ... show hand i."""

    K: np.ndarray  # (N, 3, 3)
    joints_cam: np.ndarray  # (N, 21, 3)
    mano: np.ndarray | None  # (N, 61): pose 48, shape 10, root's pixel 2, scale 1


def read_annotation(root: Path, split: str) -> FreiHands:
    """Return what the JSON files say.

    Raises:
        ValueError: a file is missing, or they are not of one length.
    """
    K = _array(root / f"{split}_K.json", (3, 3))
    joints_cam = _array(root / f"{split}_xyz.json", (21, 3))
    mano_path = root / f"{split}_mano.json"
    mano = _array(mano_path, (61,)) if mano_path.is_file() else None
    if len(K) != len(joints_cam) or (mano is not None and len(mano) != len(K)):
        raise ValueError(
            f"{root}: {split}_K.json has {len(K)} rows, {split}_xyz.json {len(joints_cam)}"
            f"{'' if mano is None else f', {split}_mano.json {len(mano)}'}; expected the same. Download them again"
        )
    return FreiHands(K, joints_cam, mano)


def mano_truth(hands: FreiHands, row: int, files: ManoFiles) -> dict[str, Any]:
    """Return MANO's parameters of a hand. Its wrist is put onto the annotated one; the file has no translation."""
    assert hands.mano is not None
    pose, betas = hands.mano[row, :48], hands.mano[row : row + 1, 48:58]
    wrist = hands.joints_cam[row : row + 1, 0]
    numbers = ManoNumbers(
        is_right=True,
        global_aa=pose[None, :3],
        finger=pose[None, 3:],
        betas=betas,
        transl=wrist - files.rest_wrist(betas, is_right=True),
        is_pca=False,
        is_mean_left_out=True,
    )
    truth = files.params(numbers)
    return {name: values[0] for name, values in vars(truth).items()}


def open_freihand(request: Request) -> Source:
    """List the pictures of a split."""
    hands = read_annotation(request.root, request.split)
    folder = request.root / request.split / "rgb"
    numbers = range(len(hands.K) * len(BACKGROUNDS[request.split]))
    there, missing = split_by_presence(folder, numbers, lambda number: f"{number:08d}.jpg")
    if request.mano is not None and hands.mano is None:
        missing = (*missing, f"{request.split}_mano.json")
    return picture_source(there, clip_maker(hands, folder, request.split, request.mano), missing=missing)


def clip_maker(hands: FreiHands, folder: Path, split: str, files: ManoFiles | None) -> Callable[[int], SourceClip]:
    """Return the function from a picture's number to its clip."""

    def make(number: int) -> SourceClip:
        row = number % len(hands.K)
        others = {} if files is None or hands.mano is None else mano_truth(hands, row, files)
        path = folder / f"{number:08d}.jpg"
        truth = one_frame(
            is_right=True, K=hands.K[row], width_px=WIDTH_PX, height_px=HEIGHT_PX,
            joints_cam=hands.joints_cam[row], **others,
        )  # fmt: skip
        background = BACKGROUNDS[split][number // len(hands.K)]
        return SourceClip(
            key=f"{split}-{number:08d}", pictures=PictureFiles([path]), hands=(truth,),
            width_px=WIDTH_PX, height_px=HEIGHT_PX, fps=0.0,
            source=f"{split}/rgb/{path.name}, hand {row}, background {background}",
        )  # fmt: skip

    return make


def _array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    if not path.is_file():
        later = "; the evaluation set's truth was published later and is a download of its own"
        raise ValueError(f"{path}: no such file{later if path.name.startswith('evaluation') else ''}")
    try:
        raw: Any = json.loads(path.read_bytes())
        return np.asarray(raw, np.float64).reshape(len(raw), *shape)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: expected a list of arrays {shape} ({error}); is the download complete?") from None


DATA_SETS = (
    DataSet(
        name="freihand",
        title="FreiHAND v2",
        licence="research only (FreiHAND)",
        link="https://lmb.informatik.uni-freiburg.de/projects/freihand/",
        splits={"training": Split(130240, "images"), "evaluation": Split(3960, "images")},
        layout=("*_K.json", "*_xyz.json", "*/rgb/*.jpg"),
        open=open_freihand,
        is_video=False,
        mano="for parameters",
    ),
)
