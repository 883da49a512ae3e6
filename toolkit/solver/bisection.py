"""`Bisection`: the root of a function of one number, between two numbers where its signs differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Len
from jax import Array

from toolkit import tree
from toolkit.settings import Count, Tolerance, settings
from toolkit.solver.bounds import Bounds, limits
from toolkit.solver.requirements import require_kind
from toolkit.types import Ended, InnerProblem, Status, Tree, WholeSolve


class _Bracket(NamedTuple):
    low: Array  # []
    high: Array  # []
    y: Array  # [] the point of those seen where |f| is smallest
    f: Array  # [] there; NaN once a value is not finite
    steps: Array  # [] int32


@settings("bisection")
class Bisection:
    """Halves an interval at whose ends the function of a `tk.root` has opposite signs.

        solve = tk.root(lambda y, theta: y**3 - theta, tk.solver.Bisection((0.0, 10.0), max_steps=60, tol=1e-8))

    Args:
      bounds: `(lower, upper)`, finite numbers, or a callable `theta -> (lower, upper)`. The start `y0` gives the
        structure and the type alone.
      max_steps: halvings at most.
      tol: stop where `|f|` is at most this, absolute; so a root at an end is found.

    Returns: `STALLED` and NaN, also as a gradient, where f has one sign at both ends, or changes it without
    coming near 0 (a jump, a pole). `STALLED` and the root where the interval can shrink no more, and what
    is left of f above `tol` is rounding. `NOT_FINITE` and NaN where a value of f, or a bound, is not finite.

    Raises:
      ValueError: `y0` is not one real number; an argmin or a fixed point; infinite bounds; inside
        `jax.shard_map` or `jax.pmap`.

    Differentiation: by the rules that need no steps (`Implicit`, `Stopped`). That of a root does not depend
    on its bracket, also where `bounds` is a function of theta.

    Cost: one value a step, and two for the ends; no derivative.
    """

    bounds: Annotated[tuple[float, ...], Len(2, 2)] | Bounds
    max_steps: Count
    tol: Tolerance

    def bind(self, problem: InnerProblem) -> WholeSolve:
        """The whole solve of `problem`, a root."""
        require_kind(self, problem.kind, ("root",), "tk.solver.Newton")
        if not callable(self.bounds):
            _require_finite(self.bounds)

        def run(y0: Tree, theta: Tree) -> tuple[Tree, Ended]:
            _require_one_number(y0)
            box = limits(self.bounds, problem, y0, theta)
            low, high = (tree.ravel(one)[0].reshape(()) for one in box)
            flat, back = tree.ravel(y0)
            at = lambda v: back(v.reshape(flat.shape))

            def f(v: Array) -> Array:
                return tree.ravel(problem.evaluate(at(v), theta, None))[0].reshape(())

            y, ended = self._run(f, jnp.minimum(low, high), jnp.maximum(low, high))
            return at(y), ended

        return WholeSolve(run, self.tol)

    def _run(self, f: Callable[[Array], Array], low: Array, high: Array) -> tuple[Array, Ended]:
        ends = jax.lax.map(f, jnp.stack([low, high]))  # not twice `f`: it would be compiled twice
        nearer = jnp.argmin(jnp.abs(ends))  # NaN, if there is one
        below, least = jnp.sign(ends[0]), jnp.min(jnp.abs(ends))
        crosses = below * jnp.sign(ends[1]) < 0

        def middle(s: _Bracket) -> Array:
            # Half of the sum might overflow.
            return jnp.clip(s.low / 2 + s.high / 2, s.low, s.high)

        def unfinished(s: _Bracket) -> Array:
            shrinks = (middle(s) > s.low) & (middle(s) < s.high)
            return crosses & shrinks & (jnp.abs(s.f) > self.tol) & (s.steps < self.max_steps)

        def halve(s: _Bracket) -> _Bracket:
            y = middle(s)
            new = f(y)
            new = jnp.where(jnp.isfinite(new), new, jnp.nan)
            left = jnp.sign(new) == below
            better = ~(jnp.abs(new) > jnp.abs(s.f))  # also where it is NaN, which ends the loop
            return _Bracket(
                jnp.where(left, y, s.low),
                jnp.where(left, s.high, y),
                jnp.where(better, y, s.y),
                jnp.where(better, new, s.f),
                s.steps + 1,
            )

        start = _Bracket(
            low, high, jnp.where(nearer == 0, low, high), ends[nearer], jnp.asarray(0, jnp.int32)
        )
        last = jax.lax.while_loop(unfinished, halve, start)
        left = jnp.abs(last.f)
        finite = jnp.all(jnp.isfinite(ends)) & jnp.isfinite(left) & jnp.isfinite(last.y)
        at_limit = crosses & (last.steps == self.max_steps)
        otherwise = jnp.where(at_limit, int(Status.STEP_LIMIT), int(Status.STALLED))
        otherwise = jnp.where(finite, otherwise, int(Status.NOT_FINITE)).astype(jnp.int32)
        # Across a jump or a pole the sign changes, too, but f does not shrink with the interval.
        resolved = crosses & (left <= tree.eps(low) ** 0.5 * least)
        known = finite & ((left <= self.tol) | at_limit | resolved)
        return tree.nan_unless(known, last.y), Ended(last.steps, otherwise)


def _require_one_number(y0: Tree) -> None:
    leaves = jax.tree.leaves(y0)
    if len(leaves) != 1 or leaves[0].size != 1 or jnp.iscomplexobj(leaves[0]):
        raise ValueError(
            f"`y0` must be one real number under Bisection: got {tree.describe(y0)}; use tk.solver.Newton, or "
            "jax.vmap for several equations of one number each."
        )


def _require_finite(bounds: Any) -> None:
    known = [leaf for leaf in jax.tree.leaves(bounds) if not isinstance(leaf, jax.core.Tracer)]
    if any(np.any(np.isinf(leaf)) for leaf in known):
        raise ValueError(
            f"`bounds` must be finite under Bisection: got {bounds}; its ends are evaluated."
        )
