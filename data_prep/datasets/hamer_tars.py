"""HaMeR's training tars (Pavlakos et al., CVPR 2024) as shards of this package; `format: hamer` reads them as they are.

Hands go through HaMeR's filter `low1`. Cameras and places are not known; boxes are HaMeR's own.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.dataset import DamagedError, DataSet, HandTruth, Request, Source, SourceClip, Split, Unit
from data_prep.mano_files import matrices
from data_prep.single_images import EncodedPicture, one_frame, safe_key, where_known
from haptic.data.hamer_tars import IMAGE_EXTENSIONS, LABELS, HamerHand, filtered_hand, read_records
from haptic.data.shards import Shard, scan_shard
from haptic.geometry.boxes import HAPTIC_EXPANSION

# The number of tars, and of hands before the filter.
PUBLISHED = {
    "freihand-train": (131, 130240), "interhand26m-train": (1057, 1424632), "mtc-train": (307, 363947),
    "rhd-train": (42, 61705), "cocow-train": (37, 78666), "halpe-train": (23, 34289), "mpiinzsl-train": (16, 15184),
    "ho3d-train": (84, 83325), "h2o3d-train": (61, 121996), "dex-train": (407, 406888), "arctic-train": (21, 20000),
}  # fmt: skip
FOLDERS = ("", "dataset_tars", "hamer_training_data/dataset_tars")


def hand_truth(hand: HamerHand, *, width_px: int, height_px: int) -> HandTruth:
    """Return what a hand of a tar says. Its box is the square that HaMeR's network sees, so a third of it is tight."""
    half = hand.box_side_px / HAPTIC_EXPANSION / 2
    rotation = matrices(hand.pose_aa.reshape(16, 3)) if hand.has_pose else np.full((16, 3, 3), np.nan)
    return one_frame(
        is_right=hand.is_right, K=None, width_px=width_px, height_px=height_px,
        joints_img=where_known(hand.joints_img, hand.joints_img_weight), joints_img_weight=hand.joints_img_weight,
        joints_cam=where_known(hand.joints, hand.joints_weight), is_placed=False,
        box_xyxy=np.concatenate([hand.box_center_img - half, hand.box_center_img + half]), is_box_kept=True,
        global_orient=rotation[0], hand_pose=rotation[1:], betas=hand.betas,
    )  # fmt: skip


def open_hamer_tars(request: Request) -> Source:
    """List the tars of one of HaMeR's sets; each is a unit."""
    num_tars, num_hands = PUBLISHED[request.split]
    places = [request.root / name / request.split for name in FOLDERS]
    folder = next((place for place in places if next(place.glob("*.tar"), None)), None)
    if folder is None:
        raise ValueError(f"{request.root}: no {request.split}/*.tar in it, nor below {FOLDERS[2]}")
    names = [f"{number:06d}.tar" for number in range(num_tars)]
    missing = [f"{request.split}/{name}" for name in names if not (folder / name).is_file()]
    units = [Unit(path.stem, num_hands // num_tars) for path in sorted(folder.glob("*.tar"))]
    return Source(units, lambda unit: tar_clips(folder / f"{unit.name}.tar"), missing)


def tar_clips(path: Path) -> Iterator[SourceClip]:
    """Give the pictures of a tar that have hands which pass the filter.

    Raises:
        DamagedError: the tar cannot be read, or is cut off; what lies before the fault was given.
    """
    index = scan_shard(path)
    shard = Shard(path, index, name=path.name)
    try:
        for place, key in enumerate(shard.samples):
            try:
                clip = _picture_clip(shard, key, tar=path.stem)
            except ValueError as error:
                clip = SourceClip(
                    key=f"{path.stem}-{place}", pictures=EncodedPicture(b"", where=key), hands=(), width_px=1,
                    height_px=1, fps=0.0, source=str(error), damaged=(str(error),),
                )  # fmt: skip
            if clip is not None:
                yield clip
    finally:
        shard.close()
    if index.fault:
        raise DamagedError(f"{path}: {index.fault}")


def _picture_clip(shard: Shard, key: str, *, tar: str) -> SourceClip | None:
    hands = [filtered_hand(record, where=shard.where(key, LABELS)) for record in read_records(shard, key)]
    extension = next((extension for extension in IMAGE_EXTENSIONS if shard.has(key, extension)), None)
    if extension is None:
        raise DamagedError(f"{shard.where(key, 'jpg')} is missing from the tar (nor is it jpeg or png)")
    where, data = shard.where(key, extension), shard.read(key, extension)
    try:
        width_px, height_px = Image.open(io.BytesIO(data)).size
    except OSError as error:
        raise DamagedError(f"{where}: not a readable picture ({error})") from None
    truths = [hand_truth(hand, width_px=width_px, height_px=height_px) for hand in hands if hand is not None]
    if not truths:
        return None
    return SourceClip(
        key=safe_key(f"{tar}-{key}"), pictures=EncodedPicture(data, where=where), hands=truths,
        width_px=width_px, height_px=height_px, fps=0.0, source=f"{tar}.tar, {key}",
    )  # fmt: skip


DATA_SETS = (
    DataSet(
        name="hamer-tars",
        title="HaMeR's training tars",
        licence="that of each set; research only",
        link="https://github.com/geopavlakos/hamer",
        splits={name: Split(num_tars, "files") for name, (num_tars, _hands) in PUBLISHED.items()},
        layout=("*-train/*.tar or dataset_tars/*-train/*.tar or hamer_training_data/dataset_tars/*-train/*.tar",),
        open=open_hamer_tars,
        is_video=False,
        mano="in the labels",
    ),
)
