"""A rule for each edge between levels, and solves above rules that are approximate."""

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
    """A solve for a zero of what stands for a gradient, above edges with different rules.

    Where each edge below has its own rule, what stands for the gradient is the gradient of no
    function. So its derivative is not symmetric: the linear solver must not be one for symmetric
    systems, and the cheap Hessian-vector product (a derivative of a gradient along a direction) does
    not apply. With one rule for all edges, however rough, the derivative is symmetric to any order.
    """

    def prepare(self, y0: Tree, theta: Tree = None, xs: Tree = None) -> SolveCall:
        """One call, taken apart."""
        call = super().prepare(y0, theta, xs)
        problem = replace(
            call.problem,
            objective=None,
            composite=None,
            linear_solver=linear.choose(call.y0, symmetric=False),
        )
        primal, steps = call.primal, call.primal.steps
        if steps is not None:
            primal = primal._replace(steps=steps._replace(replayed=steps.step))
        return call._replace(problem=problem, primal=primal)


@dataclass(frozen=True, eq=False)
class ByEdge:
    """A rule for the derivative in each variable above, and in all else: `dy = sum_e T_e dtheta_e`.

    Each `T_e` is the tangent map of edge e's rule. Adding up solutions, each differentiated along its
    own edge only, would give the same first derivative but a wrong second one: `T_e` depends on all
    variables, and must be differentiated along all edges.
    """

    default: Adjoint
    edges: dict[str, Adjoint]

    @property
    def presumes_solution(self) -> bool:
        """Whether one of the rules does."""
        return any(rule.presumes_solution for rule in (self.default, *self.edges.values()))

    def hvp_evals(self, steps: Array, hyperparameters: int) -> Array:
        """Those of all rules."""
        rules = (self.default, *self.edges.values())
        return functools.reduce(jnp.add, [r.hvp_evals(steps, hyperparameters) for r in rules])

    def differentiable(
        self, problem: InnerProblem, primal: Primal
    ) -> Callable[[Tree, Tree, Tree], tuple[Tree, Array]]:
        """`primal.run` with each edge's derivative."""

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
                # A rule that reads the value only is given the solution: it costs no other solve.
                run = rule.differentiable(problem, known if _needs_no_run(rule) else primal)
                part = _along(run, self._moving(edge, tangents[1:]), primals[1:], tangents[1:])
                y_dot = y_dot if part is None else jax.tree.map(jnp.add, y_dot, part)
            return y, y_dot

        at_solution.defjvp(differentiate, symbolic_zeros=True)

        def run(y0: Tree, operands: Tree, xs: Tree) -> tuple[Tree, Array]:
            y, steps = tree.stop_gradient(primal.run(*tree.stop_gradient((y0, operands, xs))))
            return at_solution(y, operands, y0), steps

        return run

    def _moving(self, edge: str | None, tangents: tuple[Any, Tree]) -> Tree:
        """Booleans: what moves of the operands and of y0 and is the edge's; None has no edge."""

        def moves(mine: bool, tangent: Any) -> bool:
            return mine and not tree.is_zero_tangent(tangent)

        operands, y0 = tangents
        rest, y0 = jax.tree.map(functools.partial(moves, edge is None), (operands, y0))
        theta = {}
        for name, tangent in operands.theta.items():
            mine = name not in self.edges if edge is None else name == edge
            theta[name] = jax.tree.map(functools.partial(moves, mine), tangent)
        return rest._replace(theta=theta), y0


def _along(run: Callable[..., Any], moving: Tree, primals: Tree, tangents: Tree) -> Tree:
    """The tangent of `run(y0, operands)` along those of `tangents` that are moving; None if none is."""
    if not any(jax.tree.leaves(moving)):
        return None
    free, fixed = tree.select(primals, moving)
    free_dot, _ = tree.select(tangents, moving)

    def moved(free: Tree) -> Tree:
        operands, y0 = tree.merge(free, fixed)
        return run(y0, operands, None)[0]

    return jax.jvp(moved, (free,), (free_dot,))[1]
