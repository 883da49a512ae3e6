"""Over which axes of an enclosing `jax.shard_map` a value differs between devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from toolkit.jaxprs.classes import Literal
from toolkit.jaxprs.read import evaluate_equation
from toolkit.types import Tree


def varying_axes(tree: Tree) -> frozenset[str]:
    """The axes of an enclosing `jax.shard_map` over which some leaf differs between devices."""

    def of(leaf: Any) -> frozenset[str]:
        # `jax.ShapeDtypeStruct`s and the types of a program's variables have the attribute themselves; of
        # an array `jax.typeof` gives the type that has it.
        typed = leaf if hasattr(leaf, "manual_axis_type") else jax.typeof(leaf)
        manual = getattr(typed, "manual_axis_type", None)
        return manual.varying if manual else frozenset()

    return frozenset().union(*map(of, jax.tree.leaves(tree)))


def inside_shard_map() -> bool:
    """Whether JAX keeps account, here, of what differs between devices: `jax.shard_map` with its checks."""
    return any(is_checked(axis) for axis in jax.sharding.get_abstract_mesh().manual_axes)


def is_checked(axis: str) -> bool:
    """Whether JAX keeps account of what differs between devices along an axis of a `jax.shard_map`."""
    # The number of a device differs between devices. Where JAX does not say so, it keeps no account: under
    # `jax.pmap`, or with `check_vma=False`.
    return axis in varying_axes(jax.lax.axis_index(axis))


def vary(tree: Tree, axes: frozenset[str]) -> Tree:
    """Mark each array as differing between devices along `axes`; the values stay."""

    def one(leaf: Any) -> Any:
        missing = tuple(sorted(axes - varying_axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(one, tree)


def on_all_devices(flag: Array, axes: frozenset[str]) -> Array:
    """Whether `flag` holds on all devices along the axes other than `axes`, along which it may still differ."""
    others = tuple(sorted(varying_axes(flag) - axes))
    return jax.lax.pmin(flag.astype(jnp.int32), others) > 0 if others else flag


def settled(fun: Callable[[Tree], Tree], start: Tree) -> Tree:
    """`start`, marked as differing along the axes along which `fun` of it differs; `fun` returns a like tree.

    A loop that feeds the results of `fun` back to it has one type before and after a step.
    """
    axes = varying_axes(start)
    while missing := varying_axes(jax.eval_shape(fun, start)) - axes:
        axes |= missing
        start = vary(start, axes)
    return vary(start, axes)


def evaluate_retyped(program: Any, operands: Sequence[Any]) -> list[Any]:
    """The results of a program, whose constants are arguments, for operands that differ along other axes.

    The program casts what it combines to the axes of the arguments for which it was traced. Here each equation's
    operands are cast to the axes of one another as well. Where nothing differs nothing is cast.
    """
    alike = not varying_axes(operands)
    known = dict(zip(program.invars, operands, strict=True))
    read = lambda atom: atom.val if isinstance(atom, Literal) else known[atom]
    for equation in program.eqns:
        given = [*map(read, equation.invars)]
        if equation.primitive.name in ("pvary", "pcast"):
            made = given if alike else [vary(given[0], varying_axes(equation.outvars[0].aval))]
        else:
            made = evaluate_equation(equation, vary(given, varying_axes(given)))
        known |= zip(equation.outvars, made, strict=True)
    return [*map(read, program.outvars)]
