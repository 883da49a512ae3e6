"""Products with a Jacobian and with its transpose, where JAX itself offers one of the two only.

A function with a backward pass alone (`jax.custom_vjp`) has no forward mode. But this pass is a linear map,
`u -> J' u`, and JAX can transpose a linear map: the transpose of `J'` is the product `v -> J v`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from toolkit import tree
from toolkit.derive.refusal import refuse_forward_mode, refuse_to_run
from toolkit.jaxprs.own_rules import has_no_forward_mode, refusal_of_forward_mode
from toolkit.types import InnerProblem, Tree

Product = Callable[[Tree], Tree]


class Linearised(NamedTuple):
    """A function at a point, and its derivative there."""

    value: Tree
    product: Product  # v -> J v
    transposed: Product | None = None  # u -> J' u; None where it is found by transposing `product`
    one_way: bool = False  # whether `product` can only be transposed: to run it is refused by name
    aux: Tree = None  # of the function, with `has_aux`


def linearised(
    fun: Callable[[Tree], Any], at: Tree, backward_only: str, has_aux: bool = False
) -> Linearised:
    """`fun` at a point, linearised once for any number of products.

    Args:
      backward_only: a function inside that has a backward pass alone, in words; "" without any.
      has_aux: whether `fun` returns (value, aux).
    """
    if has_aux:
        value, product, aux = jax.linearize(fun, at, has_aux=True)
        return _both_ways(lambda at: fun(at)[0], at, value, product, backward_only)._replace(
            aux=aux
        )
    value, product = jax.linearize(fun, at)
    return _both_ways(fun, at, value, product, backward_only)


def _both_ways(
    fun: Callable[[Tree], Tree], at: Tree, value: Tree, product: Product, backward_only: str
) -> Linearised:
    """`product` is the derivative of `fun` as JAX has linearised it."""
    # Where `fun` is a gradient, linearising it has run the backward pass of the function inside, and the linear
    # program that is left may not contain that function any more.
    program = jax.make_jaxpr(product)(at) if backward_only else None
    if program is None or not has_no_forward_mode(program):
        return Linearised(value, product)
    _, pull = jax.vjp(fun, at)

    def transposed(u: Tree) -> Tree:
        return pull(u)[0]

    def by_transpose(v: Tree) -> Tree:
        return jax.linear_transpose(transposed, value)(v)[0]

    if runs(by_transpose, at):
        return Linearised(value, by_transpose, transposed)
    # A compiled kernel cannot be transposed, nor can a pass that is not linear, such as a clipped gradient.
    message = refusal_of_forward_mode(program) or (
        f"`fun` has no forward mode (jvp, jacfwd): it calls {backward_only}, which has a backward pass alone "
        "(jax.custom_vjp), and JAX cannot transpose that; use a solver and an adjoint that need none "
        "(FixedPointIteration, GradientDescent; Unroll()), or give it a rule for both modes (jax.custom_jvp)."
    )
    return Linearised(value, lambda v: product(refuse_to_run(v, message)), transposed, True)


def runs(fun: Callable[..., Tree], *args: Tree) -> bool:
    """Whether a function with tangents inside can be run: all functions that it calls have a forward mode."""
    try:
        program = jax.make_jaxpr(fun)(*args)
    except Exception:  # JAX raises several kinds here, by what it finds
        return False
    return not has_no_forward_mode(program)


def linearised_in_part(
    fun: Callable[[Tree, Tree], Any],
    at: Tree,
    others: Tree,
    problem: InnerProblem,
    has_aux: bool = False,
) -> Linearised:
    """`fun(at, others)`, linearised in `at` alone; a derivative of the result moves `others` too.

    Where a function inside has a rule of its own, `fun` is linearised in both and the part of `others` is
    dropped. So each rule has been used up: a second derivative is that of what the rule has computed, as it
    is for `jax.grad` of `jax.grad`. Else it would meet the rule a second time, in place of the function.
    """
    alone = lambda at: fun(at, others)
    if not (problem.own_rule or problem.backward_only):
        return linearised(alone, at, "", has_aux)
    both = linearised(lambda pair: fun(*pair), (at, others), problem.backward_only, has_aux)
    if both.one_way:
        return linearised(alone, at, problem.backward_only, has_aux)
    product, pull, zeros = both.product, both.transposed, jax.tree.map(jnp.zeros_like, others)
    transposed = None if pull is None else lambda u: pull(u)[0]
    return Linearised(both.value, lambda v: product((v, zeros)), transposed, aux=both.aux)


def rules_used_up(problem: InnerProblem) -> InnerProblem:
    """`problem` as a first derivative leaves it to a second one: rules inside are replaced by what they compute."""

    def evaluate(y: Tree, theta: Tree, x: Tree) -> Tree:
        moving, *fixed = tree.split((y, theta, x))
        run = lambda moving: problem.evaluate(*tree.merge(moving, *fixed))
        return jax.vjp(run, moving)[0]

    composite = problem.composite
    if composite is not None:
        composite = dataclasses.replace(composite, smooth=rules_used_up(composite.smooth))
    return dataclasses.replace(problem, evaluate=evaluate, composite=composite)


def name_missing_mode(rule: str, problem: InnerProblem, y0: Tree, theta: Tree, xs: Tree) -> Tree:
    """(y0, theta, xs) unchanged; a tangent that needs a forward mode which `fun` lacks is refused by name.

    JAX would say that it "can't apply forward-mode autodiff (jvp) to a custom_vjp function", but neither to
    which function nor what to use. Reverse mode passes, and so does a tangent that the function never sees.
    """
    if not problem.backward_only:
        return y0, theta, xs
    message = (
        f"{rule} has no forward mode for this `fun`: it calls {problem.backward_only}, which has a backward "
        "pass alone (jax.custom_vjp); use Unroll() or Implicit(), or give it a rule for both modes "
        "(jax.custom_jvp)."
    )
    x = jax.tree.map(lambda leaf: leaf[0], xs)
    leaves, structure = jax.tree.flatten((y0, theta, x))
    in_y = len(jax.tree.leaves(y0))
    moving = [i for i, leaf in enumerate(leaves) if tree.is_inexact(leaf)]

    def refusal(position: int) -> str:
        # A derivative along theta moves y too, as y depends on theta.
        along = [i for i in moving if i < in_y or i == position]

        def evaluate(*some: jax.Array) -> Tree:
            full = [*leaves]
            for i, leaf in zip(along, some, strict=True):
                full[i] = leaf
            return problem.evaluate(*jax.tree.unflatten(structure, full))

        at = tuple(leaves[i] for i in along)
        try:
            pushed = jax.make_jaxpr(lambda *at: jax.jvp(evaluate, at, at)[1])(*at)
        except TypeError:
            # A function inside refuses this derivative by itself, such as a solve under Nudged. The value can
            # be had all the same, and whoever asks for the derivative is told by that function.
            return ""
        if not has_no_forward_mode(pushed):
            return ""
        return refusal_of_forward_mode(pushed) or message

    whole, structure = jax.tree.flatten((y0, theta, xs))
    for i in moving:
        if said := refusal(i):
            whole[i] = refuse_forward_mode(whole[i], said)
    return jax.tree.unflatten(structure, whole)
