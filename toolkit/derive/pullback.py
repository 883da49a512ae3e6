"""`pull`: one signal through one function, backwards."""

from __future__ import annotations

from collections.abc import Callable

import jax

from toolkit.types import Tree


def pull(function: Callable[[Tree], Tree], at: Tree, signal: Tree) -> Tree:
    """`J' signal`, with `J` the derivative of `function` at `at`.

    Complex numbers are not conjugated: of an analytic function this is the transposed complex derivative.

    Args:
      function: one argument.
      signal: like `function(at)`.

    Cost: an evaluation and its pullback; of a linear function the pullback alone.
    """
    _, pullback = jax.vjp(function, at)
    (pulled,) = pullback(signal)
    return pulled
