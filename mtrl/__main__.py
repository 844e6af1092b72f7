"""`python -m mtrl`, for an environment whose scripts are not on the path."""

import sys

from mtrl.cli import main

if __name__ == "__main__":
    sys.exit(main())
