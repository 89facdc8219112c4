"""The language of filters and sorts.

A filter is written as in Python: `polyphony > 2 and key == 'G major'`, `job in ('sample', 'autoencoder')`,
`novelty is not None`, `4 < note_length <= 8 or not tempo_qpm / 2 < 50`. It is parsed, never executed, and handed to the
Parquet reader, which skips the files whose statistics rule it out. A missing value makes a comparison false, whichever
way it goes; only `is None` finds it. A number compared with a 32-bit column is rounded as the column was: `== 0.9`
finds what was written as 0.9.

A sort is a list of columns, `key,-novelty`: a minus for the largest first. Missing values come last, ties go by
`sample_id`.

Offers: `compile_filter`, `sort_keys`, `check_column`.
"""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from midivae.errors import ParamsError


def check_column(name: str, found: pa.Schema) -> None:
    """Raises ParamsError if the catalog has no such column; the message has names that are near."""
    if name not in found.names:
        near = difflib.get_close_matches(name, found.names, n=3, cutoff=0.4)
        hint = f"nearest: {', '.join(near)}" if near else f"there are: {', '.join(found.names)}"
        raise ParamsError(f"no column {name!r} in the catalog; {hint}")


SortKey = tuple[str, Literal["ascending", "descending"]]


def sort_keys(sort: str | None, found: pa.Schema) -> list[SortKey]:
    """Columns and directions, `sample_id` last for the ties."""
    if sort is None:
        return []
    keys: list[SortKey] = []
    for item in (word.strip() for word in sort.split(",")):
        name = item.removeprefix("-")
        check_column(name, found)
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


def compile_filter(where: str | None, found: pa.Schema) -> pc.Expression | None:
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
                check_column(name, self._found)
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
        check_column(name, self._found)
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
