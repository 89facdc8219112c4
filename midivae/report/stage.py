"""Stage `report`: everything that was made, on one page -> `data/report/index.html`.

The page is one file: no request, nothing to install. Its content security policy lets one script through and one style
sheet, ours, each by its hash. What comes from outside, names of parts and files and licences, is text and never markup.
The same data give the same bytes.

All that is a table or a chart stands in the page as such, and can be read without a script. The samples are data: one
deflated block of their figures and MIDI files, which the page's script unpacks, draws on demand, filters, sorts and
plays (`templates/report.js`, `midi.js`, `synth.js`, `player.js`).

A function per section gives the template its values: `overview`, `corpus`, `training`, `comparison`, `novelty`,
`promises`, `samples_data`, `reconstructions` and `lineage`. Charts come from `charts`, pictures of rolls from
`pictures`.

Shapes:
    B  windows or samples    T  steps    N  parts    K  planes    P  pitches

Offers: `run`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import struct
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import torch
import yaml
from jaxtyping import Bool
from markupsafe import Markup

from midivae import __version__, models
from midivae.catalog import catalog
from midivae.config.params import Params
from midivae.models import WindowModel, coding
from midivae.music import midi
from midivae.music.roll import FRAME, Layout, Roll
from midivae.render import charts, pictures
from midivae.render.charts import Real, number
from midivae.storage import folders, schema, tables
from midivae.storage.files import file_sha256, read_csv, read_json, write_bytes
from midivae.storage.schema import HELD_OUT
from midivae.windows import loader

log = logging.getLogger(__name__)

Section = dict[str, Any]
Frame = pd.DataFrame

UNITS = {
    "notes": "notes",
    "density": "notes per beat",
    "pitch_low": "lowest pitch, MIDI",
    "pitch_high": "highest pitch, MIDI",
    "pitch_range": "semitones",
    "polyphony": "pitches that sound together",
    "note_length": "beats",
    "pitch_class_entropy": "bits",
    "scale_consistency": "share of notes in the best scale",
    "groove_consistency": "1 is the same rhythm in every bar",
    "empty_bar_rate": "share of bars without a note",
    "used_pitch_classes": "pitch classes in a bar",
    "qualified_note_share": "share of notes longer than a step",
    "empty_beat_rate": "share of beats without a note",
    "pitch_count": "different pitches",
    "pitch_interval": "semitones from note to note",
    "inter_onset_interval": "beats between onsets",
    "register": "mean pitch, MIDI",
    "syncopation": "share of notes off the beat",
}
_TRIVIAL = ("bernoulli", "markov")  # sets of stage `evaluate` that no model made
_DISTANCES = ("overlapping_area", "kld_nats", "wasserstein_sd", "frechet", "frechet_mu")  # in the table of them
_SHOWN = {"notes": "notes", "polyphony": "polyphony", "scale_consistency": "in scale", "novelty": "new bars"}
_SHARES = ("scale_consistency", "empty_bar_rate", "qualified_note_share", "empty_beat_rate", "syncopation", "novelty")
_SCRIPTS = (("report", "midi.js"), ("render", "synth.js"), ("report", "player.js"), ("report", "report.js"))
_LABELS = {"n": "rows compared", "frechet_real_to_real": "frechet, real to real", "frechet_real_to_real_sd": "its sd"}
_STEP, _PITCH = 4, 3  # size of a cell in a picture, in units that scale with the page
_WIDEST, _LONG = 960, 480  # width of a picture, and from where on it gets a line of its own
_ROOM = 12  # between lines, and between the numbers of bars
_SHADES = 6  # colours of what is compared, in the style sheet
_COLOURS = 8  # of parts, likewise
_DRAWN = 4  # jobs that charts show at first; the others can be chosen
_MOST_MIDI = 16 * 2**20  # bytes of MIDI in the page, which shrink to about a third, and grow by a third as text
_MOST_OF_THEM = 0.93  # share of the dots that a chart is made for
_BINS = 24  # of histograms that are made here
_AT_ONCE = 1024  # rows whose distances are taken at a time


@dataclass(frozen=True)
class Trained:
    """A model and the files beside it."""

    name: str
    folder: Path
    model: WindowModel
    metrics: dict[str, Any]
    curves: Frame


def run(params: Params, data: Path) -> dict[str, object]:
    """Writes the page, and publishes `data/report`.

    Returns:
        Counts (jobs, pictures), the page's bytes, and seconds.

    Raises:
        InputError: a stage before this one has not run.
        SchemaError, CorruptError: what it wrote is of another version, or damaged.
    """
    start = time.monotonic()
    trained = _trained(params, data / "model")
    samples = catalog.read(data / "samples", latents=True)
    asked = [job.name for job in params.generate.jobs]
    jobs = sorted(set(samples["job"]), key=lambda job: (asked.index(job) if job in asked else len(asked), job))
    kinds = {job: _kind(index) for index, job in enumerate(jobs)}
    metrics = read_json(data / "evaluation" / "metrics.json")
    rebuilt = reconstructions(trained, data / "rolls", params)
    shown = samples_data(samples, jobs, kinds, params, data)
    sections = {
        "overview": overview(data, trained[0], samples, jobs[0], metrics),
        "corpus": corpus(data),
        "training": training(trained),
        "comparison": comparison(data / "evaluation", jobs, kinds, metrics),
        "novelty": novelty(data / "evaluation", jobs, kinds),
        "promises": promises(data / "evaluation"),
        "samples": {"shown": len(shown["sizes"]), "count": len(samples), "packed": _packed(shown)},
        "reconstructions": rebuilt,
        "grids": grids(rebuilt),
        "lineage": lineage(params, data, samples, jobs),
        "kinds": kinds,
        "chips": {job: _chip(kind) for job, kind in kinds.items()},
    }
    page = _render(sections).encode()
    with folders.publishing(data / "report") as staging:
        write_bytes(staging / "index.html", page)
    return {
        "jobs": len(jobs),
        "samples": len(shown["sizes"]),
        "bytes": len(page),
        "seconds": round(time.monotonic() - start, 3),
    }


def _kind(index: int) -> str:
    """The classes of a job in a chart: colour, line where colours come round again, itself, and whether it shows.

    The first two are those of a chip, which always shows.
    """
    return f"s{index % _SHADES} d{index // _SHADES % 3} j{index}" + ("" if index < _DRAWN else " off")


def _chip(kind: str) -> str:
    """The classes of a job's chip."""
    return " ".join(kind.split()[:2])


def _render(sections: Section) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("midivae.report.stage"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": _percent, "words": _words}
    script = "\n".join(_asset(*name) for name in _SCRIPTS)
    style = _asset("report", "report.css")
    allowed = {"script_hash": _csp_hash(script), "style_hash": _csp_hash(style)}
    given = {"script": Markup(script), "style": Markup(style), **allowed}  # noqa: S704 - our own files
    return environment.get_template("report.html").render(sections | given)


def _asset(package: str, name: str) -> str:
    """A file among the templates of a package of ours."""
    return resources.files("midivae").joinpath(package, "templates", name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    """How a content security policy names the one script, or the one style sheet, that it lets through."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _words(name: str) -> str:
    """A column's name in words."""
    return _LABELS.get(name, name.replace("_", " "))


def _percent(share: Real | None) -> str:
    """A share as a whole percentage."""
    return "–" if share is None or pd.isna(share) else f"{100 * share:.0f} %"


def _table(path: Path) -> Frame:
    """A table that a stage wrote as CSV."""
    table: Frame = read_csv(path, _stage_of(path))
    return table


def _stage_of(path: Path) -> str:
    """The stage that writes a table."""
    return "evaluate" if "evaluation" in path.parts else "train"


def _trained(params: Params, folder: Path) -> list[Trained]:
    """The model and those trained beside it."""
    places = {params.train.model: folder} | {name: folder / "compare" / name for name in params.train.compare}
    return [
        Trained(name, at, models.load(at), read_json(at / "metrics.json"), _table(at / "curves.csv"))
        for name, at in places.items()
    ]


# --- overview ---------------------------------------------------------------------------------------------------------
def overview(data: Path, main: Trained, samples: Frame, first_job: str, metrics: Mapping[str, Any]) -> Section:
    """What is to be known first: from what, by what, how many, how good."""
    found = tables.read(data / "corpus" / "corpus.parquet", schema.CORPUS, ["source"]).column("source")
    return {
        "sources": sorted(set(found.to_pylist())),
        "model": main.name,
        "samples": len(samples),
        "silent": int((samples["notes"] == 0).sum()),
        "minutes": float(samples["duration_s"].sum()) / 60,
        "first_job": first_job,
        "times_floor": metrics.get(f"{_prefix(first_job)}_frechet_times_real_to_real"),
        "frame_f1": main.metrics["heldout"].get("frame_f1"),
        "verdict": metrics.get("article_verdict"),
    }


def _prefix(job: str) -> str:
    """How `evaluate` writes a job's name in the names of its metrics."""
    return job.replace("-", "_")


# --- corpus -----------------------------------------------------------------------------------------------------------
def corpus(data: Path) -> Section:
    """Where the music comes from, what became of every file, and how it was divided."""
    columns = ["source", "licence"]
    files = tables.read(data / "corpus" / "corpus.parquet", schema.CORPUS, columns).to_pandas()
    names = ["accepted", "reason", "split", "piece_id", "copy_of", "cluster", "notes_kept", "duration_s", "key"]
    pieces = tables.read(data / "rolls" / "pieces.parquet", schema.PIECES, names).to_pandas()
    sources = files.fillna({"licence": "not stated"}).value_counts(columns, sort=False).reset_index(name="files")
    accepted = pieces[pieces["accepted"]]
    return {
        "sources": _records(sources),
        "found": len(pieces),
        "accepted": len(accepted),
        "rejected": _rejected(pieces),
        "copies": int(accepted["copy_of"].notna().sum()),
        "near": int((accepted["copy_of"].isna() & (accepted["cluster"] != accepted["piece_id"])).sum()),
        "splits": _splits(accepted[accepted["copy_of"].isna()]),
        "keys": _keys(accepted),
        "durations": _durations(accepted["duration_s"].to_numpy(np.float64)),
    }


def _durations(seconds: np.ndarray) -> Section:
    """How long the pieces last."""
    low, middle, high = (float(q) for q in np.quantile(seconds, (0.05, 0.5, 0.95))) if len(seconds) else (0, 0, 0)
    top = max(1.0, high * 1.25)
    shares, edges = np.histogram(np.minimum(seconds, top), _BINS, (0, top))
    outline = charts.Outline("pieces", (shares / max(1, len(seconds))).tolist(), "real")
    says = f"Pieces last {number(round(middle, 1))} s in the middle; nine of ten, {number(low)} to {number(high)} s."
    return {
        "chart": charts.histogram(((edges[1:] + edges[:-1]) / 2).tolist(), [outline], "seconds", says),
        "says": says,
    }


def _rejected(pieces: Frame) -> list[Section]:
    """How many files were rejected for each reason, and what the reason means."""
    counts = pieces.loc[~pieces["accepted"], "reason"].value_counts()
    return [
        {"reason": reason, "files": int(counts[reason]), "means": midi.REASONS.get(reason, "")}
        for reason in sorted(counts.index, key=lambda reason: (-counts[reason], reason))
    ]


def _splits(pieces: Frame) -> list[Section]:
    """Pieces, notes and minutes of each split; copies are in none."""
    rows = []
    for split in ("train", "valid", "test"):
        mine = pieces[pieces["split"] == split]
        minutes = float(mine["duration_s"].sum()) / 60
        rows.append({"split": split, "pieces": len(mine), "notes": int(mine["notes_kept"].sum()), "minutes": minutes})
    return rows


def _keys(pieces: Frame) -> list[tuple[str, float]]:
    """The commonest keys, and the share of pieces in each."""
    counts = pieces["key"].dropna().value_counts(normalize=True)
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:8]
    return [(str(key), float(share)) for key, share in common]


# --- training ---------------------------------------------------------------------------------------------------------
def training(trained: Sequence[Trained]) -> list[Section]:
    """A card per model: what it is, how its loss fell, what it does with pieces that it never saw."""
    return [_model_card(each) for each in trained]


def _model_card(trained: Trained) -> Section:
    config, metrics = trained.model.config, trained.metrics
    shape = config.window_shape
    return {
        "name": trained.name,
        "facts": {
            "parameters": number(metrics["parameters"]),
            "window": f"{shape[0]} steps × {shape[1]} parts × {shape[2]} planes × {shape[3]} pitches",
            "latent": f"{trained.model.latent} dimensions",
            "training windows": number(metrics["windows"]["train"]),
            "epochs": f"{metrics['epochs']}, the best is {metrics['best_epoch']}",
        },
        "chart": _curves(trained),
        "heldout": {_words(name): number(value) for name, value in metrics["heldout"].items()},
    }


def _curves(trained: Trained) -> Markup:
    """Loss of training and of validation, epoch by epoch."""
    curves, best = trained.curves, int(trained.metrics["best_epoch"])
    marked = curves["epoch"].tolist().index(best) if best in set(curves["epoch"]) else None
    lines = [
        charts.Curve(name, curves["epoch"].tolist(), curves[column].tolist(), kind, mark)
        for name, column, kind, mark in (
            ("training", "train_loss", "real", None),
            ("validation", "valid_loss", "s0", marked),
        )
    ]
    ends = [number(float(curves[column].iloc[-1])) for column in ("train_loss", "valid_loss")]
    says = (
        f"Loss of {trained.name} over {len(curves)} epochs: training ends at {ends[0]}, validation at {ends[1]}; the "
        f"best epoch is {best}."
    )
    # the first epoch's training loss, that of an untrained model, would press all else to the floor
    top = curves["valid_loss"].max() if len(curves) > 1 else np.nan
    return charts.curves(lines, "epoch", says, None if np.isnan(top) else float(top) * 1.02)


# --- comparison with held-out music -----------------------------------------------------------------------------------
def comparison(folder: Path, jobs: Sequence[str], kinds: Mapping[str, str], metrics: Mapping[str, Any]) -> Section:
    """How far the samples are from music that the models never saw, and how far that is from itself."""
    table = _table(folder / "distances.csv")
    summary = _table(folder / "features.csv")
    return {
        "verdict": metrics.get("article_verdict"),
        "jobs": [_job_figures(job, kinds[job], metrics) for job in jobs],
        "pieces": metrics.get("held_out_pieces"),
        "windows": metrics.get("held_out_windows"),
        "models": _in_order(_records(_table(folder / "models.csv")), jobs),
        "distances": _distances_chart(table, jobs, kinds),
        "table": _distances_table(table, jobs),
        "distributions": [_distribution(folder, name, jobs, kinds, summary) for name in UNITS],
    }


def _in_order(rows: Sequence[Section], jobs: Sequence[str]) -> list[Section]:
    """Held-out music and the trivial generators, then the jobs in the order of the page."""
    place = {name: index for index, name in enumerate((HELD_OUT, *_TRIVIAL, *jobs))}
    return sorted(rows, key=lambda row: place[row["set"]])


def _job_figures(job: str, kind: str, metrics: Mapping[str, Any]) -> Section:
    """A job's figures in the metrics."""
    prefix = f"{_prefix(job)}_"
    mine = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
    return {"job": job, "kind": kind, **mine}


def _distances_chart(table: Frame, jobs: Sequence[str], kinds: Mapping[str, str]) -> Markup:
    """Per feature, the job's distance to held-out music as a dot, that of music to music as a band."""
    mine = table[table["distance"] == "wasserstein_sd"].set_index(["feature", "job"])
    rows, says = [], []
    for feature in dict.fromkeys(mine.index.get_level_values("feature")):
        found = [(job, mine.loc[(feature, job)]) for job in jobs if (feature, job) in mine.index]
        floor = found[0][1]
        spread = 0.0 if np.isnan(floor["real_sd"]) else 2 * floor["real_sd"]
        band = floor["real_mean"] - spread, floor["real_mean"] + spread
        rows.append(charts.Dots(_words(feature), [(kinds[job], row["mean"]) for job, row in found], *band))
        says.append(f"{_words(feature)}: " + ", ".join(f"{job} {number(row['mean'])}" for job, row in found))
    sentence = "Distance of samples from held-out music, in standard deviations. " + "; ".join(says) + "."
    every = [row.high for row in rows] + [dot for row in rows for _, dot in row.values]  # noqa: PD011 - no pandas
    # a job that is far off would press all others together
    top = 1.2 * float(np.nanquantile(every, _MOST_OF_THEM)) if np.isfinite(every).any() else None
    return charts.dots(rows, "standard deviations of held-out music", sentence, top)


def _distances_table(table: Frame, jobs: Sequence[str]) -> list[Section]:
    """Rows of feature and distance; per job its mean, and once the floor."""
    rows = []
    shown = table[table["distance"].isin(_DISTANCES)]
    for (feature, distance), mine in shown.groupby(["feature", "distance"], sort=False):
        means = {str(row["job"]): (number(row["mean"]), number(row["real_mean"])) for row in _records(mine)}
        rows.append(
            {
                "feature": _words(str(feature)),
                "distance": _words(str(distance)),
                "jobs": [means[job] for job in jobs],
            }
        )
    return rows


def _distribution(folder: Path, feature: str, jobs: Sequence[str], kinds: Mapping[str, str], summary: Frame) -> Section:
    """How a feature is distributed in held-out music and in each job."""
    shares = _table(folder / "distributions" / f"{feature}.csv")
    sets = {HELD_OUT: "real"} | dict(kinds)
    outlines = [charts.Outline(name, shares[name].tolist(), sets[name]) for name in (HELD_OUT, *jobs)]
    medians = summary[summary["feature"] == feature].set_index("set")["median"]
    says = f"{_words(feature)}: medians " + ", ".join(f"{name} {number(medians[name])}" for name in (HELD_OUT, *jobs))
    return {
        "feature": _words(feature),
        "chart": charts.histogram(shares["value"].tolist(), outlines, UNITS[feature], says),
        "medians": [{"set": name, "kind": sets[name], "median": number(medians[name])} for name in (HELD_OUT, *jobs)],
    }


# --- novelty ----------------------------------------------------------------------------------------------------------
_NOVELTY = ("novelty", "novelty_2_bars", "novelty_4_bars", "neighbour_distance", "copied_share")


def novelty(folder: Path, jobs: Sequence[str], kinds: Mapping[str, str]) -> Section:
    """How much is new, and how far the nearest training window is, beside held-out music."""
    rows = _in_order(_records(_table(folder / "models.csv")), jobs)
    table = tables.read(folder / "neighbours.parquet", schema.NEIGHBOURS, ["set", "distance"]).to_pandas()
    outlines, middles = [], []
    for name, kind in ({HELD_OUT: "real"} | dict(kinds)).items():
        distance = table.loc[table["set"] == name, "distance"].dropna().to_numpy(np.float64)
        counts, edges = np.histogram(distance, _BINS, (0, 1))
        middles = ((edges[1:] + edges[:-1]) / 2).tolist()
        outlines.append(charts.Outline(name, (counts / max(1, len(distance))).tolist(), kind))
    means = ", ".join(f"{row['set']} {number(row['neighbour_distance'])}" for row in rows)
    says = f"Distance to the nearest training window; means: {means}."
    return {
        "names": _NOVELTY,
        "rows": [{"set": row["set"], "kind": _chip(kinds.get(row["set"], "real")), **row} for row in rows],
        "chart": charts.histogram(middles, outlines, "distance to the nearest training window", says),
    }


# --- what a mode promises ---------------------------------------------------------------------------------------------
_PROMISES = {
    "paths": "How music changes along a blend, from parent to parent.",
    "parents": "How near samples are to the parent that they come from.",
    "longform": "Whether songs keep a key and resemble themselves, beside held-out pieces of that length.",
    "seams": "What happens at the line where a continuation begins, beside other bar lines.",
    "ensemble": "Whether parts fit together, beside held-out music and parts of pieces that do not belong together.",
}
_MOST_ROWS = 12  # of a table before it is summed up


def promises(folder: Path) -> Section:
    """The tables of the modes of generation; those without rows are left out."""
    tables = []
    for name, about in _PROMISES.items():
        rows = _table(folder / f"{name}.csv")
        if not rows.empty:
            tables.append({"name": name, "about": about, **_shortened(name, rows)})
    return {"control": _control(_table(folder / "control.csv")), "tables": tables}


def _shortened(name: str, rows: Frame) -> Section:
    """A table's columns and rows; of many, radii are gathered, and of paths the medians are taken."""
    note = ""
    if len(rows) > _MOST_ROWS and name == "parents":
        rows, note = _by_radius(rows), "Radii are gathered in steps of a quarter: means over the rows."
    elif len(rows) > _MOST_ROWS and name == "paths":
        rows, note = _of_all_paths(rows), "The median path of each job; all are in data/evaluation/paths.csv."
    names = [str(column) for column in rows.columns]
    numbers = {column for column in names if pd.api.types.is_numeric_dtype(rows[column])}
    cells = [[number(row[name]) if name in numbers else str(row[name]) for name in names] for row in _records(rows)]
    return {"columns": [(_words(name), name in numbers) for name in names], "rows": cells, "note": note}


def _by_radius(rows: Frame) -> Frame:
    """Rows of parents.csv, those of nearly the same radius as one."""
    middle = np.floor(rows["radius"] / 0.25) * 0.25 + 0.125
    grouped = rows.assign(radius=middle).groupby(["job", "mode", "radius"], sort=False, dropna=False)
    found = grouped.mean(numeric_only=True).assign(rows=grouped["rows"].sum()).reset_index()
    return found[list(rows.columns)].sort_values(["job", "radius"], kind="stable")


def _of_all_paths(rows: Frame) -> Frame:
    """Rows of paths.csv, one per job."""
    grouped = rows.drop(columns=["path", "parents"]).groupby("job", sort=False)
    found = grouped.median()
    found.insert(0, "paths", grouped.size())
    return found.reset_index()


def _control(rows: Frame) -> list[Section]:
    """Per job a matrix: asked down, measured across; how much each moved, as a share of what the asked one moved."""
    matrices = []
    for job, mine in rows.groupby("job", sort=False) if not rows.empty else ():
        asked = list(dict.fromkeys(mine["asked"]))
        found = {(row["asked"], row["measured"]): row for row in _records(mine)}
        matrices.append(
            {
                "job": job,
                "measured": [_words(name) for name in asked],
                "rows": [
                    {
                        "asked": _words(name),
                        "rows": found[name, name]["rows"],
                        "spearman": number(found[name, name]["spearman"]),
                        "slope": number(found[name, name]["slope"]),
                        "cells": [_control_cell(found.get((name, other)), name == other) for other in asked],
                    }
                    for name in asked
                ],
            }
        )
    return matrices


def _control_cell(row: Mapping[str, Any] | None, own: bool) -> Section:
    """A cell of the matrix: the drift, and how dark it is shown."""
    value = None if row is None or pd.isna(row["drift"]) else float(row["drift"])
    shade = 0 if value is None else int(np.digitize(value, (0.1, 0.2, 1 / 3, 0.66)))
    return {"value": number(value), "kind": f"h{shade}" + (" own" if own else "")}


# --- samples ----------------------------------------------------------------------------------------------------------
def samples_data(
    samples: Frame, jobs: Sequence[str], kinds: Mapping[str, str], params: Params, data: Path
) -> dict[str, Any]:
    """What the page's script knows of the samples: jobs, a column per figure, and the MIDI files end to end.

    Of a catalog that is too large for a page, the first samples of each job.
    """
    rows = samples.assign(place=samples["job"].map(list(jobs).index)).sort_values(["place", "index"], kind="stable")
    rows = _first_of_each(rows, params.report.samples)
    files = _files(rows, data / "samples")
    while sum(map(len, files)) > _MOST_MIDI and len(rows) > len(jobs):
        share = _MOST_MIDI / sum(map(len, files))
        rows = _first_of_each(rows, max(len(jobs), int(len(rows) * share * 0.95)))
        files = _files(rows, data / "samples")
    rows = rows.reset_index(drop=True)
    labels = _Labels(_file_names(data / "rolls"))
    columns = _columns(rows, jobs, labels, _nearest(data, params, labels))
    return {
        "jobs": [_job(job, samples, rows, _chip(kinds[job]), params, data / "samples") for job in jobs],
        "columns": columns,
        "sizes": [len(file) for file in files],
        "midi": files,
        "keys": sorted(set(rows["key"].dropna())),
        "labels": list(labels.parents),
        "pieces": list(labels.pieces),
        "words": {name: _words(name) for name in (*schema.FEATURES, "novelty")} | _SHOWN,
        "shown": list(_SHOWN),
        "shares": [name for name in (*schema.FEATURES, "novelty") if name in _SHARES],
        "measures": list(schema.FEATURES),
        "colours": pictures.part_colours(_COLOURS),
        "beats_per_bar": params.evaluate.beats_per_bar,
        "per_job": params.report.rolls_per_job,
    }


def _first_of_each(rows: Frame, most: int) -> Frame:
    """At most `most` rows: small jobs whole, of the others the same number of first samples."""
    counts = sorted(rows["job"].value_counts().tolist())
    limit, left = max(counts, default=0), most
    for index, count in enumerate(counts):
        share = left // (len(counts) - index)
        if count > share:
            limit = max(1, share)
            break
        left -= count
    return rows[rows.groupby("job", sort=False).cumcount() < limit]


def _files(rows: Frame, folder: Path) -> list[bytes]:
    """The MIDI files of some samples, in their order."""
    found = catalog.midi_bytes(folder, rows["sample_id"].tolist())
    return [found[name] for name in rows["sample_id"]]


def _job(job: str, samples: Frame, rows: Frame, kind: str, params: Params, folder: Path) -> Section:
    """What all samples of a job have in common."""
    mine = samples[samples["job"] == job]
    first = mine.iloc[0]
    layout = catalog.layout(folder, job)
    method = f", {first['method']}" if isinstance(first["method"], str) else ""
    asked = [each for each in params.generate.jobs if each.name == job]
    return {
        "name": job,
        "kind": kind,
        "count": len(mine),
        "shown": int((rows["job"] == job).sum()),
        "about": f"mode {first['mode']}{method} · model {first['model']} · "
        f"{_decoded(job, first['temperature'], params)}, {first['prior']} prior",
        "parts": list(layout.parts),
        "pitch_low": layout.pitch_low,
        "pitches": layout.pitches,
        "steps_per_beat": layout.steps_per_beat,
        "midi_files": (folder / "midi" / job).is_dir() if not asked else asked[0].midi_files,
    }


def _decoded(job: str, temperature: Any, params: Params) -> str:
    """How a job's cells were set."""
    if not pd.isna(temperature):
        return f"temperature {float(temperature):.3g}"
    thresholds = [asked.threshold for asked in params.generate.jobs if asked.name == job]
    return f"threshold {thresholds[0]:g}" if thresholds else "thresholded"


class _Labels:
    """Names of pieces and parents, each once; a sample refers to them by number."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names
        self.pieces: dict[str, int] = {}
        self.parents: dict[str, int] = {}

    def piece(self, piece_id: str) -> int:
        """The number of a piece's path in the corpus."""
        return self.pieces.setdefault(self.names.get(piece_id, piece_id), len(self.pieces))

    def parent(self, text: str) -> int:
        """The number of a parent's name: its path in the corpus instead of an id, a bar in words."""
        kind, _, name = text.partition(":")
        place, _, bar = name.rpartition("@") if kind in ("piece", "file") and "@" in name else (name, "", "")
        shown = self.names.get(place, place) if kind == "piece" else place
        return self.parents.setdefault(f"{shown}, bar {bar}" if bar else shown, len(self.parents))


def _columns(
    rows: Frame, jobs: Sequence[str], labels: _Labels, nearest: Mapping[str, list[Any]]
) -> dict[str, list[Any]]:
    """A column per figure, numbers in four digits: more of them no reader needs and no page holds."""
    keys = sorted(set(rows["key"].dropna()))
    plain = ("tempo_qpm", "duration_s", "radius", "novelty", *schema.FEATURES)
    return {
        "job": [list(jobs).index(job) for job in rows["job"]],
        "index": rows["index"].tolist(),
        "n_steps": rows["n_steps"].tolist(),
        "lead": rows["lead_steps"].tolist(),
        "key": [keys.index(key) if isinstance(key, str) else -1 for key in rows["key"]],
        **{name: [_rounded(value) for value in rows[name].tolist()] for name in plain},
        "parents": [[labels.parent(text) for text in parents] for parents in rows["parents"]],
        "weights": [[_rounded(weight) for weight in weights] for weights in rows["weights"]],
        "edits": [_edits(text) for text in rows["edits"]],
        "nearest": [nearest.get(name) for name in rows["sample_id"]],
        "alike": _alike(rows),
    }


def _rounded(value: Any) -> Real | None:
    """A number in four significant digits; None where there is none."""
    if value is None or pd.isna(value):
        return None
    short = float(f"{value:.4g}")
    return int(short) if short.is_integer() else short


def _edits(text: Any) -> list[list[Any]] | None:
    """What was asked of each attribute, and what came."""
    if not isinstance(text, str):
        return None
    edits = json.loads(text)
    return [[name, _rounded(asked), _rounded(edits["measured"].get(name))] for name, asked in edits["asked"].items()]


def _nearest(data: Path, params: Params, labels: _Labels) -> dict[str, list[Any]]:
    """By sample, the training window that is nearest to any of its own: piece, beat, semitones, distance."""
    table = tables.read(data / "evaluation" / "neighbours.parquet", schema.NEIGHBOURS).to_pandas()
    table = table.dropna(subset=["distance"]).sort_values(["distance", "start_step"], kind="stable")
    steps_per_beat = params.ingest.steps_per_beat
    return {
        str(row["id"]): [
            labels.piece(str(row["piece_id"])),
            1 + int(row["piece_start_step"]) // steps_per_beat,
            int(row["semitones"]),
            _rounded(row["distance"]),
        ]
        for row in _records(table[table["set"] != HELD_OUT].drop_duplicates("id"))
    }


def _alike(rows: Frame) -> list[int | None]:
    """By sample, the other one that is nearest to it in the latent space of its model; None: there is no other."""
    found: list[int | None] = [None] * len(rows)
    sizes = rows["z"].map(len)
    for place in rows.groupby([rows["model_sha256"], sizes], sort=False).indices.values():
        z = np.stack([np.asarray(rows["z"].iloc[i], np.float64) for i in place])
        if len(place) < 2 or not z.shape[1]:
            continue
        square = (z**2).sum(axis=1)
        for first in range(0, len(z), _AT_ONCE):
            block = slice(first, first + _AT_ONCE)
            distance = square[block, None] + square - 2 * z[block] @ z.T
            distance[np.arange(len(distance)), np.arange(first, first + len(distance))] = np.inf
            # rounded, so that the number of threads, which changes last digits, breaks no tie
            for i, other in enumerate(distance.round(6).argmin(axis=1).tolist()):
                found[int(place[first + i])] = int(place[other])
    return found


def _packed(data: Mapping[str, Any]) -> str:
    """The samples as text for the page: length of the JSON, JSON, MIDI files; deflated, then base64.

    Nothing in it can end its element, whatever names are in it.
    """
    text = json.dumps({name: value for name, value in data.items() if name != "midi"}, separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(struct.pack("<I", len(text)) + text + b"".join(data["midi"]), 9)).decode()


# --- pictures ---------------------------------------------------------------------------------------------------------
def _lot(name: str, n: int, wanted: int, seed: int) -> np.ndarray:
    """Which of `n` rows are shown: drawn by a generator seeded by (seed, name), in their order."""
    number_of_name = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    gallery_rng = np.random.default_rng(np.random.SeedSequence([seed, number_of_name]))
    return np.sort(gallery_rng.choice(n, min(n, wanted), replace=False))


def _records(rows: Frame) -> list[Section]:
    """Each row as a dictionary."""
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def _picture(roll: Roll, beats_per_bar: int, says: str) -> Section:
    """A picture for the template: its data, a sentence, and the grid to put behind it."""
    grid = (len(roll.planes), roll.layout.pitch_low, roll.layout.pitches, roll.layout.steps_per_beat, beats_per_bar)
    return {"data": base64.b64encode(pictures.draw(roll)).decode(), "says": says, "grid": grid}


def grids(rebuilt: Section) -> dict[tuple[int, ...], Section]:
    """What lies behind the pictures, once for all that share it: black keys, bar lines and their labels."""
    distinct = dict.fromkeys(cell["picture"]["grid"] for row in rebuilt["rows"] for cell in row)
    return {grid: {"id": f"grid{index}", **_grid(*grid)} for index, grid in enumerate(distinct)}


def _grid(n_steps: int, pitch_low: int, pitches: int, steps_per_beat: int, beats_per_bar: int) -> Section:
    """Size and lines of a grid, in units of the page; a long roll gets narrow steps."""
    across = max(1, min(_STEP, _WIDEST // n_steps))
    top = pitch_low + pitches
    rows = {pitch: (top - pitch - 1) * _PITCH for pitch in range(pitch_low, top)}
    bar, beat = steps_per_beat * beats_per_bar * across, steps_per_beat * across
    width = n_steps * across
    return {
        "width": width,
        "long": width > _LONG,
        "height": pitches * _PITCH,
        "row": _PITCH,
        "black_keys": [y for pitch, y in rows.items() if pitch % 12 in pictures.BLACK_KEYS],
        "pitches": [(pictures.pitch_name(pitch), y + _PITCH / 2) for pitch, y in rows.items() if pitch % 12 == 0],
        "beats": list(range(0, width, beat)) if beat >= _ROOM else [],
        "bars": list(range(0, width, bar)),
        "numbers": [(1 + i, i * bar) for i in range(0, -(-width // bar), -(-_ROOM // bar))],
    }


def _legend(layout: Layout) -> list[tuple[str, str]]:
    """Parts and the classes of their colours."""
    return [(name, f"p{index % _COLOURS}") for index, name in enumerate(layout.parts)]


# --- reconstructions --------------------------------------------------------------------------------------------------
def reconstructions(trained: Sequence[Trained], rolls: Path, params: Params) -> Section:
    """Windows of pieces that no model was trained on, and what each model makes of them."""
    held_out = loader.load(rolls, ["test"])
    config = trained[0].model.config
    view = config.view.model_copy(update={"planes": "onset+frame"})
    windows = loader.windows(held_out, view)
    index = _lot("test", len(windows), params.report.rolls_per_job, params.report.seed)
    real = loader.planes(held_out, windows, index, view)
    made = {each.name: _reconstruct(each.model, held_out, index) for each in trained}
    names = _file_names(rolls)
    starts = (windows.start - held_out.starts[windows.piece]) // config.layout.steps_per_beat
    rows = []
    for i, window in enumerate(index.tolist()):
        name = names[held_out.piece_ids[int(windows.piece[window])]]
        row = [_shown(name, f"from beat {starts[window]}", real[i], config.layout, params)]
        for model, planes in made.items():
            row.append(_shown(model, f"F1 {number(_f1(real[i], planes[i]))}", planes[i], config.layout, params))
        rows.append(row)
    return {"rows": rows, "parts": _legend(config.layout), "windows": len(windows)}


def _file_names(rolls: Path) -> dict[str, str]:
    """The path in the corpus of each piece."""
    pieces = tables.read(rolls / "pieces.parquet", schema.PIECES, ["piece_id", "path", "copy_of"]).to_pylist()
    return {row["piece_id"]: row["path"] for row in pieces if row["copy_of"] is None}


def _shown(name: str, note: str, planes: Bool[np.ndarray, "T N 2 P"], layout: Layout, params: Params) -> Section:
    """A window's picture, and what stands over it."""
    picture = _picture(Roll(planes, layout), params.evaluate.beats_per_bar, f"Piano roll of {name}, {note}")
    return {"name": name, "note": note, "picture": picture}


def _reconstruct(model: WindowModel, corpus: loader.Corpus, index: np.ndarray) -> Bool[np.ndarray, "B T N 2 P"]:
    """The windows, encoded to the mean of their latent and decoded again."""
    view = model.config.view
    seen = loader.planes(corpus, loader.windows(corpus, view), index, view)
    with torch.inference_mode():
        mu, _ = model.encode(torch.from_numpy(seen.astype(np.float32)))
    return coding.decode(model, mu.numpy())


def _f1(real: Bool[np.ndarray, "T N 2 P"], made: Bool[np.ndarray, "T N 2 P"]) -> float:
    """F1 of sounding cells; 1 where both are silent."""
    a, b = real[:, :, FRAME], made[:, :, FRAME]
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


# --- lineage ----------------------------------------------------------------------------------------------------------
def lineage(params: Params, data: Path, samples: Frame, jobs: Sequence[str]) -> Section:
    """What every figure on the page comes from: hashes of the data, the code, the models and the parameters."""
    written = ("corpus", "rolls", "model", "samples", "evaluation")
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
        "code": _code_sha256(),
        "folders": {name: file_sha256(data / name / folders.MANIFEST) for name in written},
        "models": dict(sorted({(str(row["model"]), str(row["model_sha256"])) for row in first.values()})),
        "jobs": [{"job": job, **{name: row[name] for name in _LINEAGE}} for job, row in first.items()],
        "params_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "params": text,
    }


_LINEAGE = ("mode", "model", "seed", "params_sha256")


def _code_sha256() -> str:
    """One hash of all code and templates of the package that writes the page."""
    package = Path(str(resources.files("midivae")))
    files = sorted(path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc")
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(package).as_posix()} {file_sha256(path)}\n".encode())
    return digest.hexdigest()
