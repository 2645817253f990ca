"""What the runner's tables do not say of a network: beside a fixed hand, its depth by focal length, and real videos.

python benchmarks/network_quality.py fixed-hand data/heldout-allocentric/synthetic-*.tar
    PA- and RA-MPJPE of one and the same hand in every frame: the least that a network must beat
python benchmarks/network_quality.py depth results/heldout data/heldout-*/synthetic-*.tar
    correlation of predicted and true depth change within 8 frames, by focal length; RESULTS is the runner's --out
python benchmarks/network_quality.py videos VIDEO [VIDEO ...] [--checkpoint FILE] [--max-frames N]
    2D PCK against the detector's joints, landmark offsets applied, from the network and from keypoints, before and
    after refinement
python benchmarks/network_quality.py curve RUN [RUN ...] --out curve.png
    losses and validation of a run's metrics.csv, or of several runs that went on from each other
"""

import argparse
import csv
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from haptic.data.shards import ShardStore
from haptic.evaluation.clips import EvalClip, list_clips
from haptic.evaluation.jobs import MethodFiles
from haptic.evaluation.predictions import read_prediction
from haptic.hand.mirror import mirror_points
from haptic.hand.model import load_hand_model
from haptic.hand.reprojection import measure_reprojection
from haptic.metrics import align_frames, pa_mpjpe, ra_mpjpe
from haptic.models.checkpoint import load_checkpoint, shipped_checkpoint
from haptic.pipeline import Init, Network, PipelineConfig, Refine, reconstruct

WINDOW_FRAMES = 8
MEAN_HAND_ROUNDS = 5
FOCAL_EDGES = (0.0, 0.7, 1.1, 2.0, 3.0, 10.0)
SHARES = (0.05, 0.1, 0.15)
MAX_MEAN_HANDS = 5000


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    fixed = commands.add_parser("fixed-hand")
    fixed.add_argument("shards", nargs="+", type=Path)
    depth = commands.add_parser("depth")
    depth.add_argument("results", type=Path)
    depth.add_argument("shards", nargs="+", type=Path)
    videos = commands.add_parser("videos")
    videos.add_argument("videos", nargs="+", type=Path)
    videos.add_argument("--checkpoint", type=Path, help="another network than the shipped one")
    videos.add_argument("--max-frames", type=int)
    curve = commands.add_parser("curve")
    curve.add_argument("runs", nargs="+", type=Path)
    curve.add_argument("--out", type=Path, default=Path("curve.png"))
    options = parser.parse_args()
    if options.command == "curve":
        draw_curve(options.runs, options.out)
        return
    if options.command == "videos":
        tell_videos(options.videos, options.checkpoint, options.max_frames)
        return
    clips = list_clips("clips", [str(path) for path in options.shards], ShardStore())
    if options.command == "fixed-hand":
        tell_fixed_hand(clips)
    else:
        tell_depth(clips, options.results)


def tell_fixed_hand(clips: Sequence[EvalClip]) -> None:
    """Print the errors of the hand that is nearest to all of these on average.

    The hand is made from the very frames it is scored on, about the wrist for RA and after alignment for PA, so that no
    other fixed hand does notably better.
    """
    tracks = [upright(clip, name) for clip in clips for name in clip.hands]
    joints = torch.cat(tracks)
    sample = joints[:: max(1, len(joints) // MAX_MEAN_HANDS)]
    about_wrist = (sample - sample[:, :1]).mean(0)
    mean = sample[0] - sample[0, :1]
    for _round in range(MEAN_HAND_ROUNDS):
        mean = align_frames(sample, mean.expand_as(sample)).mean(0)
    pa = [float(pa_mpjpe(mean.expand_as(track), track)) for track in tracks]
    ra = [float(ra_mpjpe(about_wrist.expand_as(track), track)) for track in tracks]
    print(f"{len(tracks)} tracks, {len(joints)} hands; means over tracks")
    print(f"one fixed hand: PA {1000 * np.mean(pa):.1f} mm, RA {1000 * np.mean(ra):.1f} mm")


def upright(clip: EvalClip, name: str) -> Tensor:
    """Return a hand's true joints (T, 21, 3) as a right hand's."""
    labels = clip.labels(name)
    joints = labels.joints_cam.double()
    return joints if bool(labels.is_right) else mirror_points(joints)


def tell_depth(clips: Sequence[EvalClip], results: Path) -> None:
    """Print how well each method's depth follows the true one within windows of 8 frames."""
    files = MethodFiles(results, None, None, "cpu")
    for folder in sorted((results / "predictions").iterdir()):
        pairs = [pair for clip in clips for pair in depth_changes(files, folder.name, clip)]
        if not pairs:
            continue
        cells = []
        for low, high in pairwise(FOCAL_EDGES):
            chosen = [(pred, true) for focal, pred, true in pairs if low <= focal < high]
            if chosen:
                pred, true = (np.concatenate(values) for values in zip(*chosen, strict=True))
                error_cm = 100 * np.abs(pred - true).mean()
                cells.append(f"f {low:g}-{high:g}: r {np.corrcoef(pred, true)[0, 1]:+.2f}, off {error_cm:.2f} cm "
                             f"(no change: {100 * np.abs(true).mean():.2f})")  # fmt: skip
        print(f"{folder.name:28s} " + "; ".join(cells))


def depth_changes(files: MethodFiles, method: str, clip: EvalClip) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """Return focal length (image widths), predicted and true change of the wrist's depth since a window's start."""
    path = files.prediction(method, clip.key)
    if not path.is_file():
        return []
    found = read_prediction(path).hands
    answer = []
    for name in clip.hands.keys() & found.keys():
        joints = found[name].joints_cam
        labels = clip.labels(name)
        if joints is None or not torch.equal(found[name].frame_index, labels.frame_index):
            continue
        pred, true = joints[:, 0, 2].double().numpy(), labels.joints_cam[:, 0, 2].double().numpy()
        for start in range(0, len(pred) - WINDOW_FRAMES + 1, WINDOW_FRAMES):
            window = slice(start + 1, start + WINDOW_FRAMES)
            answer.append((clip.focal_widths(name), pred[window] - pred[start], true[window] - true[start]))
    return answer


def tell_videos(videos: Sequence[Path], checkpoint: Path | None, max_frames: int | None) -> None:
    """Print, per video, the share of the detector's joints that lie within shares of the hand's box."""
    network = Network(*load_checkpoint(checkpoint or shipped_checkpoint()))
    model = load_hand_model()
    totals: dict[str, list[np.ndarray]] = {}
    for video in videos:
        for init, refine in combinations():
            config = PipelineConfig(init=init, refine=refine, max_frames=max_frames)
            result = reconstruct(video, config, hand_model=model, network=network)
            errors = [
                measured.box_share[measured.is_known].numpy()
                for name, hand in result.reconstruction.hands.items()
                for measured in [
                    measure_reprojection(model, hand, result.reconstruction.tracks[name], result.predicted_img[name])
                ]
            ]
            jerk = np.mean([quality.jerk_m_s3 for quality in result.quality.values()])
            shares = np.concatenate(errors)
            title = f"{init}, refine {refine}"
            totals.setdefault(title, []).append(shares)
            print(f"{video.stem:20s} {title:24s} {described(shares)}  jerk {jerk:8.0f} m/s^3", flush=True)
    for title, parts in totals.items():
        print(f"{'all':20s} {title:24s} {described(np.concatenate(parts))}")


def combinations() -> tuple[tuple[Init, Refine], ...]:
    """Return what is compared."""
    return ("network", "off"), ("network", "fast"), ("keypoints", "off"), ("keypoints", "fast")


def described(shares: np.ndarray) -> str:
    """Return PCK at each share."""
    return "  ".join(f"PCK@{share:g} {100 * np.mean(shares <= share):5.1f} %" for share in SHARES)


def draw_curve(runs: Sequence[Path], out: Path) -> None:
    """Draw what training lost and what validation said over the hands that were seen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6))
    panels = {
        "where joints lie in the crop (share of its side)": ("train/guide_2d", "train/joints_2d"),
        "3D joints about the wrist (m, L1)": ("train/joints_3d", "train/image_joints_3d"),
        "validation (mm)": ("val/pa_mpjpe_mm", "val/ra_mpjpe_mm", "val/ga_mpjpe_mm"),
    }
    before = 0.0
    for run in runs:
        with (run / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        for axis, (title, names) in zip(axes, panels.items(), strict=True):
            for number, name in enumerate(names):
                seen = [(before + float(row["hands_seen"]), float(row[name])) for row in rows
                        if row.get(name) and row["hands_seen"]]  # fmt: skip
                if seen:
                    label = name.partition("/")[2] if run == runs[0] else None
                    axis.plot(*zip(*seen, strict=True), color=f"C{number}", label=label, linewidth=1)
            axis.set_title(title, fontsize=10)
            axis.set_xlabel("hands seen")
            axis.set_ylim(bottom=0)
            axis.legend(fontsize=8)
        before += max((float(row["hands_seen"]) for row in rows if row["hands_seen"]), default=0.0)
    figure.tight_layout()
    figure.savefig(out, dpi=100)
    print(f"written to {out}")


if __name__ == "__main__":
    main()
