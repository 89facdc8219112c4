"""Stage `report`: one page that shows what was made, runs nothing, asks for nothing, and takes no name for markup."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from music import piece
from pieces import as_fetched
from PIL import Image

from midivae import (
    catalog,
    decode,
    evaluate,
    generate,
    ingest,
    midi,
    models,
    modes,
    parallel,
    pianoroll,
    pictures,
    report,
    schema,
    store,
    train,
)
from midivae.errors import CorruptError, InputError
from midivae.models.base import Chance
from midivae.params import Params, parse
from midivae.pianoroll import FRAME, ONSET, Layout, Roll

# a part's name comes from the params, a licence and a source's name from whoever made the corpus
HIGH = '<script>alert("part")</script>'
LOW = "b'a\"s&s \u202egpj.exe"
SOURCE = "<img src=x onerror=alert(1)>"
LICENCE = "see http://example.org/</style><style>*{display:none}"
VALUES: dict[str, Any] = {
    "compute": {"workers": 1},
    "ingest": {
        "parts": {"tracks": {HIGH: ["soprano*"], LOW: ["bass*"]}},
        "split": {"valid": 0.3, "test": 0.3},
    },
    "train": {
        "model": "mlp",
        "compare": ["autoencoder"],
        "view": {"steps": 32},
        "dense": {"hidden": [16], "latent": 4, "epochs": 2, "batch_size": 16},
    },
    "generate": {
        "jobs": [
            {"name": "sample", "count": 9},
            {"name": "drawn", "count": 3, "temperature": 1.0, "model": "autoencoder"},
        ]
    },
    "evaluate": {"repeats": 2},
    "report": {"rolls_per_job": 5},
}


def params(**sections: Any) -> Params:
    return parse({**VALUES, **sections}, "test")


def in_this_process(fn: Callable[..., Any], specs: Any, *_: Any, **__: Any) -> Iterator[tuple[int, parallel.Outcome]]:
    """`fan_out` without children."""
    for index, spec in enumerate(specs):
        yield index, parallel.Outcome(fn(spec, lambda _: None))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder after all stages, its names as hostile as names can be."""
    data = tmp_path_factory.mktemp("data")
    files = {f"{i}.mid": midi.write(piece(i)) for i in range(24)} | {"bad.mid": b"no music"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIDIVAE_HOME", str(data / "work"))
        as_fetched(data, files)
        rename_source(data / "corpus" / "corpus.parquet")
        patch.setattr(generate, "fan_out", in_this_process)
        for room in (ingest, train, generate, evaluate):
            room.run(params(), data)
    return data


def rename_source(path: Path) -> None:
    rows = store.read_table(path, schema.CORPUS).to_pylist()
    named = [{**row, "source": SOURCE, "licence": LICENCE} for row in rows]
    store.write_table(path, pa.Table.from_pylist(named, schema.CORPUS.columns), schema.CORPUS)


class Page(HTMLParser):
    """Elements, their attributes, and the text a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._hidden = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._hidden = tag if tag in ("style", "title") else self._hidden

    def handle_endtag(self, tag: str) -> None:
        self._hidden = "" if tag == self._hidden else self._hidden

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text.append(data)

    def all(self, name: str) -> list[str]:
        """The values of an attribute, in the order of the page."""
        return [value for _, attributes in self.elements if (value := attributes.get(name)) is not None]


@pytest.fixture(scope="module")
def html(data: Path) -> str:
    report.run(params(), data)
    return (data / "report" / "index.html").read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


# --- safe and offline -------------------------------------------------------------------------------------------------
def test_hostile_names_are_text(page: Page) -> None:
    text = "".join(page.text)
    for name in (HIGH, LOW, SOURCE, LICENCE):
        assert name in text
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "embed", "form", "link", "base", "img", "audio", "video"}
    assert [tag for tag, _ in page.elements].count("style") == 1
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_no_request_leaves_the_page(html: str, page: Page) -> None:
    policy = next(attributes for tag, attributes in page.elements if tag == "meta" and "http-equiv" in attributes)
    assert policy["content"] is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy["content"].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "script-src" not in rules
    assert not page.all("src")
    for target in page.all("href"):
        assert target.startswith(("#", "data:image/png;base64,", "../samples/midi/"))
    assert "url(" not in html
    assert "@import" not in html


def test_links_lead_somewhere(data: Path, page: Page) -> None:
    ids = set(page.all("id"))
    for target in page.all("href"):
        if target.startswith("#"):
            assert target[1:] in ids
        elif target.startswith(".."):
            assert (data / "report" / target).is_file()


def test_same_data_same_bytes(data: Path, html: str) -> None:
    report.run(params(compute={"workers": 7}), data)
    assert (data / "report" / "index.html").read_text() == html
    assert store.verify(data / "report") == []


# --- for everyone -----------------------------------------------------------------------------------------------------
def test_the_page_can_be_read_without_seeing_it(page: Page) -> None:
    assert page.elements[0] == ("html", {"lang": "en"})
    for tag, attributes in page.elements:
        if tag == "svg":
            hidden = attributes.get("aria-hidden") == "true"
            assert hidden or (attributes["role"] == "img" and attributes["aria-label"])
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    assert set(page.all("aria-labelledby")) <= set(ids)


# --- what it says -----------------------------------------------------------------------------------------------------
def test_counts_add_up(data: Path) -> None:
    found = report.corpus(data)
    assert found["found"] == 25
    assert found["found"] == found["accepted"] + sum(row["files"] for row in found["rejected"])
    assert found["rejected"] == [{"reason": "not_midi", "files": 1, "means": midi.REASONS["not_midi"]}]
    assert sum(split["pieces"] for split in found["splits"]) == 24
    assert found["sources"] == [{"source": SOURCE, "licence": LICENCE, "files": 25}]
    assert sum(share for _, share in found["keys"]) <= 1 + 1e-9


def test_lineage_names_what_it_was_made_from(data: Path, page: Page) -> None:
    text = "".join(page.text)
    for folder in ("corpus", "rolls", "model", "samples", "evaluation"):
        assert store.sha256(data / folder / store.MANIFEST) in text
    assert "rolls_per_job: 5" in text
    assert "workers" not in text  # it never changes a result, so it does not change the page


def test_figures_are_those_of_the_evaluation(data: Path, page: Page) -> None:
    metrics = json.loads((data / "evaluation" / "metrics.json").read_text())
    text = "".join(page.text)
    assert metrics["article_verdict"] in text
    distances = pd.read_csv(data / "evaluation" / "distances.csv")
    jobs = {"sample": "s0", "drawn": "s1"}
    rows = report.comparison(data / "evaluation", list(jobs), jobs, metrics)["table"]
    asked_for = distances[distances["distance"].isin(report._DISTANCES) & (distances["job"] == "sample")]
    assert len(rows) == len(asked_for) > 20
    table = report.comparison(data / "evaluation", list(jobs), jobs, metrics)["models"]
    assert [row["set"] for row in table] == ["held-out", "bernoulli", "markov", *jobs]
    frechet = next(row for row in rows if row["distance"] == "frechet")
    asked = distances[distances["distance"] == "frechet"].set_index("job")[["mean", "real_mean"]]
    assert frechet["jobs"] == [tuple(map(report.number, asked.loc[job])) for job in jobs]


# --- pictures ---------------------------------------------------------------------------------------------------------
def shown(section: dict[str, Any]) -> np.ndarray:
    """The palette indices of a picture's cells, [T, P]; of parts that share a cell, the first."""
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(section["data"]))))
    return image[:: pictures.ROWS][::-1].T


def test_pictures_show_the_samples(data: Path, page: Page) -> None:
    section = report.gallery("drawn", catalog.read(data), params(report={"rolls_per_job": 2}), data)
    assert section["count"] == 3
    titles = [card["title"] for card in section["cards"]]
    assert titles == sorted(titles)
    assert len(set(titles)) == 2
    assert [name for name, _ in section["parts"]] == [HIGH, LOW]
    # the same samples, made again
    model = models.load(data / "model" / "compare" / "autoencoder")
    draws = modes.Draws(0, "drawn", range(3), model.latent, model.config.window_shape)
    z, uniform = draws.noise(), draws.cells()
    planes = decode.decode(model, z, Chance(temperature=1.0), uniform)
    for card in section["cards"]:
        roll = planes[int(card["title"][-7:])]
        cells = shown(card["picture"])
        alone = roll[:, :, FRAME].sum(axis=1) == 1  # cells that no part shares with another
        for part in range(2):
            starts, held = roll[:, part, ONSET] & alone, roll[:, part, FRAME] & ~roll[:, part, ONSET] & alone
            assert starts.any()
            assert np.array_equal((cells == 2 + 2 * part) & alone, starts)
            assert np.array_equal((cells == 1 + 2 * part) & alone, held)
        assert card["title"] in "".join(page.text)
        assert card["title"] in card["picture"]["says"]


def test_how_cells_were_set(data: Path) -> None:
    samples = catalog.read(data)
    assert report.gallery("sample", samples, params(), data)["decoded"] == "threshold 0.3, normal prior"
    assert report.gallery("drawn", samples, params(), data)["decoded"] == "temperature 1, normal prior"


def test_a_grid_by_hand() -> None:
    # 8 steps of 4 units, 2 to a beat, 2 beats to a bar; pitches 59 to 61, 3 units each, 61 on top
    grid = report._grid(8, 59, 3, 2, 2)
    assert (grid["width"], grid["height"], grid["long"]) == (32, 9, False)
    assert grid["black_keys"] == [0]  # C#4
    assert grid["pitches"] == [("C4", 4.5)]
    assert grid["bars"] == [0, 16]
    assert grid["numbers"] == [(1, 0), (2, 16)]
    assert grid["beats"] == []  # 8 units apart: too near to each other
    assert report._grid(8, 59, 3, 4, 2)["beats"] == [0, 16]


def test_long_rolls_have_narrow_steps_and_lines_of_their_own() -> None:
    # a minute of 480 steps: 2 units each; 2000 steps: 1 unit, and every second bar of 8 units gets a number
    assert (report._grid(480, 36, 48, 4, 4)["width"], report._grid(480, 36, 48, 4, 4)["long"]) == (960, True)
    dense = report._grid(2000, 36, 48, 4, 2)
    assert (dense["width"], dense["numbers"][:2]) == (2000, [(1, 0), (3, 16)])


def test_lots_are_drawn_alike_each_time() -> None:
    drawn = report._lot("sample", 1000, 24, 0)
    assert np.array_equal(drawn, report._lot("sample", 1000, 24, 0))
    assert len(set(drawn.tolist())) == 24
    assert not np.array_equal(drawn, report._lot("other", 1000, 24, 0))
    assert not np.array_equal(drawn, report._lot("sample", 1000, 24, 1))
    assert report._lot("sample", 3, 24, 0).tolist() == [0, 1, 2]
    assert report._lot("sample", 0, 24, 0).tolist() == []


def test_reconstructions_stand_beside_the_music(data: Path) -> None:
    trained = report._trained(params(), data / "model")
    section = report.reconstructions(trained, data / "rolls", params())
    (row,) = section["rows"]
    assert row[0]["name"] in {f"{i}.mid" for i in range(24)}
    assert [cell["name"] for cell in row[1:]] == ["mlp", "autoencoder"]
    assert shown(section["rows"][0][0]["picture"]).any()  # held-out music is not silent


def test_f1_by_hand() -> None:
    a, b = np.zeros((2, 4, 1, 2, 3), bool)
    assert report._f1(a, b) == 1
    a[0:2, 0, FRAME, 0] = True  # two cells
    b[1:4, 0, FRAME, 0] = True  # three cells, one in common: 2 * 1 / 5
    assert report._f1(a, b) == pytest.approx(0.4)


def test_a_silent_sample_has_a_picture() -> None:
    layout = Layout(("a",), 60, 12, 4)
    file = midi.write(pianoroll.to_notes(Roll(np.zeros((8, 1, 2, 12), bool), layout)))
    silent = report._roll(file, layout, 8)
    assert silent.planes.shape == (8, 1, 2, 12)
    assert not silent.planes.any()


# --- what is missing or damaged is named ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("evaluation/metrics.json", None),
        ("evaluation/distances.csv", "evaluate"),
        ("model/curves.csv", "train"),
        ("rolls/pieces.parquet", None),
    ],
)
def test_missing_files_are_named(data: Path, tmp_path: Path, name: str, stage: str | None) -> None:
    for folder in ("corpus", "rolls", "model", "samples", "evaluation"):
        (tmp_path / folder).symlink_to(data / folder)
    folder, file = name.split("/")
    (tmp_path / folder).unlink()
    (tmp_path / folder).mkdir()
    for path in (data / folder).iterdir():
        if path.name != file:
            (tmp_path / folder / path.name).symlink_to(path)
    with pytest.raises(InputError, match=file) as error:
        report.run(params(), tmp_path)
    assert stage is None or f"run stage `{stage}`" in str(error.value)


def test_a_table_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    path = tmp_path / "evaluation" / "distances.csv"
    path.write_bytes(b'a,b\n"\xff\n1,2,3\n')
    with pytest.raises(CorruptError, match="rerun stage `evaluate`"):
        report._table(path)
