"""Tests of midivae.fetch.corpora: the registry keeps its own rules, is found by name, and says what its page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from pydantic import ValidationError

from midivae.cli import main as cli
from midivae.config import params
from midivae.config.fetch import BUILT_IN, Fetch
from midivae.config.params import Params
from midivae.errors import ParamsError
from midivae.fetch import corpora, own_split

ROOT = Path(__file__).parents[2]
TEXT = corpora.REGISTRY.read_text()
CORPORA = corpora.load()


# --- the registry -----------------------------------------------------------------------------------------------------
def test_the_corpora_that_everybody_asks_for_are_there() -> None:
    asked = {"maestro-v3", "lakh-full", "lakh-clean", "lakh-matched", "pop909", "nottingham", "giantmidi-piano"}
    assert asked | {"adl-piano-midi"} <= set(CORPORA)


@pytest.mark.parametrize("name", CORPORA)
def test_an_entry_says_where_its_facts_are_from(name: str) -> None:
    before = TEXT[: TEXT.index(f"\n{name}:\n")].splitlines()
    assert before[-1].startswith("# "), "name the places that hashes, sizes and licence were copied from"


@pytest.mark.parametrize("name", CORPORA)
def test_an_entry_can_be_a_source(name: str) -> None:
    corpus = CORPORA[name]
    assert Fetch(source=name).source == name
    assert name not in BUILT_IN
    assert corpus.sha256 or corpus.md5 or corpus.url.startswith("https://"), "neither hash nor a server that is known"
    if corpus.split is not None:
        assert set(corpus.split.folders) <= set(own_split.SPLITS)
    for part in corpus.parts.tracks if corpus.parts.rule == "track" else ():
        assert re.fullmatch(r"[a-z][a-z0-9-]*", part)


@pytest.mark.parametrize("name", CORPORA)
def test_what_is_not_free_for_all_needs_a_yes(name: str) -> None:
    licence = CORPORA[name].licence
    if licence.id is None or "-NC" in licence.id or "agree" in licence.sentence:
        assert CORPORA[name].restricted


def test_no_hash_is_there_twice() -> None:
    hashes = [corpus.sha256 for corpus in CORPORA.values() if corpus.sha256]
    assert len(hashes) == len(set(hashes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": "ftp://example.org/x.zip"}, "url"),
        ({"sha256": "abc"}, "sha256"),
        ({"size": 3}, "size"),
        ({"split": {}}, "either `table`, `file` and `column`, or `folders`"),
        ({"split": {"table": "a.csv"}}, "either `table`"),
        ({"split": {"table": "a.csv", "file": "f", "column": "s", "folders": ["train"]}}, "either `table`"),
    ],
)
def test_a_wrong_entry_is_refused(change: dict[str, object], message: str) -> None:
    entry = yaml.safe_load(TEXT)["maestro-v3"]
    with pytest.raises(ValidationError, match=message):
        corpora.Corpus.model_validate(entry | change)


# --- by name ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("maestro", "maestro-v3 or maestro-v2"),
        ("Maestro-V3", "maestro-v3"),
        ("lahk-full", "lakh-full"),
        ("pop-909", "pop909"),
        ("groove-midi", "groove"),
        ("bach", "bach-chorales"),
    ],
)
def test_near_matches(name: str, near: str) -> None:
    with pytest.raises(ParamsError, match=rf"'{name}'.*did you mean [^?]*{near}.*`midivae fetch --list`"):
        corpora.find(name)


def test_a_name_that_is_near_to_none() -> None:
    with pytest.raises(ParamsError) as error:
        corpora.find("qqqqqq")
    assert "did you mean" not in str(error.value)


def test_the_list() -> None:
    result = CliRunner().invoke(cli.midivae, ["fetch", "--list", "--params", "not-there.yaml"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:-2]] == ["bach-chorales", *CORPORA]
    assert max(map(len, lines)) <= 120
    [maestro] = [line for line in lines if line.startswith("maestro-v3 ")]
    assert maestro.split()[:5] == ["maestro-v3", "1,276", "58.4", "MB", "CC-BY-NC-SA-4.0*"]


def test_sizes_in_words() -> None:
    sizes = {
        None: "?",
        999: "999 B",
        1000: "1.0 kB",
        58_416_533: "58.4 MB",
        9_194_218_582: "9.2 GB",
        10**13: "10000.0 GB",
    }
    assert {size: corpora.size_in_words(size) for size in sizes} == sizes


# --- on the command line ----------------------------------------------------------------------------------------------
def chosen(word: str | None, accept: bool = False, /, **given: object) -> Fetch:
    return corpora.chosen(params.parse({"fetch": given}, "test"), word, accept).fetch


def test_a_word_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pop909").mkdir()
    (tmp_path / "tunes").mkdir()
    (tmp_path / "tunes.zip").touch()
    for word, wanted in {
        "pop909": ("pop909", None, None),  # a name goes before a folder of that name
        "./pop909": ("folder", "./pop909", None),
        "bach-chorales": ("bach-chorales", None, None),
        "tunes": ("folder", "tunes", None),
        "tunes.zip": ("archive", "tunes.zip", None),
        "gone/x.zip": ("archive", "gone/x.zip", None),
        "https://a.b/x.zip": ("url", None, "https://a.b/x.zip"),
    }.items():
        made = chosen(word, source="folder", path="other", licence="mine")
        assert (made.source, made.path, made.url) == wanted
        assert made.licence is None  # that was another source's
    with pytest.raises(ParamsError, match="neither http nor https"):
        chosen("ftp://a.b/x.zip")
    with pytest.raises(ParamsError, match="did you mean maestro-v3"):
        chosen("maestro-v33")


def test_a_yes_is_for_the_corpus_that_is_fetched() -> None:
    assert chosen("maestro-v3", True).accept_licence == "maestro-v3"
    assert chosen(None, True, source="maestro-v2").accept_licence == "maestro-v2"
    assert chosen("maestro-v3", accept_licence="maestro-v2").accept_licence == "maestro-v2"  # and not for another
    kept = chosen("maestro-v3", True, source="maestro-v3", path="m.zip")
    assert (kept.path, kept.accept_licence) == ("m.zip", "maestro-v3")


def test_without_a_word_nothing_changes() -> None:
    given = params.parse({"fetch": {"source": "folder", "path": "x"}, "train": {"seed": 3}}, "test")
    assert corpora.chosen(given, None, False) == given
    assert corpora.chosen(Params(), "pop909", False).train == Params().train


# --- the page ---------------------------------------------------------------------------------------------------------
def row(name: str) -> str:
    """What docs/corpora.md says of a corpus."""
    corpus = CORPORA[name]
    files = "?" if corpus.files is None else f"{corpus.files:,}"
    licence = f"[{corpus.licence.id or 'none stated'}]({corpus.licence.link})" + r" \*" * corpus.restricted
    split = "yes" if corpus.split is not None else ""
    known = "sha256" if corpus.sha256 else "md5" if corpus.md5 else ""
    size = corpora.size_in_words(corpus.bytes)
    cells = (f"[`{name}`]({corpus.homepage})", files, size, licence, split, known, corpus.inside)
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("name", CORPORA)
def test_the_page_has_every_corpus_as_the_registry_has_it(name: str) -> None:
    assert row(name) in (ROOT / "docs" / "corpora.md").read_text().splitlines()
