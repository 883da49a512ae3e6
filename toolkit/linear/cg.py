"""`CG`: conjugate gradients, for symmetric matrices.

The recurrence updates the residual instead of computing it, and rounding parts the two. A loop that
trusts the recurrence reports a system as solved that is not. Here the residual is computed anew when the
recurrence ends, and the recurrence starts again from it where it was wrong. Both need a product with A,
and the product is the largest part of the program: so one loop body with one product serves both, and
`checking` says which of them a turn is.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.errors.readable import readable
from toolkit.leaves.promotion import standard_promotion
from toolkit.linear.judge import (
    approximate_inverse,
    checked,
    counters,
    divided,
    judge,
    multiplied,
    over_devices,
    real_dot,
    start,
    without_reverse_mode,
)
from toolkit.settings import Count, NonNegative, settings
from toolkit.types import LinearInfo, Matvec, Tree
from toolkit.vocabulary.roles import Preconditioner


class _CGState(NamedTuple):
    """What the loop carries from one product to the next.

    The product is with a search direction, or with x where the residual is computed anew.
    """

    x: Tree
    r: Tree  # b - A x, by recurrence
    v: Tree  # what A is multiplied with next
    norm: Array  # [] of r
    rz: Array  # [] <r, z>, z the preconditioned residual
    before: Array  # [] norm of the residual that was last computed
    steps: Array  # []
    products: Array  # []
    checking: Array  # [] bool: the next product is of x
    negative: Array  # [] bool, some p'Ap <= 0
    done: Array  # [] bool


@settings("cg")
class CG:
    """Conjugate gradients, for symmetric (Hermitian) `A`.

    Goes on through directions of negative curvature, where the recurrence still solves a
    nonsingular system, and reports them; it stops where `p'Ap` is exactly 0. An x that is NaN there had
    a residual above ||b||, that of x = 0.

    Args:
      max_steps: products at most.
      tol: relative to ||b||, on the recomputed residual. Where rounding has parted the recurrence's
        from it, the recurrence starts again, as long as that halves it. With 0 it ends after
        `max_steps`, or where no further digit can be won.
      preconditioner: `tk.linear.Diagonal` or `tk.linear.Nystrom`, made once a solve; positive definite.

    Differentiation: through `tk.adjoint.Implicit`; the call itself contains a `while_loop`.

    Cost: one product a step, and one more for each recomputed residual.

    Source: Hestenes & Stiefel 1952; with a preconditioner: Saad 2003, algorithm 9.1.
    """

    symmetric_only: ClassVar[bool] = True
    needs_symmetry: ClassVar[bool] = True
    max_steps: Count
    tol: NonNegative
    preconditioner: Preconditioner | None = None

    @readable
    def __call__(self, matvec: Matvec, b: Tree, x0: Tree | None = None) -> tuple[Tree, LinearInfo]:
        b, x0 = over_devices(matvec, b, x0)
        matvec = checked(matvec, b)
        x = start(b, x0)
        inverse, made = approximate_inverse(self.preconditioner, matvec, b)
        unit = tree.unit(b)
        b = divided(b, unit)
        size = _norm(b)
        # A residual below eps^2 |b| changes no digit of x. Without this floor, tol = 0 would let the
        # recurrence run on until its numbers underflow and it divides 0 by 0.
        floor = float(jnp.finfo(size.dtype).eps) ** 2
        target, r, norm = jnp.maximum(self.tol, floor) * size, b, size
        if x0 is not None:
            x = divided(x, unit)
            r = _difference(b, matvec(x))
            norm = _norm(r)

        def advance(s: _CGState) -> _CGState:
            return self._advance(s, matvec, inverse, b, target)

        z, (zero, no) = inverse(r), counters(r)
        met = self._met(norm, zero, target)
        v, rz = tree.where(met, x, z), real_dot(r, z)
        first = _CGState(x, r, v, norm, rz, norm, zero, zero, met, no, no)
        last = jax.lax.while_loop(lambda s: ~s.done, advance, first)
        products = made + last.products + (0 if x0 is None else 1)
        norms = size, last.norm
        x, info = judge(matvec, b, last.x, last.steps, self.tol, last.negative, products, norms)
        # Along directions of negative curvature the recurrence may run away. An x worse than 0 is no
        # approximation there, and `jax.grad`, which has no status, must not pass it on.
        astray = last.negative & (info.residual > 1)
        x = tree.nan_unless(~astray, multiplied(x, unit))
        return without_reverse_mode("CG", x), info

    def _met(self, norm: Array, steps: Array, target: Array) -> Array:
        """Whether the recurrence ends: its residual is at the target, or the steps are used up."""
        return ~((steps < self.max_steps) & (norm > target))

    def _advance(
        self, s: _CGState, matvec: Matvec, inverse: Matvec, b: Tree, target: Array
    ) -> _CGState:
        """One turn of the loop, with its one product: a step, or the residual where steps have ended."""
        # In a step v is the search direction p: x gains alpha p, and r loses alpha A p. In a check v is x,
        # alpha is 0, and r becomes b - A x.
        product = matvec(s.v)
        vav = real_dot(s.v, product)
        alpha = jnp.where((vav == 0) | s.checking, 0, s.rz / jnp.where(vav == 0, 1, vav))
        x = tree.add_scaled(s.x, alpha, s.v)
        r = tree.add_scaled(
            tree.where(s.checking, b, s.r), jnp.where(s.checking, -1, -alpha), product
        )
        z = inverse(r)
        norm, rz = _norm(r), real_dot(r, z)
        # With p'Ap = 0 no step length exists: the steps count as used up, which ends the recurrence.
        ended = jnp.where(vav == 0, self.max_steps, s.steps + 1).astype(jnp.int32)
        steps = jnp.where(s.checking, s.steps, ended)
        # Start again only if the last run halved the residual. Else rounding is all that is left, and
        # another run would gain nothing.
        again = (steps < self.max_steps) & (norm > target) & (norm <= s.before / 2)
        before = jnp.where(s.checking, norm, s.before)
        met = ~s.checking & self._met(norm, steps, target)
        # After a check the recurrence starts again along z, without the earlier direction.
        p = tree.add_scaled(z, jnp.where(s.checking, 0, rz / s.rz), s.v)
        return _CGState(
            x, r, tree.where(met, x, p), norm, rz, before, steps, s.products + 1, met,
            s.negative | (~s.checking & (vav <= 0)),
            s.checking & ~again,
        )  # fmt: skip


def _norm(r: Tree) -> Array:
    """2-norm of r, whose entries are in units of b's largest.

    Unlike `tree.norm` it does not scale again: a square that underflows in these units belongs to an
    entry far below the rounding of b.
    """
    return jnp.sqrt(real_dot(r, r))


@standard_promotion
def _difference(b: Tree, ax: Tree) -> Tree:
    return jax.tree.map(lambda a, c: (a - c).astype(a.dtype), b, ax)
