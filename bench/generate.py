"""How fast are samples made, and where does the time go?

    python bench/generate.py [DATA] [--samples 512] [--repeats 3]

For each model in DATA/model (default: data/model), on one thread in one process, as a worker of `midivae generate`
does it: samples a second decoded, and decoded, measured, written as MIDI and put in Parquet; and the share of each
step. Beside it the same samples written by pretty_midi, the way most people write MIDI from Python.

Ceiling: decoding; what the network costs. Peer: pretty_midi's `write`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
from hardware import hardware

from midivae import models
from midivae.config.jobs import Sample
from midivae.generate.context import Draws
from midivae.measures import features
from midivae.measures.hashes import bar_hashes, novelty
from midivae.measures.keys import key_names
from midivae.models import coding
from midivae.music import roll, smf
from midivae.storage import schema, tables
from midivae.storage.paths import compared_folders

STEPS = ("noise", "decode", "measure", "midi", "table", "parquet")


def main() -> None:
    """Measures every model in turn, and prints a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("data"))
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    folders = [args.data / "model", *compared_folders(args.data / "model")]
    reported = {}
    for folder in folders:
        model = models.load(folder)
        _round(model, coding.BLOCK)  # warm up
        rounds = [_round(model, args.samples) for _ in range(args.repeats)]
        reported[model.name] = _report(model.name, rounds, args.samples)
    print(json.dumps({"bench": "generate", "samples": args.samples, "models": reported, **hardware()}))


def _round(model: models.WindowModel, n: int) -> dict[str, float]:
    """Seconds of each step over n samples, as `generate` does them."""
    job = Sample(name="bench", count=n)
    chance = coding.default_chance(model)
    layout = model.config.layout
    took = dict.fromkeys((*STEPS, "pretty_midi"), 0.0)
    clock = time.perf_counter()

    def lap(step: str) -> None:
        nonlocal clock
        took[step] += time.perf_counter() - clock
        clock = time.perf_counter()

    parts = []
    for first in range(0, n, coding.BLOCK):
        samples = range(first, min(first + coding.BLOCK, n))
        cells = model.config.window_shape if chance.temperature is not None else None
        draws = Draws(0, job.name, samples, model.latent, cells)
        z, uniform = draws.noise(), draws.cells()
        lap("noise")
        if model.prior is not None:
            z = coding.from_noise(model.prior, z)
        planes = coding.decode(model, z, chance, uniform)
        lap("decode")
        features.measure(planes, layout, 4)
        key_names(planes, layout)
        hashes = bar_hashes(planes, layout, 4 * layout.steps_per_beat)
        novelty(hashes, np.zeros(0, np.uint64))
        lap("measure")
        notes = roll.batch_to_notes(planes, layout, 100.0, (0,) * len(layout.parts), ())
        files = [smf.write(piece) for piece in notes]
        lap("midi")
        copies = [piece.to_pretty_midi() for piece in notes]
        clock = time.perf_counter()  # the bridge is ours: not counted
        for copy in copies:
            copy.write(io.BytesIO())
        lap("pretty_midi")
        parts.append(pa.table({"z": list(z), "bytes": files}))
        lap("table")
    with tempfile.TemporaryDirectory() as folder:
        columns = pa.schema([("z", schema.FLOATS), ("bytes", pa.binary())])
        tables.write(Path(folder) / "part.parquet", pa.concat_tables(parts).cast(columns), _table(columns))
    lap("parquet")
    return took


def _table(columns: pa.Schema) -> schema.Table:
    return schema.Table("bench", 1, columns, blobs=("bytes",))


def _report(name: str, rounds: list[dict[str, float]], n: int) -> dict[str, object]:
    decoded = sorted(n / (r["noise"] + r["decode"]) for r in rounds)
    whole = sorted(n / sum(r[step] for step in STEPS) for r in rounds)
    shares = {step: median(r[step] / sum(r[other] for other in STEPS) for r in rounds) for step in STEPS}
    writing = sorted(r["pretty_midi"] / r["midi"] for r in rounds)
    print(
        f"{name}: {median(decoded):.0f} samples/s decoded ({decoded[0]:.0f} to {decoded[-1]:.0f}), "
        f"{median(whole):.0f} with everything ({whole[0]:.0f} to {whole[-1]:.0f}); "
        + ", ".join(f"{step} {share:.0%}" for step, share in shares.items())
        + f"; pretty_midi's write takes {median(writing):.1f} times our MIDI ({writing[0]:.1f} to {writing[-1]:.1f})"
    )
    return {
        "decoded_per_s": round(median(decoded), 1),
        "whole_per_s": round(median(whole), 1),
        "shares": {step: round(share, 4) for step, share in shares.items()},
        "pretty_midi_over_ours": round(median(writing), 2),
    }


if __name__ == "__main__":
    main()
