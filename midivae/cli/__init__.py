"""The command line.

commands   One command per stage, and a few for people.
"""

from midivae.cli.commands import main

__all__ = ["main"]
