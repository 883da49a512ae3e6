"""A solver step by step, for loops that the user writes: `init, step = tk.argmin(fun, solver).steps()`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import linear, tree
from toolkit.derive import marks
from toolkit.derive.refusal import NO_GRADIENT_OF_LOOP, naming_loops
from toolkit.errors.readable import readable
from toolkit.jaxprs.read import passed_through
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.solve.binding import bound_to, differing_alike
from toolkit.solve.call import Fun, Operands
from toolkit.solve.digest import LANES, digest
from toolkit.solve.preparation import Partition, Posed, as_arrays, partition, pose
from toolkit.solve.returned import Returns, flat_function
from toolkit.solver.iterate import Taken, take_step
from toolkit.types import Asked, Beside, InnerProblem, Method, Solver, Status, StepInfo, Tree

WITH_STEPS = {
    "argmin": "tk.solver.GradientDescent, Optax, LBFGS or Newton",
    "least_squares": "tk.solver.GradientDescent, Optax, LBFGS or Newton",
    "root": "tk.solver.Newton",
    "fixed_point": "tk.solver.FixedPointIteration, Anderson or Newton",
}


class _Layout(NamedTuple):
    """How the state of a solver is put together. It is no array, and equal in all states of one loop."""

    solver: Any  # the structure of the solver's state
    shared: tuple[
        int | None, ...
    ]  # for each of its leaves the number of the leaf of `y` that it is
    user: Any  # the structure of the user's y, with None for its arrays
    static: tuple[Any, ...]  # the leaves of that: text, functions

    def __hash__(self) -> int:
        return hash((self.solver, self.shared, self.user))  # a leaf may have no hash


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class StepState:
    """Where a loop by hand stands: a pytree of arrays of fixed structure and types, made by `init` and `step`."""

    arrays: Tree  # the numeric leaves of `y`
    step: Array  # [] int32, updates made
    memory: tuple[Array, ...]  # what the solver keeps besides `y`
    # [2] uint32, a digest of the function that values in `memory` belong to; None where there are none
    seen: Array | None
    layout: _Layout = field(metadata={"static": True})

    @property
    def y(self) -> Tree:
        """The iterate, as the user wrote it."""
        return tree.whole(self.arrays, jax.tree.unflatten(self.layout.user, self.layout.static))


def _without_steps(kind: Asked, name: str) -> ValueError:
    return ValueError(
        f"`solver` must show its steps: got {name}, whose loop is its own; use {WITH_STEPS[kind]}."
    )


Init = Callable[..., StepState]
Step = Callable[..., tuple[StepState, StepInfo]]


def by_hand(kind: Asked, fun: Fun, solver: Any, returns: Returns) -> tuple[Init, Step]:
    """`init` and `step` of a solve; see `SolutionMap.steps`."""
    if not isinstance(solver, Solver):
        raise _without_steps(kind, getattr(solver, "__name__", type(solver).__name__))

    def method_of(problem: InnerProblem, like: Tree) -> Method:
        method = bound_to(problem, solver)
        if not isinstance(method, Method):
            raise _without_steps(kind, type(solver).__name__)
        return differing_alike(method, like)

    @readable
    def init(y0: Tree, theta: Tree = None) -> StepState:
        parts = partition(y0, theta)
        method = method_of(_unposed(kind, fun, returns, parts), parts.y)
        begun = tree.strong(method.init(parts.y, parts.operands))
        shared = passed_through(jax.make_jaxpr(method.value)(begun))
        static, user = jax.tree.flatten(tree.parts(y0).static)
        layout = _Layout(jax.tree.structure(begun), tuple(shared), user, tuple(static))
        seen = None if method.forget is None else jnp.zeros(LANES, jnp.uint32)
        # Inside `jax.shard_map` a loop's carry must vary over the same device axes before and after a step.
        number, seen = vary((jnp.asarray(0, jnp.int32), seen), varying_axes(parts.y))
        # Not `y0` itself: a solver with bounds moves a start from outside to them.
        arrays = tree.merge(method.value(begun), parts.operands.carried.y)
        return StepState(arrays, number, _memory(begun, layout), seen, layout)

    @readable
    def step(state: StepState, theta: Tree = None, x: Tree = None) -> tuple[StepState, StepInfo]:
        if not isinstance(state, StepState):
            raise TypeError(
                f"`state` must come from init(y0, theta) or from step: got {type(state).__name__}."
            )
        parts, x = partition(state.y, theta), as_arrays(x)
        static: list[Tree] = []  # what is no array in the aux, set aside when `fun` is traced

        def keep(aux: Any) -> Tree:
            found = tree.split(aux)
            static[:] = [found.static]
            return jax.tree.map(jnp.asarray, tree.merge(found.inexact, found.arrays))

        flat = _flat(kind, fun, returns, parts, x, keep if returns.has_aux else None)
        posed = pose(kind, flat, parts, x, observed=True)
        method = method_of(posed.problem, posed.y)
        _require_own(state, method, posed)
        new, taken = _stepped(method, posed, state, x)
        value, aux = _beside(posed, taken, x, returns.has_aux)
        status = _status(taken, posed.y, never=method.tol is None)
        status, residual = tree.stop_gradient((status, taken.norm))
        if returns.has_aux:
            aux = tree.whole(jax.tree.map(jnp.asarray, aux), static[0])
        return new, StepInfo(status, residual, value, aux)

    return init, step


def _flat(
    kind: Asked, fun: Fun, returns: Returns, parts: Partition, x: Tree, keep_aux: Any = None
) -> Fun:
    to_user = (parts.user_y, parts.user_theta)
    takes_x = x is not None
    return flat_function(kind, fun, returns, parts.y, *to_user, takes_x=takes_x, keep_aux=keep_aux)


def _unposed(kind: Asked, fun: Fun, returns: Returns, parts: Partition) -> InnerProblem:
    """The problem as `init` needs it: `fun` is traced only if the solver evaluates it there."""

    def posed(operands: Operands) -> tuple[InnerProblem, Operands]:
        found = pose(kind, _flat(kind, fun, returns, parts, None), parts, None)
        return found.problem, operands._replace(fun=found.operands.fun)

    def evaluate(y: Tree, operands: Operands, x: Tree) -> Tree:
        problem, operands = posed(operands)
        return problem.evaluate(y, operands, x)

    def objective(y: Tree, operands: Operands, x: Tree) -> Array:
        problem, operands = posed(operands)
        assert problem.objective is not None  # it is an argmin
        return problem.objective(y, operands, x)

    def residuals(y: Tree, operands: Operands, x: Tree) -> Tree:
        problem, operands = posed(operands)
        assert problem.residuals is not None  # it is a sum of squares
        return problem.residuals(y, operands, x)

    is_argmin = kind in ("argmin", "least_squares")
    return InnerProblem(
        "argmin" if kind == "least_squares" else kind,
        evaluate,
        objective if is_argmin else None,
        parts.user_y,
        parts.user_theta,
        linear.choose(
            parts.y, symmetric=is_argmin and not returns.value_and_grad, hessian=is_argmin
        ),
        residuals=residuals if kind == "least_squares" else None,
    )


def _stepped(method: Method, posed: Posed, state: StepState, x: Tree) -> tuple[StepState, Taken]:
    """The state after the step."""
    layout, operands, seen = state.layout, posed.operands, state.seen
    before = _solver_state(posed.y, state.memory, layout)
    if method.forget is not None and x is None:
        read = (operands.theta, operands.carried.theta, operands.fun)
        seen = vary(digest(posed.program, posed.constants, read), varying_axes(posed.y))
        before = method.forget(before, jnp.any(seen != state.seen))
    naming = naming_loops(NO_GRADIENT_OF_LOOP) if posed.problem.kind == "argmin" else nullcontext()
    with naming, marks.deeper():
        taken = take_step(method, before, operands, (state.step, x))
    after = taken.state
    if method.forget is not None and x is not None:
        after = method.forget(after, jnp.asarray(True))  # what was found belongs to this x
    if jax.tree.structure(after) != layout.solver:
        raise ValueError(
            f"`solver` must keep the structure of its state: got {tree.describe(after)}, expected "
            f"{tree.describe(before)}."
        )
    after = tree.strong(after)
    step = state.step + jnp.where(taken.converged, 0, 1).astype(jnp.int32)
    arrays = tree.merge(method.value(after), operands.carried.y)
    new = StepState(arrays, step, _memory(after, layout), seen, layout)
    _require_alike(state, new)
    return new, taken


def _solver_state(y: Tree, memory: tuple[Array, ...], layout: _Layout) -> Tree:
    leaves, rest = jax.tree.leaves(y), iter(memory)
    return jax.tree.unflatten(
        layout.solver, [next(rest) if n is None else leaves[n] for n in layout.shared]
    )


def _memory(solver_state: Tree, layout: _Layout) -> tuple[Array, ...]:
    pairs = zip(jax.tree.leaves(solver_state), layout.shared, strict=True)
    return tuple(leaf for leaf, number in pairs if number is None)


def _require_own(state: StepState, method: Method, posed: Posed) -> None:
    """Refuse the state of another solver."""
    begun = jax.eval_shape(method.init, posed.y, posed.operands)
    if jax.tree.structure(begun) != state.layout.solver:
        raise ValueError(
            "`state` must come from the `init` that was made with this `step`: got the state of another "
            "solver, or of one with other settings."
        )


def _require_alike(state: StepState, new: StepState) -> None:
    """Refuse a new state of another type: a loop could not carry it."""
    axes = varying_axes(new) - varying_axes(state)
    if axes:
        raise ValueError(
            f"`y0` must differ between devices along {sorted(axes)}, as `fun` does inside jax.shard_map: "
            'hand init jax.lax.pcast(y0, axes, to="varying").'
        )
    of = lambda state: [(leaf.shape, leaf.dtype) for leaf in state.memory]
    if jax.tree.structure(new) != jax.tree.structure(state) or of(new) != of(state):
        raise ValueError(
            f"`solver` must keep the type of its state: got {tree.describe(new.memory)}, expected "
            f"{tree.describe(state.memory)}."
        )


def _beside(posed: Posed, taken: Taken, x: Tree, has_aux: bool) -> Beside:
    """What the function returned at the point where the step began."""
    beside, is_argmin = taken.beside, posed.problem.kind == "argmin"
    # A line search keeps the value of its last point and no aux; a solver of the user's own keeps neither.
    if beside is None or (has_aux and beside.aux is None):
        returned = posed.fun(posed.y, posed.operands, x)
        value = (
            returned.result
            if posed.problem.residuals is None
            else tree.half_square(returned.result)
        )
        beside = Beside(value if is_argmin else None, returned.aux)
    if beside.value is None:
        return beside
    return Beside(beside.value.astype(_value_dtype(posed)), beside.aux)


def _value_dtype(posed: Posed) -> Any:
    """The type of the objective; of a sum of squares it is that of the sum."""
    result = posed.shape.result
    whole = result if posed.problem.residuals is None else jax.eval_shape(tree.half_square, result)
    return whole.dtype


def _status(taken: Taken, y: Tree, never: bool) -> Array:
    """The status at the point where the step began; `never`: there is no tolerance.

    With a tolerance a loop goes on as `solve` does, while the residual is finite and too large.
    """
    sound = tree.all_finite(y)
    at_end = jnp.where(sound, int(Status.CONVERGED), int(Status.NOT_FINITE))
    finite = taken.finite & sound if never else taken.finite
    going_on = jnp.where(finite, int(Status.STEP_LIMIT), int(Status.NOT_FINITE))
    return jnp.where(taken.converged, at_end, going_on).astype(jnp.int32)
