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
    start,
    without_reverse_mode,
)
from toolkit.settings import Count, NonNegative, settings
from toolkit.types import LinearInfo, Matvec, Tree
from toolkit.vocabulary.roles import Preconditioner


class _BiCGStabState(NamedTuple):
    x: Tree
    r: Tree
    p: Tree
    rho: Array  # [] <r_hat, r>
    steps: Array  # []
    broken: Array  # [] bool, a division by zero ended the recurrence


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
        r = b if x0 is None else optax.tree.sub(b, matvec(x))
        shadow, dot = r, tree.vdot
        inverse, made = approximate_inverse(self.preconditioner, matvec, b)
        target = self.tol * tree.norm(b)
        first = _BiCGStabState(x, r, r, dot(shadow, r), *counters(r))

        def unfinished(s: _BiCGStabState) -> Array:
            return (s.steps < self.max_steps) & (tree.norm(s.r) > target) & ~s.broken

        def step(s: _BiCGStabState) -> _BiCGStabState:
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
            return _BiCGStabState(x, r, p, rho, s.steps + 1, broken)

        last = jax.lax.while_loop(unfinished, step, first)
        products = made + 2 * last.steps
        x, info = judge(matvec, b, last.x, last.steps, self.tol, products=products)
        return without_reverse_mode("BiCGStab", multiplied(x, unit)), info
