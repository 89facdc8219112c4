"""Parquet, hashes, write-then-rename: the only module that writes tables and publishes folders.

What it promises:
    * A file appears under its name whole or not at all: written under a temporary name, fsynced, renamed.
    * A folder is published whole: a stage writes into a staging folder beside its target, swapped in at the end.
    * Every folder carries `manifest.json`, the sha256 of each of its files; `verify` compares.
    * Parquet pages carry checksums, and every reader verifies them: a flipped bit is an error with a name.
    * The same table gives the same bytes.

Offers: `write_table` / `read_table`, `read_columns` and `scan` (many files of one table), `column`, `compress` /
`decompress`, `write_json` / `read_json`, `read_csv`, `write_bytes`, `sha256`, `publishing`, `verify`, `clone` and
`work_dir`.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from midivae.errors import CorruptError, InputError, SchemaError
from midivae.storage.schema import Table

if TYPE_CHECKING:
    import pyarrow.compute as pc  # takes a tenth of a second, and a worker process needs none of it

MANIFEST = "manifest.json"
REMEDY = "delete it and rerun the stage that writes it"
_ZSTD = pa.Codec("zstd", compression_level=1)  # a tenth larger than level 9, at a tenth of its time
_FICLONE = 0x40049409  # linux/fs.h: share the blocks of a file, where the file system can


# --- files ------------------------------------------------------------------------------------------------------------
def write_via(path: Path, fill: Callable[[IO[bytes]], object], durable: bool = True) -> None:
    """Writes a file whole or not at all: `fill` gets a binary file to write to.

    Not durable means whole unless the machine itself goes down: for what is checked before use and can be made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            fill(file)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` whole or not at all."""
    write_via(path, lambda file: file.write(data))


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON, keys sorted, for people and for machines."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        InputError: no such file.
        CorruptError: not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the stage that writes it") from None
    except ValueError as error:
        raise CorruptError(f"{path}: not valid JSON ({error}); delete it and rerun the stage that writes it") from error


def read_csv(path: Path, stage: str) -> Any:
    """A table that a stage wrote as CSV, as a pandas frame; only an empty cell is a missing value.

    Raises:
        InputError: no such file.
        CorruptError: not CSV.
    """
    import pandas as pd  # here, as it takes half a second and few need it

    try:
        return pd.read_csv(path, keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run stage `{stage}`") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise CorruptError(f"{path}: not readable as CSV ({error}); rerun stage `{stage}`") from error


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def clone(source: Path, target: Path) -> None:
    """Copies a file, sharing its blocks where the file system can; never a hard link.

    DVC makes the files it tracks read-only and shares them: a hard link would reach into the work directory.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as old, target.open("wb") as new:
        try:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
        except OSError:
            shutil.copyfileobj(old, new, 1 << 20)


# --- tables -----------------------------------------------------------------------------------------------------------
def write_table(
    path: Path,
    rows: pa.Table,
    table: Table,
    extra: dict[str, str] | None = None,
    row_group_size: int | None = None,
    durable: bool = True,
) -> None:
    """Writes rows as Parquet with the schema of `table`.

    Args:
        path: the file; written whole or not at all.
        rows: the columns of `table`, in any order.
        table: what is written.
        extra: goes into the metadata under "midivae.<key>".
        row_group_size: rows a reader must take at least; None: pyarrow's choice.
        durable: as for `write_via`.
    """
    named = {f"midivae.{key}".encode(): text.encode() for key, text in (extra or {}).items()}
    metadata = {**(table.schema.metadata or {}), **named}
    for field in table.schema:
        if not field.nullable and rows.column(field.name).null_count:
            raise SchemaError(f"{path.name}: column {field.name!r} of table {table.name!r} has missing values")
    rows = rows.select(table.schema.names)
    if str(rows.schema.remove_metadata()) != str(table.columns):  # names of list items are not in `equals`
        rows = rows.cast(table.schema)
    rows = rows.replace_schema_metadata(metadata)
    leaves = _leaves(table.schema)
    plain = [name for name in leaves if name not in table.blobs]
    write_via(
        path,
        lambda file: pq.write_table(
            rows,
            file,
            row_group_size=row_group_size,
            compression={name: "zstd" if name in plain else "none" for name in leaves},
            use_dictionary=[name for name in plain if name.partition(".")[0] not in table.varied],
            write_statistics=plain,
            write_page_checksum=True,
            version="2.6",
        ),
        durable,
    )


def column(values: Any, kind: pa.DataType, present: Any = None) -> pa.Array:
    """An Arrow array as `pyarrow.array` makes it, which imports pandas when it is first called: a third of the time
    that a worker process takes to start.

    Args:
        values: a numpy array of numbers or truth values; or a list of these, of strings or of bytes.
        kind: of numbers, truth values, strings or bytes.
        present: which values there are, as truth values; None: all that are not None.
    """
    if present is None and isinstance(values, list):
        present = np.array([value is not None for value in values], bool)
    validity = None if present is None or present.all() else _bits(present)
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        texts = [b"" if value is None else value.encode() if isinstance(value, str) else value for value in values]
        ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
        buffers = [validity, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))]
    else:
        plain = [0 if value is None else value for value in values] if isinstance(values, list) else values
        numbers = np.ascontiguousarray(plain, kind.to_pandas_dtype())
        buffers = [validity, _bits(numbers) if pa.types.is_boolean(kind) else pa.py_buffer(numbers)]
    return pa.Array.from_buffers(kind, len(values), buffers)


def _bits(truths: Any) -> pa.Buffer:
    return pa.py_buffer(np.packbits(truths, bitorder="little"))


def _leaves(schema: pa.Schema) -> list[str]:
    """The columns as Parquet counts and names them: the leaves of lists and structs."""
    names: list[str] = []
    for field in schema:
        if pa.types.is_struct(field.type):
            names += [f"{field.name}.{inner.name}" for inner in field.type]
        elif pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type):
            names.append(f"{field.name}.list.element")
        else:
            names.append(field.name)
    return names


def compress(data: Any) -> bytes:
    """A zstd frame of bytes, for a column that its table calls a blob."""
    frame: bytes = _ZSTD.compress(data, asbytes=True)
    return frame


def decompress(frame: bytes, size: int) -> bytes:
    """The `size` bytes in a frame that `compress` made.

    Raises:
        CorruptError: the frame is damaged, or holds another number of bytes.
    """
    try:
        data: bytes = _ZSTD.decompress(frame, decompressed_size=size, asbytes=True)
    except (pa.ArrowException, OSError) as error:
        raise CorruptError(f"a compressed value is damaged ({error}); rerun the stage that writes it") from error
    return data


def read_table(path: Path, table: Table, columns: Sequence[str] | None = None, mapped: bool = False) -> pa.Table:
    """Reads a Parquet file that holds `table`, verifying page checksums.

    Args:
        path: the file.
        table: what it must hold.
        columns: which to read; None: all.
        mapped: whether to read it where the system keeps it: half the memory and time, for files that are replaced and
            never written to.

    Raises:
        InputError: no such file.
        SchemaError: another table, or another version of it.
        CorruptError: the bytes are damaged.
    """
    with _translated(path):
        file = pq.ParquetFile(path, memory_map=mapped, page_checksum_verification=True)
        _check_header(path, file.schema_arrow, table)
        rows = file.read(columns=list(columns) if columns is not None else None, use_threads=not mapped)
        if rows.num_rows != file.metadata.num_rows:
            raise ValueError(f"{rows.num_rows} rows where its footer says {file.metadata.num_rows}")
        return rows


def read_extra(path: Path, table: Table, key: str) -> str:
    """The text kept under `key` by `write_table(..., extra=...)`."""
    with _translated(path):
        found = pq.read_schema(path)
    _check_header(path, found, table)
    try:
        return str(found.metadata[f"midivae.{key}".encode()].decode())
    except KeyError:
        raise SchemaError(f"{path}: no {key!r} in its metadata; rerun the stage that writes it") from None


def read_columns(path: Path) -> pa.Schema:
    """The columns of any Parquet file, whatever table it holds.

    Raises:
        InputError: no such file.
        CorruptError: the bytes are damaged.
    """
    with _translated(path):
        return pq.read_schema(path)


def scan(paths: Sequence[Path], table: Table, columns: Sequence[str], where: pc.Expression | None = None) -> pa.Table:
    """The rows of files that all hold `table`, file after file, for which `where` is true.

    Row groups that `where` rules out by their statistics are not read.

    Raises:
        InputError, SchemaError, CorruptError: as `read_table`.
    """
    import pyarrow.dataset as ds  # imports pandas: half of what a worker process would need to start

    for path in paths:
        _check_header(path, read_columns(path), table)
    checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    with _translated(paths[0].parent):
        files = ds.dataset(list(map(str, paths)), format=ds.ParquetFileFormat(default_fragment_scan_options=checked))
        return files.to_table(columns=list(columns), filter=where)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Foreign exceptions of a Parquet read, under our names."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the stage that writes it") from None
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise CorruptError(f"{path}: damaged ({error}); {REMEDY}") from error


def _check_header(path: Path, columns: pa.Schema, table: Table) -> None:
    """The footer of a Parquet file has no checksum of its own: what it says of the table must be what we wrote."""
    metadata = columns.metadata or {}
    found = metadata.get(b"midivae.table", b"?").decode(), metadata.get(b"midivae.version", b"?").decode()
    wanted = table.name, str(table.version)
    if found != wanted:
        raise SchemaError(
            f"{path}: table {found[0]} v{found[1]}, this release reads {wanted[0]} v{wanted[1]}; rerun the stage that "
            "writes it"
        )
    if not columns.equals(table.columns):
        raise CorruptError(f"{path}: its columns are not those of table {wanted[0]} v{wanted[1]}: damaged; {REMEDY}")


# --- folders ----------------------------------------------------------------------------------------------------------
def work_dir() -> Path:
    """Where finished parts and checkpoints are kept between runs: `MIDIVAE_HOME`, else `.midivae` here.

    Deleting it loses time, never data.
    """
    return Path(os.environ.get("MIDIVAE_HOME") or ".midivae")


@contextmanager
def publishing(target: Path) -> Iterator[Path]:
    """A fresh folder to write into, swapped in as `target` when the block ends without an error.

    The folder gets its manifest first. A reader sees the old folder or the new one; on an error the old one stays.
    Staging folders that a killed run left behind are removed.
    """
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    _heal(target)
    prefix = f".{target.name}.staging-"
    for left in target.parent.glob(f"{prefix}*"):
        if not _alive(left.name.removeprefix(prefix)):
            shutil.rmtree(left, ignore_errors=True)
    staging = target.parent / f"{prefix}{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
        write_json(staging / MANIFEST, _hashes(staging))
        _swap(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _alive(pid: str) -> bool:
    """Whether the process that owns a staging folder still runs."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return int(pid) != os.getpid()


def _swap(staging: Path, target: Path) -> None:
    """Puts `staging` where `target` is, in one step where the system can exchange two names."""
    old = target.parent / f".{target.name}.old-{os.getpid()}"
    if not target.exists():
        staging.replace(target)
    elif _exchange(staging, target):
        staging.replace(old)
    else:
        target.replace(old)
        staging.replace(target)
    for left in target.parent.glob(f".{target.name}.old-*"):
        shutil.rmtree(left, ignore_errors=True)


def _heal(target: Path) -> None:
    """Puts back a folder that a run killed between two renames left under its temporary name."""
    for left in sorted(target.parent.glob(f".{target.name}.old-*")):
        if not target.exists():
            left.replace(target)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names atomically (Linux's renameat2 with RENAME_EXCHANGE); False where that is not to be had."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _files(folder: Path) -> list[str]:
    """Every file below `folder` but its manifest, as sorted relative paths with forward slashes."""
    found = (path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _hashes(folder: Path) -> dict[str, str]:
    names = _files(folder)
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(sha256, [folder / name for name in names]), strict=True))


def verify(folder: Path) -> list[str]:
    """What is wrong with a folder that `publishing` wrote, one sentence each; empty: nothing.

    Raises:
        InputError: the folder has no manifest.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise InputError(f"{folder}: no {MANIFEST}, so not a folder that midivae wrote; name one of data/*")
    wanted: dict[str, str] = read_json(manifest)
    found = set(_files(folder))
    wrong = [f"{folder / name}: missing" for name in sorted(set(wanted) - found)]
    wrong += [f"{folder / name}: not in the manifest" for name in sorted(found - set(wanted))]
    wrong += [
        f"{folder / name}: sha256 differs from the manifest's: damaged or edited"
        for name in sorted(found & set(wanted))
        if sha256(folder / name) != wanted[name]
    ]
    return wrong
