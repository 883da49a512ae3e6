"""`argmin`, `root`, `fixed_point`, `least_squares`: where a solver meets an adjoint."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Never

from jax import Array

from toolkit import tree
from toolkit.adjoint.implicit import Implicit
from toolkit.derive import marks
from toolkit.errors.readable import readable
from toolkit.leaves.containers import packed
from toolkit.settings import require
from toolkit.solve.by_hand import Init, Step, by_hand
from toolkit.solve.call import WITH_DATA, Fun, SolveCall, last, told
from toolkit.solve.preparation import prepare, with_gauss_newton
from toolkit.solve.returned import Returns
from toolkit.solve.verdict import verdict
from toolkit.types import (
    Adjoint,
    Asked,
    Curvature,
    PullbackReport,
    Solution,
    SolveInfo,
    Solver,
    Tree,
)


@dataclass(frozen=True)
class SolutionMap:
    """`solve(y0, theta)` and `solve(y0, theta, xs)` -> `tk.Solution`; see `tk.argmin`."""

    kind: Asked
    fun: Fun
    solver: Solver | Callable[..., Solution]
    adjoint: Adjoint
    has_aux: bool = False
    value_and_grad: bool = False
    curvature: Curvature = "exact"  # "gauss_newton": of a sum of squares, under the implicit rule

    @property
    def _returns(self) -> Returns:
        return Returns(self.has_aux, self.value_and_grad)

    @readable
    def __call__(self, y0: Tree, theta: Tree = None, xs: Tree = None, **others: Never) -> Solution:
        """Solve from `y0`; differentiable in `theta` and in what `fun` closes over.

        Args:
          y0: the start; its floating and complex leaves are solved for, others are carried.
          theta: hyperparameters, any tree, or None.
          xs: one entry a step along each leaf's leading axis; `fun` then takes `(y, theta, x)`.

        Raises:
          ValueError: `y0` has nothing to solve for, `xs` does not have one entry a step, or `fun`
            does not take it, or returns something else than this kind of solve needs.
        """
        if others:
            raise TypeError(
                f"`solve` takes (y0, theta, xs): got {', '.join(others)}; what `fun` reads besides y is part "
                f"of theta: {WITH_DATA}."
            )
        return self.reporting(None, y0, theta, xs)[0]

    def steps(self) -> tuple[Init, Step]:
        """The solver as `(init, step)`, a pair of pure functions for a loop of one's own.

            init, step = tk.argmin(fun, solver).steps()
            state = init(y0, theta)
            state, info = step(state, theta)  # step(state, theta, x) for fun(y, theta, x)

        `state.y` is the iterate, like `y0`, and `state.step` counts the updates made. `info` is
        `tk.StepInfo(status, residual, value, aux)` at the point handed in. Its status is `CONVERGED` where the
        residual there is at most the solver's `tol`; then the state comes back as it was. It is never so with
        `tol=None`. `NOT_FINITE`: the residual is not finite, or the point that is returned; with a tolerance the
        iterate is NaN from then on. Else `STEP_LIMIT`: not there yet. Whether a solve inside `fun` has
        converged is not said.

        A `jax.lax.while_loop` over `step` gives `solve(y0, theta).value` and `.info.steps` to the bit, and so
        does a `jax.lax.scan` over `xs`. (XLA rounds last digits by what stands beside an operation: a step
        outside of a loop may differ there, and with jax 0.10 a loop that reads `info.value`.) The limit on the
        steps is the loop's own. After it a schedule that is an array keeps its last entry.

        Raises:
          ValueError: the solver shows no steps; by `init` and `step`, what `solve` raises.

        Differentiation: through what a loop computes, as JAX differentiates it: the adjoint has no part in
        it. `info.status` and `info.residual` have no derivative. For exact or cheap derivatives use `solve`.

        Cost: that of one step of the solver, with one evaluation of `fun`; `aux` takes one more under a line
        search, which keeps none. `fun` is traced in each call: jit the function that calls `step`.
        """
        return by_hand(self.kind, self.fun, self.solver, self._returns)

    def reporting(
        self, report: PullbackReport | None, y0: Tree, theta: Tree, xs: Tree
    ) -> tuple[Solution, Array | None]:
        """The solution, and the `tk.Issue` bits of the solves inside its function (None: there are none).

        What the reverse pass reports are the cotangents of `report`, zeros. A rule that reports nothing
        leaves these cotangents zero.
        """
        if xs is not None:
            _require_x(self.fun, xs)
        call = self.prepare(y0, theta, xs)
        # Only rules whose reverse pass has something to report take this argument.
        takes_report = report is not None and "report" in _parameters(self.adjoint.differentiable)
        extra: dict[str, Any] = {"report": report} if takes_report else {}
        run = self.adjoint.differentiable(call.problem, call.primal, **extra)
        with marks.deeper():
            y, steps = run(call.y0, call.operands, call.xs)
        judged = verdict(call, y, steps)
        if call.problem.depth:
            y = marks.mark(y, judged.issues(self.adjoint), call.problem.depth)
        return self.conclude(call, y, judged.info), judged.inside

    def prepare(self, y0: Tree, theta: Tree = None, xs: Tree = None) -> SolveCall:
        """One call, taken apart, for callers that drive an adjoint by hand as `tk.hypergradient` does."""
        call = prepare(self.kind, self.fun, self.solver, self._returns, y0, theta, xs)
        if self.curvature == "exact":
            return call
        # Only now: the solver's own steps never depend on how the derivative is made.
        return call._replace(problem=with_gauss_newton(call.problem))

    def conclude(self, call: SolveCall, y: Tree, info: SolveInfo) -> Solution:
        """The solution as the user sees it: like y0, with the function's aux."""
        problem, operands, xs = call.problem, call.operands, call.xs
        value = problem.user_y(y, operands)
        aux = None
        if self.has_aux:
            # Not `value` itself: a module may change when it is called.
            args = (problem.user_y(y, operands), problem.user_theta(operands))
            out = self.fun(*args) if xs is None else self.fun(*args, packed(last(xs)))
            aux = self._returns.aux(self.fun, out)
        return Solution(value, told(call, y, info), aux)


@readable
def argmin(
    fun: Fun,
    solver: Solver | Callable[..., Solution],
    *,
    adjoint: Adjoint | None = None,
    has_aux: bool = False,
    value_and_grad: bool = False,
) -> SolutionMap:
    """A minimiser of `fun(., theta)` as a pure function of `theta`.

    `solve(y0, theta).value` is what `solver` reaches from `y0`; `adjoint` says how its derivative
    is made, and never changes the value. What `fun` closes over is differentiated like `theta`.

    Args:
      fun: `fun(y, theta) -> scalar` (`(y, theta, x)` when the solve is given per-step `xs`);
        with `has_aux`, `(scalar, aux)`.
      solver: one of `tk.solver`, or a callable `(fun, y0, theta) -> tk.Solution`.
      adjoint: one of `tk.adjoint`; `Implicit()` when not given.
      has_aux: whether `fun` returns aux arrays; they come back at the solution.
      value_and_grad: whether `fun` returns `(value, gradient)`, with aux `((value, aux), gradient)`, the
        gradient in `y` as `jax.grad` gives it. Solvers use it and do not differentiate `fun` in `y`. The rules
        that follow the steps differentiate this gradient, and `Implicit` takes its derivative for the Hessian,
        which it does not presume to be symmetric; `Nudged` refuses. Nothing compares the gradient with the
        value: `tk.check_hypergradient` tells whether the derivative of the solve agrees with differences.

    Returns: `solve(y0, theta=None, xs=None) -> tk.Solution(value, info, aux)`. Trees are
    arbitrary; integer, boolean, key, `None` and static leaves are carried untouched, and so is what a module
    of flax's nnx holds besides its `nnx.Param`s. `info.status` is
    `CONVERGED` where the residual is at most the solver's `tol`; without one, where the curvature along
    the residual puts a solution within `sqrt(eps)` of `value`, relative to the larger of `value` and the
    way from `y0`.

    Raises:
      ValueError: bad input, a gradient that is not like `y`, or a solver and a rule that do not fit; the
        message names a remedy. Also where
        `fun` changes a module that it is given (a batch norm in training), without has_aux.

    Differentiation: by the adjoint's rule, see each; `info` has no derivative.

    Cost: `fun` is traced once a call (twice with aux). Nothing is compiled behind your back: wrap
    the function that calls `solve` in `jax.jit`.
    """
    return _solution_map("argmin", fun, solver, adjoint, has_aux, value_and_grad)


@readable
def root(
    fun: Fun,
    solver: Solver | Callable[..., Solution],
    *,
    adjoint: Adjoint | None = None,
    has_aux: bool = False,
) -> SolutionMap:
    """A zero of `fun(., theta)` as a pure function of `theta`; else as `tk.argmin`.

    Args:
      fun: `fun(y, theta) -> tree like y`, zero at the solution.
      solver: `tk.solver.Newton`, or a callable.
      adjoint, has_aux: as in `tk.argmin`.
    """
    return _solution_map("root", fun, solver, adjoint, has_aux)


@readable
def fixed_point(
    fun: Fun,
    solver: Solver | Callable[..., Solution],
    *,
    adjoint: Adjoint | None = None,
    has_aux: bool = False,
) -> SolutionMap:
    """A fixed point of `fun(., theta)` as a pure function of `theta`; else as `tk.argmin`.

    Args:
      fun: `fun(y, theta) -> tree like y`, equal to `y` at the solution.
      solver: `tk.solver.FixedPointIteration`, `Anderson` or `Newton`, or a callable.
      adjoint, has_aux: as in `tk.argmin`.
    """
    return _solution_map("fixed_point", fun, solver, adjoint, has_aux)


@readable
def least_squares(
    residuals: Fun,
    solver: Solver | Callable[..., Solution],
    *,
    adjoint: Adjoint | None = None,
    has_aux: bool = False,
    curvature: Curvature = "exact",
) -> SolutionMap:
    """A minimiser of `sum(residuals(., theta)**2) / 2` as a pure function of `theta`; else as `tk.argmin`.

    Args:
      residuals: `residuals(y, theta) -> tree` of floating or complex arrays, any shapes; the sum of their
        squared moduli goes over all leaves. With `has_aux`, `(tree, aux)`.
      solver: one for least squares, such as `tk.solver.Optimistix(optimistix.LevenbergMarquardt(rtol=1e-8,
        atol=1e-8), max_steps=100)`, or any for `argmin`.
      adjoint, has_aux: as in `tk.argmin`.
      curvature: with "gauss_newton" the implicit rule takes `J'J` for the Hessian, J the derivative of the
        residuals in `y`. That is cheaper and never indefinite, and wrong by the size of the residuals at the
        solution times their curvature. The derivative of the gradient in `theta` stays exact.

    Raises:
      ValueError: also "gauss_newton" under another rule than `Implicit`, which has no use for it.

    Source: Nocedal & Wright 2006, chapter 10.
    """
    require("curvature", curvature, Curvature)
    if not callable(residuals):
        raise TypeError(f"`residuals` must be callable: got {type(residuals).__name__}.")
    solution_map = _solution_map("least_squares", residuals, solver, adjoint, has_aux)
    if curvature != "exact" and not isinstance(solution_map.adjoint, Implicit):
        raise ValueError(
            f"`curvature` must be 'exact' under {type(solution_map.adjoint).__name__}: got "
            f"{curvature!r}, which is the Hessian of the rule Implicit."
        )
    return replace(solution_map, curvature=curvature)


def _solution_map(
    kind: Asked,
    fun: Fun,
    solver: Any,
    adjoint: Adjoint | None,
    has_aux: bool,
    value_and_grad: bool = False,
) -> SolutionMap:
    if not callable(fun):
        raise TypeError(f"`fun` must be callable: got {type(fun).__name__}.")
    _require_solver(solver)
    adjoint = Implicit() if adjoint is None else adjoint
    _require_adjoint(adjoint)
    return SolutionMap(kind, fun, solver, adjoint, has_aux, value_and_grad)


def _require_x(fun: Fun, xs: Tree) -> None:
    """Refuse per-step inputs of a function that takes none: data in jaxopt's place."""
    try:
        signature = inspect.signature(fun)
        signature.bind(None, None)
    except (TypeError, ValueError):  # it takes another number, or has no signature
        return
    try:
        signature.bind(None, None, None)
    except TypeError:
        raise ValueError(
            f"`xs` must be None where `fun` takes (y, theta): got {tree.describe(xs)}; data are part of theta: "
            f"{WITH_DATA}; what changes from step to step needs fun(y, theta, x)."
        ) from None


def _require_solver(solver: Any) -> None:
    """Refuse what neither shows its steps nor solves by itself."""
    if isinstance(solver, type) or not (isinstance(solver, Solver) or callable(solver)):
        raise TypeError(
            "`solver` must be one of tk.solver, such as GradientDescent(step_size=0.1, "
            "num_steps=100), an object with bind(problem) -> toolkit.types.Method, or a callable "
            f"(fun, y0, theta) -> tk.Solution: got {solver!r}."
        )
    if isinstance(solver, Solver) and not callable(solver.bind):
        raise TypeError(
            f"`solver` must have a method bind(problem): got {type(solver).__name__}, whose `bind` "
            f"is {solver.bind!r}."
        )


_ADJOINT_MEMBERS = {
    "presumes_solution": "a bool: whether the derivative is that of an exact solution",
    "differentiable": "a method (problem, primal) -> run, run(y0, theta, xs) -> (y, steps)",
    "hvp_evals": "a method (steps, hyperparameters) -> the number of second-derivative products",
}


def _require_adjoint(adjoint: Any) -> None:
    """Refuse what lacks a member of `toolkit.types.Adjoint`, and name that member."""
    missing = [name for name in _ADJOINT_MEMBERS if not hasattr(adjoint, name)]
    if isinstance(adjoint, type) or len(missing) == len(_ADJOINT_MEMBERS):
        raise TypeError(
            f"`adjoint` must be one of tk.adjoint, such as Implicit(): got {adjoint!r}."
        )
    # A `presumes_solution` that is a method would count as true, whatever it returns.
    wrong = [
        name
        for name in _ADJOINT_MEMBERS
        if name not in missing and callable(getattr(adjoint, name)) != (name != "presumes_solution")
    ]
    for name in (*missing, *wrong):
        got = "lacks it" if name in missing else f"has {getattr(adjoint, name)!r}"
        raise TypeError(
            f"`adjoint` must have `{name}`, {_ADJOINT_MEMBERS[name]}: "
            f"{type(adjoint).__name__} {got}."
        )


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters
