"""Stage `report`: everything that was made, on one page -> `data/report/index.html`.

The page is one file: no script, no request, nothing to install; a content security policy says so to the browser. What
comes from outside, names of parts and files and licences, is text and never markup. The same data give the same bytes.

A function per section gives the template its values: `overview`, `corpus`, `training`, `comparison`, `gallery`,
`reconstructions` and `lineage`. Charts come from `charts`, pictures of rolls from `pictures`.

Shapes:
    B  windows or samples    T  steps    N  parts    K  planes    P  pitches

Offers: `run`.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
import pandas as pd
import torch
import yaml
from jaxtyping import Bool
from markupsafe import Markup

from midivae import __version__, catalog, charts, decode, loader, midi, models, pianoroll, pictures, schema, store
from midivae.charts import number
from midivae.errors import CorruptError, InputError, MidiError
from midivae.models import WindowModel
from midivae.params import Params
from midivae.pianoroll import FRAME, Layout, Roll

log = logging.getLogger(__name__)

Section = dict[str, Any]
Frame = pd.DataFrame

HELD_OUT = "held-out"  # as `evaluate` calls it
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
_SHOWN = {"notes": "notes", "polyphony": "polyphony"}  # under a picture
_SHOWN_SHARES = {"scale_consistency": "in scale", "novelty": "new bars"}
_LABELS = {"n": "rows compared", "frechet_real_to_real": "frechet, real to real", "frechet_real_to_real_sd": "its sd"}
_STEP, _PITCH = 4, 3  # size of a cell in a picture, in units that scale with the page
_WIDEST, _LONG = 960, 480  # width of a picture, and from where on it gets a line of its own
_ROOM = 12  # between lines, and between the numbers of bars
_SHADES = 6  # colours of what is compared, in the style sheet


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
    samples = catalog.read(data / "samples")
    asked = [job.name for job in params.generate.jobs]
    jobs = sorted(set(samples["job"]), key=lambda job: (asked.index(job) if job in asked else len(asked), job))
    kinds = {job: f"s{index % _SHADES}" for index, job in enumerate(jobs)}
    metrics = store.read_json(data / "evaluation" / "metrics.json")
    shown = {job: gallery(job, samples, params, data / "samples") for job in jobs}
    rebuilt = reconstructions(trained, data / "rolls", params)
    sections = {
        "overview": overview(data, trained[0], samples, jobs[0], metrics),
        "corpus": corpus(data),
        "training": training(trained),
        "comparison": comparison(data / "evaluation", jobs, kinds, metrics),
        "gallery": shown,
        "reconstructions": rebuilt,
        "grids": grids(shown, rebuilt),
        "lineage": lineage(params, data),
        "kinds": kinds,
    }
    page = _render(sections).encode()
    with store.publishing(data / "report") as staging:
        store.write_bytes(staging / "index.html", page)
    return {
        "jobs": len(jobs),
        "pictures": page.count(b"data:image/png"),
        "bytes": len(page),
        "seconds": round(time.monotonic() - start, 3),
    }


def _render(sections: Section) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("midivae"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": _percent, "words": _words}
    return environment.get_template("report.html").render(sections)


def _words(name: str) -> str:
    """A column's name in words."""
    return _LABELS.get(name, name.replace("_", " "))


def _percent(share: float | None) -> str:
    """A share as a whole percentage."""
    return "–" if share is None or pd.isna(share) else f"{100 * share:.0f} %"


def _table(path: Path) -> Frame:
    """A table that a stage wrote as CSV.

    Raises:
        InputError: no such file.
        CorruptError: not CSV.
    """
    try:
        return pd.read_csv(path, keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run stage `{_stage_of(path)}`") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise CorruptError(f"{path}: not readable as CSV ({error}); rerun stage `{_stage_of(path)}`") from error


def _stage_of(path: Path) -> str:
    """The stage that writes a table."""
    return "evaluate" if "evaluation" in path.parts else "train"


def _trained(params: Params, folder: Path) -> list[Trained]:
    """The model and those trained beside it."""
    places = {params.train.model: folder} | {name: folder / "compare" / name for name in params.train.compare}
    return [
        Trained(name, at, models.load(at), store.read_json(at / "metrics.json"), _table(at / "curves.csv"))
        for name, at in places.items()
    ]


# --- overview ---------------------------------------------------------------------------------------------------------
def overview(data: Path, main: Trained, samples: Frame, first_job: str, metrics: Mapping[str, Any]) -> Section:
    """What is to be known first: from what, by what, how many, how good."""
    found = store.read_table(data / "corpus" / "corpus.parquet", schema.CORPUS, ["source"]).column("source")
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
    files = store.read_table(data / "corpus" / "corpus.parquet", schema.CORPUS, columns).to_pandas()
    names = ["accepted", "reason", "split", "copy_of", "cluster", "notes_kept", "duration_s", "key"]
    pieces = store.read_table(data / "rolls" / "pieces.parquet", schema.PIECES, names).to_pandas()
    sources = files.fillna({"licence": "not stated"}).value_counts(columns, sort=False).reset_index(name="files")
    accepted = pieces[pieces["accepted"]]
    return {
        "sources": _records(sources),
        "found": len(pieces),
        "accepted": len(accepted),
        "rejected": _rejected(pieces),
        "copies": int(accepted["copy_of"].notna().sum()),
        "splits": _splits(accepted[accepted["copy_of"].isna()]),
        "keys": _keys(accepted),
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
    return charts.dots(rows, "standard deviations of held-out music", sentence)


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


# --- pictures ---------------------------------------------------------------------------------------------------------
def gallery(job: str, samples: Frame, params: Params, folder: Path) -> Section:
    """Pictures of some samples of a job, drawn by lot."""
    mine = samples[samples["job"] == job].reset_index(drop=True)
    chosen = mine.iloc[_lot(job, len(mine), params.report.rolls_per_job, params.report.seed)]
    layout = catalog.layout(folder, job)
    files = _midi_bytes(folder, job, chosen["sample_id"].tolist())
    cards = [_card(row, files[row["sample_id"]], layout, params) for row in _records(chosen)]
    first = mine.iloc[0]
    return {
        "job": job,
        "model": first["model"],
        "decoded": f"{_decoded(job, first['temperature'], params)}, {first['prior']} prior",
        "count": len(mine),
        "parts": _legend(layout),
        "cards": cards,
    }


def _decoded(job: str, temperature: Any, params: Params) -> str:
    """How a job's cells were set."""
    if not pd.isna(temperature):
        return f"temperature {float(temperature):.3g}"
    thresholds = [asked.threshold for asked in params.generate.jobs if asked.name == job]
    return f"threshold {thresholds[0]:g}" if thresholds else "thresholded"


def _lot(name: str, n: int, wanted: int, seed: int) -> np.ndarray:
    """Which of `n` rows are shown: drawn by a generator seeded by (seed, name), in their order."""
    number_of_name = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    gallery_rng = np.random.default_rng(np.random.SeedSequence([seed, number_of_name]))
    return np.sort(gallery_rng.choice(n, min(n, wanted), replace=False))


def _midi_bytes(folder: Path, job: str, sample_ids: Sequence[str]) -> dict[str, bytes]:
    """The MIDI files of some samples of a job."""
    quoted = ", ".join(repr(name) for name in sample_ids)
    found = catalog.query(folder, f"job == {job!r} and sample_id in [{quoted}]", columns=["sample_id", "midi"])
    return {name: file["bytes"] for name, file in zip(found["sample_id"], found["midi"], strict=True)}


def _records(rows: Frame) -> list[Section]:
    """Each row as a dictionary."""
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def _card(row: Mapping[str, Any], file: bytes, layout: Layout, params: Params) -> Section:
    """A sample's picture and what stands under it."""
    roll = _roll(file, layout, int(row["n_steps"]))
    key = "silent" if row["notes"] == 0 else row["key"] if isinstance(row["key"], str) else "no key"
    figures = {name: number(row[column]) for column, name in _SHOWN.items()}
    figures |= {name: _percent(row[column]) for column, name in _SHOWN_SHARES.items()}
    heard = ", ".join(f"{value} {name}" for name, value in figures.items())
    return {
        "title": row["sample_id"],
        "key": key,
        "tempo": number(row["tempo_qpm"]),
        "figures": figures,
        "picture": _picture(roll, params.evaluate.beats_per_bar, f"Piano roll of {row['sample_id']}: {key}, {heard}"),
        "href": f"../samples/midi/{quote(row['job'])}/{quote(row['sample_id'])}.mid",
    }


def _roll(file: bytes, layout: Layout, n_steps: int) -> Roll:
    """The roll in a MIDI file that we wrote: what others hear in it, not what we meant."""
    try:
        notes = midi.read(file)
    except MidiError as error:
        if error.code != "no_notes":
            raise
        return Roll(np.zeros((n_steps, len(layout.parts), 2, layout.pitches), bool), layout)
    part = np.array([layout.parts.index(name) for name in notes.track_names])
    return pianoroll.from_notes(notes, part[notes.track], layout, n_steps)


def _picture(roll: Roll, beats_per_bar: int, says: str) -> Section:
    """A picture for the template: its data, a sentence, and the grid to put behind it."""
    grid = (len(roll.planes), roll.layout.pitch_low, roll.layout.pitches, roll.layout.steps_per_beat, beats_per_bar)
    return {"data": base64.b64encode(pictures.draw(roll)).decode(), "says": says, "grid": grid}


def grids(shown: Mapping[str, Section], rebuilt: Section) -> dict[tuple[int, ...], Section]:
    """What lies behind the pictures, once for all that share it: black keys, bar lines and their labels."""
    every = [card["picture"] for job in shown.values() for card in job["cards"]]
    every += [cell["picture"] for row in rebuilt["rows"] for cell in row]
    distinct = dict.fromkeys(picture["grid"] for picture in every)
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
    """Parts and their colours."""
    return list(zip(layout.parts, pictures.part_colours(len(layout.parts)), strict=True))


# --- reconstructions --------------------------------------------------------------------------------------------------
def reconstructions(trained: Sequence[Trained], rolls: Path, params: Params) -> Section:
    """Windows of pieces that no model was trained on, and what each model makes of them."""
    held_out = loader.load(rolls, ["test"])
    config = trained[0].model.config
    view = config.view.model_copy(update={"planes": "onset+frame"})
    windows = loader.windows(held_out, view)
    index = _lot("test", len(windows), max(1, params.report.rolls_per_job // 4), params.report.seed)
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
    pieces = store.read_table(rolls / "pieces.parquet", schema.PIECES, ["piece_id", "path", "copy_of"]).to_pylist()
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
    return decode.decode(model, mu.numpy())


def _f1(real: Bool[np.ndarray, "T N 2 P"], made: Bool[np.ndarray, "T N 2 P"]) -> float:
    """F1 of sounding cells; 1 where both are silent."""
    a, b = real[:, :, FRAME], made[:, :, FRAME]
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


# --- lineage ----------------------------------------------------------------------------------------------------------
def lineage(params: Params, data: Path) -> Section:
    """What every figure on the page comes from: hashes of the data, and the parameters."""
    folders = ("corpus", "rolls", "model", "samples", "evaluation")
    sections = {
        "fetch": params.fetch,
        "ingest": params.ingest,
        "train": params.train,
        "generate": params.generate,
        "evaluate": params.evaluate,
        "report": params.report,
    }
    values = {name: section.model_dump(mode="json") for name, section in sections.items()}
    return {
        "version": __version__,
        "folders": {name: store.sha256(data / name / store.MANIFEST) for name in folders},
        "params": yaml.safe_dump(values, sort_keys=False, allow_unicode=True),
    }
