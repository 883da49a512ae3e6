"""The implicit function theorem."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit import tree
from toolkit.adjoint.requirements import require_one_objective
from toolkit.curvature import forward_over_reverse
from toolkit.linear_system import solve_linear
from toolkit.types import LinearInfo, LinearSolver, Primal, Problem, Tree


class Pullback(NamedTuple):
    """A cotangent of theta, and the linear solve behind it; trees on the real leaves of y."""

    theta_bar: Tree  # like theta, None at leaves without derivative
    right_side: Tree  # b of the system F_y' v = b
    solution: Tree  # its v
    info: LinearInfo
    residual: Tree  # F at y
    jacobian: Callable[[Tree], Tree]  # F_y + damping at y, linearised


@dataclass(frozen=True)
class Implicit:
    """The derivative of the exact solution, whatever steps led to it.

    With `F(y, theta) = 0` at the solution (F the gradient, the function, or `fun(y) - y`),
    `F_y dy + F_theta dtheta = 0`, so `dy = -F_y^{-1} F_theta dtheta`: a forward-mode rule with a
    transposable linear solve.

    Args:
      linear_solver: None chooses by structure and size (`tk.linear.choose`).
      damping: added to the diagonal of `F_y`; trades bias for stability.

    Differentiation: forward and reverse mode, any order, nested. Zero by theory: with respect to
    `y0` and to the solver's settings (step sizes, momenta), and to `damping` and the linear
    solver's own settings, which only approximate this rule.

    Cost: one linear solve with the linearised `F_y`, one product with `F_theta` (transposed in
    reverse mode). Error: O(residual of the solve) + O(residual of the linear solve / curvature).

    Source: Griewank & Walther 2008, chapter 15; Blondel et al. 2022, equation 3.
    """

    linear_solver: LinearSolver | None = None
    damping: float | Array = 0.0

    @property
    def presumes_solution(self) -> bool:
        """True: away from a solution this derivative is that of no computation."""
        return True

    def differentiable(
        self, problem: Problem, primal: Primal
    ) -> Callable[[Tree, Tree, Tree], tuple[Tree, Array]]:
        """`primal.run` with the implicit derivative."""

        rule = _settled(self)

        @jax.custom_jvp
        def at_solution(y: Tree, theta: Tree) -> Tree:
            return y

        def differentiate(
            primals: tuple[Tree, Tree], tangents: tuple[Tree, Tree]
        ) -> tuple[Tree, Tree]:
            # The wrapped point, not the raw one: its second derivative is this rule's again.
            y = at_solution(*primals)
            return y, rule._tangent(problem, y, primals[1], tangents[1])

        at_solution.defjvp(differentiate, symbolic_zeros=True)

        def run(y0: Tree, theta: Tree, xs: Tree) -> tuple[Tree, Array]:
            require_one_objective("Implicit", xs)
            # No derivative passes through the steps, whatever the solver is or closes over.
            constant_y0, constant_theta = tree.stop_gradient((y0, theta))
            y, steps = tree.stop_gradient(primal.run(constant_y0, constant_theta, None))
            return at_solution(y, theta), steps

        return run

    def pullback(self, problem: Problem, y: Tree, theta: Tree, y_bar: Tree) -> Pullback:
        """`theta_bar = -F_theta' v` with `F_y' v = y_bar`, and how the linear solve went.

        The same numbers as reverse mode through `differentiable`, with the report kept.
        """
        # JAX pairs complex cotangents without conjugation: Re(y_bar * dy).
        right_side = tree.as_real(tree.conj(y_bar))
        moving, fixed, _ = tree.split(theta)
        fast = forward_over_reverse(problem)

        def condition(moving: Tree) -> Tree:
            full = tree.merge(moving, fixed)
            return tree.as_real(problem.residual(y, fast.evaluate(y, full, None)))

        residual, jacobian = self._linearised(problem, y, theta)
        matvec = jacobian if problem.symmetric else _transpose(jacobian, right_side)
        solver = self.linear_solver or problem.linear_solver
        v, info = solve_linear(solver, matvec, right_side, problem.symmetric)
        _, pull = jax.vjp(condition, moving)
        (theta_bar,) = pull(jax.tree.map(jnp.negative, v))
        return Pullback(theta_bar, right_side, v, info, residual, jacobian)

    def hvp_evals(self, steps: Array, hyperparameters: int) -> Array:
        """One product with `F_theta`; the linear solver's own are in `LinearInfo.steps`."""
        return 0 * steps + 1

    def _linearised(
        self, problem: Problem, y: Tree, theta: Tree
    ) -> tuple[Tree, Callable[[Tree], Tree]]:
        """`F` and the product with `F_y + damping` at `(y, theta)`, on real leaves."""

        def condition(real: Tree) -> Tree:
            point = tree.as_like(y, real)
            return tree.as_real(problem.residual(point, problem.evaluate(point, theta, None)))

        residual, product = jax.linearize(condition, tree.as_real(y))
        if isinstance(self.damping, (int, float)) and self.damping == 0:
            return residual, product
        return residual, lambda v: jax.tree.map(
            lambda p, d: (p + self.damping * d).astype(p.dtype), product(v), v
        )

    def _tangent(self, problem: Problem, y: Tree, theta: Tree, theta_dot: Tree) -> Tree:
        """`-F_y^{-1} F_theta theta_dot`."""
        is_zero = jax.tree.map(tree.is_zero_tangent, theta_dot)
        if all(jax.tree.leaves(is_zero)):
            return optax.tree.zeros_like(y)
        moves = jax.tree.map(lambda zero: not zero, is_zero)
        moving, fixed = tree.select(theta, moves)
        moving_dot, _ = tree.select(theta_dot, moves)

        def condition(moving: Tree) -> Tree:
            full = tree.merge(moving, fixed)
            return tree.as_real(problem.residual(y, problem.evaluate(y, full, None)))

        _, right_side = jax.jvp(condition, (moving,), (moving_dot,))
        solver = self.linear_solver or problem.linear_solver
        _, jacobian = self._linearised(problem, y, theta)
        negative_dot, _ = solve_linear(solver, jacobian, right_side, problem.symmetric)
        return tree.as_like(y, jax.tree.map(jnp.negative, negative_dot))


def _transpose(linear: Callable[[Tree], Tree], like: Tree) -> Callable[[Tree], Tree]:
    transposed = jax.linear_transpose(linear, like)
    return lambda v: transposed(v)[0]


def _settled(setting: Any) -> Any:
    """Settings without derivative: under this rule it is zero by theory."""
    if not dataclasses.is_dataclass(setting):
        return tree.stop_gradient(setting) if isinstance(setting, jax.Array) else setting
    values = {f.name: _settled(getattr(setting, f.name)) for f in dataclasses.fields(setting)}
    return dataclasses.replace(setting, **values)  # type: ignore[type-var]
