"""HaMeR's training tars, read as they are: whole pictures with a pickled list of hands each.

`KEY.jpg` (or jpeg, png) and `KEY.data.pyd`. The pickles go through the restricted unpickler; nothing in them is
executed. Their cameras are unknown and so are the hands' places: only what 2D, root-relative 3D and MANO parameters say
is given on. Hands are filtered as HaMeR's `low1` does it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from haptic.data.readers import ShardSet, Track, Window, right_hand_labels, select_places, whole_picture
from haptic.data.samples import HandLabels, decode_image
from haptic.data.shards import DamagedSampleError, Shard, ShardStore
from haptic.files import load_plain_pickle_bytes
from haptic.geometry.cameras import intrinsics
from haptic.geometry.rotations import rotation_from_aa
from haptic.records import Camera, HandParams

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png")
LABELS = "data.pyd"
# The filter `low1`.
MIN_CONFIDENCE = 0.3
MAX_BETA = 3.0
MIN_JOINTS = 5
MAX_REPROJECTION_LOSS = 31000.0

SCALE_UNIT_PX = 200.0  # HaMeR's boxes are in units of it
GUESSED_FOCAL = 5000 / 256  # image sides: the camera HaMeR imagines


@dataclass(frozen=True)
class HamerHand:
    """One hand of a picture as the tar has it, after the filter; unknown values are zeros with confidence zero."""

    joints_img: np.ndarray  # (21, 2)
    joints_img_weight: np.ndarray  # (21,)
    joints: np.ndarray  # (21, 3), metres
    joints_weight: np.ndarray  # (21,)
    box_center_img: np.ndarray  # (2,)
    box_side_px: float
    pose_aa: np.ndarray  # (48,)
    betas: np.ndarray  # (10,)
    has_pose: float
    has_betas: float
    is_right: bool


class HamerSet(ShardSet):
    """HaMeR's tars; each hand that passes the filter is a track of one frame."""

    format = "haptic-hamer-low1-1"
    open_tracks = 4  # they keep their pictures

    def _list_key(self, shard: Shard, key: str) -> list[tuple[str, int]]:
        records = read_records(shard, key)
        if not any(shard.has(key, extension) for extension in IMAGE_EXTENSIONS):
            raise DamagedSampleError(f"{shard.where(key, 'jpg')} is missing from the shard (nor is it jpeg or png)")
        hands = (filtered_hand(record, where=shard.where(key, LABELS)) for record in records)
        return [(str(number), 1) for number, hand in enumerate(hands) if hand is not None]

    def _open(self, url: str, key: str, hand: str) -> Track:
        return HamerTrack(self.name, self._store, url, key, hand)


class HamerTrack:
    """One hand in one picture; opening it decodes the picture, once for the crop and the full frame."""

    def __init__(self, set_name: str, store: ShardStore, url: str, key: str, hand: str) -> None:
        shard = store.shard(url)
        self.name = f"{set_name}/{shard.name}/{key}/{hand}"
        filtered = filtered_hand(read_records(shard, key)[int(hand)], where=shard.where(key, LABELS))
        assert filtered is not None, "only hands that passed the filter were listed"
        extension = next(extension for extension in IMAGE_EXTENSIONS if shard.has(key, extension))
        self._pixels = decode_image(shard.read(key, extension), where=shard.where(key, extension))
        self.height_px, self.width_px = self._pixels.shape[:2]
        self.was_right = filtered.is_right
        labels = _labels_of(filtered, width_px=self.width_px, height_px=self.height_px)
        self.labels = right_hand_labels(labels, self.width_px)

    def window(self, places: Sequence[int]) -> Window:
        """Return the picture with its labels; the crop is cut from the same pixels as the full frame."""
        picture = whole_picture(self._pixels, self.width_px, self.height_px)
        if not self.was_right:
            picture = picture.mirrored(self.width_px)
        return Window(
            crops=(picture,) * len(places),
            frames=(picture,) * len(places),
            labels=select_places(self.labels, places),
            frame_time_s=np.zeros(len(places)),
            width_px=self.width_px,
            height_px=self.height_px,
            was_right=self.was_right,
            key=self.name,
        )


def read_records(shard: Shard, key: str) -> list[Mapping[str, Any]]:
    """Return the hands of a picture as they were pickled.

    Raises:
        ValueError: the member is missing, damaged, holds more than plain data, or is no list of dicts; it is named.
    """
    where = shard.where(key, LABELS)
    records = load_plain_pickle_bytes(shard.read(key, LABELS), name=where)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DamagedSampleError(f"{where}: expected a list of one dict per hand")
    return records


def filtered_hand(record: Mapping[str, Any], *, where: str) -> HamerHand | None:
    """Return a hand after HaMeR's filter `low1`, in its order of steps, or None if it is dropped.

    Raises:
        DamagedSampleError: a field is missing or of wrong shape; `where` is named.
    """
    joints = _field(record, "keypoints_2d", (21, 3), where)
    joints_img_weight = np.where(np.isfinite(joints).all(-1), joints[:, 2], 0.0)
    joints_img_weight = np.where(joints_img_weight < MIN_CONFIDENCE, 0.0, joints_img_weight)
    joints_3d = _field(record, "keypoints_3d", (21, 4), where)
    joints_weight = np.where(np.isfinite(joints_3d).all(-1), joints_3d[:, 3], 0.0)
    betas = _field(record, "betas", (10,), where)
    pose_aa = _field(record, "hand_pose", (48,), where)
    has_betas = float(_field(record, "has_betas", (), where)) * float(not (np.abs(betas) > MAX_BETA).any())
    has_pose = float(_field(record, "has_hand_pose", (), where))
    if not (np.isfinite(betas).all() and np.isfinite(pose_aa).all()):
        has_pose = has_betas = 0.0
    has_both = float(has_betas > 0 and has_pose > 0)
    if (joints_img_weight > 0).sum() < MIN_JOINTS:
        return None
    if _reprojection_loss(record) >= MAX_REPROJECTION_LOSS:
        return None
    box_center_img = _field(record, "center", (2,), where)
    box_side_px = SCALE_UNIT_PX * float(np.max(np.asarray(record.get("scale", np.nan), np.float64)))
    if not (np.isfinite(box_center_img).all() and np.isfinite(box_side_px) and box_side_px >= 1):
        raise DamagedSampleError(f"{where}: center {box_center_img} and scale {record.get('scale')} are no box")
    return HamerHand(
        joints_img=np.where(joints_img_weight[:, None] > 0, joints[:, :2], 0.0),
        joints_img_weight=joints_img_weight,
        joints=np.where(joints_weight[:, None] > 0, joints_3d[:, :3], 0.0),
        joints_weight=np.maximum(joints_weight, 0.0),
        box_center_img=box_center_img,
        box_side_px=box_side_px,
        pose_aa=pose_aa if has_both else np.zeros(48),
        betas=betas if has_both else np.zeros(10),
        has_pose=has_both,
        has_betas=1.0,  # an unknown shape is drawn to the mean
        is_right=bool(_field(record, "right", (), where)),
    )


def _labels_of(hand: HamerHand, *, width_px: int, height_px: int) -> HandLabels:
    rotations = rotation_from_aa(torch.from_numpy(hand.pose_aa).reshape(16, 3)).float()
    focal_px = GUESSED_FOCAL * max(width_px, height_px)

    def one_frame(values: Any) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values, np.float32))[None]

    return HandLabels(
        frame_index=torch.zeros(1, dtype=torch.int64),
        box_center_img=one_frame(hand.box_center_img),
        box_side_px=one_frame(hand.box_side_px),
        joints_img=one_frame(hand.joints_img),
        joints_img_weight=one_frame(hand.joints_img_weight),
        joints_visible=torch.full((1, 21), -1, dtype=torch.int64),
        joints_cam=one_frame(hand.joints),
        joints_cam_weight=one_frame(hand.joints_weight),
        place_weight=torch.zeros(1),
        params=HandParams(
            global_orient=rotations[None, 0],
            hand_pose=rotations[None, 1:],
            betas=one_frame(hand.betas),
            transl=torch.zeros(1, 3),
        ),
        params_weight=one_frame(hand.has_pose),
        betas_weight=one_frame(hand.has_betas),
        camera=Camera(
            K=intrinsics(focal_px, width=width_px, height=height_px)[None],
            T_world_cam=torch.eye(4)[None],
        ),
        camera_weight=torch.zeros(1),
        is_right=torch.tensor(hand.is_right),
    )


def _field(record: Mapping[str, Any], name: str, shape: tuple[int, ...], where: str) -> np.ndarray:
    try:
        values = np.asarray(record[name], np.float64)
    except (KeyError, TypeError, ValueError):
        raise DamagedSampleError(f"{where}: {name} is missing or no array of numbers; expected {shape}") from None
    if values.size != int(np.prod(shape)):
        raise DamagedSampleError(f"{where}: {name} has the shape {values.shape}; expected {shape}")
    return values.reshape(shape)


def _reprojection_loss(record: Mapping[str, Any]) -> float:
    """Return the fit's loss, 0 where none is told; it lies in a dict in an array without axes."""
    extra = _unwrapped(record.get("extra_info"))
    fitting = _unwrapped(extra.get("fitting_loss")) if isinstance(extra, dict) else None
    loss = fitting.get("reprojection_loss", 0.0) if isinstance(fitting, dict) else 0.0
    return float(np.asarray(loss).reshape(-1)[0])


def _unwrapped(value: Any) -> Any:
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
