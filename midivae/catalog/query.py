"""SQL over the catalog: conditions of samples, and whole queries.

DuckDB runs the SQL. It reads the Parquet files through pyarrow, which verifies page checksums, and reads only the
columns that the SQL names. A query cannot read or write other files, use the network, load extensions or change
settings.

Reference: docs/cli.md; the language is described at duckdb.org/docs/sql.

Offers: `select` (some samples), `query` (a whole SELECT), `check_column`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from midivae.catalog.files import catalog_of
from midivae.errors import CorruptError, ParamsError
from midivae.storage import tables
from midivae.storage.paths import PIECES_TABLE
from midivae.storage.schema import CATALOG, PIECES

_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,  # no files, no network, no ATTACH, no extensions
    "autoload_known_extensions": False,
    "python_enable_replacements": False,  # no tables from variables of this program
    "memory_limit": "2GB",
    "threads": 4,
}
_FORMER = re.compile(r"'[^']*'|==|\bNone\b")  # text, and what Python writes otherwise than SQL
_NEW = {"==": "=", "None": "NULL"}
_READ_FAILED = "reading the stream registered as"  # how DuckDB's message begins when pyarrow raised an error


def select(
    folder: Path, columns: Sequence[str], where: str | None = None, sort: str | None = None, limit: int | None = None
) -> pa.Table:
    """Some columns of the samples for which the condition `where` is true.

    Args:
        folder: the data folder, its `samples`, or the catalog itself.
        columns: which to read, in this order.
        where: an SQL condition such as "polyphony > 2 AND key = 'G major'"; None: all samples.
        sort: columns to sort by, `key,-novelty`: a minus for the largest first. Missing values come last, and samples
            with equal values are sorted by `sample_id`. None: in the order of job files and index.
        limit: at most so many samples.

    Raises:
        ParamsError: `where` or `sort` cannot be understood, or names an unknown column.
        InputError: there is no catalog.
        SchemaError, CorruptError: the files are of another version, or damaged.
    """
    order = _order(sort) if sort is not None else None
    with _connection(folder, f"where {where!r:.200}") as connection:
        samples = connection.view("samples")
        if where is not None and where.strip():
            samples = samples.filter(_condition(where))
        if order is not None:
            samples = samples.order(order)
        if limit is not None:
            samples = samples.limit(limit)
        return _rows(connection, samples.project(", ".join(map(_quoted, columns))))


def query(folder: Path, sql: str) -> pa.Table:
    """The result of a SELECT over the views `samples` and, in a data folder with rolls, `pieces`.

    Raises:
        ParamsError: `sql` is not one SELECT, cannot be understood, names an unknown column, or asks for what a query
            must not do.
        InputError, SchemaError, CorruptError: as `select`.
    """
    with _connection(folder, "SQL") as connection:
        statements = connection.extract_statements(sql)
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise ParamsError(f"SQL {sql!r:.200}: must be one SELECT")
        return _rows(connection, connection.sql(sql))


def check_column(name: str) -> None:
    """Checks that the catalog has a column of this name.

    Raises:
        ParamsError: it has none; the message has similar names.
    """
    if name not in CATALOG.columns.names:
        near = difflib.get_close_matches(name, CATALOG.columns.names, n=3, cutoff=0.4)
        hint = f"nearest: {', '.join(near)}" if near else f"there are: {', '.join(CATALOG.columns.names)}"
        raise ParamsError(f"no column {name!r} in the catalog; {hint}")


@contextmanager
def _connection(folder: Path, origin: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the views; errors of DuckDB get our names, and `origin` opens their message."""
    views = {"samples": tables.dataset(catalog_of(folder), CATALOG)}
    pieces = folder / "rolls" / PIECES_TABLE
    if pieces.is_file():
        views["pieces"] = tables.dataset([pieces], PIECES)
    with duckdb.connect(config=_SETTINGS) as connection:
        for name, dataset in views.items():
            connection.register(name, dataset)
        connection.execute("SET lock_configuration = true")
        try:
            yield connection
        except duckdb.Error as error:
            message = " ".join(re.split(r"\n\nLINE|\nPossible solutions", str(error))[0].split())
            if _READ_FAILED in message:
                raise CorruptError(f"{folder}: damaged ({message}); rerun the stage that writes it") from error
            raise ParamsError(f"{origin}: {message}") from None


def _rows(connection: duckdb.DuckDBPyConnection, relation: duckdb.DuckDBPyRelation) -> pa.Table:
    """The rows of a relation, computed in a thread, so that Ctrl-C reaches Python and ends the query."""
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(relation.to_arrow_table)
        try:
            return future.result()
        except BaseException:
            connection.interrupt()
            raise


def _condition(where: str) -> str:
    """The condition; filters of version 0.1 were written as in Python.

    Raises:
        ParamsError: it is one of those.
    """
    new = _FORMER.sub(lambda match: _NEW.get(match[0], match[0]), where)
    if new != where:
        raise ParamsError(f"where {where!r:.200}: conditions are written in SQL; write {new!r:.200}")
    return where


def _order(sort: str) -> str:
    """The terms of ORDER BY."""
    terms = []
    for word in (word.strip() for word in sort.split(",")):
        check_column(word.removeprefix("-"))
        terms.append(f"{_quoted(word.removeprefix('-'))} {'DESC' if word.startswith('-') else 'ASC'} NULLS LAST")
    return ", ".join([*terms, "sample_id"])


def _quoted(name: str) -> str:
    return f'"{name}"'
