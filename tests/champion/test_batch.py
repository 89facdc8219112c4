"""Batches: what was there stays, what is new is what a longer run would have made."""

from __future__ import annotations

from pathlib import Path

import four_part
import pandas as pd
import pytest
import yaml

from midivae.champion import batch, versions
from midivae.config.params import parse
from midivae.errors import InputError, ParamsError
from midivae.fetch import stage as fetch
from midivae.generate import stage as generate
from midivae.ingest import stage as ingest
from midivae.storage import folders
from midivae.storage.files import write_bytes
from midivae.train import stage as train

pytestmark = pytest.mark.numerical

TINY = {
    "compute": {"workers": 1},
    "fetch": {"source": "folder"},
    "train": {
        "model": "mlp",
        "compare": [],
        "dense": {"hidden": [8], "latent": 2, "epochs": 1, "batch_size": 16},
        "view": {"steps": 32},
    },
    "generate": {"jobs": [{"name": "sample", "count": 3, "threshold": 0.2}, {"name": "other", "count": 2}]},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stages leave, with the params that made it."""
    folder = tmp_path_factory.mktemp("made")
    four_part.write_corpus(folder / "tunes", 16)
    values = {**TINY, "fetch": {"source": "folder", "path": str(folder / "tunes")}}
    params = parse(values, "tiny")
    (folder / "params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIDIVAE_HOME", str(folder / "work"))
        for stage in (fetch, ingest, train, generate):
            stage.run(params, folder / "data")
    for name in ("evaluation", "report"):
        with folders.publishing(folder / "data" / name) as staging:
            write_bytes(staging / "file", b"x")
    return folder


@pytest.fixture
def published(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIDIVAE_HOME", str(made / "work"))
    versions.publish(made / "data", tmp_path / "published", "v1", {"params.yaml": made / "params.yaml"})
    versions.switch(tmp_path / "published", "v1")
    return tmp_path / "published"


def rows(published: Path) -> pd.DataFrame:
    here = versions.current(published)
    assert here is not None
    found = pd.read_parquet(here / "samples" / "catalog").set_index("sample_id").sort_index()
    return found.drop(columns=["z", "parts", "programs", "parents", "weights"])


def test_more_samples_of_a_job_follow_those_that_are_there(published: Path) -> None:
    before = rows(published)
    found = batch.add(published, [{"name": "sample", "count": 4}], workers=1)
    assert found == {"version": "v1+1", "samples": 9, "added": {"sample": 4}}
    after = rows(published)
    pd.testing.assert_frame_equal(after.loc[before.index], before)
    assert sorted(after[after["job"] == "sample"]["index"]) == list(range(7))
    here = versions.current(published)
    assert here is not None
    assert folders.verify(here / "samples") == []
    assert len(list((here / "samples" / "midi" / "sample").iterdir())) == 7
    assert not list(published.glob(".batch-*"))


def test_a_new_job_is_made_and_made_longer_by_the_next_batch(published: Path) -> None:
    job = {"name": "dense", "count": 2, "threshold": 0.1}
    batch.add(published, [job], workers=1)
    found = batch.add(published, [job, {"name": "other", "count": 1}], workers=1)
    assert found == {"version": "v1+2", "samples": 10, "added": {"dense": 2, "other": 1}}
    assert rows(published).groupby("job").size().to_dict() == {"dense": 4, "other": 3, "sample": 3}


def test_a_job_keeps_its_parameters(published: Path) -> None:
    before = rows(published)
    with pytest.raises(ParamsError, match=r"job 'sample' has another threshold in the catalog, 0\.2 and not 0\.5"):
        batch.add(published, [{"name": "sample", "count": 1, "threshold": 0.5}])
    pd.testing.assert_frame_equal(rows(published), before)


@pytest.mark.parametrize("job", [{"name": "sample"}, {"count": 3}, {"name": "sample", "count": 0}, {"name": 1}])
def test_a_job_needs_a_name_and_a_count(published: Path, job: dict[str, object]) -> None:
    with pytest.raises(ParamsError, match="needs a `name`, and a `count`"):
        batch.add(published, [job])


def test_an_unknown_parameter_is_named(published: Path) -> None:
    with pytest.raises(ParamsError, match="tempre"):
        batch.add(published, [{"name": "new", "count": 1, "tempre": 1.0}])


def test_without_a_champion_there_are_no_samples(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing is published yet"):
        batch.add(tmp_path, [{"name": "sample", "count": 1}])


def test_a_champion_that_comes_meanwhile_gets_the_batch(
    published: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, came = generate.run, list[str]()

    def slow(params: object, data: Path) -> dict[str, object]:
        if not came:
            came.append("v2")
            versions.publish(made / "data", published, "v2", {"params.yaml": made / "params.yaml"})
            versions.switch(published, "v2")
        return run(params, data)  # type: ignore[arg-type]

    monkeypatch.setattr(generate, "run", slow)
    assert batch.add(published, [{"name": "sample", "count": 1}], workers=1)["version"] == "v2+1"


def test_a_failure_leaves_what_was_published(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = versions.read_current(published)

    def fails(params: object, data: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(generate, "run", fails)
    with pytest.raises(OSError, match="No space"):
        batch.add(published, [{"name": "sample", "count": 1}])
    assert versions.read_current(published) == before
    assert not list(published.glob(".batch-*"))
