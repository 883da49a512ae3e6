"""A catalogue of hostile calls: each ends in a right value, a status, or an error that names the argument.

A new trap is one row. `Right` has a closed form, `Flagged` the bits that must be set (and NaN in the
value where NaN went in), `Refused` a message of one line: the argument, what came, what to do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
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
from toolkit.linear import CG, GMRES, BiCGStab, Dense, Diagonal, Neumann, Nystrom
from toolkit.solver import (
    LBFGS,
    Anderson,
    FixedPointIteration,
    GradientDescent,
    Newton,
    Optax,
    ProjectedGradient,
    ProximalGradient,
)
from toolkit.types import Issue, Status

NAN, INF = float("nan"), float("inf")
FAST = {"xla_backend_optimization_level": 0}


class Right(NamedTuple):
    """The gradient (or solution) is this, and nothing is flagged."""

    value: Any
    rtol: float = 1e-6
    flags: bool = False  # whether flags are allowed beside the right value


class Flagged(NamedTuple):
    """These bits are set; `nan`: and the value is NaN."""

    bits: Status | Issue
    nan: bool = False


class Refused(NamedTuple):
    """An error of this type, in one line that matches."""

    match: str
    error: type[Exception] = ValueError


class Row(NamedTuple):
    call: Callable[[], Any]
    verdict: Right | Flagged | Refused


class Gradient(NamedTuple):
    """What is looked at of a hypergradient: compiling the rest would take as long again."""

    value: Any
    gradient: Any
    status: Any


# --------------------------------------------------------------------- the calls that rows vary

H = np.asarray([[2.0, 0.5], [0.5, 1.0]])
Y0, THETA = np.zeros(2), np.asarray([1.0, -1.0])
DESCENT, NEWTON, PICARD = GradientDescent(0.4, 80), Newton(20, 1e-10), FixedPointIteration(80, 1e-9)
GRADIENT = 2 * np.linalg.solve(H, np.linalg.solve(H, THETA))  # of |y|^2 at y = H^-1 theta
RULES = {
    "implicit": Implicit(),
    "implicit_cg": Implicit(CG(50, 1e-10)),
    "implicit_gmres": Implicit(GMRES(50, 1e-10)),
    "implicit_bicgstab": Implicit(BiCGStab(50, 1e-10)),
    "implicit_neumann": Implicit(Neumann(100)),
    "implicit_nystrom": Implicit(Nystrom(2, 1e-9)),
    "unroll": Unroll(),
    "forward": Forward(),
    "truncated": Truncated(60),
    "one_step": OneStep(),
    "reversible": Reversible(),
    "nudged": Nudged(0.1),
    "stopped": Stopped(),
}


def quadratic(y: Any, theta: Any) -> jax.Array:
    return 0.5 * y @ (H.astype(y.dtype) @ y) - y @ theta


def square(y: Any, theta: Any) -> jax.Array:
    return jnp.sum(y**2)


def total(y: Any, theta: Any) -> jax.Array:
    return jnp.sum(y)


def halved(y: Any, theta: Any) -> jax.Array:
    return 0.5 * y + theta


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
) -> Callable[[], Any]:
    """A hypergradient, one thing in it hostile; compiled at once, without optimisation."""

    def call() -> Any:
        hypergradient = tk.hypergradient(outer, make(fun, solver, **settings))

        def run() -> tuple:
            hg = hypergradient(y0, theta, xs, v0)
            return hg.value, hg.gradient, hg.report.status

        return Gradient(*jax.jit(run, compiler_options=FAST)())

    return call


def eager(call: Callable[[], Any]) -> Callable[[], Any]:
    """For what only Python sees: refused before anything is compiled."""
    return call


def value(
    fun: Any = quadratic,
    solver: Any = DESCENT,
    y0: Any = Y0,
    theta: Any = THETA,
    make: Any = tk.argmin,
    xs: Any = None,
    **settings: Any,
) -> Callable[[], Any]:
    """A solve."""
    solve = lambda: make(fun, solver, **settings)(y0, theta, xs)
    return lambda: jax.jit(solve, compiler_options=FAST)()


def linear(solver: Any, matrix: Any, b: Any, x0: Any = None) -> Callable[[], Any]:
    """A linear solve."""
    solve = lambda b: solver(lambda v: jnp.asarray(matrix, v.dtype) @ v, b, x0)
    return lambda: jax.jit(solve, compiler_options=FAST)(b)


def f16(array: Any) -> jax.Array:
    return jnp.asarray(array, jnp.float16)


def bf16(array: Any) -> jax.Array:
    return jnp.asarray(array, jnp.bfloat16)


def f32(array: Any) -> jax.Array:
    return jnp.asarray(array, jnp.float32)


def made_by(result: Any) -> Any:
    """What a user would go on with: the gradient, the solution, or the array."""
    if isinstance(result, Gradient):
        return result.gradient
    if isinstance(result, tk.Solution):
        return result.value
    return result[0] if isinstance(result, tuple) else result


def said_by(result: Any) -> Status | Issue:
    """The status that comes with it; an array alone says nothing."""
    if isinstance(result, Gradient):
        return Issue(int(result.status))
    if isinstance(result, tk.Solution):
        return Status(int(result.info.status))
    return Status(int(result[1].status)) if isinstance(result, tuple) else Status.CONVERGED


# ------------------------------------------------------------------------------------ the rows

ROWS: dict[str, Row] = {}

# NaN and Inf that come in: no rule turns them into numbers.
# One of each kind of code: the linear solvers have rows of their own.
ONE_OF_A_KIND = {name: RULES[name] for name in RULES if not name.startswith("implicit_")}
for name, rule in ONE_OF_A_KIND.items():
    nan = Flagged(Issue.NOT_FINITE, nan=True)
    ROWS[f"nan_in_y0_{name}"] = Row(hyper(y0=Y0 * NAN, adjoint=rule), nan)
for name in ("implicit", "unroll", "nudged"):
    rule, nan = RULES[name], Flagged(Issue.NOT_FINITE, nan=True)
    ROWS[f"inf_in_theta_{name}"] = Row(hyper(theta=THETA * INF, adjoint=rule), nan)
    closed = lambda y, theta: quadratic(y, theta) + jnp.sum(np.asarray([1.0, NAN]) * y)
    ROWS[f"nan_in_closed_over_data_{name}"] = Row(hyper(fun=closed, adjoint=rule), nan)
NOT_FINITE = Flagged(Status.NOT_FINITE, nan=True)
for name, solver in {
    "lbfgs": LBFGS(20, 1e-6),
    "newton": NEWTON,
    "adam": Optax(optax.adam(0.1), 20),
    "proximal": ProximalGradient(lambda y, theta, s: y, 0.4, 20, 1e-6),
    "projected": ProjectedGradient(lambda y, theta: jnp.clip(y, -1, 1), 0.4, 20, 1e-6),
}.items():
    ROWS[f"nan_in_theta_{name}"] = Row(value(solver=solver, theta=THETA * NAN), NOT_FINITE)
for name, solver in {"picard": PICARD, "anderson": Anderson(20, 1e-6), "newton": NEWTON}.items():
    call = value(halved, solver, theta=THETA * INF, make=tk.fixed_point)
    ROWS[f"inf_in_theta_of_a_map_{name}"] = Row(call, NOT_FINITE)
weighted = lambda y, theta, x: jax.tree.leaves(x)[0] * quadratic(y, theta)
ROWS |= {
    "nan_in_xs": Row(
        hyper(weighted, xs=np.where(np.arange(80) == 40, NAN, 1.0), adjoint=Unroll()),
        Flagged(Issue.NOT_FINITE, nan=True),
    ),
    "nan_in_outer": Row(
        hyper(outer=lambda y, theta: total(y, theta) + NAN), Flagged(Issue.NOT_FINITE, nan=True)
    ),
    "nan_in_damping": Row(hyper(adjoint=Implicit(damping=NAN)), Flagged(Issue.NOT_FINITE)),
    "nan_in_v0": Row(hyper(v0=Y0 * NAN, adjoint=Implicit(CG(50, 1e-9))), Flagged(Issue.NOT_FINITE)),
    "nan_from_prox": Row(
        value(solver=ProximalGradient(lambda y, theta, s: y * NAN, 0.1, 20, 1e-6)), NOT_FINITE
    ),
    "nan_in_momentum_array": Row(
        eager(lambda: GradientDescent(0.1, 3, np.asarray([0.1, NAN, 0.1]))),
        Refused(r"`momentum` must be a number, not NaN: got an entry nan"),
    ),
}

# Inf that arises on the way, also where the next step would be finite again.
ROWS |= {
    "overflow_of_an_expanding_map": Row(
        value(lambda y, t: y**2, FixedPointIteration(99, 1e-9), y0=Y0 + 2, make=tk.fixed_point),
        NOT_FINITE,
    ),
    "map_that_returns_from_infinity": Row(
        value(lambda y, t: 1 / y, FixedPointIteration(60, 1e-9), make=tk.fixed_point), NOT_FINITE
    ),
    "newton_on_a_function_without_root": Row(
        value(lambda y, t: y**2 + 1, NEWTON, y0=Y0 + 0.5, make=tk.root), Flagged(Status.STEP_LIMIT)
    ),
    "infinite_start_that_clipping_survives": Row(
        # 40 steps of 1 from 730: the gradient there is 1e299, and no scale for a tolerance.
        value(
            lambda y, t: jnp.sum(jnp.exp(y) - y),
            Optax(optax.chain(optax.clip(1.0), optax.sgd(1.0)), 40),
            y0=Y0 + 730,
        ),
        Flagged(Status.STEP_LIMIT),
    ),
    "unbounded_below": Row(
        hyper(lambda y, t: -jnp.sum(y**2 + t * y), LBFGS(30, 1e-6), y0=Y0 + 1),
        Flagged(Issue.INNER_NOT_CONVERGED | Issue.NEGATIVE_CURVATURE),
    ),
    "momentum_above_one": Row(
        value(solver=GradientDescent(0.1, 80, 1.5)), Flagged(Status.STEP_LIMIT)
    ),
    "momentum_of_one": Row(value(solver=GradientDescent(0.1, 80, 1.0)), Flagged(Status.STEP_LIMIT)),
    "momentum_above_one_reversible": Row(
        hyper(solver=GradientDescent(0.1, 30, 1.5), adjoint=Reversible()),
        Flagged(Issue.NOT_FINITE, nan=True),
    ),
    "momentum_of_zero_reversible": Row(
        hyper(solver=GradientDescent(0.4, 80, 0.0), adjoint=Reversible()), Right(GRADIENT)
    ),
    "huge_step_size": Row(value(solver=GradientDescent(1e200, 9)), NOT_FINITE),
}

# Sizes and types of leaves.
_pair = lambda y, theta: quadratic(y[0], theta) + jnp.sum(y[1] ** 2)
_first = lambda y, theta: square(y[0], theta)
for name in ("implicit", "unroll", "forward", "nudged"):
    rule = RULES[name]
    ROWS[f"no_entries_in_a_leaf_of_y0_{name}"] = Row(
        hyper(_pair, y0=(Y0, np.zeros((0, 3))), outer=_first, adjoint=rule), Right(GRADIENT)
    )
    ROWS[f"no_entries_in_theta_{name}"] = Row(
        hyper(lambda y, t: square(y - 1, t) + jnp.sum(t), theta=np.zeros(0), adjoint=rule),
        Right(np.zeros(0)),
    )
half = {"rtol": 2e-2, "flags": True}  # float16 has three digits, bfloat16 two or three
ROWS |= {
    "no_entries_in_y0": Row(
        hyper(lambda y, t: square(y, t) * jnp.sum(t), y0=np.zeros(0)), Right(np.zeros(2))
    ),
    "empty_tree_y0": Row(value(y0={}), Refused(r"`y0` must have a floating .* leaf .*got \{\}")),
    "empty_tree_theta": Row(hyper(theta=()), Refused(r"`theta` must have a floating .*got \(\)")),
    "none_theta": Row(hyper(theta=None), Refused(r"`theta` must have a floating .*got None")),
    "integer_theta": Row(hyper(theta=3), Refused(r"`theta` must have a floating .*got int64\[\]")),
    "boolean_theta": Row(hyper(theta=True), Refused(r"`theta` must have a floating .*got bool\[")),
    "key_theta": Row(
        hyper(theta=jax.random.key(0)), Refused(r"`theta` must have a floating .*got key<fry>")
    ),
    "string_theta": Row(hyper(theta="t"), Refused(r"`theta` must have a floating .*got str")),
    "integer_y0": Row(value(y0=3), Refused(r"`y0` must have a floating .*got int64\[\]")),
    "integer_list_y0": Row(value(y0=[1, 2]), Refused(r"`y0` must have a floating .*got \[int64")),
    "key_y0": Row(
        value(y0=jax.random.key(0)), Refused(r"`y0` must have a floating .*got key<fry>")
    ),
    "string_y0": Row(value(y0="abc"), Refused(r"`y0` must have a floating .*got str")),
    "none_y0": Row(value(y0=None), Refused(r"`y0` must have a floating .*got None")),
    "object_array_y0": Row(
        value(y0=np.asarray([None, 1.0])), Refused(r"`y0` must have a floating .*got object\[2\]")
    ),
    "long_double_y0": Row(
        value(y0=np.ones(2, np.longdouble)),
        Refused(r"a leaf must have a type that JAX has: got float\d+\[2\]; use", TypeError),
    ),
    "python_float_y0": Row(
        hyper(lambda y, t: (y - t) ** 2, y0=0.0, theta=3.0, outer=lambda y, t: y**2), Right(6.0)
    ),
    "list_of_floats_y0": Row(
        hyper(
            lambda y, t: (y[0] - t) ** 2 + y[1] ** 2,
            y0=[0.0, 1.0],
            theta=3.0,
            outer=lambda y, t: y[0] ** 2,
        ),
        Right(6.0),
    ),
    "mixed_precisions": Row(
        hyper(
            lambda y, t: sum(
                square(a - b.astype(a.dtype), t).astype(float) for a, b in zip(y, t, strict=True)
            ),
            y0=(f16(Y0), f32(Y0), Y0),
            theta=(THETA, bf16(THETA), f32(THETA)),
            outer=lambda y, t: sum(jnp.sum(leaf.astype(float) ** 2) for leaf in y),
        ),
        Right((2 * THETA, 2 * THETA, 2 * THETA), **half),
    ),
}
for kind, cast in {"float16": f16, "bfloat16": bf16}.items():
    for name in ("implicit_cg", "unroll", "nudged"):
        # Nudged subtracts two numbers of three digits whose difference has one fewer.
        loose = {**half, "rtol": 8e-2} if name == "nudged" else half
        ROWS[f"{kind}_{name}"] = Row(
            hyper(y0=cast(Y0), theta=cast(THETA), adjoint=RULES[name]), Right(GRADIENT, **loose)
        )
# Solved to a residual of 1e-2 of a curvature near 1, which is what these types' 3 digits allow.
ROWS |= {
    "float16_lbfgs": Row(
        value(solver=LBFGS(30, 1e-2), y0=f16(Y0), theta=f16(THETA)),
        Right(np.linalg.solve(H, THETA), rtol=1e-2),
    ),
    "bfloat16_anderson": Row(
        value(halved, Anderson(30, 1e-2), y0=bf16(Y0), theta=bf16(THETA), make=tk.fixed_point),
        Right(2 * THETA, rtol=1e-2),
    ),
}

# Functions that return something else, or depend on nothing.
for name, (fun, got) in {
    "vector": (lambda y, t: y, r"float64\[2\]"),
    "complex": (lambda y, t: 1j * total(y, t), r"complex128\[\]"),
    "integer": (lambda y, t: 3, r"int64\[\]"),
    "none": (lambda y, t: None, "None"),
    "string": (lambda y, t: "loss", "str"),
    "pair_without_has_aux": (lambda y, t: (square(y, t), 1.0), r"\(float64\[\], float64\[\]\)"),
    "list": (lambda y, t: [square(y, t)], r"\[float64\[\]\]"),
    "dict": (lambda y, t: {"loss": square(y, t)}, r"\{loss: float64\[\]\}"),
}.items():
    match = rf"`fun` must return a real scalar under argmin: got {got}; .*has_aux=True.*tk\.root"
    ROWS[f"objective_returns_{name}"] = Row(value(fun), Refused(match))
for name, (outer, got) in {
    "vector": (lambda y, t: y, r"float64\[2\]"),
    "complex": (lambda y, t: 1j * total(y, t), r"complex128\[\]"),
    "integer": (lambda y, t: 3, r"int64\[\]"),
}.items():
    match = rf"`outer` must return a real scalar: got {got}"
    ROWS[f"outer_returns_{name}"] = Row(hyper(outer=outer), Refused(match))
for name, (fun, got) in {
    "tuple": (lambda y, t: (y,), r"\(float64\[2\],\)"),
    "slice": (lambda y, t: y[:1], r"float64\[1\]"),
    "float32": (lambda y, t: f32(y), r"float32\[2\]"),
    "integers": (lambda y, t: y.astype(int), r"int64\[2\]"),
    "complex": (lambda y, t: 1j * y, r"complex128\[2\]"),
    "none": (lambda y, t: None, "None"),
    "string": (lambda y, t: "y", "str"),
}.items():
    match = rf"`fun` must (return|have the shapes).*`y`: got {got}, expected float64\[2\]"
    ROWS[f"root_returns_{name}"] = Row(value(fun, NEWTON, make=tk.root), Refused(match))
    ROWS[f"map_returns_{name}"] = Row(value(fun, PICARD, make=tk.fixed_point), Refused(match))
ROWS |= {
    "aux_without_pair": Row(
        value(has_aux=True), Refused(r"`fun` must return a pair \(value, aux\) with has_aux=True")
    ),
    "objective_of_neither": Row(hyper(lambda y, t: 0.0, adjoint=Unroll()), Right(np.zeros(2))),
    "objective_without_y_is_singular": Row(
        hyper(lambda y, t: total(t, y)), Flagged(Issue.LINEAR_NOT_CONVERGED)
    ),
    "root_without_y_is_singular": Row(
        value(lambda y, t: t, Newton(5, 1e-9), make=tk.root), Flagged(Status.NOT_FINITE)
    ),
    "map_without_y": Row(hyper(lambda y, t: t, PICARD, make=tk.fixed_point), Right(2 * THETA)),
    "step_function": Row(
        hyper(lambda y, t: jnp.sum(jnp.where(y > t, 1.0, 0.0) + 0.5 * y**2), y0=Y0 + 3),
        Right(np.zeros(2)),  # its derivative almost everywhere
    ),
    "kink_at_the_minimum": Row(
        hyper(lambda y, t: jnp.sum(jnp.abs(y - t)), GradientDescent(0.3, 50)),
        Flagged(Issue.INNER_NOT_CONVERGED | Issue.LINEAR_NOT_CONVERGED),
    ),
}
for name, rule in ONE_OF_A_KIND.items():
    ROWS[f"objective_without_theta_{name}"] = Row(
        hyper(lambda y, t: square(y - 1, t), adjoint=rule), Right(np.zeros(2))
    )
for name in ("implicit", "implicit_cg", "unroll", "nudged"):
    ROWS[f"outer_without_y_{name}"] = Row(
        hyper(outer=lambda y, t: jnp.sum(t**2), adjoint=RULES[name]), Right(2 * THETA)
    )

# No steps: nothing is called converged, unless it is.
for name, solver in {
    "descent": GradientDescent(0.4, 0),
    "descent_with_tolerance": GradientDescent(0.4, 0, tol=1e-6),
    "descent_with_an_array": GradientDescent(np.zeros(0), 0),
    "adam": Optax(optax.adam(0.1), 0),
    "lbfgs": LBFGS(0, 1e-6),
    "newton": Newton(0, 1e-6),
    "proximal": ProximalGradient(lambda y, t, s: y, 0.4, 0, 1e-6),
}.items():
    ROWS[f"no_steps_{name}"] = Row(value(solver=solver), Flagged(Status.STEP_LIMIT))
for name, rule in RULES.items():
    if name in ("unroll", "forward", "truncated", "reversible"):  # of no steps: exactly zero
        call = hyper(solver=GradientDescent(0.4, 0), adjoint=rule)
        ROWS[f"no_steps_under_{name}"] = Row(call, Right(np.zeros(2)))
ROWS |= {
    "no_steps_of_a_map": Row(
        value(halved, Anderson(0, 1e-6), make=tk.fixed_point), Flagged(Status.STEP_LIMIT)
    ),
    "no_steps_at_the_solution": Row(
        hyper(solver=GradientDescent(0.4, 0), y0=np.linalg.solve(H, THETA)), Right(GRADIENT)
    ),
    "newton_at_the_solution": Row(
        hyper(solver=NEWTON, y0=np.linalg.solve(H, THETA)), Right(GRADIENT)
    ),
}

# Hessians that are ill conditioned, indefinite, singular.
for name, cast in {"float32": f32, "float64": jnp.asarray}.items():
    bowl = lambda y, t: 0.5 * jnp.sum(jnp.asarray([1, 1e-12], y.dtype) * (y - t) ** 2)
    poor = {"fun": bowl, "y0": cast(Y0), "theta": cast(Y0 + 1), "outer": total}
    ROWS[f"condition_1e12_{name}_dense"] = Row(
        hyper(solver=NEWTON, **poor), Right(np.ones(2), flags=name == "float32")
    )
    ROWS[f"condition_1e12_{name}_neumann"] = Row(
        hyper(solver=NEWTON, adjoint=Implicit(Neumann(50)), **poor),
        Flagged(Issue.LINEAR_NOT_CONVERGED),
    )
rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
POOR = (rotation * [1.0, 1e-6, 1e-12]) @ rotation.T
D3, ONES = np.diag([1.0, 2.0, 3.0]), np.ones(3)
saddle = lambda y, t: 0.5 * (y[0] ** 2 - y[1] ** 2) - y @ t
well = lambda y, t: jnp.sum(0.25 * (y**2 - 1) ** 2 - 0.05 * t * y)
flat = lambda y, t: 0.5 * (y[0] - t[0]) ** 2
ROWS |= {
    "condition_1e12_linear_float64": Row(linear(Dense(), POOR, POOR @ ONES), Right(ONES, 1e-3)),
    # In float32 the matrix itself is off by more than its smallest eigenvalue.
    "condition_1e12_linear_float32": Row(
        linear(Dense(), POOR, f32(POOR @ ONES)), Flagged(Status.STEP_LIMIT)
    ),
    "condition_1e12_linear_cg": Row(
        linear(CG(5, 1e-6), POOR, f32(ONES)), Flagged(Status.STEP_LIMIT)
    ),
    "condition_1e12_linear_gmres": Row(
        linear(GMRES(3, 1e-6), POOR, f32(ONES)), Flagged(Status.STEP_LIMIT)
    ),
    "saddle_dense": Row(hyper(saddle, NEWTON, outer=total), Flagged(Issue.NEGATIVE_CURVATURE)),
    "saddle_cg": Row(
        hyper(saddle, NEWTON, outer=lambda y, t: y[1], adjoint=Implicit(CG(9, 1e-9))),
        Flagged(Issue.NEGATIVE_CURVATURE),
    ),
    "saddle_nystrom": Row(
        hyper(saddle, NEWTON, outer=total, adjoint=Implicit(Nystrom(2, 1e-6))),
        Flagged(Issue.NEGATIVE_CURVATURE | Issue.NOT_FINITE),
    ),
    "saddle_neumann": Row(
        hyper(saddle, NEWTON, outer=total, adjoint=Implicit(Neumann(50))),
        Flagged(Issue.LINEAR_NOT_CONVERGED),
    ),
    # J = diag(1, -1) is regular: right for a solver of general systems.
    "saddle_gmres": Row(
        hyper(saddle, NEWTON, outer=total, adjoint=Implicit(GMRES(9, 1e-9))),
        Right([1.0, -1.0], flags=True),
    ),
    "newton_at_a_maximum": Row(
        hyper(well, NEWTON, y0=np.zeros(1), theta=np.ones(1)), Flagged(Issue.NEGATIVE_CURVATURE)
    ),
    "quartic_minimum": Row(
        hyper(lambda y, t: jnp.sum(y**4 - t * y), theta=Y0, outer=total),
        Flagged(Issue.LINEAR_NOT_CONVERGED),
    ),
    "double_root": Row(
        hyper(lambda y, t: (y - t) ** 2, Newton(60, 1e-12), y0=Y0 + 1, theta=Y0, make=tk.root),
        Flagged(Issue.INNER_NOT_CONVERGED),
    ),
    "map_of_slope_one": Row(
        hyper(lambda y, t: y + 0 * t, PICARD, make=tk.fixed_point, outer=total),
        Flagged(Issue.LINEAR_NOT_CONVERGED),
    ),
    "expanding_map": Row(
        hyper(lambda y, t: 2 * y + t, FixedPointIteration(30, 1e-9), make=tk.fixed_point),
        Flagged(Issue.INNER_NOT_CONVERGED),
    ),
    "nudge_out_of_its_basin": Row(
        hyper(
            well,
            GradientDescent(0.1, 300),
            y0=np.ones(1),
            theta=np.ones(1),
            adjoint=Nudged(10.0),
        ),
        Flagged(Issue.NOT_FINITE),
    ),
    "nudge_below_rounding": Row(hyper(adjoint=Nudged(1e-30)), Flagged(Issue.NOT_FINITE)),
    "nudge_of_array_zero": Row(hyper(adjoint=Nudged(jnp.asarray(0.0))), Flagged(Issue.NOT_FINITE)),
}
for name in ("implicit", "implicit_cg", "implicit_gmres"):
    ROWS[f"singular_hessian_{name}"] = Row(
        hyper(flat, outer=total, adjoint=RULES[name]), Flagged(Issue.LINEAR_NOT_CONVERGED)
    )

# Linear systems.
LINEAR = {
    "cg": CG(50, 1e-6),
    "gmres": GMRES(50, 1e-6),
    "bicgstab": BiCGStab(50, 1e-6),
    "neumann": Neumann(200),
    "nystrom": Nystrom(3, 1e-9),
    "dense": Dense(),
}
for name, solver in LINEAR.items():
    ROWS[f"zero_right_side_{name}"] = Row(linear(solver, D3, 0 * ONES), Right(0 * ONES))
    # 3e38 * sqrt(3) is no float32: a norm of 0 or of infinity must not pass for a residual.
    huge = np.full(3, 3e38, np.float32)
    # CG works in units of the largest entry.
    solved = Right(huge / np.float32([1, 2, 3]), 1e-6)
    ROWS[f"right_side_without_norm_{name}"] = Row(
        linear(solver, D3, huge),
        solved if name == "cg" else Flagged(Status.NOT_FINITE, nan=True),
    )
    ROWS[f"integer_right_side_{name}"] = Row(
        eager(lambda solver=solver: solver(lambda v: 2 * v, jnp.asarray([1, 2]))),
        Refused(r"`b` must have floating or complex arrays as leaves: got int64\[2\]; use jnp"),
    )
    singular = np.diag([1.0, 2.0, 0.0])
    # A direct solve divides by the pivot that is exactly 0, and CG goes on until it overflows.
    ended = Status.NOT_FINITE if name in ("cg", "dense") else Status.STEP_LIMIT
    ROWS[f"singular_inconsistent_{name}"] = Row(linear(solver, singular, ONES), Flagged(ended))
for name in ("cg", "gmres", "bicgstab", "neumann", "nystrom", "dense"):
    for kind, matvec in {
        "scalar": jnp.sum,
        "short": lambda v: v[:2],
        "tuple": lambda v: (v,),
    }.items():
        ROWS[f"product_is_{kind}_{name}"] = Row(
            eager(lambda solver=LINEAR[name], matvec=matvec: solver(matvec, jnp.ones(3))),
            Refused(r"`matvec` must return a tree like `b`: got .*, expected float64\[3\]"),
        )
    ROWS[f"matrix_for_a_product_{name}"] = Row(
        eager(lambda solver=LINEAR[name]: solver(jnp.eye(3), jnp.ones(3))),
        Refused(r"`matvec` must be a callable.*got float64\[3,3\]; .*lambda v: A @ v", TypeError),
    )
ROWS |= {
    "tiny_right_side": Row(
        linear(Dense(), D3, f32(6e-30 * ONES)), Right([6e-30, 3e-30, 2e-30], 1e-5)
    ),
    "huge_right_side": Row(linear(Dense(), D3, f32(6e30 * ONES)), Right([6e30, 3e30, 2e30], 1e-5)),
    "tiny_right_side_neumann": Row(
        linear(Neumann(200), D3, f32(6e-30 * ONES)), Right([6e-30, 3e-30, 2e-30], 1e-5)
    ),
    "huge_right_side_neumann": Row(
        linear(Neumann(200), D3, f32(6e30 * ONES)), Right([6e30, 3e30, 2e30], 1e-5)
    ),
    "tiny_right_side_cg": Row(
        linear(CG(50, 1e-6), D3, f32(6e-30 * ONES)), Right([6e-30, 3e-30, 2e-30], 1e-5)
    ),
    "huge_right_side_cg": Row(
        linear(CG(50, 1e-6), D3, f32(6e30 * ONES)), Right([6e30, 3e30, 2e30], 1e-5)
    ),
    "indefinite_neumann": Row(
        linear(Neumann(50), np.diag([1.0, -2.0, 3.0]), ONES), Flagged(Status.STEP_LIMIT)
    ),
    "nonsymmetric_cg": Row(
        linear(CG(50, 1e-6), np.asarray([[1.0, 5.0], [-4.0, 1.0]]), np.ones(2)),
        Flagged(Status.STEP_LIMIT),
    ),
    "x0_of_another_shape": Row(
        linear(CG(50, 1e-6), D3, ONES, np.ones(2)),
        Refused(r"`x0` must have .*got float64\[2\], exp"),
    ),
    "x0_string": Row(linear(GMRES(9, 1e-6), D3, ONES, "x"), Refused(r"`x0` must have .*got str")),
    "real_and_complex_bicgstab": Row(
        eager(lambda: BiCGStab(9, 1e-6)(lambda v: v, (jnp.ones(1), 1j * jnp.ones(1)))),
        Refused(r"`b` must have real leaves or complex ones under BiCGStab, not both: .*use GMRES"),
    ),
    "preconditioner_of_zeros": Row(
        linear(CG(9, 1e-6, Diagonal(0.0)), D3, ONES), Flagged(Status.NOT_FINITE, nan=True)
    ),
    "neumann_nan_step": Row(
        eager(lambda: Neumann(9, NAN)), Refused(r"`step_size` must be positive.*got nan")
    ),
    "neumann_string_step": Row(
        eager(lambda: Neumann(9, "a")), Refused(r"`step_size` must be a real number.*got str")
    ),
    "nystrom_nan_damping": Row(
        eager(lambda: Nystrom(2, NAN)), Refused(r"`damping` must be positive: got nan")
    ),
    "nystrom_no_damping": Row(
        eager(lambda: Nystrom(2, None)), Refused(r"`damping` must be a real number.*got None")
    ),
}

# Settings.
for name, bad in {"float": 2.5, "negative": -1, "string": "3", "none": None, "bool": True}.items():
    for kind, make in {
        "descent": lambda steps: GradientDescent(0.1, steps),
        "lbfgs": lambda steps: LBFGS(steps, 1e-3),
        "newton": lambda steps: Newton(steps, 1e-3),
        "anderson": lambda steps: Anderson(steps, 1e-3),
    }.items():
        ROWS[f"{name}_steps_{kind}"] = Row(
            eager(lambda make=make, bad=bad: make(bad)),
            Refused(r"`(num|max)_steps` must be a nonnegative int .*got "),
        )
for name, bad in {"nan": NAN, "negative": -1e-3, "string": "1e-3", "complex": 1j}.items():
    ROWS[f"{name}_tolerance"] = Row(
        eager(lambda bad=bad: GradientDescent(0.1, 3, tol=bad)),
        Refused(r"`tol` must be None or a nonnegative number \(absolute, on the residual\): got "),
    )
for name, (bad, said) in {
    "nan": (NAN, r"nonnegative and not NaN: got nan"),
    "negative": (-0.1, r"nonnegative and not NaN: got -0\.1"),
    "negative_entry": (np.asarray([0.1, -0.2, 0.1]), r"nonnegative .*got an entry -0\.2"),
    "complex": (1j, r"real: got complex128"),
    "string": ("0.1", r"a number, an array of shape \(\) or \(3,\), or a callable .*got str"),
    "none": (None, r"a number, an array .*got NoneType"),
    "short": (np.ones(2), r"a number, an array .*got shape \(2,\)"),
}.items():
    refused = Refused(f"`step_size` must be {said}")
    ROWS[f"{name}_step_size"] = Row(eager(lambda bad=bad: GradientDescent(bad, 3)), refused)
    ROWS[f"{name}_step_size_projected"] = Row(
        eager(lambda bad=bad: ProjectedGradient(lambda y, t: y, bad, 3, 1e-3)), refused
    )
for name, (bad, said) in {
    "string": (lambda t, k: "a", r"return a real array from \(theta, step\): got str"),
    "complex": (lambda t, k: 1j, r"return a real array from \(theta, step\): got complex128"),
    "vector": (
        lambda t, k: jnp.ones(3),
        r"be a scalar at each step, .*got shape \(3,\) for float64",
    ),
}.items():
    call = value(solver=GradientDescent(bad, 3))
    ROWS[f"schedule_returns_{name}"] = Row(call, Refused(f"`step_size` must {said}"))
A_CLASS = r"got <class '.*'>"
ROWS |= {
    "traced_steps": Row(
        lambda: jax.jit(lambda n: GradientDescent(0.1, n))(3),
        Refused(r"`num_steps` must be a nonnegative int .*got JitTracer|got Traced"),
    ),
    "solver_class": Row(
        eager(lambda: tk.argmin(quadratic, GradientDescent)),
        Refused(rf"`solver` must be one of tk\.solver, such as .*{A_CLASS}", TypeError),
    ),
    "adjoint_class": Row(
        eager(lambda: tk.argmin(quadratic, DESCENT, adjoint=Implicit)),
        Refused(rf"`adjoint` must be one of tk\.adjoint, such as Implicit.*{A_CLASS}", TypeError),
    ),
    "adjoint_string": Row(
        eager(lambda: tk.root(quadratic, NEWTON, adjoint="implicit")),
        Refused(r"`adjoint` must be one of tk\.adjoint, .*got 'implicit'", TypeError),
    ),
    "adjoint_none": Row(hyper(adjoint=None), Right(GRADIENT)),
    "solver_string": Row(
        eager(lambda: tk.fixed_point(quadratic, "picard")),
        Refused(r"`solver` must be one of tk\.solver.*got 'picard'", TypeError),
    ),
    "fun_string": Row(
        eager(lambda: tk.argmin("loss", DESCENT)),
        Refused("`fun` must be callable: got s", TypeError),
    ),
    "linear_solver_class": Row(
        eager(lambda: Implicit(CG)),
        Refused(rf"`linear_solver` must be None, one of tk\.linear such as .*{A_CLASS}", TypeError),
    ),
    "linear_solver_string": Row(
        eager(lambda: Newton(9, 1e-6, "cg")),
        Refused(r"`linear_solver` must be None, one of tk\.linear .*got 'cg'", TypeError),
    ),
    "descent_for_a_linear_solver": Row(
        eager(lambda: Implicit(DESCENT)),
        Refused(r"`linear_solver` must be .*got GradientDescent\(", TypeError),
    ),
    "implicit_string_damping": Row(
        eager(lambda: Implicit(damping="a")), Refused("`damping` must be a real number.*got str")
    ),
    "implicit_vector_damping": Row(
        eager(lambda: Implicit(damping=np.ones(3))),
        Refused(r"`damping` must be a real number.*got float64\[3\]"),
    ),
    "picard_damping_one": Row(
        eager(lambda: FixedPointIteration(9, 1e-6, 1.0)), Refused(r"`damping` must be in \[0, 1\)")
    ),
    "picard_nan_damping": Row(
        eager(lambda: FixedPointIteration(9, 1e-6, NAN)), Refused(r"`damping` must be in .*got nan")
    ),
    "picard_complex_damping": Row(
        eager(lambda: FixedPointIteration(9, 1e-6, 0.1j)),
        Refused("`damping` must be a real number"),
    ),
    "anderson_no_history": Row(
        eager(lambda: Anderson(9, 1e-6, 0)),
        Refused("`history` must be an int of at least 1: got 0"),
    ),
    "anderson_boolean_history": Row(
        eager(lambda: Anderson(9, 1e-6, True)), Refused("`history` must be an int .*got True")
    ),
    "optax_function": Row(
        eager(lambda: Optax(optax.adam, 9)),
        Refused("`optimizer` must be an optax tra.*got function"),
    ),
    "prox_string": Row(
        eager(lambda: ProximalGradient("lasso", 0.1, 9, 1e-6)),
        Refused(r"`prox` must be a callable .*such as tk\.prox\.lasso: got 'lasso'"),
    ),
    "prox_returns_a_slice": Row(
        value(solver=ProximalGradient(lambda y, t, s: y[:1], 0.1, 9, 1e-6)),
        Refused(r"`prox` must return a tree like its first argument: got float64\[1\], expected"),
    ),
    "truncated_none": Row(
        eager(lambda: Truncated(0)), Refused(r"`num_steps` must be at least 1.*use Stopped\(\)")
    ),
    "unroll_no_checkpoint": Row(
        eager(lambda: Unroll(0)), Refused("`checkpoint` must be None, 'sqrt', or a pos.*got 0")
    ),
    "checkpoint_beyond_the_end": Row(hyper(adjoint=Unroll(10**6)), Right(GRADIENT)),
    "forward_of_too_many": Row(
        hyper(adjoint=Forward(1)),
        Refused(
            r"`theta` must have at most max_tangents=1 .*got 2.*use Unroll\(\) or Implicit\(\)"
        ),
    ),
    "nudged_no_beta": Row(
        eager(lambda: Nudged(0)), Refused("`beta` must be a positive scalar: got 0")
    ),
    "nudged_string_beta": Row(
        eager(lambda: Nudged("0.1")), Refused("`beta` must be a real number, .*got str")
    ),
    "nudged_root": Row(
        value(lambda y, t: y - t, NEWTON, make=tk.root, adjoint=Nudged(0.1)),
        Refused(r"`adjoint` Nudged needs tk\.argmin, .*got tk\.root; use Implicit"),
    ),
    "reversible_mean_above_one": Row(
        eager(lambda: Reversible(2.0)),
        Refused(r"`mean_momentum` must be None or in \(0, 1\]: got 2"),
    ),
    "reversible_newton": Row(
        value(solver=NEWTON, adjoint=Reversible()),
        Refused(
            r"`solver` must be tk\.solver\.GradientDescent .*got Newton.*use the adjoint Unroll"
        ),
    ),
    "root_by_descent": Row(
        value(lambda y, t: y - t, make=tk.root),
        Refused(r"`solver` must solve `root`: got GradientDescent, .*use tk\.solver\.Newton"),
    ),
    "argmin_by_picard": Row(
        value(solver=PICARD),
        Refused(r"`solver` must solve `argmin`: got FixedPoint.*use tk\.solver"),
    ),
    "unrolled_line_search": Row(
        value(solver=LBFGS(9, 1e-6), adjoint=Unroll()),
        Refused(r"`solver` must have steps that reverse mode can cross .*got LBFGS.*Implicit"),
    ),
}

# Per-step inputs, starts of the linear system, callables.
for name, (xs, said) in {
    "short": (np.ones(79), r"num_steps=80 entries .*got shape \(79,\)"),
    "uneven": ({"a": np.ones(80), "b": np.ones(81)}, r"num_steps=80 entries .*got shape \(81,\)"),
    "scalar": (1.0, r"one entry a step .*got float64\[\]"),
    "empty": (np.ones(0), r"one entry a step .*got float64\[0\]"),
    "string": ("abc", r"one entry a step .*got str"),
    "range": (range(80), r"one entry a step .*got range"),
}.items():
    call = value(weighted, xs=xs, adjoint=Unroll())
    ROWS[f"{name}_xs"] = Row(eager(call), Refused(f"`xs` must have {said}"))
for name in ("implicit", "one_step", "nudged"):
    ROWS[f"xs_under_{name}"] = Row(
        value(weighted, xs=np.ones(80), adjoint=RULES[name]),
        Refused(r"`xs` must be None under \w+: .*use Unroll, Truncated or Stopped"),
    )
_answer = lambda steps: (
    lambda f, y, t: tk.Solution(jnp.linalg.solve(H, t), tk.SolveInfo(0, steps, 0))
)
_value = lambda made: lambda f, y, t: tk.Solution(made, tk.SolveInfo(0, 1, 0.0))
ROWS |= {
    "v0_of_another_shape": Row(
        hyper(v0=np.ones(3)), Refused(r"`v0` must be like `y`, or None: got float64\[3\], expected")
    ),
    "v0_of_integers": Row(
        hyper(v0=np.ones(2, int)), Refused(r"`v0` must be like .*got int64\[2\]")
    ),
    "v0_under_unroll": Row(
        hyper(v0=Y0, adjoint=Unroll()), Refused(r"`v0` must be None where .*Unroll; use Implicit")
    ),
    "callable_that_ignores_a_nan_start": Row(
        hyper(solver=_answer(1), y0=Y0 * NAN), Right(GRADIENT)
    ),
    "callable_that_lies": Row(hyper(solver=_value(Y0)), Flagged(Issue.INNER_NOT_CONVERGED)),
    "callable_that_lies_from_infinity": Row(
        hyper(solver=_value(Y0 + 1e3), y0=Y0 + INF), Flagged(Issue.INNER_NOT_CONVERGED)
    ),
    "callable_without_steps": Row(
        value(solver=_answer(None)), Refused(r"`solver` must return .*an integer `steps`: .*None")
    ),
    "callable_with_integers": Row(
        value(solver=_value(np.ones(2, int))),
        Refused(r"the value of <lambda> must have the shapes .*got int64\[2\], expected float64"),
    ),
    "callable_with_an_array": Row(
        value(solver=lambda f, y, t: y),
        Refused(r"`solver` must return tk\.Solution\(value, info\)"),
    ),
    "callable_unrolled": Row(
        value(solver=_answer(1), adjoint=Unroll()),
        Refused("`solver` must show its steps .*Implicit"),
    ),
}

# Proximal maps, and the tools that judge.
PULL = jnp.asarray([2.0, -0.5])
for name, prox in {
    "lasso": lambda penalty, s: tk.prox.lasso(PULL, penalty, s),
    "elastic_net": lambda penalty, s: tk.prox.elastic_net(PULL, (penalty, penalty), s),
    "group_lasso": lambda penalty, s: tk.prox.group_lasso(PULL, penalty, s),
}.items():
    # Statuses belong to solves: an array says what it has to say by NaN.
    nan = Flagged(Status.CONVERGED, nan=True)
    ROWS[f"negative_penalty_{name}"] = Row(eager(lambda p=prox: p(-1.0, 1.0)), nan)
    ROWS[f"negative_step_{name}"] = Row(eager(lambda p=prox: p(1.0, -1.0)), nan)
    ROWS[f"nan_penalty_{name}"] = Row(eager(lambda p=prox: p(NAN, 1.0)), nan)
    ROWS[f"infinite_penalty_{name}"] = Row(eager(lambda p=prox: p(INF, 1.0)), Right(np.zeros(2)))
    ROWS[f"complex_penalty_{name}"] = Row(
        eager(lambda p=prox: p(1j, 1.0)), Refused(r"`\w+` must be real: got complex128")
    )
    ROWS[f"string_penalty_{name}"] = Row(
        eager(lambda p=prox: p("a", 1.0)), Refused(r"`\w+` must be one array, .*got str")
    )
ROWS |= {
    "empty_box": Row(
        eager(lambda: tk.prox.box(PULL, (1.0, -1.0))), Flagged(Status.CONVERGED, nan=True)
    ),
    "box_of_one": Row(
        eager(lambda: tk.prox.box(PULL, (1.0,))), Refused("`bounds` must be a pair: got")
    ),
    "box_of_integers": Row(
        eager(lambda: tk.prox.box(jnp.asarray([3, -4]), (0.5, 1.5))),
        Refused(r"`y` must have floating or complex leaves: got int64\[2\]; cast"),
    ),
    "lasso_of_integers": Row(
        eager(lambda: tk.prox.lasso(jnp.asarray([3, -4]), 0.5)), Refused("`y` must have floating")
    ),
    "group_without_the_axis": Row(
        eager(lambda: tk.prox.group_lasso(PULL, 1.0, axis=3)),
        Refused("`axis` must be .*got 3 for f"),
    ),
    # The squares of 3e-30 and of 4e30 are no float32.
    "tiny_group": Row(
        eager(lambda: tk.prox.group_lasso(f32([3e-30, 4e-30]), 2.5e-30)),
        Right([1.5e-30, 2e-30], 1e-5),
    ),
    "huge_group": Row(
        eager(lambda: tk.prox.group_lasso(f32([3e30, 4e30]), 2.5e30)), Right([1.5e30, 2e30], 1e-5)
    ),
    "dependent_rows": Row(
        eager(lambda: tk.prox.affine(PULL, (jnp.ones((2, 2)), jnp.ones(2)))),
        Flagged(Status.CONVERGED, nan=True),
    ),
    "check_of_no_directions": Row(
        eager(
            lambda: tk.check_hypergradient(
                square, tk.argmin(quadratic, DESCENT), Y0, THETA, directions=0
            )
        ),
        Refused("`directions` must be a positive int: got 0"),
    ),
    "check_to_infinity": Row(
        eager(
            lambda: tk.check_hypergradient(square, tk.argmin(quadratic, DESCENT), Y0, THETA, INF)
        ),
        Refused(r"`rtol` must be a number in \[0, 1\): got inf"),
    ),
    "check_of_nothing": Row(
        eager(
            lambda: tk.check_hypergradient(square, tk.argmin(quadratic, DESCENT), Y0, np.zeros(0))
        ),
        Refused(r"`theta` must have an entry to vary: got float64\[0\]"),
    ),
    "comparison_of_none": Row(
        eager(lambda: tk.compare_adjoints(quadratic, square, DESCENT, Y0, THETA, {})),
        Refused(r"`adjoints` must be a dict of rules by name, .*got \{\}"),
    ),
    "comparison_of_a_list": Row(
        eager(lambda: tk.compare_adjoints(quadratic, square, DESCENT, Y0, THETA, [Implicit()])),
        Refused(r"`adjoints` must be a dict of rules by name, .*got \[Implicit"),
    ),
    "hypergradient_of_a_solver": Row(
        eager(lambda: tk.hypergradient(square, DESCENT)),
        Refused(r"`solve` must come from tk\.argmin, .*got GradientDescent", TypeError),
    ),
    "hypergradient_of_a_string": Row(
        eager(lambda: tk.hypergradient("loss", tk.argmin(quadratic, DESCENT))),
        Refused("`outer` must be callable: got str", TypeError),
    ),
}


# Rows that repeat others under further rules: half a second each, to compile.
FAMILIES = (
    "no_entries_in_theta_",
    "bfloat16_",
    "nan_in_closed_over_data_",
    "objective_without_theta_",
)
SLOW = {name for name in ROWS if name.startswith(FAMILIES) and not name.endswith("_implicit")}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in ROWS]
)
def test_a_right_value_a_status_or_a_named_error(name: str) -> None:
    call, verdict = ROWS[name]
    if isinstance(verdict, Refused):
        with pytest.raises(verdict.error, match=verdict.match) as caught:
            call()
        assert "\n" not in str(caught.value)
        return
    result = call()
    made, said = made_by(result), said_by(result)
    if isinstance(verdict, Right):
        assert jax.tree.structure(made) == jax.tree.structure(verdict.value) or not isinstance(
            verdict.value, tuple
        )
        for got, expected in zip(
            jax.tree.leaves(made),
            jax.tree.leaves(verdict.value, is_leaf=lambda v: isinstance(v, list)),
            strict=True,
        ):
            atol = 1e-9 if not np.any(expected) else 0.0
            np.testing.assert_allclose(np.asarray(got, float), expected, verdict.rtol, atol)
        assert verdict.flags or said == 0, said
        return
    if isinstance(said, Issue):
        assert said & verdict.bits == verdict.bits, said
    else:
        assert said == verdict.bits, said
    if verdict.nan:
        shown = result.value if isinstance(result, Gradient) else made
        assert any(np.any(~np.isfinite(np.asarray(leaf, float))) for leaf in jax.tree.leaves(shown))


def test_the_catalogue_covers_each_verdict() -> None:
    verdicts = [type(row.verdict) for row in ROWS.values()]
    assert len(verdicts) >= 60
    assert {Right, Flagged, Refused} == set(verdicts)
