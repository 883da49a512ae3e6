"""Tables of the comparison page, which its script can sort."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from toolkit.run.report.page import tabular


class Cell(NamedTuple):
    """A cell of a table: what it shows (HTML) and what it is sorted by."""

    html: str
    value: str | None = None  # None: its text
    css: str = ""


def table(
    heads: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]], numbers: int, name: str = ""
) -> str:
    """A sortable table.

    Args:
        rows: for each row its HTML attributes and its cells; the first cell is the head of the row.
        numbers: the columns from this index on are aligned right.
        name: id of the table, for the page's script; none if empty.
    """
    top = "".join(
        f"<th{' class=number' if column >= numbers else ''}>{escape(head)}</th>"
        for column, head in enumerate(heads)
    )
    lines = []
    for attributes, cells in rows:
        first, *rest = cells
        line = f'<th scope="row"{_sorted_by(first)}>{first.html}</th>'
        line += "".join(
            f"<td{f' class={each.css}' if each.css else ''}{_sorted_by(each)}>{each.html}</td>"
            for each in rest
        )
        lines.append(f"<tr {attributes}>{line}</tr>")
    identity = f' id="{name}"' if name else ""
    drawn = f'<table class="sortable sticky"{identity}><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<div class="scroll">{drawn}</div>'


def _sorted_by(cell: Cell) -> str:
    return "" if cell.value is None else f' data-value="{escape(cell.value, quote=True)}"'


def cell(words: str) -> Cell:
    return Cell(escape(words))


def measured(value: float | None) -> Cell:
    return Cell(tabular(value), "" if value is None else repr(value), "number")
