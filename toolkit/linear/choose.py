"""Which linear solver is used when none is named?"""

from __future__ import annotations

from toolkit import tree
from toolkit.linear.cg import CG
from toolkit.linear.dense import Dense
from toolkit.linear.gmres import GMRES
from toolkit.types import LinearSolver, Tree

# Unknowns. Up to here a direct solve costs less than the steps of an iterative one. Above no matrix is
# ever formed: memory stays that of a few vectors.
LARGEST_DENSE = 256
_MAX_STEPS = 1000


def choose(y: Tree, symmetric: bool) -> LinearSolver:
    """`Dense` up to 256 real unknowns (Cholesky or LU); above, `CG` if symmetric, else `GMRES`.

    The iterative ones run to `10 eps^(3/4)` (1.8e-11 in float64, 6.4e-5 in float32) or 1,000
    steps; a system that needs more says so in its status.
    """
    unknowns = tree.size(y)
    if unknowns <= LARGEST_DENSE:
        return Dense()
    tol = 10 * tree.eps(y) ** 0.75
    return CG(_MAX_STEPS, tol) if symmetric else GMRES(_MAX_STEPS, tol)
