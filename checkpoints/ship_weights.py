"""Make a small file of a training run's checkpoint: the network alone, its matrices in half precision.

    python checkpoints/ship_weights.py outputs/train/openhand_tiny/last.ckpt openhand_tiny.ckpt

What a run needs to go on (optimisers, place in the data, the weights behind the moving average) is left out. How far
the answers move is printed: it should be far below the network's errors.
"""

import argparse
import sys
from pathlib import Path

import torch

from haptic.models.checkpoint import load_checkpoint, save_checkpoint

CLIP_FRAMES = 8


def main() -> int:
    """Convert one file; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="IN", help="last.ckpt or best.ckpt of a run")
    parser.add_argument("shipped", type=Path, metavar="OUT", help="the file to write")
    arguments = parser.parse_args()
    try:
        if arguments.shipped.exists():
            raise ValueError(f"{arguments.shipped}: exists already; name a new file or remove it first")
        model, info = load_checkpoint(arguments.run)
        save_checkpoint(arguments.shipped, model, hand_model_name=info.hand_model_name, is_half=True)
        small, _info = load_checkpoint(arguments.shipped)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    sides, generator = model.config, torch.Generator().manual_seed(0)
    crops, frames = (
        torch.randn(1, CLIP_FRAMES, 3, side_px, side_px, generator=generator)
        for side_px in (sides.crop_side_px, sides.frame_side_px)
    )
    boxes = torch.rand(1, CLIP_FRAMES, 3, generator=generator) + 0.1
    with torch.no_grad():
        whole, halved = model(crops, frames, boxes), small(crops, frames, boxes)
    moved = max(float((getattr(whole, name) - getattr(halved, name)).abs().max()) for name in vars(whole))
    size_mb = arguments.shipped.stat().st_size / 1e6
    print(f"{size_mb:.1f} MB -> {arguments.shipped}; on noise no answer moves by more than {moved:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
