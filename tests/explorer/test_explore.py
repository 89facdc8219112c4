"""The explorer: what it makes of a find, what it keeps, what its server refuses, and its page in a real browser."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import chromium, peak, serious, until, watched
from click.testing import CliRunner
from floats import close
from four_part import piece
from hypothesis import given
from hypothesis import strategies as st
from inline import in_this_process
from limits import WAIT_MS, WAIT_S
from pieces import as_fetched, hand_made, notes_of

from midivae.catalog import catalog
from midivae.cli import commands as cli
from midivae.config.params import Params, parse
from midivae.errors import CorruptError, InputError, ParamsError
from midivae.explorer import explore, routes
from midivae.explorer import server as local
from midivae.explorer.explore import Explorer, Find, point_of, weights_of
from midivae.explorer.server import NAME, TOKEN, Server
from midivae.generate import stage as generate
from midivae.ingest import stage as ingest
from midivae.models import coding, latent
from midivae.music import midi
from midivae.storage import folders
from midivae.storage.files import file_sha256
from midivae.train import stage as train
from midivae.workers import parallel

pytestmark = pytest.mark.numerical

EVIL = "<img src=x onerror=alert(1)>\u202e\"'.mid"
VALUES: dict[str, Any] = {
    "compute": {"workers": 1},
    "train": {
        "compare": ["mlp"],
        "view": {"steps": 32},
        "precision": 32,
        "transformer": {
            **{"width": 32, "channels": 8, "heads": 2, "layers": 1, "cell": 8, "latent": 48, "context": 8},
            **{"batch_size": 16, "max_steps": 120, "epochs": 100, "anneal_steps": 40, "prior_steps": 20},
            **{"optimizer": "adamw", "learning_rate": 0.006, "patience": None},
        },
        "dense": {"hidden": [32], "latent": 8, "epochs": 2, "batch_size": 16},
    },
    "generate": {"jobs": [{"name": "a", "count": 3}], "samples_per_part": 64},
}
PARAMS: Params = parse(VALUES, "test")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with rolls, models and a few samples; one piece has a name that means harm."""
    data = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIDIVAE_HOME", str(data / "work"))
        patch.setattr(generate, "fan_out", in_this_process)
        patch.setattr(coding, "BLOCK", 8)
        files = {f"{i:02}.mid": midi.write(piece(i)) for i in range(30)}
        as_fetched(data, files | {"<script>alert(1)<!--.mid": midi.write(piece(99))})
        patch.setattr(latent, "CALIBRATED_ON", 16)
        patch.setattr(latent, "LEAST_EXPLAINED", 0.1)  # the model is small, and hardly trained
        for stage in (ingest, train, generate):
            stage.run(PARAMS, data)
    return data


@pytest.fixture
def data(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of its own, to keep samples in; uploads are looked at in this process."""
    (tmp_path / "data").mkdir()
    for name in ("rolls", "model", "samples"):
        (tmp_path / "data" / name).symlink_to(trained / name)
    monkeypatch.setenv("MIDIVAE_HOME", str(trained / "work"))
    monkeypatch.setattr(explore, "fan_out", in_this_process)
    monkeypatch.setattr(latent, "LEAST_EXPLAINED", 0.1)
    return tmp_path / "data"


@pytest.fixture
def explorer(data: Path) -> Iterator[Explorer]:
    found = Explorer(PARAMS, data)
    yield found
    found.close()


@pytest.fixture
def server(explorer: Explorer) -> Iterator[Server]:
    with Server(routes.site(explorer), 0) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def some(explorer: Explorer, **values: Any) -> Find:
    """A find between four pieces."""
    return Find.parse({"parents": explorer.any_pieces(4, 0), **values})


def planes(explorer: Explorer, find: Find) -> np.ndarray:
    return explorer.make(find).made.planes


# --- finds ------------------------------------------------------------------------------------------------------------
def test_weights_by_hand() -> None:
    # a quarter from the left, half way down: (3/4 * 1/2, 1/4 * 1/2, 3/4 * 1/2, 1/4 * 1/2)
    assert weights_of(4, (0.25, 0.5)).tolist() == [0.375, 0.125, 0.375, 0.125]
    assert weights_of(3, (0.25, 0.5)).tolist() == [0.375, 0.125, 0.5]
    assert weights_of(2, (0.25, 0.9)).tolist() == [0.75, 0.25]
    assert weights_of(1, (0.25, 0.9)).tolist() == [1]
    assert weights_of(4, (1.0, 1.0)).tolist() == [0, 0, 0, 1]


@given(st.integers(1, 4), st.integers(0, 256), st.integers(0, 256))
def test_a_point_comes_back_from_the_32_bits_of_its_weights(parents: int, x: int, y: int) -> None:
    weights = weights_of(parents, (x / 256, y / 256))
    assert weights.sum() == 1
    stored = weights.astype(np.float32).astype(float).tolist()
    assert weights_of(parents, point_of(stored)).tolist() == weights.tolist()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"parents": []}, "parents"),
        ({"parents": ["piece:0123456789abcdef@1"] * 5}, "parents"),
        ({"parents": ["file:/etc/passwd@1"]}, "is none of piece:ID@BAR"),
        ({"parents": ["file:../x-0123456789abcdef.mid@1"]}, "is none of piece:ID@BAR"),
        ({"parents": ["split:train"]}, "is none of piece:ID@BAR"),
        ({"parents": [7]}, "parents"),
        ({"at": [0.5, 2]}, "at.1"),
        ({"at": [float("nan"), 0]}, "at.0"),
        ({"radius": -1}, "radius"),
        ({"radius": float("inf")}, "radius"),
        ({"seed": -1}, "seed"),
        ({"changes": {"register": 1e9}}, "changes.register"),
        ({"changes": {"loudness": 1}}, "no knob 'loudness'"),
        ({"model": "gpt"}, "model"),
        ({"model": "autoencoder"}, "no model 'autoencoder'"),
        ({"tempo_qpm": 0}, "tempo_qpm"),
        ({"midi_files": False}, "unknown 'midi_files'"),
        ({"model": "mlp", "changes": {"register": 1}}, "no knob 'register'; this model has"),
        ({"parents": ["piece:0123456789abcdef@1"]}, "there is none of this id"),
    ],
)
def test_finds_that_break_a_rule(explorer: Explorer, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError) as caught:
        explorer.make(some(explorer, **values))
    assert message in str(caught.value)


def test_a_corner_is_its_parent_and_the_middle_is_between(explorer: Explorer) -> None:
    corners = [explorer.make(some(explorer, at=at)) for at in ((0, 0), (1, 0), (0, 1), (1, 1))]
    for i, found in enumerate(corners):
        alone = explorer.make(Find.parse({"parents": [some(explorer).parents[i]]}))
        assert close(found.made.z, alone.made.z)  # it was encoded in another place of a block
        if i == 0 or np.array_equal(found.made.z, alone.made.z):
            assert np.array_equal(found.made.planes, alone.made.planes)
    middle = explorer.make(some(explorer)).made.z
    to_corners = [float(np.linalg.norm(middle - found.made.z)) for found in corners]
    between = [float(np.linalg.norm(a.made.z - b.made.z)) for a in corners for b in corners if a is not b]
    assert max(to_corners) < max(between)


def test_the_radius_leads_away_and_the_seed_says_where(explorer: Explorer) -> None:
    here = explorer.make(some(explorer)).made.z
    near, far = (explorer.make(some(explorer, radius=r, seed=4)).made.z for r in (0.1, 2))
    assert 0 < np.linalg.norm(near - here) < np.linalg.norm(far - here)
    other = explorer.make(some(explorer, radius=2, seed=5)).made.z
    assert not np.array_equal(far, other)


def test_a_knob_changes_what_it_says(explorer: Explorer) -> None:
    assert "register" in [knob["name"] for knob in explorer.about()["knobs"]]
    got = {}
    for asked in (-4.0, 4.0):
        row = explorer.make(some(explorer, changes={"register": asked, "key": 0})).row
        edits = json.loads(row["edits"][0].as_py())
        assert edits["asked"] == {"register": asked}
        got[asked] = edits["measured"]["register"]
    assert got[-4.0] < -1 < 1 < got[4.0]


def test_the_same_find_is_the_same_music_in_another_process_of_the_explorer(explorer: Explorer, data: Path) -> None:
    find = some(explorer, at=[0.3, 0.6], radius=0.4, seed=9, changes={"register": 2})
    other = Explorer(PARAMS, data)
    assert explorer.make(find).file == other.make(find).file
    other.close()


def test_other_models_and_samples_as_parents(explorer: Explorer) -> None:
    assert explorer.about("mlp")["model"] == "mlp"
    assert explorer.make(some(explorer, model="mlp")).row["model"].to_pylist() == ["mlp"]
    sample = catalog.query(explorer._data, "sample_id == 'a-0000001'", latents=True)
    found = explorer.make(Find.parse({"parents": ["sample:a-0000001"]}))
    assert np.array_equal(found.made.z[0], sample["z"][0])  # its own latent, not what it is encoded to
    with pytest.raises(InputError, match="not in the catalog"):
        explorer.make(Find.parse({"parents": ["sample:a-0000077"]}))


# --- uploads ----------------------------------------------------------------------------------------------------------
def test_an_upload_becomes_a_parent(explorer: Explorer) -> None:
    told = explorer.upload(f"/home/me/{EVIL}", midi.write(piece(77)))
    assert told["name"] == EVIL.replace("\u202e", "")  # no path, nothing that turns text round; the rest is only text
    assert explorer.named([told["parent"]])[0]["name"] == told["name"]
    found = explorer.make(Find.parse({"parents": [told["parent"]]}))
    assert found.labels == (told["parent"],)
    assert found.row["notes"][0].as_py() > 0
    later = told["parent"].replace("@1", "@11")
    assert not np.array_equal(found.made.z, explorer.make(Find.parse({"parents": [later]})).made.z)
    with pytest.raises(ParamsError, match=r"steps are left") as caught:
        explorer.make(Find.parse({"parents": [told["parent"].replace("@1", "@12")]}))
    assert explorer._scratch.name not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"RIFF", "MIDI"),
        (hand_made()[:40], "can parse the file"),
        (b"\0" * (explore.MAX_UPLOAD + 1), "a MIDI file may have"),
        (midi.write(notes_of([(i * 480, 480, 60) for i in range(16)], names=("Kazoo",))), "none of its notes.*Kazoo"),
        (midi.write(notes_of([(i * 480, 480, 20) for i in range(16)], names=("Bass",))), "pitches 36 to 83"),
        (midi.write(notes_of([(0, 480, 60), (10**8, 480, 60)], names=("Bass",))), "steps long"),
    ],
)
def test_bad_uploads_are_refused_with_a_reason(explorer: Explorer, file: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        explorer.upload("x.mid", file)
    assert not list(Path(explorer._scratch.name).glob("*.mid"))


def test_a_file_that_kills_its_reader_kills_no_more(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explore, "fan_out", parallel.fan_out)
    monkeypatch.setattr(explore, "_look_at", _die)
    with pytest.raises(InputError, match="the reader crashed at this file"):
        explorer.upload("x.mid", midi.write(piece(1)))


def _die(_check: object, _beat: object) -> None:
    os._exit(7)


# --- what is kept -----------------------------------------------------------------------------------------------------
def test_a_kept_sample_is_in_the_catalog_with_its_lineage(explorer: Explorer, data: Path) -> None:
    before = sorted(path.stat().st_mtime_ns for path in (data / "samples").rglob("*"))
    find = some(explorer, at=[0.25, 0.5], radius=0.3, seed=12, changes={"register": 3}, tempo_qpm=77)
    assert explorer.keep(find) == {"sample_id": "kept-0000000", "new": True}
    assert explorer.keep(find) == {"sample_id": "kept-0000000", "new": False}
    assert explorer.keep(some(explorer, seed=13))["sample_id"] == "kept-0000001"
    listed = CliRunner().invoke(cli.midivae, ["catalog", "--data", str(data), "--json", "--where", "job == 'kept'"])
    row, other = (json.loads(line) for line in listed.stdout.splitlines())
    assert row["sample_id"] == "kept-0000000"
    assert row["mode"] == "explore"
    assert row["parents"] == list(find.parents)
    assert row["weights"] == [0.375, 0.125, 0.375, 0.125]
    assert (row["radius"], row["seed"], row["method"]) == (0.3, 12, "barycentre")
    assert json.loads(row["edits"])["asked"] == {"register": 3.0}
    assert row["model_sha256"] == file_sha256(data / "model" / "model.safetensors")
    assert row["params_sha256"] != other["params_sha256"]
    assert row["tempo_qpm"] == 77
    assert other["edits"] is None
    kept = pd.read_parquet(data / "kept" / "catalog")
    assert kept["midi"][0]["bytes"] == explorer.make(find).file
    assert kept["midi"][0]["path"] == "midi/kept/kept-0000000.mid"
    assert np.array_equal(kept["z"][0], explorer.make(find).made.z[0])
    assert len(catalog.read(data)) == 3 + 2  # with those of stage generate, which nobody touched
    assert len(catalog.read(data / "samples")) == 3
    assert sorted(path.stat().st_mtime_ns for path in (data / "samples").rglob("*")) == before
    assert folders.verify(data / "kept") == []


@pytest.mark.parametrize("parents", [1, 2, 3, 4])
def test_what_was_kept_can_be_opened_again_and_is_the_same_music(explorer: Explorer, data: Path, parents: int) -> None:
    told = explorer.upload("mine.mid", midi.write(piece(78)))
    values = {"parents": [told["parent"], "sample:a-0000002", *some(explorer).parents][:parents]}
    find = Find.parse(values | {"at": [0.7, 0.1], "radius": 0.33, "seed": 5, "changes": {"register": -1.7, "key": 1}})
    name, file = explorer.keep(find)["sample_id"], explorer.make(find).file
    explorer.close()
    later = Explorer(PARAMS, data)  # it knows the upload from the sample's folder alone
    again = Find.parse(later.reopened(name))
    assert later.make(again).file == file
    assert later.keep(again) == {"sample_id": name, "new": False}
    later.close()


def test_a_kept_sample_is_a_parent_too(explorer: Explorer) -> None:
    name = explorer.keep(some(explorer))["sample_id"]
    child = explorer.make(Find.parse({"parents": [f"sample:{name}"]}))
    assert np.array_equal(child.made.z, explorer.make(some(explorer)).made.z)
    assert explorer.all_kept()[0]["sample_id"] == name


def test_a_find_of_other_weights_is_not_opened(explorer: Explorer) -> None:
    name = explorer.keep(some(explorer))["sample_id"]
    desk = explorer._desk(None)
    desk.model_sha256 = "0" * 64
    with pytest.raises(InputError, match="has other weights by now"):
        explorer.reopened(name)
    with pytest.raises(InputError, match="made by mode sample, not kept"):
        explorer.reopened("a-0000000")


def test_what_is_kept_stays_when_keeping_fails(explorer: Explorer, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explorer.keep(some(explorer))
    before = (data / "kept" / "catalog" / "kept-00000-of-00001.parquet").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tables, "write", full)
        with pytest.raises(OSError, match="No space"):
            explorer.keep(some(explorer, seed=1))
    assert (data / "kept" / "catalog" / "kept-00000-of-00001.parquet").read_bytes() == before
    damaged = bytearray(before)
    damaged[len(before) // 2] ^= 1
    (data / "kept" / "catalog" / "kept-00000-of-00001.parquet").write_bytes(damaged)
    with pytest.raises(CorruptError, match="sha256 differs"):
        explorer.keep(some(explorer, seed=1))
    assert (data / "kept" / "catalog" / "kept-00000-of-00001.parquet").read_bytes() == damaged


def test_many_at_once_keep_each_its_own(explorer: Explorer) -> None:
    threads = [threading.Thread(target=explorer.keep, args=(some(explorer, seed=i % 4),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(row["sample_id"] for row in explorer.all_kept()) == [f"kept-000000{i}" for i in range(4)]


def test_nobody_keeps_in_a_published_version(data: Path) -> None:
    (data / "version.json").write_text("{}")
    with pytest.raises(InputError, match="a published version, to which nobody writes; name another place with --keep"):
        Explorer(PARAMS, data)
    Explorer(PARAMS, data, data.parent / "mine").close()


def test_no_job_may_be_called_kept() -> None:
    with pytest.raises(ParamsError, match="no job may be named 'kept'"):
        parse({"generate": {"jobs": [{"name": "kept", "count": 1}]}}, "test")


# --- the server -------------------------------------------------------------------------------------------------------
def request(
    server: Server, method: str, path: str, body: bytes | None = None, **headers: str | None
) -> tuple[int, dict[str, str], bytes]:
    """One request with the right headers, but for those named here; None leaves one out."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    right = {"Host": f"127.0.0.1:{server.server_port}", "Content-Type": "application/json", TOKEN: server.site.token}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=WAIT_S)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    if body is not None and "Content-Length" not in given:
        right["Content-Length"] = str(len(body))
    for name, value in (right | given).items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_the_page_and_its_policy(server: Server) -> None:
    for path in ("/", "/explorer.js", "/synth.js", "/loop.js", "/explorer.css", "/explorer.svg"):
        status, headers, body = request(server, "GET", path)
        assert status == 200
        assert len(body) > 100
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert server.site.token.encode() not in body
    assert request(server, "HEAD", "/")[2] == b""
    assert server.server_address[0] == "127.0.0.1"


def test_a_find_over_http_and_its_file(server: Server, explorer: Explorer) -> None:
    find = some(explorer)
    body = json.dumps({"parents": find.parents}).encode()
    status, _, answer = request(server, "POST", "/api/make", body)
    made = json.loads(answer)
    assert status == 200
    status, headers, file = request(server, "POST", "/api/midi", body)
    assert headers["Content-Type"] == "audio/midi"
    notes = midi.read(file)
    heard = [(36 + row, 120 * start, 120 * (end - start)) for _, row, start, end in made["notes"]]
    written = zip(notes.pitch.tolist(), notes.onset_tick.tolist(), notes.duration_tick.tolist(), strict=True)
    assert sorted(heard) == sorted(written)


BODY = b'{"parents": ["piece:0123456789abcdef@1"]}'


@pytest.mark.parametrize(
    ("path", "headers", "body", "status", "message"),
    [
        ("/api/make", {"Host": "evil.example"}, BODY, 421, "answers to no other name"),
        ("/api/make", {"Host": None}, BODY, 421, "answers to no other name"),
        ("/api/make", {"Origin": "http://evil.example"}, BODY, 403, "another page asks"),
        ("/api/make", {"Origin": "null"}, BODY, 403, "another page asks"),
        ("/api/make", {"Sec_Fetch_Site": "cross-site"}, BODY, 403, "another page asks"),
        ("/api/make", {TOKEN: None}, BODY, 403, "the token is missing"),
        ("/api/make", {TOKEN: "x" * 32}, BODY, 403, "the token is missing"),
        ("/api/make", {"Content-Type": "text/plain"}, BODY, 415, "application/json"),
        ("/api/make", {"Content-Length": None}, b"", 411, "its length"),
        ("/api/make", {"Content-Length": "-1"}, b"", 411, "its length"),
        ("/api/make", {"Content-Length": "00000000000099999999999"}, b"", 413, "the most is"),
        ("/api/make", {"Content-Length": str(local.MAX_JSON + 1)}, b"", 413, "the most is"),
        ("/api/upload", {"Content-Length": str(explore.MAX_UPLOAD + 1)}, b"", 413, "the most is"),
        ("/api/make", {"Transfer-Encoding": "chunked"}, b"", 411, "its length"),
        ("/api/make", {}, b"{", 400, "not JSON"),
        ("/api/make", {}, b"[" * 20_000, 400, "not JSON"),
        ("/api/make", {}, b"[]", 400, "not an object"),
        ("/api/nothing", {}, b"{}", 404, "no such function"),
        ("/api/../etc/passwd", {}, b"{}", 404, "no such function"),
        ("/make", {}, b"{}", 404, "no such function"),
        ("/api/make", {}, b'{"parents": ["file:/etc/passwd@1"]}', 422, "is none of"),
        ("/api/samples", {}, b'{"where": "__import__(1)"}', 422, "where"),
        ("/api/samples", {}, b'{"where": 1}', 422, "should be a text"),
        ("/api/random", {}, b'{"count": -1, "seed": 0}', 422, "whole number"),
        ("/api/names", {}, b'{"parents": [1]}', 422, "list of texts"),
        ("/api/upload", {"Content-Type": "audio/midi", NAME: "a%00b.mid"}, b"MThd", 422, "can parse the file"),
    ],
)
def test_requests_that_are_refused(
    server: Server, path: str, headers: dict[str, str | None], body: bytes, status: int, message: str
) -> None:
    found, _, answer = request(server, "POST", path, body, **headers)
    assert found == status, answer
    assert message in json.loads(answer)["error"]


def test_other_pages_of_the_browser_get_nothing(server: Server) -> None:
    assert request(server, "GET", "/", Host="evil.example:80")[0] == 421
    assert request(server, "GET", "/explorer.js", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0] == 403
    assert request(server, "GET", "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200  # a link
    assert request(server, "GET", "/../pyproject.toml")[0] == 404
    assert request(server, "GET", "/api/about")[0] == 404
    assert request(server, "PUT", "/", b"")[0] == 501


def test_an_unforeseen_error_says_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(server.site.calls, "kept", lambda _: 1 / 0)  # type: ignore[arg-type]
    status, _, answer = request(server, "POST", "/api/kept", b"{}")
    assert status == 500
    assert b"Zero" not in answer
    assert request(server, "POST", "/api/about", b"{}")[0] == 200  # it goes on


def test_a_port_that_is_taken_is_an_error_with_a_name(server: Server) -> None:
    with pytest.raises(InputError, match="name another one with --port"):
        Server(replace(server.site), server.server_port)


def test_a_sample_is_encoded_where_its_latent_is_not_that_of_its_music(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, row = explorer._desk(None), explorer._row("a-0000000")
    assert explorer._known(desk, "a-0000000").z is not None
    for other in ({"transpose": 2}, {"lead_steps": 16}, {"method": "merged"}, {"model_sha256": "0"}):
        monkeypatch.setattr(explorer, "_row", lambda _, other=other: {**row, **other})
        assert explorer._known(desk, "a-0000000").z is None


# --- the page ---------------------------------------------------------------------------------------------------------
LEVEL = "loop.speakers.level().rms"


@pytest.fixture
def tab(server: Server, explorer: Explorer) -> Iterator[Any]:
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


def test_a_person_finds_hears_and_keeps(tab: Any, explorer: Explorer, server: Server, data: Path) -> None:
    assert server.site.token not in tab.url  # out of sight, and out of what is shared
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
    waits(tab, "[id='says-register']", "came out")
    tab.locator("#radius").focus()
    changes(tab, lambda: tab.keyboard.press("ArrowRight"))
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
    # kept, with its lineage; and the address is that of this find
    tab.locator("#keep").click()
    waits(tab, "#kept", "kept-0000000")
    [row] = catalog.query(data, "job == 'kept'").to_dict("records")
    assert row["weights"].tolist() == [0.1875, 0.0625, 0.5625, 0.1875]
    assert row["radius"] == pytest.approx(0.05)
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
    (tmp_path / EVIL).write_bytes(midi.write(piece(77)))
    tab.get_by_role("button", name="Change parent A").click()
    tab.get_by_role("button", name="A file").click()
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
