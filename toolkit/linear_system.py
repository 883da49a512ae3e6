"""A linear solve that differentiates: one place where `custom_linear_solve` is called."""

from __future__ import annotations

from collections.abc import Callable

import jax

from toolkit.types import LinearInfo, LinearSolver, Tree


def solve_linear(
    solver: LinearSolver, matvec: Callable[[Tree], Tree], b: Tree, symmetric: bool
) -> tuple[Tree, LinearInfo]:
    """`x` with `A x = b`, differentiable to any order in `b` and in what `matvec` closes over.

    The transposed system is solved by the same solver: with the same `matvec` when symmetric,
    with its transpose otherwise. `b` and `x` are trees of real leaves.
    """

    def solve(matvec: Callable[[Tree], Tree], b: Tree) -> tuple[Tree, LinearInfo]:
        return solver(matvec, b)

    return jax.lax.custom_linear_solve(
        matvec,
        b,
        solve=solve,
        transpose_solve=None if symmetric else solve,
        symmetric=symmetric,
        has_aux=True,
    )
