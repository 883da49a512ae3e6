"""A gradient that has the same bits in the forward and the reverse loop, and its derivative.

The reverse loop computes each gradient again, to undo the step. One differing bit would make it miss the
start, so XLA must compile the gradient alike in both loops. In the reverse loop the derivative of the
gradient (a Hessian-vector product) is wanted, too. It is formed from intermediate values of the same
gradient, which `record` keeps instead of computing them twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.adjoint.reversible.reals import from_reals, to_reals
from toolkit.jaxprs.classes import Literal
from toolkit.jaxprs.read import evaluate_open
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.types import InnerProblem, Tree

# Operations whose result is as cheap to compute again, fused with what reads it, as to keep in memory.
_CHEAP = frozenset((
    "abs", "add", "add_any", "and", "broadcast_in_dim", "convert_element_type", "eq",
    "expand_dims", "ge", "gt", "integer_pow", "le", "lt", "max", "min", "mul", "ne", "neg",
    "not", "one_minus_square", "or", "reshape", "select_n", "sign", "squeeze", "square", "sub",
    "transpose",
))  # fmt: skip


Wanted = tuple[Tree, Tree] | None  # booleans like (theta, x)


class ObjectiveArguments(NamedTuple):
    """What the objective is a function of."""

    y: Tree
    theta: Tree
    x: Tree


class Recorded(NamedTuple):
    """A gradient and its derivative."""

    gradient: list[Array]  # see `reals`
    # u, like gradient -> (H u, cotangents of theta and x under the cotangent u of the gradient)
    pull_back: Callable[[list[Array]], tuple[list[Array], Tree, Tree]]
    intact: Array  # [] bool, always true; both loops must use it, see `record`


def record(problem: InnerProblem, at: ObjectiveArguments, wanted: Wanted, step: Array) -> Recorded:
    """The gradient in `at.y`, as step number `step` of a loop.

    `d/d(y, theta) <grad_y f(y, theta), u> = d/de grad_{y, theta} f(y + e u, theta)`: a tangent
    through the gradient, whose intermediate values are kept instead of being made again. Where the
    gradient is that of no function (see `InnerProblem.symmetric`) the left side is formed as it stands.

    Args:
      wanted: trees of booleans like theta and x: which cotangents are; None: not even that of y.
      step: an int32 of at least 0 that XLA does not know when it compiles.
    """
    leaves, structure = jax.tree.flatten(jax.lax.optimization_barrier(at))
    found: dict[str, Any] = {}

    def compute(*leaves: Array) -> list[Array]:
        here = ObjectiveArguments(*jax.tree.unflatten(structure, leaves))
        differentiate = _by_tangent if problem.symmetric else _as_it_stands
        gradient, pull = differentiate(problem, here, wanted)
        residuals, found["pull"] = jax.tree.flatten(pull if wanted else None)
        found["gradients"] = len(gradient)
        return gradient + residuals

    traced = jax.make_jaxpr(compute)(*leaves)
    parts = _split(traced.jaxpr, found["gradients"])

    # What XLA fuses the gradient with decides how it rounds, and the two loops go on differently after
    # it. An `optimization_barrier` does not help: on CPU it is dropped before fusion. But XLA does not
    # fuse across the branches of a `cond` whose condition it cannot foresee, such as `step >= 0`. And
    # a branch is compiled alike in both loops only if the same results of it are used: `intact` below
    # uses all of them in either loop.
    values = jax.lax.cond(
        step >= 0,
        lambda *leaves: evaluate_open(parts.first, traced.consts, *leaves),
        lambda *_: [_zeros(out.aval) for out in parts.first.outvars],
        *leaves,
    )
    gradient, kept = values[: found["gradients"]], values[found["gradients"] :]
    # This condition is always true as well. The branch that is never taken reads all that was kept, so XLA
    # cannot drop any of it in the loop that has no use for it.
    true = vary(jnp.asarray(True), varying_axes(kept))
    intact = jax.lax.cond(step >= 0, lambda *_: true, _all_zero, *kept)

    def pull_back(u: list[Array]) -> tuple[list[Array], Tree, Tree]:
        residuals = evaluate_open(parts.second, traced.consts, *leaves, *kept)
        pull = jax.tree.unflatten(found["pull"], residuals)
        if not problem.symmetric:
            y_bar, (theta_bar, x_bar) = pull(u)
            return y_bar, theta_bar, x_bar
        y_bar, (theta_bar, x_bar) = pull(from_reals(u, at.y))
        return to_reals(tree.conj(y_bar)), theta_bar, x_bar

    return Recorded(gradient, pull_back, intact)


def _by_tangent(
    problem: InnerProblem, at: ObjectiveArguments, wanted: Wanted
) -> tuple[list[Array], Callable[[Tree], Tree]]:
    """The gradient in y, and the tangents of the gradients in y and in what is wanted, along a tree like y."""
    objective = problem.objective
    assert objective is not None  # it is an argmin
    moving, fixed = _parted(at, wanted)

    def gradients(y: Tree) -> Tree:
        of = lambda y, moving: objective(y, *tree.merge(moving, fixed))
        return jax.grad(of, (0, 1))(y, moving)

    (y_bar, _), tangents = jax.linearize(gradients, at.y)
    return to_reals(tree.conj(y_bar)), tangents


def _as_it_stands(
    problem: InnerProblem, at: ObjectiveArguments, wanted: Wanted
) -> tuple[list[Array], Callable[[list[Array]], Tree]]:
    """The gradient in y, and its pullback to y and to what is wanted, of a list like the gradient."""
    moving, fixed = _parted(at, wanted)

    def gradient(y: list[Array], moving: Tree) -> list[Array]:
        return to_reals(problem.evaluate(from_reals(y, at.y), *tree.merge(moving, fixed)))

    return jax.vjp(gradient, to_reals(at.y), moving)


def _parted(at: ObjectiveArguments, wanted: Wanted) -> tuple[Tree, Tree]:
    """What is wanted of (theta, x), and the rest."""
    both = (at.theta, at.x)
    return tree.select(both, wanted or jax.tree.map(lambda _: False, both))


class _Parts(NamedTuple):
    """The two halves that `_split` makes of a jaxpr."""

    first: Any  # inputs -> (gradient, what is kept)
    second: Any  # (inputs, what is kept) -> residuals


def _split(jaxpr: Any, gradients: int) -> _Parts:
    """The program of (gradient, residuals) cut in two, with few numbers to keep between the parts.

    The second part holds the equations that make the residuals from what is kept. They are found by
    going backwards from the residuals, and are cheap by the choice of `_kept`.
    """
    gradient, residuals = jaxpr.outvars[:gradients], jaxpr.outvars[gradients:]
    kept = _kept(jaxpr, {*_variables(residuals)})
    needed, equations = {*_variables(residuals)} - {*kept}, []
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            equations.append(equation)
            needed |= {*_variables(equation.invars)} - {*kept}
    first = jaxpr.replace(outvars=gradient + kept)
    second = jaxpr.replace(invars=jaxpr.invars + kept, eqns=equations[::-1], outvars=residuals)
    return _Parts(first, second)


def _kept(jaxpr: Any, residuals: set[Any]) -> list[Any]:
    """The variables to keep: few numbers in all, from which the residuals are cheap to compute.

    Going through the program, `lacking[v]` is what must be kept, beyond the inputs and what is kept
    already, so that cheap operations alone give v. Where v's operation is not cheap, or where this set
    has more numbers than v, it is better to keep v itself: the set is then {v}.
    """
    kept: dict[Any, None] = {}
    lacking: dict[Any, set[Any]] = {}
    for equation in jaxpr.eqns:
        sources = set().union(*(lacking.get(v, ()) for v in _variables(equation.invars)))
        sources -= kept.keys()
        for out in equation.outvars:
            is_cheap = equation.primitive.name in _CHEAP and sum(map(_size, sources)) <= _size(out)
            lacking[out] = sources if is_cheap else {out}
            kept |= dict.fromkeys(lacking[out] if out in residuals else ())
    return list(kept)


def _size(variable: Any) -> int:
    return math.prod(variable.aval.shape)


def _variables(atoms: list[Any]) -> list[Any]:
    """The atoms of an equation without its literal numbers."""
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _zeros(aval: Any) -> Array:
    zeros = vary(jnp.zeros(aval.shape, aval.dtype), varying_axes(aval))
    return tree.spread(zeros, [tree.spec(aval)])


def _all_zero(*leaves: Array) -> Array:
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    data = [jax.random.key_data(leaf) if is_key(leaf) else leaf for leaf in leaves]
    return jnp.all(jnp.stack([jnp.all(leaf == 0) for leaf in data])) if data else jnp.asarray(True)
