"""Arithmetic over the columns of a table, as text: read by an allow-list, so that an expression can compute and nothing else.

As ``log2((rna + 1) / (dna + 1))`` or ``where((score > 3) & ~(n < 10), 1, 0)``. ``&``, ``|`` and ``~`` bind tighter than
comparisons, as in Python, so comparisons stand in parentheses. A column whose name is no plain word is written
``col("fold change")``, or between backticks.
"""

import ast
import operator
import re
import unicodedata
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

MAX_LENGTH = 2000
"""Characters of an expression."""
MAX_DEPTH = 50
"""Nested operations of an expression."""
EXACT = 2.0**53
"""Whole numbers up to this one are exact in float64."""

OPERATORS: dict[type, Callable] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Pow: np.power,
    ast.BitAnd: np.logical_and, ast.BitOr: np.logical_or, ast.And: np.logical_and, ast.Or: np.logical_or,
    ast.Lt: np.less, ast.LtE: np.less_equal, ast.Gt: np.greater, ast.GtE: np.greater_equal, ast.Eq: np.equal, ast.NotEq: np.not_equal,
}  # fmt: skip
LOGICAL = (ast.BitAnd, ast.BitOr, ast.And, ast.Or)


def _fold(function: Callable) -> Callable:
    def of(*values: Any) -> Any:
        result = values[0]
        for value in values[1:]:
            result = function(result, value)
        return result

    return of


FUNCTIONS: dict[str, tuple[Callable, int, int]] = {
    "log": (np.log, 1, 1), "log2": (np.log2, 1, 1), "log10": (np.log10, 1, 1), "log1p": (np.log1p, 1, 1), "exp": (np.exp, 1, 1),
    "sqrt": (np.sqrt, 1, 1), "abs": (np.abs, 1, 1), "min": (_fold(np.minimum), 2, 20), "max": (_fold(np.maximum), 2, 20),
    "where": (np.where, 3, 3), "clip": (lambda x, low, high: np.minimum(np.maximum(x, low), high), 3, 3),
}  # fmt: skip
"""What may be called: the function, and the fewest and most arguments; all work row by row."""
WHOLE = {"abs", "min", "max", "where", "clip"}
"""Functions that give whole numbers of whole numbers."""
ALLOWED = (
    f"numbers, columns (col('name') where the name is no plain word), + - * / **, comparisons, & | ~, and {', '.join(FUNCTIONS)} "
    "of single rows"
)


def evaluate(expression: str, table: pd.DataFrame) -> np.ndarray:
    """The values of an expression, a row each.

    Parameters
    ----------
    expression
        Numbers, names of columns, ``+ - * / **``, comparisons, ``& | ~`` (or ``and``, ``or``, ``not``) and `FUNCTIONS`.
    table
        Columns that are used hold numbers or truth values; what is missing is NaN.

    Returns
    -------
    numpy.ndarray
        [rows]: ``bool`` of a comparison, ``int64`` where only whole columns and numbers are added, multiplied or chosen from,
        else ``float64``. All is computed in float64, so that no power of constants grows beyond infinity.

    Raises
    ------
    ValueError
        Where it is no such expression, names what is no column, or a column that it uses holds text: says which, and what is allowed.
    """
    if len(expression) > MAX_LENGTH:
        raise ValueError(f"it has {len(expression):,} characters; {MAX_LENGTH:,} are allowed")
    text = re.sub(r"""("[^"\n]*"|'[^'\n]*')|`([^`\n]+)`""", lambda m: m[1] or f"col({m[2]!r})", " ".join(expression.split()))
    try:
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):  # of "1if a else b", which is refused below
            tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise ValueError(f"it cannot be read ({reason}); allowed are {ALLOWED}") from None
    evaluation = _Evaluation(table)
    with np.errstate(all="ignore"):  # log(0) and 0 / 0 are what float64 makes of them; whoever asked counts them
        values = evaluation.of(tree.body)
    values = np.array(np.broadcast_to(values, len(table)))
    if values.dtype != bool and evaluation.whole and np.isfinite(values).all() and (np.abs(values) < EXACT).all():
        return values.astype(np.int64)
    return values


class _Evaluation:
    """One walk over a syntax tree; `whole` says whether all that was met so far keeps whole numbers whole."""

    def __init__(self, table: pd.DataFrame):
        self.table, self.whole, self.depth = table, True, 0

    def of(self, node: ast.AST) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} operations are nested in one another; split it into several columns")
        try:
            return self._of(node)
        finally:
            self.depth -= 1

    def _chain(self, node: ast.BinOp) -> Any:
        """Operations from left to right, as Python nests ``a + b - c`` to the left: one after the other, and no deeper than one."""
        chain: list[ast.BinOp] = []
        first: ast.AST = node
        while isinstance(first, ast.BinOp) and type(first.op) in OPERATORS:
            chain.append(first)
            first = first.left
        value, of = self.of(first), first
        for step in reversed(chain):
            self.whole &= not isinstance(step.op, ast.Div | ast.Pow)
            pair = zip((value, self.of(step.right)), (of, step.right), strict=True)
            numbers = [self._truth(v, p) if isinstance(step.op, LOGICAL) else _number(v) for v, p in pair]
            value, of = OPERATORS[type(step.op)](*numbers), step
        return value

    def _of(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return self._constant(node.value)
        if isinstance(node, ast.Name):
            return self._column(node.id)
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return self._chain(node)
        if isinstance(node, ast.BoolOp):
            return _fold(OPERATORS[type(node.op)])(*(self._truth(self.of(part), part) for part in node.values))
        if isinstance(node, ast.UnaryOp):
            return self._unary(node)
        if isinstance(node, ast.Compare) and all(type(o) in OPERATORS for o in node.ops):
            values = [_number(self.of(part)) for part in (node.left, *node.comparators)]
            pairs = zip(node.ops, values, values[1:], strict=False)
            return _fold(np.logical_and)(*(OPERATORS[type(o)](a, b) for o, a, b in pairs))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            return self._call(node.func.id, node.args)
        raise ValueError(f"{_written(node)} is not allowed; allowed are {ALLOWED}")

    def _constant(self, value: float) -> Any:
        self.whole &= isinstance(value, int)
        try:
            return np.bool_(value) if isinstance(value, bool) else np.float64(value)
        except OverflowError:
            raise ValueError(f"{value!s:.20}... is too large a number") from None

    def _unary(self, node: ast.UnaryOp) -> Any:
        value = self.of(node.operand)
        if isinstance(node.op, ast.Invert | ast.Not):
            return np.logical_not(self._truth(value, node.operand))
        return -_number(value) if isinstance(node.op, ast.USub) else _number(value)

    def _call(self, name: str, arguments: list[ast.expr]) -> Any:
        if name == "col":
            if len(arguments) == 1 and isinstance(arguments[0], ast.Constant) and isinstance(arguments[0].value, str):
                return self._column(arguments[0].value)
            raise ValueError('col takes the name of one column in quotes, as col("fold change")')
        if name not in FUNCTIONS:
            raise ValueError(f"{name} is no function; allowed are {ALLOWED}")
        function, fewest, most = FUNCTIONS[name]
        if not fewest <= len(arguments) <= most or any(isinstance(a, ast.Starred) for a in arguments):
            wanted = f"{fewest}" if fewest == most else f"{fewest} to {most}"
            raise ValueError(f"{name} takes {wanted} arguments, {len(arguments)} are given")
        self.whole &= name in WHOLE
        values = [self.of(a) for a in arguments]
        first = self._truth(values[0], arguments[0]) if name == "where" else _number(values[0])
        return function(first, *map(_number, values[1:]))

    def _truth(self, value: Any, node: ast.AST) -> Any:
        if value.dtype != bool:
            raise ValueError(
                f"{_written(node)} is a number where a comparison is needed; put comparisons in parentheses: (a > 1) & (b < 2)"
            )
        return value

    def _column(self, name: str) -> np.ndarray:
        names = {str(c): c for c in self.table.columns}
        matches = [name] if name in names else [c for c in names if unicodedata.normalize("NFKC", c) == name]  # as Python reads words
        if len(matches) != 1:
            raise ValueError(f"there is no column {name!r}; there are {', '.join(names)}")
        column = self.table[names[matches[0]]]
        if pd.api.types.is_bool_dtype(column.dtype) and not column.isna().any():
            return column.to_numpy(bool)
        numbers = pd.to_numeric(column, errors="coerce") if column.dtype.kind not in "biuf" else column
        if (bad := np.flatnonzero(numbers.isna() & column.notna())).size:
            row = int(bad[0])
            raise ValueError(f"column {name!r} holds {column.iloc[row]!r} in row {row + 2}, which is no number")
        self.whole &= numbers.dtype.kind in "biu" and not column.isna().any()
        return numbers.to_numpy(np.float64, na_value=np.nan)


def _written(node: ast.AST) -> str:
    """The beginning of an operation as text."""
    try:
        return f"{ast.unparse(node):.60}"
    except RecursionError:  # of hundreds of operations in one another
        return f"an expression of kind {type(node).__name__.lower()}"


def _number(value: Any) -> Any:
    """Truth values as 0 and 1, which numpy would otherwise add by `or`."""
    return value.astype(np.float64) if value.dtype == bool else value
