"""The params of a run: one section per stage, with every default and every rule.

`load` reads a YAML file of sections. A value that the file leaves out keeps its default, and an unknown name is an
error. `params.yaml` at the root of the project spells out the defaults with comments; a test compares the two.

Offers: `Params`, `load`, `parse`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import model_validator

from midivae.config.base import Section, read_yaml, validated
from midivae.config.compute import Compute
from midivae.config.evaluate import Evaluate
from midivae.config.fetch import Fetch
from midivae.config.ingest import Ingest
from midivae.config.jobs import Generate, Job
from midivae.config.report import Report
from midivae.config.train import Train


class Params(Section):
    """All sections, in the order of the stages."""

    compute: Compute = Compute()
    fetch: Fetch = Fetch()
    ingest: Ingest = Ingest()
    train: Train = Train()
    generate: Generate = Generate()
    evaluate: Evaluate = Evaluate()
    report: Report = Report()

    @model_validator(mode="after")
    def _jobs_name_trained_models(self) -> Params:
        trained = {self.train.model, *self.train.compare}
        for job in self.generate.jobs:
            if job.model is not None and job.model not in trained:
                raise ValueError(
                    f"generate job {job.name!r} asks for model {job.model!r}, but train fits {sorted(trained)}; "
                    "add it to train.compare"
                )
        return self


def load(path: Path) -> Params:
    """The parameters in the YAML file at `path`; relative paths start at the folder of that file.

    Raises:
        ParamsError: the file is missing, is not YAML, or breaks a rule; the message lists every broken rule.
    """
    return _anchored(parse(read_yaml(path), str(path)), path.parent)


def parse(values: Any, origin: str) -> Params:
    """The parameters in nested mappings; `origin` opens the message when a rule is broken.

    Raises:
        ParamsError: a value breaks a rule; the message lists every broken rule.
    """
    return validated(Params, values, origin)


def _anchored(params: Params, folder: Path) -> Params:
    """The same params; relative `fetch.path` and files of parents now start at `folder`."""
    fetch, generate = params.fetch, params.generate
    if fetch.path is not None:
        fetch = fetch.model_copy(update={"path": str(folder / fetch.path)})
    jobs = tuple(_anchored_job(job, folder) for job in generate.jobs)
    return params.model_copy(update={"fetch": fetch, "generate": generate.model_copy(update={"jobs": jobs})})


def _anchored_job(job: Job, folder: Path) -> Job:
    parents = getattr(job, "parents", ())
    moved = tuple(
        f"file:{folder / text.removeprefix('file:')}" if text.startswith("file:") else text for text in parents
    )
    return job.model_copy(update={"parents": moved}) if moved != parents else job
