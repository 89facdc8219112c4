"""The commands of the stages, `run` for all of them, and `verify`.

Offers: `STAGES`, the table of stages; `COMMANDS`.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from midivae import errors
from midivae.cli import base
from midivae.storage.code import PACKAGE

if TYPE_CHECKING:
    from midivae.config.params import Params

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One stage: a package, a subcommand, a section of params.yaml and a DVC stage of the same name."""

    name: str
    summary: str  # one sentence
    reads: tuple[str, ...]  # folders below --data
    writes: str  # folder below --data


STAGES = (
    Stage("fetch", "Put a corpus of MIDI files on disk.", (), "corpus"),
    Stage("ingest", "Turn MIDI files into piano rolls and one table of pieces.", ("corpus",), "rolls"),
    Stage("train", "Train the variational autoencoder.", ("corpus", "rolls"), "model"),
    Stage("generate", "Generate the jobs of samples into the catalog.", ("rolls", "model"), "samples"),
    Stage("evaluate", "Compare the samples with held-out music.", ("rolls", "model", "samples"), "evaluation"),
    Stage("report", "Write an offline page.", ("corpus", "rolls", "model", "samples", "evaluation"), "report"),
)


def _run(stage: Stage, params: Params, data: Path) -> None:
    """Runs a stage and prints its summary."""
    name = f"midivae {stage.name}"
    if stage.name != "train" and "TORCHELASTIC_RUN_ID" in os.environ:
        message = "torchrun starts several processes, and only stage `train` shares its work between them"
        base.end(name, errors.ParamsError(f"{message}; call it without torchrun"))
    here = Path("midivae")
    if "DVC_STAGE" in os.environ and here.is_dir() and not here.samefile(PACKAGE):
        message = f"this is the code in {PACKAGE}, and DVC would record that in {here.absolute()}"
        base.end(name, errors.ParamsError(f"{message}; run `python -m midivae {stage.name}` without PYTHONSAFEPATH"))
    module = importlib.import_module(f"midivae.{stage.name}.stage")
    try:
        with base.stdout_to_stderr():
            summary = module.run(params, data)
    except errors.MidivaeError as error:  # named after the stage, also in `midivae run`
        base.end(name, error)
    if summary is not None:  # of several processes only one prints
        base.print_json({"stage": stage.name, **summary})


def _fetch(stage: Stage, params: Params, data: Path, source: str | None, accept_licence: bool) -> None:
    """Runs `fetch`, from another source if one is named."""
    from midivae.fetch import corpora

    _run(stage, corpora.chosen(params, source, accept_licence), data)


def _ingest(stage: Stage, params: Params, data: Path, explain: Path | None) -> None:
    """Runs `ingest`, or prints what it does with one file."""
    if explain is None:
        _run(stage, params, data)
        return
    from midivae.ingest import facts

    base.print_line(facts.explain(explain, params.ingest))


def _list_corpora(ctx: click.Context, option: click.Parameter, is_set: bool) -> None:
    """Prints the corpora of the registry, and ends."""
    if is_set and not ctx.resilient_parsing:
        from midivae.fetch import corpora

        for line in corpora.listing():
            base.print_line(line)
        ctx.exit()


_FETCH_OPTIONS = base.options(
    click.option(
        "--source",
        metavar="SOURCE",
        help="Instead of fetch.source: a corpus by name, a URL, a folder, an archive, or a MIDI file.",
    ),
    click.option("--accept-licence", is_flag=True, help="Accept the licence of a corpus that asks for it."),
    click.option(
        "--list",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_list_corpora,
        help="List the corpora that have names, and exit.",
    ),
)
_EXPLAIN = click.option(
    "--explain", type=base.PATH, metavar="FILE", help="Print what becomes of one MIDI file; write nothing."
)
# what differs between the commands of the stages: the function, its own options, more examples
_OWN: dict[str, tuple[Callable[..., None], Callable[..., Any], list[str]]] = {
    "fetch": (_fetch, _FETCH_OPTIONS, ["midivae fetch --list", "midivae fetch --source lakh-clean"]),
    "ingest": (_ingest, _EXPLAIN, ["midivae ingest --explain song.mid"]),
}


def _command(stage: Stage) -> base.Command:
    """The command of a stage."""
    function, own_options, own_examples = _OWN.get(stage.name, (_run, base.options(), []))

    @own_options
    @base.stage_options
    def call(params_file: Path, data: Path, **own: Any) -> None:
        from midivae.config import params

        function(stage, params.load(params_file), data, **own)

    reads = ", ".join(f"data/{folder}" for folder in stage.reads) or "the source that params name"
    return click.command(
        stage.name,
        cls=base.Command,
        short_help=stage.summary,
        help=f"{stage.summary}\n\n\b\nReads:   {reads}\nWrites:  data/{stage.writes}\nParams:  {stage.name}",
        epilog=base.epilog(
            f"midivae {stage.name}",
            f"midivae {stage.name} --params presets/article-100x88.yaml --data data-100x88",
            *own_examples,
        ),
    )(call)


@base.command("midivae run", "midivae run --params presets/article-100x88.yaml --data data-100x88")
@base.stage_options
def run(params_file: Path, data: Path) -> None:
    """Run all six stages in order.

    Every stage runs, also if nothing has changed; `dvc repro` runs only stale stages. One line of JSON per stage.
    """
    from midivae.config import params

    loaded = params.load(params_file)
    for stage in STAGES:
        log.info("%s", stage.summary)
        _run(stage, loaded, data)


@base.command("midivae verify", "midivae verify data/samples")
@click.argument("folders", nargs=-1, type=base.PATH, metavar="[DIR]...")
@base.data_option
def verify(folders: tuple[Path, ...], data: Path) -> None:
    """Compare folders with the hashes in their manifests.

    DIR is a folder that midivae wrote; without it, the folders of all stages that have run. Prints a line per folder.
    The exit code is 4 if a file is damaged or missing, or if midivae did not write it.
    """
    from midivae.storage import folders as storage
    from midivae.storage.files import read_json

    written = [data / stage.writes for stage in STAGES if (data / stage.writes / storage.MANIFEST).is_file()]
    if not folders and not written:
        raise errors.InputError(f"{data}: no stage has written here; name a folder with DIR or --data")
    wrong: list[str] = []
    for folder in folders or written:
        in_folder = storage.verify(folder)
        base.print_line(f"{folder}: {len(in_folder)} of {len(read_json(folder / storage.MANIFEST))} files wrong")
        wrong += in_folder
    if wrong:
        raise errors.CorruptError("\n".join([f"{len(wrong)} file(s) are not as written; rerun their stage:", *wrong]))


COMMANDS = (*map(_command, STAGES), run, verify)
