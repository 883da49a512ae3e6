"""A function traced as if nothing differed between the devices of an enclosing `jax.shard_map`."""

from __future__ import annotations

from collections.abc import Callable

import jax

from toolkit.jaxprs.lift import has_while
from toolkit.jaxprs.read import evaluate
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.types import Tree


def as_on_one_device(fun: Callable[..., Tree], loops_only: bool = False) -> Callable[..., Tree]:
    """`fun`, traced as if nothing differed between devices; its results differ where some argument does.

    A library's loop may start from an array that it makes itself, as the identity matrix. Such a carry is the
    same on all devices before a step and no longer after it, which JAX refuses. But only the types are at
    fault, and the program is the same without them.

    For functions that nothing differentiates, of which no collective depends on what differs: the transpose
    of a collective is found by the types.

    Args:
      loops_only: leave a `fun` without a `while_loop` as it is.
    """

    def call(*args: Tree) -> Tree:
        axes = varying_axes(args)
        if not axes:
            return fun(*args)
        alike = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), args)
        # The operation of a `jax.jit` takes operands of any such types. The operations inside do not.
        program, shape = jax.make_jaxpr(jax.jit(lambda *args: fun(*args)), return_shape=True)(
            *alike
        )
        if loops_only and not has_while(program):
            return fun(*args)
        made = evaluate(program, *jax.tree.leaves(args))
        return vary(jax.tree.unflatten(jax.tree.structure(shape), made), axes)

    return call
