"""The bounds that a config puts on its run's final metrics, and whether they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from toolkit.run.errors import Problem, nearest
from toolkit.run.settings import Claim


class Verdict(NamedTuple):
    """A claim beside what came out."""

    name: str
    bounds: str  # "at least 0.9"
    value: float | None  # None where the run has no such metric
    holds: bool


def judge(claims: Mapping[str, Claim], metrics: Mapping[str, Any]) -> list[Verdict]:
    """A verdict a claim, in the config's order."""
    return [_verdict(name, claim, metrics.get(name)) for name, claim in claims.items()]


def missed(verdicts: list[Verdict], metrics: Mapping[str, Any], where: object) -> list[Problem]:
    """The claims that do not hold, as problems."""
    return [
        Problem(
            str(where),
            f"claim missed: {verdict.name}",
            "no such metric" if verdict.value is None else f"{verdict.value:.6g}",
            verdict.bounds,
            nearest(verdict.name, metrics) if verdict.value is None else None,
        )
        for verdict in verdicts
        if not verdict.holds
    ]


def from_record(claims: Mapping[str, Mapping[str, float]]) -> dict[str, Claim]:
    """The claims of a resolved config."""
    return {name: Claim(**bounds) for name, bounds in claims.items()}


def _verdict(name: str, claim: Claim, value: Any) -> Verdict:
    known = isinstance(value, int | float)
    return Verdict(name, claim.bounds(), value if known else None, known and claim.holds(value))
