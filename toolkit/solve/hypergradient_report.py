"""What a hypergradient says of itself: how well its problems were solved, what they cost, how far off it may be."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from toolkit import tables, tree
from toolkit.adjoint.implicit import Implicit
from toolkit.derive import marks
from toolkit.solve.accuracy import ErrorEstimate
from toolkit.solve.call import SolveCall
from toolkit.solve.maps import SolutionMap
from toolkit.solve.verdict import stopped_short
from toolkit.types import Issue, LinearInfo, Solution, Status, Tree

_HEAD = ("hypergradient", "")


class HypergradientReport(NamedTuple):
    """How a hypergradient was made and how good it is; arrays `[]`, no derivative. Prints as a table."""

    inner_residual: Array  # 2-norm of the optimality condition at the solution
    linear_residual: Array  # ||A v - b|| / ||b||, recomputed; 0 where no linear system was solved
    linear_steps: Array  # int32; iterations of the linear solver, 0 where there was none
    error_estimate: Array | None  # absolute, 2-norm, of the gradient; None where the rule has none
    gradient_evals: Array  # int32; inner gradients (or maps): one a step, one for the residual
    hvp_evals: Array  # int32; products with second derivatives (or Jacobians) of the inner function
    status: Array  # int32, a `tk.Issue` bit mask; 0 is fine

    def __repr__(self) -> str:
        return tables.text(_HEAD, self._printed())

    def _repr_html_(self) -> str:
        return tables.page(_HEAD, self._printed())

    def _printed(self) -> list[tuple[str, str]]:
        """Names and values, the status in words, which come first."""
        others = [
            (name.replace("_", " "), tables.cell(part)) for name, part in self._asdict().items()
        ]
        return [("status", _in_words(self.status)), *others[:-1]]


def _in_words(status: Any) -> str:
    """The names of the issues; under `jax.vmap` also in how many of the problems each was found."""
    if not tables.is_known(status):
        return tables.cell(status)
    masks = np.asarray(status)
    if not masks.shape:
        return str(Issue(int(masks)))
    counts = {bit.name: np.count_nonzero(masks & bit) for bit in Issue}
    found = [f"{name} in {count} of {masks.size}" for name, count in counts.items() if count]
    return ", ".join(found) or str(Issue(0))


def report_of(
    solve: SolutionMap,
    solution: Solution,
    value: Array,
    gradient: Tree,
    linear: LinearInfo | None,
    estimate: Array | None,
    inside: Array | None,
) -> HypergradientReport:
    """The report.

    Args:
      linear: how the linear system went; None where there was none.
      estimate: of the error of the gradient; None where the rule makes none.
      inside: `tk.Issue` bits of the solves inside the functions that were differentiated.
    """
    info, rule = solution.info, solve.adjoint
    zero = jnp.asarray(0, jnp.int32)
    finite = tree.all_finite((value, gradient)) & (info.status != Status.NOT_FINITE)
    status = jnp.where(finite, 0, int(Issue.NOT_FINITE))
    if inside is not None:
        # A solve inside whose rule follows its steps has the derivative of what it computed: `marks.SHORT`.
        wrong = inside & ~marks.SHORT
        status |= wrong
        # Nothing is known about the error of a function that was computed from an unsolved problem.
        if estimate is not None:
            estimate += jnp.where(wrong == 0, 0, jnp.inf).astype(estimate.dtype)
    if rule.presumes_solution:
        status |= jnp.where(stopped_short(info.status), int(Issue.INNER_NOT_CONVERGED), 0)
    hvp_evals = jnp.asarray(rule.hvp_evals(info.steps, tree.size(gradient)))
    if linear is not None:
        # A linear solve that broke down on finite numbers (a singular matrix) did not converge.
        unsolved = (linear.status != Status.CONVERGED) & (info.status != Status.NOT_FINITE)
        status |= jnp.where(unsolved, int(Issue.LINEAR_NOT_CONVERGED), 0)
        status |= jnp.where(linear.status == Status.NOT_FINITE, int(Issue.NOT_FINITE), 0)
        if solve.kind in ("argmin", "least_squares"):
            indefinite = linear.negative_curvature
            status |= jnp.where(indefinite, int(Issue.NEGATIVE_CURVATURE), 0)
        made = linear.steps + 1 if linear.products is None else linear.products
        hvp_evals = hvp_evals + made
    return HypergradientReport(
        *tree.stop_gradient(
            (
                info.residual,
                jnp.zeros_like(info.residual) if linear is None else linear.residual,
                zero if linear is None else linear.steps,
                estimate,
                info.steps + 1,
                hvp_evals.astype(jnp.int32),
                status.astype(jnp.int32),
            )
        )
    )


def tolerance_of(rule: Implicit, call: SolveCall) -> Array | float:
    """The larger of two tolerances that were asked for: of the solve, and of the linear system."""
    default = tree.eps(call.y0) ** 0.5
    linear = getattr(rule.linear_solver or call.problem.linear_solver, "tol", None)
    return jnp.maximum(
        default if linear is None else linear, default if call.tol is None else call.tol
    )


def imprecise(estimate: ErrorEstimate, tolerable: Array) -> Array:
    """The `tk.Issue` bit of the larger part, where the error is likely above ten times `tolerable`."""
    # In 99 of 100 converged solves the estimate is more than four times the error. A quarter of it
    # therefore still errs on the safe side, and raises fewer false alarms.
    exceeds = estimate.total / 4 > 10 * tolerable
    which = jnp.where(
        estimate.inner > estimate.linear,
        int(Issue.INNER_NOT_CONVERGED),
        int(Issue.LINEAR_NOT_CONVERGED),
    )
    return tree.stop_gradient(jnp.where(exceeds, which, 0).astype(jnp.int32))
