"""The linear system of a condition that is linearised at a solution."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial, register_dataclass

from toolkit import tree
from toolkit.derive.composite import descended
from toolkit.derive.refusal import NO_REVERSE_OVER_LOOP
from toolkit.derive.two_modes import linearised, linearised_in_part
from toolkit.jaxprs.lift import has_while, lift
from toolkit.types import (
    Beside,
    Box,
    Composite,
    InnerProblem,
    Matvec,
    Tree,
)


class Factors(NamedTuple):
    """`A = (I - P M) / s` with symmetric P and M, 0 <= P <= I: that of a composite problem."""

    P: Matvec  # derivative of the proximal map
    M: Matvec  # of the gradient step, `I - s H`
    s: Array  # [] step size


class Face(NamedTuple):
    """`A = C + D H`, that of a minimum within bounds: H the Hessian, all of them symmetric.

    D keeps the free entries alone, and C the fixed ones alone, each times 1 or -1: so C is its own inverse there.
    """

    C: Matvec
    D: Matvec
    H: Matvec


@register_dataclass
@dataclass(frozen=True)
class System:
    """The linear map `A` of a condition's derivative; trees of real leaves.

    A pytree, of which only an `explicit` one has arrays as leaves.
    """

    matvec: Matvec
    symmetric: bool = field(metadata={"static": True})
    factors: Factors | Face | None = None
    transposed: Matvec | None = None  # `A'`, where it is not found by transposing `matvec`
    # Whether products can be formed with `A'` alone: a call of `matvec` is refused.
    one_way: bool = field(default=False, metadata={"static": True})
    # Whether a loop in `matvec` keeps JAX from transposing it.
    forward_only: bool = field(default=False, metadata={"static": True})


def linearise(
    problem: InnerProblem, y: Tree, theta: Tree, damping: Array | float = 0.0, x: Tree = None
) -> tuple[Tree, System]:
    """The condition that is zero at a solution, and its derivative in `y` at `(y, theta)`.

    `damping` is added to the diagonal of the derivative, of a composite problem to the Hessian of its
    smooth part.
    """
    if problem.composite is not None:
        return _linearise_composite(problem.composite, y, theta, damping)
    if problem.gauss_newton:
        gradient, hessian = _gauss_newton(problem, y, theta)
        return gradient, System(_damped(hessian, damping), True)
    return linearise_beside(problem, y, theta, x, damping)[:2]


def linearise_beside(
    problem: InnerProblem, y: Tree, theta: Tree, x: Tree, damping: Array | float = 0.0
) -> tuple[Tree, System, Beside | None]:
    """As `linearise`, of a problem that is no composite one, with what `InnerProblem.look` tells."""
    moving, fixed, _ = tree.split(theta)

    def condition(real: Tree, moving: Tree) -> Any:
        point, full = tree.as_like(y, real), tree.merge(moving, fixed)
        result, beside = problem.look(point, full, x)
        residual = tree.as_real(problem.residual(point, result))
        return residual if problem.observe is None else (residual, beside)

    has_aux = problem.observe is not None
    here = linearised_in_part(condition, tree.as_real(y), moving, problem, has_aux)
    transposed = None if here.transposed is None else _damped(here.transposed, damping)
    matvec = _damped(here.product, damping)
    system = System(matvec, problem.symmetric, None, transposed, here.one_way)
    looping = problem.loops_on_data and not here.one_way
    forward_only = looping and loops(here.product, tree.as_real(y))
    return here.value, dataclasses.replace(system, forward_only=forward_only), here.aux


def explicit(system: System, like: Tree) -> System:
    """`system` with what its products close over as its leaves, so that another trace can use it.

    Args:
      like: what the products take.
    """

    def one(product: Matvec) -> Matvec:
        lifted = lift(product, like)
        return Partial(lifted.call, lifted.closed)

    transposed = None if system.transposed is None else one(system.transposed)
    factors = system.factors
    if isinstance(factors, Face):
        factors = Face(*map(one, factors))
    elif factors is not None:
        factors = Factors(one(factors.P), one(factors.M), factors.s)
    return dataclasses.replace(
        system, matvec=one(system.matvec), factors=factors, transposed=transposed
    )


def product(system: System, transposed: bool, like: Tree) -> Matvec:
    """The products with A, or with its transpose."""
    if system.symmetric or not transposed:
        return system.matvec
    if system.transposed is not None:
        return system.transposed
    if system.forward_only:
        raise TypeError(NO_REVERSE_OVER_LOOP)
    pull = jax.linear_transpose(system.matvec, like)
    return lambda v: pull(v)[0]


def is_one_way(problem: InnerProblem, y: Tree, theta: Tree) -> bool:
    """Whether there are products with the transposed derivative alone."""
    if not problem.backward_only:
        return False
    try:
        return linearise(problem, y, theta)[1].one_way
    except TypeError:
        # A function inside refuses second derivatives, such as a solve under Nudged. The value can be had
        # all the same, and whoever asks for the derivative is told by that function.
        return False


def _gauss_newton(problem: InnerProblem, y: Tree, theta: Tree) -> tuple[Tree, Matvec]:
    """The gradient `J' r` of half a sum of squares, and the map `J' J`; J the derivative of r in `y`."""
    residuals = problem.residuals
    assert residuals is not None  # only a sum of squares has this curvature

    def at(real: Tree) -> Tree:
        return tree.as_real(residuals(tree.as_like(y, real), theta, None))

    real = tree.as_real(y)
    left, push = jax.linearize(at, real)
    pull = jax.linear_transpose(push, real)
    return pull(left)[0], lambda v: pull(push(v))[0]


def _linearise_composite(
    composite: Composite, y: Tree, theta: Tree, damping: Array | float
) -> tuple[Tree, System]:
    smooth, proximal = composite.smooth, composite.proximal
    if isinstance(proximal, Box):
        return _linearise_in_box(smooth, proximal, y, theta, damping)
    s = tree.stop_gradient(proximal.step_size(theta))

    def descend(real: Tree) -> Tree:
        point = tree.as_like(y, real)
        return tree.as_real(descended(smooth, proximal, point, theta, None, s))

    def nearest(real: Tree) -> Tree:
        return tree.as_real(proximal.prox(tree.as_like(y, real), theta, s))

    real = tree.as_real(y)
    z, M, *_ = linearised(descend, real, smooth.backward_only)
    if smooth.gauss_newton:
        _, hessian = _gauss_newton(smooth, y, theta)
        begin = lambda v: v
        if proximal.mirror is not None:
            at = lambda real: tree.as_real(proximal.mirror(tree.as_like(y, real), theta))
            begin = jax.linearize(at, real)[1]
        M = lambda v: jax.tree.map(lambda a, h: (a - s * h).astype(a.dtype), begin(v), hessian(v))
    new, P = jax.linearize(nearest, z)
    M = _damped(M, -s * damping) if _is_nonzero(damping) else M

    def scaled_difference(a: Tree, b: Tree) -> Tree:
        return jax.tree.map(lambda a, b: ((a - b) / s).astype(a.dtype), a, b)

    # The two functions of a mirror descent need not belong to one another, and P need not be symmetric then.
    factors = Factors(P, M, s) if smooth.symmetric and proximal.mirror is None else None
    system = System(lambda v: scaled_difference(v, P(M(v))), False, factors)
    if (smooth.loops_on_data or proximal.loops_on_data) and (loops(M, real) or loops(P, z)):
        # P and M are symmetric, so the transpose needs no transposition by JAX.
        backward = None if factors is None else lambda v: scaled_difference(v, M(P(v)))
        system = dataclasses.replace(system, transposed=backward, forward_only=True)
    return scaled_difference(real, new), system


def _linearise_in_box(
    smooth: InnerProblem, box: Box, y: Tree, theta: Tree, damping: Array | float
) -> tuple[Tree, System]:
    slope = lambda y: smooth.evaluate(y, theta, None)
    gradient, hessian, transposed, *_ = linearised(slope, y, smooth.backward_only)
    if smooth.gauss_newton and smooth.residuals is not None:
        hessian, transposed = _gauss_newton(smooth, y, theta)[1], None
    H = _damped(hessian, damping)
    residual, moved = jax.linearize(lambda y, slope: box.cut(y, slope, theta), y, gradient)
    zeros = jax.tree.map(jnp.zeros_like, y)
    C, D = lambda v: moved(v, zeros), lambda v: moved(zeros, v)
    back = H if smooth.symmetric else transposed and _damped(transposed, damping)
    pull = None if back is None else lambda v: jax.tree.map(jnp.add, C(v), back(D(v)))
    face = Face(C, D, H) if smooth.symmetric else None
    system = System(lambda v: moved(v, H(v)), False, face, pull)
    looping = smooth.loops_on_data and loops(H, y)
    return residual, dataclasses.replace(system, forward_only=looping)


def _damped(product: Matvec, damping: Array | float) -> Matvec:
    if not _is_nonzero(damping):
        return product
    return lambda v: jax.tree.map(lambda p, d: (p + damping * d).astype(p.dtype), product(v), v)


def loops(product: Matvec, like: Tree) -> bool:
    """Whether a `while_loop` carries what the product is linear in."""
    return has_while(jax.make_jaxpr(product)(like).jaxpr)


def _is_nonzero(damping: Array | float) -> bool:
    return not (isinstance(damping, (int, float)) and damping == 0)
