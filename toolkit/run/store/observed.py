"""A run directory that another process of the same run holds and writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.run.store import directory


@dataclass(frozen=True)
class Observed:
    """As `directory.RunDirectory`, but nothing reaches the disk; what is updated is remembered here."""

    path: Path
    updated: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        return {**directory.read_record(self.path), **self.updated}

    def update(self, **changes: Any) -> dict[str, Any]:
        self.updated.update(changes)
        return self.record()

    def event(self, name: str, **fields: Any) -> None:
        """Process 0 tells it."""

    def warn(self, text: str) -> None:
        """Process 0 tells it."""
