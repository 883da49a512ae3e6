"""Numbers, times and settings as people read them, in a terminal and in reports."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def duration(seconds: float) -> str:
    """`3.2 s`, `4 min 10 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def number(value: float) -> str:
    """Four significant digits; whole numbers whole."""
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def setting(value: Any) -> str:
    """A setting as the config writes it: `null`, `true`, `0.1`."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def two_columns(rows: Iterable[tuple[str, str]]) -> str:
    """Rows (name, value), the values aligned below each other."""
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)
