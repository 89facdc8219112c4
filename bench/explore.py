"""Time from a change of a control to the first sound: `python bench/explore.py data`.

Starts a real server on loopback and opens its page in a headless Chromium, if one is found (MIDIVAE_CHROMIUM, or on
PATH). It presses a key on a control again and again, each time after another seed, so that no settings are asked for
twice. Two figures, in milliseconds: *music*, until the server has answered a client without a page; *sound*, from the
key press until the audio clock plays the first note.

Ceiling: 300 ms, the aim of the project; a later sound no longer seems to answer the hand. No peer is known whose page
plays a window of a VAE while a knob is turned.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import threading
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import numpy as np
from hardware import hardware

from midivae.config import params
from midivae.explorer.routes import TOKEN
from midivae.explorer.server import Server
from midivae.explorer.session import Session

WARM_UP = 3


def call(server: Server, name: str, body: dict[str, object]) -> dict[str, object]:
    headers = {TOKEN: server.token, "Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.origin}/api/{name}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def music(server: Server, presses: int) -> dict[str, list[float]]:
    """Milliseconds until the server has answered, per kind of move."""
    about = call(server, "about", {})
    parents = call(server, "random", {"count": 4, "seed": 1})
    kinds = {"point": lambda i: {"at": [i / 256, 0.4]}, "radius": lambda i: {"radius": 0.5, "seed": i}}
    if about["knobs"]:
        name, low, high = (about["knobs"][0][key] for key in ("name", "low", "high"))
        kinds["knob"] = lambda i: {"changes": {name: low + (high - low) * (i + 0.5) / (presses + WARM_UP)}}
    found: dict[str, list[float]] = {}
    for kind, values in kinds.items():
        taken = []
        for i in range(presses + WARM_UP):
            start = time.perf_counter()
            call(server, "make", {"parents": parents, **values(i)})
            taken.append(1000 * (time.perf_counter() - start))
        found[kind] = taken[WARM_UP:]
    return found


def sound(server: Server, presses: int, chromium: str) -> dict[str, list[float]]:
    """Milliseconds until the first sound, per kind of move, as the page measures them."""
    from playwright.sync_api import expect, sync_playwright

    found: dict[str, list[float]] = {"point": [], "knob": []}
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(server.url)
        status = tab.locator("#status")
        expect(status).to_contain_text("notes", timeout=60_000)
        tab.locator("#play").click()
        for kind, control in (("point", "#point"), ("knob", "#knobs input >> nth=0")):
            if not tab.locator(control).count():
                continue
            for i in range(presses + WARM_UP):
                before = status.get_attribute("data-made") or ""
                tab.locator("#roll-again").click()
                expect(status).not_to_have_attribute("data-made", before, timeout=30_000)
                before = status.get_attribute("data-made") or ""
                tab.locator(control).focus()
                tab.keyboard.press("ArrowRight" if i % 12 < 6 else "ArrowLeft")
                expect(status).not_to_have_attribute("data-made", before, timeout=30_000)
                ms = status.get_attribute("data-ms")
                if i >= WARM_UP and ms:
                    found[kind].append(float(ms))
        browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--presses", type=int, default=50)
    arguments = parser.parse_args()
    chromium = os.environ.get("MIDIVAE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    load = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory() as kept,
        closing(Session(params.load(arguments.params), arguments.data, Path(kept) / "kept")) as session,
        Server(session, 0) as server,
    ):
        thread = threading.Thread(target=server.serve)
        thread.start()
        figures = {"music": music(server, arguments.presses)}
        if chromium:
            figures["sound"] = sound(server, arguments.presses, chromium)
        server.stop()
        thread.join()
    summary = {
        f"{what}_{kind}": {"p50": round(float(np.percentile(ms, 50))), "p95": round(float(np.percentile(ms, 95)))}
        for what, kinds in figures.items()
        for kind, ms in kinds.items()
        if ms
    }
    print(f"{'milliseconds until':20} {'p50':>6} {'p95':>6}")
    for name, row in summary.items():
        print(f"{name:20} {row['p50']:6} {row['p95']:6}")
    print(json.dumps({"bench": "explore", **summary, "presses": arguments.presses, "load": load, **hardware()}))


if __name__ == "__main__":
    main()
