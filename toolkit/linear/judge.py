"""What all linear solvers share: checks of `matvec` and `b`, and `judge`, which ends every solve.

`judge` computes the residual from the system that was handed in. An iterative solver's own residual
drifts away from it by rounding, and a NaN in `b` makes loops end at once with a plausible x.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit import tree
from toolkit.derive.refusal import refuse_reverse_mode
from toolkit.errors.readable import call_as, returned_by
from toolkit.jaxprs.varying_axes import inside_shard_map, vary, varying_axes
from toolkit.leaves.promotion import standard_promotion
from toolkit.types import LinearInfo, Matvec, Preconditioner, Status, Tree


def checked(matvec: Matvec, b: Tree) -> Matvec:
    """`matvec`, its products refused unless they are like `b`, and brought to the types of `b`."""
    require_vector(b)
    if not callable(matvec):
        raise TypeError(
            f"`matvec` must be a callable (v -> A v): got {tree.describe(matvec)}; for a matrix A pass "
            "lambda v: A @ v."
        )

    def one(product: Any, leaf: Array) -> Array:
        # A complex product of a real vector is refused: the cast would drop its imaginary part.
        product = jnp.asarray(product)
        if product.shape != leaf.shape or (
            jnp.iscomplexobj(product) and not jnp.iscomplexobj(leaf)
        ):
            raise TypeError
        return product.astype(leaf.dtype)

    def product(v: Tree) -> Tree:
        made = call_as("matvec", matvec, "(v)", v)
        # `one` fails on a leaf of the wrong shape, `jax.tree.map` on another structure. Both become one
        # message that shows the whole trees.
        try:
            return jax.tree.map(one, made, b)
        except (TypeError, ValueError):
            got, expected = tree.describe(made), tree.describe(b)
            raise returned_by(
                matvec,
                ValueError(
                    f"`matvec` must return a tree like `b`: got {got}, expected {expected}."
                ),
            ) from None

    return product


def require_vector(b: Tree) -> None:
    """Refuse a right-hand side with leaves that are no floating or complex arrays."""
    leaves = jax.tree.leaves(b)
    if not all(hasattr(leaf, "shape") and tree.is_inexact(leaf) for leaf in leaves):
        raise ValueError(
            f"`b` must have floating or complex arrays as leaves: got {tree.describe(b)}; use "
            "jnp.asarray(b, float)."
        )


def start(b: Tree, x0: Tree | None) -> Tree:
    """The first iterate: `x0`, or zeros like `b`."""
    require_vector(b)
    if x0 is None:
        return optax.tree.zeros_like(b)
    shapes = [jax.tree.map(jnp.shape, one) for one in (x0, b)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"`x0` must have the structure and shapes of `b`: got {tree.describe(x0)}, "
            f"expected {tree.describe(b)}."
        )
    return jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), x0, b)


def over_devices(matvec: Matvec, b: Tree, x0: Tree | None) -> tuple[Tree, Tree | None]:
    """`b` and `x0`, marked as differing between the devices of a `jax.shard_map` where products with A do.

    JAX wants a loop's carry to differ alike before and after a step, and a product makes x differ.
    """
    if not inside_shard_map():
        return b, x0
    return vary((b, x0), varying_axes(jax.eval_shape(checked(matvec, b), b)))


def without_reverse_mode(name: str, x: Tree) -> Tree:
    """`x` of a solver whose loop ends by the residual, which JAX cannot reverse: refused in our words."""
    return refuse_reverse_mode(
        x,
        f"tk.linear.{name} has no reverse mode where it is called directly, as its loop ends by the residual; use "
        f"forward mode (jax.jvp, jax.jacfwd), tk.linear.Dense, or tk.root of the residual with tk.solver.Newton.",
    )


def counters(b: Tree) -> tuple[Array, Array]:
    """(0, False), to be carried by a loop beside vectors like `b`.

    Inside `jax.shard_map` a loop's carry must vary over the same device axes before and after a step.
    """
    start = (jnp.asarray(0, jnp.int32), jnp.asarray(False))
    return vary(start, varying_axes(b))


def real_dot(a: Tree, b: Tree) -> Array:
    """Re <a, b> over all leaves: the inner product of the real vector space behind the tree."""
    return jnp.real(tree.vdot(a, b))


@standard_promotion
def divided(x: Tree, unit: Array) -> Tree:
    """`x / unit`, in the types of `x`; `unit` is `tree.unit(b)`.

    A cotangent b may be so small (1e-25 in float32) that its squares are 0, and a recurrence of inner
    products would stop at once. The system is linear, so it is solved in units of the largest entry of b.
    """
    return jax.tree.map(lambda leaf: (leaf / unit).astype(leaf.dtype), x)


@standard_promotion
def multiplied(x: Tree, unit: Array) -> Tree:
    """Undo `divided`."""
    return jax.tree.map(lambda leaf: (leaf * unit).astype(leaf.dtype), x)


def flat_system(matvec: Matvec, b: Tree) -> tuple[Matvec, Array, Callable[[Array], Tree]]:
    """`A` and `b` on one vector, in float32 at least (LAPACK knows no smaller type), and the way back."""
    matvec = checked(matvec, b)
    flat, unravel = tree.ravel(b)
    wide = tree.widened(flat).dtype

    def back(vector: Array) -> Tree:
        return unravel(vector.astype(flat.dtype))

    def product(vector: Array) -> Array:
        return tree.ravel(matvec(back(vector)))[0].astype(wide)

    return product, flat.astype(wide), back


def approximate_inverse(
    preconditioner: Preconditioner | None, matvec: Matvec, like: Tree
) -> tuple[Matvec, int]:
    """The preconditioner's map for this system, and the products that made it; identity for None."""
    if preconditioner is None:
        return lambda r: r, 0
    return preconditioner.approximate_inverse(matvec, like), preconditioner.products(like)


def judge(
    matvec: Matvec,
    b: Tree,
    x: Tree,
    steps: Array | int,
    tol: float | Array,
    negative_curvature: Array | bool = False,
    products: Array | int | None = None,
    norms: tuple[Array, Array] | None = None,
) -> tuple[Tree, LinearInfo]:
    """`x` with its verdict; NaN where `b`, `x` or a product is not finite.

    `products` counts those made before this; one a step when not given. `norms`: those of `b` and of
    `b - A x`, where they have just been computed.

    Cost: one product, none with `norms`.
    """
    made = jnp.asarray(steps if products is None else products, jnp.int32)
    if norms is None:
        norms, made = (tree.norm(b), tree.norm(optax.tree.sub(b, matvec(x)))), made + 1
    b_norm, difference = norms
    # For b = 0 the relative residual would be 0 / 0. The solution is 0, so the residual itself counts.
    relative = jnp.where(b_norm == 0, difference, difference / jnp.where(b_norm == 0, 1, b_norm))
    finite = jnp.isfinite(relative) & jnp.isfinite(b_norm)
    status = jnp.where(
        finite,
        jnp.where(relative <= tol, int(Status.CONVERGED), int(Status.STEP_LIMIT)),
        int(Status.NOT_FINITE),
    )
    # A solve that failed must not look like one that worked: its x and residual become NaN.
    info = LinearInfo(
        status.astype(jnp.int32),
        jnp.asarray(steps, jnp.int32),
        tree.nan_unless(finite, relative),
        jnp.asarray(negative_curvature),
        made,
    )
    return tree.nan_unless(finite, x), info
