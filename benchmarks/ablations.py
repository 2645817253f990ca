"""Table 5's ablations at a reduced budget: five networks that differ in one thing each, trained and scored alike.

    python benchmarks/ablations.py --start checkpoints/openhand_tiny.ckpt --train "data/synthetic/*.tar"
        --heldout "data/heldout-allocentric/*.tar" "data/heldout-egocentric/*.tar" --steps 500

All begin with the same weights, those of --start without the attentions that HaPTIC adds to HaMeR (the paper begins
with HaMeR's), and see the same number of hands. The same command goes on where it was broken off, and prints the table
of those that are done.
"""

import argparse
import csv
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from haptic.files import atomic_write
from haptic.models.checkpoint import load_checkpoint, save_checkpoint
from haptic.models.haptic import Haptic

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "train"
VARIANTS = {
    "full": None,
    "no image data": "no_image_data.yaml",
    "no cross-view attention": "no_cross_view.yaml",
    "no global cross-attention": "no_global.yaml",
    "flipped order": "flip_order.yaml",
}
SETS = ("heldout-allocentric", "heldout-egocentric")
MEASURES = ("GA", "FA", "ACC-NORM", "PA", "RA")


def main() -> None:
    """Train and score every variant, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, required=True, help="weights whose added attentions are left out")
    parser.add_argument("--train", required=True, help="shards to train on")
    parser.add_argument("--heldout", nargs=2, required=True, help="shards to score on: allocentric, egocentric")
    parser.add_argument("--steps", type=int, default=500, help="of 32 hands")
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--out", type=Path, default=Path("outputs/ablations"))
    parser.add_argument("--only", choices=list(VARIANTS), nargs="+", default=list(VARIANTS))
    parser.add_argument("--train-only", action="store_true")
    options = parser.parse_args()
    start = options.out / "start.ckpt"
    if not start.is_file():
        options.out.mkdir(parents=True, exist_ok=True)
        write_start(options.start, start)
    for variant in options.only:
        train(variant, options, start)
        if not options.train_only:
            score(variant, options)
    print_table(options.out)


def write_start(source: Path, path: Path) -> None:
    """Write the weights of a network without what HaPTIC adds to HaMeR's decoder."""
    loaded, info = load_checkpoint(source)
    config = replace(loaded.config, decoder=replace(loaded.config.decoder, added_attention=()))
    plain = Haptic(config)
    plain.load_state_dict({name: value for name, value in loaded.state_dict().items() if ".added." not in name})
    save_checkpoint(path, plain, hand_model_name=info.hand_model_name)


def folder(out: Path, variant: str) -> Path:
    """Return where a variant lies."""
    return out / variant.replace(" ", "_")


def train(variant: str, options: argparse.Namespace, start: Path) -> None:
    """Train one variant, or go on with it."""
    change = VARIANTS[variant]
    sees_joints = load_checkpoint(start)[0].config.decoder.sees_joints
    runs = ["openhand_tiny.yaml", "openhand_tiny_second.yaml", *(["openhand_tiny_third.yaml"] if sees_joints else [])]
    parts = [*runs, *([] if change is None else [change])]
    command = [sys.executable, str(CONFIGS.parent.parent / "train.py")]
    for part in parts:
        command += ["--config", str(CONFIGS / part)]
    windows, images = (4, 1) if variant == "no image data" else (2, 16)
    share = "{set: 1.0}"
    subprocess.run(
        [
            *command, "--run.out", str(folder(options.out, variant) / "run"), "--run.init", str(start),
            "--data.sets", f"{{set: {{shards: '{options.train}'}}}}", "--data.video", share,
            "--data.image", "{}" if variant == "no image data" else share, "--data.validation", "[]",
            "--data.windows_per_batch", str(windows), "--data.images_per_batch", str(images),
            "--objective.guide_only_steps", "0", "--optim.total_steps", str(options.steps),
            "--optim.lr", str(options.lr), "--optim.warmup_steps", "50", "--optim.ema_decay", "0.98",
        ],
        check=True,
    )  # fmt: skip


def score(variant: str, options: argparse.Namespace) -> None:
    """Score one variant on the held-out clips, or go on with it."""
    shards = [f"{name}={urls}" for name, urls in zip(SETS, options.heldout, strict=True)]
    subprocess.run(
        [
            sys.executable, "-m", "haptic.evaluation.runner", "--benchmark", "heldout", "--shards", *shards,
            "--methods", "haptic", "--checkpoint", str(folder(options.out, variant) / "run" / "last.ckpt"),
            "--out", str(folder(options.out, variant) / "scores"), "--workers", "1",
        ],
        check=True,
    )  # fmt: skip


def print_table(out: Path) -> None:
    """Print and write the means over all hands, one row per variant that is scored."""
    lines = ["| | " + " | ".join(f"{name} {measure}" for name in SETS for measure in MEASURES) + " |"]
    lines.append("|---" * (1 + len(SETS) * len(MEASURES)) + "|")
    for variant in VARIANTS:
        path = folder(out, variant) / "scores" / "sequences.csv"
        if not path.is_file():
            continue
        values: dict[tuple[str, str], list[float]] = defaultdict(list)
        with path.open() as file:
            for row in csv.DictReader(file):
                for measure in MEASURES:
                    if row[measure]:
                        values[row["set"], measure].append(float(row[measure]))
        cells = [f"{np.mean(values[name, measure]):.2f}" for name in SETS for measure in MEASURES]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    with atomic_write(out / "table.md") as file:
        file.write(text.encode())
    print(text, end="")


if __name__ == "__main__":
    main()
