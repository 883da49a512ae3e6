"""Is a rule right? Derivative rules compared with each other, and with finite differences."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.flatten_util import ravel_pytree

from toolkit import tables, tree
from toolkit.errors.readable import readable, reason_of
from toolkit.solve.comparison_figure import Bars, drawn
from toolkit.solve.hypergradient import Outer, hypergradient, outer_value, require_inexact
from toolkit.solve.maps import SolutionMap, argmin
from toolkit.types import Adjoint, Issue, Solution, Tree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPEATS = 5  # timed calls; the median counts

_HEAD = ("rule", "value", "rel. error", "cosine", "ms", "temp KiB", "grads", "HVPs", "")


class Compared(NamedTuple):
    """One rule on one problem."""

    rule: str
    value: float  # the outer function
    gradient: Tree  # of numpy arrays; None where the rule failed
    relative_error: float  # ||gradient - first|| / ||first||, NaN where either is missing
    cosine: float  # with the first rule's gradient
    seconds: float  # of value and gradient, compiled; median
    temp_bytes: int  # that the compiled program allocates besides arguments and results
    gradient_evals: int
    hvp_evals: int
    status: int  # a `tk.Issue` bit mask
    reason: str  # why the rule failed, or the names of the bits; empty when all is well


class Comparison(NamedTuple):
    """Rules side by side; prints as a table, and is one in a notebook. The first rule is the one compared with."""

    compared: tuple[Compared, ...]

    def to_rows(self) -> list[dict[str, Any]]:
        """One dict a rule, keys as in `Compared`."""
        return [row._asdict() for row in self.compared]

    def __repr__(self) -> str:
        return tables.text(_HEAD, [_printed(row) for row in self.compared])

    def _repr_html_(self) -> str:
        return tables.page(_HEAD, [_printed(row) for row in self.compared])

    def plot(self) -> Figure:
        """Error, time and memory of each rule as bars: a matplotlib figure, which a notebook shows.

        To a file: `comparison.plot().savefig("rules.png")`.
        """
        return drawn({row.rule: _bars(row) for row in self.compared})


@readable
def compare_adjoints(
    fun: Callable[..., Any],
    outer: Outer,
    solver: Any,
    y0: Tree,
    theta: Tree,
    adjoints: Mapping[str, Adjoint],
    *,
    make: Callable[..., SolutionMap] = argmin,
) -> Comparison:
    """The same solve under several rules: values, gradients, errors, costs.

    Args:
      fun, solver: as in `tk.argmin`.
      outer: `outer(y, theta) -> real scalar`.
      adjoints: rules by name; the first is the one that the others are compared with.
      make: `tk.argmin`, `tk.root` or `tk.fixed_point`.

    Returns: a row a rule, in order. A rule that fails has NaN numbers and its reason.

    Raises:
      ValueError: `adjoints` is no dict, or empty.
      TypeError: `y0` or `theta` is traced.

    Cost: two compilations and 6 hypergradients a rule. Seconds are of this process, now: compare
    them with each other, on a quiet machine.
    """
    if not isinstance(adjoints, Mapping) or not adjoints:
        raise ValueError(
            '`adjoints` must be a dict of rules by name, such as {"implicit": Implicit(), "unroll": '
            f"Unroll()}}: got {adjoints!r}."
        )
    _require_numbers("compare_adjoints", y0, theta)
    rows: list[Compared] = []
    reference = None
    for name, adjoint in adjoints.items():
        try:
            row = _measured(name, outer, make(fun, solver, adjoint=adjoint), y0, theta)
        except Exception as error:  # whatever a rule refuses belongs in its row
            rows.append(_failed(name, reason_of(error)))
            continue
        flat = np.asarray(ravel_pytree(tree.as_real(row.gradient))[0])
        reference = flat if reference is None else reference
        relative_error, cosine = _agreement(flat, reference)
        rows.append(row._replace(relative_error=relative_error, cosine=cosine))
    return Comparison(tuple(rows))


def _require_numbers(name: str, y0: Tree, theta: Tree) -> None:
    """Refuse to be traced: what is told is of numbers and of time."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((y0, theta))):
        raise TypeError(
            f"tk.{name} takes numbers and cannot be traced: got `y0` or `theta` inside jax.jit, jax.grad, jax.vmap "
            "or another transformation; call it outside."
        )


def _measured(name: str, outer: Outer, solve: SolutionMap, y0: Tree, theta: Tree) -> Compared:
    y, parts = tree.parts(y0), tree.parts(theta)

    def differentiate(y_inexact: Tree, inexact: Tree) -> Any:
        hg = hypergradient(outer, solve)(
            tree.whole(y_inexact, y.arrays, y.static), tree.whole(inexact, *parts[1:])
        )
        return hg.value, hg.gradient, hg.report

    arguments = (y.inexact, parts.inexact)
    # Time and memory are those of value and gradient alone: fields of the report cost extra when used.
    lean = jax.jit(lambda *args: differentiate(*args)[:2]).lower(*arguments).compile()
    value, gradient, report = jax.device_get(jax.jit(differentiate)(*arguments))
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(lean(*arguments))
        seconds.append(time.perf_counter() - began)
    memory = lean.memory_analysis()
    status = Issue(int(report.status))
    return Compared(
        name,
        float(value),
        gradient,
        math.nan,
        math.nan,
        float(np.median(seconds)),
        int(memory.temp_size_in_bytes) if memory else -1,
        int(report.gradient_evals),
        int(report.hvp_evals),
        int(status),
        ", ".join(bit.name or "" for bit in status),
    )


def _failed(name: str, reason: str) -> Compared:
    nan = math.nan
    return Compared(name, nan, None, nan, nan, nan, 0, 0, 0, 0, reason)


def _agreement(flat: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """(relative error, cosine)."""
    size, expected = float(np.linalg.norm(flat)), float(np.linalg.norm(reference))
    gap = float(np.linalg.norm(flat - reference))
    relative_error = gap / expected if expected else (0.0 if gap == 0 else math.inf)
    cosine = float(flat @ reference) / (size * expected) if size and expected else math.nan
    return relative_error, cosine


def _bars(row: Compared) -> Bars:
    if row.gradient is None:
        return Bars(math.nan, math.nan, math.nan, row.reason)
    return Bars(row.relative_error, 1e3 * row.seconds, row.temp_bytes / 1024, "")


def _printed(row: Compared) -> tuple[str, ...]:
    if row.gradient is None:
        return (row.rule, *["-"] * 7, row.reason)
    return (
        row.rule,
        f"{row.value:.6g}",
        f"{row.relative_error:.1e}",
        f"{row.cosine:.6f}",
        f"{1e3 * row.seconds:.3g}",
        f"{row.temp_bytes / 1024:,.0f}",
        str(row.gradient_evals),
        str(row.hvp_evals),
        row.reason,
    )


@readable
def check_hypergradient(
    outer: Outer,
    solve: Callable[..., Solution],
    y0: Tree,
    theta: Tree,
    rtol: float = 1e-3,
    *,
    directions: int = 3,
    key: Array | None = None,
) -> None:
    """Compare the hypergradient with central differences along random directions.

    The difference quotient is that of the computed value `outer(solve(y0, theta).value, theta)`,
    so it judges the rule together with the steps that were made: an implicit rule fails here where
    the solve did not converge, an unrolled one does not.

    Args:
      outer: `outer(y, theta) -> real scalar`.
      solve: `(y0, theta) -> tk.Solution`, differentiable in reverse mode.
      rtol: relative to the larger of the two derivatives along a direction.
      directions: how many, Gaussian, of unit 2-norm.
      key: of the directions; `jax.random.key(0)` when not given.

    Raises:
      AssertionError: naming the derivative along the direction, the difference quotient, and the
        quotient's own uncertainty (from its steps), which excuses a difference up to its size.
      TypeError: `y0` or `theta` is traced.

    Cost: one hypergradient and 12 solves a direction; float32 leaves about 3 digits to compare.
    """
    _require_numbers("check_hypergradient", y0, theta)
    require_inexact(theta)
    if isinstance(directions, bool) or not isinstance(directions, Integral) or directions < 1:
        raise ValueError(f"`directions` must be a positive int: got {directions!r}.")
    if not (isinstance(rtol, Real) and 0 <= rtol < 1):
        raise ValueError(f"`rtol` must be a number in [0, 1): got {rtol!r}.")
    parts = tree.parts(theta)
    if not tree.size(parts.inexact):
        raise ValueError(f"`theta` must have an entry to vary: got {tree.describe(theta)}.")

    def composed(inexact: Tree) -> Array:
        whole = tree.whole(inexact, parts.arrays, parts.static)
        return outer_value(outer, solve(y0, whole).value, whole)

    # Differences need a step well above rounding, so the coarsest floating type decides its size.
    floats = jax.tree.leaves((parts.inexact, tree.parts(y0).inexact))
    eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in floats)
    gradient = jax.jit(jax.grad(composed))(parts.inexact)
    value = jax.jit(composed)
    key = jax.random.key(0) if key is None else key
    for number, direction_key in enumerate(jax.random.split(key, directions)):
        direction = optax.tree.random_like(direction_key, parts.inexact)
        direction = optax.tree.scale(1 / tree.norm(direction), direction)
        along = float(jnp.real(sum(map(_pair, *map(jax.tree.leaves, (gradient, direction))))))
        quotient, uncertainty = _difference_quotient(value, parts.inexact, direction, eps)
        _judge(number, along, quotient, uncertainty, rtol)


def _judge(number: int, along: float, quotient: float, uncertainty: float, rtol: float) -> None:
    """Whether the rule's derivative along one direction is that of the differences, as far as they tell."""
    largest = max(abs(along), abs(quotient))
    allowed = rtol * largest + uncertainty
    # `not <=` in place of `>`, because a comparison with NaN is false and must fail here. An
    # infinite gradient makes `allowed` infinite, and must not pass either.
    if not abs(along - quotient) <= allowed < math.inf:
        raise AssertionError(
            f"hypergradient differs from finite differences along direction {number}: the "
            f"rule gives {along:.10g}, central differences give {quotient:.10g} (uncertain by "
            f"{uncertainty:.1e}), rtol={rtol:g}; an unconverged solve under an implicit rule "
            "is the usual cause: look at hypergradient(...).report."
        )
    if uncertainty > 0.5 * largest:
        warnings.warn(
            f"check_hypergradient decides nothing along direction {number}: the derivative "
            f"{along:.3g} is within the uncertainty {uncertainty:.1e} of the differences; "
            "use float64, or an outer function of larger slope.",
            # The user's line: between it and here stand `check_hypergradient` and the wrapper of `readable`.
            stacklevel=4,
        )


def _pair(gradient: Array, direction: Array) -> Array:
    # For complex leaves the change is Re(sum gradient * direction), by JAX's convention without
    # conjugation.
    return jnp.sum(gradient * direction)


def _difference_quotient(
    value: Callable[[Tree], Array], at: Tree, direction: Tree, eps: float
) -> tuple[float, float]:
    """The central difference that agrees best with its neighbours over six steps, and how well."""
    scale = max(1.0, float(tree.norm(at)) / tree.size(at) ** 0.5)
    # The error of a central difference is of the order h^2 + eps / h, least near h = eps^(1/3). The factors
    # depend on the function, so steps on both sides of that are tried.
    steps = [scale * eps ** (1 / 3) * 4.0**k for k in range(-2, 4)]
    quotients, rounding = [], []
    for h in steps:
        forward, backward = (
            float(value(optax.tree.add_scale(at, signed, direction))) for signed in (h, -h)
        )
        quotients.append((forward - backward) / (2 * h))
        rounding.append(eps * (abs(forward) + abs(backward)) / h)
    # Two neighbours may agree by chance, although both are mostly rounding. So the rounding of each is
    # added to their difference.
    doubts = [abs(a - b) + r for a, b, r in zip(quotients, quotients[1:], rounding, strict=False)]
    best = min(range(len(doubts)), key=lambda i: math.inf if math.isnan(doubts[i]) else doubts[i])
    return quotients[best], doubts[best]
