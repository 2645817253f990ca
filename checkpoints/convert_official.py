"""Turn an official HaPTIC or HaMeR checkpoint into haptic's own format.

    python checkpoints/convert_official.py last.ckpt haptic.ckpt

Not needed to run: `--checkpoint last.ckpt` takes official files as they are. It makes a smaller file that loads faster
and holds nothing but the network: no optimiser, no configuration objects, and none of the licensed MANO arrays
(`mano.*`). Nothing in the official file is executed.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from haptic.models.checkpoint import OFFICIAL_HAND, load_official, read_official, save_checkpoint
from haptic.models.official_names import is_ignored
from haptic.models.torch_file import open_torch_file


def main() -> int:
    """Convert one file; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("official", type=Path, metavar="IN", help="HaPTIC's last.ckpt or HaMeR's hamer.ckpt")
    parser.add_argument("converted", type=Path, metavar="OUT", help="the file to write")
    parser.add_argument("--backbone-heads", type=int, default=16, help="attention heads of the backbone (default 16)")
    parser.add_argument("--decoder-heads", type=int, default=8, help="attention heads of the decoder (default 8)")
    arguments = parser.parse_args()
    try:
        if arguments.converted.exists():
            raise ValueError(f"{arguments.converted}: exists already; name a new file or remove it first")
        placeholders = open_torch_file(arguments.official).placeholders
        weights = read_official(arguments.official)
        model = load_official(weights, backbone_heads=arguments.backbone_heads, decoder_heads=arguments.decoder_heads)
        save_checkpoint(arguments.converted, model, hand_model_name=OFFICIAL_HAND)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    dropped = Counter(name.partition(".")[0] for name in weights if is_ignored(name))
    print(f"dropped: {', '.join(f'{count} of {group}' for group, count in sorted(dropped.items())) or 'nothing'}")
    if placeholders:
        print(f"not loaded, for they are no weights: {', '.join(placeholders)}")
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    kind = "HaPTIC" if model.has_depth else "HaMeR (single images: no depth over time)"
    print(f"{kind}, {num_parameters / 1e6:.1f} M parameters -> {arguments.converted}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
