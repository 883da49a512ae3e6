"""`QuadraticProgram`: minima of convex quadratic functions under affine constraints, by Clarabel."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from toolkit import tree
from toolkit.derive.constrained import WithMultipliers
from toolkit.errors.libraries import missing
from toolkit.errors.readable import call_as, returned_by
from toolkit.leaves.promotion import standard_promotion, wide_type
from toolkit.settings import Count, Tolerance, settings
from toolkit.solver import interior_point
from toolkit.solver.bounds import Bounds, bounded, limits
from toolkit.solver.requirements import require_kind, require_objective
from toolkit.types import Ended, InnerProblem, Tree, WholeSolve
from toolkit.vocabulary.kinds import Given

Constraint = Annotated[
    Any,
    Given(
        "a callable (y, theta) -> tree of arrays",
        fits=lambda value: callable(value) and not isinstance(value, type),
    ),
]


@settings("quadratic_program")
class QuadraticProgram:
    """A quadratic program, `fun` convex and quadratic, the constraints affine in `y`.

        solver = tk.solver.QuadraticProgram(
            equality=lambda y, theta: jnp.sum(y) - 1, inequality=lambda y, theta: theta["A"] @ y - theta["b"]
        )
        solution = tk.argmin(lambda y, theta: y @ theta["Q"] @ y / 2 + theta["c"] @ y, solver)(jnp.zeros(3), theta)

    Matrices are formed by differentiating `fun` and the constraints at `y = 0`; `y0` gives the structure of `y` alone
    (a NaN in it gives NaN).
    A linear program is the case without curvature.

    Args:
      equality: `(y, theta) -> tree`, zero at a solution; None: none.
      inequality: `(y, theta) -> tree`, at most zero at a solution; None: none.
      bounds: `(lower, upper)` of `y`, as in `tk.solver.LBFGS`.
      max_steps: iterations at most.
      tol: the solve counts as converged where the residual is at most this (absolute).

    Returns: `info.residual` is the 2-norm, for the functions as given, of

        y - clip(y - dL/dy),  E,  max(G, -lambda),    L = fun + <nu, E> + <lambda, G>

    so a function that is not quadratic, or a constraint that is not affine, shows. `info.multipliers` is
    `(equality, inequality, lower, upper)`, `None` where there are no such constraints: `(nu, lambda)`, and the
    forces of the bounds, like `y`. Status `INFEASIBLE`: no point satisfies the constraints, `UNBOUNDED`: `fun` has no
    least value there, `STALLED`: `fun` is not convex; in these three all is NaN, and so are derivatives. Else
    `STALLED` or `STEP_LIMIT` where the residual is above `tol`. The solver works in float64, and what it finds is
    rounded to the types of `y`: with float32 a `tol` below 1e-6 or so is not met.

    Raises:
      ValueError: the solve is no argmin, `y0` is complex, a constraint returns no real floating arrays; inside
        `jax.shard_map` or `jax.pmap`.
      ImportError: clarabel is not installed (the extra `solvers`).

    Differentiation: by the rules that need no steps, of which `Implicit` differentiates the conditions above, with
    respect to all that `fun`, the constraints and the bounds depend on. Constraints may be redundant: their
    multipliers are then shared out by least norm. Where several `y` are solutions, their derivative is NaN in the
    entries that are left open. Where an inequality or a bound is active with a multiplier of 0 the solution has
    a kink, and the derivative is that of one side, with this constraint active or not as rounding has it.

    Cost: as many gradient products as unknowns; one call to the host, `O((n + m)^3)`; the derivative `O((n + m)^3)`.

    Source: Goulart & Chen 2024 (Clarabel); derivative: Amos & Kolter 2017, equation 6.
    """

    equality: Constraint | None = None
    inequality: Constraint | None = None
    bounds: Bounds | None = None
    max_steps: Count = 100
    tol: Tolerance = 1e-8

    def bind(self, problem: InnerProblem) -> WholeSolve:
        """The whole solve of `problem`, an argmin."""
        try:
            import clarabel
        except ImportError as error:
            raise missing("clarabel", "tk.solver.QuadraticProgram") from error
        require_kind(self, problem.kind, ("argmin",), "tk.solver.Newton or Anderson")
        require_objective(self, problem)

        def constraints(y: Tree, theta: Tree) -> tuple[Tree, Tree]:
            pair = problem.user_y(y, theta), problem.user_theta(theta)
            return (
                _values("equality", self.equality, *pair),
                _values("inequality", self.inequality, *pair),
            )

        @standard_promotion
        def run(y0: Tree, theta: Tree) -> tuple[WithMultipliers, Ended]:
            if any(map(jnp.iscomplexobj, jax.tree.leaves(y0))):
                raise ValueError(
                    f"`y0` must be real under QuadraticProgram: got {tree.describe(y0)}; solve for its real and "
                    "imaginary parts."
                )
            posed = _matrices(problem, constraints, y0, theta)
            P, q, *rest = posed.arrays
            known = ~jnp.any(jnp.isnan(_flat(y0, posed.dtype)))  # else the caller has gone astray
            program = (P, tree.nan_unless(known, q), *rest)
            box = (-jnp.inf, jnp.inf) if self.bounds is None else self.bounds
            sides = limits(box, problem, y0, theta)
            flat = [_flat(side, posed.dtype) for side in sides]
            vectors = [jax.ShapeDtypeStruct(one.shape, posed.dtype) for one in posed.arrays[1::2]]
            count = jax.ShapeDtypeStruct((), jnp.int32)
            *found, steps, otherwise = jax.pure_callback(
                functools.partial(_on_host, clarabel, self.max_steps),
                (*vectors, count, count),
                *program,
                *flat,
                vmap_method="sequential",
            )
            return posed.back(*found), Ended(steps, otherwise)

        box = None if self.bounds is None else bounded(self.bounds, problem)
        return WholeSolve(run, self.tol, box, constraints)


def _on_host(clarabel: Any, max_steps: int, *arrays: Array) -> tuple[np.ndarray, ...]:
    """What the host computes, as arrays; it must hold none of the trace that calls it."""
    dtype = arrays[0].dtype
    program = interior_point.Program(*(np.asarray(one, np.float64) for one in arrays))
    found = interior_point.solve(clarabel, program, max_steps, float(np.finfo(dtype).eps))
    counts = (np.asarray(one, np.int32) for one in (found.steps, found.otherwise))
    return *(one.astype(dtype) for one in found[:3]), *counts


class _Posed(NamedTuple):
    arrays: tuple[Array, ...]  # P, q, E, e, G, g: as in `interior_point.Program`
    dtype: Any
    back: Callable[[Array, Array, Array], WithMultipliers]


def _matrices(problem: InnerProblem, constraints: Any, y0: Tree, theta: Tree) -> _Posed:
    """The program, linearised at 0."""
    dtype = wide_type(*jax.tree.leaves(y0))
    origin = jax.tree.map(jnp.zeros_like, tree.gathered(y0))
    flat, unravel = tree.ravel(origin)
    lying = tree.specs(y0)
    to_y = lambda v: tree.spread(tree.typed_like(origin, unravel(v.astype(flat.dtype))), lying)

    def slope(v: Array) -> Array:
        return _flat(problem.evaluate(to_y(v), theta, None), dtype)

    def values(v: Array) -> tuple[Array, Array]:
        equality, inequality = constraints(to_y(v), theta)
        return _flat(equality, dtype), _flat(inequality, dtype)

    zero, identity = flat.astype(dtype), jnp.eye(flat.size, dtype=dtype)
    q, curve = jax.linearize(slope, zero)
    (e, g), push = jax.linearize(values, zero)
    columns = jax.vmap(curve)(identity)
    rows = jax.vmap(push, out_axes=1)(identity)
    like = jax.eval_shape(lambda: constraints(to_y(zero), theta))

    def back(x: Array, nu: Array, lam: Array) -> WithMultipliers:
        return WithMultipliers(to_y(x), *map(_like, like, (nu, lam)))

    return _Posed(((columns + columns.T) / 2, q, rows[0], e, rows[1], g), dtype, back)


def _flat(values: Tree, dtype: Any) -> Array:
    """All entries as one vector; empty for a tree without leaves."""
    leaves = [jnp.ravel(leaf).astype(dtype) for leaf in jax.tree.leaves(tree.gathered(values))]
    return jnp.concatenate(leaves) if leaves else jnp.zeros(0, dtype)


def _like(like: Tree, vector: Array) -> Tree:
    leaves, structure = jax.tree.flatten(like)
    parts = jnp.split(vector, np.cumsum([leaf.size for leaf in leaves])[:-1]) if leaves else []
    same = [
        part.reshape(leaf.shape).astype(leaf.dtype)
        for part, leaf in zip(parts, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, same)


def _values(name: str, constraint: Any, y: Tree, theta: Tree) -> Tree:
    """What a constraint returns, as arrays; None where there is none."""
    if constraint is None:
        return None
    out = call_as(name, constraint, "(y, theta)", y, theta)
    leaves = jax.tree.leaves(out)
    if not all(tree.is_inexact(leaf) and not jnp.iscomplexobj(leaf) for leaf in leaves):
        meaning = "zero" if name == "equality" else "at most zero"
        raise returned_by(
            constraint,
            ValueError(
                f"`{name}` must return real floating arrays, {meaning} where it holds: got "
                f"{tree.describe(out)}; for a <= b return a - b."
            ),
        )
    return jax.tree.map(jnp.asarray, out)
