"""Train HaPTIC: `python train.py --config configs/train/smoke.yaml`; `--help` explains the rest."""

import sys

from haptic.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
