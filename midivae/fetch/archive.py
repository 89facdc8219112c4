"""Reads the members of zip and tar archives one after another, without unpacking them to disk.

The archive is not trusted. Sizes are counted while bytes are read, not taken from headers. Names are returned as bytes.
Links, devices and names that lead out of the archive are refused one by one. Only the members that the caller asks for
are decompressed; a tar is decompressed as a whole.

Damage raises `CorruptError`: a wrong checksum of a zip member or of a compressed stream, a wrong tar header, an archive
that ends too early. The contents of a plain tar have no checksum, and those compressed by zstd may have none: a flipped
bit there is found by the reader of the contents, if at all.

Zstandard is read by pyarrow: the reader of the package zstandard does not notice that a stream is cut off.

Offers: `members` and `Member`, `refusal`; only this module uses zipfile and tarfile.
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
from typing import IO, Any

import pyarrow as pa

from midivae.config.fetch import ArchiveLimits
from midivae.errors import CorruptError, InputError

_CHUNK = 1 << 16
_RATIO_FROM = 1 << 20  # bytes; smaller members do no harm, and short files may repeat themselves
_TAR_BLOCK = 512
_ZIP_END = struct.Struct("<4s4H2LH")  # magic, disks, entries (2), size and offset of the directory, length of comment
_ENCRYPTED, _UTF8_NAME = 0x1, 0x800  # bits of a zip member's flags
_COMPRESSED: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda file: pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"),
}


@dataclass(frozen=True)
class Member:
    """An entry of an archive that is not a folder.

    Attributes:
        name: as in the archive, with forward slashes, in any encoding.
        data: the contents; None: not asked for, or refused.
        refused: why the member must not be used; None: it may be used.
    """

    name: bytes
    data: bytes | None
    refused: str | None = None


def members(path: Path, wanted: Callable[[bytes], bool], limits: ArchiveLimits) -> Iterator[Member]:
    """The members of a zip, or of a tar (plain, or compressed by gzip, bzip2, xz or zstd), in the archive's order.

    Args:
        path: the archive.
        wanted: gets the name of a member; returns whether to read its contents.
        limits: the largest sizes and numbers that are accepted.

    Raises:
        InputError: no such file, not an archive, encrypted, or beyond a limit.
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
    """Why a name must not be used as a path below our folder; None: it may."""
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
    """Turns exceptions of the libraries into errors of ours; our own errors pass."""
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
    """Counts the bytes that an archive unpacks to, and stops at a limit."""

    def __init__(self, path: Path, limits: ArchiveLimits) -> None:
        self._path, self._limits = path, limits
        self._total = 0

    def spend(self, unpacked: int, packed: int) -> None:
        """Counts unpacked bytes; `packed` bytes of the archive have been read, or are its size."""
        self._total += unpacked
        self.check_ratio("all of it", self._total, packed)  # members of a zip may overlap
        if self._total > self._limits.max_total_bytes:
            raise InputError(
                f"{self._path}: unpacks to more than fetch.limits.max_total_bytes, {self._limits.max_total_bytes}; "
                "raise it if you trust the archive"
            )

    def check_ratio(self, name: str, unpacked: int, packed: int) -> None:
        """Raises if the unpacked size is too many times the packed size."""
        if unpacked > _RATIO_FROM and unpacked > self._limits.max_ratio * max(1, packed):
            raise InputError(
                f"{self._path}: {name} unpacks to over {self._limits.max_ratio} times its size "
                "(fetch.limits.max_ratio), like archives that are made to fill disks; not read"
            )


def _read(read: Callable[[int], bytes], limits: ArchiveLimits, spend: Callable[[int], None]) -> bytes | None:
    """All bytes of a member, or None if it is too large; `spend` gets the size of each chunk."""
    data = bytearray()
    while chunk := read(_CHUNK):
        data += chunk
        spend(len(chunk))
        if len(data) > limits.max_member_bytes:
            return None
    return bytes(data)


def _member(name: bytes, data: bytes | None, limits: ArchiveLimits) -> Member:
    """A member that was read; `data` is None if it was too large."""
    too_large = f"larger than fetch.limits.max_member_bytes, {limits.max_member_bytes}"
    return Member(name, data, too_large if data is None else None)


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
                with suppress(NotImplementedError, RuntimeError):  # an unknown compression does not matter here
                    archive.open(info).close()  # compares the two names that a zip has of each member
                yield Member(name, None, reason)
                continue
            if info.flag_bits & _ENCRYPTED:
                raise InputError(f"{path}: {info.filename!r} is encrypted; unpack it and set fetch.source to `folder`")
            budget.check_ratio(
                repr(info.filename), info.file_size, info.compress_size
            )  # zipfile reads no more than file_size
            with archive.open(info) as contents:  # zipfile compares the checksum at the end
                data = _read(contents.read, limits, lambda unpacked: budget.spend(unpacked, size))
            yield _member(name, data, limits)


def _check_count(file: IO[bytes], archive: zipfile.ZipFile) -> None:
    """Compares the number of entries with the number at the end of the zip: a wrong length in one may hide others."""
    file.seek(-_ZIP_END.size - len(archive.comment), os.SEEK_END)
    magic, *_, count, _, _, _ = _ZIP_END.unpack(file.read(_ZIP_END.size))
    if magic == b"PK\x05\x06" and count not in (
        len(archive.infolist()),
        0xFFFF,
    ):  # 0xFFFF: the number is elsewhere (zip64)
        raise zipfile.BadZipFile(f"{len(archive.infolist())} entries where {count} are announced")


def _zip_name(info: zipfile.ZipInfo) -> bytes:
    """The bytes of a member's name; zipfile decodes a name that is not marked as UTF-8 by code page 437."""
    return info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8_NAME else "cp437")


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
        archive.members = []  # type: ignore[attr-defined]  # tarfile keeps all members
        name = info.name.encode("utf-8", "surrogateescape")
        if info.isdir():
            continue
        reason = refusal(name) or (None if info.isreg() and not info.issparse() else "a link or a device")
        if reason is not None or not wanted(name):
            yield Member(name, None, reason)
            continue
        yield _member(name, _tar_data(archive, info, limits), limits)
    stream.require_end()


def _tar_data(archive: tarfile.TarFile, info: tarfile.TarInfo, limits: ArchiveLimits) -> bytes | None:
    file = archive.extractfile(info)
    data = _read(file.read, limits, lambda unpacked: None) if file is not None else b""
    if data is not None and len(data) != info.size:
        raise EOFError("it ends in the middle of a member")
    return data


class _Metered(io.RawIOBase):
    """The bytes of a tar, decompressed and counted while they are read; it can only move forward."""

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
        if not 0 <= size <= self._limits.max_member_bytes + _CHUNK:  # a wrong header may ask for any size
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
        """The number of bytes that were read."""
        return self._position

    def require_end(self) -> None:
        """Checks that tarfile stopped at the end of the archive: it also stops at a wrong header.

        Reads the rest, so that the checksum of a compressed stream is compared.
        """
        if len(self.last_read) != _TAR_BLOCK or any(self.last_read):
            raise EOFError("a bad header, or the end is missing")
        while self.read(_CHUNK):
            pass
