"""The functions of a problem: what solvers evaluate, made of what the user's function returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.derive import marks
from toolkit.derive.symbolic_zeros import is_zero_tangent
from toolkit.jaxprs.lift import traced_once
from toolkit.solve.call import Operands
from toolkit.solve.returned import Returned
from toolkit.types import Asked, Beside, Tree

Lowered = Callable[[Tree, Operands, Tree], Returned]  # the user's function, of (y, operands, x)


class Functions(NamedTuple):
    """Each of `(y, operands, x)`; see `InnerProblem`."""

    evaluate: Callable[[Tree, Operands, Tree], Tree]
    objective: Callable[[Tree, Operands, Tree], Array] | None
    observe: Callable[[Tree, Operands, Tree], tuple[Tree, Beside]]
    programs: Callable[[], list[Any]]  # of `evaluate`, traced so far
    residuals: Callable[[Tree, Operands, Tree], Tree] | None = None


def functions_of(kind: Asked, fun: Lowered, program: Any, given: bool, depth: int) -> Functions:
    """The functions of a problem.

    Args:
      program: what `fun` evaluates.
      given: whether `fun` returns the gradient too.
      depth: how many solves `fun` stands in.
    """
    if kind == "least_squares":
        return _sum_of_squares(fun, program, depth)
    if kind != "argmin":
        return _equation(fun, program)
    return _with_gradient_given(fun, program) if given else _minimum(fun, program, depth)


def _equation(fun: Lowered, program: Any) -> Functions:
    def evaluate(y: Tree, operands: Operands, x: Tree) -> Tree:
        return fun(y, operands, x).result

    def observe(y: Tree, operands: Operands, x: Tree) -> tuple[Tree, Beside]:
        returned = fun(y, operands, x)
        return returned.result, Beside(None, returned.aux)

    return Functions(evaluate, None, observe, lambda: [program])


def _sum_of_squares(fun: Lowered, program: Any, depth: int) -> Functions:
    def squared(y: Tree, operands: Operands, x: Tree) -> Returned:
        returned = fun(y, operands, x)
        return returned._replace(result=tree.half_square(returned.result))

    def residuals(y: Tree, operands: Operands, x: Tree) -> Tree:
        return fun(y, operands, x).result

    return _minimum(squared, program, depth)._replace(residuals=residuals)


def _minimum(fun: Lowered, program: Any, depth: int) -> Functions:
    def objective(y: Tree, operands: Operands, x: Tree) -> Array:
        value: Array = fun(y, operands, x).result
        if operands.tilt is None:
            return value
        return value + jnp.real(tree.pairing(operands.tilt, y)).astype(value.dtype)

    # For complex leaves JAX's gradient is the conjugate of the direction of ascent: conjugate it, so
    # that descent goes along `-evaluate`.
    def gradient(y: Tree, operands: Operands, x: Tree) -> Tree:
        # A rule of the user's own is traced when it is differentiated, and may solve something, too.
        with marks.at(depth):
            return tree.conj(jax.grad(objective)(y, operands, x))

    def observe(y: Tree, operands: Operands, x: Tree) -> tuple[Tree, Beside]:
        def both(y: Tree) -> tuple[Array, Tree]:
            returned = fun(y, operands, x)
            return returned.result, returned.aux

        with marks.at(depth):
            (value, aux), slope = jax.value_and_grad(both, has_aux=True)(y)
        return tree.conj(slope), Beside(value, aux)

    evaluate, gradients = traced_once(gradient)
    return Functions(evaluate, objective, observe, lambda: [program, *gradients()])


def _with_gradient_given(fun: Lowered, program: Any) -> Functions:
    """Of a function that returns its gradient in y, as JAX pairs it: nothing differentiates it in y."""

    def evaluate(y: Tree, operands: Operands, x: Tree) -> Tree:
        return tree.conj(fun(y, operands, x).gradient)

    def observe(y: Tree, operands: Operands, x: Tree) -> tuple[Tree, Beside]:
        returned = fun(y, operands, x)
        return tree.conj(returned.gradient), Beside(returned.result, returned.aux)

    @jax.custom_jvp
    def objective(y: Tree, operands: Operands, x: Tree) -> Array:
        value: Array = fun(y, operands, x).result
        return value

    def differentiate(
        primals: tuple[Tree, Operands, Tree], tangents: tuple[Tree, Operands, Tree]
    ) -> tuple[Array, Array]:
        y, *others = primals
        returned = fun(*primals)
        tangent = jnp.zeros_like(returned.result)
        for slope, moved in zip(
            *map(jax.tree.leaves, (returned.gradient, tangents[0])), strict=True
        ):
            if not is_zero_tangent(moved):
                tangent += jnp.real(tree.pairing(slope, moved)).astype(tangent.dtype)
        # In theta JAX differentiates the value. A line search moves y alone: this is not run for it.
        moves = jax.tree.map(lambda dot: not is_zero_tangent(dot), tuple(tangents[1:]))
        if any(jax.tree.leaves(moves)):
            moving, fixed = tree.select(tuple(others), moves)
            along, _ = tree.select(tuple(tangents[1:]), moves)
            of = lambda moving: fun(y, *tree.merge(moving, fixed)).result
            tangent += jax.jvp(of, (moving,), (along,))[1]
        return returned.result, tangent

    objective.defjvp(differentiate, symbolic_zeros=True)
    return Functions(evaluate, objective, observe, lambda: [program])
