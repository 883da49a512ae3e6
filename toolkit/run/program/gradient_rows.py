"""Reports of gradients as they stand in a row of metrics.jsonl, leaf by leaf."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def by_leaf(reports: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Reports as JSON: numbers by the leaf's name; null for a ratio that is not given or not finite."""
    found = {}
    for name, report in reports.items():
        for row in report.to_rows():
            path = row.pop("path")
            found[f"{name}{path}"] = {
                key: value if math.isfinite(value) else None for key, value in row.items()
            }
    return found
