"""Moves new MIDI files from an inbox, a folder that people drop files into, to the corpus.

The name of a moved file begins with the first 16 digits of its sha256, its `piece_id`: the same bytes are never taken
twice, whatever the file is called, and no list of known files can disagree with the folder. All files of one occasion
go to one subfolder, so that they can be removed together. A file that was changed a moment ago may be incomplete, and
waits for the next time.

Offers: `take`.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import time
from collections import Counter
from functools import partial
from pathlib import Path

from midivae.errors import InputError, ParamsError
from midivae.storage.files import file_sha256, write_file
from midivae.storage.paths import is_midi

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_STEM = 80  # characters of a file's own name that are kept
_ID = 16  # digits of the sha256


def take(inbox: Path, corpus: Path, occasion: str, settle_s: float = 60.0) -> dict[str, int]:
    """Moves new MIDI files from `inbox` to `corpus/<occasion>`; files that the corpus already has are removed.

    Args:
        inbox: a folder; files in its subfolders count too, links do not.
        corpus: the folder of all files.
        occasion: name of the subfolder, such as a date.
        settle_s: seconds for which a file must not have changed.

    Returns:
        Counts of files: new, known (the corpus has the same bytes), waiting (changed too lately), other (no MIDI file,
        left in the inbox), and stuck (taken, but cannot be removed from the inbox).

    Raises:
        InputError: there is no such inbox.
        ParamsError: `occasion` is no plain name.
    """
    if not inbox.is_dir():
        raise InputError(f"{inbox}: no such folder; make it, and drop MIDI files into it")
    if not _NAME.fullmatch(occasion):
        raise ParamsError(f"occasion {occasion!r}: must be a plain name of letters, digits, '.', '_' and '-'")
    known = {path.name[:_ID] for path in corpus.rglob("*") if path.is_file()}
    counts = Counter(dict.fromkeys(("new", "known", "waiting", "other", "stuck"), 0))
    for path in sorted(inbox.rglob("*"), key=os.fsencode):
        kind = _kind(path, settle_s)
        if kind is None:
            continue
        if kind == "midi":
            piece_id = file_sha256(path)[:_ID]
            kind = "known" if piece_id in known else "new"
            if kind == "new":
                with path.open("rb") as file:
                    write_file(corpus / occasion / f"{piece_id}-{_plain(path)}", partial(shutil.copyfileobj, file))
                known.add(piece_id)
            counts["stuck"] += not _remove(path)
        counts[kind] += 1
    return dict(counts)


def _kind(path: Path, settle_s: float) -> str | None:
    """What a path in the inbox is: midi, waiting or other; None: a folder, or removed meanwhile."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        return None
    if not stat.S_ISREG(status.st_mode) or not is_midi(path.name):
        return "other"
    return "waiting" if time.time() - status.st_mtime < settle_s else "midi"


def _plain(path: Path) -> str:
    """The file's own name in characters that every file system accepts, with the suffix .mid."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem)[:_STEM]
    return f"{stem or 'untitled'}.mid"


def _remove(path: Path) -> bool:
    """Removes a file from the inbox; False if that fails: the file is known the next time."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s: taken, but it cannot be removed from the inbox (%s)", path, error.strerror)
        return False
    return True
