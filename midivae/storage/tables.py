"""Parquet tables with checksums and schema versions.

Parquet pages carry checksums, and every reader verifies them: a flipped bit is an error with a name. The same table
gives the same bytes.

Offers: `write` / `read`, `is_whole`, `read_extra`, `scan` and `dataset` (many files of one table),
`compress` / `decompress`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from midivae.errors import CorruptError, InputError, SchemaError
from midivae.storage.files import write_file
from midivae.storage.schema import Table

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

log = logging.getLogger(__name__)

_REMEDY = "delete it and rerun the stage that writes it"
_ZSTD = pa.Codec("zstd", compression_level=1)  # a tenth larger than level 9, at a tenth of its time


def write(
    path: Path,
    rows: pa.Table,
    table: Table,
    extra: dict[str, str] | None = None,
    row_group_size: int | None = None,
) -> None:
    """Writes rows as Parquet with the schema of `table`.

    Args:
        path: the file; written whole or not at all.
        rows: the columns of `table`, in any order.
        table: what is written.
        extra: goes into the metadata under "midivae.<key>".
        row_group_size: rows that a reader must read at least; None: pyarrow's choice.
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
    write_file(
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
    )


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


def read(path: Path, table: Table, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a Parquet file that holds `table`, verifying page checksums.

    Args:
        path: the file.
        table: what it must hold.
        columns: which to read; None: all.

    Raises:
        InputError: no such file.
        SchemaError: another table, or another version of it.
        CorruptError: the bytes are damaged.
    """
    with _translated(path):
        file = pq.ParquetFile(path, page_checksum_verification=True)
        _check_header(path, file.schema_arrow, table)
        rows = file.read(columns=list(columns) if columns is not None else None)
        if rows.num_rows != file.metadata.num_rows:
            raise ValueError(f"{rows.num_rows} rows where its footer says {file.metadata.num_rows}")
        return rows


def is_whole(path: Path, table: Table) -> bool:
    """Whether a file exists and can be read; a damaged one is logged, so that it is made again."""
    if not path.exists():
        return False
    try:
        read(path, table)
    except CorruptError as error:
        log.warning("%s", error)
        return False
    return True


def read_extra(path: Path, table: Table, key: str) -> str:
    """The text kept under `key` by `write(..., extra=...)`."""
    columns = _columns(path)
    _check_header(path, columns, table)
    try:
        return str(columns.metadata[f"midivae.{key}".encode()].decode())
    except KeyError:
        raise SchemaError(f"{path}: no {key!r} in its metadata; rerun the stage that writes it") from None


def _columns(path: Path) -> pa.Schema:
    """The columns and metadata of any Parquet file."""
    with _translated(path):
        return pq.read_schema(path)


def scan(paths: Sequence[Path], table: Table, columns: Sequence[str], where: pc.Expression | None = None) -> pa.Table:
    """The rows of files that all hold `table`, file after file, for which `where` is true.

    Row groups that `where` rules out by their statistics are not read.

    Raises:
        InputError, SchemaError, CorruptError: as `read`.
    """
    with _translated(paths[0].parent):
        return dataset(paths, table).to_table(columns=list(columns), filter=where)


def dataset(paths: Sequence[Path], table: Table) -> Dataset:
    """Files that all hold `table`, as a dataset of pyarrow that verifies page checksums when it is read.

    Raises:
        InputError, SchemaError, CorruptError: as `read`.
    """
    import pyarrow.dataset as ds  # here, as it imports pandas, and few processes need it

    for path in paths:
        _check_header(path, _columns(path), table)
    checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    return ds.dataset(list(map(str, paths)), format=ds.ParquetFileFormat(default_fragment_scan_options=checked))


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Foreign exceptions of a Parquet read, under our names."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the stage that writes it") from None
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise CorruptError(f"{path}: damaged ({error}); {_REMEDY}") from error


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
        raise CorruptError(f"{path}: its columns are not those of table {wanted[0]} v{wanted[1]}: damaged; {_REMEDY}")
