"""`Nystrom`: the inverse of a randomised low-rank approximation plus damping; also a preconditioner."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.errors.readable import readable
from toolkit.linear.judge import (
    flat_system,
    judge,
    over_devices,
    start,
)
from toolkit.settings import Count, NonNegative, Positive, settings
from toolkit.types import LinearInfo, Matvec, Tree


@settings("nystrom")
class Nystrom:
    """`x = (A_k + damping I)^{-1} b`, `A_k` the rank-`k` Nystrom approximation of `A`.

    For symmetric positive semidefinite `A` whose spectrum decays. With a random orthonormal
    `Omega [N, k]` and `Y = A Omega`, `A_k = Y (Omega' Y)^{-1} Y'`, computed in the stable form
    `U Lambda U'`; then `x = U (Lambda + damping)^{-1} U' b + (b - U U' b) / damping`.

    Args:
      rank: k, columns of the sketch; at most the number of unknowns is used.
      damping: positive; the curvature that stands in for what the sketch does not see. Rounding leaves a
        relative residual of about `eps |A| / damping`: choose it well above `eps |A|`.
      tol: relative to ||b||; decides the status only. The residual is that of `A x = b`, without
        the damping.

    Returns: NaN and `negative_curvature` where `Omega' A Omega` is not positive definite.

    Cost: `rank` products (one batched product), one more for the residual, `N rank^2` operations,
    memory of `3 rank` vectors like `b`. No iteration: the same cost for every `b`.

    As a preconditioner (`CG(50, 1e-8, preconditioner=Nystrom(20, 1e-3))`, `damping` the regularisation
    that `A` contains): `(l + damping) U (Lambda + damping)^{-1} U' r + r - U U' r`, l the smallest
    value kept, for which CG takes few steps where the spectrum below l is flat.

    Source: Hataya & Yamada 2023; the stable form: Frangella, Tropp & Udell 2023,
    algorithm 2.1; the preconditioner: there, equation 1.3.
    """

    symmetric_only: ClassVar[bool] = True
    needs_symmetry: ClassVar[bool] = True
    rank: Count
    damping: Positive
    tol: NonNegative = 1e-3

    @readable
    def __call__(self, matvec: Matvec, b: Tree, x0: Tree | None = None) -> tuple[Tree, LinearInfo]:
        b, x0 = over_devices(matvec, b, x0)
        product, flat, back = flat_system(matvec, b)
        first = tree.ravel(start(b, x0))[0].astype(flat.dtype)
        rest = flat if x0 is None else flat - product(first)
        rank = min(self.rank, flat.size)
        vectors, values, definite = _approximation(product, flat, rank)
        inside = vectors.conj().T @ rest
        x = vectors @ (inside / (values + self.damping))
        x = first + x + (rest - vectors @ inside) / self.damping
        return judge(matvec, b, back(x.astype(flat.dtype)), rank, self.tol, ~definite)

    def approximate_inverse(self, matvec: Matvec, like: Tree) -> Matvec:
        """The preconditioner for `A`, of the sketch of `A`; the identity where that is indefinite."""
        product, flat, back = flat_system(matvec, like)
        vectors, values, definite = _approximation(product, flat, min(self.rank, flat.size))
        # The formula of the class as the identity plus a correction: `1 + gain` along each eigenvector.
        gains = (values[-1] + self.damping) / (values + self.damping) - 1
        gains = jnp.where(definite, gains, 0)

        def inverse(r: Tree) -> Tree:
            vector = tree.ravel(r)[0].astype(flat.dtype)
            kept = jnp.where(definite, vectors, 0)
            return back(vector + kept @ (gains * (kept.conj().T @ vector)))

        return inverse

    def products(self, like: Tree) -> int:
        """One a column of the sketch."""
        return min(self.rank, sum(leaf.size for leaf in jax.tree.leaves(like)))


def _approximation(product: Matvec, like: Array, rank: int) -> tuple[Array, Array, Array]:
    """Eigenvectors `[N, k]` and eigenvalues `[k]` of `A_k`, and whether the sketch is definite."""
    sketch, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (like.size, rank), like.dtype))
    image = jax.vmap(product, in_axes=1, out_axes=1)(sketch)
    # For a semidefinite A rounding can make `Omega' A Omega` slightly indefinite, and Cholesky would
    # fail. A shift of the size of rounding prevents that; it is taken off the eigenvalues again.
    eps = jnp.finfo(like.dtype).eps
    shift = like.size**0.5 * eps * jnp.linalg.norm(image)
    image = image + shift * sketch
    gram = sketch.conj().T @ image
    factor = jnp.linalg.cholesky((gram + gram.conj().T) / 2)
    # With gram = L L', A_k = Y gram^-1 Y' = R R' for R = Y L^-H, the `root` here. The left singular vectors
    # of R are the eigenvectors of A_k, and its squared singular values the eigenvalues.
    root = jax.scipy.linalg.solve_triangular(factor, image.conj().T, lower=True).conj().T
    vectors, singular, _ = jnp.linalg.svd(root, full_matrices=False)
    # A NaN in the products is no sign of negative curvature: `judge` reports it as not finite.
    definite = jnp.all(jnp.isfinite(factor)) | ~jnp.all(jnp.isfinite(image))
    return vectors, jnp.maximum(singular**2 - shift, 0), definite
