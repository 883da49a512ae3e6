"""Where the state of a method differs between the devices of a `jax.shard_map`."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array

from toolkit import tree
from toolkit.bilevel.parts.problem import Problem
from toolkit.derive.on_devices import device_axes, refuse_differing, refuse_unchecked
from toolkit.jaxprs.collectives import collective_axes
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.types import Tree


def state_axes(problem: Problem, key: Array, y0: Tree, theta0: Tree) -> frozenset[str]:
    """The device axes along which a step makes the state differ: those along which a loss does.

    With losses that are averaged over the devices the state is the same on all of them, although their data
    differ.

    Raises:
      ValueError: a collective in a loss, where JAX would differentiate it wrongly.
    """
    if not device_axes():
        return frozenset()
    axes, seen = varying_axes((key, y0, theta0)), None
    while axes != seen:
        seen = axes
        programs = {name: _program(problem, name, y0, theta0, axes) for name in ("inner", "outer")}
        axes = axes.union(*(varying_axes(program.out_avals) for program, _ in programs.values()))
    for name, (program, is_variable) in programs.items():
        inexact = [jax.numpy.issubdtype(aval.dtype, jax.numpy.inexact) for aval in program.in_avals]
        refuse_unchecked(name, program, inexact)
        refuse_differing(name, "the variables", collective_axes(program, is_variable) & axes)
    return axes


def _program(
    problem: Problem, name: str, y0: Tree, theta0: Tree, axes: frozenset[str]
) -> tuple[Any, list[bool]]:
    """A loss as a program of (y, theta, data), and which of its arguments belong to y or theta."""
    parts = [tree.parts(part) for part in (y0, theta0, getattr(problem, f"{name}_data"))]

    def loss(*arrays: Tree) -> Array:
        whole = [tree.whole(*own, part[2]) for own, part in zip(arrays, parts, strict=True)]
        value: Array = getattr(problem, name)(*whole)
        return value

    y, theta, data = (part[:2] for part in parts)
    arguments = (*vary((y, theta), axes), data)
    is_variable = [True] * len(jax.tree.leaves((y, theta))) + [False] * len(jax.tree.leaves(data))
    return jax.make_jaxpr(loss)(*arguments), is_variable
