"""Section "Reconstructions": held-out windows, and the same windows after each model's encoder and decoder.

A picture is a small PNG of the notes. The grid behind it (black keys, bar lines, labels) is SVG, written once: all
models of a run have the same windows.

Shapes:
    B  windows    T  steps    N  parts    K  planes    P  pitches

Offers: `reconstructions`, `piece_paths`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from midivae.config.params import Params
from midivae.config.streams import Stream
from midivae.measures.likeness import Match, matched
from midivae.models import WindowModel, coding
from midivae.music.roll import Roll
from midivae.render import pictures
from midivae.render.charts import number
from midivae.report.training import Trained
from midivae.storage import schema, tables
from midivae.storage.paths import PIECES_TABLE
from midivae.windows.corpus import Corpus, load_corpus
from midivae.windows.windows import cut_planes, find_windows

_STEP, _PITCH = 4, 3  # width of a step and height of a pitch, in units that scale with the page
_WIDEST, _LONG = 960, 480  # largest width of a picture, and the width from which it gets a line of its own
_LEAST_GAP = 12  # between beat lines, and between bar numbers


def reconstructions(trained: Sequence[Trained], rolls: Path, params: Params) -> dict[str, Any]:
    """Held-out windows, drawn at random, and what each model makes of them."""
    held_out = load_corpus(rolls, ["test"])
    config = trained[0].model.config
    view = config.view.model_copy(update={"planes": "onset+frame"})
    windows = find_windows(held_out, view)
    index = _draw_windows(len(windows), params.report.rolls_per_job, params.report.seed)
    original = cut_planes(held_out, windows, index, view)
    rebuilt = {one.name: _reconstruct(one.model, held_out, index) for one in trained}
    paths = piece_paths(rolls)
    starts = (windows.start - held_out.starts[windows.piece]) // config.layout.steps_per_beat
    layout = config.layout
    rows = []
    for i, window in enumerate(index.tolist()):
        path = paths[held_out.piece_ids[int(windows.piece[window])]]
        row = [_picture(path, f"from beat {starts[window]}", Roll(original[i], layout))]
        for model, planes in rebuilt.items():
            match = Match.of(matched(planes[i : i + 1], original[i : i + 1]))
            row.append(_picture(model, f"F1 {number(match.frame_f1)}", Roll(planes[i], layout)))
        rows.append(row)
    grid = _grid(view.steps, layout.pitch_low, layout.pitches, layout.steps_per_beat, params.evaluate.beats_per_bar)
    return {"rows": rows, "parts": layout.parts, "grid": grid}


def piece_paths(rolls: Path) -> dict[str, str]:
    """The path in the corpus of each piece, by its id."""
    pieces = tables.read(rolls / PIECES_TABLE, schema.PIECES, ["piece_id", "path", "copy_of"]).to_pylist()
    return {row["piece_id"]: row["path"] for row in pieces if row["copy_of"] is None}


def _draw_windows(n: int, count: int, seed: int) -> np.ndarray:
    """`count` of the numbers below `n`, or all of them, in ascending order."""
    split = int.from_bytes(hashlib.sha256(b"test").digest()[:8], "little")
    rng = Stream.RECONSTRUCTED.rng(seed, split=split)
    return np.sort(rng.choice(n, min(n, count), replace=False))


def _reconstruct(model: WindowModel, corpus: Corpus, index: np.ndarray) -> Bool[np.ndarray, "B T N 2 P"]:
    """The windows, encoded to the mean of their latent and decoded again."""
    both = model.config.view.model_copy(update={"planes": "onset+frame"})
    planes = cut_planes(corpus, find_windows(corpus, both), index, both)
    return coding.decode(model, coding.encode(model, planes))


# --- pictures ---------------------------------------------------------------------------------------------------------
def _picture(name: str, note: str, roll: Roll) -> dict[str, str]:
    """A picture and its heading."""
    return {"name": name, "note": note, "data": base64.b64encode(pictures.draw(roll)).decode()}


def _grid(n_steps: int, pitch_low: int, pitches: int, steps_per_beat: int, beats_per_bar: int) -> dict[str, Any]:
    """Size and lines of a grid, in units of the page; a long roll gets narrow steps."""
    step = max(1, min(_STEP, _WIDEST // n_steps))
    top = pitch_low + pitches
    rows = {pitch: (top - pitch - 1) * _PITCH for pitch in range(pitch_low, top)}
    bar, beat = steps_per_beat * beats_per_bar * step, steps_per_beat * step
    width = n_steps * step
    return {
        "width": width,
        "long": width > _LONG,
        "height": pitches * _PITCH,
        "row": _PITCH,
        "black_keys": [y for pitch, y in rows.items() if pitch % 12 in pictures.BLACK_KEYS],
        "pitches": [(pictures.pitch_name(pitch), y + _PITCH / 2) for pitch, y in rows.items() if pitch % 12 == 0],
        "beats": list(range(0, width, beat)) if beat >= _LEAST_GAP else [],
        "bars": list(range(0, width, bar)),
        "numbers": [(1 + i, i * bar) for i in range(0, -(-width // bar), -(-_LEAST_GAP // bar))],
    }
