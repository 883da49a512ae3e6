"""The second part of taking a call apart: the user's trees and function become arrays and a problem.

Solvers and adjoints know a problem as functions of `(y, operands, x)`. `operands` holds everything
else that the solution depends on, so that a derivative rule sees all of it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from toolkit import linear, tree
from toolkit.derive import marks
from toolkit.derive.collecting import holds_marks
from toolkit.derive.on_devices import device_axes, refuse_differing, refuse_unchecked
from toolkit.errors.readable import call_as, returned_by
from toolkit.jaxprs.collectives import collective_axes
from toolkit.jaxprs.lift import Lifted, lift, traced_once
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.leaves.containers import packed, unpacked
from toolkit.leaves.module_variables import call_unchanged, why_nothing_moves
from toolkit.solve.binding import bind, check_same
from toolkit.solve.call import CarriedLeaves, Fun, Operands, SolveCall, first
from toolkit.solve.tilting import continue_and_tilt, tilt
from toolkit.types import InnerProblem, Kind, Solution, Solver, Tilted, Tree

# The names of the arguments of `_flat`'s function, for JAX's messages.
_NAMES = inspect.Signature(
    [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        for name in ("y", "operands", "x")
    ]
)


class _Partition(NamedTuple):
    """The user's trees and the way back to them."""

    y: Tree
    operands: Operands
    user_y: Callable[[Tree, Operands], Tree]
    user_theta: Callable[[Operands], Tree]


def prepare(
    kind: Kind,
    fun: Fun,
    solver: Solver | Callable[..., Solution],
    has_aux: bool,
    y0: Tree,
    theta: Tree,
    xs: Tree,
) -> SolveCall:
    """Take a call apart. Traces `fun` once.

    Raises:
      ValueError: `y0`, `xs`, or what `fun` returns is not what the kind of solve needs.
    """
    parts, xs = _partition(y0, theta), _arrays(xs)
    flat = _flat(kind, fun, has_aux, parts, xs is not None)
    depth = marks.depth()
    with marks.at(depth + 1):
        parts, xs, lifted = _lift_fun(kind, flat, parts, xs)
    y, operands = parts.y, parts.operands._replace(fun=lifted.closed)
    evaluate, objective, programs = _evaluations(kind, lifted, depth + 1)
    own, backward = lifted.rules
    default = linear.choose(y, symmetric=kind == "argmin" and not own)
    problem = InnerProblem(
        kind,
        evaluate,
        objective,
        parts.user_y,
        parts.user_theta,
        default,
        None,
        own,
        backward,
        depth=depth,
        loops_on_data=lifted.loops_on_data,
        holds_solves=lambda: any(holds_marks(program, depth + 1) for program in programs()),
    )

    def tilted(y: Tree, operands: Operands, continued: bool) -> Tilted:
        if continued:
            return continue_and_tilt(flat, solver, problem, y, operands)
        return tilt(solver, problem, y, operands)

    return bind(solver, problem, y, operands, xs, tilted)


def _partition(y0: Tree, theta: Tree) -> _Partition:
    y, theta = tree.parts(y0), tree.parts(theta)
    if not jax.tree.leaves(y.inexact):
        raise ValueError(
            "`y0` must have a floating or complex leaf to solve for: got "
            f"{tree.describe(y0)}; "
            + why_nothing_moves(y0, "integers are carried, use .astype(float)")
            + "."
        )

    # These functions live in the programs that are traced with them. They must hold no array: a tracer in
    # them would be kept alive beyond its trace, which `jax.checking_leaks` reports.
    y_static, theta_static = y.static, theta.static

    def user_y(inexact: Tree, operands: Operands) -> Tree:
        return tree.whole(inexact, operands.carried.y, y_static)

    def user_theta(operands: Operands) -> Tree:
        return tree.whole(operands.theta, operands.carried.theta, theta_static)

    operands = Operands(theta.inexact, CarriedLeaves(theta.arrays, y.arrays))
    return _Partition(tree.strong(y.inexact), operands, user_y, user_theta)


def _arrays(xs: Tree) -> Tree:
    """Per-step inputs, each leaf that is one as a JAX array: a traced step number indexes no NumPy array."""
    one = lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf
    return jax.tree.map(one, unpacked(xs))


def _flat(kind: Kind, fun: Fun, has_aux: bool, parts: _Partition, takes_x: bool) -> Fun:
    """`fun` of partitioned arguments, without its aux."""

    user_y, user_theta = parts.user_y, parts.user_theta
    expected = "(y, theta, x)" if takes_x else "(y, theta)"

    def flat(y: Tree, operands: Operands, x: Tree) -> Tree:
        args = (user_y(y, operands), user_theta(operands), *([packed(x)] if takes_x else []))
        call = functools.partial(call_as, "fun", fun, expected)
        if has_aux:
            out = _without_aux(fun, call(*args))
        else:
            remedy = ", or return what is changed as aux, with has_aux=True"
            out = call_unchanged("fun", call, *args, remedy=remedy)
        if kind == "argmin":
            return _one_array(fun, out)
        return _like_y(fun, out, args[0], y)

    # Without these two JAX's messages would name `flat` and `args[0]['w']`. With them they name the
    # user's function and `y['w']`.
    flat.__signature__, flat.__wrapped__ = _NAMES, fun  # type: ignore[attr-defined]
    return flat


def _lift_fun(
    kind: Kind, flat: Fun, parts: _Partition, xs: Tree
) -> tuple[_Partition, Tree, Lifted]:
    """`flat` lifted, its result checked; and the leaves, all varying over the same device axes."""
    lifted = lift(flat, parts.y, parts.operands, first(xs), arrange=True)
    if kind == "argmin":
        _check_scalar(flat, lifted.shape)
    axes = varying_axes(lifted.shape)
    if axes - varying_axes(parts.y):
        # Inside shard_map each device solves a problem of its own. If all devices shared the start,
        # JAX would sum the gradients of all their problems, silently. So everything is marked as
        # differing between devices, and `fun` is traced again in these types.
        y, operands, xs = vary((parts.y, parts.operands, xs), axes)
        parts = parts._replace(y=y, operands=operands)
        lifted = lift(flat, y, operands, first(xs), arrange=True)
        lifted = lifted._replace(closed=vary(lifted.closed, axes))
    if device_axes():
        _refuse_wrong_collectives(lifted, parts, xs)
    return parts, xs, lifted


def _refuse_wrong_collectives(lifted: Lifted, parts: _Partition, xs: Tree) -> None:
    """Inside `jax.shard_map` or `jax.pmap`: refuse what JAX would differentiate wrongly."""
    closed, y = iter(lifted.closed), jax.tree.leaves(parts.y)
    others = jax.tree.leaves((parts.operands, first(xs)))
    # Nothing differentiates a concrete array that `fun` closes over.
    moves = [one and tree.is_inexact(next(closed)) for one in lifted.is_closed]
    moves += map(tree.is_inexact, [*y, *others])
    refuse_unchecked("fun", lifted.program, moves)
    is_y = [False] * len(lifted.is_closed) + [True] * len(y) + [False] * len(others)
    axes = collective_axes(lifted.program, is_y)
    refuse_differing("fun", "y0", axes & varying_axes(parts.y))


def _evaluations(
    kind: Kind, lifted: Lifted, depth: int
) -> tuple[Callable, Callable | None, Callable[[], list[Any]]]:
    """(evaluate, objective, the programs of `evaluate`) of a problem, from its lifted function."""

    call, program = (
        lifted.call,
        lifted.program,
    )  # not `lifted` itself: a rule that keeps `fun` would keep its arrays

    def fun(y: Tree, operands: Operands, x: Tree) -> Any:
        bare = Operands(operands.theta, operands.carried)
        return call(operands.fun, y, bare, x)

    if kind != "argmin":
        return fun, None, lambda: [program]

    def objective(y: Tree, operands: Operands, x: Tree) -> Array:
        value = fun(y, operands, x)
        if operands.tilt is None:
            return value
        return value + jnp.real(tree.pairing(operands.tilt, y)).astype(value.dtype)

    # For complex leaves JAX's gradient is the conjugate of the direction of ascent: conjugate it, so
    # that descent goes along `-evaluate`.
    def gradient(y: Tree, operands: Operands, x: Tree) -> Tree:
        # A rule of the user's own is traced when it is differentiated, and may solve something, too.
        with marks.at(depth):
            return tree.conj(jax.grad(objective)(y, operands, x))

    evaluate, gradients = traced_once(gradient)
    return evaluate, objective, lambda: [program, *gradients()]


def _without_aux(fun: Fun, out: Any) -> Any:
    if not (isinstance(out, tuple) and len(out) == 2):
        raise returned_by(
            fun,
            ValueError(
                "`fun` must return a pair (value, aux) with has_aux=True: got "
                f"{tree.describe(out)}."
            ),
        )
    return out[0]


def _like_y(fun: Fun, out: Tree, user_y: Tree, y: Tree) -> Tree:
    """The floating leaves of what a root or a map returned, checked against `y`."""
    parts = tree.parts(out)
    if jax.tree.structure(out) != jax.tree.structure(user_y):
        raise returned_by(
            fun,
            ValueError(
                f"`fun` must return a tree like `y`: got {tree.describe(out)}, expected "
                f"{tree.describe(user_y)}."
            ),
        )
    check_same("the result of `fun`", parts.inexact, y, out, fun)
    return parts.inexact


def _one_array(fun: Fun, out: Any) -> Any:
    if not tree.is_numeric(out):
        raise _not_scalar(fun, out)
    return out


def _check_scalar(fun: Fun, shape: Any) -> None:
    # Checked on the traced shape, not inside `flat`: holomorphic nudging calls `flat` at complex `y`,
    # where it has to return a complex number.
    if shape.shape != () or not jnp.issubdtype(shape.dtype, jnp.floating):
        raise _not_scalar(fun, shape)


def _not_scalar(fun: Fun, out: Any) -> ValueError:
    return returned_by(
        fun,
        ValueError(
            f"`fun` must return a real scalar under argmin: got {tree.describe(out)}; "
            "for (value, aux) pass has_aux=True, for a function to be zeroed use tk.root."
        ),
    )
