"""`Implicit`: the derivative of an exact solution, by the implicit function theorem."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit import tree
from toolkit.adjoint.requirements import require_one_objective
from toolkit.adjoint.zeros import warn_of_zeros
from toolkit.derive.curvature import forward_over_reverse
from toolkit.derive.linear_solve import solve
from toolkit.derive.linearised_system import is_one_way, linearise, loops
from toolkit.derive.refusal import (
    NO_REVERSE_OVER_LOOP,
    naming_loops,
    refuse_derivatives,
    refuse_forward_mode,
    refuse_transposition,
)
from toolkit.derive.symbolic_zeros import is_zero_tangent, values_and_wanted
from toolkit.derive.two_modes import linearised_in_part, rules_used_up
from toolkit.settings import NonNegative, settings
from toolkit.types import InnerProblem, LinearInfo, Primal, Tree
from toolkit.vocabulary.roles import LinearSolver


class Pullback(NamedTuple):
    """A cotangent of theta, and the linear solve behind it; trees with the real leaves of y."""

    theta_bar: Tree  # like theta, None at leaves without derivative
    right_side: Tree  # b of the system F_y' v = b
    solution: Tree  # its v
    info: LinearInfo
    residual: Tree  # F at y
    jacobian: Callable[[Tree], Tree]  # F_y + damping at y, or its transpose, linearised


@settings("implicit")
class Implicit:
    """The derivative of the exact solution, whatever steps led to it.

    With `F(y, theta) = 0` at the solution (F the gradient, the function, or `fun(y) - y`),
    `F_y dy + F_theta dtheta = 0`, so `dy = -F_y^{-1} F_theta dtheta`. The rule is written for forward
    mode, with a linear solve that JAX can transpose; so all modes and orders follow from it.

    Args:
      linear_solver: None chooses by structure and size (`tk.linear.choose`).
      damping: nonnegative, added to the diagonal of `F_y`; trades bias for stability.

    Raises:
      ValueError: the solve is given per-step inputs `xs`.

    Differentiation: forward and reverse mode, any order, nested. Zero by theory with respect to `y0`
    and to the solver's settings (step sizes, momenta): a `ZeroDerivativeWarning` is given where such
    a derivative is asked for. Zero as well with respect to `damping` and the linear solver's own
    settings: they only approximate this rule. Where `fun` calls a function with a derivative rule of
    its own (`jax.custom_vjp`: clipped gradients, feedback weights), `F_y` is not taken for symmetric.
    One with a backward pass that JAX cannot transpose (a compiled kernel) leaves reverse mode of first
    order; the derivative is NaN where its system is not solved to the tolerance.

    Cost: one linear solve with the linearised `F_y`, one product with `F_theta` (transposed in
    reverse mode). Error: O(residual of the solve) + O(residual of the linear solve / curvature).

    Source: Griewank & Walther 2008, chapter 15; Blondel et al. 2022, equation 3.
    """

    linear_solver: LinearSolver | None = None
    damping: NonNegative = 0.0

    @property
    def presumes_solution(self) -> bool:
        """True: the implicit function theorem holds at a solution only."""
        return True

    @property
    def needs_no_run(self) -> bool:
        """True: the derivative depends on the solution alone."""
        return True

    def differentiable(
        self, problem: InnerProblem, primal: Primal
    ) -> Callable[[Tree, Tree, Tree], tuple[Tree, Array]]:
        """`primal.run` with the implicit derivative."""

        rule = _without_derivative(self)
        # What makes a tilted problem holds the user's functions, and with them arrays of this trace. The
        # rule below is kept in a program, and must hold none.
        untilted = primal._replace(tilted=None)

        # A solve may stand inside the function of another solve. Damping and a linear solver of the user's
        # choice (a series of few terms) make a derivative of their own, for which `rules` in
        # `jaxprs/own_rules.py` must not take it for the derivative: it knows functions by their names.
        is_exact = self.linear_solver is None and _is_zero(self.damping)
        identity = _exact_solution if is_exact else _approximation

        def solution_of(problem: InnerProblem) -> Callable[[Tree, Tree, Tree], Tree]:
            at_solution = jax.custom_jvp(identity)

            def differentiate(
                primals: tuple[Tree, Tree, Tree], tangents: tuple[Tree, Tree, Tree]
            ) -> tuple[Tree, Tree]:
                wanted = jax.tree.map(lambda t: not is_zero_tangent(t), tangents[1:])
                warn_of_zeros("Implicit", untilted, *wanted)
                # The tangent is formed at the result of `at_solution`, not at the plain array y. Else a
                # second derivative would treat that y as a constant, and silently be wrong.
                again = solution_of(rules_used_up(problem)) if problem.own_rule else at_solution
                y = again(*primals)
                return y, rule._tangent(problem, y, primals[1], tangents[1])

            at_solution.defjvp(differentiate, symbolic_zeros=True)
            return at_solution

        def run(y0: Tree, theta: Tree, xs: Tree) -> tuple[Tree, Array]:
            require_one_objective("Implicit", xs)
            # The arguments of the run are made constants, so that JAX does not differentiate the steps:
            # it would fail on a `while_loop` in reverse mode, and waste memory on a `scan`.
            constant_y0, constant_theta = tree.stop_gradient((y0, theta))
            y, steps = tree.stop_gradient(primal.run(constant_y0, constant_theta, None))
            # A system of which there are products with its transpose alone cannot be written for forward mode.
            if is_one_way(problem, y, constant_theta):
                return self._backward_only(problem, primal)(y, theta, y0), steps
            return solution_of(problem)(y, theta, y0), steps

        return run

    def pullback(
        self, problem: InnerProblem, y: Tree, theta: Tree, y_bar: Tree, v0: Tree | None = None
    ) -> Pullback:
        """`theta_bar = -F_theta' v` with `F_y' v = y_bar`, and how the linear solve went.

        `v0`, on the real leaves of y, is where an iterative linear solver starts. The same numbers as
        reverse mode through `differentiable`, with the report kept.
        """
        # In JAX a complex cotangent y_bar stands for the change Re(y_bar * dy), without conjugation, which
        # is Re(y_bar) Re(dy) - Im(y_bar) Im(dy). Written for the real pair (Re(dy), Im(dy)), its cotangent
        # is (Re(y_bar), -Im(y_bar)): that is conj(y_bar) as a pair.
        right_side = tree.as_real(tree.conj(y_bar))
        residual, system = linearise(problem, y, theta, self.damping)
        solver = self.linear_solver or problem.linear_solver
        v, info = solve(solver, system, right_side, transposed=True, x0=v0)
        theta_bar = self.cotangent(problem, y, theta, v)
        # Only its Rayleigh quotients are looked at, which are those of the transposed map.
        jacobian = system.matvec if system.transposed is None else system.transposed
        return Pullback(theta_bar, right_side, v, info, residual, jacobian)

    def cotangent(self, problem: InnerProblem, y: Tree, theta: Tree, v: Tree) -> Tree:
        """`-F_theta' v`, the last part of a pullback; None at leaves without derivative."""
        moving, fixed, _ = tree.split(theta)
        # `condition` is pulled back in reverse mode below. With this form of the gradient that costs one
        # Hessian-vector product, instead of a reverse pass over a reverse pass.
        fast = forward_over_reverse(problem)

        def condition(moving: Tree) -> Tree:
            full = tree.merge(moving, fixed)
            return tree.as_real(problem.residual(y, fast.evaluate(y, full, None)))

        with naming_loops(NO_REVERSE_OVER_LOOP):
            _, pull = jax.vjp(condition, moving)
            (theta_bar,) = pull(jax.tree.map(jnp.negative, v))
        return theta_bar

    def _backward_only(
        self, problem: InnerProblem, primal: Primal
    ) -> Callable[[Tree, Tree, Tree], Tree]:
        """`(y, theta, y0) -> y` with the implicit derivative in reverse mode, of first order."""
        why = (
            f"under Implicit() where `fun` calls {problem.backward_only}: it has a backward pass alone "
            "(jax.custom_vjp), and JAX cannot transpose that; use Unroll(), or give it a rule for both modes "
            "(jax.custom_jvp)."
        )

        @jax.custom_vjp
        def at_solution(y: Tree, theta: Tree, y0: Tree) -> Tree:
            return y

        def forward(*primals: Any) -> tuple[Tree, tuple[Tree, Tree]]:
            (y, theta, _), wanted = values_and_wanted(primals)
            warn_of_zeros("Implicit", primal, *wanted[1:])
            y, theta = refuse_derivatives((y, theta), f"There are first derivatives only {why}")
            return y, (y, theta)

        def backward(residuals: tuple[Tree, Tree], y_bar: Tree) -> tuple[None, Tree, None]:
            y, theta = residuals
            return None, self.pullback(problem, y, theta, y_bar).theta_bar, None

        at_solution.defvjp(forward, backward, symbolic_zeros=True)

        def guarded(y: Tree, theta: Tree, y0: Tree) -> Tree:
            return at_solution(y, refuse_forward_mode(theta, f"There is no forward mode {why}"), y0)

        return guarded

    def hvp_evals(self, steps: Array, hyperparameters: int) -> Array:
        """One product with `F_theta`; `LinearInfo` counts those of the linear solver."""
        return 0 * steps + 1

    def _tangent(self, problem: InnerProblem, y: Tree, theta: Tree, theta_dot: Tree) -> Tree:
        """`-F_y^{-1} F_theta theta_dot`, like y."""
        # Leaves whose tangent is zero by construction are held fixed. A product along them would cost as
        # much as along any other, and integer leaves have no tangent that `jax.jvp` could use here.
        is_zero = jax.tree.map(is_zero_tangent, theta_dot)
        if all(jax.tree.leaves(is_zero)):
            return optax.tree.zeros_like(y)
        moves = jax.tree.map(lambda zero: not zero, is_zero)
        moving, fixed = tree.select(theta, moves)
        moving_dot, _ = tree.select(theta_dot, moves)

        def condition(moving: Tree, real: Tree) -> Tree:
            full, point = tree.merge(moving, fixed), tree.as_like(y, real)
            return tree.as_real(problem.residual(point, problem.evaluate(point, full, None)))

        if problem.own_rule or problem.backward_only or problem.loops_on_data:
            here = linearised_in_part(condition, moving, tree.as_real(y), problem)
            right_side = here.product(moving_dot)
            if problem.loops_on_data and loops(here.product, moving):
                right_side = refuse_transposition(right_side, NO_REVERSE_OVER_LOOP)
        else:
            at_y = lambda moving: condition(moving, tree.as_real(y))
            _, right_side = jax.jvp(at_y, (moving,), (moving_dot,))
        solver = self.linear_solver or problem.linear_solver
        _, system = linearise(problem, y, theta, self.damping)
        negative_dot, _ = solve(solver, system, right_side, depth=problem.depth)
        return tree.as_like(y, jax.tree.map(jnp.negative, negative_dot))


# The identity in y. theta and y0 are arguments so that their tangents reach the rule.
def _exact_solution(y: Tree, theta: Tree, y0: Tree) -> Tree:
    return y


def _approximation(y: Tree, theta: Tree, y0: Tree) -> Tree:
    return y


def _is_zero(damping: Any) -> bool:
    return isinstance(damping, (int, float)) and damping == 0


def _without_derivative(setting: Any) -> Any:
    """`setting` with `stop_gradient` on all its arrays: by theory the derivative in them is zero.

    Otherwise JAX would differentiate a traced damping or tolerance through the approximate linear
    solve, and return a derivative of the approximation's error.
    """
    # Settings are dataclasses, and no trees. Those of another library may be both.
    is_tree = not jax.tree_util.all_leaves([setting])
    if is_tree or not dataclasses.is_dataclass(setting):
        # Python numbers stay Python numbers. `stop_gradient` would make arrays of them, tracers inside
        # a trace; the rule is traced again later, when they would have leaked.
        return jax.tree.map(
            lambda leaf: tree.stop_gradient(leaf) if isinstance(leaf, jax.Array) else leaf, setting
        )
    values = {
        f.name: _without_derivative(getattr(setting, f.name)) for f in dataclasses.fields(setting)
    }
    return dataclasses.replace(setting, **values)  # type: ignore[type-var]
