"""The commands of the stages: what they pass on, what goes to stdout and stderr, exit codes, signals; `verify`."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import four_part
import pytest
from limits import HANG_S, WAIT_S
from program import invoke, replace_stage, start

from midivae import errors
from midivae.cli.base import exit_codes
from midivae.cli.stages import STAGES
from midivae.storage import folders
from midivae.storage.files import write_bytes

NAMES = [stage.name for stage in STAGES]


# --- stages -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_a_stage_gets_params_and_data_and_prints_one_line(
    name: str, params_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = replace_stage(monkeypatch, name, {"found": 3, "seconds": 0.5})
    result = invoke(name, "--params", params_file, "--data", tmp_path / "here")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    assert json.loads(result.stdout) == {"stage": name, "found": 3, "seconds": 0.5}
    [(params, data)] = calls
    assert params.train.dense.epochs == 3
    assert data == tmp_path / "here"


def test_ingest_explains_one_file(tmp_path: Path, params_file: Path) -> None:
    four_part.write_corpus(tmp_path / "tunes", 1)
    (tmp_path / "not.mid").write_bytes(b"RIFF")
    result = invoke("ingest", "--params", params_file, "--explain", tmp_path / "tunes" / "piece-000.mid")
    assert result.exit_code == 0, result.output
    assert "'Alto'" in result.stdout
    assert result.stdout.splitlines()[-1] == "accepted"
    refused = invoke("ingest", "--params", params_file, "--explain", tmp_path / "not.mid")
    assert refused.stdout.splitlines()[-1].startswith("rejected as not_midi")
    assert invoke("ingest", "--params", params_file, "--explain", tmp_path / "none.mid").exit_code == 3


def test_under_dvc_only_the_code_in_its_folder_runs(
    params_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = replace_stage(monkeypatch, "ingest", {})
    (tmp_path / "midivae").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "ingest")
    result = invoke("ingest", "--params", params_file)
    assert result.exit_code == 2
    assert f"DVC would record that in {tmp_path / 'midivae'}" in result.stderr
    assert calls == []
    monkeypatch.chdir(Path(errors.__file__).parents[1])
    assert invoke("ingest", "--params", params_file).exit_code == 0
    assert len(calls) == 1


def test_run_does_all_stages_in_order(params_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        replace_stage(monkeypatch, name, {"did": name})
    result = invoke("run", "--params", params_file, "--data", tmp_path)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert lines == [{"stage": name, "did": name} for name in NAMES]


def test_run_stops_at_the_stage_that_fails_and_names_it(
    params_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_stage(monkeypatch, "fetch", {})
    replace_stage(monkeypatch, "ingest", errors.InputError("no files"))
    after = replace_stage(monkeypatch, "train", {})
    result = invoke("run", "--params", params_file, "--data", tmp_path)
    assert result.exit_code == 3
    assert "midivae ingest: no files\n" in result.stderr
    assert after == []


def test_stdout_holds_the_summary_alone_whatever_a_stage_and_its_children_print(params_file: Path) -> None:
    body = """
import os, subprocess, logging
print("from python")
os.write(1, b"from a C library\\n")
subprocess.run(["echo", "from a child"])
logging.getLogger("midivae.ingest.stage").info("from the log")
return {"found": 1}
"""
    process = start("ingest", "--params", params_file, body=body)
    out, err = process.communicate(timeout=WAIT_S)
    assert out == '{"stage": "ingest", "found": 1}\n'
    for text in ("from python", "from a C library", "from a child", "midivae.ingest.stage: from the log"):
        assert text in err


@pytest.mark.parametrize(
    ("flag", "shown"), [("-v", {"DEBUG", "INFO", "WARN"}), ("-q", {"WARN"}), (None, {"INFO", "WARN"})]
)
def test_verbose_and_quiet(flag: str | None, shown: set[str], params_file: Path) -> None:
    body = 'import logging; log = logging.getLogger("midivae.x"); log.debug("DEBUG"); log.info("INFO"); '
    body += 'log.warning("WARN"); return {}'
    _, err = start("ingest", "--params", params_file, *([flag] if flag else []), body=body).communicate(timeout=WAIT_S)
    assert {word for word in ("DEBUG", "INFO", "WARN") if word in err} == shown


def test_a_log_line_stands_above_the_progress_bar(params_file: Path) -> None:
    body = """
import logging, sys
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
with logging_redirect_tqdm():
    for i in tqdm(range(2), file=sys.stderr, mininterval=0):
        logging.getLogger("midivae.ingest.stage").info("item %d", i)
return {}
"""
    _, err = start("ingest", "--params", params_file, body=body).communicate(timeout=WAIT_S)
    lines = [line.split("\r")[-1] for line in err.splitlines()]  # what stays on the screen
    assert [line[9:] for line in lines if "item" in line] == [
        "midivae.ingest.stage: item 0",
        "midivae.ingest.stage: item 1",
    ]


# --- errors -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", errors.MidivaeError.__subclasses__())
def test_our_errors_are_one_message_and_their_exit_code(
    kind: type[errors.MidivaeError], params_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_stage(monkeypatch, "train", kind("part-3: too small, rerun stage `ingest`"))
    result = invoke("train", "--params", params_file, "--data", tmp_path, "-q")
    assert result.exit_code == kind.exit_code
    assert (result.stdout, result.stderr) == ("", "midivae train: part-3: too small, rerun stage `ingest`\n")


def test_exit_codes_of_different_kinds_differ() -> None:
    codes = [kind.exit_code for kind in errors.MidivaeError.__subclasses__()]
    assert sorted(codes) == [2, 3, 4, 5, 6]
    assert set(exit_codes()) == {0, 1, *codes, 130}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ingest", "--params", "nowhere.yaml"], "midivae ingest: nowhere.yaml: no such file"),
        (["ingest", "--nonsense"], "No such option"),
        (["nonsense"], "No such command"),
        (["catalog", "--descending"], "midivae catalog: --descending goes with --sort"),
        (["catalog", "--columns", "midi"], "`midivae export` writes the files"),
    ],
)
def test_bad_arguments_exit_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_every_broken_rule_of_params_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("ingest: {pitch_low: 100}\ntrain: {epoch: 3}\n")
    result = invoke("ingest", "--params", path)
    assert result.exit_code == 2
    assert "pitch_low 100 + pitches 48 > 128" in result.stderr
    assert "train.epoch" in result.stderr


def test_an_unforeseen_exception_is_a_traceback_and_exit_1(params_file: Path) -> None:
    process = start("ingest", "--params", params_file, body="1 / 0")
    out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (1, "")
    assert "ZeroDivisionError" in err
    assert "Traceback" in err


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_a_stage_clean_up(signum: int, code: int, params_file: Path) -> None:
    body = f"""
import sys, time
try:
    print("ready", file=sys.stderr, flush=True)
    time.sleep({HANG_S})
finally:
    print("cleaned", file=sys.stderr)
"""
    process = start("ingest", "--params", params_file, body=body)
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    process.send_signal(signum)
    out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (code, "")
    assert "cleaned" in err
    assert "Traceback" not in err


# --- verify -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder of which `fetch` and `ingest` have written theirs."""
    for name in ("corpus", "rolls"):
        with folders.publishing(tmp_path / "data" / name) as staging:
            write_bytes(staging / "sub" / "a.bin", b"music")
            write_bytes(staging / "b.bin", b"more")
    return tmp_path / "data"


def test_verify_passes_what_is_as_written(data: Path) -> None:
    result = invoke("verify", "--data", data)
    assert result.exit_code == 0
    assert result.stdout == f"{data}/corpus: 0 of 2 files wrong\n{data}/rolls: 0 of 2 files wrong\n"


def test_verify_names_every_wrong_file(data: Path) -> None:
    (data / "rolls" / "b.bin").write_bytes(b"mOre")
    (data / "corpus" / "sub" / "a.bin").unlink()
    result = invoke("verify", data / "corpus", data / "rolls")
    assert result.exit_code == errors.CorruptError.exit_code
    assert f"{data}/corpus/sub/a.bin: missing" in result.stderr
    assert f"{data}/rolls/b.bin: sha256 differs" in result.stderr
    assert "2 file(s)" in result.stderr


def test_verify_refuses_a_folder_that_is_not_ours(tmp_path: Path) -> None:
    assert invoke("verify", tmp_path).exit_code == errors.InputError.exit_code
    result = invoke("verify", "--data", tmp_path)
    assert result.exit_code == errors.InputError.exit_code
    assert "no stage has written here" in result.stderr
