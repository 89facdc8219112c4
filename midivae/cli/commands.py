"""The command line: one subcommand per stage, and a few for people.

Conventions: stdout carries results only, one line of JSON per stage; logs, progress and errors go to stderr. An error
of ours is one message and its exit code (the tree in `errors`), any other exception a traceback and exit code 1.
Rooms are imported inside their commands, so that `--help` answers at once and `midivae fetch` does not load torch.

Offers: `STAGES`, the table of stages; `midivae`, the click group; `main`, the console script.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from midivae import __version__, errors

if TYPE_CHECKING:
    import pandas as pd

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
    Stage(
        "evaluate",
        "Measure the samples and their distance to held-out music.",
        ("rolls", "model", "samples"),
        "evaluation",
    ),
    Stage(
        "report",
        "Write one offline page about the whole run.",
        ("corpus", "rolls", "model", "samples", "evaluation"),
        "report",
    ),
)


# --- errors and exit codes --------------------------------------------------------------------------------------------
INTERRUPTED, TERMINATED, BROKEN_PIPE = 130, 143, 141  # 128 + signal, as shells report them


class Command(click.Command):
    """A command whose errors of ours end as one message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except errors.MidivaeError as error:
            _refuse(ctx.command_path, error)


class Group(click.Group):
    """A group that lists its commands in the order in which they were added: the stages, then the rest."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands."""
        return list(self.commands)


def _refuse(command: str, error: errors.MidivaeError) -> NoReturn:
    """Ends with the error's message and exit code."""
    log.debug("where it comes from:", exc_info=error)
    click.echo(f"{command}: {error}", err=True)
    raise click.exceptions.Exit(error.exit_code)


def exit_codes() -> dict[int, str]:
    """What each exit code means."""
    meanings = {0: "Done.", 1: "An error nobody foresaw; its traceback is on stderr."}
    for kind in errors.MidivaeError.__subclasses__():
        meanings[kind.exit_code] = (kind.__doc__ or "").splitlines()[0]
    return meanings | {INTERRUPTED: "Interrupted from the keyboard."}


def _epilog(*examples: str) -> str:
    """The end of a command's help: examples and exit codes, not rewrapped."""
    codes = [f"  {code:>3}  {meaning}" for code, meaning in exit_codes().items()]
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in examples), "", "\b", "Exit codes:", *codes])


# --- what goes where --------------------------------------------------------------------------------------------------
def _print(line: str) -> None:
    """Prints a result; ends quietly where its reader is gone, as in `midivae catalog | head -1`."""
    try:
        click.echo(line)
    except BrokenPipeError:
        # without this, Python complains again while it shuts down
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise click.exceptions.Exit(BROKEN_PIPE) from None


class BesideProgress(logging.Handler):
    """Log lines on stderr, above a progress bar where one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one record."""
        bars = sys.modules.get("tqdm")  # not imported: no bar
        write = click.echo if bars is None else bars.tqdm.write
        write(self.format(record), file=sys.stderr)


def _log_to_stderr(verbose: bool, quiet: bool) -> None:
    """Sends our own log to stderr; other libraries keep their own rules."""
    handler = BesideProgress()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
    ours = logging.getLogger("midivae")
    ours.handlers = [handler]
    ours.propagate = False  # tqdm's logging_redirect_tqdm puts a handler on the root: every line would come twice
    ours.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


@contextmanager
def _stdout_kept() -> Iterator[None]:
    """Meanwhile whatever is printed to stdout, by libraries and worker processes too, goes to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


# --- options ----------------------------------------------------------------------------------------------------------
F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, shown in this order."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


data_option = click.option(
    "--data", type=PATH, default=Path("data"), show_default=True, metavar="DIR", help="The folder of all stages."
)
log_options = _options(
    click.option("-v", "--verbose", is_flag=True, help="Log details too."),
    click.option("-q", "--quiet", is_flag=True, help="Log warnings and errors only."),
)
params_option = click.option(
    "--params",
    "params_file",
    type=PATH,
    default=Path("params.yaml"),
    show_default=True,
    metavar="FILE",
    help="The parameters, a section per stage.",
)
stage_options = _options(
    params_option,
    data_option,
    log_options,
)


# --- commands ---------------------------------------------------------------------------------------------------------
WIDTH = 100  # columns of a help text, where the terminal has them


@click.group(
    cls=Group,
    context_settings={"max_content_width": WIDTH},
    epilog="The stages, in order: " + ", ".join(s.name for s in STAGES) + ". `midivae STAGE --help` for each.",
)
@click.version_option(__version__, prog_name="midivae", message="%(prog)s %(version)s")
def midivae() -> None:
    """From a corpus of MIDI files to a variational autoencoder to a catalog of samples."""


def _perform(stage: Stage, params: Params, data: Path) -> None:
    """Runs one stage and prints its summary."""
    if stage.name != "train" and "TORCHELASTIC_RUN_ID" in os.environ:
        message = "torchrun starts several processes, and only stage `train` shares its work between them"
        _refuse(f"midivae {stage.name}", errors.ParamsError(f"{message}; call it without torchrun"))
    room = importlib.import_module(f"midivae.{stage.name}.stage")
    try:
        with _stdout_kept():
            summary = room.run(params, data)
    except errors.MidivaeError as error:
        _refuse(f"midivae {stage.name}", error)
    if summary is not None:  # one of several processes speaks for all
        _print(json.dumps({"stage": stage.name, **summary}))


def _fetch(stage: Stage, params: Params, data: Path, source: str | None, accept_licence: bool) -> None:
    """Runs `fetch`, with another source where one is named."""
    from midivae.fetch import corpora

    _perform(stage, corpora.chosen(params, source, accept_licence), data)


def _list_corpora(ctx: click.Context, option: click.Parameter, asked: bool) -> None:
    """Prints the corpora that have names, and ends."""
    if asked and not ctx.resilient_parsing:
        from midivae.fetch import corpora

        for line in corpora.listing():
            _print(line)
        ctx.exit()


def _ingest(stage: Stage, params: Params, data: Path, explain: Path | None) -> None:
    """Runs `ingest`, or says what it makes of one file."""
    if explain is None:
        _perform(stage, params, data)
        return
    from midivae.ingest import stage as ingest

    for line in ingest.explain(explain, params.ingest).splitlines():
        _print(line)


fetch_options = _options(
    click.option(
        "--source",
        metavar="SOURCE",
        help="Instead of fetch.source: a corpus by name, a URL, a folder, an archive, or a MIDI file.",
    ),
    click.option("--accept-licence", is_flag=True, help="Say yes to the licence of a corpus that asks for it."),
    click.option(
        "--list",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_list_corpora,
        help="List the corpora that have names, and exit.",
    ),
)
explain_option = click.option(
    "--explain", type=PATH, metavar="FILE", help="Say what becomes of one MIDI file; write nothing."
)


def _add_stage(
    stage: Stage,
    act: Callable[..., None] = _perform,
    options: Callable[[Callable[..., None]], Callable[..., None]] = _options(),  # noqa: B008
    examples: Sequence[str] = (),
) -> None:
    """Adds the subcommand of one stage: `act` is called with the stage, params, data, and options of its own."""
    reads = ", ".join(f"data/{folder}" for folder in stage.reads) or "the source that params name"

    @midivae.command(stage.name, short_help=stage.summary)
    @options
    @stage_options
    def command(params_file: Path, data: Path, verbose: bool, quiet: bool, **own: Any) -> None:
        from midivae.config import params

        _log_to_stderr(verbose, quiet)
        act(stage, params.load(params_file), data, **own)

    command.help = f"{stage.summary}\n\n\b\nReads:   {reads}\nWrites:  data/{stage.writes}\nParams:  {stage.name}"
    command.epilog = _epilog(
        f"midivae {stage.name}",
        f"midivae {stage.name} --params presets/article-100x88.yaml --data data-100x88",
        *examples,
    )


for _stage in STAGES:
    if _stage.name == "fetch":
        _add_stage(_stage, _fetch, fetch_options, ["midivae fetch --list", "midivae fetch --source lakh-clean"])
    elif _stage.name == "ingest":
        _add_stage(_stage, _ingest, explain_option, ["midivae ingest --explain song.mid"])
    else:
        _add_stage(_stage)


@midivae.command(epilog=_epilog("midivae run", "midivae run --params presets/article-100x88.yaml --data data-100x88"))
@stage_options
def run(params_file: Path, data: Path, verbose: bool, quiet: bool) -> None:
    """Run all six stages in order.

    Every stage runs, whatever has changed: `dvc repro` runs only what is stale. One line of JSON per stage.
    """
    from midivae.config import params

    _log_to_stderr(verbose, quiet)
    loaded = params.load(params_file)
    for stage in STAGES:
        log.info("%s", stage.summary)
        _perform(stage, loaded, data)


@midivae.command(epilog=_epilog("midivae verify", "midivae verify data/samples"))
@click.argument("folders", nargs=-1, type=PATH, metavar="[DIR]...")
@data_option
def verify(folders: tuple[Path, ...], data: Path) -> None:
    """Compare folders that midivae wrote with the hashes in their manifests.

    Without DIR, the folders of all stages that have run. Prints a line per folder; exit code 4 when a file is damaged,
    missing or not of the folder.
    """
    from midivae.storage.files import read_json
    from midivae.storage.folders import MANIFEST
    from midivae.storage.folders import verify as damaged_files

    chosen = folders or tuple(data / s.writes for s in STAGES if (data / s.writes / MANIFEST).is_file())
    if not chosen:
        raise errors.InputError(f"{data}: no stage has written here; name a folder with DIR or --data")
    wrong: list[str] = []
    for folder in chosen:
        here = damaged_files(folder)
        _print(f"{folder}: {len(here)} of {len(read_json(folder / MANIFEST))} files wrong")
        wrong += here
    if wrong:
        raise errors.CorruptError("\n".join([f"{len(wrong)} file(s) are not as written; rerun their stage:", *wrong]))


# --- the catalog of samples -------------------------------------------------------------------------------------------
OVERVIEW = ("sample_id", "model", "key", "notes", "density", "polyphony", "scale_consistency", "novelty", "duration_s")

query_options = _options(
    click.option("--where", metavar="FILTER", help="Only these samples: \"polyphony > 2 and key == 'G major'\"."),
    click.option("--sort", metavar="COLUMN[,...]", help="In the order of these columns; missing values come last."),
    click.option("--descending", is_flag=True, help="Largest first."),
    click.option("--limit", type=click.IntRange(min=0), metavar="N", help="At most so many samples."),
    data_option,
)


def _query(
    data: Path,
    where: str | None,
    sort: str | None,
    descending: bool,
    limit: int | None,
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """The chosen rows of the catalog."""
    from midivae.catalog import catalog

    if descending and sort is None:
        raise errors.ParamsError("--descending goes with --sort COLUMN")
    keys = [key.strip() for key in sort.split(",")] if sort is not None else []
    if descending:
        keys = [key if key.startswith("-") else f"-{key}" for key in keys]
    data = data.resolve()  # `current` may move meanwhile, and a query must stay in one version
    return catalog.query(data, where=where, sort=",".join(keys) or None, limit=limit, columns=columns)


@midivae.command(
    epilog=_epilog(
        "midivae catalog --limit 10",
        "midivae catalog --where \"polyphony > 2 and key == 'G major'\" --sort novelty --json",
        "midivae catalog --columns sample_id,tempo_qpm,novelty --sort novelty --descending",
    )
)
@query_options
@click.option("--columns", metavar="COLUMN[,...]", help="These columns, in this order; docs/data.md lists them.")
@click.option("--json", "as_json", is_flag=True, help="An object of JSON per line, with all columns but z and midi.")
def catalog(
    where: str | None,
    sort: str | None,
    descending: bool,
    limit: int | None,
    data: Path,
    columns: str | None,
    as_json: bool,
) -> None:
    """List samples of the catalog.

    A filter is written as in Python, over the columns of the catalog: comparisons, `and`, `or`, `not`, `in`, `is None`,
    sums and products.
    """
    chosen = [name.strip() for name in columns.split(",")] if columns is not None else None
    if chosen is not None and "midi" in chosen:
        raise errors.ParamsError(
            "column 'midi' holds the bytes of files, which do not print; `midivae export` writes them"
        )
    rows = _query(data, where, sort, descending, limit, chosen or (None if as_json else OVERVIEW))
    for line in _json_lines(rows) if as_json else _table(rows):
        _print(line)
    click.echo(f"{len(rows)} samples", err=True)


def _table(rows: pd.DataFrame) -> list[str]:
    """The rows in columns, numbers in three digits or as whole ones."""
    if rows.empty:
        return []
    return str(rows.to_string(index=False, na_rep="", float_format=_short)).splitlines()


def _short(value: Any) -> str:  # a float, or one of numpy's
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _json_lines(rows: pd.DataFrame) -> Iterator[str]:
    """Each row as an object of JSON, missing values as null."""
    columns = [[_plain(value) for value in rows[name].to_numpy()] for name in rows.columns]
    for values in zip(*columns, strict=True):
        yield json.dumps(dict(zip(rows.columns, values, strict=True)))


def _plain(value: Any) -> Any:
    """A value of the catalog in the types of JSON."""
    import numpy as np

    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):  # a 32-bit 0.9 reads 0.9, not 0.8999999761581421
        return None if np.isnan(value) else float(str(value))
    return value.item() if isinstance(value, np.generic) else value


@midivae.command(
    epilog=_epilog(
        "midivae export --where \"key == 'G major'\" g-major/",
        "midivae export --sort novelty --descending --limit 20 newest/",
    )
)
@query_options
@click.argument("target", type=PATH, metavar="OUT")
def export(where: str | None, sort: str | None, descending: bool, limit: int | None, data: Path, target: Path) -> None:
    """Write samples of the catalog to the folder OUT: a .mid file each, and catalog.csv.

    Without options, all samples. The filter is that of `midivae catalog`.
    """
    from midivae.catalog import catalog

    rows = _query(data, where, sort, descending, limit)
    _print(json.dumps({"written": catalog.export(data, rows, target), "folder": str(target)}))


# --- to hear and to see -----------------------------------------------------------------------------------------------
def _found(words: Sequence[str], data: Path) -> list[tuple[str, bytes]]:
    """Name and MIDI bytes of what people name: files (.mid, .midi, .kar, .rmi), or samples of the catalog."""
    from midivae.catalog import catalog

    files = {word: Path(word) for word in words if Path(word).suffix.lower() in (".mid", ".midi", ".kar", ".rmi")}
    ids = [word for word in words if word not in files]
    of_samples = catalog.midi_bytes(data.resolve(), ids) if ids else {}
    found = []
    for word in dict.fromkeys(words):
        if word in files:
            try:
                found.append((files[word].stem, files[word].read_bytes()))
            except OSError as error:
                raise errors.InputError(f"{word}: cannot be read ({error.strerror}); name a MIDI file") from None
        else:
            found.append((word, of_samples[word]))
    names = [name for name, _ in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise errors.ParamsError(f"two of these would be written as {twice[0]!r}; name them one at a time")
    return found


@midivae.command(
    epilog=_epilog(
        "midivae render sample-0000012 song-0000003",
        "midivae render song.mid --format flac --output .",
        "midivae render --best 3 --job song --job joint",
    )
)
@click.argument("samples", nargs=-1, metavar="[SAMPLE]...")
@click.option("--best", type=click.IntRange(min=1), metavar="K", help="The K best samples of each job instead.")
@click.option("--job", "jobs", multiple=True, metavar="JOB", help="With --best: of this job only; may come again.")
@click.option("--format", "form", type=click.Choice(("ogg", "flac", "wav")), default="ogg", show_default=True)
@click.option(
    "--output", type=PATH, default=Path("audio"), show_default=True, metavar="DIR", help="Where the files go."
)
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes; one per core without it.")
@data_option
@log_options
def render(
    samples: tuple[str, ...],
    best: int | None,
    jobs: tuple[str, ...],
    form: str,
    output: Path,
    workers: int | None,
    data: Path,
    verbose: bool,
    quiet: bool,
) -> None:
    """Render samples to sound files.

    SAMPLE is a sample_id of the catalog, or a MIDI file. All are scaled to the same peak, and none is clipped. A file
    that cannot be rendered is told, and costs no other; the exit code is then 3. Best is what is new and most like
    held-out music: docs/report.md says how that is ranked.
    """
    from midivae.catalog import ranking
    from midivae.config.compute import Compute
    from midivae.render import audio
    from midivae.storage.files import write_bytes

    _log_to_stderr(verbose, quiet)
    if (best is None) == (not samples):
        raise errors.ParamsError("render needs names of samples or --best K, one of the two; see `midivae catalog`")
    if jobs and best is None:
        raise errors.ParamsError("--job goes with --best K")
    wanted = samples if best is None else tuple(ranking.best(data.resolve(), best, jobs))
    files = [audio.Source(name, found, form) for name, found in _found(wanted, data)]
    failed: list[str] = []
    for index, sound in audio.render(files, Compute(workers=workers)):
        if isinstance(sound, errors.MidivaeError):
            failed.append(str(sound))
            continue
        path = output / f"{files[index].name}.{form}"
        write_bytes(path, sound.data)
        told = {"sample": files[index].name, "file": str(path), "seconds": round(sound.seconds, 3)}
        _print(json.dumps(told | {"peak": round(sound.peak, 3), "bytes": len(sound.data)}))
    if failed:
        raise errors.InputError("\n".join([f"{len(failed)} of {len(files)} not rendered:", *sorted(failed)]))


@midivae.command(epilog=_epilog("midivae plot song-0000003", "midivae plot song.mid --output song.svg"))
@click.argument("sample", metavar="SAMPLE")
@click.option("--output", type=PATH, metavar="FILE", help="A .png or .svg; SAMPLE.png without it.")
@data_option
def plot(sample: str, output: Path | None, data: Path) -> None:
    """Draw the piano roll of a sample, or of a MIDI file: a colour per part, bar lines, pitch names, key and tempo.

    SAMPLE is a sample_id of the catalog, or a MIDI file.
    """
    from midivae.render import plot as picture
    from midivae.storage.files import write_bytes

    form = picture.format_of(output) if output is not None else "png"
    [(name, found)] = _found([sample], data)
    target = output or Path(f"{name}.png")
    drawn = picture.draw(found, name, form)
    write_bytes(target, drawn)
    _print(json.dumps({"sample": name, "file": str(target), "bytes": len(drawn)}))


# --- the explorer -----------------------------------------------------------------------------------------------------
PORT = 8733


@midivae.command(epilog=_epilog("midivae explore", "midivae explore --data published/current --keep my-finds"))
@click.option(
    "--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="Of the page; 0: any that is free."
)
@click.option("--keep", type=PATH, metavar="DIR", help="Where samples are kept; without it, `kept` in --data.")
@click.option("--no-browser", is_flag=True, help="Print the page's address, and open nothing.")
@stage_options
def explore(
    port: int, keep: Path | None, no_browser: bool, params_file: Path, data: Path, verbose: bool, quiet: bool
) -> None:
    """Move between pieces on a local page, turn knobs, listen, and keep what is good.

    Prints the page's address, and serves it to this machine alone until it is interrupted. What is kept is job `kept`
    of the catalog.
    """
    import webbrowser

    from midivae.config import params
    from midivae.explorer.server import Server
    from midivae.explorer.session import Session

    _log_to_stderr(verbose, quiet)
    with closing(Session(params.load(params_file), data, keep)) as session, Server(session, port) as server:
        _print(server.url)
        click.echo("press Ctrl-C to stop", err=True)
        if not no_browser:
            webbrowser.open(server.url)
        with suppress(KeyboardInterrupt):
            server.serve()


# --- models that follow each other ------------------------------------------------------------------------------------
rules_option = click.option(
    "--rules",
    type=PATH,
    default=Path("nightly.yaml"),
    show_default=True,
    metavar="FILE",
    help="Its sections gate and drift say when a model is better, and when to warn.",
)
published_option = click.option(
    "--published",
    type=PATH,
    default=Path("published"),
    show_default=True,
    metavar="DIR",
    help="The folder of versions, and `current`.",
)
out_option = click.option("--out", type=PATH, metavar="FILE", help="Also write it to this file of JSON.")


def _tell(found: Any, out: Path | None = None) -> None:
    """Prints a result as JSON, and writes it to a file where one is named."""
    from midivae.storage.files import write_json

    if out is not None:
        write_json(out, found)
    _print(json.dumps(found))


@midivae.command(epilog=_epilog("midivae inbox inbox/ corpus/ --occasion 2026-11-24"))
@click.argument("source", type=PATH, metavar="INBOX")
@click.argument("target", type=PATH, metavar="CORPUS")
@click.option("--occasion", required=True, metavar="NAME", help="The subfolder of CORPUS they go to, such as a date.")
@click.option(
    "--settle", type=float, default=60.0, show_default=True, metavar="S", help="Seconds a file must be quiet."
)
@log_options
def inbox(source: Path, target: Path, occasion: str, settle: float, verbose: bool, quiet: bool) -> None:
    """Move what is new in INBOX, a folder of MIDI files, to CORPUS.

    A file whose bytes CORPUS has already is removed from INBOX; what is no MIDI file stays there, and so does one that
    was changed a moment ago.
    """
    from midivae.champion import inbox as room

    _log_to_stderr(verbose, quiet)
    _tell(room.take(source, target, occasion, settle))


@midivae.command(epilog=_epilog("midivae freeze holdout/"))
@click.argument("target", type=PATH, metavar="OUT")
@data_option
def freeze(target: Path, data: Path) -> None:
    """Keep the test split in the folder OUT, the hold-out on which models are compared."""
    from midivae.champion import gate

    _tell(gate.freeze(data / "rolls", target))


@midivae.command(epilog=_epilog("midivae gate holdout/ --champion published/current/model --out gate.json"))
@click.argument("holdout", type=PATH, metavar="HOLDOUT")
@click.option("--champion", type=PATH, metavar="DIR", help="Folder of the model to beat; without it, guards alone.")
@rules_option
@out_option
@stage_options
def gate(
    holdout: Path,
    champion: Path | None,
    rules: Path,
    out: Path | None,
    params_file: Path,
    data: Path,
    verbose: bool,
    quiet: bool,
) -> None:
    """Compare the model in --data with the champion on HOLDOUT, and say whether it takes its place.

    Prints the verdict with both scores and every check. Exit code 0 whether it is promoted or not.
    """
    from midivae.champion import gate as room
    from midivae.config import params
    from midivae.config.champion import load_rules

    _log_to_stderr(verbose, quiet)
    with _stdout_kept():
        found = room.run(params.load(params_file), data, champion, holdout, load_rules(rules).gate)
    _tell(found, out)


@midivae.command(epilog=_epilog("midivae spread holdout/ seed-0/model seed-1/model seed-2/model"))
@click.argument("holdout", type=PATH, metavar="HOLDOUT")
@click.argument("models", type=PATH, nargs=-1, metavar="MODEL...")
@rules_option
def spread(holdout: Path, models: tuple[Path, ...], rules: Path) -> None:
    """Measure how much models differ that differ in their seed alone: gate.seed_sd_nats."""
    from midivae.champion import gate as room
    from midivae.config.champion import load_rules

    with _stdout_kept():
        found = room.spread(models, holdout, load_rules(rules).gate)
    _tell(found)


@midivae.command(epilog=_epilog("midivae drift published/current --out drift.json"))
@click.argument("champion", type=PATH, metavar="CHAMPION")
@rules_option
@out_option
@stage_options
def drift(
    champion: Path, rules: Path, out: Path | None, params_file: Path, data: Path, verbose: bool, quiet: bool
) -> None:
    """Compare the new pieces in --data with those that CHAMPION, a published version, was trained on.

    Warnings are part of the result; rolls of another layout or version than the champion's are an error.
    """
    from midivae.champion import drift as room
    from midivae.config import params
    from midivae.config.champion import load_rules

    _log_to_stderr(verbose, quiet)
    found = room.run(params.load(params_file), data, champion.resolve(), load_rules(rules).drift)
    for warning in found["warnings"]:
        log.warning("%s", warning)
    _tell(found, out)


@midivae.command(epilog=_epilog("midivae publish v0.0.2 --note gate.json --switch"))
@click.argument("name", metavar="NAME")
@click.option("--note", "notes", type=PATH, multiple=True, metavar="FILE", help="Put this file beside.")
@click.option("--switch", "at_once", is_flag=True, help="Let `current` point to it.")
@published_option
@params_option
@data_option
def publish(name: str, notes: tuple[Path, ...], at_once: bool, published: Path, params_file: Path, data: Path) -> None:
    """Write what the stages made as version NAME, whole or not at all."""
    from dataclasses import asdict

    from midivae.champion import versions as room

    beside = {note.name: note for note in notes} | {"params.yaml": params_file}
    with room.locked(published):
        version = room.publish(data, published, name, beside)
        if at_once:
            room.switch(published, name)
    _tell(asdict(version))


@midivae.command(epilog=_epilog("midivae switch v0.0.2", "midivae switch --back"))
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--back", is_flag=True, help="To what was current before the champion came.")
@published_option
def switch(name: str | None, back: bool, published: Path) -> None:
    """Let `current` point to version NAME, in one step."""
    from dataclasses import asdict

    from midivae.champion import versions as room

    if back == (name is not None):
        raise errors.ParamsError("switch needs a NAME or --back, one of the two; `midivae versions` lists the names")
    with room.locked(published):
        _tell(asdict(room.rollback(published, name)))


@midivae.command(epilog=_epilog("midivae versions", "midivae versions --prune 10 --days 7"))
@click.option("--prune", type=click.IntRange(min=1), metavar="N", help="Remove old ones first, but the N newest.")
@click.option("--days", type=float, default=7.0, show_default=True, help="Keep younger ones in any case.")
@published_option
def versions(prune: int | None, days: float, published: Path) -> None:
    """List the published versions, a line of JSON each.

    The current one, its champion and what it would roll back to are never removed.
    """
    from midivae.champion import versions as room

    if prune is not None:
        with room.locked(published):
            for name in room.prune(published, prune, days):
                click.echo(f"removed {name}", err=True)
    for line in room.history(published):
        _print(line)


@midivae.command(epilog=_epilog('midivae order \'[{"name": "sample", "count": 100}]\''))
@click.argument("jobs", metavar="JOBS")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes; one per core without it.")
@published_option
@log_options
def order(jobs: str, workers: int | None, published: Path, verbose: bool, quiet: bool) -> None:
    """Draw more samples from the champion, and publish them with those that are there.

    JOBS is a list in JSON, of jobs as in params.yaml; `count` says how many more. A job of the catalog keeps its
    parameters; one of another name is made anew.
    """
    from midivae.champion import batch as room

    _log_to_stderr(verbose, quiet)
    try:
        asked = json.loads(jobs)
    except ValueError as error:
        raise errors.ParamsError(f"order: {jobs!r} is not JSON ({error}); write a list of jobs") from None
    if not isinstance(asked, list) or not asked or not all(isinstance(job, dict) for job in asked):
        raise errors.ParamsError(f'order: {jobs!r} is no list of jobs; write [{{"name": ..., "count": ...}}]')
    with _stdout_kept():
        found = room.add(published, asked, workers)
    _tell(found)


# --- the console script -----------------------------------------------------------------------------------------------
def _on_terminate(signum: int, frame: object) -> NoReturn:
    """SIGTERM ends us like an exception, so that staging folders and workers are cleaned up."""
    sys.exit(TERMINATED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    # threads that wait for each other sleep instead of spinning: on a machine that others use too, a training step
    # takes up to half as long; libgomp reads it when torch is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _on_terminate)
    try:
        code = midivae.main(arguments, prog_name="midivae", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("midivae: interrupted", err=True)
        return INTERRUPTED
