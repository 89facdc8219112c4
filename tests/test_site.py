"""docs/ as a site: it builds without a warning, asks the network for nothing, and leaves nothing out."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from test_project import ROOT

HOOKS = runpy.run_path(str(ROOT / "docs" / "hooks.py"))
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}


class Page(HTMLParser):
    """What a page loads, and where its links lead."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag in LOADS and found.get(LOADS[tag]):
            self.loads.append(str(found[LOADS[tag]]))
        elif tag == "link" and found.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(str(found["href"]))
        elif tag == "a" and found.get("href"):
            self.links.append(str(found["href"]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    program = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(target)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, f"{done.stdout}\n{done.stderr}"
    return target


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {path.relative_to(site).as_posix(): Page(path.read_text()) for path in site.rglob("*.html")}


def test_every_page_is_there(site: Path, pages: dict[str, Page]) -> None:
    written = {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")}
    assert written <= set(pages)
    assert {f"reference/{module}.html" for module in HOOKS["modules"]()} <= set(pages)
    catalog = (site / "reference" / "midivae.catalog.read.html").read_text()
    for said in ("Reading the catalog of samples", "The samples, one row each", "there is no catalog."):
        assert said in catalog  # of the module's docstring, a function's, its Raises


def test_pages_load_nothing_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    assert sum(len(page.loads) for page in pages.values()) > len(pages)
    for name, page in pages.items():
        for target in page.loads:
            assert not re.match(r"(?:[a-z]+:)?//", target), f"{name}: {target}"
            path = target.partition("?")[0]
            place = site / path[1:] if path.startswith("/") else (site / name).parent / path  # / in 404.html alone
            assert target.startswith("data:") or place.exists(), f"{name}: {target}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//|@import", sheet.read_text()), sheet
    for path in (ROOT / "docs").glob("*.md"):
        assert "```mermaid" not in path.read_text(), f"{path.name}: the theme would fetch a library from the web"


def test_links_lead_to_pages(site: Path, pages: dict[str, Page]) -> None:
    inner = 0
    for name, page in pages.items():
        if name == "404.html":  # may be shown at any address
            continue
        for target in page.links:
            path = target.partition("#")[0]
            if path and not re.match(r"[a-z]+:", path):
                inner += 1
                assert ((site / name).parent / path).exists(), f"{name}: {target}"
    assert inner > 100


def test_code_that_the_docs_link_to_is_shown(site: Path) -> None:
    assert {"params.yaml", "dvc.yaml", "midivae/models/transformer.py"} <= HOOKS["linked_files"]()
    shown = (site / "files" / "params.yaml.html").read_text()
    assert "steps_per_beat" in shown


def test_every_page_has_a_place() -> None:
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)
    named = re.findall(r"[\w-]+\.md", yaml.safe_dump(settings["nav"]))
    assert sorted(named) == sorted(path.name for path in (ROOT / "docs").glob("*.md")), "name it in nav of mkdocs.yml"
