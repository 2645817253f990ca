"""How fast a data set becomes shards: frames per second of one core's own time, for JPEG sources.

    OMP_NUM_THREADS=1 python benchmarks/convert.py [--frames 240] [--size 640 480] [--profile]

It makes up pictures with the detail of photographs, one hand in each, of several sizes, and goes through all of
`data_prep` with one process. The processor's time counts, so that others on the machine do not.
"""

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from data_prep.convert import ConvertConfig, convert
from data_prep.dataset import DataSet, HandTruth, Request, Source, SourceClip, Split, Unit
from data_prep.frames import pinhole
from data_prep.pictures import PictureFiles

FRAMES_PER_CLIP = 60
TEXTURE_PX = 3072
QUALITY = 90
TARGET = 150
HANDS = (0.1, 0.15, 0.22, 0.33)  # the longer side of the joints' box over the picture's


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=240)
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--profile", action="store_true", help="what the time goes into, for one row")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        width_px, height_px = options.size
        pictures = write_pictures(Path(folder) / "download", options.frames, width_px, height_px)
        size_kb = sum(path.stat().st_size for path in pictures) / len(pictures) / 1e3
        print(f"{len(pictures)} pictures of {width_px} x {height_px}, {size_kb:.0f} kB each")
        print(f"{TARGET} a second are wanted of 640 x 480\n")
        print(f"{'hand':>6} {'stored px':>9} {'frames/s':>9} {'kB/frame':>9}")
        for stored_px in (512, 256):
            for share in HANDS:
                hand_px = round(share * width_px)
                rate, size_kb = converting_rate(Path(folder), pictures, options.size, hand_px, stored_px)
                print(f"{hand_px:>6} {stored_px:>9} {rate:>9.0f} {size_kb:>9.0f}")
        if options.profile:
            profile = cProfile.Profile()
            profile.enable()
            converting_rate(Path(folder), pictures, options.size, round(HANDS[2] * width_px), 512)
            profile.disable()
            pstats.Stats(profile).sort_stats("tottime").print_stats(14)


def write_pictures(folder: Path, count: int, width_px: int, height_px: int) -> list[Path]:
    """Write pictures with the detail of photographs."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    texture = sum(
        cv2.resize(rng.normal(0, 12 * 2**octave, (TEXTURE_PX >> octave, TEXTURE_PX >> octave, 3)), (TEXTURE_PX,) * 2)
        / 2
        for octave in range(1, 8)
    )
    texture = (np.asarray(texture) / 6 + 128).clip(0, 255).astype(np.uint8)
    paths = []
    for number in range(count):
        x, y = rng.integers(0, (TEXTURE_PX - width_px, TEXTURE_PX - height_px))
        path = folder / f"{number:06d}.jpg"
        cv2.imwrite(str(path), texture[y : y + height_px, x : x + width_px], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        paths.append(path)
    return paths


def converting_rate(
    folder: Path, pictures: list[Path], size: tuple[int, int], hand_px: int, stored_px: int
) -> tuple[float, float]:
    """Return frames per second of processor time, and the size of a frame in the shards."""
    data_set = made_up_set(pictures, size, hand_px)
    out = folder / f"shards-{hand_px}-{stored_px}-{time.monotonic_ns()}"
    config = ConvertConfig(max_crop_px=stored_px, max_frame_px=stored_px)
    start_s = time.process_time()
    tally = convert(data_set, Request(folder, "all"), out, config, say=lambda _text: None)
    passed_s = time.process_time() - start_s
    size_kb = sum(path.stat().st_size for path in out.glob("*.tar")) / 1e3 / tally.frames
    return tally.frames / passed_s, size_kb


def made_up_set(pictures: list[Path], size: tuple[int, int], hand_px: int) -> DataSet:
    """Return a set of clips whose hands wander about, all of a size."""
    starts = range(0, len(pictures), FRAMES_PER_CLIP)
    depth_m, hand_m = 0.5, 0.1
    K = pinhole(hand_px / hand_m * depth_m, hand_px / hand_m * depth_m, size[0] / 2, size[1] / 2)

    def clips(unit: Unit):  # noqa: ANN202
        start = int(unit.name)
        part = pictures[start : start + FRAMES_PER_CLIP]
        rng = np.random.default_rng(start)
        joints = rng.uniform(-hand_m / 2, hand_m / 2, (21, 3)) * [1, 1, 0.3]
        joints[:2, 0] = -hand_m / 2, hand_m / 2
        way = np.cumsum(rng.normal(0, 2e-3, (len(part), 1, 3)), axis=0) + np.array([0, 0, depth_m])
        hand = HandTruth(is_right=True, K=np.tile(K, (len(part), 1, 1)), joints_cam=joints + way)
        yield SourceClip(unit.name, PictureFiles(part), [hand], *size, 30.0, "made up")

    units = [Unit(f"{start:06d}", FRAMES_PER_CLIP, FRAMES_PER_CLIP) for start in starts]
    return DataSet(
        name="made-up", title="Made up", licence="CC0-1.0", link="", splits={"all": Split()}, layout=(),
        open=lambda _request: Source(units, clips),
    )  # fmt: skip


if __name__ == "__main__":
    main()
