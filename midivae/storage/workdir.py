"""The work directory: finished parts and checkpoints, kept between runs.

Offers: `work_dir`.
"""

from __future__ import annotations

import os
from pathlib import Path


def work_dir() -> Path:
    """Where finished parts and checkpoints are kept between runs: `MIDIVAE_HOME`, else `.midivae` here.

    Deleting it loses time, never data.
    """
    return Path(os.environ.get("MIDIVAE_HOME") or ".midivae")
