"""A night: collect new music, run the pipeline, compare the new model with the champion, promote or keep, clean up.

    recover        complete what a killed night left undone; bring the clone up to date
    collect        move new files from the inbox to the corpus, or fetch the source again
    check_drift    compare new music with the champion's (warnings) and its schema (an error)
    run_stages     the remaining stages
    evaluate_gate  compare challenger and champion on the frozen hold-out
    promote        commit, tag, publish, switch; otherwise keep the champion and say why
    push           commits and tags to the project, data to a remote
    clean_up       remove old versions, clean DVC's cache

What people read changes in one step, the switch of `published/current`. Everything before it can be killed and
repeated; the next night completes what comes after it.

Offers: the flow `nightly`; `run_midivae` for other flows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from flows import board, dvc, pipeline, process, repository
from flows.board import Board, logger
from flows.settings import Settings
from flows.unattended import UNATTENDED
from midivae.champion import versions

FETCH = "fetch"  # the stage that runs even if nothing changed
INGEST = "ingest"  # the stage after which new music can be compared with the champion's


def run_midivae(folder: Path, *words: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Runs a command of midivae in a folder; returns the JSON that it prints.

    Args:
        folder: the project, or its clone.
        words: the command, without `midivae`.
        env: its environment; None: the usual one (`process.environment`).
    """
    ended = process.run(["midivae", *words], folder, logger().info, env)
    result: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return result


# --- the steps --------------------------------------------------------------------------------------------------------
@task(cache_policy=NO_CACHE, persist_result=False)
def recover(settings: Settings) -> None:
    """Completes what a killed night left undone, and brings the clone up to date."""
    commit = repository.prepare(settings)
    current = versions.read_current(settings.published_folder)
    if current is not None and repository.champion(settings.clone) != current.champion:
        logger().warning("%s is published but not tagged as champion: a night was killed there", current.champion)
        repository.assign(settings.clone, current.champion)
    logger().info("the project is at %s, the champion is %s", commit[:12], current.champion if current else "none")


@task(cache_policy=NO_CACHE, persist_result=False)
def collect(settings: Settings) -> dict[str, Any]:
    """Moves new files from the inbox to the corpus, and returns their number as `new`."""
    if settings.source == "params":
        return {"new": None}
    settings.inbox_folder.mkdir(parents=True, exist_ok=True)
    settings.under("corpus").mkdir(parents=True, exist_ok=True)
    occasion = datetime.now().astimezone().strftime("%Y-%m-%d")
    words = [str(settings.inbox_folder), str(settings.under("corpus")), "--occasion", occasion]
    return run_midivae(settings.clone, "inbox", *words, "--settle", str(settings.settle_s))


@task(cache_policy=NO_CACHE, persist_result=False)
def check_drift(settings: Settings, champion: Path) -> list[str]:
    """Compares new music with the champion's training music; returns warnings."""
    words = ["--rules", str(settings.file), "--out", str(settings.under("drift.json"))]
    drift = run_midivae(settings.clone, "drift", str(champion), *words)
    warnings: list[str] = drift["warnings"]
    lines = [f"- {warning}" for warning in warnings] or ["New music is like the champion's."]
    if drift["shift_sd"]:
        lines += ["", "| feature | moved by, standard deviations |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in drift["shift_sd"].items()]
    board.page(f"{drift['new_pieces']} new pieces", "\n".join(lines), "drift")
    return warnings


@task(cache_policy=NO_CACHE, persist_result=False)
def evaluate_gate(settings: Settings, champion: Path | None) -> dict[str, Any]:
    """Scores challenger and champion on the frozen hold-out; returns the content of gate.json."""
    holdout = settings.under("holdout")
    if not holdout.exists():
        run_midivae(settings.clone, "freeze", str(holdout))
    words = ["--champion", str(champion / "model")] if champion is not None else []
    words += ["--rules", str(settings.file), "--out", str(settings.under("gate.json"))]
    verdict = run_midivae(settings.clone, "gate", str(holdout), *words)
    rows = [f"| {c['name']} | {c['value']} | {c['rule']} | {c['passed']} |" for c in verdict["checks"]]
    board.page(verdict["why"], "\n".join(["| check | value | rule | passed |", "|---|---|---|---|", *rows]), "gate")
    return verdict


@task(cache_policy=NO_CACHE, persist_result=False)
def promote(settings: Settings, verdict: dict[str, Any]) -> str:
    """Commits, registers, publishes, switches and assigns; returns the version."""
    clone, published = settings.clone, str(settings.published_folder)
    repository.commit(clone, _message(verdict))
    version = repository.register(clone)
    run_midivae(
        settings.clone, "publish", version, "--published", published, "--note", str(settings.under("gate.json"))
    )
    run_midivae(clone, "switch", version, "--published", published)
    repository.assign(clone, version)
    return version


def _message(verdict: dict[str, Any]) -> str:
    """The message of the commit: the decision and its metrics."""
    lines = [verdict["why"][0].upper() + verdict["why"][1:], ""]
    lines += [f"{name}: {value}" for name, value in verdict["challenger"].items() if name != "model_sha256"]
    if verdict["champion"]:
        lines.append(f"champion nats_per_step: {verdict['champion']['nats_per_step']}")
    return "\n".join(lines)


@task(cache_policy=NO_CACHE, persist_result=False)
def push(settings: Settings) -> None:
    """Pushes commits, tags and data as the settings say; if that fails, the next night pushes them too."""
    try:
        if settings.push:
            repository.push(settings.clone)
        if settings.remote is not None:
            process.run(["dvc", "push", "--remote", settings.remote], settings.clone, logger().info)
    except (repository.RepositoryError, process.CommandFailed) as error:
        logger().warning("not pushed: %s", error)


@task(cache_policy=NO_CACHE, persist_result=False)
def clean_up(settings: Settings) -> None:
    """Removes old versions, and from DVC's cache what neither the project nor the last promoted nights need."""
    words = ["--prune", str(settings.keep_versions), "--days", str(settings.keep_days)]
    words += ["--published", str(settings.published_folder)]
    process.run(["midivae", "versions", *words], settings.clone, logger().debug)
    if not settings.collect:
        return
    busy = [str(folder) for folder in (settings.project, settings.clone) if dvc.is_working(folder)]
    if busy:
        logger().warning("DVC's cache is not cleaned: a stage runs in %s", ", ".join(busy))
        return
    words = ["dvc", "gc", "--force", "--workspace", "--rev", "HEAD", "--num", str(settings.keep_commits)]
    ended = process.run([*words, "--projects", str(settings.project)], settings.clone, logger().debug, check=False)
    if ended.code:
        logger().warning("DVC's cache is not cleaned tonight: %s", ended.last[-1] if ended.last else "")


# --- the flow ---------------------------------------------------------------------------------------------------------
@flow(name="nightly", **UNATTENDED)
def nightly(settings_file: str = "nightly.yaml") -> State[Any]:
    """One night; the message of its state says whether the challenger was promoted, and why."""
    settings = Settings.load(settings_file)
    clone, attempts, wait_s = settings.clone, settings.lock_attempts, settings.lock_wait_s
    recover(settings)
    collected = collect(settings)
    # without a hold-out, one is frozen tonight, and a new line of champions begins
    champion = versions.current(settings.published_folder) if settings.under("holdout").exists() else None
    _write_params(settings, _last_warm_start(settings))
    if collected["new"] == 0 and not any(settings.under("corpus").rglob("*.mid")):
        return Completed(message="kept: there is no music yet; drop MIDI files into the inbox")

    stages = dvc.stages(clone)
    first_half = stages[: stages.index(INGEST) + 1]
    results = Board(stages)
    pipeline.run_stages(clone, first_half, results, [FETCH], attempts, wait_s)
    warnings = check_drift(settings, champion) if champion is not None else []
    if champion is not None and _has_new_rolls(settings, champion):
        _write_params(settings, champion.parent / versions.read(champion).champion / "model")
    pipeline.run_stages(clone, stages[len(first_half) :], results, (), attempts, wait_s)
    pipeline.show_results(clone, results)

    verdict = evaluate_gate(settings, champion)
    message = verdict["why"]
    if verdict["promote"]:
        message = f"{promote(settings, verdict)} {message}"
        push(settings)
    clean_up(settings)
    board.wait_for_server()
    return Completed(message="; ".join([message, *(f"warning: {warning}" for warning in warnings)]))


def _write_params(settings: Settings, warm_start: Path | None) -> None:
    """Writes the clone's params.yaml: the folder of the music, and the model that training starts from."""
    above: dict[str, Any] = {}
    if settings.warm_start:
        above["train"] = {"warm_start": _relative(settings.clone, warm_start) if warm_start is not None else None}
    if settings.source == "inbox":
        above["fetch"] = {"source": "folder", "path": _relative(settings.clone, settings.under("corpus"))}
    repository.write_params(settings, above)


def _relative(clone: Path, target: Path) -> str:
    """A path for the clone's params.yaml: relative, so that the whole place can be moved."""
    return os.path.relpath(target.resolve(), clone.resolve())


def _last_warm_start(settings: Settings) -> Path | None:
    """The model that the last training started from, which stays until there is new music; None: there is none."""
    values = yaml.safe_load((settings.clone / "params.yaml").read_text(encoding="utf-8"))
    last = values.get("train", {}).get("warm_start")
    return settings.clone / last if last is not None and (settings.clone / last).is_dir() else None


def _has_new_rolls(settings: Settings, champion: Path) -> bool:
    """Whether the rolls differ from those that the champion was trained on."""
    manifests = [folder / "rolls" / "manifest.json" for folder in (settings.clone / "data", champion)]
    return manifests[0].read_bytes() != manifests[1].read_bytes()
