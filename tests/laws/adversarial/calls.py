"""What the tables of hostile calls are made of.

A row names a call in which one thing is hostile, and says what must come of it: a right value, a
status, or an error that names the argument. A new trap is one more row in the table of its theme.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.adjoint import (
    Forward,
    Implicit,
    Nudged,
    OneStep,
    Reversible,
    Stopped,
    Truncated,
    Unroll,
)
from toolkit.linear import CG, GMRES, BiCGStab, Neumann, Nystrom
from toolkit.solver import FixedPointIteration, GradientDescent, Newton
from toolkit.types import Issue, Status

NAN, INF = float("nan"), float("inf")


class Right(NamedTuple):
    """The gradient (or the solution) is this, and nothing is flagged."""

    value: Any
    rtol: float = 1e-6
    flags: bool = False  # whether flags are allowed beside the right value


class Flagged(NamedTuple):
    """These bits of the status are set."""

    bits: Status | Issue
    nan: bool = False  # whether the value must hold NaN or Inf, because NaN or Inf went in


class Refused(NamedTuple):
    """An error of this type, whose message is one line: the argument, what came, what to do."""

    match: str
    error: type[Exception] = ValueError


@dataclass(frozen=True)
class Row:
    """A hostile call, and what must come of it."""

    name: str
    program: Callable[[], Any]
    expected: Right | Flagged | Refused
    slow: bool = False  # repeats another row under a further rule: half a second, to compile


def each(rows: Iterable[Row]) -> pytest.MarkDecorator:
    """The test below runs once for each row, and is called like it."""
    rows = list(rows)
    twice = [name for name, count in Counter(row.name for row in rows).items() if count > 1]
    assert not twice, f"two rows of a table bear one name: {twice}"
    marks = {True: [pytest.mark.slow], False: []}
    return pytest.mark.parametrize(
        "row", [pytest.param(row, id=row.name, marks=marks[row.slow]) for row in rows]
    )


# --------------------------------------------------------------------- the calls that rows vary

H = np.asarray([[2.0, 0.5], [0.5, 1.0]])
Y0, THETA = np.zeros(2), np.asarray([1.0, -1.0])
DESCENT, NEWTON, PICARD = GradientDescent(0.4, 80), Newton(20, 1e-10), FixedPointIteration(80, 1e-9)
SOLUTION = np.linalg.solve(H, THETA)
GRADIENT = 2 * np.linalg.solve(H, SOLUTION)  # of |y|^2 at y = H^-1 theta
# One rule of each kind of code; the kinds of linear solver come after.
KINDS = {
    "implicit": Implicit(),
    "unroll": Unroll(),
    "forward": Forward(),
    "truncated": Truncated(60),
    "one_step": OneStep(),
    "reversible": Reversible(),
    "nudged": Nudged(0.1),
    "stopped": Stopped(),
}
RULES = KINDS | {
    "implicit_cg": Implicit(CG(50, 1e-10)),
    "implicit_gmres": Implicit(GMRES(50, 1e-10)),
    "implicit_bicgstab": Implicit(BiCGStab(50, 1e-10)),
    "implicit_neumann": Implicit(Neumann(100)),
    "implicit_nystrom": Implicit(Nystrom(2, 1e-9)),
}


def quadratic(y: Any, theta: Any) -> jax.Array:
    return 0.5 * y @ (H.astype(y.dtype) @ y) - y @ theta


def square(y: Any, theta: Any) -> jax.Array:
    return jnp.sum(y**2)


def total(y: Any, theta: Any) -> jax.Array:
    return jnp.sum(y)


def halved(y: Any, theta: Any) -> jax.Array:
    return 0.5 * y + theta


def weighted(y: Any, theta: Any, x: Any) -> jax.Array:
    """An objective whose steps take an input each."""
    return jax.tree.leaves(x)[0] * quadratic(y, theta)


def f16(array: Any) -> jax.Array:
    return jnp.asarray(array, jnp.float16)


def bf16(array: Any) -> jax.Array:
    return jnp.asarray(array, jnp.bfloat16)


def f32(array: Any) -> jax.Array:
    return jnp.asarray(array, jnp.float32)


class Gradient(NamedTuple):
    """What is looked at of a hypergradient: compiling the rest would take as long again."""

    value: Any
    gradient: Any
    status: Any


def hyper(
    fun: Any = quadratic,
    solver: Any = DESCENT,
    y0: Any = Y0,
    theta: Any = THETA,
    outer: Any = square,
    make: Any = tk.argmin,
    xs: Any = None,
    v0: Any = None,
    **settings: Any,
) -> Callable[[], Gradient]:
    """A call for a hypergradient; one argument in it is hostile."""

    def run() -> Gradient:
        hg = tk.hypergradient(outer, make(fun, solver, **settings))(y0, theta, xs, v0)
        return Gradient(hg.value, hg.gradient, hg.report.status)

    return _compiled(run)


def value(
    fun: Any = quadratic,
    solver: Any = DESCENT,
    y0: Any = Y0,
    theta: Any = THETA,
    make: Any = tk.argmin,
    xs: Any = None,
    **settings: Any,
) -> Callable[[], tk.Solution]:
    """A call for a solution."""
    return _compiled(lambda: make(fun, solver, **settings)(y0, theta, xs))


def linear(solver: Any, matrix: Any, b: Any, x0: Any = None) -> Callable[[], Any]:
    """A linear solve."""
    return _compiled(lambda b: solver(lambda v: jnp.asarray(matrix, v.dtype) @ v, b, x0), b)


def _compiled(run: Callable, *args: Any) -> Callable[[], Any]:
    # Without XLA's optimisation: it takes longer than these programs run.
    fast = {"xla_backend_optimization_level": 0}
    return lambda: jax.jit(run, compiler_options=fast)(*args)


# --------------------------------------------------------------------- what must come of a row


def check(row: Row) -> None:
    """Run a row's program, and hold what comes of it against what is expected."""
    expected = row.expected
    if isinstance(expected, Refused):
        with pytest.raises(expected.error, match=expected.match) as caught:
            row.program()
        assert "\n" not in str(caught.value)
        return
    result = row.program()
    if isinstance(expected, Right):
        _check_value(_made_by(result), expected)
        assert expected.flags or _said_by(result) == 0, _said_by(result)
    else:
        _check_flags(result, expected)


def _check_value(made: Any, expected: Right) -> None:
    if isinstance(expected.value, tuple):
        assert jax.tree.structure(made) == jax.tree.structure(expected.value)
    for got, wanted in zip(
        jax.tree.leaves(made),
        jax.tree.leaves(expected.value, is_leaf=lambda v: isinstance(v, list)),
        strict=True,
    ):
        atol = 1e-9 if not np.any(wanted) else 0.0
        np.testing.assert_allclose(np.asarray(got, float), wanted, expected.rtol, atol)


def _check_flags(result: Any, expected: Flagged) -> None:
    said = _said_by(result)
    # Issues add up; a solve or a linear solve has one status.
    assert (said & expected.bits if isinstance(said, Issue) else said) == expected.bits, said
    if expected.nan:
        shown = result.value if isinstance(result, Gradient) else _made_by(result)
        assert any(np.any(~np.isfinite(np.asarray(leaf, float))) for leaf in jax.tree.leaves(shown))


def _made_by(result: Any) -> Any:
    """What a user would go on with: the gradient, the solution, or the array."""
    if isinstance(result, Gradient):
        return result.gradient
    if isinstance(result, tk.Solution):
        return result.value
    return result[0] if isinstance(result, tuple) else result


def _said_by(result: Any) -> Status | Issue:
    """The status that comes with it; an array alone says nothing."""
    if isinstance(result, Gradient):
        return Issue(int(result.status))
    if isinstance(result, tk.Solution):
        return Status(int(result.info.status))
    return Status(int(result[1].status)) if isinstance(result, tuple) else Status.CONVERGED
