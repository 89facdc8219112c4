"""The report in a real browser: it opens, filters, sorts, plays, asks for nothing, and shows hostile names as text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, peak, serious, until, watched
from limits import WAIT_MS
from reported import HIGH, LOW, PIECE, SOURCE

from midivae.catalog import read

READY = "document.documentElement.dataset.ready !== undefined"
JOBS = {"sample": 9, "drawn": 3, "vary": 4, "blend": 8, "merged": 3}
TOTAL = sum(JOBS.values())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Any, data: Path, html: str) -> Iterator[Any]:
    """The report, unpacked; in the end it has complained of nothing and asked for itself alone."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    complaints, asked = watched(page)
    address = (data / "report" / "index.html").as_uri()
    page.goto(address)
    until(page, READY)
    yield page
    assert complaints == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [address]
    context.close()


def titles(page: Any) -> list[str]:
    return page.locator(".sample").evaluate_all("nodes => nodes.map(node => node.dataset.id)")


# --- to look at -------------------------------------------------------------------------------------------------------
def test_it_opens_with_some_of_each_job(page: Any) -> None:
    assert page.locator("#count").inner_text().startswith(f"{TOTAL} of {TOTAL} samples")
    assert titles(page) == [f"{job}-{i:07}" for job in JOBS for i in range(2)]  # report.rolls_per_job
    assert page.locator("#jobs button").count() == 1 + len(JOBS)


def test_rolls_are_drawn_when_they_come_into_sight(page: Any) -> None:
    painted = "node => new Set(node.getContext('2d').getImageData(0, 0, node.width, node.height).data).size > 8"
    first = page.locator(".sample canvas").first
    first.scroll_into_view_if_needed()
    until(page, f"({painted})(document.querySelector('.sample canvas'))")
    assert "Piano roll of sample-0000000" in first.get_attribute("aria-label")
    last = page.locator(".sample canvas").last
    last.scroll_into_view_if_needed()
    until(page, "[...document.querySelectorAll('.sample canvas')].at(-1).width > 100")


def test_a_job_can_be_chosen_and_filtered(page: Any, data: Path) -> None:
    page.get_by_role("button", name="sample 9").click()
    assert titles(page) == [f"sample-{i:07}" for i in range(9)]
    rows = read.samples(data, "job = 'sample'")
    key = rows["key"].mode()[0]
    page.locator("#key").select_option(key)
    until(page, f"document.querySelectorAll('.sample').length === {int((rows['key'] == key).sum())}")
    assert titles(page) == rows[rows["key"] == key]["sample_id"].tolist()
    page.locator("#clear").click()
    middle = float(rows["notes"].median())
    page.get_by_role("button", name="sample 9").click()
    page.locator("#measure").select_option("notes")
    page.locator("#low").fill(str(middle))
    wanted = rows[rows["notes"] >= middle]["sample_id"].tolist()
    until(page, f"document.querySelectorAll('.sample').length === {len(wanted)}")
    assert titles(page) == wanted
    page.locator("#low").fill("100000")
    page.wait_for_selector(".empty")
    assert page.locator("#count").inner_text().startswith("0 of")


def test_samples_can_be_sorted(page: Any, data: Path) -> None:
    wanted = read.samples(data, sort="-notes")
    page.locator("#sort").select_option("notes")
    page.locator("#descending").check()
    notes = wanted.set_index("sample_id")["notes"]

    def is_sorted() -> bool:
        shown = [float(notes[title]) for title in titles(page)]
        return len(shown) == TOTAL and shown == sorted(shown, reverse=True)

    until(page, is_sorted, "all samples, those with most notes first")


def test_a_search_finds_parents(page: Any) -> None:
    page.locator("#search").fill("onclick=alert(2)")
    until(page, "document.querySelectorAll('#cards .sample').length >= 4")
    assert [title for title in titles(page) if title.startswith("vary")] == [f"vary-{i:07}" for i in range(4)]


def test_the_nearest_latent_is_a_click_away(page: Any) -> None:
    button = page.locator(".sample .row button").nth(1)
    name = button.inner_text().removeprefix("nearest latent: ")
    button.click()
    until(page, "document.querySelectorAll('.sample').length === 1")
    assert titles(page) == [name]


def test_a_sample_can_be_saved(page: Any, data: Path, tmp_path: Path) -> None:
    with page.expect_download() as download:
        page.get_by_role("button", name="Save sample-0000001 as a MIDI file").click()
    download.value.save_as(tmp_path / "saved.mid")
    assert (tmp_path / "saved.mid").read_bytes() == read.midi_bytes(data, ["sample-0000001"])["sample-0000001"]


def test_jobs_in_the_charts_can_be_chosen(page: Any) -> None:
    lines = page.locator("#comparison .line.j4")
    assert not lines.first.is_visible()
    page.locator('[data-set="j4"]').check()
    assert lines.first.is_visible()


# --- to listen to -----------------------------------------------------------------------------------------------------
LEVEL = "window.midivaePlayer.speakers.level().peak"


def test_a_sample_sounds_and_stops(page: Any) -> None:
    page.get_by_role("button", name="Play sample-0000000", exact=True).click()
    until(page, "window.midivaePlayer.position > 0.3")
    until(page, f"{LEVEL} > 0.01")
    assert peak(page, LEVEL) <= 1
    assert page.locator("#playing").inner_text() == "sample-0000000"
    assert page.locator(".sample.playing .cursor").count() == 1
    page.get_by_role("button", name="Pause sample-0000000", exact=True).click()
    until(page, lambda: peak(page, LEVEL) < 1e-3, "silence")
    at = page.evaluate("window.midivaePlayer.position")
    page.wait_for_timeout(200)
    assert page.evaluate("window.midivaePlayer.position") == at > 0
    page.get_by_role("button", name="Play the next sample").click()
    until(page, "window.midivaePlayer.position > 0.2")
    assert page.locator("#playing").inner_text() == "sample-0000001"
    page.get_by_role("button", name="Stop and close the player").click()
    assert not page.locator("#player").is_visible()


def test_a_click_into_the_roll_plays_from_there(page: Any) -> None:
    canvas = page.locator(".sample canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] * 0.75, "y": 40})
    until(page, "window.midivaePlayer.music !== null")
    length = page.evaluate("window.midivaePlayer.music.seconds")
    assert page.evaluate("window.midivaePlayer.from") == pytest.approx(0.7 * length, rel=0.1)


def test_every_instrument_sounds(page: Any) -> None:
    """A program of each family, and drums: above silence, below full scale."""
    render = """async ([pitch, program, drums]) => {
      const context = new OfflineAudioContext(2, 44100, 44100), synth = new Synth(context, context.destination);
      synth.note(0, 0.5, pitch, 100, program, drums, 0);
      const wave = (await context.startRendering()).getChannelData(0);
      return wave.reduce((most, value) => Math.max(most, Math.abs(value)), 0); }"""
    notes = [(60, program, False) for program in range(0, 128, 8)] + [(p, 0, True) for p in (35, 38, 42, 46, 49, 45)]
    for note in notes:
        assert 0.01 < page.evaluate(render, list(note)) < 1, note


def test_the_page_reads_midi_as_we_do(page: Any, data: Path) -> None:
    from midivae.music import smf

    for name, file in read.midi_bytes(data, ["sample-0000002", "merged-0000001"]).items():
        mine = smf.read(file).notes.sorted()
        theirs = page.evaluate("(bytes) => readMidi(new Uint8Array(bytes))", list(file))
        quarter = mine.ticks_per_quarter
        wanted = sorted(
            (o / quarter, int(p), d / quarter, mine.track_names[t])
            for o, p, d, t in zip(mine.onset_tick, mine.pitch, mine.duration_tick, mine.track, strict=True)
        )
        found = sorted((n["start"], n["pitch"], n["length"], theirs["tracks"][n["track"]]) for n in theirs["notes"])
        assert found == wanted, name
        assert page.evaluate("(m) => toSeconds(m.tempos, m.end)", theirs) == pytest.approx(
            max(o + d for o, d in zip(mine.onset_tick.tolist(), mine.duration_tick.tolist(), strict=True))
            / quarter * mine.tempos[0].us_per_quarter / 1e6
        )  # fmt: skip


# --- safe -------------------------------------------------------------------------------------------------------------
def test_hostile_names_show_as_text(page: Any) -> None:
    page.get_by_role("button", name="vary 4").click()
    text = page.locator("#list").text_content()
    assert HIGH in text
    assert LOW in text
    assert f"parent: {PIECE}, bar 2" in text
    assert SOURCE in page.locator("#corpus").text_content()
    assert page.locator("#list b, #list img, #list script, [onclick], [onerror]").count() == 0
    assert page.locator("script").count() == 2


def test_the_policy_stops_what_is_injected(browser: Any, data: Path, html: str) -> None:
    page = browser.new_page()
    page.goto((data / "report" / "index.html").as_uri())
    until(page, READY)
    page.evaluate(
        """() => { document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.hit = 1'>");
          const script = document.createElement("script"); script.textContent = "window.hit = 2";
          document.body.append(script); }"""
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.hit") is None
    page.close()


# --- for everyone -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 360)])
def test_axe_finds_nothing_serious(page: Any, scheme: str, width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.get_by_role("button", name="Play vary-0000000", exact=True).click()
    until(page, "window.midivaePlayer.position > 0.1")
    assert serious(page) == {}


def test_a_phone_scrolls_down_only(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    until(page, "document.documentElement.scrollWidth <= 360")


def test_it_works_with_a_keyboard(page: Any) -> None:
    page.get_by_role("button", name="Play sample-0000000", exact=True).focus()
    page.keyboard.press("Enter")
    until(page, "window.midivaePlayer.position > 0.2")
    page.keyboard.press("Space")
    until(page, "window.midivaePlayer.timer === 0")
    page.get_by_role("button", name="blend 8").focus()
    page.keyboard.press("Enter")
    assert titles(page) == [f"blend-{i:07}" for i in range(8)]


def test_without_a_script_the_figures_stay(browser: Any, data: Path, html: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((data / "report" / "index.html").as_uri())
    assert page.locator("#comparison svg.chart").count() > 10
    assert "need JavaScript" in page.locator("noscript").inner_text()
    assert not page.locator("#controls").is_visible()
    context.close()
