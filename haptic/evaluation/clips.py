"""The sequences of a benchmark: clips in shards with what is known of their hands, and their pictures."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from haptic.data.readers import ClipTrack, Picture, whole_picture
from haptic.data.samples import ClipInfo, HandLabels, StoredHand, decode_image, labels_from_npz
from haptic.data.shards import DamagedSampleError, ShardStore, shard_name
from haptic.geometry.boxes import tight_box
from haptic.records import HandTrack

MIN_BOX_PX = 4.0


@dataclass(frozen=True)
class EvalClip:
    """One sequence: everything but pixels. Hands are as the camera saw them, in frames that grow by one.

    `digest` is of the labels' and the description's bytes: it says whether two runs had the same truth.
    """

    set_name: str
    key: str
    url: str
    info: ClipInfo
    hands: dict[str, StoredHand]
    digest: str

    def labels(self, name: str) -> HandLabels:
        """Return what is known of a hand."""
        return self.hands[name].labels

    def time_s(self, name: str) -> Float[Tensor, " T"]:
        """Return when the frames of a hand were taken, from the clip's start."""
        return self.labels(name).frame_index.double() / (self.info.fps or 1.0)

    def focal_widths(self, name: str) -> float:
        """Return the focal length in widths of the image, that of the hand's first frame."""
        return float(self.labels(name).camera.K[0, 0, 0]) / self.info.width_px


def list_clips(set_name: str, urls: Sequence[str], store: ShardStore) -> list[EvalClip]:
    """Return the clips of some shards in the shards' order.

    Raises:
        ValueError: a shard is damaged, has no clips, or two clips share a name; a benchmark leaves nothing out.
    """
    clips = [clip for url in urls for clip in _shard_clips(set_name, url, store)]
    seen: dict[str, str] = {}
    for clip in clips:
        if clip.key in seen:
            raise ValueError(
                f"set {set_name}: {shard_name(clip.url)} and {seen[clip.key]} both hold the sequence {clip.key}; name "
                "each shard once"
            )
        seen[clip.key] = shard_name(clip.url)
    if not clips:
        raise ValueError(f"set {set_name}: its {len(urls)} shards hold no sequences; see docs/shards.md")
    return clips


def _shard_clips(set_name: str, url: str, store: ShardStore) -> list[EvalClip]:
    shard = store.shard(url)
    if shard.index.fault:
        raise ValueError(f"set {set_name}, {shard.name}: {shard.index.fault}; numbers need the whole set")
    clips = []
    for key in shard.samples:
        data = shard.read(key, "json")
        info = ClipInfo.from_json(data, where=shard.where(key, "json"))
        digest = hashlib.sha256(data)
        hands = {}
        for name in sorted(info.hands):
            labels = shard.read(key, f"{name}.npz")
            digest.update(labels)
            hands[name] = labels_from_npz(labels, where=shard.where(key, f"{name}.npz"))
        clips.append(EvalClip(set_name, key, url, info, hands, digest.hexdigest()))
    return clips


def first_frames(clip: EvalClip, num_frames: int) -> EvalClip:
    """Return the beginning of a sequence, without hands that appear later."""
    hands = {}
    for name, hand in clip.hands.items():
        places = torch.nonzero(hand.labels.frame_index < num_frames)[:, 0]
        if len(places):
            rows = places.numpy()
            hands[name] = StoredHand(
                cut_labels(hand.labels, places), hand.crop_scale[rows], hand.crop_offset_px[rows]
            )  # fmt: skip
    return replace(
        clip,
        info=replace(clip.info, num_frames=min(num_frames, clip.info.num_frames)),
        hands=hands,
        digest=hashlib.sha256(f"{clip.digest}, first {num_frames}".encode()).hexdigest(),
    )


class ClipPictures:
    """The pictures of one clip, decoded when they are asked for."""

    def __init__(self, clip: EvalClip, store: ShardStore) -> None:
        self._clip, self._store = clip, store

    def frame(self, index: int) -> Picture:
        """Return a whole frame of the clip, reduced as it is stored.

        Raises:
            DamagedSampleError: it is missing or cannot be decoded.
        """
        pixels = decode_image(self.frame_bytes(index), where=f"{self._clip.key}, frame {index}")
        return whole_picture(pixels, self._clip.info.width_px, self._clip.info.height_px)

    def frame_bytes(self, index: int) -> bytes:
        """Return a whole frame as it lies in the shard: a JPEG."""
        return self._store.shard(self._clip.url).read(self._clip.key, f"frame.{index:04d}.jpg")

    def crop(self, name: str, place: int) -> Picture:
        """Return what is about a hand in the frame at this place of its track."""
        hand = self._clip.hands[name]
        frame = int(hand.labels.frame_index[place])
        extension = f"{name}.{frame:04d}.jpg"
        data = self._store.shard(self._clip.url).read(self._clip.key, extension)
        pixels = decode_image(data, where=f"{self._clip.key}, {extension}")
        return Picture(pixels, np.full(2, hand.crop_scale[place]), hand.crop_offset_px[place])

    def sharpest(self, name: str, place: int) -> Picture:
        """Return whichever of crop and whole frame shows the hand with more pixels."""
        frame_index = int(self._clip.labels(name).frame_index[place])
        try:
            frame = self.frame(frame_index)
        except DamagedSampleError:
            return self.crop(name, place)
        if frame.scale.min() >= self._clip.hands[name].crop_scale[place]:
            return frame
        return self.crop(name, place)

    def track(self, name: str) -> ClipTrack:
        """Return a hand as training reads it: right hands, windows of pictures."""
        return ClipTrack(self._clip.set_name, self._store, self._clip.url, self._clip.key, name)


def truth_track(clip: EvalClip, name: str) -> HandTrack:
    """Return what a perfect detector would have seen: the labelled 2D joints, no metric landmarks."""
    labels = clip.labels(name)
    known = labels.joints_img_weight > 0
    center, size = tight_box(labels.joints_img, known.float())
    nothing = ~known.any(-1)
    center = torch.where(nothing[:, None], labels.box_center_img, center)
    side = torch.where(nothing, labels.box_side_px, size.amax(-1)).clamp(min=MIN_BOX_PX)
    return HandTrack(
        frame_index=labels.frame_index,
        time_s=clip.time_s(name),
        box_center_img=center,
        box_side_px=side,
        joints_img=labels.joints_img,
        joints_img_weight=known.float(),
        landmarks=torch.zeros(len(side), 21, 3),
        landmarks_weight=torch.zeros(len(side)),
        confidence=torch.ones(len(side)),
        observed=~nothing,
        is_right=labels.is_right,
    )


def set_digest(clips: Sequence[EvalClip]) -> str:
    """Return eight hexadecimal digits of all labels of a set."""
    return hashlib.sha256("".join(clip.digest for clip in clips).encode()).hexdigest()[:8]


def cut_labels(labels: HandLabels, places: Tensor) -> HandLabels:
    """Return the labels of some frames of a track."""
    parts = {f.name: getattr(labels, f.name) for f in fields(labels)}
    return HandLabels(**{name: part if name == "is_right" else part[places] for name, part in parts.items()})


def local_urls(paths: Sequence[Path]) -> list[str]:
    """Return files as the shard store names them."""
    return [str(path) for path in paths]
