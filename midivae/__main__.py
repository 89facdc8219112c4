"""`python -m midivae`, as torchrun starts it."""

import sys

from midivae.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
