"""One sample as it lies in a shard: a clip of frames with its hands' crops and labels (the contract: docs/shards.md).

A shard is a plain tar. The members of a clip share a key:

    KEY.json                 what the clip is
    KEY.right_0.npz          one hand's labels, an array per name of `HandLabels`, no pickles
    KEY.frame.0003.jpg       a whole frame, reduced; shared by all hands
    KEY.right_0.0003.jpg     what is about one hand in that frame: twice the network's box

Everything is as the camera saw it: left hands are turned over when they are read (`haptic.data.readers`).

    python -m haptic.data.samples check SHARD...            counts, statistics, the first fault by shard and key
    python -m haptic.data.samples sheet SHARD PICTURE.png   a contact sheet with the labels drawn
"""

import io
import json
import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from haptic.files import atomic_write
from haptic.geometry.boxes import HAPTIC_EXPANSION, haptic_side, tight_box
from haptic.geometry.cameras import project
from haptic.records import Camera, HandParams, Record, Trajectory

FORMAT = "haptic-clip-1"
CROP_REACH = 2.0  # of the stored crop over the network's box: scale 1.3 turned by 45 degrees and shifted needs 1.88
MAX_NAME = 99  # a tar header holds no more
KEY_PATTERN = re.compile(r"[A-Za-z0-9_+=,@-]+")
HAND_PATTERN = re.compile(r"(right|left)_\d+")
NOT_A_ROTATION = 1e-2
MIN_BOX_PX = 1.0


@dataclass(frozen=True)
class HandLabels(Record):
    """What is known of one hand in T consecutive frames of a clip, as the camera saw it.

    Weights are 0 (not known; the values there are zeros or anything finite) or positive. `box_side_px` is the side of
    the square that the network is to see, margins included. `params_weight` speaks of the rotations, `betas_weight` of
    the shape, `place_weight` says whether `joints_cam` and `params.transl` are the hand's true place before the camera,
    `camera_weight` whether K is measured. `joints_visible`: 1 seen, 0 hidden, -1 not known.
    """

    frame_index: Int[Tensor, " T"]  # frames of the clip, growing by one
    box_center_img: Float[Tensor, "T 2"]
    box_side_px: Float[Tensor, " T"]
    joints_img: Float[Tensor, "T 21 2"]
    joints_img_weight: Float[Tensor, "T 21"]
    joints_visible: Int[Tensor, "T 21"]
    joints_cam: Float[Tensor, "T 21 3"]
    joints_cam_weight: Float[Tensor, "T 21"]
    place_weight: Float[Tensor, " T"]
    params: HandParams
    params_weight: Float[Tensor, " T"]
    betas_weight: Float[Tensor, " T"]
    camera: Camera
    camera_weight: Float[Tensor, " T"]
    is_right: Bool[Tensor, ""]


# Shapes in files, without the frames' axis.
LABEL_SHAPES: dict[str, tuple[int, ...]] = {
    "frame_index": (), "box_center_img": (2,), "box_side_px": (),
    "joints_img": (21, 2), "joints_img_weight": (21,), "joints_visible": (21,),
    "joints_cam": (21, 3), "joints_cam_weight": (21,), "place_weight": (),
    "global_orient": (3, 3), "hand_pose": (15, 3, 3), "betas": (10,), "transl": (3,),
    "params_weight": (), "betas_weight": (),
    "K": (3, 3), "T_world_cam": (4, 4), "camera_weight": (),
    "crop_scale": (), "crop_offset_px": (2,),
}  # fmt: skip
INTEGER_LABELS = {"frame_index", "joints_visible"}
PARAM_NAMES = tuple(f.name for f in fields(HandParams))
CAMERA_NAMES = tuple(f.name for f in fields(Camera))


@dataclass(frozen=True)
class StoredHand:
    """One hand of a clip as it lies in a shard.

    The pixels of the stored crop are `crop_scale` * pixels of the image + `crop_offset_px`.
    """

    labels: HandLabels
    crop_scale: Float[np.ndarray, " T"]
    crop_offset_px: Float[np.ndarray, "T 2"]


@dataclass(frozen=True)
class ClipInfo:
    """The json of a clip. `hand_model` names the shape space of `betas`; fps is 0 for images."""

    data_set: str
    licence: str
    hand_model: str
    fps: float
    num_frames: int
    width_px: int
    height_px: int
    hands: Mapping[str, int]  # name: number of labelled frames
    source: str = ""  # where in the data set it comes from

    def to_json(self) -> bytes:
        """Return what is written."""
        return json.dumps({"format": FORMAT, **self.__dict__, "hands": dict(self.hands)}).encode()

    @staticmethod
    def from_json(data: bytes, *, where: str) -> "ClipInfo":
        """Return what was written.

        Raises:
            ValueError: it is not of this format; `where` is named.
        """
        try:
            values = json.loads(data)
            if values.pop("format") != FORMAT:
                raise ValueError("another format")
            return ClipInfo(**values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{where}: not the json of a clip ({error}); expected the format {FORMAT!r}, see docs/shards.md"
            ) from None


def labels_from_trajectory(
    trajectory: Trajectory,
    joints_cam: Float[Tensor, "T 21 3"],
    *,
    expansion: float = HAPTIC_EXPANSION,
    joints_visible: Int[Tensor, "T 21"] | None = None,
) -> HandLabels:
    """Return labels of a hand of which everything is known: boxes and 2D joints follow from the 3D joints and K."""
    joints_img = project(joints_cam, trajectory.camera.K)
    center_img, size_px = tight_box(joints_img, torch.ones_like(joints_img[..., 0]))
    known = torch.ones_like(joints_img[..., 0])
    per_frame = torch.ones_like(joints_img[:, 0, 0])
    return HandLabels(
        frame_index=trajectory.frame_index,
        box_center_img=center_img,
        box_side_px=haptic_side(size_px, expansion=expansion),
        joints_img=joints_img,
        joints_img_weight=known,
        joints_visible=torch.full_like(known, -1, dtype=torch.int64) if joints_visible is None else joints_visible,
        joints_cam=joints_cam,
        joints_cam_weight=known,
        place_weight=per_frame,
        params=trajectory.params,
        params_weight=per_frame,
        betas_weight=per_frame,
        camera=trajectory.camera,
        camera_weight=per_frame,
        is_right=trajectory.is_right,
    )


def check_labels(labels: HandLabels, *, where: str, crop_scale: Tensor | None = None) -> None:
    """Refuse labels that no training could use.

    Raises:
        ValueError: a wrong shape, a number that is not finite, an impossible camera, rotation, box or weight; `where`
            is named.
    """
    arrays = _arrays_of(labels)
    _check_shapes(arrays, where=where)
    steps = np.diff(arrays["frame_index"])
    if len(arrays["frame_index"]) == 0 or (steps != 1).any() or arrays["frame_index"][0] < 0:
        raise ValueError(f"{where}: frame_index must grow by one from 0 or later, without gaps; split the track there")
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            frame = int(np.argwhere(~np.isfinite(values))[0][0])
            raise ValueError(
                f"{where}: {name} holds NaN or infinity in frame {frame}; write zeros with weight zero for what is "
                "not known"
            )
        if name.endswith("_weight") and (values < 0).any():
            raise ValueError(f"{where}: {name} is negative; a weight is 0 (not known) or positive")
    K = arrays["K"]
    focals_ok = (K[:, 0, 0] > 0) & (K[:, 1, 1] > 0)
    last_row_ok = (K[:, 2] == (0, 0, 1)).all(axis=-1)
    if not (focals_ok & last_row_ok).all():
        raise ValueError(
            f"{where}: K of frame {int(np.argmin(focals_ok & last_row_ok))} is no camera; expected focal lengths above "
            "zero and a last row of 0 0 1. For an unknown camera write a guess and camera_weight 0"
        )
    if (arrays["box_side_px"] < MIN_BOX_PX).any():
        raise ValueError(f"{where}: box_side_px is below {MIN_BOX_PX:g} px; leave such frames out")
    for name in ("global_orient", "hand_pose"):
        _check_rotations(arrays[name], arrays["params_weight"] > 0, name=name, where=where)
    _check_rotations(arrays["T_world_cam"][:, :3, :3], np.ones(len(K), bool), name="T_world_cam", where=where)


def labels_to_npz(hand: StoredHand, info: ClipInfo) -> bytes:
    """Return the bytes of a hand's npz."""
    arrays = _arrays_of(hand.labels)
    stored: dict[str, Any] = {
        name: values.astype(np.int64 if name in INTEGER_LABELS else np.float32) for name, values in arrays.items()
    }
    # float64: a corner far to the left of a large picture must not be rounded.
    stored["crop_scale"], stored["crop_offset_px"] = hand.crop_scale, hand.crop_offset_px
    stored["is_right"] = np.array(bool(hand.labels.is_right))
    stored["data_set"], stored["licence"] = np.array(info.data_set), np.array(info.licence)
    file = io.BytesIO()
    np.savez(file, **stored)
    return file.getvalue()


def labels_from_npz(data: bytes, *, where: str) -> StoredHand:
    """Return a hand's labels, checked.

    Raises:
        ValueError: damaged, incomplete, of wrong shape or not finite; `where` is named.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            missing = [name for name in (*LABEL_SHAPES, "is_right") if name not in archive.files]
            arrays = {name: archive[name] for name in (*LABEL_SHAPES, "is_right") if name not in missing}
    except Exception as error:  # a damaged zip can raise anything
        raise ValueError(f"{where}: not a readable npz ({type(error).__name__}: {error})") from None
    if missing:
        raise ValueError(f"{where}: the array {missing[0]} is missing; see docs/shards.md")
    _check_shapes(arrays, where=where)
    tensors = {name: torch.from_numpy(np.array(values)) for name, values in arrays.items()}
    params = HandParams(**{name: tensors.pop(name) for name in PARAM_NAMES})
    camera = Camera(**{name: tensors.pop(name) for name in CAMERA_NAMES})
    crop_scale, crop_offset_px = arrays["crop_scale"], arrays["crop_offset_px"]
    names = {f.name for f in fields(HandLabels)} - {"params", "camera"}
    labels = HandLabels(**{name: tensors[name] for name in names}, params=params, camera=camera)
    check_labels(labels, where=where)
    if not (np.isfinite(crop_scale).all() and (crop_scale > 0).all() and np.isfinite(crop_offset_px).all()):
        raise ValueError(f"{where}: crop_scale must be above zero and crop_offset_px finite")
    return StoredHand(labels, crop_scale, crop_offset_px)


def encode_jpeg(image: UInt8[np.ndarray, "H W 3"], *, quality: int) -> bytes:
    """Return an RGB picture as JPEG."""
    # A flipped view would be copied number by number, which takes as long as the encoding.
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    is_done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert is_done, "a picture in memory can be encoded"
    return data.tobytes()


def decode_image(data: bytes, *, where: str) -> UInt8[np.ndarray, "H W 3"]:
    """Return a JPEG or PNG as RGB.

    Raises:
        ValueError: it is damaged; `where` is named.
    """
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    if image is None:
        raise ValueError(f"{where}: not a readable picture ({len(data)} bytes)")
    return image


@dataclass(frozen=True)
class WriterConfig:
    """How large shards and what is in them may be."""

    max_crop_px: int = 512
    max_frame_px: int = 512
    jpeg_quality: int = 92
    max_shard_mb: float = 256.0
    max_shard_clips: int = 1000

    def __post_init__(self) -> None:
        if min(self.max_crop_px, self.max_frame_px) < 16 or not 1 <= self.jpeg_quality <= 100:
            raise ValueError(
                f"max_crop_px {self.max_crop_px}, max_frame_px {self.max_frame_px}, jpeg_quality {self.jpeg_quality}: "
                "expected sides of 16 pixels or more and a quality from 1 to 100"
            )
        if self.max_shard_mb <= 0 or self.max_shard_clips < 1:
            raise ValueError(
                f"max_shard_mb {self.max_shard_mb}, max_shard_clips {self.max_shard_clips}: expected more than zero"
            )


class SampleWriter:
    """Writes clips to `FOLDER/PREFIX-000000.tar`, `-000001.tar`, ...; a shard appears when it is complete.

    Several writers may share a folder if their prefixes differ. Use it as a context manager: leaving it by an exception
    drops the shard that was being written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        prefix: str,
        data_set: str,
        licence: str,
        hand_model: str,
        config: WriterConfig | None = None,
    ) -> None:
        self.config = config or WriterConfig()
        self.paths: list[Path] = []  # of the shards that are complete
        self._folder, self._prefix = folder, prefix
        self._data_set, self._licence, self._hand_model = data_set, licence, hand_model
        self._members: list[tuple[str, bytes]] = []
        self._keys: set[str] = set()
        self._shard_bytes = 0
        self._shard_clips = 0

    def __enter__(self) -> "SampleWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    def add_clip(
        self,
        key: str,
        images: Iterable[UInt8[np.ndarray, "H W 3"]],
        hands: Mapping[str, HandLabels],
        *,
        fps: float,
        source: str = "",
    ) -> None:
        """Write a clip; an image is a clip of one frame with fps 0.

        Args:
            images: the clip's frames in order, RGB; they may come from a generator. Frames without a hand are not kept.
            hands: by name (`right_0`, `left_0`, `right_1`, ...); their `frame_index` counts `images`.

        Raises:
            ValueError: labels that cannot be used, a key used twice, names or numbers that do not fit together.
        """
        where = f"{self._prefix}: clip {key}"
        self._check_clip(key, hands, fps=fps, where=where)
        wanted = {frame for labels in hands.values() for frame in labels.frame_index.tolist()}
        crops: dict[str, list[tuple[float, tuple[float, float]]]] = {name: [] for name in hands}
        pictures: list[tuple[str, bytes]] = []
        size: tuple[int, int] | None = None
        num_frames = 0
        for frame, image in enumerate(images):
            num_frames = frame + 1
            if size not in (None, (image.shape[1], image.shape[0])):
                raise ValueError(f"{where}: frame {frame} has another size than those before it; split the clip there")
            size = (image.shape[1], image.shape[0])
            if frame not in wanted:
                continue
            pictures.append((f"{key}.frame.{frame:04d}.jpg", self._encode_frame(image)))
            for name, labels in hands.items():
                place = frame - int(labels.frame_index[0])
                if 0 <= place < len(labels.frame_index):
                    data, scale, offset = self._encode_crop(image, labels, place)
                    pictures.append((f"{key}.{name}.{frame:04d}.jpg", data))
                    crops[name].append((scale, offset))
        if size is None or max(wanted) >= num_frames:
            raise ValueError(f"{where}: labels speak of frame {max(wanted)}, but {num_frames} frames came")
        info = ClipInfo(
            data_set=self._data_set, licence=self._licence, hand_model=self._hand_model, fps=float(fps),
            num_frames=num_frames, width_px=size[0], height_px=size[1],
            hands={name: len(labels.frame_index) for name, labels in hands.items()}, source=source,
        )  # fmt: skip
        members = [(f"{key}.json", info.to_json())]
        for name, labels in hands.items():
            scales, offsets = zip(*crops[name], strict=True)
            hand = StoredHand(labels, np.array(scales, np.float64), np.array(offsets, np.float64))
            members.append((f"{key}.{name}.npz", labels_to_npz(hand, info)))
        self._add_members(members + pictures)
        self._keys.add(key)  # a clip that failed may be written again, without what it failed at

    def close(self) -> None:
        """Write what is left."""
        if self._members:
            self._write_shard()

    def _check_clip(self, key: str, hands: Mapping[str, HandLabels], *, fps: float, where: str) -> None:
        if not KEY_PATTERN.fullmatch(key) or len(key) + len(".right_00.0000.jpg") > MAX_NAME:
            raise ValueError(
                f"{where}: expected up to 80 letters, digits or any of _ + = , @ -; no dots, slashes or blanks"
            )
        if key in self._keys:
            raise ValueError(f"{where}: this key was written before; every clip of a set needs its own")
        if not hands:
            raise ValueError(f"{where}: no hands; leave the clip out")
        if not (np.isfinite(fps) and fps >= 0):
            raise ValueError(f"{where}: fps is {fps}; expected frames per second, or 0 for an image")
        for name, labels in hands.items():
            if not HAND_PATTERN.fullmatch(name) or name.startswith("right") != bool(labels.is_right):
                raise ValueError(f"{where}: a hand is named {name!r}; expected right_0, left_0, ... as its labels say")
            check_labels(labels, where=f"{where}, {name}")

    def _encode_frame(self, image: np.ndarray) -> bytes:
        return encode_jpeg(reduced(image, self.config.max_frame_px), quality=self.config.jpeg_quality)

    def _encode_crop(
        self, image: np.ndarray, labels: HandLabels, place: int
    ) -> tuple[bytes, float, tuple[float, float]]:
        """Cut twice the network's box on whole-pixel corners, and reduce it where it is too large."""
        x, y = labels.box_center_img[place].tolist()
        reach_px = CROP_REACH * float(labels.box_side_px[place])
        side_px = _halvable(int(np.ceil(reach_px)), self.config.max_crop_px)
        left, top = int(np.floor(x - side_px / 2)), int(np.floor(y - side_px / 2))
        part = _padded_part(image, left, top, side_px)
        crop = reduced(part, self.config.max_crop_px)
        scale = len(crop) / side_px
        offset = ((0.5 - left) * scale - 0.5, (0.5 - top) * scale - 0.5)
        return encode_jpeg(crop, quality=self.config.jpeg_quality), scale, offset

    def _add_members(self, members: list[tuple[str, bytes]]) -> None:
        num_bytes = sum(len(data) for _name, data in members)
        is_full = self._shard_clips >= self.config.max_shard_clips
        if self._members and (is_full or self._shard_bytes + num_bytes > self.config.max_shard_mb * 1e6):
            self._write_shard()
        self._members += members
        self._shard_bytes += num_bytes
        self._shard_clips += 1

    def _write_shard(self) -> None:
        path = self._folder / f"{self._prefix}-{len(self.paths):06d}.tar"
        write_tar(path, self._members)
        self.paths.append(path)
        self._members, self._shard_bytes, self._shard_clips = [], 0, 0


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a plain tar that appears when it is complete; equal members give equal bytes."""
    with atomic_write(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))


def reduced(image: UInt8[np.ndarray, "H W 3"], max_side_px: int) -> UInt8[np.ndarray, "h w 3"]:
    """Return the picture with its longer side at most `max_side_px`; no pixel is passed over.

    It is halved, which is fast, as often as that leaves enough; the last step, below two pixels, is bilinear.
    """
    height, width = image.shape[:2]
    ratio = max_side_px / max(height, width)
    if ratio >= 1:
        return image
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    while max(image.shape[:2]) >= 2 * max_side_px and image.shape[0] % 2 == image.shape[1] % 2 == 0:
        image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    is_close = max(image.shape[:2]) < 2 * max_side_px  # else odd sizes: the slow way
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR if is_close else cv2.INTER_AREA)


def _halvable(side_px: int, max_side_px: int) -> int:
    """Return the side, or up to a few pixels more, so that it can be halved until it is below twice `max_side_px`."""
    step = 1
    while side_px >= 2 * max_side_px * step:
        step *= 2
    return -(-side_px // step) * step


def _padded_part(image: np.ndarray, left: int, top: int, side_px: int) -> np.ndarray:
    """Return a square of the image, black outside it."""
    part = np.zeros((side_px, side_px, 3), np.uint8)
    height, width = image.shape[:2]
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + side_px, width), min(top + side_px, height)
    if x0 < x1 and y0 < y1:
        part[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
    return part


def _arrays_of(labels: HandLabels) -> dict[str, np.ndarray]:
    """Return the labels by their names in files, without `is_right`."""
    records: list[Any] = [labels, labels.params, labels.camera]
    flat = {f.name: getattr(record, f.name) for record in records for f in fields(record)}
    return {name: value.detach().cpu().numpy() for name, value in flat.items() if name in LABEL_SHAPES}


def _check_shapes(arrays: Mapping[str, np.ndarray], *, where: str) -> None:
    num_frames = len(np.atleast_1d(arrays["frame_index"]))
    for name, values in arrays.items():
        expected = (num_frames, *LABEL_SHAPES[name]) if name in LABEL_SHAPES else ()
        if values.shape != expected:
            raise ValueError(f"{where}: {name} has the shape {values.shape}; expected {expected}")
        if values.dtype.kind not in ("iub" if name in INTEGER_LABELS or name == "is_right" else "f"):
            raise ValueError(f"{where}: {name} is of type {values.dtype}; see docs/shards.md")


def _check_rotations(rotation: np.ndarray, known: np.ndarray, *, name: str, where: str) -> None:
    known_rotation = rotation[known]
    off = np.abs(known_rotation @ np.swapaxes(known_rotation, -1, -2) - np.eye(3)).max(initial=0.0)
    if off > NOT_A_ROTATION or (np.linalg.det(known_rotation) < 0).any():
        raise ValueError(f"{where}: {name} is no rotation matrix (R R^T is off by {off:.2g}); was axis-angle written?")


if __name__ == "__main__":
    from haptic.data.shard_tools import main

    main()
