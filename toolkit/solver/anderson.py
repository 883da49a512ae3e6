"""`Anderson`: acceleration of a fixed-point iteration by its last values."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.settings import Count, Tolerance, settings
from toolkit.solver.requirements import require_kind
from toolkit.types import Evaluation, InnerProblem, Method, Tree


class AndersonState(NamedTuple):
    """`H` history, `N` real unknowns."""

    y: Tree
    values: Array  # [H, N] the last values of the map, newest at `evaluations - 1` modulo H
    residuals: Array  # [H, N] their residuals, value minus point
    evaluations: Array  # [] int32, so far


@settings("anderson")
class Anderson:
    """Anderson acceleration: the next iterate combines the last `history` values of the map.

    `y <- sum_i a_i fun(y_i)`, `a = argmin ||sum_i a_i (fun(y_i) - y_i)||` over `sum_i a_i = 1`,
    by the normal equations of that small problem with a relative ridge of `sqrt(eps) / 1000`.

    Args:
      max_steps: steps at most.
      tol: stop when the 2-norm of `fun(y) - y` is at most this (absolute).
      history: values kept, at least 1 (1 is the plain iteration).

    Raises:
      ValueError: the solve is no fixed point.

    Differentiation: by every rule.

    Cost: one evaluation of `fun` and `history * N` multiplications a step; memory of `2 * history`
    iterates.

    Source: Walker & Ni 2011, equation 2.
    """

    max_steps: Count
    tol: Tolerance
    history: Count = 5

    def bind(self, problem: InnerProblem) -> Method:
        """The steps on `problem`, a fixed point."""
        require_kind(self, problem.kind, ("fixed_point",), "tk.solver.Newton")

        def init(y0: Tree, theta: Tree) -> AndersonState:
            flat, _ = tree.ravel(tree.as_real(y0))
            empty = vary(jnp.zeros((self.history, flat.size), flat.dtype), varying_axes(flat))
            return AndersonState(y0, empty, empty, jnp.asarray(0, jnp.int32))

        def evaluate(state: AndersonState, theta: Tree, x: Tree) -> Evaluation:
            new, beside = problem.look(state.y, theta, x)
            return Evaluation(new, problem.residual(state.y, new), beside)

        def update(
            state: AndersonState, new: Tree, theta: Tree, t: Array, x: Tree
        ) -> AndersonState:
            value, _ = tree.ravel(tree.as_real(new))
            point, unravel = tree.ravel(tree.as_real(state.y))
            slot = state.evaluations % self.history
            values = state.values.at[slot].set(value)
            residuals = state.residuals.at[slot].set(value - point)
            evaluations = state.evaluations + 1
            weights = _mixing_weights(
                residuals, jnp.arange(self.history, dtype=jnp.int32) < evaluations
            )
            y = tree.as_like(state.y, unravel(weights @ values))
            return AndersonState(y, values, residuals, evaluations)

        return Method(
            init, evaluate, update, lambda s: s.y, self.max_steps, self.tol, attracted=True
        )


def _mixing_weights(residuals: Array, filled: Array) -> Array:
    """`[H]` weights of sum 1 that minimise the norm of the combined residual; 0 where not filled."""
    # Minimise a' G a, G = R R', over sum(a) = 1. By Lagrange `G a` is proportional to the vector of ones:
    # solve `G a = 1` and divide by the sum. Rows not filled yet get the equation a_i = 0.
    wide = tree.widened(residuals).dtype  # LAPACK knows no smaller type
    # Products of residuals square the condition number. Accelerators multiply in fewer bits unless they
    # are told not to, which would leave few digits of the weights.
    gram = jnp.matmul(residuals, residuals.T, precision="highest", preferred_element_type=wide)
    scale = jnp.max(jnp.diagonal(gram))
    scale = jnp.where(scale == 0, 1, scale)
    # Near the solution the residuals are almost dependent, and G almost singular. The ridge keeps the
    # system solvable.
    ridge = jnp.sqrt(jnp.finfo(gram.dtype).eps) / 1000
    both = filled[:, None] & filled[None, :]
    system = jnp.where(both, gram / scale, 0) + jnp.diag(jnp.where(filled, ridge, 1))
    weights = jnp.where(filled, jnp.linalg.solve(system, filled.astype(gram.dtype)), 0)
    return (weights / jnp.sum(weights)).astype(residuals.dtype)
