"""Batches made from the mixture, by any number of workers, from any place in the run; validation windows in order."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from haptic.data.augment import Augmentation, AugmentConfig, draw_augmentation, make_clip
from haptic.data.batches import BatchT, ClipBatch, RealHands, TrainingBatch, join_clips
from haptic.data.crops import CutConfig
from haptic.data.mixture import REAL, Draw, Stream
from haptic.data.readers import Track, TrackSet
from haptic.data.shards import DamagedSampleError
from haptic.hand.anatomy import sample_pose

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 50  # draws in place of one that cannot be shown
AHEAD_BATCHES = 50  # how early shards are fetched
FOREVER = 1 << 62
SAMPLED_BETAS_SPREAD = 1.0


class WorkerDiedError(RuntimeError):
    """A process that reads data is gone; the run cannot go on as it was."""


@dataclass(frozen=True)
class Part:
    """One part of every batch: its stream and how many of its draws this process takes."""

    stream: Stream
    per_process: int


class RealHandSource:
    """Hands for the discriminator: from motion capture, or drawn within ranges of motion where there is none."""

    def __init__(self, mocap: RealHands | None, *, seed: int) -> None:
        self._mocap, self._seed = mocap, seed

    def hand(self, position: int) -> RealHands:
        """Return the hand at a position of the run."""
        rng = np.random.default_rng([self._seed, REAL, position])
        if self._mocap is not None:
            return self._mocap[torch.from_numpy(rng.integers(len(self._mocap.betas), size=1))]
        betas = torch.from_numpy(rng.normal(0, SAMPLED_BETAS_SPREAD, (1, 10))).float()
        return RealHands(hand_pose=sample_pose(1, rng=rng).float(), betas=betas)

    def hands(self, first: int, count: int) -> RealHands:
        """Return the hands at consecutive positions."""
        drawn = [self.hand(position) for position in range(first, first + count)]
        return RealHands(
            hand_pose=torch.cat([hand.hand_pose for hand in drawn]), betas=torch.cat([hand.betas for hand in drawn])
        )


class BatchMaker(Dataset[TrainingBatch]):
    """Makes any batch of this process by its number.

    All processes together take each position of a stream once: batch i of process r has the positions from
    (i * processes + r) * per_process on.
    """

    def __init__(
        self,
        sets: Sequence[TrackSet],
        *,
        video: Part | None,
        image: Part | None,
        real: RealHandSource,
        real_per_process: int,
        augment: AugmentConfig,
        cut: CutConfig,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._sets, self._video, self._image = sets, video, image
        self._real, self._real_per_process = real, real_per_process
        self._augment = augment
        self._cut = cut
        self._rank, self._world_size = rank, world_size

    def __getitem__(self, index: int) -> TrainingBatch:
        """Return batch `index` of the run.

        Raises:
            ValueError: so much is damaged that no draw can be shown.
        """
        self._prepare(index + AHEAD_BATCHES)
        slot = index * self._world_size + self._rank
        skipped: list[str] = []
        real = None
        if self._real_per_process:
            real = self._real.hands(slot * self._real_per_process, self._real_per_process)
        return TrainingBatch(
            video=self._make_part(self._video, slot, skipped),
            image=self._make_part(self._image, slot, skipped),
            real=real,
            index=index,
            skipped=tuple(skipped),
        )

    def _prepare(self, index: int) -> None:
        """Let the sets fetch what a later batch will need."""
        slot = index * self._world_size + self._rank
        for part in (self._video, self._image):
            if part is not None:
                for position in range(slot * part.per_process, (slot + 1) * part.per_process):
                    draw = part.stream.draw(position, 0, rng=part.stream.rng(position, 0))
                    self._sets[draw.set_index].prepare(draw.track)

    def _make_part(self, part: Part | None, slot: int, skipped: list[str]) -> ClipBatch | None:
        if part is None:
            return None
        first = slot * part.per_process
        return join_clips(
            [self._make_clip(part.stream, position, skipped) for position in range(first, first + part.per_process)]
        )

    def _make_clip(self, stream: Stream, position: int, skipped: list[str]) -> ClipBatch:
        for attempt in range(MAX_ATTEMPTS):
            rng = stream.rng(position, attempt)
            draw = stream.draw(position, attempt, rng=rng)
            try:
                track = self._sets[draw.set_index].open(draw.track)
                if not is_in_view(track, draw):
                    continue
                window = track.window(draw.places)
            except DamagedSampleError as error:
                skipped.append(str(error))
                continue
            return make_clip(
                window,
                draw_augmentation(len(draw.places), self._augment, rng=rng),
                cut=self._cut,
                set_index=draw.set_index,
            )
        name = self._sets[draw.set_index].name
        last = f"the last fault: {skipped[-1]}" if skipped else "their hands are outside the picture"
        raise ValueError(f"set {name}: none of {MAX_ATTEMPTS} hands drawn for one place can be shown; {last}")


def is_in_view(track: Track, draw: Draw) -> bool:
    """Say whether the middle of the hand's box is in the picture in every frame: HaPTIC's condition on a window."""
    center_img = track.labels.box_center_img[list(draw.places)]
    size = center_img.new_tensor([track.width_px, track.height_px])
    return bool(((center_img >= 0) & (center_img < size)).all())


class BatchLoader:
    """The batches of a run, an epoch at a time; it knows its place, and can be set to any other.

    Workers live on from epoch to epoch. Its state is the number of the batch that comes next; that is exact where the
    caller takes a batch only when it is used, as Lightning does with loaders that know their length.
    """

    def __init__(
        self,
        maker: BatchMaker,
        *,
        batches_per_epoch: int,
        num_workers: int,
        prefetch_batches: int = 2,
        max_damaged: int = 100,
        plan: Mapping[str, Any] | None = None,
        pin_memory: bool = False,
        faults: Sequence[str] = (),
    ) -> None:
        self.next_batch = 0
        self.wait_s = 0.0  # spent waiting for batches since the start
        self._maker, self._batches_per_epoch = maker, batches_per_epoch
        self._num_workers, self._prefetch_batches, self._pin_memory = num_workers, prefetch_batches, pin_memory
        self._max_damaged, self._num_damaged = max_damaged, 0
        self._plan = dict(plan or {})
        self._source: Iterator[TrainingBatch] | None = None
        self._count_damage(faults)

    def __len__(self) -> int:
        return self._batches_per_epoch

    def __iter__(self) -> Iterator[TrainingBatch]:
        """Give what is left of the epoch in which the next batch lies."""
        epoch = self.next_batch // self._batches_per_epoch
        while self.next_batch < (epoch + 1) * self._batches_per_epoch:
            yield self._next()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep to go on from here."""
        return {"next_batch": self.next_batch, "num_damaged": self._num_damaged, "plan": self._plan}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: the run was another; the fields that changed are named.
        """
        changed = [
            f"{name} (was {state_dict['plan'].get(name)}, is {self._plan.get(name)})"
            for name in sorted({*state_dict["plan"], *self._plan})
            if state_dict["plan"].get(name) != self._plan.get(name)
        ]
        if changed:
            raise ValueError(
                f"the data's order depends on what was changed since the checkpoint: {'; '.join(changed)}. Resume with "
                "the same config, or start a new run from the checkpoint's weights"
            )
        self.close()
        self.next_batch, self._num_damaged = state_dict["next_batch"], state_dict["num_damaged"]

    def close(self) -> None:
        """Let the workers go."""
        self._source = None

    def _next(self) -> TrainingBatch:
        if self._source is None:
            self._source = said_plainly(self._make_loader())
        start = time.perf_counter()
        try:
            batch = next(self._source)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise WorkerDiedError(
                f"a data worker died while making batch {self.next_batch} ({str(error).splitlines()[0]}); most often "
                "memory ran out: lower data.num_workers or data.prefetch_batches, then resume"
            ) from None
        self.wait_s += time.perf_counter() - start
        assert batch.index == self.next_batch, "batches come in order"
        self.next_batch += 1
        self._count_damage(batch.skipped)
        return batch

    def _make_loader(self) -> DataLoader[TrainingBatch]:
        has_workers = self._num_workers > 0
        return DataLoader(
            self._maker,
            batch_size=None,
            sampler=range(self.next_batch, FOREVER),
            num_workers=self._num_workers,
            prefetch_factor=self._prefetch_batches if has_workers else None,
            worker_init_fn=_calm_worker if has_workers else None,
            pin_memory=self._pin_memory,
            # Its own: the loader would draw its seed from the global generator, and a resumed run would differ.
            generator=torch.Generator(),
        )

    def _count_damage(self, faults: Sequence[str]) -> None:
        for fault in faults:
            self._num_damaged += 1
            logger.warning("skipped (%d of at most %d): %s", self._num_damaged, self._max_damaged, fault)
        if self._num_damaged > self._max_damaged:
            raise ValueError(
                f"{self._num_damaged} samples or shards are damaged, more than data.max_damaged = "
                f"{self._max_damaged}; the last: {faults[-1]}. Check them with python -m haptic.data.samples check"
            )


class ValidationWindows(Dataset[ClipBatch]):
    """Whole tracks as windows in order, without augmentation, a batch at a time.

    Neighbouring windows of a track share `overlap_frames` frames, and its last one reaches back to be full; the keys
    and `frame_index` tell which belong together. Process r has every batch whose number is r modulo the processes.
    """

    def __init__(
        self,
        sets: Sequence[TrackSet],
        names: Sequence[str],
        *,
        clip_frames: int,
        overlap_frames: int,
        batch_clips: int,
        cut: CutConfig,
        max_tracks: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._sets = sets
        self._cut = cut
        draws: list[Draw] = []
        for set_index, one in enumerate(sets):
            if one.name not in names:
                continue
            tracks = np.flatnonzero(one.num_frames >= clip_frames)
            if max_tracks is not None and len(tracks) > max_tracks:
                tracks = tracks[np.linspace(0, len(tracks) - 1, max_tracks).round().astype(int)]
            for track in tracks.tolist():
                last = int(one.num_frames[track]) - clip_frames
                starts = [*range(0, last, clip_frames - overlap_frames), last]
                draws += [Draw(set_index, track, tuple(range(start, start + clip_frames))) for start in starts]
        batches = [draws[first : first + batch_clips] for first in range(0, len(draws), batch_clips)]
        self._batches = batches[rank::world_size]
        if not draws:
            raise ValueError(f"validation: no track of {', '.join(names)} has {clip_frames} frames")

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> ClipBatch:
        """Return a batch; a damaged window ends the run, since numbers would not be comparable without it."""
        return join_clips([self._clip(draw) for draw in self._batches[index]])

    def _clip(self, draw: Draw) -> ClipBatch:
        return make_clip(
            self._sets[draw.set_index].open(draw.track).window(draw.places),
            Augmentation.none(len(draw.places)),
            cut=self._cut,
            set_index=draw.set_index,
        )


def validation_loader(windows: ValidationWindows, *, num_workers: int) -> DataLoader[ClipBatch]:
    """Return the windows, made by workers."""
    return DataLoader(
        windows,
        batch_size=None,
        shuffle=False,
        num_workers=num_workers,
        worker_init_fn=_calm_worker if num_workers else None,
        generator=torch.Generator(),
    )


def said_plainly(batches: Iterable[BatchT]) -> Iterator[BatchT]:
    """Give the batches; what a worker refuses is raised in its own words."""
    try:
        yield from batches
    except (ValueError, RuntimeError) as error:
        own = _words_of_worker(error)
        if own is None:
            raise
        raise ValueError(own) from None


def _words_of_worker(error: Exception) -> str | None:
    """Return what one of our errors said in a worker, out of the traceback that torch hands on; None for others."""
    text = str(error)
    if not text.startswith("Caught ") or "Original Traceback" not in text:
        return None
    kind, _, said = text.strip().splitlines()[-1].partition(": ")
    return said if kind.rpartition(".")[2] in ("ValueError", "DamagedSampleError") else None


def _calm_worker(_number: int) -> None:
    """One thread each: the workers are the parallelism."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
