"""The commands that read the catalog of samples: `catalog`, `query` and `export`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from midivae import errors
from midivae.cli import base

if TYPE_CHECKING:
    import pandas as pd

_BYTES = "column '{}' holds bytes of files, which cannot be printed; `midivae export` writes the files"
OVERVIEW = ("sample_id", "model", "key", "notes", "density", "polyphony", "scale_consistency", "novelty", "duration_s")

query_options = base.options(
    click.option("--where", metavar="SQL", help="Only these samples: \"polyphony > 2 AND key = 'G major'\"."),
    click.option("--sort", metavar="COLUMN[,...]", help="Sort by these columns; missing values come last."),
    click.option("--descending", is_flag=True, help="Largest first."),
    click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Maximum number of samples."),
    base.data_option,
)


def _query(
    data: Path,
    where: str | None,
    sort: str | None,
    descending: bool,
    limit: int | None,
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """The rows of the catalog that the options ask for."""
    from midivae.catalog import read

    if descending and sort is None:
        raise errors.ParamsError("--descending goes with --sort COLUMN")
    if sort is not None and descending:
        sort = ",".join(f"-{key.strip().removeprefix('-')}" for key in sort.split(","))
    data = data.resolve()  # `current` may move meanwhile, and a query must stay in one version
    return read.samples(data, where, sort, columns, limit=limit)


@base.command(
    "midivae catalog --limit 10",
    "midivae catalog --where \"polyphony > 2 AND key = 'G major'\" --sort novelty --json",
    "midivae catalog --columns sample_id,tempo_qpm,novelty --sort novelty --descending",
)
@query_options
@click.option("--columns", metavar="COLUMN[,...]", help="These columns, in this order; docs/data.md lists them.")
@click.option("--json", "as_json", is_flag=True, help="An object of JSON per line, with all columns but z and midi.")
def catalog(columns: str | None, as_json: bool, **query: Any) -> None:
    """List samples of the catalog.

    --where takes an SQL condition over the columns of the catalog, as `midivae query` does.
    """
    names = [name.strip() for name in columns.split(",")] if columns is not None else None
    if names is not None and "midi" in names:
        raise errors.ParamsError(_BYTES.format("midi"))
    rows = _query(**query, columns=names or (None if as_json else OVERVIEW))
    for line in _json_lines(rows) if as_json else _table(rows):
        base.print_line(line)
    click.echo(f"{len(rows)} samples", err=True)


@base.command(
    'midivae query "SELECT job, avg(polyphony) FROM samples GROUP BY job"',
    'midivae query "SELECT key, count(*) AS samples FROM samples WHERE novelty > 0.9 GROUP BY key ORDER BY 2" --csv',
    'midivae query "DESCRIBE samples"',
)
@click.argument("sql", metavar="SQL")
@click.option("--json", "form", flag_value="json", help="An object of JSON per line.")
@click.option("--csv", "form", flag_value="csv", help="Lines of CSV, with a header.")
@base.data_option
def query(sql: str, form: str | None, data: Path) -> None:
    """Run an SQL query over the catalog, and print a table.

    SQL is one SELECT in the dialect of DuckDB. Its views are `samples`, a row per sample, and `pieces`, a row per file
    that stage `ingest` read; docs/data.md lists their columns. A query changes nothing, and reads no other files.
    """
    from midivae.catalog.export import to_csv
    from midivae.catalog.query import query as run

    result = run(data.resolve(), sql)
    for field in result.schema:
        if "binary" in str(field.type):  # also in lists and structs
            raise errors.ParamsError(_BYTES.format(field.name))
    rows = result.to_pandas(integer_object_nulls=True)
    lines = to_csv(rows).decode().splitlines() if form == "csv" else _json_lines(rows) if form else _table(rows)
    for line in lines:
        base.print_line(line)
    click.echo(f"{len(rows)} rows", err=True)


def _table(rows: pd.DataFrame) -> list[str]:
    """The rows in columns; a number has three digits, or is a whole number."""
    if rows.empty:
        return []
    rows = rows.apply(lambda column: column.fillna("") if column.dtype == object else column)
    return str(rows.to_string(index=False, na_rep="", float_format=_short)).splitlines()


def _short(value: Any) -> str:  # a float, or one of numpy's
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _json_lines(rows: pd.DataFrame) -> Iterator[str]:
    """Each row as a JSON object; missing values are null."""
    columns = [[_plain(value) for value in rows[name].to_numpy()] for name in rows.columns]
    for values in zip(*columns, strict=True):
        yield json.dumps(dict(zip(rows.columns, values, strict=True)), default=str)


def _plain(value: Any) -> Any:
    """A value of the catalog in the types of JSON."""
    import numpy as np

    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, Decimal):  # DuckDB's type of large sums
        return int(value) if value == int(value) else float(value)
    if isinstance(value, float | np.floating):  # a 32-bit 0.9 is written 0.9, not 0.8999999761581421
        return None if np.isnan(value) else float(str(value))
    return value.item() if isinstance(value, np.generic) else value


@base.command(
    "midivae export --where \"key = 'G major'\" g-major/",
    "midivae export --sort novelty --descending --limit 20 newest/",
)
@query_options
@click.argument("target", type=base.PATH, metavar="OUT")
def export(target: Path, data: Path, **query: Any) -> None:
    """Write samples to the folder OUT: .mid files and catalog.csv.

    Without options, all samples of the catalog. --where is that of `midivae catalog`.
    """
    from midivae.catalog.export import to_folder

    rows = _query(data, **query)
    base.print_json({"written": to_folder(data, rows, target), "folder": str(target)})


COMMANDS = (catalog, query, export)
