"""Derivatives refused by name, where a rule lacks them: forward mode, reverse mode, or any.

JAX's own message ("can't apply forward-mode autodiff (jvp) to a custom_vjp function") names neither
the rule nor a remedy, and inside `jit` none of our functions is on the stack that could catch it.
So the operands pass through an identity whose tangents go through a primitive of ours. Reverse mode
transposes the tangents' program, forward mode evaluates it. A primitive that can be transposed but
not evaluated refuses forward mode; one that can be evaluated but not transposed refuses reverse mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from toolkit import tree
from toolkit.errors.readable import cause
from toolkit.types import Tree

_refused_p = Primitive("forward_mode_refused")


def _refuse(*_: Any, message: str, **__: Any) -> Any:
    raise TypeError(message)


# Evaluating the tangent refuses: outside `jit` by the implementation, inside by the lowering. Its transpose
# passes the cotangent on.
_refused_p.def_impl(_refuse)
_refused_p.def_abstract_eval(lambda tangent, *, message: tangent)
mlir.register_lowering(_refused_p, _refuse)
ad.deflinear2(_refused_p, lambda cotangent, _, *, message: [cotangent])
# A tangent is batched only where it is pushed forward, for several directions at once (`jax.jacfwd`, a
# matrix formed column by column). JAX's own refusal of a `custom_vjp` comes there, before any lowering.
batching.primitive_batchers[_refused_p] = lambda args, dims, *, message: _refuse(message=message)


_one_way_p = Primitive("reverse_mode_refused")


def _refuse_transpose(_: Any, __: Any, *, message: str) -> Any:
    raise TypeError(message)


# The other way round: evaluation passes the tangent on, and the transpose refuses.
_one_way_p.def_impl(lambda tangent, *, message: tangent)
_one_way_p.def_abstract_eval(lambda tangent, *, message: tangent)
mlir.register_lowering(_one_way_p, lambda _, tangent, *, message: [tangent])
ad.deflinear2(_one_way_p, _refuse_transpose)
batching.primitive_batchers[_one_way_p] = lambda args, dims, *, message: (
    _one_way_p.bind(*args, message=message),
    dims[0],
)


# The identity whose tangents are refused forward mode. A `custom_jvp` would not do: where `vmap` meets one
# before `grad` does, it runs the rule on batched tangents, as forward mode does.
_guard_p = Primitive("guard_of_forward_mode")
_guard_p.def_impl(lambda operand, *, message: operand)
_guard_p.def_abstract_eval(lambda operand, *, message: operand)
mlir.register_lowering(_guard_p, lambda _, operand, *, message: [operand])
# The operand comes out of the rule without its guard: forward mode over reverse mode (`jax.hessian`) is allowed.
ad.primitive_jvps[_guard_p] = lambda primals, tangents, *, message: (
    primals[0],
    _guarded_tangent(tangents[0], message),
)
batching.primitive_batchers[_guard_p] = lambda args, dims, *, message: (
    _guard_p.bind(*args, message=message),
    dims[0],
)


def _guarded_tangent(tangent: Any, message: str) -> Any:
    return tangent if isinstance(tangent, ad.Zero) else _refused_p.bind(tangent, message=message)


def refuse_forward_mode(operands: Tree, message: str) -> Tree:
    """`operands` unchanged; a `jvp` through them raises `TypeError(message)`, a `vjp` does not."""
    return jax.tree.map(
        lambda leaf: _guard_p.bind(leaf, message=message) if tree.is_inexact(leaf) else leaf,
        operands,
    )


NO_REVERSE_OVER_LOOP = (
    "`fun` has no reverse mode here: it contains a loop on data (lax.while_loop, or lax.fori_loop with traced "
    "bounds), which JAX pushes forward only; use forward mode (jax.jacfwd, jax.jvp), write the loop as "
    "tk.while_loop(..., gradient=tk.control.forward()), or as lax.scan where its length is known."
)

NO_GRADIENT_OF_LOOP = (
    "`fun` must have a gradient under tk.argmin: it contains a loop on data (lax.while_loop, or "
    "lax.fori_loop with traced bounds), which has no reverse mode; write it as tk.while_loop with "
    "`max_steps`, or as lax.scan where its length is known."
)


@contextmanager
def naming_loops(message: str) -> Iterator[None]:
    """JAX's refusal to reverse a `while_loop`, raised inside, becomes `TypeError(message)`."""
    try:
        yield
    except ValueError as error:
        if "Reverse-mode differentiation does not work for lax.while_loop" not in str(error):
            raise
        raise TypeError(message) from cause(error)


def refuse_to_run(tangents: Tree, message: str) -> Tree:
    """`tangents` unchanged; to run what follows raises `TypeError(message)`, to transpose it does not."""
    return jax.tree.map(lambda tangent: _refused_p.bind(tangent, message=message), tangents)


def refuse_reverse_mode(results: Tree, message: str) -> Tree:
    """`results` unchanged; their `jvp` passes, a cotangent of them raises `TypeError(message)`."""
    return _with_tangents(results, lambda tangent: _one_way_p.bind(tangent, message=message))


def refuse_transposition(tangents: Tree, message: str) -> Tree:
    """`tangents` unchanged, for a rule that forms them; a cotangent of them raises `TypeError(message)`."""
    return jax.tree.map(lambda leaf: _one_way_p.bind(leaf, message=message), tangents)


def refuse_derivatives(operands: Tree, message: str) -> Tree:
    """`operands` unchanged; any derivative through them raises `TypeError(message)`.

    Inside the two halves of a `custom_vjp` this refuses what would differentiate the halves.
    """
    return _with_tangents(operands, lambda _: _refuse(message=message))


def _with_tangents(operands: Tree, pass_on: Callable[[Any], Any]) -> Tree:
    """`operands` unchanged; their tangents go through `pass_on`.

    Each leaf has a guard of its own. If all leaves went through one function, a derivative in one of them
    would give all of them tangents, and refuse leaves that nobody differentiates.
    """

    @jax.custom_jvp
    def guard(leaf: Any) -> Any:
        return leaf

    @guard.defjvp
    def _(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
        return primals[0], pass_on(tangents[0])

    return jax.tree.map(lambda leaf: guard(leaf) if tree.is_inexact(leaf) else leaf, operands)
