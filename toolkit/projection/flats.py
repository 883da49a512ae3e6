"""Flats and half-spaces: sets of linear equations, and of one linear inequality."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.array_arguments import spread
from toolkit.leaves.promotion import standard_promotion
from toolkit.projection.arguments import (
    inexact,
    no_answer_unless,
    number,
    real,
    require_real,
    several,
    vector,
)
from toolkit.types import Tree


@standard_promotion
def hyperplane(y: Tree, plane: tuple[Tree, Tree]) -> Tree:
    """The nearest `u` with `<a, u> = b`: `y - a (<a, y> - b) / <a, a>`.

    Args:
      y: real floating leaves of any shapes.
      plane: `(a, b)`; `a` a tree like `y`, or one array that broadcasts against each leaf; `b` an array
        `[]`. With `a = 0` the set is empty, or everything where `b = 0`; the derivative in `a` and `b`
        is then 0.

    Raises:
      ValueError: integer or complex leaves; `plane` of another form.

    Source: Parikh & Boyd 2014, section 6.2.2.
    """
    return _shifted(y, "plane", plane, lambda excess: excess, jnp.isfinite, lambda b: b == 0)


@standard_promotion
def halfspace(y: Tree, half: tuple[Tree, Tree]) -> Tree:
    """The nearest `u` with `<a, u> <= b`: `y - a max(<a, y> - b, 0) / <a, a>`.

    Args:
      y: real floating leaves of any shapes.
      half: `(a, b)` as for `hyperplane`; `b = jnp.inf` for no bound. With `a = 0` the set is everything
        where `b >= 0`, else empty.

    Raises:
      ValueError: integer or complex leaves; `half` of another form.

    Differentiation: on the boundary, that of the inside.

    Source: Parikh & Boyd 2014, section 6.2.3.
    """
    clip = lambda excess: jnp.where(excess > 0, excess, 0)
    return _shifted(y, "half", half, clip, lambda b: b > -jnp.inf, lambda b: b >= 0)


def _shifted(y: Tree, name: str, pair: Any, clip: Any, admits: Any, admits_zero: Any) -> Tree:
    """`y - a clip(<a, y> - b) / <a, a>`, where `admits(b)`; and `admits_zero(b)` where `a = 0`."""
    y = real(y)
    a, b = several(name, pair, "a", "b")
    require_real(name, (a, b))
    a, b = filled(name, a, y), number(f"{name}[1]", b)
    flat, back = vector(y, *jax.tree.leaves(a), b)
    normal, b = vector(a)[0].astype(flat.dtype), b.astype(flat.dtype)
    # In units of the largest entry no square overflows or vanishes. The unit cancels: no derivative.
    unit = jax.lax.stop_gradient(tree.unit(normal))
    a, scaled = normal / unit, b / unit
    empty = jnp.all(normal == 0)
    squares = jnp.sum(jnp.square(a))
    nearest = flat - a * (clip(jnp.sum(a * flat) - scaled) / jnp.where(empty, 1, squares))
    possible = jnp.where(empty, admits_zero(b), admits(b))
    known = possible & jnp.all(jnp.isfinite(flat)) & jnp.all(jnp.isfinite(normal))
    return back(no_answer_unless(known, nearest, flat, normal, b))


def filled(name: str, parameter: Tree, y: Tree) -> Tree:
    """`parameter` as a tree of arrays with the shapes of `y`."""
    whole = lambda part, leaf: jnp.broadcast_to(part, leaf.shape)
    return jax.tree.map(whole, spread(name, parameter, y), y)


@standard_promotion
def affine(y: Tree, system: tuple[Array, Array]) -> Tree:
    """The nearest `u` with `A u = b`: `y - A^+ (A y - b)`.

    By a QR factorisation of `A'` (not by `A A'`, which squares the condition number). NaN where the
    rows of `A` are linearly dependent to working precision.

    Args:
      y: floating or complex leaves of any shapes, N entries in all, in the order of
        `jax.flatten_util.ravel_pytree`. Where one leaf is complex, all must be.
      system: `(A, b)`, `A` of shape `[M, N]` with `M <= N` independent rows, `b` of shape `[M]`; complex
        only where `y` is.

    Raises:
      ValueError: integer leaves; `system` of another form.

    Cost: a QR factorisation of `[N, M]`, `N M^2` operations.

    Source: Parikh & Boyd 2014, section 6.2.2.
    """
    y = inexact(y)
    A, b = several("system", system, "A", "b")
    if not tree.is_numeric(A) or not tree.is_numeric(b):
        raise ValueError(f"`system` must be a pair of arrays: got {tree.describe(system)}.")
    A, b = jnp.asarray(A), jnp.asarray(b)
    size = sum(leaf.size for leaf in jax.tree.leaves(y))
    if A.ndim != 2 or A.shape[1] != size or b.shape != A.shape[:1] or len(A) > size:
        raise ValueError(
            f"`system` must be (A [M, {size}], b [M]) with M <= {size}: got shapes "
            f"{A.shape} and {b.shape}."
        )
    kinds = {jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(y)}
    if len(kinds) > 1:
        raise ValueError(f"`y` must be real or complex in all leaves: got {tree.describe(y)}.")
    if True not in kinds:
        require_real("system", (A, b))
    flat, back = vector(y, A, b)
    A, b = A.astype(flat.dtype), b.astype(flat.dtype)
    Q, R = jnp.linalg.qr(A.conj().T)
    pivots = jnp.abs(jnp.diagonal(R))
    eps = jnp.finfo(R.dtype).eps * max(A.shape)
    independent = jnp.min(pivots, initial=jnp.inf) > eps * jnp.max(pivots, initial=0)
    # With A^H = Q R, `A u = b` says `R^H Q^H u = b`. So the nearest point has the coordinates R^-H b in
    # the row space (the columns of Q), and the coordinates of `flat` orthogonal to it.
    part = jax.scipy.linalg.solve_triangular(R, b, trans="C")
    nearest = flat + Q @ (part - Q.conj().T @ flat)
    known = independent & jnp.all(jnp.isfinite(flat)) & jnp.all(jnp.isfinite(b))
    return back(no_answer_unless(known, nearest, flat, A, b))
