"""One call of a linear solver: what it returned is checked, and what is nonsense becomes NaN.

`jax.grad` has no report. So a solve that went astray must not leave a plausible number behind: its x is
NaN. What only stopped short is left as it is, because a truncated solve is a usual choice.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit import tree
from toolkit.errors.readable import call_as, returned_by
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.types import LinearInfo, LinearSolver, Matvec, Status, Tree


def call(
    solver: LinearSolver, matvec: Matvec, b: Tree, x0: Tree | None, symmetric: bool
) -> tuple[Tree, LinearInfo]:
    """`solver(matvec, b, x0)`; what is no pair (x like b, info) is refused in the solver's name.

    Args:
      symmetric: whether A is known to be.

    Cost: two products more where A is not known to be symmetric and the solver needs that it is.
    """
    x, info = checked(solver, matvec, b, x0)
    if symmetric:
        return x, info
    # The residual is relative to b. Above 1 the x is worse than 0, which is where most solvers start.
    astray = jnp.asarray(info.residual > 1 if x0 is None else False)
    if getattr(solver, "needs_symmetry", False):
        unsolved = jnp.asarray(info.status) != int(Status.CONVERGED)
        astray |= unsolved & ~_looks_symmetric(matvec, b)
    return tree.nan_unless(~astray, x), info


def _looks_symmetric(matvec: Matvec, like: Tree) -> Array:
    """Whether `<u, A v> = <v, A u>` for a pair of random vectors, to half of the digits."""
    u, v = (optax.tree.random_like(key, like) for key in jax.random.split(jax.random.key(0)))
    u, v = vary((u, v), varying_axes(like))
    au, av = matvec(u), matvec(v)
    gap = jnp.abs(tree.vdot(u, av) - tree.vdot(v, au))
    size = tree.norm(u) * tree.norm(av) + tree.norm(v) * tree.norm(au)
    return gap <= jnp.finfo(gap.dtype).eps ** 0.5 * size


def checked(
    solver: LinearSolver, matvec: Matvec, b: Tree, x0: Tree | None
) -> tuple[Tree, LinearInfo]:
    """As `call`, with x as the solver left it."""
    if x0 is None:
        out = call_as("linear_solver", solver, "(matvec, b, x0=None)", matvec, b)
    else:
        out = call_as("linear_solver", solver, "(matvec, b, x0=None)", matvec, b, x0)
    if not (isinstance(out, tuple) and len(out) == 2):
        wrong = f"returned {tree.describe(out)}"
    elif missing := [name for name in LinearInfo._fields if not hasattr(out[1], name)]:
        wrong = f"has an info without `{missing[0]}`"
    elif jax.tree.map(jnp.shape, out[0]) != jax.tree.map(jnp.shape, b):
        wrong = f"returned an x of {tree.describe(out[0])} for a b of {tree.describe(b)}"
    else:
        return out
    name = getattr(solver, "__name__", type(solver).__name__)
    raise returned_by(
        solver,
        TypeError(
            f"`linear_solver` must return (x like b, tk.linear.LinearInfo(status, steps, residual)): "
            f"{name} {wrong}."
        ),
    )
