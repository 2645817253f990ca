"""Sets of shards as tracks of right hands: any frames of any track, decoded once, with their labels.

Left hands are turned over here, by `haptic.hand.mirror`. What is damaged is named by set, shard and key.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from haptic.data.batches import RealHands
from haptic.data.samples import ClipInfo, HandLabels, decode_image, labels_from_npz
from haptic.data.shards import DamagedSampleError, Shard, ShardStore, expand_shards, shard_name
from haptic.geometry.rotations import rotation_from_aa
from haptic.hand.mirror import mirror_camera, mirror_image, mirror_params, mirror_points, mirror_points_img

TRACKS_FORMAT = "haptic-tracks-1"


@dataclass(frozen=True)
class Picture:
    """Pixels, and how pixels of the image become pixels of them: scale * (x, y) + offset."""

    pixels: UInt8[np.ndarray, "h w 3"]
    scale: Float[np.ndarray, " 2"]
    offset_px: Float[np.ndarray, " 2"]

    def mirrored(self, width_px: int) -> "Picture":
        """Return the flipped picture of the flipped image, which is `width_px` wide."""
        last = self.pixels.shape[1] - 1
        offset_x = last - self.scale[0] * (width_px - 1) - self.offset_px[0]
        return Picture(mirror_image(self.pixels), self.scale, np.array([offset_x, self.offset_px[1]]))


@dataclass(frozen=True)
class Window:
    """Some frames of one hand, decoded, as a right hand: what augmentation works on."""

    crops: tuple[Picture, ...]
    frames: tuple[Picture, ...]
    labels: HandLabels
    frame_time_s: Float[np.ndarray, " T"]
    width_px: int  # of the image that the labels speak of
    height_px: int
    was_right: bool
    key: str


@runtime_checkable
class Track(Protocol):
    """One hand of one clip, opened."""

    labels: HandLabels  # of all its frames, as a right hand
    width_px: int
    height_px: int
    was_right: bool

    def window(self, places: Sequence[int]) -> Window:
        """Return frames by their places in the track, decoded."""


@runtime_checkable
class TrackSet(Protocol):
    """A named set of tracks."""

    name: str

    @property
    def num_frames(self) -> Int[np.ndarray, " N"]:
        """The length of each track."""

    @property
    def shard_of(self) -> Int[np.ndarray, " N"]:
        """The number of each track's shard."""

    @property
    def faults(self) -> tuple[str, ...]:
        """What was left out when the set was listed."""

    def open(self, track: int) -> Track:
        """Return a track by number; raise `DamagedSampleError` if its labels cannot be used."""

    def prepare(self, track: int) -> None:
        """Take note that a track will be opened soon."""


@dataclass(frozen=True)
class _TrackTable:
    """All tracks of a set: the shard of each, its clip's key, its hand's name, its length."""

    shard_of: np.ndarray
    keys: np.ndarray
    hands: np.ndarray
    num_frames: np.ndarray
    faults: tuple[str, ...]


class ShardSet(ABC):
    """Shards, listed; what the sets of both formats have in common. Faults of whole shards are counted, not raised.

    Raises:
        ValueError: no shards match, or none of them holds anything.
    """

    format = ""
    open_tracks = 256  # whose labels one process keeps

    def __init__(self, name: str, shards: str | tuple[str, ...], *, store: ShardStore) -> None:
        try:
            self.urls = expand_shards(shards)
        except ValueError as error:
            raise ValueError(f"set {name}: {error}") from None
        self.name = name
        self._store = store
        self._table = self._list_tracks()
        self._opened: OrderedDict[int, Track] = OrderedDict()
        if not len(self.num_frames):
            first = f"; the first fault: {self.faults[0]}" if self.faults else ""
            raise ValueError(f"set {name}: its {len(self.urls)} shards hold no usable hand{first}")

    @property
    def num_frames(self) -> np.ndarray:
        """The length of each track."""
        return self._table.num_frames

    @property
    def shard_of(self) -> np.ndarray:
        """The number of each track's shard."""
        return self._table.shard_of

    @property
    def faults(self) -> tuple[str, ...]:
        """What was left out when the set was listed, by shard and key."""
        return self._table.faults

    def key(self, track: int) -> tuple[str, str]:
        """Return the key of a track's clip, and its hand's name."""
        return str(self._table.keys[track]), str(self._table.hands[track])

    def open(self, track: int) -> Track:
        """Return a track by number.

        Raises:
            DamagedSampleError: its labels are missing or cannot be used; set, shard and key are named.
        """
        if track in self._opened:
            self._opened.move_to_end(track)
            return self._opened[track]
        key, hand = self.key(track)
        try:
            opened = self._open(self.urls[self.shard_of[track]], key, hand)
        except ValueError as error:
            raise DamagedSampleError(f"set {self.name}, {error}") from None
        self._opened[track] = opened
        while len(self._opened) > self.open_tracks:
            self._opened.popitem(last=False)
        return opened

    def prepare(self, track: int) -> None:
        """Begin to fetch a track's shard if it must be fetched; it will be opened soon."""
        self._store.prepare(self.urls[self.shard_of[track]])

    def _list_tracks(self) -> _TrackTable:
        parts: list[dict[str, np.ndarray]] = []
        faults: list[str] = []
        numbers: list[int] = []
        for number, url in enumerate(self.urls):
            try:
                table = self._store.side_table(url, "tracks", self.format, self._list_shard)
            except (DamagedSampleError, OSError) as error:
                faults.append(f"set {self.name}, {shard_name(url)}: {error}")
                continue
            parts.append(table)
            numbers += [number] * len(table["num_frames"])
            faults += [f"set {self.name}, {fault}" for fault in table["faults"].tolist()]
        columns = {
            name: np.concatenate([part[name] for part in parts]) if parts else np.zeros(0, np.int64)
            for name in ("keys", "hands", "num_frames")
        }
        return _TrackTable(shard_of=np.array(numbers, np.int64), faults=tuple(faults), **columns)

    def _list_shard(self, shard: Shard) -> dict[str, np.ndarray]:
        rows: list[tuple[str, str, int]] = []
        faults = [f"{shard.name}: {shard.index.fault}"] if shard.index.fault else []
        for key in shard.samples:
            try:
                rows += [(key, hand, frames) for hand, frames in self._list_key(shard, key)]
            except ValueError as error:
                faults.append(str(error))
        return {
            "keys": np.array([key for key, _hand, _frames in rows], np.str_),
            "hands": np.array([hand for _key, hand, _frames in rows], np.str_),
            "num_frames": np.array([frames for _key, _hand, frames in rows], np.int64),
            "faults": np.array(faults, np.str_),
        }

    @abstractmethod
    def _list_key(self, shard: Shard, key: str) -> list[tuple[str, int]]:
        """Return names and lengths of the hands of a clip."""

    @abstractmethod
    def _open(self, url: str, key: str, hand: str) -> Track:
        """Open one hand's track."""


class ClipSet(ShardSet):
    """Shards of our own format."""

    format = TRACKS_FORMAT

    def _list_key(self, shard: Shard, key: str) -> list[tuple[str, int]]:
        info = ClipInfo.from_json(shard.read(key, "json"), where=shard.where(key, "json"))
        members = shard.samples[key]
        frames = {extension[6:] for extension in members if extension.startswith("frame.")}
        for hand, num_frames in info.hands.items():
            crops = {extension[len(hand) + 1 : -4] for extension in members if extension.startswith(f"{hand}.")}
            crops -= {""}  # the labels
            if f"{hand}.npz" not in members:
                raise DamagedSampleError(f"{shard.where(key, hand + '.npz')} is missing from the shard")
            missing = {f"{crop}.jpg" for crop in crops} - frames
            if len(crops) != num_frames or missing:
                raise DamagedSampleError(
                    f"{shard.where(key, hand)}: {len(crops)} crops and {len(crops) - len(missing)} full frames are "
                    f"there, {num_frames} of each were written"
                )
        return list(info.hands.items())

    def _open(self, url: str, key: str, hand: str) -> Track:
        return ClipTrack(self.name, self._store, url, key, hand)


class ClipTrack:
    """One hand of one clip of our own format."""

    def __init__(self, set_name: str, store: ShardStore, url: str, key: str, hand: str) -> None:
        self._set_name, self._store, self._url, self._key, self._hand = set_name, store, url, key, hand
        shard = store.shard(url)
        self._info = ClipInfo.from_json(shard.read(key, "json"), where=shard.where(key, "json"))
        where = shard.where(key, f"{hand}.npz")
        self._stored = labels_from_npz(shard.read(key, f"{hand}.npz"), where=where)
        self.width_px, self.height_px = self._info.width_px, self._info.height_px
        self.was_right = bool(self._stored.labels.is_right)
        self.labels = right_hand_labels(self._stored.labels, self.width_px)
        self.name = f"{set_name}/{shard.name}/{key}/{hand}"

    def window(self, places: Sequence[int]) -> Window:
        """Return frames by their places in the track, decoded.

        Raises:
            DamagedSampleError: a picture is missing or cannot be decoded; it is named.
        """
        try:
            return self._window(places)
        except ValueError as error:
            raise DamagedSampleError(f"set {self._set_name}, {error}") from None

    def _window(self, places: Sequence[int]) -> Window:
        shard = self._store.shard(self._url)  # it may have been closed since
        labels = select_places(self.labels, places)
        crops, frames = [], []
        for place, frame in zip(places, labels.frame_index.tolist(), strict=True):
            extension = f"{self._hand}.{frame:04d}.jpg"
            pixels = decode_image(shard.read(self._key, extension), where=shard.where(self._key, extension))
            scale = np.full(2, self._stored.crop_scale[place])
            crops.append(Picture(pixels, scale, self._stored.crop_offset_px[place]))
            extension = f"frame.{frame:04d}.jpg"
            pixels = decode_image(shard.read(self._key, extension), where=shard.where(self._key, extension))
            frames.append(whole_picture(pixels, self.width_px, self.height_px))
        if not self.was_right:
            crops = [crop.mirrored(self.width_px) for crop in crops]
            frames = [frame.mirrored(self.width_px) for frame in frames]
        fps = self._info.fps
        return Window(
            crops=tuple(crops),
            frames=tuple(frames),
            labels=labels,
            frame_time_s=labels.frame_index.numpy() / fps if fps > 0 else np.zeros(len(places)),
            width_px=self.width_px,
            height_px=self.height_px,
            was_right=self.was_right,
            key=self.name,
        )


def whole_picture(pixels: UInt8[np.ndarray, "h w 3"], width_px: int, height_px: int) -> Picture:
    """Return a reduced picture of a whole image of the given size; pixel centres are integers in both."""
    scale = np.array([pixels.shape[1] / width_px, pixels.shape[0] / height_px])
    return Picture(pixels, scale, scale / 2 - 0.5)


def select_places(labels: HandLabels, places: Sequence[int]) -> HandLabels:
    """Return the labels of some frames, counted from the track's first."""
    return labels[torch.tensor(places, dtype=torch.long)]


def right_hand_labels(labels: HandLabels, width_px: int) -> HandLabels:
    """Return the labels of a right hand in the image that it is seen in; a left one is turned over with its image."""
    if bool(labels.is_right):
        return labels
    return replace(
        labels,
        box_center_img=mirror_points_img(labels.box_center_img, width_px),
        joints_img=mirror_points_img(labels.joints_img, width_px),
        joints_cam=mirror_points(labels.joints_cam),
        params=mirror_params(labels.params),
        camera=mirror_camera(labels.camera, width_px),
        is_right=torch.tensor(True),
    )


def load_mocap(path: Path) -> RealHands:
    """Read `freihand_mocap.npz`: hand poses (N, 48) in axis-angle, root first, and shapes (N, 10).

    Raises:
        ValueError: it is not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            pose_aa, betas = np.asarray(archive["hand_pose"]), np.asarray(archive["betas"])
    except Exception as error:  # absent, damaged or with other arrays
        raise ValueError(
            f"{path}: not a readable motion capture file ({type(error).__name__}: {error}); expected an npz with "
            "hand_pose (N, 48) and betas (N, 10)"
        ) from None
    if pose_aa.ndim != 2 or pose_aa.shape[1] != 48 or betas.shape != (len(pose_aa), 10) or not len(pose_aa):
        raise ValueError(
            f"{path}: hand_pose {pose_aa.shape} and betas {betas.shape}; expected (N, 48) and (N, 10), N above 0"
        )
    if not (np.isfinite(pose_aa).all() and np.isfinite(betas).all()):
        raise ValueError(f"{path}: NaN or infinity among the poses or shapes; take those hands out")
    fingers_aa = torch.from_numpy(pose_aa[:, 3:].astype(np.float32)).reshape(-1, 15, 3)
    return RealHands(rotation_from_aa(fingers_aa), torch.from_numpy(betas.astype(np.float32)))
