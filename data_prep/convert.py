"""From units of a data set to shards: in parallel, resumable, with bounded memory, and counting what is damaged.

A shard is written by one process, from whole units, and gets its name when it is complete: whoever is interrupted
gives the same command again. Which units go into which shard follows from the annotations alone.
"""

import errno
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from data_prep.dataset import DamagedError, DataSet, Request, Source, SourceClip, Unit, UnusableError
from data_prep.labels import clip_hands
from data_prep.resuming import keep_recipe, time_in_words
from haptic.data.samples import HandLabels, SampleWriter, WriterConfig
from haptic.files import find_asset
from haptic.hand.mano import read_hand_model_data
from haptic.hand.model import OPENHAND

NO_MODEL = "none"  # the hand model of shards without MANO parameters
MANO = "mano"  # of shards whose labels are MANO's and absolute already, so that no file is asked for
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's share of it, a limit on files
MAX_RETRIES = 1000  # damaged pictures in one clip
MAX_LISTED = 20
PATIENCE_S = 10.0  # for processes that were told to end
# What annotations of another shape make the code that reads them raise.
NOT_AS_EXPECTED = (KeyError, TypeError, IndexError, AttributeError, ValueError)


@dataclass(frozen=True)
class ConvertConfig:
    """How a data set is written."""

    workers: int = 1
    limit: int | None = None  # units
    max_damaged: int = 100
    is_partial_fine: bool = False
    hands_per_shard: int = 4000  # some 200 MB
    max_crop_px: int = 512
    max_frame_px: int = 512

    def __post_init__(self) -> None:
        for name in ("workers", "hands_per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}; expected 1 or more units, or none at all")
        if self.max_damaged < 0:
            raise ValueError(f"max_damaged is {self.max_damaged}; expected 0 or more")


@dataclass
class Tally:
    """What came of the conversion."""

    shards: int = 0
    clips: int = 0
    hands: int = 0  # hand-frames
    frames: int = 0
    damaged: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Add what another shard gave."""
        self.shards += other.shards
        self.clips += other.clips
        self.hands += other.hands
        self.frames += other.frames
        self.damaged += other.damaged


@dataclass(frozen=True)
class ShardJob:
    """The units of one shard."""

    path: Path
    units: tuple[Unit, ...]


class Interrupted(KeyboardInterrupt):
    """The user stopped it; says what is there."""


def open_source(data_set: DataSet, request: Request, *, is_partial_fine: bool, limit: int | None) -> Source:
    """Open a split and refuse a download that lacks something, unless going on with the rest was asked for.

    Raises:
        ValueError: the split is unknown, parts are missing, or there is nothing to convert.
    """
    if request.split not in data_set.splits:
        raise ValueError(f"{data_set.title} has no split {request.split!r}; it has {', '.join(data_set.splits)}")
    if data_set.mano == "needed" and request.mano is None:
        raise ValueError(
            f"{data_set.title} tells hands by MANO parameters only; give your own MANO_RIGHT.pkl with --mano (free for "
            "research after registration at mano.is.tue.mpg.de)"
        )
    if data_set.needs_left_mano and request.mano is not None and not request.mano.has_left:
        raise ValueError(
            f"{data_set.title} stores left hands as PCA coefficients of MANO_LEFT; give your own file with --mano-left "
            "MANO_LEFT.pkl too (it comes with MANO_RIGHT.pkl)"
        )
    source = _opened(data_set, request)
    if source.missing and not is_partial_fine:
        raise ValueError(
            f"{request.root}: the download of {data_set.title}, {request.split}, lacks {len(source.missing)} parts:\n"
            f"{_listed(source.missing)}\ndownload them, or go on with what is there by --partial"
        )
    units = source.units if limit is None else source.units[:limit]
    if not units:
        lacks = f"; what it lacks:\n{_listed(source.missing)}" if source.missing else ", though it looks like one"
        raise ValueError(f"{request.root}: nothing of {data_set.title}, {request.split}, is there to convert{lacks}")
    return Source(units, source.clips, source.missing)


def _opened(data_set: DataSet, request: Request) -> Source:
    try:
        return data_set.open(request)
    except NOT_AS_EXPECTED as error:
        if isinstance(error, ValueError) and any(
            str(path) in str(error) for path in (request.root, *request.options.values())
        ):
            raise
        raise ValueError(
            f"{request.root}: annotations of {data_set.title}, {request.split}, are not as expected "
            f"({in_words(error)}); is the download complete?"
        ) from None


def in_words(error: Exception) -> str:
    """Return what was raised in one line."""
    text = " ".join(str(error).split())
    return text if type(error) is ValueError else f"{type(error).__name__}: {text}"


def _listed(missing: Sequence[str]) -> str:
    some = [f"  {part}" for part in missing[:MAX_LISTED]]
    return "\n".join([*some, *([f"  ... and {len(missing) - MAX_LISTED} more"] if len(missing) > MAX_LISTED else [])])


def convert(
    data_set: DataSet,
    request: Request,
    out: Path,
    config: ConvertConfig,
    *,
    say: Callable[[str], None] = print,
) -> Tally:
    """Write the shards of a split that are not there yet: `OUT/SPLIT-000000.tar`, ...

    Raises:
        ValueError: see `open_source`; also too much damage, no space, or a folder with shards of something else.
        Interrupted: control-C.
    """
    source = open_source(data_set, request, is_partial_fine=config.is_partial_fine, limit=config.limit)
    out.mkdir(parents=True, exist_ok=True)
    _drop_unfinished(out, request.split)  # of a run that was killed
    recipe = out / f"{request.split}.json"
    if not any(out.glob(f"{request.split}-[0-9]*.tar")):
        recipe.unlink(missing_ok=True)  # of a run that came to nothing
    keep_recipe(recipe, _recipe(data_set, request, config), shards=f"its shards of {request.split}")
    jobs = plan_shards(source.units, out, request.split, config.hands_per_shard)
    missing = [job for job in jobs if not job.path.exists()]
    say(f"{data_set.title}, {request.split}: {len(source.units)} units in {len(jobs)} shards, of which "
        f"{len(jobs) - len(missing)} are there")  # fmt: skip
    if source.missing:
        say(f"  without {len(source.missing)} parts that the download lacks:\n{_listed(source.missing)}")
    if config.limit is not None:
        say(f"  only the first {config.limit} units, as asked for")
    tally = Tally()
    worker = _Worker(data_set, request, source, config)
    started = time.monotonic()
    with _told_in_words(out, request.split, tally, config):
        results = _results(worker, missing, config.workers)
        for done, one in enumerate(results, start=1):
            for text in one.damaged:
                say(f"  damaged: {text}")
            tally.add(one)
            _check_damage(tally, config.max_damaged, out)
            say(_progress(done, len(missing), tally, time.monotonic() - started))
    if tally.clips == 0 and len(missing) == len(jobs):
        why = f"; the first of {len(tally.damaged)} damaged: {tally.damaged[0]}" if tally.damaged else ""
        raise ValueError(f"{request.root}: no usable hand in {data_set.title}, {request.split}{why}")
    say(f"{tally.clips} clips, {tally.frames} frames, {tally.hands} hands in {tally.shards} new shards; "
        f"{len(tally.damaged)} damaged")  # fmt: skip
    return tally


@contextmanager
def _told_in_words(out: Path, split: str, tally: Tally, config: ConvertConfig) -> Iterator[None]:
    """Tell what ends a conversion from outside in one line, and what is there."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; {tally.shards} new shards in {out} are complete, the same command goes on from there"
        ) from None
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise ValueError(
            f"{out}: no space is left ({error.strerror}); the shards that are there are complete. Free some space and "
            "give the same command again"
        ) from None
    except BrokenProcessPool:
        raise ValueError(
            f"{out}: a process was ended from outside, as happens when memory runs out; the shards that are there are "
            f"complete. Give the same command again, with fewer --workers than {config.workers} if it was memory"
        ) from None
    finally:
        _drop_unfinished(out, split)


def _drop_unfinished(out: Path, split: str) -> None:
    for rest in out.glob(f".writing-{split}-[0-9]*"):
        shutil.rmtree(rest, ignore_errors=True)


def plan_shards(units: Sequence[Unit], out: Path, split: str, hands_per_shard: int) -> list[ShardJob]:
    """Cut the units into shards of about as many hands; a unit is never cut."""
    jobs: list[ShardJob] = []
    batch: list[Unit] = []
    for unit in units:
        if batch and sum(one.num_hands for one in batch) + unit.num_hands > hands_per_shard:
            jobs.append(ShardJob(out / f"{split}-{len(jobs):06d}.tar", tuple(batch)))
            batch = []
        batch.append(unit)
    if batch:
        jobs.append(ShardJob(out / f"{split}-{len(jobs):06d}.tar", tuple(batch)))
    return jobs


def hand_model_name(data_set: DataSet, request: Request) -> str:
    """Return whose `betas` the shards have."""
    if data_set.mano == "openhand by default" and request.mano is None:
        return read_hand_model_data(find_asset(OPENHAND), family="openhand").name
    if data_set.mano == "in the labels" and request.mano is None:
        return MANO
    return NO_MODEL if request.mano is None or data_set.mano == "unused" else request.mano.name


class _Worker:
    """Writes shards; a copy of it lives in every process."""

    def __init__(self, data_set: DataSet, request: Request, source: Source | None, config: ConvertConfig) -> None:
        self._data_set, self._request, self._config = data_set, request, config
        self._source = source

    def __getstate__(self) -> dict[str, Any]:
        from data_prep.registry import find_data_set  # the set's functions are found by its name again

        assert find_data_set(self._data_set.name) is self._data_set
        return {**self.__dict__, "_data_set": self._data_set.name, "_source": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        from data_prep.registry import find_data_set

        self.__dict__.update(state)
        self._data_set = find_data_set(state["_data_set"])

    def write(self, job: ShardJob) -> Tally:
        """Write one shard."""
        if self._source is None:
            self._source = _opened(self._data_set, self._request)
        folder = job.path.parent / f".writing-{job.path.stem}"
        tally = Tally()
        # One shard of this job: whole units decide where a shard ends, not its size.
        limits = WriterConfig(
            max_crop_px=self._config.max_crop_px, max_frame_px=self._config.max_frame_px,
            max_shard_mb=float("inf"), max_shard_clips=1_000_000_000,
        )  # fmt: skip
        try:
            with SampleWriter(
                folder, prefix="shard", data_set=self._data_set.name, licence=self._data_set.licence,
                hand_model=hand_model_name(self._data_set, self._request), config=limits,
            ) as writer:  # fmt: skip
                for unit in job.units:
                    self._write_unit(writer, unit, tally)
            for path in writer.paths:
                path.replace(job.path)
                tally.shards += 1
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return tally

    def _write_unit(self, writer: SampleWriter, unit: Unit, tally: Tally) -> None:
        assert self._source is not None
        for clip in readable_clips(self._source, unit, tally.damaged):
            try:
                write_clip(writer, clip, tally)
            except DamagedError as error:
                tally.damaged.append(str(error))
            if len(tally.damaged) > self._config.max_damaged:
                break
        if len(tally.damaged) > self._config.max_damaged:
            raise ValueError(_too_damaged(tally.damaged, self._config.max_damaged))


def readable_clips(source: Source, unit: Unit, damaged: list[str]) -> Iterator[SourceClip]:
    """Give a unit's clips; what cannot be read is added to `damaged`, and ends the unit.

    Raises:
        UnusableError: what only the user can put right.
    """
    clips = iter(source.clips(unit))
    while True:
        try:
            clip = next(clips, None)
        except UnusableError:
            raise
        except DamagedError as error:
            damaged.append(str(error))
            return
        except NOT_AS_EXPECTED as error:
            damaged.append(f"{unit.name}: its annotation is not as expected ({in_words(error)})")
            return
        if clip is None:
            return
        damaged += clip.damaged
        yield clip


def write_clip(writer: SampleWriter, clip: SourceClip, tally: Tally) -> None:
    """Write a clip without the frames whose pictures cannot be read."""
    lost: set[int] = set()
    for _attempt in range(MAX_RETRIES):
        hands = clip_hands(clip, lost=frozenset(lost))
        if not hands:
            return
        try:
            writer.add_clip(clip.key, clip_images(clip, hands), hands, fps=clip.fps, source=clip.source)
        except _LostFrameError as error:
            lost.add(error.frame)
            tally.damaged.append(str(error))
            continue
        tally.clips += 1
        tally.hands += sum(len(labels.frame_index) for labels in hands.values())
        tally.frames += len({frame for labels in hands.values() for frame in labels.frame_index.tolist()})
        return
    raise DamagedError(f"{clip.source}: more than {MAX_RETRIES} of its pictures cannot be read")


def clip_images(clip: SourceClip, hands: dict[str, HandLabels]) -> Iterator[np.ndarray]:
    """Give the clip's frames; black for those that no hand is in, which are not read."""
    wanted = {frame for labels in hands.values() for frame in labels.frame_index.tolist()}
    nothing = np.broadcast_to(np.zeros(3, np.uint8), (clip.height_px, clip.width_px, 3))
    for frame in range(len(clip.pictures)):
        if frame not in wanted:
            yield nothing
            continue
        try:
            image = clip.pictures.read(frame)
        except DamagedError as error:
            raise _LostFrameError(frame, str(error)) from None
        if image.shape[:2] != (clip.height_px, clip.width_px):
            raise _LostFrameError(
                frame,
                f"{clip.source}, frame {frame}: the picture has {image.shape[1]} x {image.shape[0]} pixels; expected "
                f"{clip.width_px} x {clip.height_px}",
            )
        yield image


class _LostFrameError(DamagedError):
    def __init__(self, frame: int, text: str) -> None:
        super().__init__(text)
        self.frame = frame


def _results(worker: _Worker, jobs: list[ShardJob], workers: int) -> Iterator[Tally]:
    if workers == 1 or len(jobs) < 2:
        torch.set_num_threads(1)
        yield from map(worker.write, jobs)
        return
    # Spawned processes open the annotations anew; forked ones could hang in a library's threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=context, initializer=_start_process, initargs=(worker,)
    )
    try:
        for future in as_completed([pool.submit(_write_in_process, job) for job in jobs]):
            yield future.result()
    except BaseException:
        processes = list((pool._processes or {}).values())  # the pool forgets them when it is shut down
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(PATIENCE_S)
        raise
    pool.shutdown()


_PROCESS_WORKER: list[_Worker] = []


def _start_process(worker: _Worker) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops them
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _PROCESS_WORKER[:] = [worker]


def _end_with_parent() -> None:
    """End this process when the parent is gone: who gives the command again shall find nobody at work."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a started process has a parent"
    parent.join()
    os._exit(1)


def _write_in_process(job: ShardJob) -> Tally:
    return _PROCESS_WORKER[0].write(job)


def _recipe(data_set: DataSet, request: Request, config: ConvertConfig) -> dict[str, Any]:
    """Return what the shards of a split are made of."""
    mano = request.mano
    return {
        "data_set": data_set.name,
        "split": request.split,
        "hand_model": NO_MODEL if mano is None else mano.name,
        "with_left_mano": mano is not None and mano.has_left,
        "limit": config.limit,
        "hands_per_shard": config.hands_per_shard,
        "max_crop_px": config.max_crop_px,
        "max_frame_px": config.max_frame_px,
        "options": dict(request.options),
    }


def _check_damage(tally: Tally, max_damaged: int, out: Path) -> None:
    if len(tally.damaged) > max_damaged:
        raise ValueError(f"{out}: {_too_damaged(tally.damaged, max_damaged)}")


def _too_damaged(damaged: list[str], max_damaged: int) -> str:
    return (
        f"{len(damaged)} pictures or annotations cannot be read, more than the {max_damaged} of --max-damaged; the "
        f"last: {damaged[-1]}. Is the download complete?"
    )


def _progress(done: int, total: int, tally: Tally, passed_s: float) -> str:
    left = time_in_words(passed_s / done * (total - done))
    rate = tally.frames / max(passed_s, 1e-9)
    return f"shard {done} of {total}, {tally.frames} frames, {tally.hands} hands, {rate:.0f} frames/s, {left} left"
