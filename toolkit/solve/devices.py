"""The hypergradient inside `jax.shard_map`: it differs between devices as the outer value does.

`jax.grad` adds up the gradients of all devices where theta is the same on them. A mean over the devices, which
is what one means by data parallel, is then too large by their number. So theta is marked as differing first,
and each device has the gradient of its own value. Where a collective ties the devices' problems together
there is no such gradient: each device is handed the same share of the sum, so that the mean is right, too.
"""

from __future__ import annotations

import math
from typing import Any

import jax

from toolkit import tree
from toolkit.derive.on_devices import refuse_unchecked
from toolkit.jaxprs.collectives import collective_axes
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.types import Tree


def of_each_device(value: Any, theta: Tree) -> tuple[Tree, frozenset[str]]:
    """`theta` for the derivative of `value(theta)`, and the axes along which that derivative will be a sum.

    Cost: traces `value` once.
    """
    parts = tree.parts(theta)
    whole = lambda inexact: tree.whole(inexact, parts.arrays, parts.static)
    program, shape = jax.make_jaxpr(lambda one: value(whole(one)), return_shape=True)(parts.inexact)
    marked = [True] * len(jax.tree.leaves(parts.inexact))
    refuse_unchecked("outer", program, marked)
    axes = varying_axes(shape)
    summed = collective_axes(program, marked) & axes
    return whole(vary(parts.inexact, axes - summed)), summed


def shared(total: Tree, summed: frozenset[str]) -> Tree:
    """Each device's equal share of what is the same along the axes `summed`; what differs is its own share."""

    def one(leaf: Any) -> Any:
        if not (same := summed - varying_axes(leaf)):
            return leaf
        return vary(leaf / math.prod(map(jax.lax.axis_size, same)), same)

    return jax.tree.map(one, total)
