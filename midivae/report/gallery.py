"""Section "Samples": the data that the page's script gets of the samples.

The data are one block: a JSON text with one column per figure, then the samples' MIDI files, one after the other.
Numbers have four significant digits. A catalog that is too large for a page is cut to the first samples of each job.

Offers: `gallery`, `pack`.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from midivae.catalog import read
from midivae.config.params import Params
from midivae.render import pictures
from midivae.report.labels import rounded, words
from midivae.report.reconstructions import piece_paths
from midivae.storage import schema, tables
from midivae.storage.schema import HELD_OUT

_ON_CARD = {"notes": "notes", "polyphony": "polyphony", "scale_consistency": "in scale", "novelty": "new bars"}
_MEASURES = (*schema.FEATURES, *schema.HARMONY)
_SHARES = ("scale_consistency", "empty_bar_rate", "empty_beat_rate", "syncopation", "novelty")  # and all `..._share`
_MOST_MIDI = 16 * 2**20  # bytes of MIDI in the page: deflate makes them a third, base64 adds a third of that
_BLOCK = 1024  # rows whose distances are computed at once


def gallery(samples: pd.DataFrame, classes: Mapping[str, str], params: Params, data: Path) -> dict[str, Any]:
    """The data of the samples; `classes` are the CSS classes of each job, in the order of the page."""
    jobs = list(classes)
    rows = samples.assign(place=samples["job"].map(jobs.index)).sort_values(["place", "index"], kind="stable")
    rows = _first_of_each(rows, params.report.samples)
    files = _files(rows, data / "samples")
    while sum(map(len, files)) > _MOST_MIDI and len(rows) > len(jobs):
        share = _MOST_MIDI / sum(map(len, files))
        rows = _first_of_each(rows, max(len(jobs), int(len(rows) * share * 0.95)))
        files = _files(rows, data / "samples")
    rows = rows.reset_index(drop=True)
    paths = piece_paths(data / "rolls")
    plain = ("tempo_qpm", "duration_s", "radius", "novelty", *_MEASURES)
    nearest = _nearest(data, params.ingest.steps_per_beat, paths)
    columns = {
        "job": [jobs.index(job) for job in rows["job"]],
        "index": rows["index"].tolist(),
        "n_steps": rows["n_steps"].tolist(),
        "lead": rows["lead_steps"].tolist(),
        "key": [key if isinstance(key, str) else None for key in rows["key"]],
        **{name: [rounded(value) for value in rows[name].tolist()] for name in plain},
        "parents": [[_parent_name(text, paths) for text in parents] for parents in rows["parents"]],
        "weights": [[rounded(weight) for weight in weights] for weights in rows["weights"]],
        "edits": [_edits(text) for text in rows["edits"]],
        "nearest": [nearest.get(name) for name in rows["sample_id"]],
        "alike": _alike(rows),
    }
    return {
        "jobs": [_job(job, samples, rows, classes[job], params, data / "samples") for job in jobs],
        "columns": columns,
        "sizes": [len(file) for file in files],
        "midi": files,
        "words": {name: words(name) for name in (*_MEASURES, "novelty")} | _ON_CARD,
        "shown": list(_ON_CARD),
        "shares": [name for name in (*_MEASURES, "novelty") if name in _SHARES or name.endswith("_share")],
        "measures": list(_MEASURES),
        "colours": list(pictures.COLOURS),
        "beats_per_bar": params.evaluate.beats_per_bar,
        "per_job": params.report.rolls_per_job,
    }


def pack(data: Mapping[str, Any]) -> str:
    """The data as text for the page: length of the JSON, JSON, MIDI files; deflated, then base64.

    Base64 has no `<`: no name in the data can end the element that holds it.
    """
    text = json.dumps({name: value for name, value in data.items() if name != "midi"}, separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(struct.pack("<I", len(text)) + text + b"".join(data["midi"]), 9)).decode()


def _first_of_each(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most `most` rows: all of small jobs, and the same number of first samples of each larger job."""
    counts = rows["job"].value_counts().to_numpy()
    limits = np.arange(1, counts.max(initial=0) + 1)
    limit = max(1, int((np.minimum(counts[:, None], limits).sum(axis=0) <= most).sum()))
    return rows[rows.groupby("job", sort=False).cumcount() < limit]


def _files(rows: pd.DataFrame, folder: Path) -> list[bytes]:
    """The MIDI files of the samples, in their order."""
    files = read.midi_bytes(folder, rows["sample_id"].tolist())
    return [files[name] for name in rows["sample_id"]]


def _job(
    job: str, samples: pd.DataFrame, rows: pd.DataFrame, kind: str, params: Params, folder: Path
) -> dict[str, Any]:
    """What all samples of a job have in common."""
    in_job = samples[samples["job"] == job]
    first = in_job.iloc[0]
    layout = read.layout(folder, job)
    method = f", {first['method']}" if isinstance(first["method"], str) else ""
    requests = [request for request in params.generate.jobs if request.name == job]
    if not pd.isna(first["temperature"]):
        decoding = f"temperature {float(first['temperature']):.3g}"
    else:
        decoding = f"threshold {requests[0].threshold:g}" if requests else "with a threshold"
    return {
        "name": job,
        "kind": " ".join(kind.split()[:2]),  # colour and line style
        "count": len(in_job),
        "shown": int((rows["job"] == job).sum()),
        "about": f"mode {first['mode']}{method} · model {first['model']} · {decoding}, {first['prior']} prior",
        "parts": list(layout.parts),
        "pitch_low": layout.pitch_low,
        "pitches": layout.pitches,
        "steps_per_beat": layout.steps_per_beat,
        "midi_files": requests[0].midi_files if requests else (folder / "midi" / job).is_dir(),
    }


def _parent_name(text: str, paths: Mapping[str, str]) -> str:
    """A parent for people: the path of a piece instead of its id, and the bar in words."""
    kind, _, name = text.partition(":")
    place, _, bar = name.rpartition("@") if kind in ("piece", "file") and "@" in name else (name, "", "")
    path = paths.get(place, place) if kind == "piece" else place
    return f"{path}, bar {bar}" if bar else path


def _edits(text: Any) -> list[list[Any]] | None:
    """Per edited attribute: its name, the requested and the measured change."""
    if not isinstance(text, str):
        return None
    edits = json.loads(text)
    return [[name, rounded(asked), rounded(edits["measured"].get(name))] for name, asked in edits["asked"].items()]


def _nearest(data: Path, steps_per_beat: int, paths: Mapping[str, str]) -> dict[str, list[Any]]:
    """Per sample, the training window nearest to one of its windows: piece, beat, semitones, distance."""
    table = tables.read(data / "evaluation" / "neighbours.parquet", schema.NEIGHBOURS).to_pandas()
    table = table.dropna(subset=["distance"]).sort_values(["distance", "start_step"], kind="stable")
    return {
        row["id"]: [
            paths[row["piece_id"]],
            1 + int(row["piece_start_step"]) // steps_per_beat,
            int(row["semitones"]),
            rounded(row["distance"]),
        ]
        for row in table[table["set"] != HELD_OUT].drop_duplicates("id").to_dict("records")
    }


def _alike(rows: pd.DataFrame) -> list[int | None]:
    """Per sample, the other sample of the same model with the nearest latent; None if there is no other."""
    result: list[int | None] = [None] * len(rows)
    sizes = rows["z"].map(len)
    for place in rows.groupby([rows["model_sha256"], sizes], sort=False).indices.values():
        z = np.stack([np.asarray(rows["z"].iloc[i], np.float64) for i in place])
        if len(place) < 2 or not z.shape[1]:
            continue
        squares = (z**2).sum(axis=1)
        for first in range(0, len(z), _BLOCK):
            block = slice(first, first + _BLOCK)
            distance = squares[block, None] + squares - 2 * z[block] @ z.T
            np.fill_diagonal(distance[:, first:], np.inf)  # a sample and itself
            # rounded: the number of threads changes the last digits, and must not decide between equal distances
            for i, other in enumerate(distance.round(6).argmin(axis=1).tolist()):
                result[int(place[first + i])] = int(place[other])
    return result
