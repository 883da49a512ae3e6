"""Which linear solver is used when none is named?"""

from __future__ import annotations

from dataclasses import dataclass

from toolkit import tree
from toolkit.linear.bicgstab import BiCGStab
from toolkit.linear.cg import CG
from toolkit.linear.dense import Dense
from toolkit.linear.gmres import GMRES
from toolkit.types import LinearInfo, LinearSolver, Matvec, Tree

# Unknowns. Up to here a direct solve costs less than the steps of an iterative one. Above no matrix is
# ever formed: memory stays that of a few vectors.
LARGEST_DENSE = 256
_MAX_STEPS = 1000


def choose(y: Tree, symmetric: bool, hessian: bool = True) -> LinearSolver:
    """`Dense` up to 256 real unknowns (LU, or Cholesky); above, `CG` if symmetric, else `GMRES`.

    Cholesky is tried first for a `hessian`, also for one that is not known to be symmetric.

    The iterative ones run to `10 eps^(3/4)` (1.8e-11 in float64, 6.4e-5 in float32) or 1,000
    steps; a system that needs more says so in its status.
    """
    unknowns = tree.size(y)
    if unknowns <= LARGEST_DENSE:
        return Dense(cholesky=hessian)
    return (CG if symmetric else GMRES)(_MAX_STEPS, _tolerance(y))


def choose_attracted(y: Tree) -> LinearSolver:
    """`BiCGStab`, for `I - J` at a fixed point that attracts; tolerance and limit as those of `choose`.

    All eigenvalues of `I - J` then lie to the right of 0, where BiCGStab makes about as many products as GMRES.
    It keeps no basis and stops at any step. Also for few unknowns a few steps cost less than a matrix.
    """
    return _OrNaN(BiCGStab(_MAX_STEPS, _tolerance(y)), tree.eps(y) ** 0.5)


@dataclass(frozen=True)
class _OrNaN:
    """`solver`, with NaN for an x whose relative residual is above `limit`.

    A map that attracts may still lengthen a vector a million times before it shrinks it. There BiCGStab fails
    where a matrix would not, and the user, who chose neither, would take what it found for the derivative.
    """

    solver: LinearSolver
    limit: float

    def __call__(self, matvec: Matvec, b: Tree, x0: Tree | None = None) -> tuple[Tree, LinearInfo]:
        x, info = self.solver(matvec, b, x0)
        return tree.nan_unless(info.residual <= self.limit, x), info


def _tolerance(y: Tree) -> float:
    tol = 10 * tree.eps(y) ** 0.75
    return tol
