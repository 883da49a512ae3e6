"""The contestants of a bilevel problem, the same for each: through every step, and by the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import ways
from benchmarks.contest import Entry, Suite
from benchmarks.problems import Problem, by_transpose
from toolkit import adjoint, linear


def unrolled(
    title: str,
    says: str,
    problem: Callable[..., Problem],
    torch: Callable[[str], Entry],
    examples_last: Callable[[], Problem] | None = None,
) -> Suite:
    """A suite of gradients through every step; `says` ends before how they are made.

    `problem` takes a `product`; `torch` makes a contestant of the name of a way.
    """
    way, tight = _entries(problem), _entries(lambda: problem(product=by_transpose))
    last = {} if examples_last is None else _last(_entries(examples_last))
    entries = {
        "hand": way(ways.unrolled_by_hand),
        "limit": tight(ways.unrolled_limit),
        "toolkit Unroll()": way(ways.ours, adjoint.Unroll()),
        "toolkit Unroll() / limit": way(ways.ours, adjoint.Unroll(), against="limit"),
        'toolkit Unroll("sqrt")': way(ways.ours, adjoint.Unroll(checkpoint="sqrt")),
        **last,
        "hand, solve alone": way(ways.forward_solve),
        "toolkit, solve alone": way(ways.our_solve),
        "jaxopt": way(ways.jaxopt, False),
        "optimistix": way(ways.optimistix),
        "higher": torch("ways.higher"),
        "torchopt": torch("ways.torchopt"),
        "betty": torch("ways.betty"),
    }
    return Suite(title, f"{says}, through every step.", entries, exact="hand")


def _last(way: Callable[..., Entry]) -> dict[str, Entry]:
    return {
        "hand, examples last": way(ways.unrolled_by_hand),
        "toolkit Unroll(), examples last": way(ways.ours, adjoint.Unroll()),
    }


def implicit(
    title: str, says: str, problem: Callable[..., Problem], torch: Callable[[str], Entry]
) -> Suite:
    """A suite of implicit gradients with 20 steps of conjugate gradients."""
    way, tight = _entries(problem), _entries(lambda: problem(product=by_transpose))
    rule = adjoint.Implicit(linear.CG(ways.CG_STEPS, 0.0))
    entries = {
        "hand": way(ways.implicit_by_hand),
        "limit": tight(ways.implicit_limit),
        "toolkit Implicit(CG(20))": way(ways.ours, rule),
        "toolkit Implicit(CG(20)) / limit": way(ways.ours, rule, against="limit"),
        "jaxopt": way(ways.jaxopt, True),
        "torchopt": torch("ways.torchopt_implicit"),
        "betty": torch("ways.betty_implicit"),
    }
    made = "by the implicit function theorem and 20 steps of conjugate gradients"
    return Suite(title, f"{says}, {made}.", entries, exact="hand")


def neumann(title: str, says: str, problem: Callable[[], Problem]) -> Suite:
    """A suite of implicit gradients with 20 terms of the Neumann series, of the solver's step size."""
    way, rule = _entries(problem), adjoint.Implicit(linear.Neumann(ways.TERMS, ways.STEP_SIZE))
    entries = {
        "hand": way(ways.neumann_by_hand),
        "toolkit Implicit(Neumann(20))": way(ways.ours, rule),
    }
    made = "by the implicit function theorem and 20 terms of the Neumann series"
    return Suite(title, f"{says}, {made}.", entries, exact="hand")


def _entries(problem: Callable[[], Problem]) -> Callable[..., Entry]:
    def entry(way: Callable[..., Any], *settings: Any, against: str = "hand") -> Entry:
        def build() -> tuple[Any, tuple[Any, ...]]:
            p = problem()
            return way(p, *settings), (p.theta,)

        return Entry(build, against)

    return entry
