"""The page in a real browser: a person finds music, hears it, and keeps it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from browser import chromium, peak, serious, until, watched
from explored import EVIL
from four_part import piece
from limits import WAIT_MS

from midivae.catalog import read
from midivae.explorer.server import Server
from midivae.explorer.session import Session
from midivae.music import smf
from midivae.storage.paths import MIDI_SUFFIXES

pytestmark = pytest.mark.numerical


LEVEL = "loop.speakers.level().rms"


@pytest.fixture
def tab(server: Server, session: Session) -> Iterator[Any]:
    """The open page; what it must never do fails the test in the end."""
    with chromium() as browser:
        context = browser.new_context(accept_downloads=True)
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.origin)
        opened = context.new_page()
        opened.set_default_timeout(WAIT_MS)
        complaints, asked = watched(opened)
        opened.goto(server.url)
        waits(opened, "#status", "notes")
        yield opened
    mine = (server.origin + "/", f"blob:{server.origin}/")
    assert complaints == []
    assert [url for url in asked if not url.startswith(mine)] == []


def waits(tab: Any, place: str, text: str) -> None:
    from playwright.sync_api import expect

    expect(tab.locator(place).first).to_contain_text(text, timeout=WAIT_MS)


def changes(tab: Any, act: Any) -> None:
    """Does something, and waits for the music that comes of it."""
    from playwright.sync_api import expect

    before = tab.locator("#status").get_attribute("data-made")
    act()
    expect(tab.locator("#status")).not_to_have_attribute("data-made", before, timeout=WAIT_MS)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 360)])
def test_axe_finds_nothing_serious(tab: Any, scheme: str, width: int) -> None:
    tab.emulate_media(color_scheme=scheme)
    tab.set_viewport_size({"width": width, "height": 800})
    tab.wait_for_timeout(300)
    assert serious(tab) == {}
    tab.get_by_role("button", name="Change parent B").click()  # and the list of music to choose from
    assert serious(tab) == {}


def test_a_person_finds_hears_and_keeps(tab: Any, session: Session, server: Server, data: Path) -> None:
    assert server.token not in tab.url  # out of sight, and out of what is shared
    assert tab.evaluate(LEVEL) == 0
    # another parent, with a name that means harm; it is text
    tab.get_by_role("button", name="Change parent B").click()
    tab.locator("#piece-text").fill("<script>")
    waits(tab, "#picked", "<script>")
    until(tab, "() => document.querySelectorAll('#picked button').length === 1")  # the list of this search
    changes(tab, lambda: tab.locator("#picked button").first.click())
    waits(tab, "#parents", "<script>alert(1)<!--.mid")
    # the point, by keyboard and by pointer
    tab.locator("#point").focus()
    changes(tab, lambda: tab.keyboard.press("ArrowRight"))
    box = tab.locator("#square").bounding_box()
    changes(tab, lambda: tab.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.75))
    assert tab.locator("#weights").inner_text().startswith("A 19 % · B 6 % · C 56 % · D 19 %")
    # a knob, the radius, another seed
    tab.locator("[id='knob-register']").focus()
    changes(tab, lambda: tab.keyboard.press("ArrowRight"))
    waits(tab, "[id='says-register']", "measured")
    tab.locator("#radius").focus()
    changes(tab, lambda: tab.keyboard.press("ArrowRight"))
    tab.locator("#fidelity").focus()
    changes(tab, lambda: tab.keyboard.press("ArrowLeft"))
    waits(tab, "#fidelity-says", "the notes")
    changes(tab, lambda: tab.locator("#roll-again").click())
    # it plays what changed, well above silence, and stops
    until(tab, f"{LEVEL} > 0.01")
    assert tab.locator("#play").get_attribute("aria-pressed") == "true"
    assert float(tab.locator("#status").get_attribute("data-ms")) > 0
    tab.locator("#play").click()
    until(tab, lambda: peak(tab, LEVEL, 10) < 1e-4, "silence")
    # it is drawn
    drawn = "() => new Set(roll.getContext('2d').getImageData(0, 0, roll.width, roll.height).data).size"
    assert tab.evaluate(drawn) > 10
    # kept, with its lineage; and the address is that of this settings
    tab.locator("#keep").click()
    waits(tab, "#kept", "kept-0000000")
    [row] = read.samples(data, "job = 'kept'").to_dict("records")
    assert row["weights"].tolist() == [0.1875, 0.0625, 0.5625, 0.1875]
    assert row["radius"] == pytest.approx(0.05)
    assert row["fidelity"] == pytest.approx(0.95)
    assert json.loads(row["edits"])["asked"]["register"] > 0
    assert row["seed"] > 0
    assert row["params_sha256"] == tab.locator("#status").get_attribute("data-made")
    with tab.expect_download() as download:
        tab.locator("#download").click()
    file = Path(download.value.path()).read_bytes()
    assert file == pd.read_parquet(data / "kept" / "catalog")["midi"][0]["bytes"]
    # opened again from its address alone, and from the list
    address = tab.url
    tab.locator("#share").click()
    waits(tab, "#status", "on the clipboard")
    assert tab.evaluate("() => navigator.clipboard.readText()") == address
    changes(tab, lambda: tab.locator("#lot").click())
    changes(tab, lambda: tab.get_by_role("button", name="Open kept-0000000").click())
    assert tab.locator("#status").get_attribute("data-made") == row["params_sha256"]
    again = tab.context.new_page()
    again.goto(address)
    waits(again, "#status", "notes")
    assert again.locator("#status").get_attribute("data-made") == row["params_sha256"]


def test_a_file_of_ones_own_and_errors_in_words(tab: Any, tmp_path: Path) -> None:
    (tmp_path / EVIL).write_bytes(smf.write(piece(77)))
    tab.get_by_role("button", name="Change parent A").click()
    tab.get_by_role("button", name="A file").click()
    assert {*MIDI_SUFFIXES} < {*tab.locator("#file").get_attribute("accept").split(",")}
    changes(tab, lambda: tab.locator("#file").set_input_files(tmp_path / EVIL))
    waits(tab, "#parents", EVIL.replace("\u202e", ""))
    for _ in range(3):
        changes(tab, lambda: tab.get_by_role("button", name="Remove parent").last.click())
    assert tab.locator("#square-card").is_hidden()
    assert tab.get_by_role("button", name="Remove parent A").is_disabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_narrow_screens(tab: Any, scheme: Any) -> None:
    tab.emulate_media(color_scheme=scheme)
    for width in (360, 768, 1280):
        tab.set_viewport_size({"width": width, "height": 740})
        assert tab.evaluate("() => document.documentElement.scrollWidth") <= width
    unnamed = """() => [...document.querySelectorAll('button, input, select, [role=slider], canvas')].filter((it) =>
      !(it.labels?.length || it.getAttribute('aria-label') || it.textContent.trim())).map((it) => it.outerHTML)"""
    assert tab.evaluate(unnamed) == []
