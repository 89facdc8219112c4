"""Reading the catalog of samples: filter, sort, take columns, write chosen samples out as .mid files.

A filter is written as in Python: `polyphony > 2 and key == 'G major'`, `job in ('sample', 'autoencoder')`,
`novelty is not None`, `4 < note_length <= 8 or not tempo_qpm / 2 < 50`. It is parsed, never executed, and handed to the
Parquet reader, which skips the files whose statistics rule it out. A missing value makes a comparison false, whichever
way it goes; only `is None` finds it. A number compared with a 32-bit column is rounded as the column was: `== 0.9`
finds what was written as 0.9.

A sort is a list of columns, `key,-novelty`: a minus for the largest first. Missing values come last, ties go by
`sample_id`.

Offers: `read` (everything), `query` (where, sort, limit), `latents` (as a 2-D array), `layout` (of a
job's rolls), `midi_bytes` (of samples by name) and `export`.
"""

from __future__ import annotations

import ast
import difflib
import json
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32

from midivae.errors import CorruptError, InputError, ParamsError
from midivae.music.roll import Layout
from midivae.storage import schema, tables
from midivae.storage.files import write_bytes
from midivae.storage.paths import KEPT, catalog_files, job_of

_HEAVY = ("z", "midi")  # columns that are read only when asked for: most of the catalog's bytes
_SAMPLE_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}-\d{7,18}")
_CSV = "catalog.csv"


# --- reading ----------------------------------------------------------------------------------------------------------
def read(folder: Path, columns: Sequence[str] | None = None, latents: bool = False) -> pd.DataFrame:
    """The catalog, one row per sample, in the order of job files and index.

    Args:
        folder: the data folder, its `samples`, or the catalog itself.
        columns: which to read; None: all but `z` and `midi`.
        latents: also read `z`; `catalog.latents(frame)` gives it as one array.

    Raises:
        InputError: there is no catalog.
        ParamsError: an unknown column.
        SchemaError, CorruptError: the files are of another version, or damaged.
    """
    return query(folder, columns=columns, latents=latents)


def query(
    folder: Path,
    where: str | None = None,
    sort: str | None = None,
    columns: Sequence[str] | None = None,
    latents: bool = False,
    limit: int | None = None,
) -> pd.DataFrame:
    """The rows of the catalog for which `where` holds, sorted; the language is described at the top of the module.

    Raises:
        ParamsError: `where` or `sort` cannot be understood, or names an unknown column.
        InputError, SchemaError, CorruptError: as `read`.
    """
    files = _files(folder)
    table = schema.CATALOG
    found = table.columns
    chosen = _chosen(columns, latents, found)
    keys = _sort_keys(sort, found)
    rows = tables.scan(files, table, _with(chosen, keys), _compile(where, found))
    if keys:
        rows = rows.take(pc.sort_indices(rows, sort_keys=keys))  # missing values go last
    rows = rows.slice(0, limit).select(chosen)
    return _to_pandas(rows)


def latents(rows: pd.DataFrame) -> Float32[np.ndarray, "B Z"]:
    """The latents of rows that were read with `latents=True`, as one array.

    Raises:
        ParamsError: they were not read, or are of models whose latents have different sizes.
    """
    if "z" not in rows:
        raise ParamsError("these rows were read without `z`; read them with latents=True")
    if rows.empty:
        return np.zeros((0, 0), np.float32)
    sizes = sorted(set(rows["z"].map(len)))
    if len(sizes) > 1:
        raise ParamsError(f"these rows have latents of different sizes, {sizes}; choose rows of one model")
    return np.stack(list(rows["z"])).astype(np.float32, copy=False)


def layout(folder: Path, job: str) -> Layout:
    """How the rolls of a job's samples are laid out.

    Raises:
        InputError: the catalog has no such job.
    """
    for file in _files(folder):
        if job_of(file) == job:
            return Layout.from_json(tables.read_extra(file, schema.CATALOG, "layout"))
    raise InputError(f"{folder}: no job {job!r} in the catalog; rerun stage `generate` with it")


def _files(folder: Path) -> list[Path]:
    """The Parquet files of the catalog in, or just below, a folder; what people kept of a data folder comes last."""
    kept = catalog_files(folder / KEPT / "catalog")
    for place in (folder / "samples" / "catalog", folder / "catalog", folder):
        files = catalog_files(place)
        if files and place.name == "catalog":
            return files + kept
    if kept:
        return kept
    raise InputError(
        f"{folder}: no catalog of samples there or in samples/catalog; run stage `generate`, or name --data"
    )


def _chosen(columns: Sequence[str] | None, latents: bool, found: pa.Schema) -> list[str]:
    """The columns to give back."""
    for name in columns or ():
        _check_column(name, found)
    chosen = list(columns) if columns is not None else [name for name in found.names if name not in _HEAVY]
    return [*chosen, "z"] if latents and "z" not in chosen else chosen


def _with(chosen: list[str], keys: list[SortKey]) -> list[str]:
    """The columns to read: those to give back, and those to sort by."""
    return list(dict.fromkeys([*chosen, *(name for name, _ in keys)]))


def _to_pandas(rows: pa.Table) -> pd.DataFrame:
    """As pandas; the rows of `z` are views of one array."""
    if "z" not in rows.column_names:
        frame: pd.DataFrame = rows.to_pandas()
        return frame
    flat = pc.list_flatten(rows.column("z")).to_numpy()
    ends = np.cumsum(pc.list_value_length(rows.column("z")).to_numpy())
    latents = [flat[first:last] for first, last in pairwise([0, *ends.tolist()])]
    frame = rows.drop_columns(["z"]).to_pandas()
    frame.insert(rows.column_names.index("z"), "z", pd.Series(latents, index=frame.index, dtype=object))
    return frame


# --- the language -----------------------------------------------------------------------------------------------------
def _check_column(name: str, found: pa.Schema) -> None:
    if name not in found.names:
        near = difflib.get_close_matches(name, found.names, n=3, cutoff=0.4)
        hint = f"nearest: {', '.join(near)}" if near else f"there are: {', '.join(found.names)}"
        raise ParamsError(f"no column {name!r} in the catalog; {hint}")


SortKey = tuple[str, Literal["ascending", "descending"]]


def _sort_keys(sort: str | None, found: pa.Schema) -> list[SortKey]:
    """Columns and directions, `sample_id` last for the ties."""
    if sort is None:
        return []
    keys: list[SortKey] = []
    for item in (word.strip() for word in sort.split(",")):
        name = item.removeprefix("-")
        _check_column(name, found)
        if _kind(found.field(name).type) is None:
            raise ParamsError(f"sort {item!r}: column {name!r} holds {found.field(name).type}, which has no order")
        keys.append((name, "descending" if item.startswith("-") else "ascending"))
    return [*keys, ("sample_id", "ascending")]


def _kind(kind: pa.DataType) -> str | None:
    """What values of a type compare as: `number`, `text`, or None where they have no order."""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    return "text" if pa.types.is_string(kind) else None


@dataclass(frozen=True)
class _Value:
    """One side of a comparison: an Arrow expression and what it gives; `literal` where it was written out."""

    expression: pc.Expression
    type: pa.DataType
    literal: Any = None


_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_NESTING = 50  # of a filter: beyond it Python's own recursion limit comes near


def _compile(where: str | None, found: pa.Schema) -> pc.Expression | None:
    """A filter as an Arrow expression."""
    if where is None or not where.strip():
        return None
    try:
        tree = ast.parse(where.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ParamsError(f"where {where!r:.200}: not understood ({error}); write e.g. {_EXAMPLE}") from None
    return _Compiler(where, found).condition(tree.body, 0)


_EXAMPLE = "\"polyphony > 2 and key == 'G major'\""


class _Compiler:
    """Turns the syntax tree of one filter into an Arrow expression; only what is named here is let through."""

    def __init__(self, where: str, found: pa.Schema) -> None:
        self._where = where
        self._found = found

    def condition(self, node: ast.expr, depth: int) -> pc.Expression:
        """Something that holds or does not."""
        if depth > _NESTING:
            raise self._refused(f"nested more than {_NESTING} deep")
        match node:
            case ast.BoolOp(op=ast.And(), values=values):
                return _fold(operator.and_, [self.condition(value, depth + 1) for value in values])
            case ast.BoolOp(op=ast.Or(), values=values):
                return _fold(operator.or_, [self.condition(value, depth + 1) for value in values])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self.condition(operand, depth + 1)
            case ast.Compare(left=left, ops=ops, comparators=rights):
                sides = [left, *rights]
                pairs = zip(sides[:-1], ops, sides[1:], strict=True)
                return _fold(operator.and_, [self._comparison(a, op, b, depth + 1) for a, op, b in pairs])
            case ast.Name(id=name):
                _check_column(name, self._found)
        raise self._refused(f"{ast.unparse(node)!r:.80} is no comparison")

    def _comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr, depth: int) -> pc.Expression:
        if isinstance(op, ast.Is | ast.IsNot):
            return self._missing(left, op, right, depth)
        if isinstance(op, ast.In | ast.NotIn):
            return self._membership(left, op, right, depth)
        if any(isinstance(side, ast.Constant) and side.value is None for side in (left, right)):
            raise self._refused("a missing value is found with `is None`")
        a, b = self._value(left, depth), self._value(right, depth)
        if _kind(a.type) != _kind(b.type):
            raise self._refused(
                f"{ast.unparse(left)} is {_kind(a.type)} and {ast.unparse(right)} is {_kind(b.type)}: not comparable"
            )
        result: pc.Expression = _COMPARE[type(op)](_as(a, b.type), _as(b, a.type))
        return result

    def _missing(self, left: ast.expr, op: ast.cmpop, right: ast.expr, depth: int) -> pc.Expression:
        if not (isinstance(right, ast.Constant) and right.value is None):
            raise self._refused("`is` goes with None only")
        missing = self._value(left, depth).expression.is_null()
        return missing if isinstance(op, ast.Is) else ~missing

    def _membership(self, left: ast.expr, op: ast.cmpop, right: ast.expr, depth: int) -> pc.Expression:
        if not isinstance(right, ast.Tuple | ast.List | ast.Set) or not right.elts:
            raise self._refused("`in` needs a list: job in ('a', 'b')")
        found = _fold(operator.or_, [self._comparison(left, ast.Eq(), item, depth) for item in right.elts])
        return found if isinstance(op, ast.In) else ~found

    def _value(self, node: ast.expr, depth: int) -> _Value:
        """A column, a number, a text, or a sum of them."""
        if depth > _NESTING:
            raise self._refused(f"nested more than {_NESTING} deep")
        match node:
            case ast.Name(id=name):
                return self._column(name)
            case ast.Constant(value=str() as text):
                return _Value(pc.scalar(text), pa.string(), text)
            case ast.Constant(value=bool()):
                pass
            case ast.Constant(value=int() as number) if abs(number) < 2**63:
                return _Value(pc.scalar(number), pa.int64(), number)
            case ast.Constant(value=float() as number):
                return _Value(pc.scalar(number), pa.float64(), number)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self._arithmetic(ast.Sub(), ast.Constant(0), operand, depth + 1)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return self._arithmetic(op, left, right, depth + 1)
        raise self._refused(f"{ast.unparse(node)!r:.80} is neither a column nor a value")

    def _column(self, name: str) -> _Value:
        _check_column(name, self._found)
        kind = self._found.field(name).type
        if _kind(kind) is None:
            raise self._refused(f"column {name!r} holds {kind}, which cannot be compared")
        return _Value(pc.field(name), kind)

    def _arithmetic(self, op: ast.operator, left: ast.expr, right: ast.expr, depth: int) -> _Value:
        a, b = self._value(left, depth), self._value(right, depth)
        if {_kind(a.type), _kind(b.type)} != {"number"}:
            raise self._refused(f"{ast.unparse(left)!r:.40} and {ast.unparse(right)!r:.40} are not both numbers")
        compute = _ARITHMETIC[type(op)]
        if a.literal is not None and b.literal is not None:
            try:
                return self._value(ast.Constant(compute(a.literal, b.literal)), depth)
            except (ZeroDivisionError, OverflowError):
                raise self._refused(f"{ast.unparse(left)} and {ast.unparse(right)}: no such number") from None
        wide = pa.float64()  # integers would divide as integers
        return _Value(compute(a.expression.cast(wide), b.expression.cast(wide)), wide)

    def _refused(self, reason: str) -> ParamsError:
        return ParamsError(f"where {self._where!r:.200}: {reason}; write e.g. {_EXAMPLE}")


def _fold(combine: Callable[[Any, Any], Any], parts: list[pc.Expression]) -> pc.Expression:
    """a, b, c -> (a & b) & c."""
    result = parts[0]
    for part in parts[1:]:
        result = combine(result, part)
    return result


def _as(value: _Value, other: pa.DataType) -> pc.Expression:
    """A written number in the type of the 32-bit column it is compared with: 0.9 finds what was stored as 0.9."""
    if value.literal is not None and pa.types.is_float32(other):
        return pc.scalar(float(value.literal)).cast(pa.float32())
    return value.expression


# --- files ------------------------------------------------------------------------------------------------------------
def midi_bytes(folder: Path, sample_ids: Sequence[str]) -> dict[str, bytes]:
    """The MIDI files of some samples.

    Raises:
        ParamsError: one of them is no `sample_id`.
        InputError: there is no catalog, or it has no such sample.
    """
    for name in sample_ids:
        if _SAMPLE_ID.fullmatch(name) is None:
            raise ParamsError(
                f"{name!r:.80}: neither a MIDI file (.mid) nor a sample_id such as sample-0000012; `midivae catalog` "
                "lists them"
            )
    mine = pc.field("sample_id").isin(pa.array(list(sample_ids), pa.string()))
    rows = tables.scan(_files(folder), schema.CATALOG, ["sample_id", "midi"], mine).to_pylist()
    found = {row["sample_id"]: row["midi"]["bytes"] for row in rows}
    missing = [name for name in sample_ids if name not in found]
    if missing:
        raise InputError(f"{folder}: no sample {missing[0]!r} in the catalog; `midivae catalog` lists them")
    return found


# --- export -----------------------------------------------------------------------------------------------------------
def export(folder: Path, rows: pd.DataFrame, target: Path) -> int:
    """Writes the samples in `rows` (from `query`) as `<sample_id>.mid`, and the rows as `catalog.csv`.

    Names come from `sample_id` alone, once it has the form of one: nothing is written outside `target`.

    Returns:
        How many .mid files were written.

    Raises:
        ParamsError: `rows` has no `sample_id`, or `target` is a file.
        CorruptError: a sample has an id that no job gives, or is not in the catalog.
    """
    if "sample_id" not in rows:
        raise ParamsError(f"rows without the column `sample_id` (there are {list(rows.columns)}); query them with it")
    if target.exists() and not target.is_dir():
        raise ParamsError(f"{target}: is a file; name a folder to export to")
    wanted = [_checked_id(str(name)) for name in rows["sample_id"]]
    target.mkdir(parents=True, exist_ok=True)
    written = 0
    for file in _files(folder):
        mine = pc.field("sample_id").isin(pa.array(wanted, pa.string()))
        found = tables.scan([file], schema.CATALOG, ["sample_id", "midi"], mine)
        for row in found.to_pylist():
            write_bytes(target / f"{_checked_id(row['sample_id'])}.mid", row["midi"]["bytes"])
        written += len(found)
    if written != len(set(wanted)):
        raise CorruptError(
            f"{folder}: {len(set(wanted)) - written} of {len(set(wanted))} samples are not in the catalog"
        )
    write_bytes(target / _CSV, _csv(rows))
    return written


def _checked_id(name: str) -> str:
    if _SAMPLE_ID.fullmatch(name) is None:
        raise CorruptError(f"sample_id {name!r:.80}: not of the form <job>-<index>; rerun stage `generate`")
    return name


def _csv(rows: pd.DataFrame) -> bytes:
    """The rows as CSV: lists as JSON, and no text that a spreadsheet would take for a formula."""
    plain = rows.drop(columns="midi", errors="ignore")
    text = plain.apply(lambda column: column.map(_cell) if not pd.api.types.is_numeric_dtype(column) else column)
    data: bytes = text.to_csv(index=False, lineterminator="\n").encode()
    return data


def _cell(value: Any) -> Any:
    if isinstance(value, np.ndarray | list):
        return json.dumps(np.asarray(value).tolist())
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" else value
