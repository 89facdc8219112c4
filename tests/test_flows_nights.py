"""Nights with a real server, a real worker and a real schedule, on the loopback, in order; each with its faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import nights
import numpy as np
import pandas as pd
import pytest
from limits import WAIT_S
from nights import Prefect, Project, outcomes, until

from flows import process
from midivae.champion import versions
from midivae.music import smf
from midivae.music.notes import Notes, Tempo, TimeSignature

pytestmark = [pytest.mark.server, pytest.mark.timeout(10 * WAIT_S)]

STAGES = ["fetch", "ingest", "train", "generate", "evaluate", "report"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("nights") / "project"
    folder.mkdir()
    return Project(folder)


@pytest.fixture(scope="module")
def prefect(project: Project) -> Iterator[Prefect]:
    with nights.serving(project) as each:
        yield each


def clusters(seed: int, bars: int = 12) -> bytes:
    """A file that is no music: on every beat, most notes of each part's range at once."""
    rng = np.random.default_rng(seed)
    onset, pitch, track = [], [], []
    for beat in range(4 * bars):
        for part in range(4):
            chosen = rng.permutation(np.arange(40, 80))[:30]
            onset += [beat * 480] * len(chosen)
            pitch += chosen.tolist()
            track += [part] * len(chosen)
    n = len(pitch)
    notes = Notes(
        pitch=np.array(pitch, np.uint8),
        velocity=np.full(n, 80, np.uint8),
        onset_tick=np.array(onset, np.int32),
        duration_tick=np.full(n, 480, np.int32),
        track=np.array(track, np.int32),
        program=np.full(n, 52, np.uint8),
        is_drum=np.zeros(n, bool),
        track_names=("Soprano", "Alto", "Tenor", "Bass"),
        ticks_per_quarter=480,
        tempos=(Tempo.from_qpm(96.0),),
        time_signatures=(TimeSignature(0, 4, 4),),
    )
    return smf.write(notes.sorted())


def telling(file: Path) -> list[str]:
    """A command for alerts that writes its message to a file."""
    return [sys.executable, "-c", f"import sys; open({str(file)!r}, 'a').write(sys.argv[1])"]


class Reader(threading.Thread):
    """Reads what is published in a loop, as docs/operations.md says."""

    def __init__(self, project: Project) -> None:
        super().__init__(daemon=True)
        self.published = project.place / "published"
        self.seen: set[tuple[str, ...]] = set()
        self.errors: list[str] = []
        self.reads = 0
        self.ending = threading.Event()

    def run(self) -> None:
        while not self.ending.is_set():
            try:
                here = Path(os.path.realpath(self.published / "current"))
                rows = pd.read_parquet(here / "samples" / "catalog", columns=["model_sha256", "z"])
                self.seen.add(tuple(sorted(set(rows["model_sha256"]))))
                assert set(rows["model_sha256"]) == {versions.read(here).model_sha256}
                self.reads += 1
            except Exception as error:
                self.errors.append(f"{type(error).__name__}: {error}")


def test_the_first_night_promotes_and_a_second_beside_it_is_cancelled(project: Project, prefect: Prefect) -> None:
    prefect.schedule("nightly")
    until(lambda: prefect.runs("nightly"), "the schedule to fire")
    [first] = prefect.runs("nightly")
    assert first["auto_scheduled"]
    until(lambda: "fetch" in prefect.tasks(first["id"]), "the first stage")
    second = prefect.ended(prefect.start("nightly"))
    assert second["state"]["type"] == "CANCELLED"
    assert prefect.run(first["id"])["state"]["type"] == "RUNNING"

    done = prefect.ended(first["id"])
    assert done["state"]["type"] == "COMPLETED", prefect.logs(first["id"])
    assert "v0.0.1 promoted: there was no champion" in done["state"]["message"]
    tasks = prefect.tasks(first["id"])
    assert set(STAGES) <= set(tasks)
    assert {task["state"]["type"] for task in tasks.values()} == {"COMPLETED"}
    starts = [tasks[name]["start_time"] for name in STAGES]
    assert starts == sorted(starts)

    shown = prefect.artifacts(first["id"])
    assert {"stages-done", "stages", "metrics", "report", "gate"} <= set(shown)
    assert outcomes(shown["stages"]) == dict.fromkeys(STAGES, "ran")
    assert shown["stages-done"]["data"] == 100
    assert "index.html" in shown["report"]["data"]

    assert project.tags() == ["model#champion#1", "model@v0.0.1"]
    assert project.current.name == "v0.0.1"
    assert json.loads((project.current / "gate.json").read_text())["promote"]
    log = project.git("log", "-1", "--format=%B", "nightly")
    assert "nats_per_step: " in log and "novelty: " in log
    assert "data/model" in project.git("show", "nightly:dvc.lock")
    assert not list((project.place / "inbox").iterdir())
    assert project.git("status", "--porcelain", "--untracked-files=no") == ""  # nobody's work is touched


def test_the_second_night_takes_only_what_is_new_and_waits_for_a_lock(project: Project, prefect: Prefect) -> None:
    project.drop(range(20, 30))  # four of them are there already
    reader = Reader(project)
    reader.start()
    with dvc_locked(project.clone):
        before = len(prefect.runs("nightly"))
        prefect.schedule("nightly")
        until(lambda: len(prefect.runs("nightly")) > before, "the schedule to fire")
        run = prefect.runs("nightly")[-1]["id"]
        until(lambda: "AwaitingRetry" in {task["state"]["name"] for task in prefect.tasks(run).values()}, "a wait")
    done = prefect.ended(run)
    reader.ending.set()
    reader.join(WAIT_S)

    assert done["state"]["type"] == "COMPLETED", prefect.logs(run)
    assert "v0.0.2 promoted: better by" in done["state"]["message"]
    assert prefect.tasks(run)["fetch"]["run_count"] > 1
    assert '"new": 6, "known": 4' in prefect.logs(run)
    assert '"found": 30, "accepted": 30' in prefect.logs(run)
    assert '"parsed": 6' in prefect.logs(run)
    verdict = project.gate()
    assert verdict["gain_nats"] > verdict["margin_nats"] > 0
    assert project.tags()[-1] == "model@v0.0.2" and "model#champion#2" in project.tags()
    assert project.current.name == "v0.0.2"
    first = project.place / "published" / "versions" / "v0.0.1"
    start = nights.warm_start(project)
    assert start == first / "model"

    assert reader.errors == []
    models = {versions.read(folder).model_sha256 for folder in (first, project.current)}
    assert reader.seen == {(model,) for model in models}  # each read saw one version, and both were seen
    assert reader.reads > 20


def test_a_stage_that_fails_ends_the_night_with_its_last_lines(project: Project, prefect: Prefect) -> None:
    for number in range(40):  # what comes is no music
        (project.place / "inbox" / f"clusters-{number}.mid").write_bytes(clusters(number))
    kept = project.current
    alerts = project.folder.parent / "alerts"
    project.settings(params={"train": {"dense": {"batch_size": 100_000}}}, alert=telling(alerts))
    done = prefect.ended(prefect.start("nightly"))
    project.settings()
    assert done["state"]["type"] == "FAILED"
    assert "stage train failed" in done["state"]["message"]
    assert "needs at least one full batch" in done["state"]["message"]
    shown = outcomes(prefect.artifacts(done["id"])["stages"])
    assert (shown["train"], shown["generate"]) == ("failed", "not reached")
    assert "stage train failed" in until(lambda: alerts.exists() and alerts.read_text(), "the alert")
    assert project.current == kept


def test_a_night_killed_in_training_leaves_no_process(project: Project, prefect: Prefect) -> None:
    kept, alerts = project.current, project.folder.parent / "crashed"
    long = {"train": {"dense": {"epochs": 100_000, "patience": None}}}
    project.settings(params=long, alert=telling(alerts))
    run = prefect.start("nightly")

    def training() -> list[str]:
        return [line for line in nights.processes_under(project.clone) if "midivae train" in line]

    until(training, "training to begin")
    place = until(lambda: prefect.run(run)["infrastructure_pid"], "the worker to say where the flow runs")
    flow = int(place.rpartition(":")[2])
    os.kill(flow, signal.SIGKILL)
    until(lambda: not nights.processes_under(project.clone), "the stage to end")
    assert prefect.ended(run)["state"]["type"] == "CRASHED"
    assert "Crashed" in until(lambda: alerts.exists() and alerts.read_text(), "the alert")
    assert project.current == kept

    project.settings()


def test_the_next_night_goes_on_and_keeps_the_champion_though_the_server_goes_away(
    project: Project, prefect: Prefect
) -> None:
    before, kept = len(prefect.runs("nightly")), project.current
    prefect.schedule("nightly")
    until(lambda: len(prefect.runs("nightly")) > before, "the schedule to fire")
    run = prefect.runs("nightly")[-1]["id"]
    until(lambda: "train" in prefect.tasks(run), "training")
    prefect.kill_server()
    done = prefect.ended(run)

    assert done["state"]["type"] == "COMPLETED", prefect.logs(run)
    assert done["state"]["message"].startswith("kept: gain_nats is -")
    assert "warning: " in done["state"]["message"]  # of the drift
    assert "it is restarted" in prefect.log.read_text()
    assert outcomes(prefect.artifacts(run)["stages"])["ingest"] == "cached"  # by the night that was killed
    verdict = project.gate()
    assert not verdict["promote"] and verdict["gain_nats"] < 0
    assert project.current == kept
    assert not [tag for tag in project.tags() if "v0.0.3" in tag or "#3" in tag]


def test_the_pipeline_alone_finds_every_stage_up_to_date(project: Project, prefect: Prefect) -> None:
    program = "import sys\nfrom flows.pipeline import pipeline\nprint(*pipeline(sys.argv[1]), sep='\\n')"
    env = {**process.environment(project.folder), "PREFECT_API_URL": prefect.url}
    words = [sys.executable, "-c", program, str(project.clone)]
    done = subprocess.run(words, cwd=project.folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-6:] == [f"{stage}: cached" for stage in STAGES]
    program = program.replace("(sys.argv[1])", "(sys.argv[1], ['fetsh'])")
    words[2] = program
    done = subprocess.run(words, cwd=project.folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "force names stage 'fetsh'" in done.stderr


def test_cancelling_a_night_leaves_no_process(project: Project, prefect: Prefect) -> None:
    project.settings(params={"train": {"dense": {"epochs": 100_000, "patience": None}, "seed": 5}})
    run = prefect.start("nightly")
    until(lambda: [x for x in nights.processes_under(project.clone) if "midivae train" in x], "training to begin")
    prefect.ask("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    assert prefect.ended(run)["state"]["type"] == "CANCELLED"
    until(lambda: not nights.processes_under(project.clone), "the stage to end")
    project.settings()


def test_an_order_is_added_to_what_is_published(project: Project, prefect: Prefect) -> None:
    before = pd.read_parquet(project.current / "samples" / "catalog").set_index("sample_id")
    reader = Reader(project)
    reader.start()
    here = prefect.deployment("batch")
    asked = {"parameters": {"jobs": [{"name": "sample", "count": 5}]}}
    run = prefect.ask("POST", f"/deployments/{here['id']}/create_flow_run", asked)["id"]
    done = prefect.ended(run)
    reader.ending.set()
    reader.join(WAIT_S)
    assert done["state"]["type"] == "COMPLETED", prefect.logs(run)
    assert "v0.0.2+1: 5 of sample added" in done["state"]["message"]
    after = pd.read_parquet(project.current / "samples" / "catalog").set_index("sample_id")
    assert len(after) == len(before) + 5
    pd.testing.assert_frame_equal(after.loc[before.index].drop(columns="z"), before.drop(columns="z"))
    assert reader.errors == []


def test_a_run_without_heartbeats_is_declared_crashed(project: Project, prefect: Prefect) -> None:
    [automation] = prefect.ask(
        "POST", "/automations/filter", {"automations": {"name": {"any_": ["midivae heartbeats"]}}}
    )
    automation["trigger"]["within"] = 10  # seconds, the least
    body = {name: value for name, value in automation.items() if name not in ("id", "created", "updated")}
    prefect.ask("PUT", f"/automations/{automation['id']}", body)
    alerted = project.folder.parent / "alert"
    project.settings(alert=[sys.executable, "-c", f"import sys; open({str(alerted)!r}, 'w').write(sys.argv[1])"])
    here = prefect.deployment("nightly")
    later = {"scheduled_time": "2099-01-01T00:00:00Z"}
    body = {"state": {"type": "SCHEDULED", "name": "Late", "state_details": later}}
    run = prefect.ask("POST", f"/deployments/{here['id']}/create_flow_run", body)
    prefect.ask(
        "POST", f"/flow_runs/{run['id']}/set_state", {"state": {"type": "RUNNING", "name": "Running"}, "force": True}
    )
    flow = {
        "prefect.resource.id": f"prefect.flow.{run['flow_id']}",
        "prefect.resource.role": "flow",
        "prefect.resource.name": "nightly",
    }
    heartbeat = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run['id']}"},
        "related": [flow],
    }
    prefect.ask("POST", "/events", [heartbeat])  # the last one
    assert prefect.ended(run["id"])["state"]["message"] == "no heartbeat"
    until(alerted.exists, "the alert")
    assert alerted.read_text() == f"{run['name']}: Crashed: no heartbeat"
    project.settings()


def test_a_rollback_is_one_command(project: Project) -> None:
    out = project.call(sys.executable, "-m", "flows", "rollback").stdout
    assert "v0.0.1 is current" in out
    assert project.current.name == "v0.0.1"
    assert "model#champion#3" in project.tags()
    assert project.git("rev-parse", "model#champion#3^{commit}") == project.git("rev-parse", "model@v0.0.1^{commit}")
    shown = project.call("gto", "show", "model#champion").stdout
    assert "v0.0.1" in shown


class dvc_locked:  # noqa: N801 - reads as a context
    """Another process of DVC that works in a repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        program = (
            "import sys, time\nfrom dvc.repo import Repo\n"
            "with Repo('.').lock:\n    print('locked', flush=True)\n    time.sleep(600)\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=self.folder, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "locked\n"

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
