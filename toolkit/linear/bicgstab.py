"""`BiCGStab`: an iterative solver for any square matrix, in memory of a few vectors.

The recurrence is written out here because JAX's own tells neither how many steps it made nor that it
broke down.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit import tree
from toolkit.errors.readable import readable
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


class _State(NamedTuple):
    x: Tree
    r: Tree  # by the recurrence, which drifts from b - A x by rounding
    p: Tree
    rho: Array  # [] <r_hat, r>
    steps: Array  # []
    broken: Array  # [] bool, a division by zero ended the recurrence


class _Restarted(NamedTuple):
    x: Tree
    r: Tree  # b - A x
    norm: Array  # [] of r
    steps: Array  # []
    products: Array  # []
    gaining: Array  # [] bool, whether the last recurrence made the residual smaller


@settings("bicgstab")
class BiCGStab:
    """Stabilised biconjugate gradients, for any square `A`.

    JAX's own routine reports neither its steps nor a breakdown; this one does both.

    Args:
      max_steps: steps at most, two products each.
      tol: relative to ||b||.
      preconditioner: from the right, so that residuals are those of the system; made once a solve.

    Cost: two products a step, and one for the recomputed residual. In float32 the recurrence can
    be 10 % off: read `info.residual`.

    Source: van der Vorst 1992.
    """

    max_steps: Count
    tol: NonNegative
    preconditioner: Preconditioner | None = None

    @readable
    def __call__(self, matvec: Matvec, b: Tree, x0: Tree | None = None) -> tuple[Tree, LinearInfo]:
        if len({bool(jnp.iscomplexobj(leaf)) for leaf in jax.tree.leaves(b)}) > 1:
            raise ValueError(
                "`b` must have real leaves or complex ones under BiCGStab, not both: got "
                f"{tree.describe(b)}; use GMRES."
            )
        b, x0 = over_devices(matvec, b, x0)
        matvec, x = checked(matvec, b), start(b, x0)
        unit = tree.unit(b)
        b, x = divided(b, unit), divided(x, unit)
        inverse, made = approximate_inverse(self.preconditioner, matvec, b)
        b_norm = jnp.sqrt(real_dot(b, b))  # in units of its largest entry its square is in range
        target = self.tol * b_norm

        def unfinished(s: _Restarted) -> Array:
            # The first round is made for b = 0, too: a product that is not finite must be seen.
            unseen = s.products == first.products
            return unseen | ((s.steps < self.max_steps) & (s.norm > target) & s.gaining)

        def restarted(s: _Restarted) -> _Restarted:
            # A recurrence that broke down, or whose own residual is too small by rounding, starts again from x.
            last = self._recurrence(matvec, inverse, s, target)
            r = optax.tree.sub(b, matvec(last.x))
            norm = jnp.sqrt(real_dot(r, r))
            worse = norm >= s.norm  # a NaN is not worse: it must be seen
            x, norm = tree.where(worse, (s.x, s.norm), (last.x, norm))
            products = s.products + 2 * (last.steps - s.steps) + 1
            return _Restarted(x, r, norm, last.steps, products, ~worse)

        r, norm = b, b_norm
        if x0 is not None:
            r, made = optax.tree.sub(b, matvec(x)), made + 1
            norm = jnp.sqrt(real_dot(r, r))
        zero, false = counters(r)
        first = _Restarted(x, r, norm, zero, zero + made, ~false)
        last = jax.lax.while_loop(unfinished, restarted, first)
        norms = (b_norm, last.norm)
        x, info = judge(
            matvec, b, last.x, last.steps, self.tol, products=last.products, norms=norms
        )
        return without_reverse_mode("BiCGStab", multiplied(x, unit)), info

    def _recurrence(
        self, matvec: Matvec, inverse: Matvec, start: _Restarted, target: Array
    ) -> _State:
        """BiCGStab from `start`, until its residual meets the target or it breaks down."""
        shadow, dot = start.r, tree.vdot
        broken = jnp.zeros_like(start.gaining)
        first = _State(start.x, shadow, shadow, dot(shadow, shadow), start.steps, broken)

        def unfinished(s: _State) -> Array:
            return (s.steps < self.max_steps) & (real_dot(s.r, s.r) > target**2) & ~s.broken

        def step(s: _State) -> _State:
            # In the paper's letters, with K the preconditioner: toward = K^-1 p, ap = v, half = s,
            # toward_half = K^-1 s, a_half = t.
            toward = inverse(s.p)
            ap = matvec(toward)
            # Both divisions can meet an exact 0, where the recurrence has nothing left to go on with. They
            # then give 0 instead of NaN, x stays what it was, and `broken` ends the loop.
            denominator = dot(shadow, ap)
            alpha = tree.safe_divide(s.rho, denominator)
            half = tree.add_scaled(s.r, -alpha, ap)
            toward_half = inverse(half)
            a_half = matvec(toward_half)
            omega = tree.safe_divide(dot(a_half, half), dot(a_half, a_half))
            x = tree.add_scaled(tree.add_scaled(s.x, alpha, toward), omega, toward_half)
            r = tree.add_scaled(half, -omega, a_half)
            rho = dot(shadow, r)
            beta = tree.safe_divide(rho, s.rho) * tree.safe_divide(alpha, omega)
            p = tree.add_scaled(r, beta, tree.add_scaled(s.p, -omega, ap))
            broken = (denominator == 0) | (omega == 0)
            return _State(x, r, p, rho, s.steps + 1, broken)

        return jax.lax.while_loop(unfinished, step, first)
