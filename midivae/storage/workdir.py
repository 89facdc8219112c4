"""The work directory: finished parts and checkpoints, kept between runs.

Offers: `work_dir`, `key_of`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path


def work_dir() -> Path:
    """Where finished parts and checkpoints are kept between runs: `MIDIVAE_HOME`, else `.midivae` here.

    Deleting it loses time, never data.
    """
    return Path(os.environ.get("MIDIVAE_HOME") or ".midivae")


def key_of(facts: Mapping[str, object]) -> str:
    """The name of finished work: a hash of everything that decides it, in 16 hex digits."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
