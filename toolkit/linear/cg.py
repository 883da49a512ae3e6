"""Conjugate gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit import tree
from toolkit.linear.judge import (
    add_scaled,
    counters,
    judge,
    real_dot,
    require_steps,
    require_tol,
    start,
)
from toolkit.types import LinearInfo, Tree


class _State(NamedTuple):
    x: Tree
    r: Tree  # b - A x, by recurrence
    p: Tree  # search direction
    rr: Array  # [] <r, r>
    steps: Array  # []
    negative: Array  # [] bool, some p'Ap <= 0


@dataclass(frozen=True)
class CG:
    """Conjugate gradients, for symmetric (Hermitian) `A`.

    Goes on through directions of negative curvature, where the recurrence still solves a
    nonsingular system, and reports them; it stops where `p'Ap` is exactly 0.

    Args:
      max_steps: products at most.
      tol: relative to ||b||, on the recurrence's residual; the status judges the recomputed one.

    Differentiation: through `tk.adjoint.Implicit`; the call itself contains a `while_loop`.

    Cost: one product a step, and one more for the recomputed residual.

    Source: Hestenes & Stiefel 1952.
    """

    max_steps: int
    tol: float

    def __post_init__(self) -> None:
        require_steps("max_steps", self.max_steps)
        require_tol(self.tol)

    def __call__(
        self, matvec: tree.Matvec, b: Tree, x0: Tree | None = None
    ) -> tuple[Tree, LinearInfo]:
        x = start(b, x0)
        r = b if x0 is None else optax.tree.sub(b, matvec(x))
        rr = real_dot(r, r)
        target = self.tol**2 * real_dot(b, b)
        first = _State(x, r, r, rr, *counters(r))

        def unfinished(s: _State) -> Array:
            return (s.steps < self.max_steps) & (s.rr > target)

        def step(s: _State) -> _State:
            ap = matvec(s.p)
            pap = real_dot(s.p, ap)
            alpha = jnp.where(pap == 0, 0, s.rr / jnp.where(pap == 0, 1, pap))
            x = add_scaled(s.x, alpha, s.p)
            r = add_scaled(s.r, -alpha, ap)
            rr = real_dot(r, r)
            p = add_scaled(r, rr / s.rr, s.p)
            steps = jnp.where(pap == 0, self.max_steps, s.steps + 1).astype(jnp.int32)
            return _State(x, r, p, rr, steps, s.negative | (pap <= 0))

        last = jax.lax.while_loop(unfinished, step, first)
        return judge(matvec, b, last.x, last.steps, self.tol, last.negative)
