"""Large work under `vmap`: a few lanes at a time.

`vmap` runs all lanes of a batch at once. With a matrix in each lane that is a matter of gigabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
from jax import Array
from jax.custom_batching import custom_vmap

from toolkit.jaxprs.read import evaluate_open, opened
from toolkit.types import Tree

# Bytes of the large arrays that lanes may hold at once: 8 matrices of 256 float64 unknowns.
BUDGET = 2**22


def in_lanes(fun: Callable[..., Tree], size: int, heavy: Tree, *others: Tree) -> Tree:
    """`fun(heavy, *others)`; under `vmap` as many lanes at once as fit into `BUDGET`, group after group.

    Args:
      fun: may close over arrays, not over tracers.
      size: bytes of what `fun` makes of `heavy`; lanes that share `heavy` share them.

    Differentiation: both modes; the derivative of all lanes at once.
    """
    # An array that `fun` closes over becomes an argument. JAX makes it one anyway where this stands in a
    # loop, may find it batched there, and allows no function with a batching rule to close over that.
    traced, shape = jax.make_jaxpr(fun, return_shape=True)(heavy, *others)
    jaxpr, constants = opened(traced)

    def pure(heavy: Tree, constants: list[Array], *others: Tree) -> Tree:
        made = evaluate_open(jaxpr, constants, *jax.tree.leaves((heavy, *others)))
        return jax.tree.unflatten(jax.tree.structure(shape), made)

    return _pure_in_lanes(pure, size, heavy, constants, *others)


def _pure_in_lanes(fun: Callable[..., Tree], size: int, heavy: Tree, *others: Tree) -> Tree:
    """`in_lanes` of a function that closes over nothing."""

    @custom_vmap
    def run(heavy: Tree, *others: Tree) -> Tree:
        return fun(heavy, *others)

    @run.def_vmap
    def _(lanes: int, batched: Sequence[Tree], *operands: Tree) -> tuple[Tree, Tree]:
        own = size * (lanes if any(jax.tree.leaves(batched[0])) else 1)
        if own <= BUDGET or own == size:
            made = _pure_in_lanes(jax.vmap(fun, in_axes=_axes(batched)), own, *operands)
        else:
            made = _groups(run, max(BUDGET // size, 1), batched, operands)
        return made, jax.tree.map(lambda _: True, made)

    # JAX cannot split a function with a batching rule into what reverse mode keeps and what it transposes. So its
    # derivative is that of `fun` as it stands.
    @jax.custom_jvp
    def call(*operands: Tree) -> Tree:
        return run(*operands)

    @call.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple[Tree, Tree]:
        return call(*primals), jax.jvp(fun, primals, tangents)[1]

    return call(heavy, *others)


def _groups(
    run: Callable[..., Tree], at_once: int, batched: Sequence[Tree], operands: Sequence[Tree]
) -> Tree:
    """`run` on every lane, `at_once` lanes at a time."""
    leaves, structure = jax.tree.flatten(tuple(operands))
    flags = jax.tree.leaves(tuple(batched))
    moving = [leaf for leaf, flag in zip(leaves, flags, strict=True) if flag]

    def one(lane: list[Array]) -> Tree:
        pending = iter(lane)
        mixed = [next(pending) if flag else leaf for leaf, flag in zip(leaves, flags, strict=True)]
        return run(*jax.tree.unflatten(structure, mixed))

    return jax.lax.map(one, moving, batch_size=None if at_once == 1 else at_once)


def _axes(batched: Sequence[Tree]) -> tuple:
    return tuple(jax.tree.map(lambda flag: 0 if flag else None, tuple(batched)))
