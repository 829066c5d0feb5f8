"""``python -m batchd``: the command line."""

import sys

from batchd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
