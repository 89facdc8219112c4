"""How much of a window comes back through the latent, on pieces that no training saw?

    python bench/reconstruction.py data --bars 2 4 16
    python bench/reconstruction.py data-pop909 --params presets/pop909.yaml --bars 16 --fine 40 --batch-size 8

For each length and model: trained on DATA/rolls as `midivae train` does, with `--steps` optimiser steps at most; then
every window of split `test` is encoded, and decoded from the latent's mean alone, each cell at one half, with nothing
before it. Reported: F1 of frames and of onsets, the share of steps that are exactly right, KL in nats a window and
active units; a training that was done before is taken from the work directory.

Ceiling: 1. Peers: MusicVAE's step accuracy, in docs/benchmarks.md; other data, and monophonic.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from hardware import hardware

from midivae.config import params
from midivae.config.params import Params
from midivae.config.train import Train
from midivae.train import devices
from midivae.train.fit import fit, load_splits
from midivae.train.heldout import measure_held_out

STEPS_PER_BAR = 16


def main() -> None:
    """Trains and measures all that was asked for, and prints a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--bars", type=int, nargs="+", default=[4])
    parser.add_argument("--models", nargs="+", default=["transformer", "mlp"], choices=["transformer", "mlp"])
    parser.add_argument("--steps", type=int, default=None, help="of the optimiser; default: as the params say")
    parser.add_argument("--hop", type=int, default=None, help="steps between windows; default: one window a bar")
    parser.add_argument(
        "--fine", type=int, default=None, help="fine dimensions of a beat of the transformer; default: the params'"
    )
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = [
        _measured(args.data, _settings(params.load(args.params), name, bars, args))
        for bars in args.bars
        for name in args.models
    ]
    print(json.dumps({"bench": "reconstruction", "data": args.data.name, "rows": rows, **hardware()}))


def _settings(given: Params, name: str, bars: int, args: argparse.Namespace) -> Train:
    view = given.train.view.model_copy(
        update={"steps": bars * STEPS_PER_BAR, **({"hop": args.hop} if args.hop else {})}
    )
    section = "transformer" if name == "transformer" else "dense"
    network = given.train.network(name)
    if args.steps:
        network = network.model_copy(update={"max_steps": args.steps, "epochs": 1_000_000, "patience": None})
    if args.fine and name == "transformer":
        network = network.model_copy(update={"fine": args.fine})
    if args.batch_size:
        network = network.model_copy(update={"batch_size": args.batch_size})
    return given.train.model_copy(update={"model": name, "compare": (), "view": view, section: network})


def _measured(data: Path, settings: Train) -> dict[str, object]:
    start = time.monotonic()
    machine = devices.connect(settings.device, settings.precision, settings.compile)
    splits = load_splits(data / "rolls", settings, machine.device)
    trained = fit(settings.model, settings, splits, machine)
    row = {
        "bars": settings.view.steps // STEPS_PER_BAR,
        "model": settings.model,
        **measure_held_out(trained.model, splits.windows["test"], settings.seed),
        "parameters": sum(weight.numel() for weight in trained.model.parameters()),
        "steps": trained.progress.step,
        "seconds": round(time.monotonic() - start),
    }
    print(
        "{bars:3} bars {model:12} frame F1 {frame_f1:.3f}, onset F1 {onset_f1:.3f}, steps {step_accuracy:.3f}, "
        "KL {kl_nats:.1f}, active {active_units} of {latent}, {windows} windows".format(**row),
        flush=True,
    )
    return row


if __name__ == "__main__":
    main()
