"""The energy between a free and a nudged solution: does the nudged one belong to the free one?

A nudge pulls the solution a little to one side. Where it is too large the solution jumps into another
basin, and the difference quotient of the two says nothing about a derivative. So the slope of the energy
is looked at on the way from one to the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit import tree
from toolkit.types import Tilted, Tree

# How far the gradient of the energy is from linear between free and nudged solution, relative to its
# change (see `Landscape.judge`); 0 for a quadratic. At 1/2 the one-sided error is as large as the
# answer: the nudged solution has left the basin of the free one, or runs away to infinity.
BENT = 0.5


class EnergyPoint(NamedTuple):
    """A point `y` and the slope of the energy there, without tilt."""

    y: Tree
    slope: Tree


class Visit(NamedTuple):
    """A nudged solution, judged."""

    residual: Array  # [] 2-norm
    bent: Array  # [] bool: on the way from the free solution the slope is far from linear
    descends: Array  # [] bool: on that way the energy curves downwards
    gradient_evals: Array  # [] int32


@dataclass(frozen=True, eq=False)
class Landscape:
    """The energy as a function of y, real or continued to complex y."""

    tilted: Tilted
    theta: Tree
    continued: bool

    def at(self, y: Tree) -> EnergyPoint:
        """`y`, with the direction of ascent there; of a continued energy, the derivative."""
        slope = jax.grad(lambda y: jnp.real(self.tilted.energy(y, self.theta)))(y)
        return EnergyPoint(y, slope if self.continued else tree.conj(slope))

    def residual(self, place: EnergyPoint, tilt: Tree) -> Array:
        """2-norm of what is zero at a tilted solution."""
        if not self.continued:
            return tree.norm(jax.tree.map(jnp.add, place.slope, tree.conj(tilt)))
        # An energy u + iv that is analytic has one complex derivative: that of u, which is i times that of
        # v. The solver zeroes the first. Where the function is not analytic the second is another
        # number, so the larger of the two residuals counts.
        of_imaginary = jax.grad(lambda y: jnp.imag(self.tilted.energy(y, self.theta)))(place.y)
        by_real = jax.tree.map(jnp.add, place.slope, tilt)
        by_imaginary = jax.tree.map(lambda v, q: 1j * v + q, of_imaginary, tilt)
        return jnp.maximum(tree.norm(by_real), tree.norm(by_imaginary))

    def judge(self, free: EnergyPoint, y: Tree, tilt: Tree, steps: Array) -> Visit:
        """How the nudged solution `y` belongs to the free one."""
        nudged = self.at(y)
        middle = self.at(jax.tree.map(lambda a, b: (a + b) / 2, free.y, y))
        move = optax.tree.sub(y, free.y)
        first = optax.tree.sub(middle.slope, free.slope)
        second = optax.tree.sub(nudged.slope, middle.slope)
        # A linear slope changes by the same amount in both halves of the way. The difference of the two
        # changes, against the whole change, measures how bent it is.
        uneven, change = tree.norm(optax.tree.sub(second, first)), optax.tree.add(first, second)
        curvatures = [jnp.real(tree.vdot(move, part)) for part in (first, second)]
        # `~(a <= b)` in place of `a > b`: a comparison with NaN is false, and NaN must count as bent.
        # The gradients counted last are those at the middle and the nudged solution, that in theta, and
        # for a continued energy the derivative of its imaginary part.
        return Visit(
            self.residual(nudged, tilt),
            ~(uneven <= BENT * tree.norm(change)),
            (curvatures[0] < 0) | (curvatures[1] < 0),
            steps + (4 if self.continued else 3),
        )
