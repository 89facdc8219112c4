"""Tests of midivae.fetch.archive: honest archives of every kind, hostile ones, and damaged ones bit by bit."""

from __future__ import annotations

import base64
import io
import random
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from midivae.config.fetch import ArchiveLimits
from midivae.errors import CorruptError, InputError, MidivaeError
from midivae.fetch import archive
from midivae.fetch.archive import Member

FILES = {b"a.mid": b"MThd one", b"songs/b.mid": b"MThd two" * 100, b"notes.txt": b"words", b"songs/empty.mid": b""}
DICTIONARY = 9e6  # bytes that xz takes to unpack anything
KINDS = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst")
# the three files of `damaged`, as `tar --zstd` packs them: with a checksum, which pyarrow does not write
CHECKED_ZSTD = base64.b85decode(
    "D77#B1R!+-03t*V5s*Cw5FBRxU~BWFKZ)+U&n@@astZZy#~TY*H6CX)0BH>`E(LyI8NL~S2apUxAOC?d=-|mISQ8*nE41AJY<f@+fT|u-2V`)m)<z8-"
    "X`rb{2?Gp}67<zGFLnML?EQ@afrA2UCk_V_OTkM"
)


def is_midi(name: bytes) -> bool:
    return name.endswith(b".mid")


def read(path: Path, limits: ArchiveLimits | None = None) -> list[Member]:
    return list(archive.members(path, is_midi, limits or ArchiveLimits()))


def tar_info(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, target
    return info


def make(path: Path, files: dict[bytes, bytes]) -> Path:
    """An honest archive; the kind follows from the name."""
    if path.name.endswith("zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.mkdir("songs")
            for name, data in files.items():
                file.writestr(name.decode(), data)
        return path
    mode = {"tar": "w", "gz": "w:gz", "bz2": "w:bz2", "xz": "w:xz", "zst": "w"}[path.suffix[1:]]
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        file.addfile(tar_info("songs", kind=tarfile.DIRTYPE))
        for name, data in files.items():
            file.addfile(tar_info(name.decode("utf-8", "surrogateescape"), len(data)), io.BytesIO(data))
    if path.suffix == ".zst":
        plain = path.read_bytes()
        with pa.CompressedOutputStream(str(path), "zstd") as packed:
            packed.write(plain)
    return path


@contextmanager
def memory_below(limit: float) -> Iterator[None]:
    """Checks how much memory Python takes in the block, in bytes."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


# --- honest archives --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_members_come_in_order_with_what_was_asked_for(tmp_path: Path, kind: str) -> None:
    found = read(make(tmp_path / f"x.{kind}", FILES))
    assert found == [Member(name, data if is_midi(name) else None) for name, data in FILES.items()]


@pytest.mark.parametrize("kind", KINDS)
def test_many_members_need_no_more_memory_than_few(tmp_path: Path, kind: str) -> None:
    noise = random.Random(0).randbytes(100_000)
    path = make(tmp_path / f"x.{kind}", {f"{i}.mid".encode(): noise for i in range(30)})
    with memory_below(2e6 + DICTIONARY * (kind == "tar.xz")):
        assert sum(len(m.data or b"") for m in archive.members(path, is_midi, ArchiveLimits())) == 30 * len(noise)


def test_a_tar_of_very_many_members_is_not_kept_in_memory(tmp_path: Path) -> None:
    path = make(tmp_path / "x.tar", {f"{i}.mid".encode(): b"" for i in range(3000)})
    with memory_below(1e6):  # three thousand members, as tarfile keeps them, take three times that
        assert sum(1 for _ in archive.members(path, is_midi, ArchiveLimits())) == 3000


def test_names_are_the_bytes_of_the_archive(tmp_path: Path) -> None:
    names = ["é.mid".encode(), "e\u0301.mid".encode(), b"caf\xe9.mid", b"new\nline.mid"]
    assert [m.name for m in read(make(tmp_path / "x.tar", dict.fromkeys(names, b"x")))] == names
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("é.mid", b"x")
        file.writestr("caf?.mid", b"x")
    data = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(data.replace(b"caf?.mid", b"caf\xe9.mid"))  # as other systems write it
    assert [m.name for m in read(tmp_path / "x.zip")] == ["é.mid".encode(), b"caf\xe9.mid"]


# --- hostile members --------------------------------------------------------------------------------------------------
REFUSED = {"/etc/x.mid": "absolute", "../x.mid": "leads out", "a/../../x.mid": "leads out", "..": "leads out"}


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_lead_out_are_refused_one_by_one(tmp_path: Path, kind: str) -> None:
    files = {name.encode(): b"x" for name in REFUSED} | {b"fine.mid": b"y"}
    found = read(make(tmp_path / f"x.{kind}", files))
    assert [m.data for m in found] == [None, None, None, None, b"y"]
    for member, reason in zip(found, REFUSED.values(), strict=False):
        assert reason in str(member.refused)


def test_links_and_devices_are_refused_in_a_tar(tmp_path: Path) -> None:
    kinds = (
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.GNUTYPE_SPARSE,
    )
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        for kind in kinds:
            file.addfile(tar_info("x.mid", kind=kind, target="/etc/passwd"))
        file.addfile(tar_info("fine.mid", 1), io.BytesIO(b"y"))
    found = read(tmp_path / "x.tar")
    assert [m.refused for m in found] == ["a link or a device"] * len(kinds) + [None]


def test_links_are_refused_in_a_zip(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("x.mid")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    (member,) = read(tmp_path / "x.zip")
    assert (member.data, member.refused) == (None, "a link or a device")


# --- limits -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_a_member_too_large_is_refused_alone(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path / f"x.{kind}", {b"a.mid": b"x" * 1001, b"b.mid": b"y" * 1000})
    large, fine = read(path, ArchiveLimits(max_member_bytes=1000))
    assert (large.data, large.refused) == (None, "larger than fetch.limits.max_member_bytes, 1000")
    assert fine.data == b"y" * 1000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("limits", "match"),
    [
        (ArchiveLimits(max_members=3), "max_members, 3"),
        (ArchiveLimits(max_total_bytes=500), "max_total_bytes, 500"),
    ],
)
def test_limits_of_the_whole(tmp_path: Path, kind: str, limits: ArchiveLimits, match: str) -> None:
    with pytest.raises(InputError, match=match):
        read(make(tmp_path / f"x.{kind}", FILES), limits)


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"])
@pytest.mark.parametrize("name", [b"bomb.mid", b"ignored.bin"])
def test_a_bomb_is_an_input_error(tmp_path: Path, kind: str, name: bytes) -> None:
    path = make(tmp_path / f"x.{kind}", {name: bytes(10 << 20)})  # packs about 1000 times
    if kind == "zip" and not is_midi(name):
        assert read(path) == [Member(name, None)]  # is never unpacked
        return
    with memory_below(8e6 + DICTIONARY * (kind == "tar.xz")), pytest.raises(InputError, match="max_ratio"):
        read(path)


def test_a_zip_whose_members_share_their_bytes_is_a_bomb(tmp_path: Path) -> None:
    """The directory names one packed member two hundred times."""
    path = make(tmp_path / "x.zip", {b"000.mid": bytes(100_000)})
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02", data.index(b"000.mid"))
    end = data.rindex(b"PK\x05\x06")
    entries = data[start:end].rpartition(b"PK\x01\x02")  # the folder's, then the file's
    entry = entries[1] + entries[2]
    directory = entry * 200
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 200, 200, len(directory), start, 0)
    path.write_bytes(data[:start] + directory + tail)
    with pytest.raises(MidivaeError, match=r"max_ratio|verlap"):  # newer versions of zipfile notice by themselves
        read(path)


def test_a_zip_that_lies_about_sizes_is_damaged(tmp_path: Path) -> None:
    path = make(tmp_path / "x.zip", {b"a.mid": bytes(range(256)) * 40})
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<L", 256 * 40), struct.pack("<L", 100)))
    with pytest.raises(CorruptError, match=r"x\.zip: damaged.*CRC"):
        read(path)


@pytest.mark.parametrize("size", [1 << 33, -1024])
def test_a_tar_header_of_absurd_size_is_damaged(tmp_path: Path, size: int) -> None:
    """The records before a member claim eight gigabytes, or less than nothing."""
    info = tar_info("x", kind=tarfile.XHDTYPE)
    info.size = size
    path = tmp_path / "x.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with memory_below(3e6), pytest.raises(CorruptError, match="damaged"):
        read(path)


# --- what is no archive -----------------------------------------------------------------------------------------------
def test_missing_folder_and_other_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.zip: no such file"):
        read(tmp_path / "gone.zip")
    with pytest.raises(InputError, match=r"is a folder.*`folder`"):
        read(tmp_path)
    for data in (b"", b"MThd", b"nonsense" * 1000, b"Rar!\x1a\x07"):
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(InputError, match="neither zip nor tar"):
            read(tmp_path / "x")


def test_encrypted_zip(tmp_path: Path) -> None:
    path = make(tmp_path / "x.zip", {b"a.mid": b"x", b"b.txt": b"y"})
    data = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags
        at = data.index(magic, data.index(b"PK\x01\x02") if magic[2] == 1 else 0)
        while at >= 0:
            data[at + offset] |= 1
            at = data.find(magic, at + 1)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"'a\.mid' is encrypted.*`folder`"):
        read(path)


def test_two_frames_of_zstd_are_one_file(tmp_path: Path) -> None:
    """As parallel packers write them."""
    path = make(tmp_path / "x.tar", FILES)
    data = path.read_bytes()
    frames = [pa.compress(part, codec="zstd", asbytes=True) for part in (data[:700], data[700:])]
    path.write_bytes(b"".join(frames))
    assert read(path) == [Member(name, data if is_midi(name) else None) for name, data in FILES.items()]


def test_zstd_with_a_window_that_takes_too_much_memory(tmp_path: Path) -> None:
    """As `zstd --long=31` writes it: a frame whose header asks for 2 GiB."""
    header = b"\x28\xb5\x2f\xfd" + bytes([0x00, (31 - 10) << 3])  # no content size, no checksum; log of the window - 10
    (tmp_path / "x.tar.zst").write_bytes(header + b"\x01\x00\x00")  # one empty block, the last
    with pytest.raises(InputError, match=r"over 128 MiB to unpack; repack it without `--long`"):
        read(tmp_path / "x.tar.zst")


def test_unknown_packing(tmp_path: Path) -> None:
    path = make(tmp_path / "x.zip", {b"a.mid": b"x"})
    data = path.read_bytes()
    method = struct.pack("<H", zipfile.ZIP_DEFLATED)
    at = data.rindex(b"PK\x01\x02") + 10
    path.write_bytes(data[:at] + data[at : at + 2].replace(method, b"\x63\x00") + data[at + 2 :])
    with pytest.raises(InputError, match=r"not supported.*repack"):
        read(path)


# --- damage -----------------------------------------------------------------------------------------------------------
def verdict(path: Path, wanted: list[Member]) -> str:
    """How a damaged archive was taken: "error", "same", or what came out silently wrong."""
    try:
        found = read(path)
    except (CorruptError, InputError) as error:
        assert str(path) in str(error)
        return "error"
    if any(member.refused for member in found):
        return "refused"  # and logged, and counted
    return "same" if found == wanted else f"silently wrong: {found}"


def damaged(tmp_path: Path, kind: str, damage: Callable[[bytes, int], bytes], step: int) -> dict[int, str]:
    files = {b"a.mid": b"MThd one", b"b.mid": b"MThd two" * 9, b"c.txt": b"words"}
    path = make(tmp_path / f"x.{kind}", files)
    if kind == "tar.zst":
        path.write_bytes(CHECKED_ZSTD)
    data, wanted = path.read_bytes(), read(path)
    assert [m.data for m in wanted] == [data if is_midi(name) else None for name, data in files.items()]
    found = {}
    for at in range(0, len(data), step):
        path.write_bytes(damage(data, at))
        found[at] = verdict(path, wanted)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_no_truncation_goes_unnoticed(tmp_path: Path, kind: str) -> None:
    found = damaged(tmp_path, kind, lambda data, at: data[:at], 101 if kind == "tar" else 3)
    if kind == "tar":  # padded with zeros beyond the mark of its end
        assert {found[at] for at in found if at < 3584} == {"error"}
        assert set(found.values()) == {"error", "same"}
    else:
        assert set(found.values()) == {"error"}


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"])
def test_no_flipped_bit_changes_anything_silently(tmp_path: Path, kind: str) -> None:
    for bit in range(8):
        found = damaged(
            tmp_path, kind, lambda data, at, bit=bit: data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :], 5
        )
        assert set(found.values()) <= {"error", "same", "refused"}, {k: v for k, v in found.items() if "silent" in v}
        assert "error" in found.values()


def test_a_flipped_bit_in_a_header_of_a_plain_tar_is_damage(tmp_path: Path) -> None:
    """tarfile by itself takes a bad header for the end of the archive."""
    path = make(tmp_path / "x.tar", {b"a.mid": b"x", b"b.mid": b"y"})
    data = bytearray(path.read_bytes())
    data[data.index(b"b.mid")] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError, match="bad header"):
        read(path)
