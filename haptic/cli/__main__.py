"""`python -m haptic.cli` is the same as the command `haptic` and the script `infer.py`."""

import sys

from haptic.cli.entry import infer

if __name__ == "__main__":
    sys.exit(infer())
