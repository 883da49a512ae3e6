"""The end of every linear solve: recompute the residual, judge it, never hide a NaN."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit import tree
from toolkit.types import LinearInfo, Status, Tree


def start(b: Tree, x0: Tree | None) -> Tree:
    """The first iterate: `x0`, or zeros like `b`."""
    if x0 is None:
        return optax.tree.zeros_like(b)
    if jax.tree.structure(x0) != jax.tree.structure(b):
        raise ValueError(
            f"`x0` must have the structure of `b`: got {tree.describe(x0)}, "
            f"expected {tree.describe(b)}."
        )
    return x0


def real_dot(a: Tree, b: Tree) -> Array:
    """Re <a, b> over all leaves: the inner product of the real vector space behind the tree."""
    return jnp.real(optax.tree.vdot(a, b))


def positive(name: str, value: float) -> None:
    """Refuse a setting that is not positive."""
    if value <= 0:
        raise ValueError(f"`{name}` must be positive: got {value}.")


def judge(
    matvec: tree.Matvec,
    b: Tree,
    x: Tree,
    steps: Array | int,
    tol: float | Array,
    negative_curvature: Array | bool = False,
) -> tuple[Tree, LinearInfo]:
    """`x` with its verdict; NaN where `b`, `x` or a product is not finite.

    Cost: one product.
    """
    b_norm = tree.norm(b)
    difference = tree.norm(optax.tree.sub(matvec(x), b))
    # b = 0 has the solution 0: its relative residual is 0, not 0/0.
    residual = jnp.where(b_norm == 0, difference, difference / jnp.where(b_norm == 0, 1, b_norm))
    finite = jnp.isfinite(residual) & jnp.isfinite(b_norm)
    status = jnp.where(
        finite,
        jnp.where(residual <= tol, int(Status.CONVERGED), int(Status.STEP_LIMIT)),
        int(Status.NOT_FINITE),
    )
    info = LinearInfo(
        status.astype(jnp.int32),
        jnp.asarray(steps, jnp.int32),
        jnp.where(finite, residual, jnp.nan),
        jnp.asarray(negative_curvature),
    )
    return tree.nan_unless(finite, x), info
