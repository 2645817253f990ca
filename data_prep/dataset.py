"""What a data set is to the converter: a description, units of work, and clips of hands as the set tells them.

A new set is one file `data_prep/datasets/NAME.py` that holds `DATA_SETS`, a tuple of `DataSet`s. Nothing else needs to
know of it. Each names a function `open(Request) -> Source`; the source lists its units (a sequence of a video set, a
few hundred pictures of an image set) without reading pictures, and turns one unit into clips:

    def open_mine(request: Request) -> Source:
        annotations = json.loads((request.root / "labels.json").read_text())
        ...
        return Source(units, clips)            # clips(unit) -> Iterator[SourceClip]

`HandTruth` takes what the set knows in numpy, NaN for what it does not, in the package's conventions: metres, x right,
y down, z forward, OpenPose order, pixels of the picture, left hands as left hands. Boxes, weights, tracks with gaps,
crops, shards, damaged pictures and progress are the converter's work (`data_prep.labels`, `data_prep.convert`).
An image set gives clips of one frame with fps 0.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Float, Int, UInt8

from data_prep.mano_files import ManoFiles


class DamagedError(ValueError):
    """A picture or an annotation that cannot be read; the message names it. The converter counts it and goes on."""


@contextmanager
def taking_apart(path: Path, expected: str) -> Iterator[None]:
    """Say of a file whose content turns out to be another that it is not what was expected, e.g. "not a list of hands".

    Raises:
        DamagedError: a key, a type or a value within the block is wrong.
    """
    try:
        yield
    except DamagedError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{path}: {expected} ({error})") from None


class UnusableError(ValueError):
    """What the user must put right before anything more is converted: it ends the run."""


@dataclass(frozen=True)
class Split:
    """What the publishers say of a split; 0 where they do not say."""

    published: int = 0
    counts: Literal["sequences", "files", "frames", "hands", "images", "videos"] = "frames"


@dataclass(frozen=True)
class Request:
    """What is to be converted. `options` are the set's own (`--option NAME=VALUE`)."""

    root: Path
    split: str
    mano: ManoFiles | None = None
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Unit:
    """What is converted in one go and never cut by a shard's end."""

    name: str
    num_hands: int  # hand-frames, roughly: shards are filled by it
    num_counted: int = 0  # of what the split's published number counts


class Pictures(Protocol):
    """The frames of a clip; only those with a hand are asked for, in order."""

    def __len__(self) -> int: ...

    def read(self, frame: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return a frame, RGB, or raise `DamagedError`."""
        ...


@dataclass(frozen=True)
class HandTruth:
    """What a data set says of one hand in the T frames of a clip; NaN where it says nothing.

    Only `is_right`, K and one of `joints_cam` and `joints_img` are asked for. Without `joints_img` the 2D joints
    are the projected 3D ones. `joints_visible`: 1 seen, 0 hidden, -1 not known.
    """

    is_right: bool
    K: Float[np.ndarray, "T 3 3"]
    joints_cam: Float[np.ndarray, "T 21 3"] | None = None
    joints_img: Float[np.ndarray, "T 21 2"] | None = None
    joints_img_weight: Float[np.ndarray, "T 21"] | None = None  # the annotation's confidence; 1 if not given
    joints_visible: Int[np.ndarray, "T 21"] | None = None
    box_xyxy: Float[np.ndarray, "T 4"] | None = None  # the set's own, tight; used where not all joints give one
    is_box_kept: bool = False  # box_xyxy is what a benchmark scales by: kept, whichever joints are in view
    global_orient: Float[np.ndarray, "T 3 3"] | None = None
    hand_pose: Float[np.ndarray, "T 15 3 3"] | None = None
    betas: Float[np.ndarray, "T 10"] | None = None
    transl: Float[np.ndarray, "T 3"] | None = None
    T_world_cam: Float[np.ndarray, "T 4 4"] | None = None
    is_placed: bool = True  # joints_cam is the true place; else only the joints about the wrist mean something
    is_camera_known: bool = True  # else K is a guess


@dataclass(frozen=True)
class SourceClip:
    """Frames in a row with their hands. Keys are unique within a split: letters, digits and `_ + = , @ -`."""

    key: str
    pictures: Pictures
    hands: Sequence[HandTruth]
    width_px: int
    height_px: int
    fps: float
    source: str  # where in the data set
    damaged: Sequence[str] = ()  # annotations of single frames that could not be read


@dataclass(frozen=True)
class Source:
    """A split of a data set that was opened. `missing` names what the download lacks."""

    units: Sequence[Unit]
    clips: Callable[[Unit], Iterator[SourceClip]]
    missing: Sequence[str] = ()


@dataclass(frozen=True)
class DataSet:
    """A data set's description.

    `layout` are patterns below the root (`A or B` where either will do), each of which a download must match: the
    first that does not is named when the root is wrong, and a folder that matches all of another set's is recognised
    as that set.
    """

    name: str  # on the command line
    title: str
    licence: str
    link: str
    splits: Mapping[str, Split]
    layout: Sequence[str]
    open: Callable[[Request], Source]
    is_video: bool = True
    mano: Literal["unused", "for parameters", "needed", "in the labels", "openhand by default"] = "unused"
    needs_left_mano: bool = False  # left hands are stored as PCA coefficients of MANO_LEFT
    options: Mapping[str, str] = field(default_factory=dict)  # the set's own, with what they do
