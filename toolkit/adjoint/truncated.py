"""`Truncated`: the derivative through the last steps only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.adjoint.requirements import require_steps_without_data_loops
from toolkit.derive.replay import replayed_scan
from toolkit.settings import Count, Hint, settings
from toolkit.types import InnerProblem, Primal, SolverSteps, Tree

_REFUSAL = (
    "Truncated() has no forward mode (jvp, jacfwd), its reverse pass is a rule of its own: use "
    "Unroll(forward_mode=True), or Implicit()."
)


@settings("truncated")
class Truncated:
    """The derivative through the last `num_steps` steps; those before are a constant.

    Biased: how the earlier steps depend on `theta` is left out. On problems with long memory even the
    sign can be wrong.

    Args:
      num_steps: steps differentiated, counted from the end; all of them if there are fewer.

    Raises:
      ValueError: a callable solver, or one whose steps contain a line search.

    Differentiation: reverse mode and Hessians (`jax.hessian`), any order. Zero by construction:
    with respect to `y0`, where earlier steps exist.

    Cost: memory of `num_steps` iterates, a reverse pass of one Hessian-vector product each. A
    solver with a tolerance runs twice: only its first run tells where it stops.

    Source: Shaban et al. 2019 (K-RMD).
    """

    num_steps: Annotated[Count, Hint("use Stopped() to differentiate no step")]

    @property
    def presumes_solution(self) -> bool:
        """False: defined by the steps that were made."""
        return False

    @property
    def forward_mode(self) -> bool:
        """False: the reverse pass is a rule of its own."""
        return False

    def differentiable(
        self, problem: InnerProblem, primal: Primal
    ) -> Callable[[Tree, Tree, Tree], tuple[Tree, Array]]:
        """`primal.run` with the derivative of its last steps."""
        steps = require_steps_without_data_loops("Truncated", primal)
        last = min(self.num_steps, steps.num_steps)

        def run(y0: Tree, theta: Tree, xs: Tree) -> tuple[Tree, Array]:
            constant = tree.stop_gradient((y0, theta, xs))
            # With a tolerance only a first run, without derivative, tells which steps are the last ones.
            if steps.exact:
                first: int | Array = steps.num_steps - last
            else:
                _, made = steps.finish(steps.run(*constant))
                first = jnp.maximum(made - last, 0)
            # Where all steps are differentiated the start is no constant: y0 keeps its derivative.
            if last == steps.num_steps:
                carry = steps.begin(y0, theta)
            else:
                carry = tree.stop_gradient(_after(steps, first, *constant))
            numbers = first + jnp.arange(last, dtype=jnp.int32)
            seen = jax.tree.map(lambda leaf: leaf[numbers], xs)
            carry = replayed_scan(
                steps.step, steps.replayed, carry, theta, (numbers, seen), refusal=_REFUSAL,
                own_rule=problem.own_rule,
            )  # fmt: skip
            return steps.finish(carry)

        return run

    def hvp_evals(self, steps: Array, hyperparameters: int) -> Array:
        """One for each differentiated step."""
        return jnp.minimum(steps, self.num_steps)


def _after(steps: SolverSteps, count: int | Array, y0: Tree, theta: Tree, xs: Tree) -> Tree:
    """The carry after the first `count` steps."""

    def advance(t: Array, carry: Tree) -> Tree:
        number = jnp.asarray(t, jnp.int32)
        return steps.step(carry, theta, (number, jax.tree.map(lambda leaf: leaf[t], xs)))

    return jax.lax.fori_loop(0, count, advance, steps.begin(y0, theta))
