"""The parts that nights are made of: commands that leave nothing behind, stages in order, settings, the clone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from champion.test_versions import write_data
from limits import HANG_S, WAIT_S
from nights import processes_under, until
from test_project import DVC, ROOT

from flows import dvc, nightly, process, repository
from flows.settings import Settings
from midivae.champion import versions
from midivae.errors import ParamsError

PYTHON = sys.executable


def quiet(_line: str) -> None:
    """Tells nobody."""


# --- commands ---------------------------------------------------------------------------------------------------------
def test_lines_come_as_they_are_written(tmp_path: Path) -> None:
    # the program writes its second line after its first one was told
    program = f"""
import time, pathlib
print("one", flush=True)
end = time.monotonic() + {WAIT_S}
while not pathlib.Path("one").exists() and time.monotonic() < end:
    time.sleep(0.01)
print("two" if pathlib.Path("one").exists() else "nobody was told of one")
"""
    ended = process.run([PYTHON, "-c", program], tmp_path, lambda line: (tmp_path / line).touch())
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}
    assert (ended.code, ended.stdout) == (0, "one\ntwo\n")


def test_an_error_has_the_last_lines_of_both_pipes(tmp_path: Path) -> None:
    program = "import sys\nprint('said')\nsys.stdout.flush()\nprint('warned', file=sys.stderr)\nsys.exit(3)"
    with pytest.raises(process.CommandFailed, match="exit code 3") as caught:
        process.run([PYTHON, "-c", program], tmp_path, quiet)
    assert {"said", "warned"} == set(caught.value.ended.last)
    assert process.run([PYTHON, "-c", program], tmp_path, quiet, check=False).code == 3


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(process.CommandFailed, match="no-such-command: No such file"):
        process.run(["no-such-command"], tmp_path, quiet)


def test_a_signal_is_told_as_shells_do(tmp_path: Path) -> None:
    program = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    assert process.run([PYTHON, "-c", program], tmp_path, quiet, check=False).code == 128 + signal.SIGKILL


# a command with a child of its own, as `dvc repro` has; the child takes its time to end
TREE = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", '''
import signal, sys, time, pathlib
def end(*_):
    pathlib.Path("ended").touch()
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep({HANG_S})
'''])
time.sleep({HANG_S})
"""


def test_an_exception_ends_the_command_and_its_children(tmp_path: Path) -> None:
    def stop(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.run([PYTHON, "-c", TREE], tmp_path, stop)
    assert processes_under(tmp_path) == []
    assert (tmp_path / "ended").exists()  # it was asked first


def test_kill_9_of_the_caller_ends_the_command_and_its_children(tmp_path: Path) -> None:
    caller = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from flows import process
process.run([sys.executable, "-c", {TREE!r}], Path({str(tmp_path)!r}), lambda line: print(line, flush=True))
"""
    with subprocess.Popen([PYTHON, "-c", caller], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n"
        assert len(processes_under(tmp_path)) == 3  # the guard, the command and its child
        os.kill(started.pid, signal.SIGKILL)
    until(lambda: processes_under(tmp_path) == [], "all of them to end")
    assert (tmp_path / "ended").exists()


def test_what_ignores_the_request_is_ended_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stubborn = (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"print('x', flush=True)\ntime.sleep({HANG_S})"
    )
    hasty = tmp_path / "guard.py"
    hasty.write_text((ROOT / "flows" / "guard.py").read_text().replace("GRACE_S = 10.0", "GRACE_S = 0.5"))
    monkeypatch.setattr(process, "_GUARD", hasty)

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.run([PYTHON, "-c", stubborn], tmp_path, stop)
    assert processes_under(tmp_path) == []


def test_what_a_command_leaves_behind_is_ended(tmp_path: Path) -> None:
    program = "\n".join(
        [
            "import subprocess, sys",
            "to = subprocess.DEVNULL",
            f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep({HANG_S})'], stdout=to, stderr=to)",
        ]
    )
    process.run([PYTHON, "-c", program], tmp_path, quiet)
    until(lambda: processes_under(tmp_path) == [], "the child to end")


def test_a_command_finds_our_programs_and_the_code_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "midivae").mkdir()
    (tmp_path / "midivae" / "__init__.py").write_text("here = True")
    out = process.run([PYTHON, "-c", "import midivae; print(midivae.here)"], tmp_path, quiet).stdout
    assert out == "True\n"
    assert process.environment(tmp_path)["PATH"].startswith(str(Path(PYTHON).parent))


# --- DVC --------------------------------------------------------------------------------------------------------------
def test_stages_are_in_topological_order(tmp_path: Path) -> None:
    assert dvc.stages(ROOT) == list(DVC["stages"])
    mixed = {"stages": {name: DVC["stages"][name] for name in reversed(list(DVC["stages"]))}}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(mixed, sort_keys=False))
    order = dvc.stages(tmp_path)
    made: set[str] = set()
    for name in order:
        reads = {dep for dep in DVC["stages"][name]["deps"] if dep.startswith("data/")}
        assert reads <= made
        made |= set(DVC["stages"][name]["outs"])


@pytest.fixture
def little(tmp_path: Path) -> Path:
    """A repository with one stage that copies a file."""
    folder = tmp_path / "little"
    folder.mkdir()
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    subprocess.run(["git", "init", "-q", "-b", "main", str(folder)], check=True)
    stage = {"cmd": "cat in > out && echo line", "deps": ["in"], "outs": ["out"]}
    broken = {"cmd": "echo sorry >&2; exit 7", "outs": ["never"]}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"copy": stage, "broken": broken}}))
    (folder / "in").write_text("first")
    return folder


def test_a_stage_runs_is_cached_and_is_restored(little: Path) -> None:
    lines: list[str] = []
    assert dvc.repro(little, "copy", lines.append).outcome == "ran"
    assert "line" in lines
    assert dvc.repro(little, "copy", quiet).outcome == "cached"
    (little / "in").write_text("second")
    assert dvc.repro(little, "copy", quiet).outcome == "ran"
    (little / "in").write_text("first")
    restored = dvc.repro(little, "copy", quiet)
    assert restored.outcome == "restored" and restored.seconds > 0
    assert (little / "out").read_text() == "first"
    assert dvc.repro(little, "copy", quiet, force=True).outcome == "ran"


def test_a_stage_that_fails_says_its_last_lines(little: Path) -> None:
    with pytest.raises(dvc.StageFailed, match="stage broken failed") as caught:
        dvc.repro(little, "broken", quiet)
    assert "sorry" in str(caught.value)


@pytest.mark.parametrize("lock", ["repository", "paths"])
def test_both_locks_of_dvc_are_told_from_failures(little: Path, lock: str) -> None:
    dvc.repro(little, "copy", quiet)
    (little / "in").write_text("other")
    if lock == "paths":
        holder = {"pid": os.getpid(), "cmd": "another"}
        path = str(little / "out")
        (little / ".dvc" / "tmp" / "rwlock").write_text(json.dumps({"read": {}, "write": {path: holder}}))
        with pytest.raises(dvc.Locked, match="is busy, it is being blocked by"):
            dvc.repro(little, "copy", quiet)
        return
    program = "\n".join(
        [
            "import time",
            "from dvc.repo import Repo",
            "with Repo('.').lock:",
            "    print('locked', flush=True)",
            f"    time.sleep({HANG_S})",
        ]
    )
    with subprocess.Popen([PYTHON, "-c", program], cwd=little, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(dvc.Locked, match="Unable to acquire lock"):
            dvc.repro(little, "copy", quiet)
        other.kill()


# --- settings ---------------------------------------------------------------------------------------------------------
def test_nightly_yaml_spells_out_every_default() -> None:
    written = yaml.safe_load((ROOT / "nightly.yaml").read_text())
    defaults = Settings().model_dump(mode="json", exclude={"file"})
    assert written == defaults


def test_a_broken_rule_is_named(tmp_path: Path) -> None:
    (tmp_path / "nightly.yaml").write_text("gate: {margin_sds: -1}\nsauce: inbox\n")
    with pytest.raises(ParamsError, match="2 value") as caught:
        Settings.load(tmp_path / "nightly.yaml")
    assert "gate.margin_sds" in str(caught.value) and "sauce" in str(caught.value)
    with pytest.raises(ParamsError, match="no such file"):
        Settings.load(tmp_path / "nothing.yaml")
    (tmp_path / "nightly.yaml").write_text("a: [")
    with pytest.raises(ParamsError, match="not readable as YAML"):
        Settings.load(tmp_path / "nightly.yaml")


def test_deployments_are_as_they_are_documented() -> None:
    found = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert [each["name"] for each in found] == ["nightly", "batch", "watch"]
    for each in found:
        file, _, name = each["entrypoint"].partition(":")
        assert f"\ndef {name}(" in (ROOT / file).read_text()
        assert (each["name"] == "watch") == ("triggers" in each)
        if "triggers" not in each:
            assert each["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
        for schedule in each.get("schedules", ()):
            minute, hour, *_ = schedule["cron"].split()
            assert hour == "*" or int(hour) * 60 + int(minute) >= 3 * 60 + 30
            assert "/" in schedule["timezone"]  # a place, not an offset


# --- the clone --------------------------------------------------------------------------------------------------------
@pytest.fixture
def followed(little: Path) -> Settings:
    """Settings for a project that has been committed."""
    (little / "params.yaml").write_text("fetch: {source: chorales}\ntrain: {seed: 0, epochs: 1}\n")
    (little / "nightly.yaml").write_text("params: {train: {epochs: 2}}\n")
    (little / ".gitignore").write_text("/.nightly\n/out\n/.dvc/tmp\n")
    for name, value in (("user.name", "tests"), ("user.email", "tests@localhost")):
        subprocess.run(["git", "config", name, value], cwd=little, check=True)
    commit(little, "first")
    return Settings.load(little / "nightly.yaml")


def commit(folder: Path, message: str) -> None:
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
    subprocess.run(["git", "commit", "--quiet", "-m", message], cwd=folder, check=True)


def test_the_clone_follows_the_project_and_keeps_its_own_two_files(followed: Settings) -> None:
    project, clone = followed.project, followed.clone
    repository.prepare(followed)
    repository.write_params(followed, {"train": {"seed": 5}})
    assert yaml.safe_load((clone / "params.yaml").read_text())["train"] == {"seed": 5, "epochs": 2}
    dvc.repro(clone, "copy", quiet)
    repository.commit(clone, "one")
    lock = (clone / "dvc.lock").read_text()

    (project / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (project / "in").write_text("second")
    (project / "params.yaml").write_text("fetch: {source: folder}\ntrain: {seed: 0, epochs: 1, more: 1}\n")
    (project / "new").write_text("new")
    commit(project, "second")
    repository.prepare(followed)
    assert (clone / "in").read_text() == "second" and (clone / "new").exists()
    assert (clone / "dvc.lock").read_text() == lock
    repository.write_params(followed, {})
    assert yaml.safe_load((clone / "params.yaml").read_text()) == {
        "fetch": {"source": "folder"},
        "train": {"seed": 0, "epochs": 2, "more": 1},
    }
    (project / "new").unlink()
    commit(project, "third")
    (clone / "in").write_text("somebody's edit")
    repository.prepare(followed)
    assert not (clone / "new").exists() and (clone / "in").read_text() == "second"
    assert repository.git(clone, "rev-list", "--count", "HEAD", "^origin/main") == "3"  # one night, two take-overs
    repository.prepare(followed)
    assert repository.git(clone, "rev-list", "--count", "HEAD", "^origin/main") == "3"


def test_the_clone_shares_the_projects_cache(followed: Settings) -> None:
    project = followed.project
    dvc.repro(project, "copy", quiet)
    repository.prepare(followed)
    assert process.run(["dvc", "cache", "dir"], followed.clone, quiet).stdout.strip() == str(project / ".dvc" / "cache")
    assert dvc.repro(followed.clone, "copy", quiet).outcome == "restored"


def test_versions_and_champions_are_tags_that_gto_reads(followed: Settings) -> None:
    repository.prepare(followed)
    clone = followed.clone
    assert repository.champion(clone) is None
    repository.write_params(followed, {"train": {"seed": 1}})
    repository.commit(clone, "one")
    assert repository.register(clone) == "v0.0.1"
    assert repository.register(clone) == "v0.0.1"  # a night that was killed here goes on
    repository.assign(clone, "v0.0.1")
    repository.write_params(followed, {"train": {"seed": 2}})
    repository.commit(clone, "two")
    assert repository.register(clone) == "v0.0.2"
    assert repository.champion(clone) == "v0.0.1"
    repository.assign(clone, "v0.0.2")
    repository.assign(clone, "v0.0.2")
    repository.assign(clone, "v0.0.1")  # back
    assert repository.champion(clone) == "v0.0.1"
    tags = repository.git(clone, "tag").splitlines()
    assert tags == ["model#champion#1", "model#champion#2", "model#champion#3", "model@v0.0.1", "model@v0.0.2"]
    assert "v0.0.1" in process.run(["gto", "show", "model#champion"], clone, quiet).stdout
    repository.push(clone)
    assert repository.git(followed.project, "tag").splitlines() == tags


def test_a_project_without_a_branch_is_refused(followed: Settings) -> None:
    repository.git(followed.project, "checkout", "--quiet", "--detach")
    with pytest.raises(repository.RepositoryError, match="no branch is checked out"):
        repository.prepare(followed)


# --- what a night makes up for ----------------------------------------------------------------------------------------
def test_a_night_cut_off_between_switch_and_tag_is_made_up_for(followed: Settings, tmp_path: Path) -> None:
    repository.prepare(followed)
    repository.write_params(followed, {"train": {"seed": 1}})
    repository.commit(followed.clone, "one")
    version = repository.register(followed.clone)
    versions.publish(write_data(tmp_path / "data", "a"), followed.published_folder, version)
    nightly.recover.fn(followed)
    assert repository.champion(followed.clone) is None  # it is not what people read
    versions.switch(followed.published_folder, version)
    nightly.recover.fn(followed)
    assert repository.champion(followed.clone) == version


def test_the_cache_is_left_alone_while_a_stage_runs(followed: Settings) -> None:
    repository.prepare(followed)
    dvc.repro(followed.clone, "copy", quiet)
    (followed.clone / "in").write_text("second")
    dvc.repro(followed.clone, "copy", quiet)
    cache = followed.project / ".dvc" / "cache" / "files"
    before = sorted(path.name for path in cache.rglob("*") if path.is_file())
    assert len(before) == 2
    lock = followed.project / ".dvc" / "tmp" / "rwlock"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text(json.dumps({"read": {}, "write": {str(followed.project / "out"): {"pid": 1, "cmd": "x"}}}))
    nightly.clean_up.fn(followed)
    assert sorted(path.name for path in cache.rglob("*") if path.is_file()) == before
    gone = subprocess.Popen([PYTHON, "-c", ""])
    gone.wait()
    lock.write_text(json.dumps({"read": {"x": [{"pid": gone.pid, "cmd": "was killed"}]}, "write": {}}))
    nightly.clean_up.fn(followed)
    assert len([path for path in cache.rglob("*") if path.is_file()]) == 1  # what is in use


def test_an_alert_that_fails_is_no_failure(followed: Settings, tmp_path: Path) -> None:
    said = tmp_path / "said"
    words = (PYTHON, "-c", f"import sys; open({str(said)!r}, 'w').write(sys.argv[1])")
    nightly.alert(followed.model_copy(update={"alert": words}), "help")
    assert said.read_text() == "help"
    nightly.alert(followed.model_copy(update={"alert": ("no-such-command",)}), "help")
    nightly.alert(followed, "help")


# --- nothing is sent, nothing is mixed --------------------------------------------------------------------------------
def test_importing_the_flows_turns_telemetry_off() -> None:
    program = "import flows, os, json; print(json.dumps({name: os.environ[name] for name in flows.OFFLINE}))"
    env = {name: value for name, value in os.environ.items() if name not in ("DO_NOT_TRACK", "DVC_NO_ANALYTICS")}
    out = subprocess.run([PYTHON, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout
    found = json.loads(out)
    assert found["DO_NOT_TRACK"] == "1" and found["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


def test_the_command_line_answers_without_prefect() -> None:
    program = "import sys, flows.__main__; print('prefect' in sys.modules, 'torch' in sys.modules)"
    out = subprocess.run([PYTHON, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out == "False False\n"
