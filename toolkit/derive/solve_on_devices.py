"""The differentiable solve of a linear system inside `jax.shard_map`.

There each value has a type that says whether it differs between devices, and `jax.lax.custom_linear_solve`
wants one such type for all that the system and its solver close over. The system of a loss that is averaged
over the devices has two: its data differ, and its right-hand side and solution do not. So the solve is a linear
map of its right-hand side (`derive/linear_map.py`), which asks for no such thing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from toolkit.derive.linear_map import Programs, apply
from toolkit.derive.linearised_system import System, explicit, product
from toolkit.jaxprs.one_device import as_on_one_device
from toolkit.jaxprs.varying_axes import settled, vary, varying_axes
from toolkit.types import LinearInfo, Matvec, Tree

# (matvec, system, b, x0, transposed): the products with A, or with A', are handed in, because JAX counts on it
# that a solver takes those of its argument.
Once = Callable[[Matvec, System, Tree, Tree | None, bool], tuple[Tree, LinearInfo]]


def solve_on_devices(
    once: Once, system: System, b: Tree, transposed: bool, x0: Tree | None
) -> tuple[Tree, LinearInfo]:
    """`x` with `A x = b` (or `A' x = b`) by `once`, differentiable to any order in `b` and in the system.

    Args:
      once: one solve, which nothing differentiates.
    """
    b = settled(product(system, transposed, b), b)
    axes, system = varying_axes(b), explicit(system, b)

    def run(system: System, x0: Tree | None, b: Tree, transposed: bool) -> tuple[Tree, LinearInfo]:
        def solved(system: System, x0: Tree | None, b: Tree) -> tuple[Tree, LinearInfo]:
            return once(product(system, transposed, b), system, b, x0, transposed)

        if not axes:  # all devices solve one system; a collective in it combines their data
            return solved(system, x0, b)
        # Each device solves a system of its own. The loops of a solver may start from arrays of its own, which
        # do not differ yet.
        return vary(as_on_one_device(solved)(system, x0, b), axes)

    def programs(transposed: bool, starts: bool) -> Programs:
        # The transposed solve has another right-hand side, for which `x0` is no start.
        first = lambda system, x0, b: run(system, x0 if starts else None, b, transposed)
        return Programs(first, solution(transposed), solution(transposed))

    def linear(system: System, x0: Tree | None, b: Tree, transposed: bool) -> Any:
        forward, backward = programs(transposed, starts=True), programs(not transposed, False)
        _, info = jax.eval_shape(partial(run, transposed=transposed), system, x0, b)
        aux = jax.tree.map(lambda one: vary(jnp.zeros(one.shape, one.dtype), axes), info)
        return apply(forward, backward, system, x0, b, like=b, aux=aux)

    def solution(transposed: bool) -> Callable[[System, Tree], Tree]:
        @jax.custom_jvp
        def solve(system: System, b: Tree) -> Tree:
            return run(system, None, b, transposed)[0]

        @solve.defjvp
        def _(primals: tuple[System, Tree], tangents: tuple[Any, Tree]) -> tuple[Tree, Tree]:
            (system, b), (system_dot, b_dot) = primals, tangents
            x = solve(system, b)
            # A x = b  =>  A dx = db - dA x
            times_x = lambda system: product(system, transposed, b)(x)
            _, moved = jax.jvp(times_x, (system,), (system_dot,))
            return x, linear(system, None, jax.tree.map(jnp.subtract, b_dot, moved), transposed)[0]

        return solve

    return linear(system, x0, b, transposed)
