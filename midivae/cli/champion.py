"""The commands that compare models and publish versions, as the nights do."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from midivae import errors
from midivae.cli import base

rules_option = base.path_option(
    "--rules",
    default="nightly.yaml",
    metavar="FILE",
    text="Its sections gate and drift say when a model is better, and when to warn.",
)
published_option = base.path_option(
    "--published", default="published", metavar="DIR", text="The folder of versions, and `current`."
)
out_option = click.option("--out", type=base.PATH, metavar="FILE", help="Also write the result to this JSON file.")


@base.command("midivae inbox inbox/ corpus/ --occasion 2026-11-24")
@click.argument("source", type=base.PATH, metavar="INBOX")
@click.argument("target", type=base.PATH, metavar="CORPUS")
@click.option("--occasion", required=True, metavar="NAME", help="Subfolder of CORPUS for the files, such as a date.")
@click.option(
    "--settle", type=float, default=60.0, show_default=True, metavar="S", help="Seconds since a file was last changed."
)
@base.log_options
def inbox(source: Path, target: Path, occasion: str, settle: float) -> None:
    """Move new MIDI files from the folder INBOX to the folder CORPUS.

    A file whose bytes are in CORPUS already is removed from INBOX. Files that are not MIDI stay there, and so do files
    that were changed less than --settle seconds ago.
    """
    from midivae.champion import inbox as intake

    base.print_json(intake.take(source, target, occasion, settle))


@base.command("midivae freeze holdout/")
@click.argument("target", type=base.PATH, metavar="OUT")
@base.data_option
def freeze(target: Path, data: Path) -> None:
    """Copy the test split to the folder OUT, as a hold-out."""
    from midivae.champion import gate

    base.print_json(gate.freeze(data / "rolls", target))


@base.command("midivae gate holdout/ --champion published/current/model --out gate.json")
@click.argument("holdout", type=base.PATH, metavar="HOLDOUT")
@click.option(
    "--champion", type=base.PATH, metavar="DIR", help="Folder of the current model; without it, no comparison."
)
@rules_option
@out_option
@base.stage_options
def gate(holdout: Path, champion: Path | None, rules: Path, out: Path | None, params_file: Path, data: Path) -> None:
    """Decide whether the model in --data replaces the champion.

    Scores both on HOLDOUT, and prints the decision with both scores and every check. The exit code is 0 whether the
    model is promoted or not.
    """
    from midivae.champion import gate as promotion
    from midivae.config import params
    from midivae.config.champion import load_rules

    with base.stdout_to_stderr():
        result = promotion.run(params.load(params_file), data, champion, holdout, load_rules(rules).gate)
    base.print_json(result, out)


@base.command("midivae spread holdout/ seed-0/model seed-1/model seed-2/model")
@click.argument("holdout", type=base.PATH, metavar="HOLDOUT")
@click.argument("models", type=base.PATH, nargs=-1, metavar="MODEL...")
@rules_option
def spread(holdout: Path, models: tuple[Path, ...], rules: Path) -> None:
    """Measure how much scores vary with the seed.

    The models differ only in their seed. The result is gate.seed_sd_nats.
    """
    from midivae.champion import gate as promotion
    from midivae.config.champion import load_rules

    with base.stdout_to_stderr():
        result = promotion.spread(models, holdout, load_rules(rules).gate)
    base.print_json(result)


@base.command("midivae drift published/current --out drift.json")
@click.argument("champion", type=base.PATH, metavar="CHAMPION")
@rules_option
@out_option
@base.stage_options
def drift(champion: Path, rules: Path, out: Path | None, params_file: Path, data: Path) -> None:
    """Compare the pieces in --data with those of the champion.

    CHAMPION is a published version; its training pieces are compared with the new pieces. Warnings are part of the
    result. It is an error if the rolls have another layout or version than the champion's.
    """
    from midivae.champion import drift as shift
    from midivae.config import params
    from midivae.config.champion import load_rules

    result = shift.run(params.load(params_file), data, champion.resolve(), load_rules(rules).drift)
    for warning in result["warnings"]:
        base.log.warning("%s", warning)
    base.print_json(result, out)


@base.command("midivae publish v0.0.2 --note gate.json --switch")
@click.argument("name", metavar="NAME")
@click.option(
    "--note", "notes", type=base.PATH, multiple=True, metavar="FILE", help="Also put this file into the version."
)
@click.option("--switch", "switch_to_it", is_flag=True, help="Let `current` point to it.")
@published_option
@base.params_option
@base.data_option
def publish(
    name: str, notes: tuple[Path, ...], switch_to_it: bool, published: Path, params_file: Path, data: Path
) -> None:
    """Publish the results of all stages as version NAME."""
    from midivae.champion import versions as store

    files = {note.name: note for note in notes} | {"params.yaml": params_file}
    with store.locked(published):
        version = store.publish(data, published, name, files)
        if switch_to_it:
            store.switch(published, name)
    base.print_json(asdict(version))


@base.command("midivae switch v0.0.2", "midivae switch --back")
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--back", is_flag=True, help="To the version that was current before the champion.")
@published_option
def switch(name: str | None, back: bool, published: Path) -> None:
    """Let `current` point to version NAME, in one step."""
    from midivae.champion import versions as store

    if back == (name is not None):
        raise errors.ParamsError("switch needs a NAME or --back, one of the two; `midivae versions` lists the names")
    with store.locked(published):
        base.print_json(asdict(store.rollback(published, name)))


@base.command("midivae versions", "midivae versions --prune 10 --days 7")
@click.option("--prune", type=click.IntRange(min=1), metavar="N", help="First remove old versions; keep the N newest.")
@click.option("--days", type=float, default=7.0, show_default=True, help="With --prune: keep younger versions.")
@published_option
def versions(prune: int | None, days: float, published: Path) -> None:
    """List the published versions, a line of JSON each.

    The current one, its champion and the one that `switch --back` would restore are never removed.
    """
    from midivae.champion import versions as store

    if prune is not None:
        with store.locked(published):
            for name in store.prune(published, prune, days):
                click.echo(f"removed {name}", err=True)
    for line in store.history(published):
        base.print_line(line)


@base.command('midivae order \'[{"name": "sample", "count": 100}]\'')
@click.argument("jobs", metavar="JOBS")
@base.workers_option
@published_option
@base.log_options
def order(jobs: str, workers: int | None, published: Path) -> None:
    """Generate more samples with the champion.

    They are published together with the existing samples. JOBS is a JSON list of jobs as in params.yaml; `count` is the
    number of new samples. A job that the catalog has keeps its parameters; a job of another name is new.
    """
    from midivae.champion import batch

    try:
        values = json.loads(jobs)
    except ValueError as error:
        raise errors.ParamsError(f"order: {jobs!r} is not JSON ({error}); write a list of jobs") from None
    if not isinstance(values, list) or not values or not all(isinstance(job, dict) for job in values):
        raise errors.ParamsError(f'order: {jobs!r} is no list of jobs; write [{{"name": ..., "count": ...}}]')
    with base.stdout_to_stderr():
        result = batch.add(published, values, workers)
    base.print_json(result)


COMMANDS = (inbox, freeze, gate, spread, drift, publish, switch, versions, order)
