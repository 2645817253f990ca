"""Train HaPTIC: `python train.py --config configs/train/smoke.yaml`; `--help` explains the rest."""

import sys

from haptic.cli.entry import train

if __name__ == "__main__":
    sys.exit(train())
