"""The page: it runs one script of ours, makes no request, and writes names as text."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from reported import HIGH, LICENCE, LOW, PIECE, SOURCE, Page, params, unpacked

from midivae.errors import InputError
from midivae.report import stage as report
from midivae.storage import folders


def test_hostile_names_are_text(html: str, page: Page) -> None:
    text = "".join(page.text)
    for name in (SOURCE, LICENCE, HIGH, LOW):
        assert name in text
    assert HIGH in unpacked(html)[0]["jobs"][0]["parts"]  # the browser's tests look at how these are shown
    assert any(PIECE in name for parents in unpacked(html)[0]["columns"]["parents"] for name in parents)
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
    assert rules["script-src"] == report.csp_hash(script)
    assert rules["style-src"] == report.csp_hash(style)
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
