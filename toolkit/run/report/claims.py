"""What a config claims of its run's final metrics, and whether it holds: within, missed or inconclusive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from toolkit.run.experiment.common import Claim
from toolkit.run.experiment.errors import Complaint, nearest
from toolkit.run.program.means import estimate

Outcome = Literal["within", "missed", "inconclusive"]


class Verdict(NamedTuple):
    """A claim beside what came out."""

    name: str
    bounds: str  # "at least 0.9"
    value: float | None  # the mean over `runs` runs; None where a run has no such metric
    holds: bool  # it is not missed
    outcome: Outcome = "within"
    interval: tuple[float, float] | None = None  # of the mean, at 95 %; None for a single run
    runs: int = 1

    @property
    def word(self) -> str:
        """For a table: `met`, `missed`, `inconclusive (1 run)`."""
        if self.outcome == "inconclusive":
            return f"inconclusive ({self.runs} run{'s' if self.runs > 1 else ''})"
        return "met" if self.outcome == "within" else "missed"

    def line(self) -> str:
        """`loss: within, 0.31 in [0.29, 0.33] over 5 runs, claimed at most 0.4 over 5 seeds`."""
        got = "no such metric" if self.value is None else f"{self.value:.6g}"
        spread = "" if self.interval is None else " in [{:.6g}, {:.6g}]".format(*self.interval)
        runs = f" over {self.runs} run{'s' if self.runs > 1 else ''}"
        return f"{self.name}: {self.outcome}, {got}{spread}{runs}, claimed {self.bounds}"


def judge(
    claims: Mapping[str, Claim], metrics: Mapping[str, Any], first: int = 0, seeds: int = 1
) -> list[Verdict]:
    """A verdict on each claim for one run, in the config's order.

    A claim over more seeds than the run has is inconclusive.

    Args:
        metrics: the final ones. In a run of several seeds each name has its seed behind it, `loss[3]`.
        first: the first seed.
        seeds: how many seeds the run has.
    """
    return judge_runs(claims, by_seed(claims, metrics, first, seeds))


def by_seed(
    names: Iterable[str], metrics: Mapping[str, Any], first: int, seeds: int
) -> list[Mapping[str, Any]]:
    """The named metrics of each seed of a run."""
    if seeds == 1:
        return [metrics]
    names = list(names)
    return [
        {name: metrics[key] for name in names if (key := f"{name}[{seed}]") in metrics}
        for seed in range(first, first + seeds)
    ]


def judge_runs(claims: Mapping[str, Claim], runs: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """A verdict on each claim for the final metrics of runs that differ in their seed alone.

    A claim over several seeds is judged by the 95 % interval of the mean (Student's t). It is within, if the
    interval lies within the bounds, and missed, if it lies outside of them. If the interval crosses a bound,
    or there are fewer runs than the claim names, it is inconclusive. A claim on a single run is judged on
    each run, and missed if one of them misses it.
    """
    return [
        _verdict(name, claim, [run.get(name) for run in runs]) for name, claim in claims.items()
    ]


def missed(verdicts: list[Verdict], metrics: Mapping[str, Any], where: object) -> list[Complaint]:
    """The claims that do not hold, as problems."""
    return [
        Complaint(
            str(where),
            f"claim missed: {verdict.name}",
            "no such metric" if verdict.value is None else f"{verdict.value:.6g}",
            verdict.bounds,
            nearest(verdict.name, metrics) if verdict.value is None else None,
        )
        for verdict in verdicts
        if not verdict.holds
    ]


def from_record(claims: Mapping[str, Mapping[str, Any]]) -> dict[str, Claim]:
    """The claims of a resolved config."""
    return {name: Claim(**bounds) for name, bounds in claims.items()}


def _verdict(name: str, claim: Claim, values: Sequence[Any]) -> Verdict:
    bounds, count = claim.bounds(), len(values)
    numbers = [value for value in values if isinstance(value, int | float)]
    if not numbers or len(numbers) < count:
        return Verdict(name, bounds, None, False, "missed", None, count)
    found = estimate(numbers)
    assert found is not None  # there are numbers
    mean, spread = found.mean, found.interval
    if claim.seeds == 1:
        holds = all(map(claim.holds, numbers))
        return Verdict(name, bounds, mean, holds, "within" if holds else "missed", spread, count)
    outcome = _outcome(claim, spread) if spread and count >= claim.seeds else "inconclusive"
    return Verdict(name, bounds, mean, outcome != "missed", outcome, spread, count)


def _outcome(claim: Claim, spread: tuple[float, float]) -> Outcome:
    low, high = claim.interval()
    if low <= spread[0] and spread[1] <= high:
        return "within"
    return "missed" if spread[1] < low or high < spread[0] else "inconclusive"
