"""`Diagonal`: a preconditioner that divides by a known diagonal."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from toolkit.array_arguments import spread
from toolkit.types import Matvec, Tree


@dataclass(frozen=True)
class Diagonal:
    """Divides by a diagonal near that of `A`: `CG(100, 1e-8, preconditioner=Diagonal(penalties))`.

    For systems whose variables have scales of their own, such as one penalty a weight.

    Args:
      diagonal: a tree like `b` (like the inner variable, in an adjoint) or one array that broadcasts
        against each leaf; positive for CG. May be traced; a preconditioner has no derivative.

    Cost: one division an entry.
    """

    diagonal: Tree

    def approximate_inverse(self, matvec: Matvec, like: Tree) -> Matvec:
        """`r / diagonal`."""
        del matvec
        diagonal = spread("diagonal", self.diagonal, like)
        return lambda r: jax.tree.map(lambda a, d: (a / d).astype(a.dtype), r, diagonal)

    def products(self, like: Tree) -> int:
        """None: the diagonal is given."""
        return 0
