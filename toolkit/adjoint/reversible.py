"""The derivative through every step, the steps run backwards instead of being stored."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from toolkit import tree
from toolkit.adjoint import momentum
from toolkit.adjoint.exact_descent import Loop, State
from toolkit.adjoint.momentum import Plan
from toolkit.adjoint.watched import Watched
from toolkit.refusal import refuse_derivatives, refuse_forward_mode
from toolkit.replay import pull_back_steps
from toolkit.types import Alarm, Descent, Issue, Primal, Problem, Steps, Tree

_NO_FORWARD_MODE = (
    "Reversible() has no forward mode (jvp, jacfwd), its reverse pass is a rule of its own: use "
    "Unroll(forward_mode=True), or Implicit()."
)
_NO_SECOND_ORDER = (
    "Reversible() has first derivatives only, its iterates being integers: use Unroll(), or "
    "Implicit()."
)


@dataclass(frozen=True)
class Reversible:
    """The derivative of the computed iterate, through every step, from the last state alone.

    Gradient descent with momentum is run in integers (units of 2^-40, range 4.2e6), where each step
    has an exact inverse: the velocity is multiplied by a rational `n / d`, and the bits that this
    discards are kept. The reverse pass undoes the steps one at a time, and pulls the cotangent back
    through each at the state that it restores. At the end it compares the state with `y0` and the
    zero velocity: if one bit differs, all cotangents are NaN, and `tk.hypergradient` reports
    `tk.Issue.NOT_REVERSED`.

    The value is that of the rounded steps, within 1e-5 of the solver's own; it is NaN, with status
    NOT_FINITE, once an iterate, a velocity or a gradient leaves the range, and where a momentum is
    not in [0, 1]. A momentum is replaced by a fraction with a denominator below 2^16 (0.9 is 9/10,
    0 is 1/65535; see `momentum.rational`).

    Args:
      mean_momentum: a lower bound on the geometric mean of the momenta, in (0, 1], where these are
        traced or computed: it sizes the memory of the discarded bits, log2(1 / mean_momentum) bits
        a step. A schedule that discards more gives NaN and `NOT_REVERSED`. None: counted where the
        momenta are known (a number or a concrete array), else 16 bits a step, which always suffice.

    Raises:
      ValueError: the solver is not `GradientDescent` without `tol`, or the step size or the
        momentum of a step is not a scalar.

    Differentiation: reverse mode, first order; `y0`, step sizes, momenta and `xs` are
    differentiated. Rounding counts as the identity, and the derivative in a momentum is that at
    its fraction.

    Cost: memory of one state, and of log2(1 / momentum) bits a parameter and step; a reverse pass
    of one gradient and one Hessian-vector product a step; and about 60 integer operations a
    parameter and step in either pass, five of them divisions, which are fast only where the momentum
    is one known number (see benchmarks/reversible.py).

    Source: Maclaurin, Duvenaud & Adams 2015, Algorithm 3.
    """

    mean_momentum: float | None = None

    def __post_init__(self) -> None:
        mean = self.mean_momentum
        if mean is not None and not (isinstance(mean, (int, float)) and 0 < mean <= 1):
            raise ValueError(f"`mean_momentum` must be None or in (0, 1]: got {mean!r}.")

    @property
    def presumes_solution(self) -> bool:
        """False: exact for the iterate that was computed."""
        return False

    def differentiable(
        self, problem: Problem, primal: Primal
    ) -> Callable[[Tree, Tree, Tree], tuple[Tree, Array]]:
        """The rounded steps, with their derivative."""
        return self.alarmed(problem, primal, Alarm(jnp.zeros(()), jnp.zeros(())))

    def watched(self, alarm: Alarm) -> Watched:
        """This rule, which says in the cotangent of `alarm` whether reversal failed."""
        return Watched(self, alarm)

    def alarmed(
        self, problem: Problem, primal: Primal, alarm: Alarm
    ) -> Callable[[Tree, Tree, Tree], tuple[Tree, Array]]:
        """`differentiable`, with the report as the cotangent of `alarm`."""
        steps, descent = _require_descent(primal)
        known = None if descent.momenta is None else momentum.known_plan(descent.momenta)
        rows = self.rows(known, steps.num_steps)

        def run(y0: Tree, theta: Tree, xs: Tree) -> tuple[Tree, Array]:
            _require_scalars(descent, theta)
            numbered = (jnp.arange(steps.num_steps, dtype=jnp.int32), xs)
            start, theta, numbered = refuse_forward_mode(
                (steps.begin(y0, theta), theta, numbered), _NO_FORWARD_MODE
            )
            loop = Loop(problem, descent, known, rows)
            return steps.finish(_reversible(loop, steps.replayed)(start, theta, numbered, alarm))

        return run

    def hvp_evals(self, steps: Array, hyperparameters: int) -> Array:
        """One a step."""
        return steps

    def rows(self, plan: Plan | None, num_steps: int) -> int:
        """Rows of memory for the discarded bits, one byte a parameter each."""
        if plan is not None:
            return int(np.sum(plan.spills))
        if self.mean_momentum is None:
            return momentum.SPILLS * num_steps
        # Fractions of large denominator waste up to 0.006 bits a step.
        return math.ceil(num_steps * (math.log2(1 / self.mean_momentum) + 0.006) / 8)


def _require_descent(primal: Primal) -> tuple[Steps, Descent]:
    steps = primal.steps
    if steps is None or steps.descent is None or not steps.exact:
        ends = " with a tolerance" if steps is not None and steps.descent is not None else ""
        raise ValueError(
            "`solver` must be tk.solver.GradientDescent without `tol` under Reversible: got "
            f"{primal.name}{ends}; use the adjoint Unroll."
        )
    return steps, steps.descent


def _require_scalars(descent: Descent, theta: Tree) -> None:
    shapes = jax.eval_shape(descent.schedule, theta, jnp.asarray(0, jnp.int32))
    for name, value in zip(("step_size", "momentum"), shapes, strict=True):
        if value.shape != ():
            raise ValueError(
                f"`{name}` must be a scalar at each step under Reversible: got shape "
                f"{value.shape}; use the adjoint Unroll."
            )


def _reversible(loop: Loop, replayed: Callable) -> Callable[[Tree, Tree, Tree, Alarm], Tree]:
    """The loop from a pair `(y, velocity)` of trees to another, with its reverse rule."""

    @jax.custom_vjp
    def run(start: Tree, theta: Tree, xs: Tree, alarm: Alarm) -> Tree:
        return result(loop.run(start, theta, loop.entries(theta, xs), keep=False), start)

    def result(last: State, start: Tree) -> Tree:
        return tree.nan_unless(last.in_range, loop.floats(last, start))

    def forward(*primals: Any) -> tuple[Tree, Tree]:
        (start, theta, xs, alarm), wanted = tree.values_and_wanted(primals)
        start, theta, xs = refuse_derivatives((start, theta, xs), _NO_SECOND_ORDER)
        entries = loop.entries(theta, xs)
        last = loop.run(start, theta, entries, keep=True)
        parts = tree.select(theta, wanted[1]), tree.select(xs, wanted[2])
        return result(last, start), (start, last, entries._replace(x=None), parts, alarm)

    def backward(residuals: Tree, last_bar: Tree) -> tuple[Tree, Tree, Tree, Alarm]:
        start, last, entries, parts, alarm = residuals
        (wanted, constant), (xs_wanted, xs_constant) = parts
        theta, pull = tree.merge(wanted, constant), pull_back_steps(replayed, wanted, constant)

        def undo(carry: tuple[State, Tree], slices: tuple) -> tuple[tuple[State, Tree], Tree]:
            (state, bars), (entry, earlier, x_wanted, x_constant) = carry, slices
            entry = entry._replace(x=tree.merge(x_wanted, x_constant))
            state = loop.unpush(state, theta, entry)
            bars, x_bar = pull(bars, (loop.floats(state, start), x_wanted, x_constant))
            return (loop.unmove(state, earlier, start), bars), x_bar

        # One half-step ahead: the gradient is then taken at what the loop carries, as in `run`.
        earlier = jnp.roll(entries.step_size, 1).at[:1].set(0)
        state = loop.unmove(last, entries.step_size[-1:].sum(), start)
        bars = (tree.written_out(last_bar, start), jax.tree.map(jnp.zeros_like, wanted))
        (first, bars), xs_bar = jax.lax.scan(
            undo, (state, bars), (entries, earlier, xs_wanted, xs_constant), reverse=True
        )
        returned = loop.is_start(first, start) & (momentum.rows_used(entries.plan) <= loop.rows)
        bars = tree.nan_unless(returned & last.in_range, (*bars, xs_bar))
        issues = jnp.where(last.in_range & ~returned, int(Issue.NOT_REVERSED), 0)
        spent = len(entries.step_size)  # gradients that restored the velocities
        return (*bars, Alarm(*(jnp.asarray(x, alarm.issues.dtype) for x in (issues, spent))))

    run.defvjp(forward, backward, symbolic_zeros=True)
    return run
