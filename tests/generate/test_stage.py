"""Stage `generate`: the same samples whatever the parts, workers and neighbours; nothing lost to a kill."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pandas as pd
import pretty_midi
import pyarrow.parquet as pq
import pytest
import torch
from cluster import kill_when, two_workers
from floats import close
from four_part import piece
from inline import in_this_process, linked
from limits import HANG_S
from pieces import as_fetched
from workers.test_parallel import children_of, running, wait_for

from midivae import models
from midivae.catalog import read
from midivae.config.compute import Compute
from midivae.config.params import Params, parse
from midivae.errors import CorruptError, InputError, ParamsError, WorkerError
from midivae.generate import parts
from midivae.generate import stage as generate
from midivae.generate.context import Draws
from midivae.ingest import stage as ingest
from midivae.measures import harmony
from midivae.models import coding
from midivae.models.chance import Chance
from midivae.music import smf
from midivae.music.parts import assign_parts
from midivae.music.roll import Layout, Roll, batch_to_notes, from_notes, to_notes
from midivae.storage import folders, schema
from midivae.storage.files import file_sha256
from midivae.windows.corpus import load_corpus
from midivae.windows.windows import cut_planes, find_windows
from midivae.workers.outcome import Failure, Outcome

pytestmark = pytest.mark.numerical

PARTS = ("soprano", "bass")
VALUES: dict[str, Any] = {
    "compute": {"workers": 1},
    "ingest": {"parts": {"tracks": {"soprano": ["soprano*"], "bass": ["bass*"]}}},
    "train": {
        "model": "mlp",
        "compare": ["autoencoder", "transformer"],
        "view": {"steps": 32},
        "dense": {"hidden": [16], "latent": 4},
        "transformer": {"width": 16, "channels": 8, "heads": 2, "layers": 1, "cell": 4, "context": 8}
        | {"coarse": 6, "fine": 4, "draft": 16, "draft_steps": 20},
    },
}


def params(jobs: list[dict[str, Any]], **sections: Any) -> Params:
    """The small parameters of these tests, with these jobs."""
    generate_section = {"jobs": jobs, **sections.pop("generate", {})}
    return parse({**VALUES, "generate": generate_section} | sections, "test")


def write_model(data: Path, name: str, folder: Path, loudness: float = -3.0) -> None:
    """An untrained model; `loudness` is the mean bias of its cells' logits."""
    values = params([{"name": "a", "count": 1}])
    layout = Layout(PARTS, 36, 48, 4)
    config = models.Config(
        name=name,
        layout=layout,
        view=values.train.view,
        network=values.train.network(name),
        steps_per_bar=16,
        tempo_qpm=90.0,
        programs=(52, -1),
        data_sha256=file_sha256(data / "rolls" / folders.MANIFEST),
    )
    model = models.create(config, torch.Generator().manual_seed(5))
    with torch.no_grad():
        if model.prior is not None:
            model.prior.center.fill_(3.0)
            model.prior.spread.fill_(0.5)
            model.save_pretrained(folder)
            return
        model.logits.bias.normal_(loudness, 1.5, generator=torch.Generator().manual_seed(6))  # type: ignore[union-attr]
        model.logits.weight.mul_(9)  # type: ignore[union-attr]
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with rolls and two models."""
    data = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIDIVAE_HOME", str(data / "work"))
        as_fetched(data, {f"{i}.mid": smf.write(piece(i)) for i in range(12)})
        ingest.run(params([{"name": "a", "count": 1}]), data)
    write_model(data, "mlp", data / "model")
    for name in ("autoencoder", "transformer"):
        write_model(data, name, data / "model" / "compare" / name)
    return data


@pytest.fixture
def data(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of its own, with the trained models, and an empty work directory."""
    monkeypatch.setenv("MIDIVAE_HOME", str(tmp_path / "work"))
    return linked(trained, tmp_path / "data")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are made in this process, where shapes are checked and no child has to start."""
    monkeypatch.setattr(parts, "fan_out", in_this_process)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(data: Path, columns: list[str] | None = None) -> pd.DataFrame:
    return pd.read_parquet(data / "samples" / "catalog", columns=columns)


# --- where latents come from ------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("here")
def test_latents_come_from_the_fitted_prior_or_from_a_standard_normal(data: Path) -> None:
    jobs = [
        {"name": "a", "count": 70, "model": "transformer"},  # auto: fitted, drawn
        {"name": "b", "count": 2, "model": "transformer", "prior": "normal"},
        {"name": "c", "count": 2, "model": "mlp"},
    ]
    generate.run(params(jobs), data)
    made = rows(data, ["job", "index", "prior", "temperature", "z"]).set_index(["job", "index"])
    assert made.groupby("job")["prior"].unique().map(list).to_dict() == {
        "a": ["fitted"],
        "b": ["normal"],
        "c": ["normal"],
    }
    prior = models.load(data / "model" / "compare" / "transformer").prior
    assert prior is not None
    latent = 6 + 8 * 4  # a coarse one, and a fine one for each of eight beats, which samples do not use
    noise = Draws(0, "a", range(70), latent, None).noise()
    # its couplings do nothing yet: center and spread alone
    assert close(np.stack(made.loc["a"]["z"].to_list()), 3 + 0.5 * noise[:, :6])
    assert np.array_equal(coding.from_noise(prior, noise)[64:], coding.from_noise(prior, noise[64:]))
    for job, n_drawn, n_kept in (("b", latent, 6), ("c", 4, 4)):
        noise = Draws(0, job, range(2), n_drawn, None).noise()[:, :n_kept]
        assert np.array_equal(np.stack(made.loc[job]["z"].to_list()), noise)
    assert (made.loc["a"]["temperature"] == 1).all()
    assert made.loc["c"]["temperature"].isna().all()


def test_a_model_without_a_fitted_prior_refuses_before_any_work(data: Path) -> None:
    with pytest.raises(ParamsError, match=r"job 'a': prior is 'fitted', but model 'mlp'"):
        generate.run(params([{"name": "a", "count": 1, "prior": "fitted"}]), data)
    assert not (data / "samples").exists()


# --- the same samples, always -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("temperature", [None, 1.3])
def test_rows_do_not_depend_on_parts_or_count(data: Path, here: None, temperature: float | None) -> None:
    job = {"name": "a", "count": 3 * coding.BLOCK + 5, "temperature": temperature}
    generate.run(params([job], generate={"samples_per_part": 10_000}), data)
    whole = rows(data)
    generate.run(params([job], generate={"samples_per_part": 1}), data)  # a part is at least a block
    assert len(list((data / "samples" / "catalog").glob("a-*-of-00004.parquet"))) == 4
    pd.testing.assert_frame_equal(rows(data), whole)
    # the first samples of a larger job, beside another job
    generate.run(params([{"name": "b", "count": 3}, {**job, "count": 7}]), data)
    alone = rows(data).query("job == 'a'").reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, whole.head(7))


def test_jobs_seeds_and_temperatures_differ(data: Path, here: None) -> None:
    job = {"count": 2}
    jobs = [{"name": "a", **job}, {"name": "b", **job}, {"name": "c", **job, "temperature": 1.0}]
    generate.run(params(jobs), data)
    first = {name: np.stack(list(group["z"])) for name, group in rows(data).groupby("job")}
    generate.run(params(jobs, generate={"seed": 1}), data)
    other = {name: np.stack(list(group["z"])) for name, group in rows(data).groupby("job")}
    latents = [z for seeds in (first, other) for z in seeds.values()]
    assert len({z.tobytes() for z in latents}) == len(latents)


# --- what a row holds -------------------------------------------------------------------------------------------------
def test_rows_agree_with_their_midi_and_the_model(data: Path, here: None) -> None:
    job = {"name": "a", "count": 9, "tempo_qpm": 150, "programs": {"bass": 32}}
    summary = generate.run(params([job]), data)
    found = rows(data)
    assert summary["samples"] == len(found) == 9
    assert list(found["sample_id"]) == [f"a-{i:07d}" for i in range(9)]
    assert found[list(schema.ENDINGS)].isna().all(axis=None)  # samples are no whole pieces
    # 32 steps of a quarter beat are 8 beats; at 150 a minute 8 * 0.4 s
    assert np.allclose(found["duration_s"], 3.2)
    assert found["programs"].map(list).tolist() == [[52, 32]] * 9
    model = models.load(data / "model")
    assert found["model_sha256"].unique().tolist() == [file_sha256(data / "model" / "model.safetensors")]
    planes = coding.decode(model, np.stack(list(found["z"])), Chance(params([job]).generate.jobs[0].threshold))
    layout = Layout(PARTS, 36, 48, 4)
    for row, roll in zip(found.to_dict("records"), planes, strict=True):
        notes = smf.read(row["midi"]["bytes"]).notes
        part = assign_parts(notes, params([job]).ingest.parts)
        assert np.array_equal(from_notes(notes, part, layout, 32).planes, roll)
        for name, (value,) in harmony.measure(roll[None], layout, 4).items():
            np.testing.assert_equal(row[name], value, err_msg=name)
        assert len(notes) == row["notes"]
        assert row["midi"]["path"] == f"midi/a/{row['sample_id']}.mid"
        assert (data / "samples" / row["midi"]["path"]).read_bytes() == row["midi"]["bytes"]
        judge = pretty_midi.PrettyMIDI(io.BytesIO(row["midi"]["bytes"]))
        assert sum(len(i.notes) for i in judge.instruments) == row["notes"]
        assert judge.get_tempo_changes()[1][0] == pytest.approx(150)
        tracks = mido.MidiFile(file=io.BytesIO(row["midi"]["bytes"])).tracks
        assert {sum(message.time for message in track) for track in tracks} == {8 * 480}  # all end with the sample
        assert {i.name: i.program for i in judge.instruments} == {"soprano": 52, "bass": 32}


def test_programs_and_tempo_of_the_model_by_default(data: Path, here: None) -> None:
    generate.run(params([{"name": "a", "count": 1}]), data)
    row = rows(data).iloc[0]
    assert row["tempo_qpm"] == 90
    assert list(row["programs"]) == [52, 0]  # no training piece has notes in "bass": a piano


def test_the_metre_is_that_of_the_training_pieces(trained: Path, data: Path, here: None) -> None:
    (data / "model").unlink()
    write_model(data, "mlp", data / "model")
    model = models.load(data / "model")
    assert model.config.steps_per_bar == 16
    model.config = replace(model.config, steps_per_bar=12)
    model.save_pretrained(data / "model")
    generate.run(params([{"name": "a", "count": 1}]), data)
    tracks = mido.MidiFile(file=io.BytesIO(rows(data)["midi"][0]["bytes"])).tracks
    metres = [(m.numerator, m.denominator) for track in tracks for m in track if m.type == "time_signature"]
    assert metres == [(3, 4)]


def test_silent_samples_are_rows_with_valid_midi(trained: Path, data: Path, here: None) -> None:
    (data / "model").unlink()
    write_model(data, "mlp", data / "model", loudness=-90.0)
    summary = generate.run(params([{"name": "a", "count": 3}]), data)
    assert summary["silent"] == 3
    found = rows(data)
    assert found["notes"].tolist() == [0, 0, 0]
    for column in ("key", "novelty", "polyphony"):
        assert len(read.samples(data, f"{column} IS NULL")) == 3  # missing, not NaN
    for file in found["midi"]:
        assert pretty_midi.PrettyMIDI(io.BytesIO(file["bytes"])).instruments == []


def test_novelty_is_zero_for_music_of_the_training_pieces(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = load_corpus(data / "rolls", ["train"])
    view = params([{"name": "a", "count": 1}]).train.view
    windows = find_windows(corpus, view)
    real = cut_planes(corpus, windows, np.arange(min(8, len(windows))), view)
    real[0, 16:] = False  # a window of one bar, the other empty
    real[1, 16:] = ~real[1, 16:]  # a window with one bar that is in no piece: half new
    real[2] = False

    def fan_out(fn: Callable[..., Any], specs: list[Any], *_: Any, **__: Any) -> Iterator[tuple[int, Outcome]]:
        yield 0, Outcome(fn(specs[0], lambda _: None))

    monkeypatch.setattr(parts, "fan_out", fan_out)
    monkeypatch.setattr(coding, "decode", lambda *_, **__: real)
    generate.run(params([{"name": "a", "count": len(real)}]), data)
    novelty = rows(data)["novelty"].to_numpy()
    assert novelty[:2].tolist() == [0, 0.5]
    assert np.isnan(novelty[2])
    assert (novelty[3:] == 0).all()


def test_catalog_is_readable_by_others_and_can_be_skipped(data: Path, here: None) -> None:
    generate.run(params([{"name": "a", "count": 5}, {"name": "b", "count": 2, "midi_files": False}]), data)
    assert folders.verify(data / "samples") == []
    assert not (data / "samples" / "midi" / "b").exists()
    statistics = pq.ParquetFile(data / "samples" / "catalog" / "a-00000-of-00001.parquet").metadata.row_group(0)
    by_name = {
        statistics.column(i).path_in_schema: statistics.column(i).statistics for i in range(statistics.num_columns)
    }
    assert by_name["index"].max == 4
    assert by_name["job"].min == "a"
    assert by_name["notes"].has_min_max
    assert rows(data).describe().loc["count", "notes"] == 7


# --- kills, damage, workers -------------------------------------------------------------------------------------------
JOBS = [{"name": "a", "count": 5 * coding.BLOCK}, {"name": "b", "count": 10, "model": "autoencoder", "temperature": 1}]
# takes the first part that is made, and then waits until it is killed; its worker goes on meanwhile
SCRIPT = f"""
import json, pathlib, sys, time
from midivae.generate import parts, stage as generate
from midivae.config import params
fan_out = parts.fan_out

def first_alone(*arguments, **options):
    for outcome in fan_out(*arguments, **options):
        yield outcome
        time.sleep({HANG_S})

parts.fan_out = first_alone
generate.run(params.parse(json.loads(sys.argv[1]), "test"), pathlib.Path(sys.argv[2]))
"""


def test_a_killed_run_goes_on_with_what_is_missing(data: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    values = params(JOBS, generate={"samples_per_part": coding.BLOCK})  # 5 + 1 parts
    command = [sys.executable, "-c", SCRIPT, values.model_dump_json(), str(data)]
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=os.environ.copy())
    work = tmp_path / "work" / "generate"
    while not list(work.glob("*/*.parquet")):
        assert run.poll() is None
        time.sleep(0.001)
    workers = children_of(run.pid)
    run.send_signal(signal.SIGKILL)
    run.wait()
    wait_for(lambda: not any(running(pid) for pid in workers))
    assert not (data / "samples").exists()
    kept = len(list(work.glob("*/*.parquet")))

    # two workers do the rest
    summary = generate.run(params(JOBS, generate={"samples_per_part": coding.BLOCK}, compute={"workers": 2}), data)
    assert (summary["parts_made"], summary["parts_reused"]) == (6 - kept, kept)
    interrupted = rows(data)
    # the same in one process, in one go
    (tmp_path / "work").rename(tmp_path / "old")
    request.getfixturevalue("here")
    assert generate.run(values, data)["parts_reused"] == 0
    pd.testing.assert_frame_equal(rows(data), interrupted)


def test_a_damaged_part_is_made_again(data: Path, tmp_path: Path, here: None) -> None:
    values = params([{"name": "a", "count": 70}], generate={"samples_per_part": 64})
    generate.run(values, data)
    before = rows(data)
    part = sorted((tmp_path / "work" / "generate").glob("*/*.parquet"))[0]
    whole = bytearray(part.read_bytes())
    whole[len(whole) // 2] ^= 8
    part.write_bytes(whole)
    summary = generate.run(values, data)
    assert (summary["parts_made"], summary["parts_reused"]) == (1, 1)
    pd.testing.assert_frame_equal(rows(data), before)


def test_a_new_seed_or_model_makes_all_parts_again(data: Path, here: None) -> None:
    values = params([{"name": "a", "count": 2}])
    assert generate.run(values, data)["parts_made"] == 1
    assert generate.run(values, data)["parts_made"] == 0
    assert generate.run(params([{"name": "a", "count": 2}], generate={"seed": 1}), data)["parts_made"] == 1
    (data / "model").unlink()
    write_model(data, "mlp", data / "model", loudness=-1.0)
    assert generate.run(values, data)["parts_made"] == 1


def test_the_work_directory_does_not_grow_for_ever(
    data: Path, tmp_path: Path, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "KEPT", 2)
    for seed in range(5):
        generate.run(params([{"name": "a", "count": 2}], generate={"seed": seed}), data)
    # the bars that are in use, this run's job, and two of the runs before
    assert len(list((tmp_path / "work" / "generate").iterdir())) == 4
    assert generate.run(params([{"name": "a", "count": 2}], generate={"seed": 3}), data)["parts_reused"] == 1
    assert generate.run(params([{"name": "a", "count": 2}], generate={"seed": 0}), data)["parts_reused"] == 0


def test_a_worker_that_dies_fails_the_stage(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = Outcome(None, Failure("memory", 64, "killed by the system"))
    monkeypatch.setattr(parts, "fan_out", lambda *_, **__: iter([(0, dead)]))
    with pytest.raises(WorkerError, match="ran out of memory at item 64"):
        generate.run(params([{"name": "a", "count": 100}]), data)
    assert not (data / "samples").exists()


@pytest.mark.server
def test_a_cluster_makes_the_same_bytes_though_a_worker_is_killed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    going_on = {"mode": "continue", "model": "transformer", "one_key": False, "parents": ["split:train"]}
    jobs = [*JOBS, {"name": "c", "count": 4 * coding.BLOCK, **going_on}]
    values = params(jobs, generate={"samples_per_part": coding.BLOCK}, compute={"workers": 2})  # 5 + 1 + 4 parts
    generate.run(values, data)
    local = contents(data / "samples")

    made = tmp_path / "shared" / "generate"
    monkeypatch.setenv("MIDIVAE_HOME", str(tmp_path / "shared"))
    with two_workers(tmp_path) as (address, first, _):
        killer = threading.Thread(target=kill_when, args=(first, lambda: bool(list(made.glob("*/*-*.parquet")))))
        killer.start()
        summary = generate.run(values.model_copy(update={"compute": Compute(scheduler=address)}), data)
        killer.join()
        assert first.poll() is not None
    assert (summary["parts_made"], summary["parts_reused"]) == (10, 0)
    assert contents(data / "samples") == local


# --- bad requests fail before any work --------------------------------------------------------------------------------
def test_bad_requests(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"job 'a'.*'violin'.*\['soprano', 'bass'\].*name one of these"):
        generate.run(params([{"name": "a", "count": 1, "programs": {"violin": 40}}]), data)
    assert not (tmp_path / "work").exists()
    with pytest.raises(InputError, match=r"run stage `ingest`"):
        generate.run(
            params([{"name": "a", "count": 1}], train={**VALUES["train"], "model": "autoencoder", "compare": []}),
            tmp_path,
        )


def test_names_that_evaluate_needs_are_refused() -> None:
    with pytest.raises(ParamsError, match="no job may be named 'held-out'"):
        params([{"name": "held-out", "count": 1}])


def test_jobs_of_models_with_latents_of_different_sizes_share_a_catalog(trained: Path, data: Path) -> None:
    (data / "model").unlink()
    write_model(data, "mlp", data / "model")
    config = json.loads((data / "model" / "config.json").read_text())
    wider = models.Config.from_dict({**config, "network": {**config["network"], "latent": 5}}, "test")
    models.create(wider, torch.Generator()).save_pretrained(data / "model" / "compare" / "autoencoder")
    generate.run(params([{"name": "a", "count": 2}, {"name": "b", "count": 2, "model": "autoencoder"}]), data)
    rows = read.samples(data, latents=True)
    assert rows["z"].map(len).tolist() == [4, 4, 5, 5]
    assert read.latents(rows[rows["job"] == "b"]).shape == (2, 5)
    with pytest.raises(ParamsError, match=r"different sizes, \[4, 5\]; choose rows of one model"):
        read.latents(rows)


def test_a_damaged_model_is_named(trained: Path, data: Path) -> None:
    (data / "model").unlink()
    write_model(data, "mlp", data / "model")
    weights = bytearray((data / "model" / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (data / "model" / "model.safetensors").write_bytes(weights)
    with pytest.raises(CorruptError, match="sha256"):
        generate.run(params([{"name": "a", "count": 1}]), data)


def test_rolls_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run stage `ingest`"):
        generate.run(params([{"name": "a", "count": 1}]), tmp_path)


def test_the_catalog_module_reads_it(data: Path, here: None) -> None:
    generate.run(params([{"name": "a", "count": 5}]), data)
    assert len(read.samples(data, where="notes >= 0", sort="-novelty")) == 5
    assert read.latents(read.samples(data, latents=True)).shape == (5, 4)


def test_batch_to_notes_is_to_notes_of_each() -> None:
    rng = np.random.default_rng(0)
    planes = coding.complete(rng.random((5, 16, 2, 2, 48)) < 0.1)
    layout = Layout(PARTS, 36, 48, 4)
    for roll, notes in zip(planes, batch_to_notes(planes, layout), strict=True):
        alone = to_notes(Roll(roll, layout))
        assert smf.write(notes) == smf.write(alone)
        part = np.where(notes.track == 0, 0, 1)
        assert np.array_equal(from_notes(notes, part, layout, 16).planes, roll)
