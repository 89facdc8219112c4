"""Size of the report, and time until a browser shows it: `python bench/report.py data --samples 2000`.

Opens the page in a headless Chromium with a new profile each time; the first time does not count. *Opened*: the samples
are unpacked and the first cards are shown. *Drawn*: the visible rolls are drawn as well. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from midivae.config import params
from midivae.report import stage as report

FOLDERS = ("corpus", "rolls", "model", "samples", "evaluation")
DRAWN = "document.querySelector('.sample canvas').width > 50"


def until(page: Any, expression: str) -> None:
    while not page.evaluate(expression):
        page.wait_for_timeout(5)


def opened(browser: Any, address: str, width: int) -> tuple[float, float]:
    """Seconds until the page is ready, and until a visible roll is drawn."""
    page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
    start = time.perf_counter()
    page.goto(address)
    until(page, "document.documentElement.dataset.ready !== undefined")
    ready = time.perf_counter() - start
    page.evaluate("document.querySelector('.sample').scrollIntoView()")
    until(page, DRAWN)
    drawn = time.perf_counter() - start
    page.context.close()
    return ready, drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=9)
    asked = parser.parse_args()
    chromium = os.environ.get("MIDIVAE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    settings = params.load(asked.params)
    settings = settings.model_copy(update={"report": settings.report.model_copy(update={"samples": asked.samples})})
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        data = Path(name)
        for folder in FOLDERS:
            (data / folder).symlink_to((asked.data / folder).resolve())
        made = report.run(settings, data)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        address = (data / "report" / "index.html").as_uri()
        found: dict[str, Any] = {"samples": made["samples"], "bytes": made["bytes"], "stage_s": made["seconds"]}
        for label, width in (("wide", 1280), ("phone", 390)):
            times = [opened(browser, address, width) for _ in range(1 + asked.repeats)][1:]
            for which, values in zip(("opened", "drawn"), zip(*times, strict=True), strict=True):
                found[f"{label}_{which}_s"] = round(statistics.median(values), 3)
                found[f"{label}_{which}_most_s"] = round(max(values), 3)
        found |= {"chromium": browser.version, "machine": platform.machine(), "cores": os.cpu_count()}
        browser.close()
    for key, value in found.items():
        print(f"{key:24} {value}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
