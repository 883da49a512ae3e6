"""`Unroll`: the derivative of the computed iterate, through every step."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from toolkit.adjoint.requirements import require_steps, require_steps_without_data_loops
from toolkit.derive.refusal import refuse_reverse_mode
from toolkit.derive.replay import (
    Segments,
    nested_scan,
    replayed_scan,
    segment_sizes,
    written_out,
)
from toolkit.derive.two_modes import name_missing_mode
from toolkit.settings import settings
from toolkit.types import InnerProblem, Primal, SolverSteps, Tree

REFUSAL = (
    "Unroll() has no forward mode (jvp, jacfwd), its reverse pass is a rule of its own: use "
    "Unroll(forward_mode=True), or Implicit()."
)


@settings("unroll")
class Unroll:
    """The derivative of the computed iterate: through every step of the solver.

    The reverse pass stores the iterates only, and pulls back through each gradient by a
    forward-over-reverse product: `d/dtheta <grad_y fun, u>` is the directional derivative of
    `grad fun` along `u`.

    Args:
      checkpoint: None stores every iterate. An int k stores every k-th, and the reverse pass runs the
        k steps of a segment again when it comes to them; "sqrt" takes k = sqrt(num_steps). A tuple
        such as (10, 10, 10) nests segments: it stores 10 iterates, and 10 more at each level below.
      forward_mode: True admits `jvp` as well, at some cost in speed (plain steps under
        `jax.checkpoint`; `jvp` itself stores nothing).
      written_out: True writes the steps out one after another, as a Python loop does. It is for few
        steps (a fifth faster for the five of MAML), because the compiled program grows with their
        number. XLA may fuse across steps, so that the value agrees with that under other rules to
        rounding, not to the bit. Not with `checkpoint`.

    Raises:
      ValueError: a callable solver, or, without `forward_mode`, one whose steps contain a line
        search; `checkpoint` together with `written_out`; a tuple too small for `num_steps`.

    Differentiation: reverse mode and Hessians (`jax.hessian`), any order; `forward_mode=True`
    admits every mode. Step sizes, momenta and `y0` are differentiated.

    Cost: memory of `num_steps` iterates (`num_steps / k + k` with checkpoints, the sum of a tuple);
    a reverse pass of one Hessian-vector product a step, and one more gradient a step with
    checkpoints, two at three levels.

    Source: Franceschi et al. 2017 (reverse-HG); checkpoints: Chen et al. 2016.
    """

    checkpoint: Segments | None = None
    forward_mode: bool = False
    written_out: bool = False

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.written_out:
            raise ValueError(
                "`checkpoint` must be None with written_out=True, where no step is made again: "
                f"got {self.checkpoint!r}."
            )

    @property
    def presumes_solution(self) -> bool:
        """False: exact for the iterate that was computed."""
        return False

    def differentiable(
        self, problem: InnerProblem, primal: Primal
    ) -> Callable[[Tree, Tree, Tree], tuple[Tree, Array]]:
        """`primal.run` with the derivative of its steps."""
        if self.forward_mode:
            steps = require_steps("Unroll", primal)
        else:
            steps = require_steps_without_data_loops("Unroll", primal)
        sizes = self._sizes(steps.num_steps)

        def run(y0: Tree, theta: Tree, xs: Tree) -> tuple[Tree, Array]:
            if self.forward_mode:
                y0, theta, xs = name_missing_mode("Unroll()", problem, y0, theta, xs)
            carry = steps.begin(y0, theta)
            numbered = (jnp.arange(steps.num_steps, dtype=jnp.int32), xs)
            if self.forward_mode:
                # A plain scan stores all intermediate values of a step for reverse mode. With
                # `checkpoint` it stores the carries, and computes each step again.
                one = jax.checkpoint(steps.step)
                step = lambda carry, x: (one(carry, theta, x), None)
                if self.written_out:
                    carry, _ = written_out(step, carry, numbered, steps.num_steps)
                else:
                    carry, _ = nested_scan(step, carry, numbered, steps.num_steps, sizes)
            else:
                carry = replayed_scan(
                    steps.step, steps.replayed, carry, theta, numbered, sizes, REFUSAL,
                    self.written_out, problem.own_rule,
                )  # fmt: skip
            return self._finished(steps, primal.name, carry)

        return run

    def hvp_evals(self, steps: Array, hyperparameters: int) -> Array:
        """One a step."""
        return steps

    def _finished(self, steps: SolverSteps, name: str, carry: Tree) -> tuple[Tree, Array]:
        y, made = steps.finish(carry)
        if self.forward_mode and steps.loops_on_data:
            y = refuse_reverse_mode(
                y,
                f"Unroll(forward_mode=True) has forward mode alone (jvp, jacfwd) with {name}, whose steps "
                "contain a data-dependent loop (a line search): use Implicit() or Forward(), or "
                "tk.solver.GradientDescent.",
            )
        return y, made

    def _sizes(self, num_steps: int) -> tuple[int, ...]:
        return () if self.checkpoint is None else segment_sizes(self.checkpoint, num_steps)
