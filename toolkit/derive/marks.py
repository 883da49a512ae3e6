"""What went wrong in a solve travels with its result, to a solve whose function contains it.

The function of a solve may solve another problem inside. If that one stops short, the solve around it follows
a wrong function and ends elsewhere, with a small residual. So an inner solve marks its result: an identity,
whose second operand is the `tk.Issue` bits of the solve. In the traced program the marks are found wherever
the solve was called: in a loop, a branch, a `jax.jit`. `derive/collecting.py` reads them.

A derivative of a marked value is marked alike, since it is wrong for the same reason. Compiled, a mark is
nothing.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from toolkit import tree
from toolkit.types import Tree

# How many solves' functions are being traced, one inside another. As one of JAX's own contexts it is part of
# the keys of its caches: a jitted solve that was first traced on its own, without marks, is traced again inside.
_depth: Any = jax.make_user_context(0)

# Beside the bits of `tk.Issue`: the solve stopped short, but its rule follows the steps that were made. Its value
# is not the solution; its derivative is right.
SHORT = 32

_mark_p = Primitive("mark_of_a_solve")


def _jvp(primals: tuple, tangents: tuple, *, depth: int) -> tuple[Any, Any]:
    leaf, issues = primals
    marked = _mark_p.bind(leaf, issues, depth=depth)
    if isinstance(tangents[0], ad.Zero):
        return marked, tangents[0]
    return marked, _mark_p.bind(tangents[0], issues, depth=depth)


def _transpose(cotangent: Any, _: Any, issues: Any, *, depth: int) -> list[Any]:
    if isinstance(cotangent, ad.Zero):
        return [cotangent, None]
    return [_mark_p.bind(cotangent, issues, depth=depth), None]


def _batch(operands: tuple, axes: tuple, *, depth: int) -> tuple[Any, Any]:
    # The bits have as many entries as there are lanes, whether the value differs between them or not.
    return _mark_p.bind(*operands, depth=depth), axes[0]


_mark_p.def_impl(lambda leaf, issues, *, depth: leaf)
_mark_p.def_abstract_eval(lambda leaf, issues, *, depth: leaf)
mlir.register_lowering(_mark_p, lambda _, leaf, issues, *, depth: [leaf])
ad.primitive_jvps[_mark_p] = _jvp
ad.primitive_transposes[_mark_p] = _transpose
batching.primitive_batchers[_mark_p] = _batch


def depth() -> int:
    """How many solves' functions are being traced; 0 outside of all."""
    return int(_depth.value)


def at(depth: int) -> AbstractContextManager[Any]:
    """The context in which a function is traced that stands inside `depth` solves."""
    manager: AbstractContextManager[Any] = _depth(depth)
    return manager


def deeper() -> AbstractContextManager[Any]:
    """The context for the steps of a solve: what they solve is judged by the solve itself at its end.

    Outside of all solves it changes nothing.
    """
    return at(depth() + 1) if depth() else nullcontext()


def mark(result: Tree, issues: Array, depth: int) -> Tree:
    """`result`, its floating leaves marked with `issues`, for the solve number `depth` from outside; 0: for none."""
    if depth == 0:
        return result
    issues = jnp.asarray(issues, jnp.int32)
    return jax.tree.map(
        lambda leaf: _mark_p.bind(leaf, issues, depth=depth) if tree.is_inexact(leaf) else leaf,
        result,
    )


def both(one: Array | None, other: Array | None) -> Array | None:
    """The bits of either; None where no solve stands inside."""
    if one is None or other is None:
        return other if one is None else one
    return one | other


def issues_of_mark(equation: Any, depth: int) -> int | None:
    """The position of the operand with the issues, where the equation is a mark for `depth`; else None."""
    is_mark = equation.primitive is _mark_p and equation.params["depth"] == depth
    return 1 if is_mark else None
