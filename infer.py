"""Video in, 4D hand trajectories out: `python infer.py VIDEO --out DIR`; `--help` explains the rest."""

import sys

from haptic.cli.entry import infer

if __name__ == "__main__":
    sys.exit(infer())
