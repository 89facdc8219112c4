"""MIDI files that a person uploads to use them as parents.

A file is parsed in a child process first: a malformed file may crash the parser. It is stored in a temporary folder,
under a name with the hash of its bytes, and forgotten when the explorer ends.

Offers: `Uploads`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import OrderedDict
from pathlib import Path
from typing import Any

from midivae.config.compute import Compute
from midivae.config.ingest import Ingest
from midivae.errors import InputError
from midivae.generate.parents import usable
from midivae.music import smf
from midivae.storage.files import write_bytes
from midivae.workers.child import Beat
from midivae.workers.parallel import fan_out

MOST_BYTES = 2 * 2**20  # of a MIDI file; a symphony has a tenth of it
_MOST_FILES = 64  # the oldest are forgotten


class Uploads:
    """The uploaded files in a folder."""

    def __init__(self, folder: Path, ingest: Ingest) -> None:
        """No files yet.

        Args:
            folder: where to store them.
            ingest: how stage `ingest` reads MIDI files.
        """
        self._folder, self._ingest = folder, ingest
        self._names: OrderedDict[str, str] = OrderedDict()  # stored name -> name that its person gave it

    def add(self, name: str, data: bytes) -> dict[str, Any]:
        """Stores a MIDI file.

        Returns:
            parent (as in `Settings`), name, steps and notes.

        Raises:
            InputError: it is too large, cannot be read, or has no notes for the parts of the rolls.
        """
        if len(data) > MOST_BYTES:
            raise InputError(f"{len(data)} bytes; a MIDI file may have {MOST_BYTES}")
        limits = self._ingest.limits
        smf.compile_loops()  # here, so that the child need not under its time limit
        ((_, outcome),) = fan_out(
            check_file,
            [(data, self._ingest)],
            Compute(workers=1),
            time_limit_s=limits.time_s,
            memory_bytes=limits.memory_bytes,
            label="explore: upload",
        )
        if outcome.failure is not None:
            raise InputError(f"the reader {outcome.failure.kind} at this file; it cannot be used")
        shown, file = _shown_name(name), _stored_name(name, data)
        write_bytes(self._folder / file, data)
        self._names[file] = shown
        while len(self._names) > _MOST_FILES:
            oldest, _ = self._names.popitem(last=False)
            (self._folder / oldest).unlink(missing_ok=True)
        return {"parent": f"file:{file}@1", "name": shown, **(outcome.value or {})}

    def name_of(self, file: str) -> str:
        """The name that its person gave a file; its stored name if it is forgotten."""
        return self._names.get(file, file)

    def path_of(self, file: str) -> Path | None:
        """Where a file is stored; None if it is forgotten."""
        return self._folder / file if file in self._names else None


def check_file(spec: tuple[bytes, Ingest], _beat: Beat) -> dict[str, Any]:
    """The length and the number of notes of a MIDI file; runs in a child process.

    Args:
        spec: the bytes of the file, and how stage `ingest` reads MIDI files.

    Raises:
        InputError: it cannot be read, is too long, or has no notes for the parts of the rolls.
    """
    data, ingest = spec
    notes = smf.read(data, ingest.limits).notes
    _, steps = usable(notes, ingest)
    return {"steps": steps, "notes": len(notes.pitch)}


def _shown_name(name: str) -> str:
    """The last part of a file's name, without control characters and marks that change the direction of text."""
    last = re.split(r"[/\\]", name)[-1]
    return "".join(letter for letter in last if unicodedata.category(letter)[0] != "C")[:120] or "upload"


def _stored_name(name: str, data: bytes) -> str:
    """Letters of the file's name, and the hash of its bytes."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", _shown_name(name).rpartition(".")[0] or name).strip("_")[:40] or "upload"
    return f"{stem}-{hashlib.sha256(data).hexdigest()[:16]}.mid"
