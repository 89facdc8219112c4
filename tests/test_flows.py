"""The parts that nights are made of: commands that leave nothing behind, stages in order, settings, the clone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from limits import HANG_S, WAIT_S
from nights import processes_under, until
from test_project import ROOT

from flows import process
from flows.settings import Settings
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
