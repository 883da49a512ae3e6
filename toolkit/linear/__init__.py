"""Linear solvers: callables `(matvec, b, x0=None) -> (x, LinearInfo)` on trees."""

from toolkit.linear.bicgstab import BiCGStab
from toolkit.linear.cg import CG
from toolkit.linear.choose import choose
from toolkit.linear.dense import Dense
from toolkit.linear.diagonal import Diagonal
from toolkit.linear.gmres import GMRES
from toolkit.linear.neumann import Neumann
from toolkit.linear.nystrom import Nystrom
from toolkit.roles import LinearSolver, Preconditioner
from toolkit.types import LinearInfo

__all__ = [
    "CG",
    "GMRES",
    "BiCGStab",
    "Dense",
    "Diagonal",
    "LinearInfo",
    "LinearSolver",
    "Neumann",
    "Nystrom",
    "Preconditioner",
    "choose",
]
