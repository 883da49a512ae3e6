"""A gradient whose pullback is a forward-over-reverse Hessian-vector product."""

from __future__ import annotations

import dataclasses

import jax

from toolkit import tree
from toolkit.derive.composite import composite_problem
from toolkit.derive.symbolic_zeros import instantiate_zeros, values_and_wanted
from toolkit.types import InnerProblem, Tree


def forward_over_reverse(problem: InnerProblem) -> InnerProblem:
    """`problem` with a cheaper pullback of its gradient; itself where that is not symmetric.

    The pullback of the gradient along u is `d/d(y, theta) <grad_y f(y, theta), u>`. Second derivatives
    commute, so it is also `d/de grad_{y, theta} f(y + e u, theta)`: one tangent pushed through one
    gradient. Plain autodiff would differentiate the gradient in reverse mode, which stores all its
    intermediate values and is slower. JAX pairs complex leaves without conjugation; under this pairing
    the identity holds for them as well.

    Differentiation: reverse mode; forward mode over that reverse mode.
    """
    if problem.composite is not None:
        smooth, proximal = problem.composite.smooth, problem.composite.proximal
        return composite_problem(forward_over_reverse(smooth), proximal)
    objective = problem.objective
    if objective is None or not problem.symmetric:
        return problem

    # `evaluate` is the direction of ascent, the conjugate of JAX's gradient. The rule below is for JAX's
    # own, so it is conjugated here, and back again in the result.
    @jax.custom_vjp
    def gradient(y: Tree, theta: Tree, x: Tree) -> Tree:
        return tree.conj(problem.evaluate(y, theta, x))

    def forward(y: Tree, theta: Tree, x: Tree) -> tuple[Tree, Tree]:
        values, wanted = values_and_wanted((y, theta, x))
        return tree.conj(problem.evaluate(*values)), tree.select(values, wanted)

    def backward(residuals: tuple[Tree, Tree], u: Tree) -> tuple[Tree, Tree, Tree]:
        wanted, constant = residuals
        y, theta, x = tree.merge(wanted, constant)
        u = instantiate_zeros(u, y)
        is_wanted = formed = tree.present(wanted)
        if problem.backward_only:
            # A function with a backward pass alone refuses a tangent. Forming the gradient in y runs this
            # backward pass, and leaves nothing of the function for the tangent to meet.
            formed = (tree.present(y), *is_wanted[1:])

        # Only gradients that are wanted are formed: of constants (data) they may be large.
        def gradients(y: Tree) -> Tree:
            moving, fixed = tree.select((y, theta, x), formed)
            return jax.grad(lambda moving: objective(*tree.merge(moving, fixed)))(moving)

        bars = jax.jvp(gradients, (y,), (u,))[1]
        return bars if formed is is_wanted else tree.select(bars, is_wanted)[0]

    gradient.defvjp(forward, backward, symbolic_zeros=True)
    cheaper = lambda y, theta, x: tree.conj(gradient(y, theta, x))
    return dataclasses.replace(problem, evaluate=cheaper, reverse_only=True)
