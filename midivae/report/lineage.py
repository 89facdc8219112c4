"""Section "Lineage": hashes of the data, the code, the models and the parameters that the page was made from.

Offers: `lineage`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from midivae import __version__
from midivae.config.params import Params
from midivae.storage import folders
from midivae.storage.files import file_sha256

_FOLDERS = ("corpus", "rolls", "model", "samples", "evaluation")
_COLUMNS = ("mode", "model", "seed", "params_sha256")  # of a job


def lineage(params: Params, data: Path, samples: pd.DataFrame, jobs: Sequence[str]) -> dict[str, Any]:
    """The hashes, and the parameters as YAML."""
    sections = {
        "fetch": params.fetch,
        "ingest": params.ingest,
        "train": params.train,
        "generate": params.generate,
        "evaluate": params.evaluate,
        "report": params.report,
    }
    values = {name: section.model_dump(mode="json") for name, section in sections.items()}
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    first = {job: samples[samples["job"] == job].iloc[0] for job in jobs}
    return {
        "version": __version__,
        "code": code_sha256(),
        "folders": {name: file_sha256(data / name / folders.MANIFEST) for name in _FOLDERS},
        "models": dict(sorted({(str(row["model"]), str(row["model_sha256"])) for row in first.values()})),
        "jobs": [{"job": job, **{name: row[name] for name in _COLUMNS}} for job, row in first.items()],
        "params_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "params": text,
    }


def code_sha256() -> str:
    """One hash of all code and templates of the package."""
    package = Path(str(resources.files("midivae")))
    files = sorted(path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc")
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(package).as_posix()} {file_sha256(path)}\n".encode())
    return digest.hexdigest()
