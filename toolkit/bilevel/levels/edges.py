"""A derivative rule for each edge between two levels, and what such rules change for the levels above."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit import linear, tree
from toolkit.derive.symbolic_zeros import is_zero_tangent
from toolkit.solve.call import SolveCall
from toolkit.solve.maps import SolutionMap
from toolkit.types import Adjoint, InnerProblem, Primal, Tree


def has_forward_mode(rule: Adjoint) -> bool:
    """Whether a tangent can be carried through `rule`."""
    return getattr(rule, "forward_mode", True)


def needs_objective(rule: Adjoint) -> bool:
    """Whether `rule` serves gradients of functions only, and no other field."""
    return getattr(rule, "needs_objective", False)


def _needs_no_run(rule: Adjoint) -> bool:
    """Whether `rule` calls the run for its value only."""
    return getattr(rule, "needs_no_run", False)


@dataclass(frozen=True)
class UnsymmetricSolutionMap(SolutionMap):
    """The solution map of a level above edges with different rules.

    The level solves for a zero of an approximate gradient. With different rules on the edges below, that
    field is the gradient of no function, and its derivative is not symmetric. So the linear solver must
    not be one for symmetric systems, and the cheap Hessian-vector product (a derivative of a gradient
    along a direction) does not apply. With one rule for all edges, however rough, the derivative is
    symmetric.
    """

    def prepare(self, y0: Tree, theta: Tree = None, xs: Tree = None) -> SolveCall:
        """One call, taken apart, without what presumes a symmetric derivative."""
        call = super().prepare(y0, theta, xs)
        problem = replace(
            call.problem,
            objective=None,
            composite=None,
            linear_solver=linear.choose(call.y0, symmetric=False),
        )
        primal, steps = call.primal, call.primal.steps
        # `replayed` differentiates a step by the cheap Hessian-vector product; `step` is the step as it is.
        if steps is not None:
            primal = primal._replace(steps=steps._replace(replayed=steps.step))
        return call._replace(problem=problem, primal=primal)


@dataclass(frozen=True, eq=False)
class ByEdge:
    """An adjoint with a rule for each variable above, and one for all else: `dy = sum_e T_e dtheta_e`.

    `T_e` is the tangent map of edge e's rule. It would be simpler to add up solutions, each of which is
    differentiated along its own edge only. That gives the same first derivative but a wrong second one:
    `T_e` depends on all variables, and must itself be differentiated along all edges.
    """

    default: Adjoint
    edges: dict[str, Adjoint]

    @property
    def presumes_solution(self) -> bool:
        """Whether one of the rules gives the derivative of an exact solution, whatever the steps were."""
        return any(rule.presumes_solution for rule in (self.default, *self.edges.values()))

    def hvp_evals(self, steps: Array, hyperparameters: int) -> Array:
        """The sum over all rules."""
        rules = (self.default, *self.edges.values())
        return functools.reduce(jnp.add, [r.hvp_evals(steps, hyperparameters) for r in rules])

    def differentiable(
        self, problem: InnerProblem, primal: Primal
    ) -> Callable[[Tree, Tree, Tree], tuple[Tree, Array]]:
        """`primal.run` with each edge's derivative."""

        # The solve itself is hidden from differentiation (`run` below), and its result passes through this
        # function, which returns it unchanged and whose derivative is the sum over the edges.
        @jax.custom_jvp
        def at_solution(y: Tree, operands: Tree, y0: Tree) -> Tree:
            return y

        def differentiate(
            primals: tuple[Tree, Tree, Tree], tangents: tuple[Tree, Tree, Tree]
        ) -> tuple[Tree, Tree]:
            y = at_solution(*primals)
            solved = tree.stop_gradient(y), jnp.asarray(0, jnp.int32)
            known = primal._replace(run=lambda *_: solved)
            y_dot = optax.tree.zeros_like(y)
            for edge, rule in ((None, self.default), *self.edges.items()):
                # A rule that only needs the solution is handed it, in place of a solve that would run again.
                run = rule.differentiable(problem, known if _needs_no_run(rule) else primal)
                part = _along(run, self._moving(edge, tangents[1:]), primals[1:], tangents[1:])
                y_dot = y_dot if part is None else jax.tree.map(jnp.add, y_dot, part)
            return y, y_dot

        # With symbolic zeros the rule sees which arguments do not move: their edges cost nothing.
        at_solution.defjvp(differentiate, symbolic_zeros=True)

        def run(y0: Tree, operands: Tree, xs: Tree) -> tuple[Tree, Array]:
            y, steps = tree.stop_gradient(primal.run(*tree.stop_gradient((y0, operands, xs))))
            return at_solution(y, operands, y0), steps

        return run

    def _moving(self, edge: str | None, tangents: tuple[Any, Tree]) -> Tree:
        """For each array of the operands and of y0, whether it moves and belongs to this edge.

        None stands for all variables without an edge of their own, for y0 and for closed-over arrays.
        """

        def moves(mine: bool, tangent: Any) -> bool:
            return mine and not is_zero_tangent(tangent)

        operands, y0 = tangents
        rest, y0 = jax.tree.map(functools.partial(moves, edge is None), (operands, y0))
        theta = {}
        for name, tangent in operands.theta.items():
            mine = name not in self.edges if edge is None else name == edge
            theta[name] = jax.tree.map(functools.partial(moves, mine), tangent)
        return rest._replace(theta=theta), y0


def _along(run: Callable[..., Any], moving: Tree, primals: Tree, tangents: Tree) -> Tree:
    """The tangent of `run(y0, operands)` along those `tangents` that are marked as moving; None without any."""
    if not any(jax.tree.leaves(moving)):
        return None
    free, fixed = tree.select(primals, moving)
    free_dot, _ = tree.select(tangents, moving)

    def moved(free: Tree) -> Tree:
        operands, y0 = tree.merge(free, fixed)
        return run(y0, operands, None)[0]

    return jax.jvp(moved, (free,), (free_dot,))[1]
