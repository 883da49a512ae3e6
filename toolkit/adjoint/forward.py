"""Tangents carried along with the steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.flatten_util import ravel_pytree

from toolkit import tree
from toolkit.adjoint.requirements import require_steps
from toolkit.types import Primal, Problem, Tree


@dataclass(frozen=True)
class Forward:
    """The derivative of the computed iterate, by one tangent a hyperparameter beside the steps.

    `dy_{t+1} = phi_y dy_t + phi_theta dtheta`, for all unit directions of `theta` at once.

    Args:
      max_tangents: refuse more scalar hyperparameters than this; each costs a tangent.

    Differentiation: forward and reverse mode; higher orders by forward mode over either. Step
    sizes, momenta, `xs` and `y0` are differentiated where the caller differentiates them, and each
    of their entries counts as a hyperparameter.

    Cost: with `P` scalar hyperparameters, `P + 2` runs of the solver in time, `P` iterates in
    memory, whatever `num_steps` is; the same in forward mode.

    Source: Franceschi et al. 2017 (forward-HG); Wengert 1964.
    """

    max_tangents: int = 1000

    def __post_init__(self) -> None:
        if isinstance(self.max_tangents, bool) or not isinstance(self.max_tangents, int):
            raise ValueError(f"`max_tangents` must be an int: got {self.max_tangents!r}.")

    @property
    def presumes_solution(self) -> bool:
        """False: exact for the iterate that was computed."""
        return False

    def differentiable(
        self, problem: Problem, primal: Primal
    ) -> Callable[[Tree, Tree, Tree], tuple[Tree, Array]]:
        """`primal.run` with the derivative of its steps, carried forward."""
        require_steps("Forward", primal)

        @jax.custom_jvp
        def solve(y0: Tree, theta: Tree, xs: Tree) -> tuple[Tree, Array]:
            return primal.run(y0, theta, xs)

        def rule(primals: tuple, tangents: tuple) -> tuple[tuple[Tree, Array], tuple[Tree, Array]]:
            y, steps = solve(*primals)
            moves = jax.tree.map(lambda dot: not tree.is_zero_tangent(dot), tangents)
            moving, fixed = tree.select(primals, moves)
            y_dot = self._push(
                lambda moving: primal.run(*tree.merge(moving, fixed))[0],
                moving,
                tree.select(tangents, moves)[0],
                y,
            )
            return (y, steps), (y_dot, tree.zero_tangent(steps))

        solve.defjvp(rule, symbolic_zeros=True)
        return solve

    def hvp_evals(self, steps: Array, hyperparameters: int) -> Array:
        """One for each step and tangent."""
        return steps * hyperparameters

    def _push(
        self, run: Callable[[Tree], Tree], moving: Tree, moving_dot: Tree, like: Tree
    ) -> Tree:
        """`J moving_dot` with the whole Jacobian `J` formed first, so that it transposes."""
        if not jax.tree.leaves(moving):
            return optax.tree.zeros_like(like)
        # Real coordinates: a complex hyperparameter is two directions.
        flat, unravel = ravel_pytree(tree.as_real(moving))
        if flat.size > self.max_tangents:
            raise ValueError(
                f"`theta` must have at most max_tangents={self.max_tangents} differentiated "
                f"entries under Forward: got {flat.size}, and each costs a run of the solver; use "
                "Unroll() or Implicit(), or raise max_tangents."
            )

        def along(direction: Array) -> Tree:
            tangent = tree.as_like(moving, unravel(direction))
            return tree.as_real(jax.jvp(run, (moving,), (tangent,))[1])

        columns = jax.vmap(along)(jnp.eye(flat.size, dtype=flat.dtype))
        weights, _ = ravel_pytree(tree.as_real(moving_dot))
        y_dot = jax.tree.map(lambda c: jnp.tensordot(weights, c, 1).astype(c.dtype), columns)
        return tree.as_like(like, y_dot)
