"""`python -m mahsm`."""

import sys

from mahsm.cli import main

if __name__ == "__main__":
    sys.exit(main())
