"""An order: more samples of the champion, added to what is published.

An order names jobs and how many samples more of each. A job that the catalog has keeps its parameters, and is made
longer: sample i is the same whether it is asked for alone or among a million, so what was there stays as it was. A job
of another name is made anew, with the parameters that the order gives.

Offers: `Order`, `read`, `fill`.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from midivae.champion import versions
from midivae.config import params
from midivae.config.params import Params
from midivae.errors import InputError, ParamsError
from midivae.generate import stage as generate
from midivae.storage import tables
from midivae.storage.files import write_bytes
from midivae.storage.paths import catalog_files
from midivae.storage.schema import CATALOG

log = logging.getLogger(__name__)

Order = Sequence[Mapping[str, Any]]  # jobs as in params.yaml; `count`: how many more
PARAMS = "params.yaml"  # beside the samples that it made
_TRIES = 3  # when the champion changes meanwhile


def fill(published: Path, order: Order, workers: int | None = None) -> dict[str, object]:
    """Makes the samples of an order with the champion, and publishes them with those that are there.

    Args:
        published: the folder of versions.
        order: jobs, each at least with `name` and `count`.
        workers: processes; None: one per core.

    Returns:
        version, samples (of the whole catalog), and added (per job).

    Raises:
        ParamsError: a job breaks a rule, or differs from the one of its name in the catalog.
        InputError: nothing is published, or the champion changed again and again meanwhile.
        OSError: no room. What was published stays as it was.
    """
    for _ in range(_TRIES):
        base = versions.read_current(published)
        if base is None:
            raise InputError(f"{published}: nothing is published yet; a champion is needed to draw samples from")
        version = _fill(published, base, order, workers)
        if version is not None:
            added = {str(job["name"]): int(job["count"]) for job in order}
            return {"version": version.name, "samples": version.samples, "added": added}
        log.warning("the champion changed meanwhile; the order is made again with the new one")
    raise InputError(f"{published}: the champion changed {_TRIES} times while the order was made; order again")


def _fill(published: Path, base: versions.Version, order: Order, workers: int | None) -> versions.Version | None:
    """One try; None: another version became current meanwhile."""
    folder = (published / "versions" / base.name).absolute()
    made = params.load(folder / PARAMS)
    wanted = _wanted(made, order, _counts(folder / "samples" / "catalog"), workers)
    data = Path(tempfile.mkdtemp(prefix=".order-", dir=published))
    try:
        for name in ("model", "rolls"):
            (data / name).symlink_to(folder / name)
        generate.run(wanted, data)
        write_bytes(data / PARAMS, yaml.safe_dump(_after(made, wanted).model_dump(mode="json")).encode())
        with versions.locked(published):
            if versions.read_current(published) != base:
                return None
            version = versions.append(published, data / "samples", base, {PARAMS: data / PARAMS})
            return versions.switch(published, version.name)
    finally:
        shutil.rmtree(data, ignore_errors=True)


def _wanted(made: Params, order: Order, there: Mapping[str, int], workers: int | None) -> Params:
    """The parameters that made what is published, with the jobs of the order, as long as they are to become."""
    known = {job.name: job.model_dump(mode="json") for job in made.generate.jobs}
    values = made.model_dump(mode="json")
    values["generate"]["jobs"] = [_job(job, known, there) for job in order]
    values["compute"]["workers"] = workers
    return params.parse(values, "order")


def _job(asked: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]], there: Mapping[str, int]) -> dict[str, Any]:
    """One job of the order, with all that it leaves out."""
    name, more = asked.get("name"), asked.get("count")
    if not isinstance(name, str) or not isinstance(more, int) or more < 1:
        raise ParamsError(f"order: job {dict(asked)}: needs a `name`, and a `count` of at least 1, how many more")
    before = known.get(name, {})
    for key, value in asked.items():
        if key != "count" and before and before.get(key) != value:
            raise ParamsError(
                f"order: job {name!r} has another {key} in the catalog, {before.get(key)!r} and not {value!r}; leave "
                "it out, or take another name"
            )
    return {**before, **asked, "count": there.get(name, 0) + more}


def _after(made: Params, wanted: Params) -> Params:
    """What is published afterwards was made by these: later orders find the jobs of this one."""
    jobs = {job.name: job for job in (*made.generate.jobs, *wanted.generate.jobs)}
    return made.model_copy(update={"generate": made.generate.model_copy(update={"jobs": tuple(jobs.values())})})


def _counts(catalog: Path) -> Counter[str]:
    """Samples of each job in a catalog."""
    counts: Counter[str] = Counter()
    for path in catalog_files(catalog):
        counts.update(tables.read(path, CATALOG, ["job"]).column("job").to_pylist())
    return counts
