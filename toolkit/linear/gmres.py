"""`GMRES`: an iterative solver for any square matrix, in memory of `restart` vectors."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.sparse.linalg import gmres

from toolkit import tree
from toolkit.errors.readable import readable
from toolkit.jaxprs.lift import lift
from toolkit.jaxprs.one_device import as_on_one_device
from toolkit.jaxprs.varying_axes import inside_shard_map, varying_axes
from toolkit.linear.judge import (
    approximate_inverse,
    checked,
    divided,
    flat_system,
    judge,
    multiplied,
    over_devices,
    start,
    without_reverse_mode,
)
from toolkit.settings import Count, NonNegative, settings
from toolkit.types import LinearInfo, Matvec, Tree
from toolkit.vocabulary.roles import Preconditioner


@settings("gmres")
class GMRES:
    """Restarted GMRES, for any square `A`; JAX's routine, one restart at a time.

    Args:
      max_steps: products at most; rounded up to whole restarts of min(max_steps, restart, size).
      tol: relative to ||b||.
      preconditioner: from the left; made once a solve. The residual that counts is the system's own.
      restart: the longest Krylov basis kept, in vectors like `b`, at least 1.

    Returns: `info.steps` counts whole restarts' products, an upper bound: JAX's routine does not
    say where inside a restart it stopped.

    Cost: one product a step, memory of `restart` + 1 vectors like `b`, one product for the residual.

    Source: Saad & Schultz 1986.
    """

    max_steps: Count
    tol: NonNegative
    preconditioner: Preconditioner | None = None
    restart: Count = 20

    @readable
    def __call__(self, matvec: Matvec, b: Tree, x0: Tree | None = None) -> tuple[Tree, LinearInfo]:
        b, x0 = over_devices(matvec, b, x0)
        if not inside_shard_map():
            return self._solve(matvec, b, x0)
        product = lift(checked(matvec, b), b)
        _refuse_shared_unknowns(product.closed, b)
        # JAX's routine loops over arrays that it makes itself.
        solve = as_on_one_device(
            lambda closed, b, x0: self._solve(partial(product.call, closed), b, x0)
        )
        return solve(product.closed, b, x0)

    def _solve(self, matvec: Matvec, b: Tree, x0: Tree | None) -> tuple[Tree, LinearInfo]:
        product, flat, back = flat_system(matvec, b)
        if flat.size == 0:
            return judge(matvec, b, b, 0, self.tol)
        unit = tree.unit(b)
        b, flat = divided(b, unit), divided(flat, unit)
        restart = min(self.max_steps, self.restart, tree.size(b))
        target = self.tol * tree.norm(flat)
        inverse, made = approximate_inverse(self.preconditioner, matvec, b)

        def flat_inverse(r: Array) -> Array:
            return tree.ravel(inverse(back(r)))[0].astype(flat.dtype)

        def unfinished(carry: tuple[Array, Array, Array, Array]) -> Array:
            _, steps, residual, previous = carry
            # Restarts are deterministic: one that gains nothing would be repeated without end.
            gaining = (residual < previous) | (steps == 0)
            return (steps < self.max_steps) & (residual > target) & gaining

        def cycle(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            x, steps, residual, _ = carry
            new, _ = gmres(
                product,
                flat,
                x0=x,
                tol=self.tol,
                restart=restart,
                maxiter=1,
                M=None if self.preconditioner is None else flat_inverse,
                solve_method="batched",
            )
            # JAX's routine reports no residual, and may return a worse x than it was given. So the
            # residual is computed here, and the better of the two is kept.
            after = tree.norm(flat - product(new))
            better = after < residual
            kept = jnp.where(better, new, x)
            return kept, steps + restart, jnp.where(better, after, residual), residual

        x = divided(tree.ravel(start(b, x0))[0].astype(flat.dtype), unit)
        first = tree.norm(flat - product(x))
        steps = jnp.asarray(0, jnp.int32)
        x, steps, _, _ = jax.lax.while_loop(unfinished, cycle, (x, steps, first, first))
        x, info = judge(matvec, b, back(x), steps, self.tol, products=made + steps)
        return without_reverse_mode("GMRES", multiplied(x, unit)), info


def _refuse_shared_unknowns(closed: Tree, like: Tree) -> None:
    """Refuse a system whose data differ between devices where its right-hand side does not.

    JAX's routine marks all that it computes as differing where the data do, and refuses the product of such a
    vector with a matrix that is averaged over the devices.
    """
    if varying_axes(closed) - varying_axes(like):
        raise ValueError(
            "`linear_solver` must not be GMRES inside jax.shard_map where data differ between devices and `y` does "
            "not, as with a loss that is averaged over them; use tk.linear.BiCGStab, CG or Dense."
        )
