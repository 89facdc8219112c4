"""Stage `report`: the whole run on one page -> `data/report/index.html`.

The page is one file. It makes no request and needs nothing installed. Its content security policy allows one script and
one style sheet, both ours, by their hashes. Names of parts, files and licences come from outside: they are written as
text, never as markup. The same data give the same bytes.

Tables and charts are part of the page and work without JavaScript. The samples are data, which the page's script
unpacks, draws, filters, sorts and plays (`gallery`, `templates/report.js`).

A module per section gives the template its values.

Offers: `run`.
"""

from __future__ import annotations

import base64
import hashlib
import time
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from midivae.catalog import read
from midivae.config.params import Params
from midivae.render.charts import number
from midivae.report.comparison import comparison, novelty
from midivae.report.gallery import gallery, pack
from midivae.report.labels import job_classes, percent, words
from midivae.report.lineage import lineage
from midivae.report.modes import modes
from midivae.report.overview import corpus, overview
from midivae.report.reconstructions import reconstructions
from midivae.report.training import read_trained
from midivae.storage import folders
from midivae.storage.files import read_json, write_bytes
from midivae.storage.paths import METRICS, PAGE

_SCRIPTS = ("render/page.js", "render/synth.js", "report/midi.js", "report/player.js", "report/report.js")


def run(params: Params, data: Path) -> dict[str, object]:
    """Writes the page, and publishes `data/report`.

    Returns:
        Numbers of jobs and samples on the page, bytes and seconds.

    Raises:
        InputError: an earlier stage has not run.
        SchemaError, CorruptError: its files are of another version, or damaged.
    """
    start = time.monotonic()
    evaluation = data / "evaluation"
    trained = read_trained(params, data / "model")
    samples = read.samples(data / "samples", latents=True)
    requested = [job.name for job in params.generate.jobs]
    jobs = sorted(
        set(samples["job"]), key=lambda job: (requested.index(job) if job in requested else len(requested), job)
    )
    classes = {job: job_classes(index) for index, job in enumerate(jobs)}
    metrics = read_json(evaluation / METRICS)
    shown = gallery(samples, classes, params, data)
    page = _render(
        overview=overview(samples, jobs[0], metrics),
        corpus=corpus(data),
        trained=trained,
        comparison=comparison(evaluation, classes, metrics),
        novelty=novelty(evaluation, classes),
        modes=modes(evaluation),
        samples={"shown": len(shown["sizes"]), "count": len(samples), "packed": pack(shown)},
        reconstructions=reconstructions(trained, data / "rolls", params),
        lineage=lineage(params, data, samples, jobs),
        classes=classes,
    )
    with folders.publishing(data / "report") as staging:
        write_bytes(staging / PAGE, page)
    return {
        "jobs": len(jobs),
        "samples": len(shown["sizes"]),
        "bytes": len(page),
        "seconds": round(time.monotonic() - start, 3),
    }


def _render(**sections: Any) -> bytes:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("midivae.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "words": words}
    script = "\n".join(map(_asset, _SCRIPTS))
    style = _asset("report/report.css")
    page = environment.get_template("report.html").render(
        script=Markup(script),  # noqa: S704 - our own file
        style=Markup(style),  # noqa: S704 - our own file
        script_hash=csp_hash(script),
        style_hash=csp_hash(style),
        **sections,
    )
    return page.encode()


def _asset(path: str) -> str:
    """A file in the templates of one of our packages."""
    package, name = path.split("/")
    return resources.files("midivae").joinpath(package, "templates", name).read_text(encoding="utf-8")


def csp_hash(text: str) -> str:
    """The hash by which a content security policy allows a script or a style sheet."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
