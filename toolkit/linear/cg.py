"""Conjugate gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.linear.judge import (
    add_scaled,
    approximate_inverse,
    checked,
    counters,
    judge,
    real_dot,
    require_preconditioner,
    require_steps,
    require_tol,
    start,
)
from toolkit.readable import readable
from toolkit.types import LinearInfo, Preconditioner, Tree


class _Pass(NamedTuple):
    """Between runs of the recurrence."""

    x: Tree
    r: Tree  # b - A x, computed
    steps: Array  # []
    passes: Array  # []
    negative: Array  # [] bool, some p'Ap <= 0
    before: Array  # [] norm of r before the last run


class _State(NamedTuple):
    """Inside a run."""

    x: Tree
    r: Tree  # b - A x, by recurrence
    p: Tree  # search direction
    rr: Array  # [] <r, r>
    rz: Array  # [] <r, z>, z the preconditioned residual
    steps: Array  # []
    negative: Array  # [] bool


@dataclass(frozen=True)
class CG:
    """Conjugate gradients, for symmetric (Hermitian) `A`.

    Goes on through directions of negative curvature, where the recurrence still solves a
    nonsingular system, and reports them; it stops where `p'Ap` is exactly 0.

    Args:
      max_steps: products at most.
      tol: relative to ||b||, on the recomputed residual. Where rounding has parted the recurrence's
        from it, the recurrence starts again, as long as that halves it.
      preconditioner: `tk.linear.Diagonal` or `tk.linear.Nystrom`, made once a solve; positive definite.

    Differentiation: through `tk.adjoint.Implicit`; the call itself contains a `while_loop`.

    Cost: one product a step, and one more for each recomputed residual.

    Source: Hestenes & Stiefel 1952; with a preconditioner: Saad 2003, algorithm 9.1.
    """

    symmetric_only: ClassVar[bool] = True
    max_steps: int
    tol: float
    preconditioner: Preconditioner | None = None

    @readable
    def __post_init__(self) -> None:
        require_steps("max_steps", self.max_steps)
        require_tol(self.tol)
        require_preconditioner(self.preconditioner)

    @readable
    def __call__(
        self, matvec: tree.Matvec, b: Tree, x0: Tree | None = None
    ) -> tuple[Tree, LinearInfo]:
        matvec = checked(matvec, b)
        x = start(b, x0)
        inverse, made = approximate_inverse(self.preconditioner, matvec, b)
        # In units of |b|: squares of a small cotangent (1e-25 in float32) would be 0.
        unit = tree.norm(b)
        unit = jnp.where((unit > 0) & jnp.isfinite(unit), unit, 1)
        b, x = _divided(b, unit), _divided(x, unit)
        r = b if x0 is None else _difference(b, matvec(x))
        target = self.tol * tree.norm(b)

        def unfinished(p: _Pass) -> Array:
            # A run that did not halve the residual has met its rounding: the next would, too.
            norm = tree.norm(p.r)
            again = (p.steps < self.max_steps) & (norm > target) & (norm <= p.before / 2)
            return again | (p.passes == 0)

        def run(p: _Pass) -> _Pass:
            s = self._run(matvec, inverse, p, target)
            r = _difference(b, matvec(s.x))
            return _Pass(s.x, r, s.steps, p.passes + 1, s.negative, tree.norm(p.r))

        steps, negative = counters(r)
        first = _Pass(x, r, steps, steps, negative, jnp.full_like(tree.norm(r), jnp.inf))
        last = jax.lax.while_loop(unfinished, run, first)
        products = made + last.steps + last.passes + (0 if x0 is None else 1)
        x, info = judge(
            matvec, b, last.x, last.steps, self.tol, last.negative, products, residual=last.r
        )
        return _multiplied(x, unit), info

    def _run(self, matvec: tree.Matvec, inverse: tree.Matvec, p: _Pass, target: Array) -> _State:
        """The recurrence, until its own residual is at `target` or the steps are used up."""

        def unfinished(s: _State) -> Array:
            return (s.steps < self.max_steps) & (s.rr > target**2)

        def step(s: _State) -> _State:
            ap = matvec(s.p)
            pap = real_dot(s.p, ap)
            alpha = jnp.where(pap == 0, 0, s.rz / jnp.where(pap == 0, 1, pap))
            x = add_scaled(s.x, alpha, s.p)
            r = add_scaled(s.r, -alpha, ap)
            z = inverse(r)
            rz = real_dot(r, z)
            p = add_scaled(z, rz / s.rz, s.p)
            steps = jnp.where(pap == 0, self.max_steps, s.steps + 1).astype(jnp.int32)
            return _State(x, r, p, real_dot(r, r), rz, steps, s.negative | (pap <= 0))

        z = inverse(p.r)
        first = _State(p.x, p.r, z, real_dot(p.r, p.r), real_dot(p.r, z), p.steps, p.negative)
        return jax.lax.while_loop(unfinished, step, first)


def _divided(x: Tree, unit: Array) -> Tree:
    return jax.tree.map(lambda leaf: (leaf / unit).astype(leaf.dtype), x)


def _multiplied(x: Tree, unit: Array) -> Tree:
    return jax.tree.map(lambda leaf: (leaf * unit).astype(leaf.dtype), x)


def _difference(b: Tree, ax: Tree) -> Tree:
    return jax.tree.map(lambda a, c: (a - c).astype(a.dtype), b, ax)
