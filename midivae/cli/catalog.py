"""The commands that read the catalog of samples: `catalog` and `export`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from midivae import errors
from midivae.cli.base import PATH, command, data_option, options, print_json, print_line

if TYPE_CHECKING:
    import pandas as pd

OVERVIEW = ("sample_id", "model", "key", "notes", "density", "polyphony", "scale_consistency", "novelty", "duration_s")

query_options = options(
    click.option("--where", metavar="FILTER", help="Only these samples: \"polyphony > 2 and key == 'G major'\"."),
    click.option("--sort", metavar="COLUMN[,...]", help="In the order of these columns; missing values come last."),
    click.option("--descending", is_flag=True, help="Largest first."),
    click.option("--limit", type=click.IntRange(min=0), metavar="N", help="At most so many samples."),
    data_option,
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
    keys = [key.strip() for key in sort.split(",")] if sort is not None else []
    if descending:
        keys = [key if key.startswith("-") else f"-{key}" for key in keys]
    data = data.resolve()  # `current` may move meanwhile, and a query must stay in one version
    return read.samples(data, where=where, sort=",".join(keys) or None, limit=limit, columns=columns)


@command(
    "midivae catalog --limit 10",
    "midivae catalog --where \"polyphony > 2 and key == 'G major'\" --sort novelty --json",
    "midivae catalog --columns sample_id,tempo_qpm,novelty --sort novelty --descending",
)
@query_options
@click.option("--columns", metavar="COLUMN[,...]", help="These columns, in this order; docs/data.md lists them.")
@click.option("--json", "as_json", is_flag=True, help="An object of JSON per line, with all columns but z and midi.")
def catalog(columns: str | None, as_json: bool, **query: Any) -> None:
    """List samples of the catalog.

    A filter is written as in Python, over the columns of the catalog: comparisons, `and`, `or`, `not`, `in`, `is None`,
    sums and products.
    """
    names = [name.strip() for name in columns.split(",")] if columns is not None else None
    if names is not None and "midi" in names:
        raise errors.ParamsError("column 'midi' holds bytes of files, which cannot be printed; use `midivae export`")
    rows = _query(**query, columns=names or (None if as_json else OVERVIEW))
    for line in _json_lines(rows) if as_json else _table(rows):
        print_line(line)
    click.echo(f"{len(rows)} samples", err=True)


def _table(rows: pd.DataFrame) -> list[str]:
    """The rows in columns; a number has three digits, or is a whole number."""
    if rows.empty:
        return []
    return str(rows.to_string(index=False, na_rep="", float_format=_short)).splitlines()


def _short(value: Any) -> str:  # a float, or one of numpy's
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _json_lines(rows: pd.DataFrame) -> Iterator[str]:
    """Each row as a JSON object; missing values are null."""
    columns = [[_plain(value) for value in rows[name].to_numpy()] for name in rows.columns]
    for values in zip(*columns, strict=True):
        yield json.dumps(dict(zip(rows.columns, values, strict=True)))


def _plain(value: Any) -> Any:
    """A value of the catalog in the types of JSON."""
    import numpy as np

    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):  # a 32-bit 0.9 is written 0.9, not 0.8999999761581421
        return None if np.isnan(value) else float(str(value))
    return value.item() if isinstance(value, np.generic) else value


@command(
    "midivae export --where \"key == 'G major'\" g-major/",
    "midivae export --sort novelty --descending --limit 20 newest/",
)
@query_options
@click.argument("target", type=PATH, metavar="OUT")
def export(target: Path, data: Path, **query: Any) -> None:
    """Write samples of the catalog to the folder OUT: a .mid file each, and catalog.csv.

    Without options, all samples. The filter is that of `midivae catalog`.
    """
    from midivae.catalog.export import to_folder

    rows = _query(data, **query)
    print_json({"written": to_folder(data, rows, target), "folder": str(target)})


COMMANDS = (catalog, export)
