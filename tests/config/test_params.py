"""Parameters: params.yaml and the code agree, and the error of a broken rule names the value."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from midivae.config import params
from midivae.config.ingest import Parts
from midivae.config.jobs import Sample
from midivae.config.params import Params
from midivae.errors import ParamsError

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))


# --- the files people read --------------------------------------------------------------------------------------------
def test_params_yaml_spells_out_every_default() -> None:
    written = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert Params.model_validate(written) == Params()
    assert list(written) == list(Params.model_fields)  # in the order of the stages
    # a job says what is its own; together they show every setting that there is
    jobs, defaults = written["generate"].pop("jobs"), Params().model_dump(mode="json")
    of_jobs = defaults["generate"].pop("jobs")
    assert written == defaults
    assert {name for job in jobs for name in job} == {name for job in of_jobs for name in job}
    assert set(jobs[0]) == set(of_jobs[0])


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *PRESETS], ids=lambda path: path.stem)
def test_every_value_has_a_comment(path: Path) -> None:
    lines = path.read_text().splitlines()
    values = [line for line in lines if re.search(r"\w: +[^ #]", line) and not line.strip().startswith(("#", "- {"))]
    assert len(values) > 5
    assert [line for line in values if "  # " not in line and " # " not in line] == []


def test_there_are_both_presets_of_the_article_and_one_for_pop_songs() -> None:
    assert [path.stem for path in PRESETS] == ["article-100x88", "article-48x480", "pop909"]
    assert params.load(PRESETS[-1]).ingest.parts.names == ("melody", "bridge", "piano")


@pytest.mark.parametrize(
    ("name", "steps", "pitches", "inputs"),
    # 100 x 88 = 8,800 and 480 x 48 = 23,040 numbers go into the article's first layer
    [("article-100x88", 100, 88, 8800), ("article-48x480", 480, 48, 23040)],
)
def test_presets_have_the_shapes_of_the_article(name: str, steps: int, pitches: int, inputs: int) -> None:
    preset = params.load(ROOT / "presets" / f"{name}.yaml")
    view, ingest = preset.train.view, preset.ingest
    assert (view.steps, ingest.pitches) == (steps, pitches)
    parts = 1 if view.merge_parts else len(ingest.parts.names)
    assert view.steps * parts * view.n_planes * ingest.pitches == inputs
    assert (preset.train.model, preset.train.dense.hidden, preset.train.dense.latent) == ("mlp", (256, 128, 64), 16)
    assert (preset.train.dense.batch_size, preset.train.dense.learning_rate) == (64, 1e-3)


def test_a_minute_at_120_qpm_fills_the_second_shape() -> None:
    preset = params.load(ROOT / "presets" / "article-48x480.yaml")
    assert preset.train.view.steps == 120 * preset.ingest.steps_per_beat


# --- reading ----------------------------------------------------------------------------------------------------------
def test_what_a_file_leaves_out_keeps_its_default(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("train: {view: {steps: 32}}\n")
    loaded = params.load(path)
    assert loaded.train.view.steps == 32
    assert loaded.train.view.planes == Params().train.view.planes
    assert loaded.ingest == Params().ingest


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("# nothing\n")
    assert params.load(tmp_path / "p.yaml") == Params()


def test_a_relative_source_starts_at_the_params_file(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("fetch: {source: folder, path: tunes}\n")
    assert params.load(path).fetch.path == str(tmp_path / "tunes")
    path.write_text("fetch: {source: archive, path: /elsewhere/tunes.zip}\n")
    assert params.load(path).fetch.path == "/elsewhere/tunes.zip"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [", "not readable as YAML"),
        ("train: 3", "train: "),
        ("[1, 2]", "holds a list; it must be a mapping"),
        ("trian: {}", "trian: Extra inputs"),
        ("train: {view: {hops: 4}}", "train.view.hops: Extra inputs"),
        ("train: {dense: {epochs: 0}}", "train.dense.epochs: .*greater than 0.*got 0"),
        ("train: {dense: {batch_size: many}}", "train.dense.batch_size: .*integer.*got 'many'"),
        ("train: {model: gan}", "train.model: .*'mlp'"),
        ("train: {compare: [transformer]}", "name a model twice"),
        ("train: {view: {hop: beat}}", "train.view.hop"),
        ("fetch: {source: folder}", "`path` goes with source"),
        ("fetch: {path: x.zip}", "`path` goes with source"),
        ("fetch: {source: url}", "`url` goes with source `url`"),
        ("fetch: {source: maestro-v3, url: 'https://a.b/x.zip'}", "`url` goes with source `url`"),
        ("fetch: {source: url, url: 'file:///x.zip'}", "`url` 'file:///x.zip' is neither http nor https"),
        (f"fetch: {{sha256: {'a' * 64}}}", "`sha256` goes with `url`"),
        ("fetch: {source: url, url: 'https://a.b/x', sha256: abc}", "fetch.sha256"),
        ("fetch: {source: ../up}", "fetch.source"),
        ("ingest: {pitch_low: 100}", "pitch_low 100 . pitches 48 > 128"),
        ("ingest: {split: {valid: 0.5, test: 0.5}}", "leave nothing to train on"),
        ("ingest: {split: {valid: -0.1}}", "ingest.split.valid"),
        ("ingest: {parts: {tracks: {}}}", "needs at least one entry in `tracks`"),
        ("generate: {jobs: [{name: a, count: 1}, {name: a, count: 2}]}", "two jobs have one name: 'a'"),
        ("generate: {jobs: [{name: ../up, count: 1}]}", r"generate.jobs.0.name: .*pattern"),
        ("generate: {jobs: [{name: a}]}", r"generate.jobs.0.count: Field required"),
        ("generate: {jobs: [{name: a, count: 1, temperature: 0}]}", "temperature"),
        ("train: {compare: []}", "asks for model 'mlp'.*add it to train.compare"),
    ],
)
def test_a_broken_rule_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=f"(?s)p.yaml.*{message}"):
        params.load(path)


def test_all_broken_rules_are_in_one_message(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("train: {dense: {epochs: 0, patience: 0}}\nreport: {seed: x}\n")
    with pytest.raises(ParamsError, match=r"(?s)3 value\(s\).*train.dense.epochs.*train.dense.patience.*report.seed"):
        params.load(tmp_path / "p.yaml")


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("train: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ParamsError, match="not readable as YAML"):
        params.load(tmp_path / "p.yaml")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParamsError, match="not readable as YAML"):
        params.load(tmp_path / "p.yaml")


# --- values -----------------------------------------------------------------------------------------------------------
@given(
    steps=st.integers(1, 10_000),
    low=st.integers(0, 80),
    hidden=st.lists(st.integers(1, 512), max_size=4),
    count=st.integers(1, 10**9),
    rate=st.floats(1e-8, 1.0),
)
def test_values_survive_being_written_and_read(
    steps: int, low: int, hidden: list[int], count: int, rate: float
) -> None:
    written = {
        "ingest": {"pitch_low": low},
        "train": {"view": {"steps": steps}, "dense": {"hidden": hidden, "learning_rate": rate}},
        "generate": {"jobs": [{"name": "a", "count": count}]},
    }
    first = params.parse(written, "test")
    again = params.parse(yaml.safe_load(yaml.safe_dump(first.model_dump(mode="json"))), "test")
    assert again == first
    assert again.train.digest() == first.train.digest()


def test_sections_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Params().train.seed = 3  # type: ignore[misc]


def test_a_digest_stands_for_the_values() -> None:
    job = Sample(name="a", count=3)
    assert job.digest() == Sample(count=3, name="a").digest()
    assert job.digest() != Sample(name="a", count=4).digest()
    assert job.digest(exclude={"count"}) == Sample(name="a", count=4).digest(exclude={"count"})
    assert re.fullmatch(r"[0-9a-f]{16}", job.digest())


def test_parts_are_named_by_their_rule() -> None:
    assert Parts().names == ("soprano", "alto", "tenor", "bass")
    assert Parts(rest="others").names == ("soprano", "alto", "tenor", "bass", "others")
    assert Parts(rest="bass").names == ("soprano", "alto", "tenor", "bass")
    assert Parts(rule="program").names == ("drums", "piano", "guitar", "bass", "strings")
    assert Parts(rule="merged").names == ("merged",)
