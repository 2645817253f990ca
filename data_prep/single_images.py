"""What the sets of single pictures share: one frame's truth, guessed cameras, pictures, keys, and units of work."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from data_prep.dataset import DamagedError, HandTruth, Source, SourceClip, Unit
from haptic.data.hamer_tars import GUESSED_FOCAL
from haptic.data.samples import decode_image
from haptic.geometry.cameras import intrinsics

MIN_JOINTS = 5  # training sets leave out hands with fewer known joints, as HaMeR does
MAX_KEY = 80
DIGEST_CHARS = 12
PICTURES_PER_UNIT = 200

SampleT = TypeVar("SampleT")


class EncodedPicture:
    """A picture in memory as a clip of one frame."""

    def __init__(self, data: bytes, *, where: str) -> None:
        self._data, self._where = data, where

    def __len__(self) -> int:
        return 1

    def read(self, frame: int) -> np.ndarray:
        """Return the picture, RGB, or raise `DamagedError`."""
        assert frame == 0, "a picture has one frame"
        try:
            return decode_image(self._data, where=self._where)
        except ValueError as error:
            raise DamagedError(str(error)) from None


def guessed_K(width_px: int, height_px: int) -> np.ndarray:
    """Return the camera that is written where a set tells none: the one HaMeR imagines."""
    return intrinsics(GUESSED_FOCAL * max(width_px, height_px), width=width_px, height=height_px).double().numpy()


def one_frame(
    *,
    is_right: bool,
    K: np.ndarray | None,
    width_px: int,
    height_px: int,
    joints_img: np.ndarray | None = None,
    joints_cam: np.ndarray | None = None,
    is_placed: bool = True,
    is_box_kept: bool = False,
    **others: Any,
) -> HandTruth:
    """Return a hand's truth in one picture, from arrays without the frames' axis; K None is a guess."""
    arrays: dict[str, Any] = {
        name: None if value is None else np.asarray(value)[None] for name, value in others.items()
    }
    return HandTruth(
        is_right=is_right,
        K=(guessed_K(width_px, height_px) if K is None else np.asarray(K, np.float64))[None],
        joints_img=None if joints_img is None else np.asarray(joints_img, np.float64)[None],
        joints_cam=None if joints_cam is None else np.asarray(joints_cam, np.float64)[None],
        is_placed=is_placed,
        is_camera_known=K is not None,
        is_box_kept=is_box_kept,
        **arrays,
    )


def where_known(joints: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the joints with NaN where the weight is not above zero."""
    return np.where(np.asarray(weight)[..., None] > 0, joints, np.nan)


def box_about(joints_img: np.ndarray, box_xyxy: np.ndarray | None = None) -> np.ndarray:
    """Return the tight box about the known joints and, if it has an area, the annotated box; NaN about nothing."""
    points = joints_img[np.isfinite(joints_img).all(axis=-1)]
    if box_xyxy is not None and np.isfinite(box_xyxy).all() and (box_xyxy[2:] > box_xyxy[:2]).all():
        points = np.concatenate([points, box_xyxy.reshape(2, 2)])
    if len(points) == 0:
        return np.full(4, np.nan)
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def box_from_xywh(xywh: Sequence[float]) -> np.ndarray:
    """Return left, top, right, bottom of COCO's left, top, width, height."""
    left, top, width, height = (float(value) for value in xywh)
    return np.array([left, top, left + width, top + height])


def safe_key(text: str) -> str:
    """Return a key for a shard's members: what it cannot hold becomes a dash, and a digest tells such keys apart."""
    key = re.sub(r"[^A-Za-z0-9_+=,@-]", "-", text)
    if key == text and len(key) <= MAX_KEY:
        return key
    digest = hashlib.sha256(text.encode()).hexdigest()[:DIGEST_CHARS]
    return f"{key[: MAX_KEY - DIGEST_CHARS - 1]}={digest}"


def picture_source(
    samples: Sequence[SampleT],
    clip: Callable[[SampleT], SourceClip | None],
    *,
    num_hands: Callable[[SampleT], int] | None = None,
    num_counted: Callable[[SampleT], int] | None = None,
    missing: Sequence[str] = (),
) -> Source:
    """Return a source whose units are some hundred pictures each.

    A sample that cannot be read is handed on as damaged, so that those after it are not lost. `clip` returns None for a
    picture that is left out.
    """
    starts = range(0, len(samples), PICTURES_PER_UNIT)
    parts = {f"{start:08d}": samples[start : start + PICTURES_PER_UNIT] for start in starts}

    def total(count: Callable[[SampleT], int] | None, part: Sequence[SampleT]) -> int:
        return len(part) if count is None else sum(count(sample) for sample in part)

    def clips(unit: Unit) -> Iterator[SourceClip]:
        for place, sample in enumerate(parts[unit.name]):
            try:
                made = clip(sample)
            except DamagedError as error:
                yield _nothing(f"{unit.name}-{place}", str(error))
                continue
            if made is not None:
                yield made

    units = [Unit(name, total(num_hands, part), total(num_counted, part)) for name, part in parts.items()]
    return Source(units, clips, missing)


def first_file(root: Path, name: str, folders: Sequence[str]) -> Path | None:
    """Return the file in the first of these folders below `root` (`.` is the root) that has it."""
    return next((root / folder / name for folder in folders if (root / folder / name).is_file()), None)


def picture_folder(root: Path, folders: Sequence[str], file_names: Sequence[str], *, data_set: str) -> Path:
    """Return the first of these folders below `root` (`.` is the root) that has one of some of the pictures.

    Raises:
        ValueError: none has; it says what was looked for.
    """
    some = file_names[:: max(1, len(file_names) // 20)]
    for folder in folders:
        if any((root / folder / name).is_file() for name in some):
            return root / folder
    raise ValueError(
        f"{root}: the pictures of {data_set} are missing; looked for {some[0] if some else 'any'} and others in "
        f"{', '.join(folders)}. Download them too, or link their folder there"
    )


def split_by_presence(
    folder: Path, samples: Sequence[SampleT], name: Callable[[SampleT], str]
) -> tuple[list[SampleT], tuple[str, ...]]:
    """Return the samples whose picture lies directly in the folder, and a line about those whose picture does not."""
    names = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
    return _divided(folder, samples, [name(sample) in names for sample in samples], name)


def present(
    folder: Path, samples: Sequence[SampleT], name: Callable[[SampleT], str]
) -> tuple[list[SampleT], tuple[str, ...]]:
    """Return the same of pictures that may lie in folders below; they are looked for one by one."""
    return _divided(folder, samples, [(folder / name(sample)).is_file() for sample in samples], name)


def _divided(
    folder: Path, samples: Sequence[SampleT], is_there: Sequence[bool], name: Callable[[SampleT], str]
) -> tuple[list[SampleT], tuple[str, ...]]:
    there = [sample for sample, is_here in zip(samples, is_there, strict=True) if is_here]
    if len(there) == len(samples):
        return there, ()
    first = name(samples[list(is_there).index(False)])
    return there, (f"{folder}: {len(samples) - len(there)} of {len(samples)} pictures, the first is {first}",)


def _nothing(key: str, why: str) -> SourceClip:
    return SourceClip(
        key=key, pictures=EncodedPicture(b"", where=why), hands=(), width_px=1, height_px=1, fps=0.0, source=why,
        damaged=(why,),
    )  # fmt: skip
