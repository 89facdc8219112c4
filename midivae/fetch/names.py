"""Names of the files of a corpus: which are MIDI files, and the safe path that each gets below our folder.

A name in a folder or an archive may contain any bytes. Its text has %XX for bytes that are not UTF-8, for characters
that do not print, for a backslash, and for a percent sign before two hex digits. Different names give different text.

Offers: `is_midi`, `is_licence`, `printable`, `safe_path`, `unique`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

from midivae.storage import paths

_LICENCES = (b"license", b"licence", b"copying")
_MAX_NAME = 200  # bytes of a component; file systems allow 255
_MAX_PATH = 1000  # bytes of a path


def is_midi(name: bytes) -> bool:
    """Whether the name ends like that of a MIDI file, in upper or lower case."""
    return paths.is_midi(name.decode("latin-1"))


def is_licence(name: bytes) -> bool:
    """Whether the name is that of a licence file."""
    return name.rpartition(b"/")[2].lower().startswith(_LICENCES)


def printable(name: bytes) -> str:
    """The name as printable text; different names give different text."""
    text = re.sub("%(?=[0-9A-Fa-f]{2})", "%25", name.decode("utf-8", "surrogateescape"))
    return "".join(c if c.isprintable() and c != "\\" else _percent(c) for c in text)


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))


def safe_path(name: bytes) -> str:
    """A relative path for a name that `archive.refusal` accepts.

    A component that is too long is cut and gets a hash of the whole. A folder with the suffix of a MIDI file gets an
    underscore.
    """
    *folders, file = (part for part in name.split(b"/") if part not in (b"", b"."))
    safe = [_shortened(part) + ("_" if is_midi(part) else "") for part in folders]
    path = "/".join([*safe, _shortened(file)])
    return path if len(path.encode()) <= _MAX_PATH else f"{hashlib.sha256(name).hexdigest()}/{_shortened(file)}"


def _shortened(part: bytes) -> str:
    """One component as text, cut if it is too long."""
    text = printable(part)
    if len(text.encode()) <= _MAX_NAME:
        return text
    suffix = next((s for s in paths.MIDI_SUFFIXES if part.lower().endswith(s.encode())), "")
    head = text.encode()[: _MAX_NAME // 2].decode("utf-8", "ignore")
    return f"{head}~{hashlib.sha256(part).hexdigest()[:16]}{suffix}"


def unique(path: str, taken: dict[str, int]) -> str:
    """The path, with ~2, ~3, ... if it is taken; `taken` maps each used path to its highest number.

    Names that differ only in upper and lower case, or in how accents are encoded, count as the same name, as on some
    file systems.
    """
    stem, dot, suffix = path.rpartition(".")
    candidate, key = path, _key(path)
    while (candidate_key := _key(candidate)) in taken:
        taken[key] += 1
        candidate = f"{stem}~{taken[key]}{dot}{suffix}"
    taken[candidate_key] = 1
    return candidate


def _key(path: str) -> str:
    return unicodedata.normalize("NFC", path.casefold())
