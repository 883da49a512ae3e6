"""Values with a derivative that is not that of how they were found."""

from __future__ import annotations

from collections.abc import Callable

import jax

from toolkit import tree
from toolkit.derive.symbolic_zeros import is_zero_tangent, zero_tangent
from toolkit.jaxprs.lift import lift
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.types import Tree


def remembered(fun: Callable[..., Tree]) -> Callable[..., Tree]:
    """`recall(known, *args)` is `known` to the bit, with the derivative of `fun(*args)`.

    `known` is what `fun` gave at these arguments before; its own derivative is not used. `fun` is evaluated only
    where a derivative is taken.
    """

    @jax.custom_jvp
    def recalled(known: Tree, *args: Tree) -> Tree:
        return known

    def differentiate(primals: tuple, tangents: tuple) -> tuple[Tree, Tree]:
        _, *args = primals
        moves = jax.tree.map(lambda dot: not is_zero_tangent(dot), list(tangents[1:]))
        moving, fixed = tree.select(args, moves)
        along, _ = tree.select(list(tangents[1:]), moves)
        again = lambda moving: fun(*tree.merge(moving, fixed))
        return recalled(*primals), jax.jvp(again, (moving,), (along,))[1]

    recalled.defjvp(differentiate, symbolic_zeros=True)
    return recalled


def only_if(needed: jax.Array, compute: Callable[[], Tree], otherwise: Tree) -> Tree:
    """`compute()` where the scalar `needed` holds, else `otherwise`; without derivative.

    A loop of at most one turn. Under `vmap` a `cond` runs both of its branches for all lanes, always; the body of
    a loop runs only while some lane needs it.
    """
    axes = varying_axes((needed, otherwise, jax.eval_shape(compute)))
    start = vary((needed, otherwise), axes)
    turn = lambda carry: (carry[0] & False, vary(compute(), axes))
    return jax.lax.while_loop(lambda carry: carry[0], turn, start)[1]


def constant(fun: Callable[..., Tree], *args: Tree) -> Tree:
    """`fun(*args)` without derivative, also not in what `fun` closes over.

    Of no order. A `stop_gradient` is gone from the program of a first derivative, and a second one would pass through
    `fun`, which may loop on data.
    """
    lifted = lift(fun, *args)
    call = lifted.call

    @jax.custom_jvp
    def held(closed: Tree, *args: Tree) -> Tree:
        return call(closed, *args)

    def differentiate(primals: tuple, tangents: tuple) -> tuple[Tree, Tree]:
        out = held(*primals)
        return out, jax.tree.map(zero_tangent, out)

    held.defjvp(differentiate, symbolic_zeros=True)
    return held(lifted.closed, *args)
