"""`python -m ssd` is the `ssd` command."""

import sys

from ssd.cli import main

if __name__ == "__main__":
    sys.exit(main())
