"""What a config claims of its run's final metrics, and whether it holds: within, missed or inconclusive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from toolkit.run.experiment.common import Claim
from toolkit.run.experiment.errors import Complaint, Exit, fail, nearest, shown
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
    seeds: int = 1  # over which it is claimed
    met: int = 0  # runs that meet it by themselves

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
    claims: Mapping[str, Claim], metrics: Mapping[str, Any], seeds: Sequence[int] = (0,)
) -> list[Verdict]:
    """A verdict on each claim for one run, in the config's order.

    A claim over more seeds than the run has is inconclusive.

    Args:
        metrics: the final ones. In a run of several seeds each name has its seed behind it, `loss[3]`.
        seeds: those of the run.
    """
    return judge_runs(claims, by_seed(claims, metrics, seeds, len(seeds) > 1))


def by_seed(
    names: Iterable[str], metrics: Mapping[str, Any], seeds: Iterable[int], several: bool
) -> list[Mapping[str, Any]]:
    """The named metrics of each of these seeds of a run. `several`: the run has more than one."""
    if not several:
        return [metrics for _ in seeds]
    names = list(names)
    return [
        {name: metrics[key] for name in names if (key := f"{name}[{seed}]") in metrics}
        for seed in seeds
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


def from_record(claims: Any, where: object) -> dict[str, Claim]:
    """The claims of a resolved config. Raises: RunError (exit 3) that names `where` they are damaged."""
    try:
        return {name: Claim(**bounds) for name, bounds in claims.items()}
    except (AttributeError, TypeError, ValueError):  # pydantic's error is a ValueError
        expected = "those that `run` wrote"
        raise fail(Exit.CHECKPOINT, where, "damaged claims", shown(claims), expected) from None


def _verdict(name: str, claim: Claim, values: Sequence[Any]) -> Verdict:
    numbers = [value for value in values if isinstance(value, int | float)]
    made = Verdict(
        name, claim.bounds(), None, False, "missed", None, len(values), claim.seeds,
        sum(map(claim.holds, numbers)),
    )  # fmt: skip
    if not numbers or len(numbers) < len(values):
        return made
    found = estimate(numbers)
    assert found is not None  # there are numbers
    outcome: Outcome
    if claim.seeds == 1:
        outcome = "within" if made.met == len(numbers) else "missed"
    elif found.interval is None or len(numbers) < claim.seeds:
        outcome = "inconclusive"
    else:
        outcome = _outcome(claim, found.interval)
    return made._replace(
        value=found.mean, holds=outcome != "missed", outcome=outcome, interval=found.interval
    )


def _outcome(claim: Claim, spread: tuple[float, float]) -> Outcome:
    low, high = claim.interval()
    if low <= spread[0] and spread[1] <= high:
        return "within"
    return "missed" if spread[1] < low or high < spread[0] else "inconclusive"
