"""Stage `report`: one page that shows what was made, runs nothing, asks for nothing, and takes no name for markup."""

from __future__ import annotations

import base64
import io
import json
import re
import struct
import zlib
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from reported import HIGH, LICENCE, LOW, PIECE, SOURCE, build, params

from midivae.catalog import catalog
from midivae.errors import CorruptError, InputError
from midivae.music import midi
from midivae.music.roll import FRAME
from midivae.render import pictures
from midivae.report import stage as report
from midivae.storage import folders, schema, tables
from midivae.storage.files import file_sha256


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder after all stages, its names as hostile as names can be."""
    data = tmp_path_factory.mktemp("data")
    build(data)
    return data


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
        self._hidden = tag if tag in ("style", "title", "script") else self._hidden

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


def unpacked(html: str) -> tuple[dict[str, Any], bytes]:
    """What the page's script reads: the figures of the samples, and their MIDI files end to end."""
    [text] = re.findall(r'id="samples-data">([A-Za-z0-9+/=]*)</script>', html)
    plain = zlib.decompress(base64.b64decode(text))
    (size,) = struct.unpack_from("<I", plain)
    return json.loads(plain[4 : 4 + size]), plain[4 + size :]


# --- safe and offline -------------------------------------------------------------------------------------------------
def test_hostile_names_are_text(html: str, page: Page) -> None:
    text = "".join(page.text)
    for name in (SOURCE, LICENCE, HIGH, LOW):
        assert name in text
    assert HIGH in unpacked(html)[0]["jobs"][0]["parts"]  # the browser's tests look at how these are shown
    assert any(PIECE in label for label in unpacked(html)[0]["labels"])
    tags = [tag for tag, _ in page.elements]
    assert not {"iframe", "object", "embed", "link", "base", "img", "audio", "video", "b", "source"} & set(tags) - {"b"}
    assert tags.count("style") == 1
    assert tags.count("script") == 2  # the samples, which are text, and ours
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert "style" not in attributes


def test_the_policy_lets_one_script_and_one_style_through(html: str, page: Page) -> None:
    policy = next(attributes for tag, attributes in page.elements if tag == "meta" and "http-equiv" in attributes)
    assert policy["content"] is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy["content"].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    [script] = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    [style] = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert rules["script-src"] == report._csp_hash(script)
    assert rules["style-src"] == report._csp_hash(style)
    assert not page.all("src")
    for target in page.all("href"):
        assert target.startswith(("#", "data:image/png;base64,", "../samples/midi/"))
    assert "url(" not in style
    assert "@import" not in style
    for word in ("fetch(", "XMLHttpRequest", "WebSocket", "import(", "innerHTML", "insertAdjacentHTML", "eval("):
        assert word not in script


def test_links_lead_somewhere(data: Path, page: Page) -> None:
    ids = set(page.all("id"))
    for target in page.all("href"):
        if target.startswith("#"):
            assert target[1:] in ids
        elif target.startswith(".."):
            assert (data / "report" / target).exists()


def test_same_data_same_bytes(data: Path, html: str) -> None:
    report.run(params(compute={"workers": 7}), data)
    assert (data / "report" / "index.html").read_text() == html
    assert folders.verify(data / "report") == []


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
    assert found["copies"] == found["near"] == 0
    assert sum(share for _, share in found["keys"]) <= 1 + 1e-9


def test_lineage_names_what_it_was_made_from(data: Path, page: Page) -> None:
    text = "".join(page.text)
    for folder in ("corpus", "rolls", "model", "samples", "evaluation"):
        assert file_sha256(data / folder / folders.MANIFEST) in text
    assert "rolls_per_job: 2" in text
    assert report._code_sha256() in text
    for model in set(catalog.read(data)["model_sha256"]):
        assert model in text
    assert "workers" not in text  # it never changes a result, so it does not change the page


def test_figures_are_those_of_the_evaluation(data: Path, page: Page) -> None:
    metrics = json.loads((data / "evaluation" / "metrics.json").read_text())
    text = "".join(page.text)
    assert metrics["article_verdict"] in text
    distances = pd.read_csv(data / "evaluation" / "distances.csv")
    jobs = {job.name: f"s{i} d0 j{i}" for i, job in enumerate(params().generate.jobs)}
    rows = report.comparison(data / "evaluation", list(jobs), jobs, metrics)["table"]
    asked_for = distances[distances["distance"].isin(report._DISTANCES) & (distances["job"] == "sample")]
    assert len(rows) == len(asked_for) > 20
    table = report.comparison(data / "evaluation", list(jobs), jobs, metrics)["models"]
    assert [row["set"] for row in table] == ["held-out", "bernoulli", "markov", *jobs]
    frechet = next(row for row in rows if row["distance"] == "frechet")
    asked = distances[distances["distance"] == "frechet"].set_index("job")[["mean", "real_mean"]]
    assert frechet["jobs"] == [tuple(map(report.number, asked.loc[job])) for job in jobs]


# --- samples ----------------------------------------------------------------------------------------------------------
def test_the_page_has_every_sample_and_its_file(data: Path, html: str) -> None:
    found, files = unpacked(html)
    rows = pd.read_parquet(data / "samples" / "catalog").set_index("sample_id")
    assert len(found["sizes"]) == len(rows)
    at = 0
    for i, size in enumerate(found["sizes"]):
        columns = {name: column[i] for name, column in found["columns"].items()}
        job = found["jobs"][columns["job"]]
        row = rows.loc[f"{job['name']}-{columns['index']:07}"]
        assert files[at : at + size] == row["midi"]["bytes"]
        at += size
        assert columns["notes"] == row["notes"]
        assert columns["novelty"] == pytest.approx(row["novelty"], rel=1e-3)
        assert found["keys"][columns["key"]] == row["key"]
        assert [found["labels"][parent] for parent in columns["parents"]] == [
            shown_parent(text, data) for text in row["parents"]
        ]
        assert columns["weights"] == pytest.approx(row["weights"], rel=1e-3)
    assert at == len(files)


def shown_parent(text: str, data: Path) -> str:
    paths = {
        row["piece_id"]: row["path"]
        for row in tables.read(data / "rolls" / "pieces.parquet", schema.PIECES).to_pylist()
    }
    place, bar = text.removeprefix("piece:").split("@")
    return f"{paths[place]}, bar {bar}"


def test_neighbours_by_hand(data: Path, html: str) -> None:
    found, _ = unpacked(html)
    z = catalog.read(data, ["sample_id", "z", "model"]).set_index("sample_id")
    ids = [
        f"{found['jobs'][j]['name']}-{i:07}"
        for j, i in zip(*(found["columns"][c] for c in ("job", "index")), strict=True)
    ]
    mine = z[(z["model"] == "autoencoder")]
    assert len(mine) == 3
    for name in mine.index:
        others = [other for other in mine.index if other != name]
        nearest = min(others, key=lambda other: float(np.linalg.norm(z["z"][other] - z["z"][name])))
        assert ids[found["columns"]["alike"][ids.index(name)]] == nearest
    table = tables.read(data / "evaluation" / "neighbours.parquet", schema.NEIGHBOURS).to_pandas()
    row = table[table["id"] == "sample-0000000"].sort_values("distance").iloc[0]
    piece, beat, semitones, distance = found["columns"]["nearest"][ids.index("sample-0000000")]
    assert (beat, semitones) == (1 + row["piece_start_step"] // 4, row["semitones"])
    assert distance == pytest.approx(row["distance"], rel=1e-3)
    assert found["pieces"][piece] == report._file_names(data / "rolls")[row["piece_id"]]


def test_of_a_large_catalog_the_first_of_each_job() -> None:
    # 10 + 2 + 5 rows, at most 9: the job of 2 whole, 3 of the others, and one place stays free
    rows = pd.DataFrame({"job": ["a"] * 10 + ["b"] * 2 + ["c"] * 5, "index": [*range(10), *range(2), *range(5)]})
    kept = report._first_of_each(rows, 9)
    assert kept.groupby("job").size().to_dict() == {"a": 3, "b": 2, "c": 3}
    assert kept[kept["job"] == "a"]["index"].tolist() == [0, 1, 2]
    assert len(report._first_of_each(rows, 100)) == 17
    assert len(report._first_of_each(rows, 1)) == 3  # no job is left out


def test_how_cells_were_set(html: str) -> None:
    jobs = {job["name"]: job["about"] for job in unpacked(html)[0]["jobs"]}
    assert jobs["sample"] == "mode sample · model mlp · threshold 0.3, normal prior"
    assert jobs["drawn"] == "mode sample · model autoencoder · temperature 1, normal prior"
    assert jobs["merged"].startswith("mode ensemble, merged · ")


# --- what modes do ----------------------------------------------------------------------------------------------------
def test_tables_of_modes(data: Path, page: Page) -> None:
    tables = {table["name"]: table for table in report.promises(data / "evaluation")["tables"]}
    assert set(tables) == {"paths", "parents", "ensemble"}
    paths = pd.read_csv(data / "evaluation" / "paths.csv")
    assert len(tables["paths"]["rows"]) == len(paths) == 2
    assert report.number(float(paths["spearman"][0])) in tables["paths"]["rows"][0]
    assert "How music changes along a blend" in "".join(page.text)


def test_many_rows_are_gathered() -> None:
    rows = pd.DataFrame(
        {"job": "v", "mode": "vary", "radius": np.arange(20) / 10, "rows": 1, "distance": np.arange(20) / 20}
    )
    short = report._by_radius(rows)
    # 0, 0.1 and 0.2 lie in the first quarter, 0.3 and 0.4 in the second
    assert short["radius"].tolist()[:2] == [0.125, 0.375]
    assert short["rows"].tolist()[:2] == [3, 2]
    assert short["distance"].tolist()[:2] == pytest.approx([0.05, 0.175])
    assert short["rows"].sum() == 20


def test_a_control_matrix_by_hand() -> None:
    drifts = {("density", "density"): 1.0, ("density", "key"): 0.25, ("key", "density"): 0.05, ("key", "key"): 1.0}
    rows = pd.DataFrame(
        [
            {"job": "e", "asked": a, "measured": b, "rows": 5, "spearman": 0.9, "slope": 1.1, "drift": drift}
            for (a, b), drift in drifts.items()
        ]
    )
    [matrix] = report._control(rows)
    assert matrix["measured"] == ["density", "key"]
    assert [[cell["kind"] for cell in row["cells"]] for row in matrix["rows"]] == [["h4 own", "h2"], ["h0", "h4 own"]]
    assert report._control(rows.iloc[:0]) == []


# --- pictures ---------------------------------------------------------------------------------------------------------
def shown(section: dict[str, Any]) -> np.ndarray:
    """The palette indices of a picture's cells, [T, P]; of parts that share a cell, the first."""
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(section["data"]))))
    return image[:: pictures.ROWS][::-1].T


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
    row, _ = section["rows"]
    assert row[0]["name"] in {PIECE, *(f"{i}.mid" for i in range(23))}
    assert [cell["name"] for cell in row[1:]] == ["mlp", "autoencoder"]
    assert shown(section["rows"][0][0]["picture"]).any()  # held-out music is not silent


def test_f1_by_hand() -> None:
    a, b = np.zeros((2, 4, 1, 2, 3), bool)
    assert report._f1(a, b) == 1
    a[0:2, 0, FRAME, 0] = True  # two cells
    b[1:4, 0, FRAME, 0] = True  # three cells, one in common: 2 * 1 / 5
    assert report._f1(a, b) == pytest.approx(0.4)


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
