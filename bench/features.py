"""How fast are the features of samples measured?

    python bench/features.py [DATA] [--samples 2000] [--peer-samples 50] [--repeats 5]

Windows of DATA/rolls (default: data/rolls), by the default view, in one process on one thread, wall clock: every
feature of the catalog; its measures of harmony and form; the attributes that edits change; the distributions. Beside it
muspy, which has six of the features, on some of the same windows.

Ceiling: two passes over the cells, or-ing the planes. Peer: muspy's metrics.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from hardware import hardware, peer

from midivae.config.train import View
from midivae.measures import features, harmony
from midivae.music import roll as pianoroll
from midivae.music.roll import Layout
from midivae.windows.corpus import load_corpus
from midivae.windows.windows import cut_planes, find_windows

muspy = peer("muspy")


def main() -> None:
    """Measures, and prints a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("data"))
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--peer-samples", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    corpus, view = load_corpus(args.data / "rolls", ["train", "valid", "test"]), View()
    windows = find_windows(corpus, view)
    index = np.resize(np.arange(len(windows)), args.samples)
    planes, layout = cut_planes(corpus, windows, index, view), corpus.layout
    music = [_for_muspy(roll, layout) for roll in planes[: args.peer_samples]]
    steps: dict[str, tuple[int, Callable[[], object]]] = {
        "or of the planes": (len(planes), lambda: planes[:, :, :, 0] | planes[:, :, :, 1]),
        "features": (len(planes), lambda: features.measure(planes, layout, 4)),
        "harmony and form": (len(planes), lambda: harmony.measure(planes, layout, 4)),
        "attributes": (len(planes), lambda: features.attributes(planes, layout)),
        "distributions": (len(planes), lambda: features.vectors(planes, layout)),
        "muspy, six features": (len(music), lambda: [_by_muspy(piece) for piece in music]),
    }
    reported = {}
    print(f"{'':24}{'s for ' + str(args.samples):>14}   least to most")
    for name, (n, step) in steps.items():
        step()  # warm up
        took = sorted(_seconds(step) * args.samples / n for _ in range(args.repeats))
        reported[name] = [round(seconds, 4) for seconds in (median(took), took[0], took[-1])]
        print(f"{name:24}{median(took):14.3f}   {took[0]:.3f} to {took[-1]:.3f}")
    print(json.dumps({"bench": "features", "shape": planes.shape, "seconds": reported, **hardware("muspy")}))


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _for_muspy(roll: np.ndarray, layout: Layout) -> Any:
    _, part, row, onset, offset = pianoroll.cell_runs(roll[None])
    tracks = [
        muspy.Track(
            notes=[
                muspy.Note(int(a), int(r) + layout.pitch_low, int(b - a), 64)
                for n, r, a, b in zip(part, row, onset, offset, strict=True)
                if n == index
            ]
        )
        for index in range(len(layout.parts))
    ]
    return muspy.Music(resolution=layout.steps_per_beat, tracks=tracks)


def _by_muspy(music: Any) -> list[float]:
    return [
        muspy.pitch_range(music),
        muspy.polyphony(music),
        muspy.pitch_class_entropy(music),
        muspy.scale_consistency(music),
        muspy.groove_consistency(music, 16),
        muspy.empty_beat_rate(music),
    ]


if __name__ == "__main__":
    main()
