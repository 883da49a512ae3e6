"""The derivative through every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from toolkit.adjoint.requirements import require_steps, require_steps_without_data_loops
from toolkit.replay import replayed_scan, scan
from toolkit.types import Primal, Problem, Tree

REFUSAL = (
    "Unroll() has no forward mode (jvp, jacfwd), its reverse pass is a rule of its own: use "
    "Unroll(forward_mode=True), or Implicit()."
)


@dataclass(frozen=True)
class Unroll:
    """The derivative of the computed iterate: through every step of the solver.

    The reverse pass stores the iterates only, and pulls back through each gradient by a
    forward-over-reverse product: `d/dtheta <grad_y fun, u>` is the directional derivative of
    `grad fun` along `u`.

    Args:
      checkpoint: None stores every iterate; an int k stores every k-th and recomputes the others
        (k times a segment at most); "sqrt" takes k = sqrt(num_steps).
      forward_mode: True admits `jvp` as well, at some cost in speed (plain steps under
        `jax.checkpoint`; `checkpoint` is then without effect on `jvp`).

    Differentiation: reverse mode and Hessians (`jax.hessian`), any order; `forward_mode=True`
    admits every mode. Step sizes, momenta and `y0` are differentiated.

    Cost: memory of `num_steps` iterates (`num_steps / k + k` with checkpoints); a reverse pass of
    one Hessian-vector product a step, and one more gradient a step with checkpoints.

    Source: Franceschi et al. 2017 (reverse-HG); checkpoints: Chen et al. 2016.
    """

    checkpoint: int | Literal["sqrt"] | None = None
    forward_mode: bool = False

    def __post_init__(self) -> None:
        k = self.checkpoint
        if k not in (None, "sqrt") and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
            raise ValueError(
                "`checkpoint` must be None, 'sqrt', or a positive int (steps between stored "
                f"iterates): got {k!r}."
            )

    @property
    def presumes_solution(self) -> bool:
        """False: exact for the iterate that was computed."""
        return False

    def differentiable(
        self, problem: Problem, primal: Primal
    ) -> Callable[[Tree, Tree, Tree], tuple[Tree, Array]]:
        """`primal.run` with the derivative of its steps."""
        if self.forward_mode:
            steps = require_steps("Unroll", primal)
        else:
            steps = require_steps_without_data_loops("Unroll", primal)
        segment = self._segment(steps.num_steps)

        def run(y0: Tree, theta: Tree, xs: Tree) -> tuple[Tree, Array]:
            carry = steps.begin(y0, theta)
            numbered = (jnp.arange(steps.num_steps, dtype=jnp.int32), xs)
            if self.forward_mode:
                # Recomputing each step keeps what is stored to the carries, in every mode.
                carry = scan(jax.checkpoint(steps.step), carry, theta, numbered)
            else:
                carry = replayed_scan(
                    steps.step, steps.replayed, carry, theta, numbered, segment, REFUSAL
                )
            return steps.finish(carry)

        return run

    def hvp_evals(self, steps: Array, hyperparameters: int) -> Array:
        """One a step."""
        return steps

    def _segment(self, num_steps: int) -> int:
        if self.checkpoint == "sqrt":
            return max(1, math.isqrt(num_steps))
        return self.checkpoint or 1
