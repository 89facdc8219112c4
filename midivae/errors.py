"""Every error that midivae raises on purpose, and its exit code.

    MidivaeError                1   base class
    ├── ParamsError             2   a parameter or an argument breaks a rule
    ├── InputError              3   an input is missing or cannot be used
    │   ├── MidiError           3   one MIDI file; carries a reason code (see `music/reasons.py`)
    │   ├── SchemaError         3   a table of another format or version
    │   └── FolderError         3   a folder is read-only or forbidden, or its disk is full
    ├── CorruptError            4   a hash or a page checksum does not match
    ├── TrainingError           5   training cannot start, or failed
    └── WorkerError             6   a worker process crashed, hung or ran out of memory

A message gives the value, the rule, the reason and the remedy. Exceptions of libraries (pyarrow, verovio, zipfile ...)
are translated in the one module that uses the library.
"""

from __future__ import annotations

from pathlib import Path


class MidivaeError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns for it."""

    exit_code = 1


class ParamsError(MidivaeError):
    """A parameter or a command-line argument breaks a rule."""

    exit_code = 2


class InputError(MidivaeError):
    """An input is missing or cannot be used."""

    exit_code = 3


class MidiError(InputError):
    """One MIDI file cannot be used; `code` is the reason in the table of pieces."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail

    def __reduce__(self) -> tuple[type[MidiError], tuple[str, str]]:
        return type(self), (self.code, self.detail)


class SchemaError(InputError):
    """A table has another format or version than the one this release reads."""


class FolderError(InputError):
    """A file or folder cannot be used: read-only, forbidden, or its disk is full; `reason` is the system's."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}; free space or change the permissions, or name another folder")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[FolderError], tuple[Path, str]]:
        return type(self), (self.path, self.reason)


class CorruptError(MidivaeError):
    """Bytes on disk are not the bytes that were written."""

    exit_code = 4


class TrainingError(MidivaeError):
    """Training cannot start, or failed."""

    exit_code = 5


class WorkerError(MidivaeError):
    """A worker process crashed, hung or ran out of memory."""

    exit_code = 6
