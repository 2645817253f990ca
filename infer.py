"""Video in, 4D hand trajectories out: `python infer.py VIDEO --out DIR`; `--help` explains the rest."""

import sys

from haptic.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
