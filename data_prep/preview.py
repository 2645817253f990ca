"""`--preview`: a contact sheet of hands spread over a split, with the labels as a shard would hold them."""

import tempfile
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from data_prep.convert import clip_images, readable_clips
from data_prep.dataset import DamagedError, DataSet, Source
from data_prep.labels import clip_hands, thinned
from haptic.data.samples import SampleWriter
from haptic.data.shard_tools import contact_sheet
from haptic.files import atomic_path

PREVIEW_UNITS = 12
PREVIEW_CLIPS = 4  # of one unit
PREVIEW_CELLS = 24


def write_preview(data_set: DataSet, source: Source, path: Path) -> None:
    """Write the picture.

    Raises:
        ValueError: nothing usable was found.
    """
    chosen = np.unique(np.linspace(0, len(source.units) - 1, PREVIEW_UNITS).round().astype(int))
    with tempfile.TemporaryDirectory() as folder:
        with SampleWriter(
            Path(folder), prefix="preview", data_set=data_set.name, licence=data_set.licence, hand_model="none"
        ) as writer:
            faults = [fault for place in chosen for fault in _add_unit(writer, source, int(place))]
        if not writer.paths:
            raise ValueError(
                f"nothing of {data_set.title} can be shown; {faults[0] if faults else 'no hand was found'}"
            )
        picture = contact_sheet(str(writer.paths[0]), num_cells=PREVIEW_CELLS)
    with atomic_path(path) as temporary:
        cv2.imwrite(str(temporary), picture[..., ::-1])


def _add_unit(writer: SampleWriter, source: Source, place: int) -> list[str]:
    """Add a frame or two of a unit's first clips; return what could not be read."""
    faults: list[str] = []
    for clip in islice(readable_clips(source, source.units[place], faults), PREVIEW_CLIPS):
        hands = clip_hands(clip)
        if not hands:
            continue
        spans = [(int(one.frame_index[0]), int(one.frame_index[-1])) for one in hands.values()]
        first, last = max(spans, key=lambda span: span[1] - span[0])
        middle = (first + last) // 2
        few = thinned(hands, range(middle, middle + 2))
        try:
            writer.add_clip(clip.key, clip_images(clip, few), few, fps=clip.fps, source=clip.source)
        except DamagedError as error:
            faults.append(str(error))
    return faults
