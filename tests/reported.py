"""A small run of all stages with hostile names, and how tests read the page of the report."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from four_part import piece
from inline import in_this_process
from pieces import as_fetched

from midivae.config.params import Params, parse
from midivae.evaluate import stage as evaluate
from midivae.generate import parts
from midivae.generate import stage as generate
from midivae.ingest import stage as ingest
from midivae.music import smf
from midivae.storage import schema, tables
from midivae.train import stage as train

# a part's name comes from the params, a licence and a source's name from whoever made the corpus
HIGH = '<script>alert("part")</script>'
LOW = "b'a\"s&s \u202egpj.exe"
SOURCE = "<img src=x onerror=alert(1)>"
PIECE = '<b onclick=alert(2)>"it\'s" & \u202emid.mid'
LICENCE = "see http://example.org/</style><style>*{display:none}"
VALUES: dict[str, Any] = {
    "compute": {"workers": 1},
    "ingest": {
        "parts": {"tracks": {HIGH: ["soprano*", "alto*"], LOW: ["bass*"]}},
        "split": {"valid": 0.3, "test": 0.3},
    },
    "train": {
        "model": "mlp",
        "compare": ["autoencoder"],
        "view": {"steps": 32},
        "dense": {"hidden": [32], "latent": 16, "epochs": 4, "batch_size": 16},
    },
    "generate": {
        "jobs": [
            {"name": "sample", "count": 9},
            {"name": "drawn", "count": 3, "temperature": 1.0, "model": "autoencoder"},
            {"name": "vary", "mode": "vary", "count": 4, "parents": [f"piece:{PIECE}@2"], "radius": [0.1, 2.0]},
            {"name": "blend", "mode": "blend", "count": 8, "parents": ["split:test", "split:test"], "steps": 4},
            {"name": "merged", "mode": "ensemble", "count": 3, "method": "merged"},
        ]
    },
    "evaluate": {"repeats": 2},
    "report": {"rolls_per_job": 2},
}


def params(**sections: Any) -> Params:
    return parse({**VALUES, **sections}, "test")


def build(data: Path) -> None:
    """A data folder after all stages but `report`."""
    files = {f"{i}.mid": smf.write(piece(i)) for i in range(23)} | {"bad.mid": b"no music"}
    files[PIECE] = smf.write(piece(23))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIDIVAE_HOME", str(data / "work"))
        as_fetched(data, files)
        rename_source(data / "corpus" / "corpus.parquet")
        patch.setattr(parts, "fan_out", in_this_process)
        for room in (ingest, train, generate, evaluate):
            room.run(params(), data)


def rename_source(path: Path) -> None:
    rows = tables.read(path, schema.CORPUS).to_pylist()
    named = [{**row, "source": SOURCE, "licence": LICENCE} for row in rows]
    tables.write(path, pa.Table.from_pylist(named, schema.CORPUS.columns), schema.CORPUS)


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


def unpacked(html: str) -> tuple[dict[str, Any], bytes]:
    """What the page's script reads: the figures of the samples, and their MIDI files end to end."""
    [text] = re.findall(r'id="samples-data">([A-Za-z0-9+/=]*)</script>', html)
    plain = zlib.decompress(base64.b64decode(text))
    (size,) = struct.unpack_from("<I", plain)
    return json.loads(plain[4 : 4 + size]), plain[4 + size :]
