"""`python -m haptic.cli` is the same as the command `haptic` and the script `infer.py`."""

import sys

from haptic.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
