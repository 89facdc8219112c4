"""Members of zip and tar archives, one after another, without unpacking to disk; distrusting every byte.

Nothing is written here and nothing is believed: sizes are counted as bytes come out, not read from headers; names
are returned as the bytes they are; links, devices and names that lead out of the archive are refused one by one. Of
each member only what the caller asks for is unpacked (in a zip; a tar has to be read through).

What is damaged raises `CorruptError`: a zip member or a compressed stream whose checksum differs, a tar header that
does not add up, an archive that ends too soon. (The contents in a plain tar carry no checksum, nor do those packed by
zstd unless it was asked for one, as its command line does: a flipped bit there is for the reader of the contents.)

Zstandard is read by pyarrow: the reader of the package zstandard takes a stream that is cut off for one that ends.

Offers: `members` and `Member`; the only module that knows zipfile and tarfile.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import pyarrow as pa

from midivae.config.fetch import ArchiveLimits
from midivae.errors import CorruptError, InputError

_CHUNK = 1 << 16
_RATIO_FROM = 1 << 20  # bytes; below that nothing is a bomb, and short files may well repeat themselves
_TAR_BLOCK = 512
_ZIP_END = struct.Struct("<4s4H2LH")  # magic, disks, entries (2), directory's size and place, length of the comment
_ENCRYPTED, _UTF8_NAME = 0x1, 0x800  # bits of a zip member's flags
_COMPRESSED: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda file: pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"),
}


@dataclass(frozen=True)
class Member:
    """One entry of an archive that is no folder.

    Attributes:
        name: as the archive has it, with forward slashes, in whatever encoding.
        data: the contents; None: not asked for, or refused.
        refused: why it must not be used; None: nothing speaks against it.
    """

    name: bytes
    data: bytes | None
    refused: str | None = None


def members(path: Path, wanted: Callable[[bytes], bool], limits: ArchiveLimits) -> Iterator[Member]:
    """The members of a zip, or of a tar that is plain or packed by gzip, bzip2, xz or zstd, in the archive's order.

    Args:
        path: the archive.
        wanted: whether the contents of a member of this name are asked for.
        limits: what the archive may ask of us.

    Raises:
        InputError: no such file, no archive, encrypted, or beyond a limit.
        CorruptError: damaged.
    """
    with _opened(path) as file, _translated(path):
        magic = file.read(6)
        file.seek(0)
        read = _zip if magic[:4] in (b"PK\x03\x04", b"PK\x05\x06") else _tar
        for count, member in enumerate(read(path, file, wanted, limits), 1):
            if count > limits.max_members:
                raise InputError(f"{path}: more members than fetch.limits.max_members, {limits.max_members}; raise it")
            yield member


def refusal(name: bytes) -> str | None:
    """Why a name must not be used as a path below a folder of ours; None: it may."""
    if name.startswith(b"/"):
        return "an absolute path"
    if b".." in name.split(b"/"):
        return "a path that leads out of the archive"
    if not any(part not in (b"", b".") for part in name.split(b"/")):
        return "no name"
    return None


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; fetch.path must name an archive (relative to this folder)") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, not an archive; set fetch.source to `folder`") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror})") from error
    with file:
        yield file


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Foreign exceptions of damaged archives, under our name; our own pass."""
    damage = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, OverflowError)
    try:
        yield
    except NotImplementedError as error:
        raise InputError(f"{path}: {error}; repack it with an ordinary zip or tar") from error
    except (*damage, OSError, ValueError) as error:
        if "too much memory" in str(error):  # zstd --long
            raise InputError(f"{path}: takes over 128 MiB to unpack; repack it without `--long`") from error
        raise CorruptError(f"{path}: damaged ({error}); fetch it again") from error


class _Budget:
    """Counts what comes out of an archive, and stops a bomb."""

    def __init__(self, path: Path, limits: ArchiveLimits) -> None:
        self._path, self._limits = path, limits
        self._total = 0

    def spend(self, unpacked: int, packed: int) -> None:
        """Counts bytes that came out, of an archive of which `packed` bytes have been read, or of that size."""
        self._total += unpacked
        self.check_ratio("all of it", self._total, packed)  # members of a zip may overlap
        if self._total > self._limits.max_total_bytes:
            raise InputError(
                f"{self._path}: unpacks to more than fetch.limits.max_total_bytes, {self._limits.max_total_bytes}; "
                "raise it if you trust the archive"
            )

    def check_ratio(self, name: str, unpacked: int, packed: int) -> None:
        """Refuses what unpacks to too many times its size."""
        if unpacked > _RATIO_FROM and unpacked > self._limits.max_ratio * max(1, packed):
            raise InputError(
                f"{self._path}: {name} unpacks to over {self._limits.max_ratio} times its size "
                "(fetch.limits.max_ratio), as archives do that are made to fill disks; not read"
            )


@runtime_checkable
class _Contents(Protocol):
    """What zipfile and tarfile both give for the contents of a member."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, up to `size`; none at the end."""


def _read(file: _Contents, limits: ArchiveLimits, spend: Callable[[int], None]) -> bytes | None:
    """All of a member, or None where that is too much; `spend` hears of the bytes as they come."""
    data = bytearray()
    while chunk := file.read(_CHUNK):
        data += chunk
        spend(len(chunk))
        if len(data) > limits.max_member_bytes:
            return None
    return bytes(data)


def _too_large(limits: ArchiveLimits) -> str:
    return f"larger than fetch.limits.max_member_bytes, {limits.max_member_bytes}"


# --- zip --------------------------------------------------------------------------------------------------------------
def _zip(path: Path, file: IO[bytes], wanted: Callable[[bytes], bool], limits: ArchiveLimits) -> Iterator[Member]:
    budget, size = _Budget(path, limits), path.stat().st_size
    with zipfile.ZipFile(file) as archive:
        _check_count(file, archive)
        for info in archive.infolist():
            name = _zip_name(info)
            if name.endswith(b"/"):
                continue
            kind = stat.S_IFMT(info.external_attr >> 16)  # zero where the archive was not made on Unix
            reason = refusal(name) or (None if kind in (0, stat.S_IFREG) else "a link or a device")
            if reason is not None or not wanted(name):
                with suppress(NotImplementedError, RuntimeError):  # packed in ways that need not concern us
                    archive.open(info).close()  # compares the two places where a zip has the name
                yield Member(name, None, reason)
                continue
            if info.flag_bits & _ENCRYPTED:
                raise InputError(f"{path}: {info.filename!r} is encrypted; unpack it and set fetch.source to `folder`")
            budget.check_ratio(repr(info.filename), info.file_size, info.compress_size)  # no more than this comes out
            data = _zip_data(archive, info, limits, lambda unpacked: budget.spend(unpacked, size))
            yield Member(name, data, None if data is not None else _too_large(limits))


def _check_count(file: IO[bytes], archive: zipfile.ZipFile) -> None:
    """Compares the number of entries with what the end of the zip says: a bad length in one swallows others."""
    file.seek(-_ZIP_END.size - len(archive.comment), os.SEEK_END)
    magic, *_, said, _, _, _ = _ZIP_END.unpack(file.read(_ZIP_END.size))
    if magic == b"PK\x05\x06" and said not in (len(archive.infolist()), 0xFFFF):  # the latter: said elsewhere (zip64)
        raise zipfile.BadZipFile(f"{len(archive.infolist())} entries where {said} are announced")


def _zip_name(info: zipfile.ZipInfo) -> bytes:
    """The bytes of a member's name; zipfile decodes those that are not marked as UTF-8 by a table of 256 characters."""
    return info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8_NAME else "cp437")


def _zip_data(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, limits: ArchiveLimits, spend: Callable[[int], None]
) -> bytes | None:
    """A member's contents; zipfile compares the checksum when it comes to the end."""
    with archive.open(info) as file:
        return _read(file, limits, spend)


# --- tar --------------------------------------------------------------------------------------------------------------
def _tar(path: Path, file: IO[bytes], wanted: Callable[[bytes], bool], limits: ArchiveLimits) -> Iterator[Member]:
    stream = _Metered(path, file, limits)
    try:
        archive = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115
    except tarfile.ReadError as error:
        if stream.last_read[257:262] == b"ustar":
            raise
        raise InputError(f"{path}: neither zip nor tar ({error}); fetch.path must name an archive") from error
    while (info := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # tarfile keeps all it has seen
        name = info.name.encode("utf-8", "surrogateescape")
        if info.isdir():
            continue
        reason = refusal(name) or (None if info.isreg() and not info.issparse() else "a link or a device")
        if reason is not None or not wanted(name):
            yield Member(name, None, reason)
            continue
        data = _tar_data(archive, info, limits)
        yield Member(name, data, None if data is not None else _too_large(limits))
    stream.require_end()


def _tar_data(archive: tarfile.TarFile, info: tarfile.TarInfo, limits: ArchiveLimits) -> bytes | None:
    file = archive.extractfile(info)
    data = _read(file, limits, lambda unpacked: None) if file is not None else b""
    if data is not None and len(data) != info.size:
        raise EOFError("it ends in the middle of a member")
    return data


class _Metered(io.RawIOBase):
    """A tar's bytes, unpacked as they are asked for and counted; it reads and skips forward only."""

    def __init__(self, path: Path, file: IO[bytes], limits: ArchiveLimits) -> None:
        magic = file.read(6)
        file.seek(0)
        opener = next((opener for start, opener in _COMPRESSED.items() if magic.startswith(start)), None)
        self.last_read = b""
        self._packed = file
        self._stream = file if opener is None else opener(file)
        self._limits = limits
        self._budget = _Budget(path, limits)
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes; fewer at the end."""
        if not 0 <= size <= self._limits.max_member_bytes + _CHUNK:  # the size of a header, as the header has it
            raise EOFError(f"a header of {size} bytes")
        parts = []
        while size > 0 and (part := self._stream.read(min(size, _CHUNK))):
            parts.append(part)
            size -= len(part)
            self._position += len(part)
            self._budget.spend(len(part), self._packed.tell())
        self.last_read = b"".join(parts)
        return self.last_read

    def seek(self, target: int, whence: int = 0) -> int:
        """Skips to a later position."""
        if whence != 0 or target < self._position:
            raise EOFError("a header points backwards")
        while self._position < target and self.read(min(_CHUNK, target - self._position)):
            pass
        return self._position

    def tell(self) -> int:
        """How many bytes have come out."""
        return self._position

    def require_end(self) -> None:
        """Makes sure that the archive ended where tarfile stopped reading, which it does at any bad header too.

        Reads on to the end, so that the checksum of a compressed stream is compared.
        """
        if len(self.last_read) != _TAR_BLOCK or any(self.last_read):
            raise EOFError("a bad header, or the end is missing")
        while self.read(_CHUNK):
            pass
