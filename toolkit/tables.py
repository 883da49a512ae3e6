"""A result as a table: text where it is printed, HTML where a notebook shows it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

Row = Sequence[str]
_LISTED = 4  # numbers of an array that are written out


def text(head: Row, rows: Sequence[Row]) -> str:
    """Columns under their names; the first one, and those without a name, start at the left."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if _is_text(i, head) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def page(head: Row, rows: Sequence[Row]) -> str:
    """The same as HTML, in the colours of the page around it; a wide one can be scrolled.

    A single name in `head` stands over all columns, which are then of words.
    """
    title = len(head) == 1

    def line(cells: Row, tag: str) -> str:
        span = f' colspan="{len(rows[0])}"' if title and tag == "th" and rows else ""
        sides = ("left" if title or _is_text(i, head) else "right" for i in range(len(cells)))
        return "".join(
            f'<{tag}{span} style="text-align: {side}">{html.escape(cell)}</{tag}>'
            for cell, side in zip(cells, sides, strict=True)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return (
        '<div style="overflow-x: auto"><table>'
        f"<thead><tr>{line(head, 'th')}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def cell(value: Any) -> str:
    """A number in few digits, a few in brackets; of more the type, shape and range; "-" for None."""
    if value is None:
        return "-"
    if not is_known(value):
        return _kind(value)
    array = np.asarray(value)
    if not array.shape:
        return _number(array.item())
    if array.ndim == 1 and array.size <= _LISTED:
        return f"[{', '.join(map(_number, array.tolist()))}]"
    kind = f"{array.dtype}[{','.join(map(str, array.shape))}]"
    if not array.size or np.iscomplexobj(array):
        return kind
    return f"{kind} {_number(array.min().item())} to {_number(array.max().item())}"


def is_known(value: Any) -> bool:
    """Whether `value` is a number, or an array of numbers that this process has."""
    if isinstance(value, int | float | complex):
        return True
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind not in "OSUMm"  # objects, text and dates
    if not isinstance(value, jax.Array) or isinstance(value, jax.core.Tracer):
        return False
    # Printing must not fail where an array was donated to a computation, or lies with other processes in part.
    there = not value.is_deleted() and (value.is_fully_addressable or value.is_fully_replicated)
    return there and not jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | complex) else str(value)


def _kind(value: Any) -> str:
    """What stands for an array that is not there: its type, as `float32[3]`, or the name of its class."""
    if not hasattr(value, "dtype"):
        return type(value).__name__
    return f"{value.dtype}[{','.join(map(str, value.shape))}]"


def _is_text(i: int, head: Row) -> bool:
    return i == 0 or not head[i]
