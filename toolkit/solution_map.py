"""`argmin`, `root`, `fixed_point`: where a solver meets an adjoint.

Three things happen here and nowhere else: leaves are partitioned, closed-over arrays become
explicit, and the verdict on the result is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import linear, tree
from toolkit.adjoint.implicit import Implicit
from toolkit.closure import Lifted, lift
from toolkit.curvature import forward_over_reverse
from toolkit.solver.iterate import as_steps
from toolkit.types import (
    Adjoint,
    Kind,
    Method,
    Primal,
    Problem,
    Solution,
    SolveInfo,
    Solver,
    Status,
    Tree,
)

Fun = Callable[..., Any]


class Operands(NamedTuple):
    """All that a solution depends on, as one tree of arrays: `theta` to solvers and adjoints."""

    theta: Tree  # the user's floating leaves
    carried: Tree  # integer, boolean and key leaves of the user's theta and y
    fun: tuple[Array, ...]  # what `fun` closes over
    solver: tuple[tuple[Array, ...], ...]  # what the solver's init, update, schedule close over


class Prepared(NamedTuple):
    """One call of a solve, taken apart."""

    problem: Problem
    primal: Primal
    y0: Tree  # floating leaves
    operands: Operands
    xs: Tree
    tol: float | None  # absolute, on the residual; None judges against the start


@dataclass(frozen=True)
class SolutionMap:
    """`solve(y0, theta)` and `solve(y0, theta, xs)` -> `tk.Solution`; see `tk.argmin`."""

    kind: Kind
    fun: Fun
    solver: Solver | Callable[..., Solution]
    adjoint: Adjoint
    has_aux: bool = False

    def __call__(self, y0: Tree, theta: Tree = None, xs: Tree = None) -> Solution:
        """Solve from `y0`; differentiable in `theta` and in what `fun` closes over.

        Args:
          y0: the start; its floating and complex leaves are solved for, others are carried.
          theta: hyperparameters, any tree, or None.
          xs: one entry a step along each leaf's leading axis; `fun` then takes `(y, theta, x)`.
        """
        prepared = self.prepare(y0, theta, xs)
        run = self.adjoint.differentiable(prepared.problem, prepared.primal)
        y, steps = run(prepared.y0, prepared.operands, prepared.xs)
        return self.conclude(prepared, y, steps)

    def prepare(self, y0: Tree, theta: Tree = None, xs: Tree = None) -> Prepared:
        """Partition the leaves, lift the closures, bind the solver; trace `fun` once."""
        y_parts, theta_parts = tree.split(y0), tree.split(theta)
        y, inexact = y_parts.inexact, theta_parts.inexact
        if not jax.tree.leaves(y_parts.inexact):
            raise ValueError(
                f"`y0` must have a floating or complex leaf to solve for: got {tree.describe(y0)}."
            )
        carried = (theta_parts.arrays, y_parts.arrays)

        def user_y(y: Tree, operands: Operands) -> Tree:
            return tree.merge(y, operands.carried[1], y_parts.static)

        def user_theta(operands: Operands) -> Tree:
            return tree.merge(operands.theta, operands.carried[0], theta_parts.static)

        start = Operands(inexact, carried, (), ())
        lifted = self._lift(user_y, user_theta, y, start, xs)
        axes = tree.varying_axes(lifted.shape)
        if axes - tree.varying_axes(y):
            # Inside shard_map each device solves a problem of its own. A start that all devices
            # share would make JAX sum the gradients of all their problems, silently.
            y, start, xs = tree.vary((y, start, xs), axes)
            lifted = self._lift(user_y, user_theta, y, start, xs)
            lifted = lifted._replace(closed=tree.vary(lifted.closed, axes))
        problem = Problem(
            self.kind,
            *_evaluations(self.kind, lifted),
            user_y,
            user_theta,
            linear.choose(y, self.kind == "argmin"),
        )
        operands = start._replace(fun=lifted.closed)
        if not isinstance(self.solver, Solver):
            primal = _opaque(self.kind, self.solver, problem, lifted)
            return Prepared(problem, primal, y, operands, xs, None)
        method = self.solver.bind(problem)
        _check_xs(xs, method.num_steps)
        method, operands, loops = _lift_solver(method, y, operands, _first(xs))
        fast = forward_over_reverse(problem)
        replayed = method._replace(evaluate=self.solver.bind(fast).evaluate)
        steps = as_steps(method, replayed, loops)

        def run(y0: Tree, theta: Tree, xs: Tree) -> tuple[Tree, Array]:
            return steps.finish(steps.run(y0, theta, xs))

        primal = Primal(run, steps, type(self.solver).__name__)
        return Prepared(problem, primal, y, operands, xs, method.tol)

    def conclude(self, prepared: Prepared, y: Tree, steps: Array) -> Solution:
        """The solution as the user sees it, judged."""
        problem, operands, xs = prepared.problem, prepared.operands, prepared.xs
        value = problem.user_y(y, operands)
        aux = None
        if self.has_aux:
            args = (value, problem.user_theta(operands))
            aux = self.fun(*args)[1] if xs is None else self.fun(*args, _last(xs))[1]
        return Solution(value, _verdict(prepared, y, steps), aux)

    def _lift(
        self,
        user_y: Callable[[Tree, Operands], Tree],
        user_theta: Callable[[Operands], Tree],
        y: Tree,
        operands: Operands,
        xs: Tree,
    ) -> Lifted:
        """`fun` of partitioned arguments, checked; its aux is dropped."""

        def flat(y: Tree, operands: Operands, x: Tree) -> Tree:
            args = (user_y(y, operands), user_theta(operands))
            out = self.fun(*args) if xs is None else self.fun(*args, x)
            if self.has_aux:
                if not (isinstance(out, tuple) and len(out) == 2):
                    raise ValueError(
                        "`fun` must return a pair (value, aux) with has_aux=True: got "
                        f"{tree.describe(out)}."
                    )
                out = out[0]
            return out if self.kind == "argmin" else _like_y(out, user_y(y, operands), y)

        lifted = lift(flat, y, operands, _first(xs))
        if self.kind == "argmin":
            _check_scalar(lifted.shape)
        return lifted


def argmin(
    fun: Fun,
    solver: Solver | Callable[..., Solution],
    *,
    adjoint: Adjoint | None = None,
    has_aux: bool = False,
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

    Returns: `solve(y0, theta=None, xs=None) -> tk.Solution(value, info, aux)`. Trees are
    arbitrary; integer, boolean, key, `None` and static leaves are carried untouched.

    Raises:
      ValueError: bad input, or a solver and a rule that do not fit; the message names a remedy.

    Differentiation: by the adjoint's rule, see each; `info` has no derivative.

    Cost: `fun` is traced once a call. Nothing is compiled behind your back: wrap the function that
    calls `solve` in `jax.jit`.
    """
    return _solution_map("argmin", fun, solver, adjoint, has_aux)


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


def _solution_map(
    kind: Kind, fun: Fun, solver: Any, adjoint: Adjoint | None, has_aux: bool
) -> SolutionMap:
    if not callable(fun):
        raise TypeError(f"`fun` must be callable: got {type(fun).__name__}.")
    if isinstance(solver, type) or not (isinstance(solver, Solver) or callable(solver)):
        raise TypeError(
            "`solver` must be one of tk.solver, such as GradientDescent(step_size=0.1, "
            f"num_steps=100), or a callable (fun, y0, theta) -> tk.Solution: got {solver!r}."
        )
    adjoint = Implicit() if adjoint is None else adjoint
    if isinstance(adjoint, type) or not hasattr(adjoint, "differentiable"):
        raise TypeError(
            f"`adjoint` must be one of tk.adjoint, such as Implicit(): got {adjoint!r}."
        )
    return SolutionMap(kind, fun, solver, adjoint, has_aux)


def _verdict(prepared: Prepared, y: Tree, steps: Array) -> SolveInfo:
    """Judge `y` by the residual there, recomputed; no derivative.

    Cost: one evaluation, and one more at `y0` without a tolerance; none if `info` is unused in
    compiled code.
    """
    problem, xs = prepared.problem, _last(prepared.xs)
    y, y0, operands = tree.stop_gradient((y, prepared.y0, prepared.operands))

    def residual(y: Tree) -> Array:
        return tree.norm(problem.residual(y, problem.evaluate(y, operands, xs)))

    last = residual(y)
    tol: Array | float | None = prepared.tol
    if tol is None:
        tol = jnp.sqrt(jnp.finfo(last.dtype).eps) * jnp.maximum(1.0, residual(y0))
    finite = jnp.isfinite(last) & tree.all_finite(y)
    ended = jnp.where(last <= tol, int(Status.CONVERGED), int(Status.STEP_LIMIT))
    status = jnp.where(finite, ended, int(Status.NOT_FINITE)).astype(jnp.int32)
    return SolveInfo(status, steps, last)


def _evaluations(kind: Kind, lifted: Lifted) -> tuple[Callable, Callable | None]:
    """(evaluate, objective) of a problem, from its lifted function."""

    def fun(y: Tree, operands: Operands, x: Tree) -> Any:
        bare = Operands(operands.theta, operands.carried, (), ())
        return lifted.call(operands.fun, y, bare, x)

    if kind != "argmin":
        return fun, None
    # For complex leaves JAX's gradient is the conjugate of the direction of ascent.
    return lambda y, operands, x: tree.conj(jax.grad(fun)(y, operands, x)), fun


def _lift_solver(
    method: Method, y0: Tree, operands: Operands, x: Tree
) -> tuple[Method, Operands, bool]:
    """Make what the solver closes over explicit: traced step sizes, optax hyperparameters."""
    begin = lift(method.init, y0, operands)
    state, bare = begin.shape, operands
    needed = jax.eval_shape(method.evaluate, state, operands, x).needed
    number = jnp.asarray(0, jnp.int32)
    update = lift(method.update, state, needed, operands, number, x)

    def init(y0: Tree, theta: Operands) -> Tree:
        return begin.call(theta.solver[0], y0, theta._replace(solver=bare.solver))

    def move(state: Tree, needed: Tree, theta: Operands, t: Array, x: Tree) -> Tree:
        inner = theta._replace(solver=bare.solver)
        return update.call(theta.solver[1], state, needed, inner, t, x)

    closed: tuple[tuple[Array, ...], ...] = (begin.closed, update.closed)
    method = method._replace(init=init, update=move)
    if method.descent is not None:
        schedule = lift(method.descent.schedule, operands, number)

        def scheduled(theta: Operands, t: Array) -> tuple[Tree, Tree]:
            return schedule.call(theta.solver[2], theta._replace(solver=bare.solver), t)

        closed = (*closed, schedule.closed)
        method = method._replace(descent=method.descent._replace(schedule=scheduled))
    return method, operands._replace(solver=closed), update.loops_on_data


def _opaque(
    kind: Kind, solver: Callable[..., Solution], problem: Problem, lifted: Lifted
) -> Primal:
    """A callable solver: it is given the user's trees, and its steps are its own."""
    name = getattr(solver, "__name__", type(solver).__name__)

    def run(y0: Tree, operands: Operands, xs: Tree) -> tuple[Tree, Array]:
        if xs is not None:
            raise ValueError(
                f"`xs` must be None with the callable solver {name}: its steps are its own."
            )

        def fun(user_y: Tree, user_theta: Tree) -> Tree:
            inner = operands._replace(theta=tree.split(user_theta).inexact)
            y = tree.split(user_y).inexact
            if kind == "argmin":
                return problem.objective(y, inner, None)  # type: ignore[misc]
            return problem.user_y(problem.evaluate(y, inner, None), inner)

        out = solver(fun, problem.user_y(y0, operands), problem.user_theta(operands))
        if not isinstance(out, Solution):
            raise ValueError(
                f"`solver` must return tk.Solution(value, info): {name} returned "
                f"{type(out).__name__}."
            )
        if not hasattr(out.info, "steps"):
            raise ValueError(
                f"`solver` must return tk.Solution(value, info) with tk.SolveInfo(status, steps, "
                f"residual): the info of {name} is {type(out.info).__name__}."
            )
        y = tree.split(out.value).inexact
        _check_same(f"the value of {name}", y, y0)
        return y, jnp.asarray(out.info.steps, jnp.int32)

    return Primal(run, None, name)


def _like_y(out: Tree, user_y: Tree, y: Tree) -> Tree:
    """The floating leaves of what a root or a map returned, checked against `y`."""
    parts = tree.split(out).inexact
    if jax.tree.structure(out) != jax.tree.structure(user_y):
        raise ValueError(
            f"`fun` must return a tree like `y`: got {tree.describe(out)}, expected "
            f"{tree.describe(user_y)}."
        )
    _check_same("the result of `fun`", parts, y)
    return parts


def _check_same(what: str, got: Tree, expected: Tree) -> None:
    same = jax.tree.structure(got) == jax.tree.structure(expected) and all(
        a.shape == b.shape and a.dtype == b.dtype
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
    )
    if not same:
        raise ValueError(
            f"{what} must have the shapes and dtypes of `y`: got {tree.describe(got)}, "
            f"expected {tree.describe(expected)}."
        )


def _check_scalar(shape: Any) -> None:
    leaves = jax.tree.leaves(shape)
    if (
        len(leaves) != 1
        or leaves[0].shape != ()
        or not jnp.issubdtype(leaves[0].dtype, jnp.floating)
    ):
        raise ValueError(
            f"`fun` must return a real scalar under argmin: got {tree.describe(shape)}; "
            "for (value, aux) pass has_aux=True, for a function to be zeroed use tk.root."
        )


def _check_xs(xs: Tree, num_steps: int) -> None:
    for leaf in jax.tree.leaves(xs):
        if jnp.ndim(leaf) < 1 or leaf.shape[0] != num_steps:
            raise ValueError(
                f"`xs` must have num_steps={num_steps} entries along its leading axis: got shape "
                f"{jnp.shape(leaf)}."
            )


def _first(xs: Tree) -> Tree:
    for leaf in jax.tree.leaves(xs):
        if jnp.ndim(leaf) < 1 or len(leaf) < 1:
            raise ValueError(
                "`xs` must have one entry a step along each leaf's leading axis, and at least one: "
                f"got {tree.describe(xs)}."
            )
    return jax.tree.map(lambda leaf: leaf[0], xs)


def _last(xs: Tree) -> Tree:
    return jax.tree.map(lambda leaf: leaf[-1], xs)
