"""A real headless Chromium for tests, where the machine has one."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from limits import WAIT_S

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def path() -> str:
    """Where Chromium is; skips the test where there is none."""
    named = os.environ.get("MIDIVAE_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no Chromium on PATH ({', '.join(NAMES)}); install one, or name it in MIDIVAE_CHROMIUM")
    return found


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser, without a sandbox of its own, as tests run in containers."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is in the extra dev")
    executable = path()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def watched(page: Any) -> tuple[list[str], list[str]]:
    """Two lists that fill while a page lives: what it complained of, and the addresses that it asked for."""
    complaints: list[str] = []
    asked: list[str] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    return complaints, asked


def until(page: Any, condition: str | Callable[[], bool], what: str = "") -> None:
    """Waits until an expression of the page, or a function, is true.

    `wait_for_function` evaluates text inside the page, which its policy forbids.
    """
    end = time.monotonic() + WAIT_S
    while not (page.evaluate(condition) if isinstance(condition, str) else condition()):
        assert time.monotonic() < end, f"not true after {WAIT_S:g} s: {what or condition}"
        page.wait_for_timeout(25)


def peak(page: Any, level: str, tries: int = 5) -> float:
    """The highest level of sound, an expression of the page, at some moments."""
    found = 0.0
    for _ in range(tries):
        found = max(found, page.evaluate(level))
        page.wait_for_timeout(60)
    return found


def serious(page: Any) -> dict[str, str]:
    """What axe-core finds in a page that shuts people out: by rule, the first place."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-playwright-python is in the extra dev"
    )
    found = axe.Axe().run(page).response["violations"]
    return {each["id"]: each["nodes"][0]["html"] for each in found if each["impact"] in ("serious", "critical")}
