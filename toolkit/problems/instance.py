"""What a bilevel problem brings along: its two losses, their data, a start, and how to judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jax import Array

from toolkit.types import Tree

BatchLoss = Callable[[Tree, Tree, Any], Array]  # (y, theta, batch) -> mean loss of the batch


@dataclass(frozen=True, eq=False)
class Instance:
    """`min_theta outer(y*(theta), theta)`, `y*(theta) = argmin_y inner(y, theta)`, by examples.

    `tk.bilevel.Problem(*instance.losses_and_data)` is what the methods of `tk.bilevel` take.
    """

    inner: BatchLoss
    outer: BatchLoss
    inner_data: Tree  # leaves share a leading example axis
    outer_data: Tree
    y0: Tree
    theta0: Tree
    measure: Callable[..., dict[str, Array]]  # (y, theta, known=known) -> arrays []
    known: Tree  # what `measure` looks into; give it where it shall be an argument of a compiled program

    @property
    def losses_and_data(self) -> tuple[BatchLoss, BatchLoss, Tree, Tree]:
        """Inner and outer loss, inner and outer data."""
        return self.inner, self.outer, self.inner_data, self.outer_data
