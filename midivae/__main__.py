"""`python -m midivae`, as DVC and torchrun start it."""

import sys

if __name__ == "__main__":
    try:
        from midivae.cli.main import main
    except ModuleNotFoundError as error:
        sys.exit(
            f"midivae: {sys.executable} has no package {error.name!r}; use the Python in which midivae is installed: "
            "activate its environment, or call `make repro`"
        )
    sys.exit(main())
