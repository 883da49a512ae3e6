"""The differentiable solve of a linearised system.

This is the one place where `jax.lax.custom_linear_solve` is called. Inside `jax.shard_map` it refuses a system
whose parts differ between devices where the right-hand side does not, as those of a loss that is averaged over
the devices. There `derive/solve_on_devices.py` stands in for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from toolkit import tree
from toolkit.derive import linear_call
from toolkit.derive.linearised_system import Face, Factors, System, product
from toolkit.derive.marks import mark
from toolkit.derive.refusal import NO_REVERSE_OVER_LOOP, refuse_transposition
from toolkit.derive.solve_on_devices import Once, solve_on_devices
from toolkit.jaxprs.varying_axes import inside_shard_map
from toolkit.types import Issue, LinearInfo, LinearSolver, Matvec, Status, Tree


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
    start = tree.stop_gradient(x0)
    once = _solve_once(solver, depth)
    if inside_shard_map():
        x, info = solve_on_devices(once, system, b, transposed, start)
    else:
        x, info = _solve_anywhere(once, system, b, transposed, start)
    return refuse_transposition(x, NO_REVERSE_OVER_LOOP) if forward_only else x, info


def _solve_anywhere(
    once: Once, system: System, b: Tree, transposed: bool, x0: Tree | None
) -> tuple[Tree, LinearInfo]:
    """As `solve_on_devices`, by JAX's own operation for such solves."""
    forward = product(system, transposed, b)
    if len(jax.tree.leaves(b)) > 1:
        # JAX cannot transpose a solve where some leaves of `b` are differentiated and others are
        # constants. Passing `b` through one vector makes all leaves differentiated, or none.
        flat, unravel = tree.ravel(b)
        b = unravel(flat)

    # A start serves the system as it was handed in. JAX's transposed solve has another right-hand side,
    # so it starts from zeros.
    def solve_one_way(transposed: bool, x0: Tree | None) -> Callable[[Matvec, Tree], Any]:
        return lambda matvec, b: once(matvec, system, b, x0, transposed)

    no_other_way = system.symmetric or system.forward_only
    x, info = jax.lax.custom_linear_solve(
        forward,
        b,
        solve=solve_one_way(transposed, x0),
        transpose_solve=None if no_other_way else solve_one_way(not transposed, None),
        symmetric=system.symmetric,
        has_aux=True,
    )
    return x, info


def _solve_once(solver: LinearSolver, depth: int) -> Once:
    """One solve, which nothing differentiates."""

    def once(
        matvec: Matvec, system: System, b: Tree, x0: Tree | None, transposed: bool
    ) -> tuple[Tree, LinearInfo]:
        # `A = (I - P M) / s` of a composite problem is not symmetric. A solver that needs symmetry
        # is given an equivalent symmetric system; the others can solve A as it is.
        if isinstance(system.factors, Face):
            x, info = _solve_face(solver, system.factors, b, transposed, x0)
        elif system.factors is not None and getattr(solver, "symmetric_only", False):
            x, info = _solve_factors(solver, system.factors, b, transposed, x0)
        else:
            x, info = linear_call.call(solver, matvec, b, x0, system.symmetric)
        if depth == 0:
            return x, info
        # The mark stands in here, and not behind the whole: reverse mode solves the transposed system.
        unsolved = jnp.where(info.status == 0, 0, int(Issue.LINEAR_NOT_CONVERGED))
        return mark(x, unsolved, depth), info

    return once


def _solve_backward(
    solver: LinearSolver, transposed: Any, b: Tree, x0: Tree | None
) -> tuple[Tree, LinearInfo]:
    """`x` with `A' x = b`, where `A'` is a backward pass that JAX cannot transpose; first order.

    The pass may not even be linear, as where it clips. What a linear solver finds is then no derivative, also
    where its residual is small. So an x that does not meet the tolerance is NaN, and one that the pass does not
    double with its argument.

    Cost: two products more.
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
    twice = lambda x: jax.tree.map(lambda leaf: 2 * leaf, x)
    doubled = twice(transposed(x))
    gap = tree.norm(optax.tree.sub(transposed(twice(x)), doubled))
    is_linear = gap <= jnp.sqrt(tree.eps(b)) * tree.norm(doubled)
    return tree.nan_unless((info.status == Status.CONVERGED) & is_linear, x), info


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


def _solve_face(
    solver: LinearSolver, face: Face, b: Tree, transposed: bool, x0: Tree | None
) -> tuple[Tree, LinearInfo]:
    """`(C + D H) x = b`, or its transpose, by a symmetric system on the free entries, `D H D q = c`.

        c = D (b - H C b),  x = C b + D q                  with what bounds fix known: C is its own inverse there
        c = D b,            x = C (b - H D q) + D q        the transpose: this is known last

    So neither the fixed entries nor their size beside the Hessian's count: in one relative residual for both, a
    Hessian of 1e-12 would be lost behind the identity.
    """
    C, D, H = face
    held = C(b)
    rhs = D(b) if transposed else D(_minus(b, H(held)))
    # A direct solver needs a matrix that is not singular: the fixed entries get a curvature like that of the others.
    size = tree.norm(rhs)
    scale = tree.norm(D(H(rhs))) / jnp.where(size == 0, 1, size)
    scale = jnp.where((scale > 0) & jnp.isfinite(scale), scale, 1)

    def reduced(q: Tree) -> Tree:
        free = D(q)
        return tree.add_scaled(D(H(free)), scale, _minus(q, free))

    start = None if x0 is None else D(x0)
    q, info = linear_call.call(solver, reduced, rhs, start, True)
    free = D(q)
    if transposed:
        held = C(_minus(b, H(free)))
    return jax.tree.map(jnp.add, held, free), info


def _minus(a: Tree, b: Tree) -> Tree:
    return jax.tree.map(jnp.subtract, a, b)
