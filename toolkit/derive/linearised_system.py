"""The linear system of a condition that is linearised at a solution, and its differentiable solve.

This is the one place where `jax.lax.custom_linear_solve` is called.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial, register_dataclass

from toolkit import tree
from toolkit.derive import linear_call
from toolkit.derive.composite import gradient_step
from toolkit.derive.marks import mark
from toolkit.derive.refusal import NO_REVERSE_OVER_LOOP, refuse_transposition
from toolkit.derive.two_modes import linearised, linearised_in_part
from toolkit.jaxprs.lift import has_while, lift
from toolkit.types import (
    Composite,
    InnerProblem,
    Issue,
    LinearInfo,
    LinearSolver,
    Matvec,
    Status,
    Tree,
)


class Factors(NamedTuple):
    """`A = (I - P M) / s` with symmetric P and M, 0 <= P <= I: that of a composite problem."""

    P: Matvec  # derivative of the proximal map
    M: Matvec  # of the gradient step, `I - s H`
    s: Array  # [] step size


@register_dataclass
@dataclass(frozen=True)
class System:
    """The linear map `A` of a condition's derivative; trees of real leaves.

    A pytree, of which only an `explicit` one has arrays as leaves.
    """

    matvec: Matvec
    symmetric: bool = field(metadata={"static": True})
    factors: Factors | None = None
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

    moving, fixed, _ = tree.split(theta)

    def condition(real: Tree, moving: Tree) -> Tree:
        point, full = tree.as_like(y, real), tree.merge(moving, fixed)
        return tree.as_real(problem.residual(point, problem.evaluate(point, full, x)))

    here = linearised_in_part(condition, tree.as_real(y), moving, problem)
    transposed = None if here.transposed is None else _damped(here.transposed, damping)
    matvec = _damped(here.product, damping)
    system = System(matvec, problem.symmetric, None, transposed, here.one_way)
    looping = problem.loops_on_data and not here.one_way
    return here.value, dataclasses.replace(
        system, forward_only=looping and loops(here.product, tree.as_real(y))
    )


def explicit(system: System, like: Tree) -> System:
    """`system` with what its products close over as its leaves, so that another trace can use it.

    Args:
      like: what the products take.
    """

    def one(product: Matvec) -> Matvec:
        lifted = lift(product, like)
        return Partial(lifted.call, lifted.closed)

    assert system.factors is None  # those of a composite problem are no product of one argument
    transposed = None if system.transposed is None else one(system.transposed)
    return dataclasses.replace(system, matvec=one(system.matvec), transposed=transposed)


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


def _linearise_composite(
    composite: Composite, y: Tree, theta: Tree, damping: Array | float
) -> tuple[Tree, System]:
    smooth, proximal = composite.smooth, composite.proximal
    s = tree.stop_gradient(proximal.step_size(theta))

    def descend(real: Tree) -> Tree:
        point = tree.as_like(y, real)
        return tree.as_real(gradient_step(point, smooth.evaluate(point, theta, None), s))

    def nearest(real: Tree) -> Tree:
        return tree.as_real(proximal.prox(tree.as_like(y, real), theta, s))

    real = tree.as_real(y)
    z, M, *_ = linearised(descend, real, smooth.backward_only)
    new, P = jax.linearize(nearest, z)
    M = _damped(M, -s * damping) if _is_nonzero(damping) else M

    def scaled_difference(a: Tree, b: Tree) -> Tree:
        return jax.tree.map(lambda a, b: ((a - b) / s).astype(a.dtype), a, b)

    factors = Factors(P, M, s) if smooth.symmetric else None
    system = System(lambda v: scaled_difference(v, P(M(v))), False, factors)
    if (smooth.loops_on_data or proximal.loops_on_data) and (loops(M, real) or loops(P, z)):
        # P and M are symmetric, so the transpose needs no transposition by JAX.
        backward = None if factors is None else lambda v: scaled_difference(v, M(P(v)))
        system = dataclasses.replace(system, transposed=backward, forward_only=True)
    return scaled_difference(real, new), system


def solve(
    solver: LinearSolver,
    system: System,
    b: Tree,
    transposed: bool = False,
    x0: Tree | None = None,
    depth: int = 0,
) -> tuple[Tree, LinearInfo]:
    """`x` with `A x = b` (or `A' x = b`), differentiable to any order in `b` and in the system.

    `b` and `x` are trees of real leaves; `x0` is where an iterative solver starts. With a `depth` the
    result is marked where the solver stopped short, for the solve of that depth around (`derive/marks.py`).
    """
    if system.one_way and transposed:
        return _solve_backward(solver, system.transposed, b, x0)
    forward_only = system.forward_only and not system.symmetric
    if forward_only and transposed and system.transposed is None:
        raise TypeError(NO_REVERSE_OVER_LOOP)
    forward, backward = system.matvec, system.matvec
    if not system.symmetric and system.transposed is not None:
        backward = system.transposed
    elif not (system.symmetric or forward_only):
        backward = _transpose(system.matvec, b)
    if transposed:
        forward, backward = backward, forward
    start = tree.stop_gradient(x0)
    if len(jax.tree.leaves(b)) > 1:
        # JAX cannot transpose a solve where some leaves of `b` are differentiated and others are
        # constants. Passing `b` through one vector makes all leaves differentiated, or none.
        flat, unravel = ravel_pytree(b)
        b = unravel(flat)

    # A start serves the system as it was handed in. JAX's transposed solve has another right-hand side,
    # so it starts from zeros.
    def solve_one_way(transposed: bool, x0: Tree | None) -> Callable[[Matvec, Tree], Any]:
        def solve(matvec: Matvec, b: Tree) -> tuple[Tree, LinearInfo]:
            # `A = (I - P M) / s` of a composite problem is not symmetric. A solver that needs symmetry
            # is given an equivalent symmetric system; the others can solve A as it is.
            if system.factors is not None and getattr(solver, "symmetric_only", False):
                x, info = _solve_factors(solver, system.factors, b, transposed, x0)
            else:
                x, info = linear_call.call(solver, matvec, b, x0, system.symmetric)
            if depth == 0:
                return x, info
            # The mark stands in here, and not behind the whole: reverse mode solves the transposed system.
            unsolved = jnp.where(info.status == 0, 0, int(Issue.LINEAR_NOT_CONVERGED))
            return mark(x, unsolved, depth), info

        return solve

    no_other_way = system.symmetric or forward_only
    x, info = jax.lax.custom_linear_solve(
        forward,
        b,
        solve=solve_one_way(transposed, start),
        transpose_solve=None if no_other_way else solve_one_way(not transposed, None),
        symmetric=system.symmetric,
        has_aux=True,
    )
    return refuse_transposition(x, NO_REVERSE_OVER_LOOP) if forward_only else x, info


def _solve_backward(
    solver: LinearSolver, transposed: Any, b: Tree, x0: Tree | None
) -> tuple[Tree, LinearInfo]:
    """`x` with `A' x = b`, where `A'` is a backward pass that JAX cannot transpose; first order.

    The pass may not even be linear. What a linear solver finds is then no solution, unless its residual
    says so: an x that does not meet the tolerance is NaN.
    """
    try:
        x, info = linear_call.checked(solver, transposed, b, x0)
    except (
        NotImplementedError,
        ValueError,
    ) as error:  # that of `jax.scipy` transposes what it is given
        name = type(solver).__name__
        raise TypeError(
            f"`linear_solver` must need no transposed product where `fun` has a backward pass that JAX cannot "
            f"transpose: {name} does; use tk.linear.BiCGStab or Dense, or the adjoint Unroll()."
        ) from error
    return tree.nan_unless(info.status == Status.CONVERGED, x), info


def _solve_factors(
    solver: LinearSolver, factors: Factors, b: Tree, transposed: bool, x0: Tree | None
) -> tuple[Tree, LinearInfo]:
    """`(I - P M) x = s b`, or its transpose, by a symmetric semidefinite system on the range of P.

    With `A = P - P M P`, which for a projection P is `s P H P`, the Hessian on a support or a face:

        A q = P M c,  x = c + P q  =>  x - P M x = c + (P - P M P) q - P M c = c      (c = s b)
        A q = P c,    x = c + M P q  =>  x - M P x = c + M (P q - P c - P M P q) = c

    The right-hand sides lie in the range of P, and so do the iterates of a Krylov method. So variables
    that the proximal map holds fixed cost nothing, and the Hessian need not be curved along them.

    A start x0 for x also serves for q, of which only `P q` matters: in the transposed system q = x
    solves `A q = P c` (put `x = c + M P x` in), in the other one q = M x solves `A q = P M c`.
    """
    P, M, s = factors
    c = jax.tree.map(lambda leaf: (s * leaf).astype(leaf.dtype), b)

    def reduced(q: Tree) -> Tree:
        Pq = P(q)
        return jax.tree.map(lambda a, d: a - d, Pq, P(M(Pq)))

    if transposed:
        q, info = linear_call.call(solver, reduced, P(c), x0, True)
        correction = M(P(q))
    else:
        start = None if x0 is None else M(x0)
        q, info = linear_call.call(solver, reduced, P(M(c)), start, True)
        correction = P(q)
    return jax.tree.map(jnp.add, c, correction), info


def _damped(product: Matvec, damping: Array | float) -> Matvec:
    if not _is_nonzero(damping):
        return product
    return lambda v: jax.tree.map(lambda p, d: (p + damping * d).astype(p.dtype), product(v), v)


def loops(product: Matvec, like: Tree) -> bool:
    """Whether a `while_loop` carries what the product is linear in."""
    return has_while(jax.make_jaxpr(product)(like).jaxpr)


def _is_nonzero(damping: Array | float) -> bool:
    return not (isinstance(damping, (int, float)) and damping == 0)


def _transpose(linear: Matvec, like: Tree) -> Matvec:
    transposed = jax.linear_transpose(linear, like)
    return lambda v: transposed(v)[0]
