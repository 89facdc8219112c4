"""The door: help, exit codes, what goes to stdout and what to stderr. Rooms are replaced by small stand-ins here."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path

import four_part
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from limits import HANG_S, WAIT_S

from midivae import __version__, errors
from midivae.cli import commands as cli
from midivae.storage import folders, schema, tables
from midivae.storage.files import write_bytes

NAMES = [stage.name for stage in cli.STAGES]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.midivae, [str(a) for a in arguments], prog_name="midivae")


def start(*arguments: object, room: str = "", **options: object) -> subprocess.Popen[str]:
    """The real console script in a process of its own; `room` is the body of `ingest.run`."""
    program = f"""
import sys, types
def run(params, data):
{textwrap.indent(room or "return {}", "    ")}
sys.modules["midivae.ingest.stage"] = types.SimpleNamespace(run=run)
from midivae.cli import main
sys.exit(main({[str(a) for a in arguments]!r}))
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", program], **{**pipes, **options})


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """Commands set the log up for a whole process; other tests want it as it was."""
    ours = logging.getLogger("midivae")
    before = ours.handlers, ours.level, ours.propagate
    yield
    ours.handlers, ours.level, ours.propagate = before


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text("train: {dense: {epochs: 3}}\n")
    return path


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, outcome: object) -> list[tuple]:
    """Puts a room in place that returns, or raises, `outcome`; the list gets the arguments of its calls."""
    calls: list[tuple] = []

    def run(*arguments: object) -> object:
        calls.append(arguments)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setitem(sys.modules, f"midivae.{name}.stage", types.SimpleNamespace(run=run))
    return calls


# --- stages -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_a_stage_gets_params_and_data_and_prints_one_line(
    name: str, params_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = stand_in(monkeypatch, name, {"found": 3, "seconds": 0.5})
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
    told = invoke("ingest", "--params", params_file, "--explain", tmp_path / "tunes" / "piece-000.mid")
    assert told.exit_code == 0, told.output
    assert "'Alto'" in told.stdout
    assert told.stdout.splitlines()[-1] == "accepted"
    refused = invoke("ingest", "--params", params_file, "--explain", tmp_path / "not.mid")
    assert refused.stdout.splitlines()[-1].startswith("rejected as not_midi")
    assert invoke("ingest", "--params", params_file, "--explain", tmp_path / "none.mid").exit_code == 3


def test_run_does_all_stages_in_order(params_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        stand_in(monkeypatch, name, {"did": name})
    result = invoke("run", "--params", params_file, "--data", tmp_path)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert lines == [{"stage": name, "did": name} for name in NAMES]


def test_run_stops_at_the_stage_that_fails_and_names_it(
    params_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, "fetch", {})
    stand_in(monkeypatch, "ingest", errors.InputError("no files"))
    after = stand_in(monkeypatch, "train", {})
    result = invoke("run", "--params", params_file, "--data", tmp_path)
    assert result.exit_code == 3
    assert "midivae ingest: no files\n" in result.stderr
    assert after == []


def test_stdout_holds_the_summary_alone_whatever_a_stage_and_its_children_print(params_file: Path) -> None:
    room = """
import os, subprocess, logging
print("from python")
os.write(1, b"from a C library\\n")
subprocess.run(["echo", "from a child"])
logging.getLogger("midivae.ingest.stage").info("from the log")
return {"found": 1}
"""
    process = start("ingest", "--params", params_file, room=room)
    out, err = process.communicate(timeout=WAIT_S)
    assert out == '{"stage": "ingest", "found": 1}\n'
    for text in ("from python", "from a C library", "from a child", "midivae.ingest.stage: from the log"):
        assert text in err


@pytest.mark.parametrize(
    ("flag", "shown"), [("-v", {"DEBUG", "INFO", "WARN"}), ("-q", {"WARN"}), (None, {"INFO", "WARN"})]
)
def test_verbose_and_quiet(flag: str | None, shown: set[str], params_file: Path) -> None:
    room = 'import logging; log = logging.getLogger("midivae.x"); log.debug("DEBUG"); log.info("INFO"); '
    room += 'log.warning("WARN"); return {}'
    _, err = start("ingest", "--params", params_file, *([flag] if flag else []), room=room).communicate(timeout=WAIT_S)
    assert {word for word in ("DEBUG", "INFO", "WARN") if word in err} == shown


def test_a_log_line_stands_above_the_progress_bar(params_file: Path) -> None:
    room = """
import logging, sys
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
with logging_redirect_tqdm():
    for i in tqdm(range(2), file=sys.stderr, mininterval=0):
        logging.getLogger("midivae.ingest.stage").info("item %d", i)
return {}
"""
    _, err = start("ingest", "--params", params_file, room=room).communicate(timeout=WAIT_S)
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
    stand_in(monkeypatch, "train", kind("part-3: too small, rerun stage `ingest`"))
    result = invoke("train", "--params", params_file, "--data", tmp_path, "-q")
    assert result.exit_code == kind.exit_code
    assert (result.stdout, result.stderr) == ("", "midivae train: part-3: too small, rerun stage `ingest`\n")


def test_exit_codes_of_different_kinds_differ() -> None:
    codes = [kind.exit_code for kind in errors.MidivaeError.__subclasses__()]
    assert sorted(codes) == [2, 3, 4, 5, 6]
    assert set(cli.exit_codes()) == {0, 1, *codes, 130}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ingest", "--params", "nowhere.yaml"], "midivae ingest: nowhere.yaml: no such file"),
        (["ingest", "--nonsense"], "No such option"),
        (["nonsense"], "No such command"),
        (["catalog", "--descending"], "midivae catalog: --descending goes with --sort"),
        (["catalog", "--columns", "midi"], "`midivae export` writes them"),
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
    process = start("ingest", "--params", params_file, room="1 / 0")
    out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (1, "")
    assert "ZeroDivisionError" in err
    assert "Traceback" in err


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_a_stage_clean_up(signum: int, code: int, params_file: Path) -> None:
    room = f"""
import sys, time
try:
    print("ready", file=sys.stderr, flush=True)
    time.sleep({HANG_S})
finally:
    print("cleaned", file=sys.stderr)
"""
    process = start("ingest", "--params", params_file, room=room)
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    process.send_signal(signum)
    out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (code, "")
    assert "cleaned" in err
    assert "Traceback" not in err


# commands that work on no folder of stages: on what is published, or on what they are given
ELSEWHERE = {"inbox", "spread", "switch", "versions", "order"}


# --- help -------------------------------------------------------------------------------------------------------------
def test_version() -> None:
    assert invoke("--version").stdout == f"midivae {__version__}\n"


def test_help_lists_the_stages_in_order() -> None:
    text = invoke("--help").stdout
    commands = text[text.index("Commands:") :].splitlines()[1 : 1 + len(NAMES)]
    assert [line.split()[0] for line in commands] == NAMES


@pytest.mark.parametrize("name", list(cli.midivae.commands))
def test_every_command_has_a_sentence_an_example_and_exit_codes(name: str) -> None:
    text = invoke(name, "--help").stdout
    first_paragraph = text.split("\n\n")[1]
    assert first_paragraph.endswith(".")
    assert f"\n    midivae {name}" in text
    assert ("--data DIR" in text) != (name in ELSEWHERE)
    assert "0  Done." in text
    assert "130  Interrupted" in text


@pytest.mark.parametrize("stage", cli.STAGES, ids=NAMES)
def test_a_stage_says_what_it_reads_and_writes(stage: cli.Stage) -> None:
    text = invoke(stage.name, "--help").stdout
    assert stage.summary in text
    assert f"Writes:  data/{stage.writes}" in text
    assert all(f"data/{folder}" in text for folder in stage.reads)


def test_help_loads_none_of_the_heavy_libraries() -> None:
    program = (
        "import sys; from midivae.cli import main; main(['train', '--help']); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pandas", "pyarrow", "pydantic", "yaml", "tqdm"} & set(done.stderr.split())


def test_fetch_does_not_load_torch() -> None:
    program = "import sys, midivae.fetch.stage; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout.split()


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


# --- catalog and export -----------------------------------------------------------------------------------------------
KEYS = ["G major", "C major", None]
NOVELTY = [0.9, 0.1, None]


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """A catalog of three samples; the third is silent."""
    table = schema.CATALOG
    columns: dict[str, list] = {name: [0.5, 1.5, 2.5] for name in table.columns.names}
    columns |= {
        name: ["x", "x", "x"] for name in ("mode", "method", "model", "model_sha256", "params_sha256", "edits", "prior")
    }
    columns |= {name: [1, 2, 3] for name in ("seed", "index", "n_steps", "steps_per_beat", "transpose", "lead_steps")}
    columns |= {
        "sample_id": [f"sample-{i:07}" for i in range(3)],
        "job": ["sample"] * 3,
        "z": [[0.1, 0.2]] * 3,
        "parents": [[], [], []],
        "weights": [[], [], []],
        "parts": [["merged"]] * 3,
        "programs": [[0]] * 3,
        "key": KEYS,
        "novelty": NOVELTY,
        "midi": [{"bytes": bytes([i]), "path": None} for i in range(3)],
    }
    rows = pa.table({name: pa.array(columns[name], table.columns.field(name).type) for name in table.columns.names})
    tables.write(tmp_path / "samples" / "catalog" / "sample-00000-of-00001.parquet", rows, table)
    return tmp_path


def test_catalog_prints_json_lines_with_all_columns_but_the_heavy_ones(samples: Path) -> None:
    result = invoke("catalog", "--data", samples, "--json")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["key"] for row in rows] == KEYS
    assert [row["novelty"] for row in rows] == NOVELTY
    assert set(rows[0]) == set(schema.CATALOG.columns.names) - {"z", "midi"}
    assert result.stderr == "3 samples\n"


def test_catalog_filters_sorts_limits_and_picks_columns(samples: Path) -> None:
    def listed(*options: str) -> list[dict]:
        result = invoke("catalog", "--data", samples, "--json", "--columns", "sample_id,z", *options)
        assert result.exit_code == 0, result.output
        return [json.loads(line) for line in result.stdout.splitlines()]

    assert listed("--where", "key == 'C major'") == [{"sample_id": "sample-0000001", "z": [0.1, 0.2]}]
    order = [row["sample_id"][-1] for row in listed("--sort", "novelty")]
    assert order == ["1", "0", "2"]  # missing values come last, either way
    assert [row["sample_id"][-1] for row in listed("--sort", "novelty", "--descending")] == ["0", "1", "2"]
    assert [row["sample_id"][-1] for row in listed("--sort", "-novelty", "--limit", "1")] == ["0"]


@pytest.mark.parametrize(("value", "shown"), [(2420.0, "2420"), (151.25, "151"), (0.6639, "0.664"), (-1234.5, "-1234")])
def test_numbers_of_the_table_are_short_and_plain(value: float, shown: str) -> None:
    assert cli._short(value) == shown


def test_catalog_prints_a_table(samples: Path) -> None:
    lines = invoke("catalog", "--data", samples).stdout.splitlines()
    assert lines[0].split() == list(cli.OVERVIEW)
    assert lines[1].split()[0] == "sample-0000000"
    assert len(lines) == 4
    assert invoke("catalog", "--data", samples, "--where", "novelty > 1").stdout == ""


def test_catalog_says_what_is_wrong_with_a_filter(samples: Path) -> None:
    result = invoke("catalog", "--data", samples, "--where", "polyfony > 2")
    assert result.exit_code == errors.ParamsError.exit_code
    assert "nearest: polyphony" in result.stderr


def test_catalog_is_quiet_when_its_reader_goes(samples: Path) -> None:
    """`midivae catalog | head -1`: no traceback, and the exit code that shells give for a broken pipe."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = start("catalog", "--data", samples, stdout=write_end)
    os.close(write_end)
    _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 141
    assert "Error" not in err


def test_export_writes_the_chosen_samples(samples: Path, tmp_path: Path) -> None:
    result = invoke("export", "--data", samples, "--where", "novelty > 0.5", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"written": 1, "folder": str(tmp_path / "out")}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["catalog.csv", "sample-0000000.mid"]
    assert (tmp_path / "out" / "sample-0000000.mid").read_bytes() == b"\x00"


def test_values_go_to_json_as_they_were_written() -> None:
    # float32(0.9) is 0.899999976...; people wrote 0.9
    assert cli._plain(np.float32(0.9)) == 0.9
    assert cli._plain(np.float32("nan")) is None
    assert cli._plain(np.array([1, 2], np.int32)) == [1, 2]
    assert cli._plain(np.int64(2**60)) == 2**60
    assert cli._plain(None) is None
