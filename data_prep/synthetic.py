"""Write shards of synthetic clips: two hands, arms, objects, rooms, and the truth about all of it.

    python -m data_prep.synthetic --out DIR --clips 1000 --frames 16 --seed 0 [--workers 2]
    python -m data_prep.synthetic --preview sheet.png --seed 0

Clip N of a seed is always the same, so a run that was broken off goes on where it was: shards that are there are kept,
and a shard is there only when it is complete. `--preview` writes a picture of a hundred clips instead.
"""

import argparse
import multiprocessing
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from data_prep.resuming import keep_recipe, time_in_words
from haptic.data.samples import (
    ClipInfo,
    check_labels,
    encode_jpeg,
    labels_to_npz,
    write_tar,
)
from haptic.data.synthetic.clips import ClipsConfig
from haptic.data.synthetic.fast import RenderedClip, SyntheticClips
from haptic.files import atomic_path
from haptic.hand.model import load_hand_model

CLIPS_PER_SHARD = 20
DATA_SET, LICENCE = "synthetic", "CC0-1.0"
RECIPE = "synthetic.json"
PREVIEW_CLIPS, PREVIEW_COLUMNS, PREVIEW_PX = 100, 10, 128


@dataclass(frozen=True)
class ShardJob:
    """Which clips go into which file."""

    path: Path
    clips: range
    seed: int
    hand: Path | None
    config: ClipsConfig


def main(arguments: list[str] | None = None) -> None:
    """Write shards, or a preview."""
    options = _parser().parse_args(arguments)
    try:
        config = ClipsConfig(
            num_frames=options.frames,
            view=options.view,
            focal_widths=tuple(options.focal),
            rates_hz=(options.fps,) if options.fps else ClipsConfig.rates_hz,
            backgrounds=options.backgrounds,
            crop_px=options.crop_px,
            frame_px=options.frame_px,
            expansion=options.expansion,
            crop_reach=options.crop_reach,
        )
        if options.preview:
            write_preview(options.preview, config, seed=options.seed, hand=options.hand, first=options.first)
        elif options.out and options.clips:
            write_shards(
                options.out, config, num_clips=options.clips, seed=options.seed, first=options.first,
                workers=options.workers, hand=options.hand,
            )  # fmt: skip
        else:
            raise ValueError("nothing to do: give --out DIR and --clips N, or --preview PICTURE.png")
    except ValueError as error:
        sys.exit(f"error: {error}")


def write_shards(
    out: Path,
    config: ClipsConfig,
    *,
    num_clips: int,
    seed: int,
    first: int = 0,
    workers: int = 1,
    hand: Path | None = None,
) -> None:
    """Write clips `first` to `first + num_clips - 1` of a seed, those shards that are not there yet.

    Raises:
        ValueError: the folder holds shards of another recipe.
    """
    out.mkdir(parents=True, exist_ok=True)
    keep_recipe(out / RECIPE, {**asdict(config), "seed": seed, "hand": str(hand) if hand else "openhand"})
    # The shards' clips are counted from zero, so that a longer run goes on with the same shards.
    starts = range(first // CLIPS_PER_SHARD * CLIPS_PER_SHARD, first + num_clips, CLIPS_PER_SHARD)
    jobs = []
    for start in starts:
        clips = range(max(start, first), min(start + CLIPS_PER_SHARD, first + num_clips))
        suffix = "" if len(clips) == CLIPS_PER_SHARD else f"-{clips.start}-{clips.stop}"
        jobs.append(ShardJob(out / f"synthetic-{start // CLIPS_PER_SHARD:06d}{suffix}.tar", clips, seed, hand, config))
    missing = [job for job in jobs if not job.path.exists()]
    print(f"{len(jobs)} shards of {CLIPS_PER_SHARD} clips; {len(jobs) - len(missing)} are there", flush=True)
    started = time.monotonic()
    num_hands = 0
    for done, shard_hands in enumerate(_results(missing, workers), start=1):
        num_hands += shard_hands
        passed_s = time.monotonic() - started
        left_s = passed_s / done * (len(missing) - done)
        print(
            f"shard {done} of {len(missing)}, {num_hands} hand-frames, {num_hands / passed_s:.1f} per second, "
            f"{time_in_words(left_s)} left",
            flush=True,
        )


def write_shard(job: ShardJob) -> int:
    """Write one shard; return how many hands' pictures are in it."""
    clips = _clips(job)
    members: list[tuple[str, bytes]] = []
    num_hands = 0
    for index in job.clips:
        clip = clips[index]
        members += clip_members(clip, hand_model=clips.model.name, seed=job.seed)
        num_hands += sum(len(crops) for crops in clip.crops.values())
    write_tar(job.path, members)
    return num_hands


def clip_members(clip: RenderedClip, *, hand_model: str, seed: int) -> list[tuple[str, bytes]]:
    """Return a clip as it lies in a shard."""
    key = f"synthetic-{seed}-{clip.index:08d}"
    drawing = clip.drawing
    info = ClipInfo(
        data_set=DATA_SET, licence=LICENCE, hand_model=hand_model, fps=clip.fps, num_frames=len(clip.frames),
        width_px=clip.width_px, height_px=clip.height_px,
        hands={name: len(crops) for name, crops in clip.crops.items()},
        source=f"seed {seed}, clip {clip.index}, {'egocentric' if drawing.is_egocentric else 'allocentric'}, "
        f"focal length {drawing.focal_widths:.2f} image widths",
    )  # fmt: skip
    quality = drawing.film.jpeg_quality
    members = [(f"{key}.json", info.to_json())]
    frames_with_hands: set[int] = set()
    pictures: list[tuple[str, bytes]] = []
    for name, hand in clip.hands.items():
        check_labels(hand.labels, where=f"{key}, {name}")
        members.append((f"{key}.{name}.npz", labels_to_npz(hand, info)))
        for frame, crop in zip(hand.labels.frame_index.tolist(), clip.crops[name], strict=True):
            frames_with_hands.add(frame)
            pictures.append((f"{key}.{name}.{frame:04d}.jpg", encode_jpeg(crop, quality=quality)))
    for frame in sorted(frames_with_hands):
        pictures.append((f"{key}.frame.{frame:04d}.jpg", encode_jpeg(clip.frames[frame], quality=quality)))
    return members + pictures


def write_preview(path: Path, config: ClipsConfig, *, seed: int, hand: Path | None, first: int = 0) -> None:
    """Write a picture of a hundred clips, one hand of each: what the network is to see."""
    clips = SyntheticClips(config, seed=seed, model=load_hand_model(hand))
    cells = []
    for index in range(first, first + PREVIEW_CLIPS):
        renderer = clips.renderer(index)
        frame = config.num_frames // 2
        crops = renderer.frame(frame)[1]
        crop = crops[sorted(crops)[index % len(crops)]] if crops else np.zeros((config.crop_px,) * 2 + (3,), np.uint8)
        margin = round(config.crop_px * (1 - 1 / config.crop_reach) / 2) if config.crop_reach > 1 else 0
        seen = crop[margin : config.crop_px - margin, margin : config.crop_px - margin]
        cells.append(cv2.resize(seen, (PREVIEW_PX, PREVIEW_PX), interpolation=cv2.INTER_AREA))
        print(f"\rclip {index - first + 1} of {PREVIEW_CLIPS}", end="", flush=True)
    print()
    rows = [np.concatenate(cells[at : at + PREVIEW_COLUMNS], axis=1) for at in range(0, len(cells), PREVIEW_COLUMNS)]
    with atomic_path(path) as temporary:
        cv2.imwrite(str(temporary), np.concatenate(rows)[..., ::-1])


_PROCESS_CLIPS: dict[str, SyntheticClips] = {}  # one per process: skins and walls are painted once


def _clips(job: ShardJob) -> SyntheticClips:
    name = f"{job.seed} {job.hand} {job.config}"
    if name not in _PROCESS_CLIPS:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        _PROCESS_CLIPS.clear()
        _PROCESS_CLIPS[name] = SyntheticClips(job.config, seed=job.seed, model=load_hand_model(job.hand))
    return _PROCESS_CLIPS[name]


def _results(jobs: list[ShardJob], workers: int) -> Any:
    """Go through the results as they come; a worker that dies takes the run with it."""
    if workers <= 1:
        yield from map(write_shard, jobs)
        return
    from concurrent.futures import ProcessPoolExecutor, as_completed

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs) or 1), mp_context=context) as pool:
        for future in as_completed([pool.submit(write_shard, job) for job in jobs]):
            yield future.result()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.synthetic", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder for the shards")
    parser.add_argument("--clips", type=int, help="how many")
    parser.add_argument("--first", type=int, default=0, help="number of the first clip")
    parser.add_argument("--frames", type=int, default=16, help="of each clip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes")
    parser.add_argument("--view", choices=("either", "egocentric", "allocentric"), default="either")
    parser.add_argument("--focal", type=float, nargs=2, default=ClipsConfig.focal_widths, metavar=("LOW", "HIGH"),
                        help="allocentric cameras' focal length in image widths")  # fmt: skip
    parser.add_argument("--fps", type=float, help="one frame rate for all clips instead of several")
    parser.add_argument("--backgrounds", type=Path, help="a folder of pictures, for most of the walls")
    parser.add_argument("--crop-px", type=int, default=256, help="side of the stored crop")
    parser.add_argument("--frame-px", type=int, default=160, help="longer side of the stored whole frame")
    parser.add_argument("--expansion", type=float, default=ClipsConfig.expansion,
                        help="side of the network's box over the joints' tight box")  # fmt: skip
    parser.add_argument("--crop-reach", type=float, default=ClipsConfig.crop_reach,
                        help="side of the stored crop over that box; twice a network's box_share will do")  # fmt: skip
    parser.add_argument("--hand", type=Path, help="a licensed MANO_RIGHT.pkl instead of the openhand")
    parser.add_argument("--preview", type=Path, metavar="PICTURE.png", help="write a sheet of a hundred clips instead")
    return parser


if __name__ == "__main__":
    main()
