"""A batch of samples: more samples of the champion, added to what is published.

A batch names jobs and, as `count`, how many more samples of each. A job that the catalog has keeps its parameters and
gets longer: sample i is the same alone or among a million, so earlier samples stay as they are. Other jobs are new,
with the parameters that the batch gives.

Offers: `Jobs`, `add`.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from midivae.champion import versions
from midivae.champion.versions import Version
from midivae.config import params
from midivae.config.params import Params
from midivae.errors import InputError, ParamsError
from midivae.generate import stage as generate
from midivae.storage import tables
from midivae.storage.files import write_bytes
from midivae.storage.paths import catalog_files
from midivae.storage.schema import CATALOG

log = logging.getLogger(__name__)

Jobs = Sequence[Mapping[str, Any]]  # as in params.yaml; `count`: how many more samples
PARAMS = "params.yaml"  # in a version: the parameters of its samples
_ATTEMPTS = 3  # another attempt is needed when the champion changes meanwhile


def add(published: Path, jobs: Jobs, workers: int | None = None) -> dict[str, object]:
    """Generates a batch with the champion, and publishes it together with the samples that are there.

    Args:
        published: the folder of versions.
        jobs: each with at least `name` and `count`.
        workers: processes; None: one per core.

    Returns:
        version, samples (of the whole catalog), and added (per job).

    Raises:
        ParamsError: a job breaks a rule, or differs from the one of its name in the catalog.
        InputError: nothing is published, or the champion changed during every attempt.
        FolderError: the folder cannot be written, or the disk is full. What was published stays as it was.
    """
    for _ in range(_ATTEMPTS):
        base = versions.read_current(published)
        if base is None:
            raise InputError(f"{published}: nothing is published yet; a champion is needed to draw samples from")
        version = _attempt(published, base, jobs, workers)
        if version is not None:
            added = {str(job["name"]): int(job["count"]) for job in jobs}
            return {"version": version.name, "samples": version.samples, "added": added}
        log.warning("the champion changed meanwhile; the batch is generated again with the new one")
    raise InputError(f"{published}: the champion changed {_ATTEMPTS} times during the batch; run it again")


def _attempt(published: Path, base: Version, jobs: Jobs, workers: int | None) -> Version | None:
    """Generates and publishes the batch; None: another version became current meanwhile."""
    folder = (published / "versions" / base.name).absolute()
    before = params.load(folder / PARAMS)
    wanted = _wanted(before, jobs, _counts(folder / "samples" / "catalog"), workers)
    with tempfile.TemporaryDirectory(prefix=".batch-", dir=published) as name:
        data = Path(name)
        for stage_folder in ("model", "rolls"):
            (data / stage_folder).symlink_to(folder / stage_folder)
        generate.run(wanted, data)
        write_bytes(data / PARAMS, yaml.safe_dump(_with_jobs_of(before, wanted).model_dump(mode="json")).encode())
        with versions.locked(published):
            if versions.read_current(published) != base:
                return None
            version = versions.append(published, data / "samples", base, {PARAMS: data / PARAMS})
            return versions.switch(published, version.name)


def _wanted(before: Params, jobs: Jobs, counts: Mapping[str, int], workers: int | None) -> Params:
    """The parameters of the published samples, with the jobs of the batch at their full length."""
    published = {job.name: job.model_dump(mode="json") for job in before.generate.jobs}
    values = before.model_dump(mode="json")
    values["generate"]["jobs"] = [_job(job, published, counts) for job in jobs]
    values["compute"]["workers"] = workers
    return params.parse(values, "batch")


def _job(
    job: Mapping[str, Any], published: Mapping[str, Mapping[str, Any]], counts: Mapping[str, int]
) -> dict[str, Any]:
    """A job of the batch, completed by the published job of its name."""
    name, more = job.get("name"), job.get("count")
    if not isinstance(name, str) or not isinstance(more, int) or more < 1:
        raise ParamsError(f"batch: job {dict(job)}: needs a `name`, and a `count` of at least 1, how many more")
    before = published.get(name, {})
    for key, value in job.items():
        if key != "count" and before and before.get(key) != value:
            raise ParamsError(
                f"batch: job {name!r} has another {key} in the catalog, {before.get(key)!r} and not {value!r}; leave "
                "it out, or take another name"
            )
    return {**before, **job, "count": counts.get(name, 0) + more}


def _with_jobs_of(before: Params, wanted: Params) -> Params:
    """The parameters of all published samples, so that the next batch finds the jobs of this one."""
    jobs = {job.name: job for job in (*before.generate.jobs, *wanted.generate.jobs)}
    return before.model_copy(update={"generate": before.generate.model_copy(update={"jobs": tuple(jobs.values())})})


def _counts(catalog: Path) -> Counter[str]:
    """The number of samples of each job in a catalog."""
    counts: Counter[str] = Counter()
    for path in catalog_files(catalog):
        counts.update(tables.read(path, CATALOG, ["job"]).column("job").to_pylist())
    return counts
