"""How a solve ended: the residual at its end, and whether that is small."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit import tree
from toolkit.derive import marks
from toolkit.derive.collecting import collect
from toolkit.leaves.promotion import standard_promotion
from toolkit.solve.call import SolveCall, last
from toolkit.types import Adjoint, Ended, Issue, SolveInfo, Status, Tree


class Ending(NamedTuple):
    """How a solve ended, and the solves inside its function; arrays without gradient."""

    info: SolveInfo
    # [] int32, `tk.Issue` bits (and `marks.SHORT`) of the solves inside, at the solution; None: there are none
    inside: Array | None

    def issues(self, rule: Adjoint) -> Array:
        """The bits of the whole solve, differentiated by `rule`, for a solve that it stands in."""
        short = int(Issue.INNER_NOT_CONVERGED) if rule.presumes_solution else marks.SHORT
        own = jnp.where(stopped_short(self.info.status), short, 0)
        failed = jnp.where(self.info.status == Status.NOT_FINITE, int(Issue.NOT_FINITE), 0)
        return (0 if self.inside is None else self.inside) | own | failed


def stopped_short(status: Array) -> Array:
    """Whether a solve ended above its tolerance, for whatever reason but numbers that are not finite."""
    return (status != Status.CONVERGED) & (status != Status.NOT_FINITE)


def verdict(call: SolveCall, y: Tree, ended: Array | Ended) -> Ending:
    """Judge `y` by the residual there, recomputed, and by the solves that this takes; no derivative.

    Cost: one evaluation, and one more beside `y` without a tolerance; none if `info` is unused in
    compiled code.
    """
    problem, xs = call.problem, last(call.xs)
    y, y0, operands = tree.stop_gradient((y, call.y0, call.operands))

    def residual(y: Tree) -> Tree:
        return problem.residual(y, problem.evaluate(y, operands, xs))

    left, inside = residual(y), None
    if problem.holds_solves():
        left, inside = collect(residual, problem.depth + 1, y)
    reached = tree.norm(left)
    tol = _small(residual, y0, y, left, reached) if call.tol is None else call.tol
    finite = jnp.isfinite(reached) & tree.all_finite(y)
    converged = reached <= tol
    # A residual that was computed from an unsolved problem may be small anywhere.
    if inside is not None:
        converged &= inside == 0
    if isinstance(ended, Ended):  # a status never trusts another library's word: it only tells why
        status = jnp.where(converged & finite, int(Status.CONVERGED), ended.otherwise)
        steps = ended.steps
    else:
        status = jnp.where(converged, int(Status.CONVERGED), int(Status.STEP_LIMIT))
        status, steps = jnp.where(finite, status, int(Status.NOT_FINITE)), ended
    return Ending(SolveInfo(status.astype(jnp.int32), steps, reached), inside)


def _small(
    residual: Callable[[Tree], Tree], y0: Tree, y: Tree, left: Tree, reached: Array
) -> Array:
    """The norm up to which a residual at `y` is small, where the user gave no tolerance.

    No fixed number can say that: of a loss of 1e-5 every residual is small. So `y` is moved along the residual
    by `sqrt(eps)` of its size, or of the way from `y0`, and the residual changes by so much. Where less than
    this change is left, `y` is nearer to a solution than such a move is long. The answer is the same for any
    multiple of the function and any unit of `y`, and a start that is a solution passes.

    Args:
      left: the residual at `y`, of norm `reached`.
    """
    way = tree.norm(optax.tree.sub(y, y0))
    # A solver may come to a solution from a start that is not finite.
    size = jnp.maximum(tree.norm(y), jnp.where(jnp.isfinite(way), way, 0))
    there = residual(_moved(y, tree.eps(y) ** 0.5 * size, left, reached))
    return tree.norm(optax.tree.sub(there, left))


@standard_promotion
def _moved(y: Tree, distance: Array, left: Tree, reached: Array) -> Tree:
    ahead = jax.tree.map(lambda leaf: tree.safe_divide(leaf, reached), left)
    return tree.add_scaled(y, -distance, ahead)
