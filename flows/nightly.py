"""A night: take what is new, run the pipeline, compare with the champion, promote or keep, clean up.

    settle     make up for a night that was killed; bring the clone up to date
    take       what is new in the inbox, or fetch the source again
    look       new music against the champion's (a warning), its schema (a stop)
    train on   the remaining stages
    compare    challenger and champion on the frozen hold-out
    promote    commit, tag, publish, switch; or keep the champion and say why
    clean up   old versions, DVC's cache

What people read changes in one step, the switch of `published/current`. Everything before can be killed and done again;
what comes after is made up for at the beginning of the next night.

Offers: the flow `nightly`, and `alert`.
"""

from __future__ import annotations

import json
import os
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed

from flows import board, dvc, pipeline, process, repository, settings
from flows.board import Board, logger
from flows.settings import Settings
from midivae.champion import versions

FETCH, LOOK_AFTER = "fetch", "ingest"  # the stage that takes the source in; after this one new music can be looked at


def midivae(chosen: Settings, *words: str) -> dict[str, Any]:
    """Calls a command of midivae, as it is in the clone; returns the JSON that it prints."""
    ended = process.run(["midivae", *words], chosen.clone, logger().info)
    found: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found


def alert(chosen: Settings, message: str) -> None:
    """Starts the command that tells a person; that it fails is told in the log alone."""
    if chosen.alert is None:
        return
    try:
        subprocess.run([*chosen.alert, message], check=True, timeout=60, stdin=subprocess.DEVNULL)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        logger().error("the alert could not be sent: %s", error)


def on_trouble(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Tells a person of a run that did not end well."""
    file = flow_run.parameters.get("settings_file", "nightly.yaml")
    alert(settings.load(Path(file)), f"{flow.name} {flow_run.name}: {state.name}: {state.message}")


# --- the steps --------------------------------------------------------------------------------------------------------
@task(cache_policy=NO_CACHE, persist_result=False)
def settle(chosen: Settings) -> None:
    """Makes up for what a night that was killed left undone, and brings the clone up to date."""
    followed = repository.prepare(chosen)
    now = versions.read_current(chosen.published_folder)
    if now is not None and repository.champion(chosen.clone) != now.champion:
        logger().warning("%s is published but not tagged as champion: an earlier night was cut off there", now.champion)
        repository.assign(chosen.clone, now.champion)
    logger().info("the project is at %s, the champion is %s", followed[:12], now.champion if now else "none")


@task(cache_policy=NO_CACHE, persist_result=False)
def take(chosen: Settings) -> dict[str, Any]:
    """Moves what is new in the inbox into the corpus, and says how many files that were."""
    if chosen.source == "params":
        return {"new": None}
    chosen.inbox_folder.mkdir(parents=True, exist_ok=True)
    chosen.under("corpus").mkdir(parents=True, exist_ok=True)
    occasion = datetime.now().astimezone().strftime("%Y-%m-%d")
    words = [str(chosen.inbox_folder), str(chosen.under("corpus")), "--occasion", occasion]
    return midivae(chosen, "inbox", *words, "--settle", str(chosen.settle_s))


@task(cache_policy=NO_CACHE, persist_result=False)
def look(chosen: Settings, champion: Path) -> list[str]:
    """Compares new music with what the champion was trained on; returns warnings."""
    rules = ["--rules", str(chosen.file), "--out", str(chosen.under("drift.json"))]
    found = midivae(chosen, "drift", str(champion), *rules)
    warnings: list[str] = found["warnings"]
    lines = [f"- {warning}" for warning in warnings] or ["New music is like the champion's."]
    shifts = [f"| {name} | {value} |" for name, value in found["shift_sd"].items()]
    table = ["", "| feature | moved by, standard deviations |", "|---|---|", *shifts] if shifts else []
    board.markdown(f"{found['new_pieces']} new pieces", "\n".join([*lines, *table]), "drift")
    return warnings


@task(cache_policy=NO_CACHE, persist_result=False)
def compare(chosen: Settings, champion: Path | None) -> dict[str, Any]:
    """Scores challenger and champion on the frozen hold-out; returns the content of gate.json."""
    holdout = chosen.under("holdout")
    if not holdout.exists():
        midivae(chosen, "freeze", str(holdout))
    against = ["--champion", str(champion / "model")] if champion is not None else []
    found = midivae(
        chosen, "gate", str(holdout), *against, "--rules", str(chosen.file), "--out", str(chosen.under("gate.json"))
    )
    rows = [f"| {c['name']} | {c['value']} | {c['rule']} | {'yes' if c['passed'] else 'no'} |" for c in found["checks"]]
    table = "\n".join(["| check | value | rule | passed |", "|---|---|---|---|", *rows])
    board.markdown(found["why"], table, "gate")
    return found


@task(cache_policy=NO_CACHE, persist_result=False)
def promote(chosen: Settings, verdict: dict[str, Any]) -> str:
    """Commits, registers, publishes, switches, assigns; returns the version."""
    clone, published = chosen.clone, str(chosen.published_folder)
    repository.commit(clone, _message(verdict))
    version = repository.register(clone)
    midivae(chosen, "publish", version, "--published", published, "--note", str(chosen.under("gate.json")))
    midivae(chosen, "switch", version, "--published", published)
    repository.assign(clone, version)
    return version


def _message(verdict: dict[str, Any]) -> str:
    """The commit's message: what was decided, and the metrics it was decided by."""
    scores = [f"{name}: {value}" for name, value in verdict["challenger"].items() if name != "model_sha256"]
    before = verdict["champion"]
    beside = [f"champion nats_per_step: {before['nats_per_step']}"] if before else []
    return "\n".join([verdict["why"][0].upper() + verdict["why"][1:], "", *scores, *beside])


@task(cache_policy=NO_CACHE, persist_result=False)
def send(chosen: Settings) -> None:
    """Pushes commits, tags and data where that is wanted; what cannot be sent tonight is sent with the next."""
    try:
        if chosen.push:
            repository.push(chosen.clone)
        if chosen.remote is not None:
            process.run(["dvc", "push", "--remote", chosen.remote], chosen.clone, logger().info)
    except (repository.RepositoryError, process.CommandFailed) as error:
        logger().warning("not sent: %s", error)


@task(cache_policy=NO_CACHE, persist_result=False)
def clean_up(chosen: Settings) -> None:
    """Removes old versions, and from DVC's cache what neither the project nor the last promoted nights need."""
    keep = ["--prune", str(chosen.keep_versions), "--days", str(chosen.keep_days)]
    process.run(
        ["midivae", "versions", *keep, "--published", str(chosen.published_folder)], chosen.clone, logger().debug
    )
    if not chosen.collect:
        return
    busy = [str(folder) for folder in (chosen.project, chosen.clone) if dvc.is_working(folder)]
    if busy:
        logger().warning("DVC's cache is not cleaned: a stage runs in %s", ", ".join(busy))
        return
    words = ["dvc", "gc", "--force", "--workspace", "--rev", "HEAD", "--num", str(chosen.keep_commits)]
    ended = process.run([*words, "--projects", str(chosen.project)], chosen.clone, logger().debug, check=False)
    if ended.code:
        logger().warning("DVC's cache is not cleaned tonight: %s", ended.last[-1] if ended.last else "")


# --- the flow ---------------------------------------------------------------------------------------------------------
@flow(name="nightly", on_failure=[on_trouble], on_crashed=[on_trouble], validate_parameters=False)
def nightly(settings_file: str = "nightly.yaml") -> State[Any]:
    """One night; its state says what became of the challenger, and why."""
    chosen = settings.load(Path(settings_file))
    settle(chosen)
    taken = take(chosen)
    # where there is no hold-out, one is frozen tonight, and a new line of champions begins
    champion = versions.current(chosen.published_folder) if chosen.under("holdout").exists() else None

    before, after = _halves(dvc.stages(chosen.clone))
    seen = Board([*before, *after])
    patience = pipeline.Patience(chosen.lock_attempts, chosen.lock_wait_s)
    _write_params(chosen, _warm_start(chosen))
    if taken["new"] == 0 and not any(chosen.under("corpus").rglob("*.mid")):
        return Completed(message="kept: there is no music yet; drop MIDI files into the inbox")
    pipeline.run_stages(chosen.clone, before, seen, [FETCH], patience)
    warnings = look(chosen, champion) if champion is not None else []
    if champion is not None and _has_new_rolls(chosen, champion):
        _write_params(chosen, champion.parent / versions.read(champion).champion / "model")
    pipeline.run_stages(chosen.clone, after, seen, patience=patience)
    pipeline.show_results(chosen.clone, seen)

    verdict = compare(chosen, champion)
    said = verdict["why"]
    if verdict["promote"]:
        said = f"{promote(chosen, verdict)} {said}"
        send(chosen)
    clean_up(chosen)
    board.wait_for_server()
    return Completed(message="; ".join([said, *(f"warning: {warning}" for warning in warnings)]))


def _halves(stages: list[str]) -> tuple[list[str], list[str]]:
    """The stages up to the one after which new music can be looked at, and the others."""
    at = stages.index(LOOK_AFTER) + 1
    return stages[:at], stages[at:]


def _write_params(chosen: Settings, warm: Path | None) -> None:
    """Writes the clone's params.yaml: where the music is, and where training begins."""
    above: dict[str, Any] = {"train": {"warm_start": _seen_from(chosen.clone, warm)}} if chosen.warm_start else {}
    if chosen.source == "inbox":
        above["fetch"] = {"source": "folder", "path": _seen_from(chosen.clone, chosen.under("corpus"))}
    repository.write_params(chosen, above)


def _seen_from(clone: Path, target: Path | None) -> str | None:
    """A path as params.yaml of the clone has it: relative, so that the place can be moved."""
    return None if target is None else os.path.relpath(target.resolve(), clone.resolve())


def _warm_start(chosen: Settings) -> Path | None:
    """Where training began the last time, which stays as long as nothing is new; None: nowhere, or it is gone."""
    values = yaml.safe_load((chosen.clone / "params.yaml").read_text(encoding="utf-8"))
    last = values.get("train", {}).get("warm_start")
    return chosen.clone / last if last is not None and (chosen.clone / last).is_dir() else None


def _has_new_rolls(chosen: Settings, champion: Path) -> bool:
    """Whether the rolls differ from those that the champion was trained on."""
    mine, theirs = (folder / "rolls" / "manifest.json" for folder in (chosen.clone / "data", champion))
    return mine.read_bytes() != theirs.read_bytes()
