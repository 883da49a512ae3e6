"""Durations as a config writes them: `90s`, `1h30m`, `2d`, `1.5h`."""

from __future__ import annotations

import re

UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
# At most nine digits each, because `float` turns hundreds of digits into infinity.
_DURATION = re.compile(
    "".join(rf"(?:(?P<{unit}>[0-9]{{1,9}}(?:[.][0-9]{{1,9}})?){unit})?" for unit in UNITS)
)


def seconds(text: str) -> float:
    """`90s`, `1h30m`, `2d`, `1.5h` in seconds. Raises: ValueError that says what is expected."""
    found = _DURATION.fullmatch(text)
    total = sum(float(n) * UNITS[u] for u, n in found.groupdict().items() if n) if found else 0.0
    if total <= 0:
        raise ValueError("a duration such as 90s, 1h30m or 2d")
    return total
