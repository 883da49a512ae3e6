"""`Reversible`: the derivative through every step, with steps run backwards instead of stored."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from toolkit import tree
from toolkit.adjoint.reversible import momentum
from toolkit.adjoint.reversible.exact_descent import (
    Entry,
    ExactDescent,
    GridState,
    ReversibleMethod,
)
from toolkit.adjoint.reversible.momentum import MomentumPlan
from toolkit.derive.refusal import refuse_derivatives, refuse_forward_mode
from toolkit.derive.symbolic_zeros import instantiate_zeros, values_and_wanted
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.settings import Weight, settings
from toolkit.types import (
    Descent,
    InnerProblem,
    Issue,
    Primal,
    PullbackReport,
    SolverSteps,
    Tree,
)

_NO_FORWARD_MODE = (
    "Reversible() has no forward mode (jvp, jacfwd), its reverse pass is a rule of its own: use "
    "Unroll(forward_mode=True), or Implicit()."
)
_NO_SECOND_ORDER = (
    "Reversible() has first derivatives only, its iterates being integers: use Unroll(), or "
    "Implicit()."
)


@settings("reversible")
class Reversible:
    """The derivative of the computed iterate, through every step, from the last state alone.

    Gradient descent with momentum is run in integers, where each step has an exact inverse: the
    velocity is multiplied by changing the unit in which it is counted, and the bits that fall below
    the finest unit are kept. The reverse pass undoes the steps one at a time, and pulls the
    cotangent back through each at the state that it restores; the gradient that restores a state
    and the Hessian-vector product there share their work. At the end it compares the state with
    `y0` and the zero velocity: if one bit differs, all cotangents are NaN, and `tk.hypergradient`
    reports `tk.Issue.NOT_REVERSED`.

    The value is that of the rounded steps, within 1e-5 of the solver's own (units: 2^-40 of an
    iterate, 2^-34 or finer of a velocity). It is NaN, with status NOT_FINITE, once an iterate
    exceeds 4.2e6, a velocity or a gradient 1.0e6, and where a momentum is not in [0, 1]. A momentum
    below 2^-16, 0 too, is replaced by 2^-16.

    Args:
      mean_momentum: a lower bound on the geometric mean of the momenta, in (0, 1], where these are
        traced or computed: it sizes the memory of the discarded bits, log2(1 / mean_momentum) bits
        a step. A schedule that discards more gives NaN and `NOT_REVERSED`. None: counted where the
        momenta are known (a number or a concrete array), else 16 bits a step, which always suffice.

    Raises:
      ValueError: the solver is not `GradientDescent` with a step size, without `tol` and not `accelerated`, or the
        step size or the momentum of a step is not a scalar.

    Differentiation: reverse mode, first order; `y0`, step sizes, momenta and `xs` are
    differentiated. Rounding counts as the identity.

    Cost: memory of one state (16 bytes a parameter), of log2(1 / momentum) bits a parameter and
    step, and of what one gradient leaves for its derivative; a reverse pass of one gradient with
    its Hessian-vector product a step. On a CPU 1.2 to 1.3 times the time of `Unroll()` (P4 in
    benchmarks/RESULTS.md).

    Source: Maclaurin, Duvenaud & Adams 2015, Algorithm 3.
    """

    mean_momentum: Weight | None = None

    @property
    def presumes_solution(self) -> bool:
        """False: exact for the iterate that was computed."""
        return False

    @property
    def forward_mode(self) -> bool:
        """False: the reverse pass is a rule of its own."""
        return False

    @property
    def needs_objective(self) -> bool:
        """True: it differentiates the objective to restore states to the bit."""
        return True

    def differentiable(
        self, problem: InnerProblem, primal: Primal, report: PullbackReport | None = None
    ) -> Callable[[Tree, Tree, Tree], tuple[Tree, Array]]:
        """The rounded steps, with their derivative; `report` tells whether reversal failed."""
        steps, descent = _require_descent(primal)
        known = None if descent.momenta is None else momentum.known_plan(descent.momenta)
        rows = self.rows(known, steps.num_steps)
        most = momentum.SPILLS if known is None else max(known.spills, default=0)

        def run(y0: Tree, theta: Tree, xs: Tree) -> tuple[Tree, Array]:
            _require_scalars(descent, theta)
            numbered = (jnp.arange(steps.num_steps, dtype=jnp.int32), xs)
            start, theta, numbered = refuse_forward_mode(
                (steps.begin(y0, theta), theta, numbered), _NO_FORWARD_MODE
            )
            zeros = PullbackReport.zeros() if report is None else report
            # A cotangent must vary over the same device axes as its primal, and the report of each
            # device is its own.
            zeros = vary(zeros, varying_axes(start))
            run = _reversible(ReversibleMethod(problem, descent, known, rows, most))
            return steps.finish(run(start, theta, numbered, zeros))

        return run

    def hvp_evals(self, steps: Array, hyperparameters: int) -> Array:
        """One a step."""
        return steps

    def rows(self, plan: MomentumPlan | None, num_steps: int) -> int:
        """Rows of memory for the discarded bits, one byte a parameter each."""
        if plan is not None:
            return int(np.sum(plan.spills))
        if self.mean_momentum is None:
            return momentum.SPILLS * num_steps
        return math.floor(num_steps * math.log2(1 / self.mean_momentum) / 8) + 1


def _require_descent(primal: Primal) -> tuple[SolverSteps, Descent]:
    steps = primal.steps
    descent = None if steps is None else steps.descent
    if steps is None or descent is None or descent.accelerated or not steps.exact:
        how = ""
        if steps is not None and primal.name == "GradientDescent":
            searched = " with step_size=None" if descent is None else " with a tolerance"
            how = ", accelerated" if descent is not None and descent.accelerated else searched
        raise ValueError(
            "`solver` must be tk.solver.GradientDescent without `tol` under Reversible: got "
            f"{primal.name}{how}; use the adjoint Unroll."
        )
    return steps, descent


def _require_scalars(descent: Descent, theta: Tree) -> None:
    shapes = jax.eval_shape(descent.schedule, theta, jnp.asarray(0, jnp.int32))
    for name, value in zip(("step_size", "momentum"), shapes, strict=True):
        if value.shape != ():
            raise ValueError(
                f"`{name}` must be a scalar at each step under Reversible: got shape "
                f"{value.shape}; use the adjoint Unroll."
            )


def _reversible(method: ReversibleMethod) -> Callable[[Tree, Tree, Tree, PullbackReport], Tree]:
    """The loop from a pair `(y, velocity)` of trees to another, with its reverse rule."""

    @jax.custom_vjp
    def run(start: Tree, theta: Tree, xs: Tree, report: PullbackReport) -> Tree:
        loop = ExactDescent(method, start, None)
        return loop.result(*_run(loop, theta, xs))

    def forward(*primals: Any) -> tuple[Tree, Tree]:
        (start, theta, xs, report), wanted = values_and_wanted(primals)
        start, theta, xs = refuse_derivatives((start, theta, xs), _NO_SECOND_ORDER)
        loop = ExactDescent(method, start, (wanted[1], wanted[2][1]))
        last, entries = _run(loop, theta, xs)
        # `parts` hold the inputs x of the steps already: without them the entries store nothing twice.
        parts = tree.select(theta, wanted[1]), tree.select(xs, wanted[2])
        return loop.result(last, entries), (start, last, entries._replace(x=None), parts, report)

    def backward(residuals: Tree, last_bar: Tree) -> tuple[Tree, Tree, Tree, PullbackReport]:
        start, last, entries, ((wanted, constant), (xs_wanted, xs_constant)), report = residuals
        loop = ExactDescent(method, start, (tree.present(wanted), tree.present(xs_wanted[1])))
        theta, xs = tree.merge(wanted, constant), tree.merge(xs_wanted, xs_constant)
        # JAX's cotangent of a complex number is the conjugate of its gradient. On real and imaginary
        # parts, as the loop works, it is the gradient itself.
        y_bar, velocity_bar = loop.reals(tree.conj(instantiate_zeros(last_bar, start)))
        # The scan below carries the cotangent of v' with what reaches v' through y' = y + s v' added. Each
        # turn adds that part for the step before it; for the last step it is added here. `sum` takes the
        # one last step size, and is 0 where there is no step.
        velocity_bar = _combined(1, velocity_bar, entries.step_size[-1:].sum(), y_bar)
        bars = Cotangents(y_bar, velocity_bar, jax.tree.map(jnp.zeros_like, wanted))
        earlier = jnp.roll(entries.step_size, 1).at[:1].set(0)
        (first, bars), (schedule_bars, x_bars) = jax.lax.scan(
            _undo(loop, theta), (last, bars), (entries._replace(x=xs), earlier), reverse=True
        )
        _, pull = jax.vjp(lambda t: loop.schedules(tree.merge(t, constant), xs[0]), wanted)
        theta_bar = jax.tree.map(jnp.add, bars.theta, pull(schedule_bars)[0])
        start_bar = tree.conj(loop.pair(bars.y, bars.velocity))
        kept = momentum.rows_used(entries.plan) <= method.rows
        returned = last.in_range & loop.is_start(first) & kept
        bars = tree.nan_unless(returned, (start_bar, theta_bar, (None, x_bars)))
        issues = jnp.where(last.in_range & ~returned, int(Issue.NOT_REVERSED), 0)
        spent = jnp.full_like(issues, len(entries.step_size))  # gradients that restored velocities
        return (*bars, PullbackReport(*(x.astype(report.issues.dtype) for x in (issues, spent))))

    run.defvjp(forward, backward, symbolic_zeros=True)
    return run


class Cotangents(NamedTuple):
    """Cotangents in the reverse pass; the lists are those of `reals`."""

    y: list[Array]
    velocity: list[Array]  # with what reaches it through the motion of y
    theta: Tree  # where wanted


def _run(loop: ExactDescent, theta: Tree, xs: Tree) -> tuple[GridState, Entry]:
    """The last state, and the inputs of the steps."""
    entries = loop.entries(theta, xs)

    def step(state: GridState, entry: Entry) -> tuple[GridState, None]:
        return loop.step(state, theta, entry), None

    return jax.lax.scan(step, loop.begin(), entries)[0], entries


def _undo(loop: ExactDescent, theta: Tree) -> Callable:
    """One step backwards, and the cotangents through it: the body of a reversed scan."""

    def undo(
        carry: tuple[GridState, Cotangents], slices: tuple
    ) -> tuple[tuple[GridState, Cotangents], Tree]:
        (after, bars), (entry, earlier_step_size) = carry, slices
        state = loop.unmove(after, entry)
        recorded = loop.gradient(state, theta, entry)
        before = loop.unpush(state, recorded, entry)
        # The step was v' = m v - grad f(y), y' = y + s v'. With bars for cotangents and v'_bar including
        # what reaches v' through y':
        #   y_bar = y'_bar - H v'_bar,  v_bar = m v'_bar + (s of the step before) y_bar,
        #   theta_bar gains -(d grad f / d theta)' v'_bar,  s_bar = <y'_bar, v'>,  m_bar = <v'_bar, v>.
        y_bar, theta_bar, x_bar = recorded.pull_back([-bar for bar in bars.velocity])
        y_bar = _combined(1, bars.y, 1, y_bar)
        velocity_bar = _combined(entry.plan.momentum, bars.velocity, earlier_step_size, y_bar)
        theta_bar = jax.tree.map(jnp.add, bars.theta, theta_bar)
        step_size_bar = tree.pairing(bars.y, loop.velocity(after, entry.plan.scale))
        velocity = loop.velocity(before, entry.plan.earlier_scale)
        schedule_bars = step_size_bar, tree.pairing(bars.velocity, velocity)
        return (before, Cotangents(y_bar, velocity_bar, theta_bar)), (schedule_bars, x_bar)

    return undo


def _combined(a: Any, x: list[Array], b: Any, y: list[Array]) -> list[Array]:
    """`a x + b y`."""
    return [
        jnp.asarray(a, p.dtype) * p + jnp.asarray(b, p.dtype) * q for p, q in zip(x, y, strict=True)
    ]
