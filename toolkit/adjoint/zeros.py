"""A warning for derivatives that are asked for, but are zero by theory under an implicit rule."""

from __future__ import annotations

import warnings

import jax

from toolkit.types import Primal, Tree


class ZeroDerivativeWarning(UserWarning):
    """A derivative was asked for that is zero by construction of the rule."""


def warn_of_zeros(rule: str, primal: Primal, wanted: Tree, y0_wanted: Tree = False) -> None:
    """Warn of wanted derivatives that are zero under `rule`, but not under rules that follow the steps.

    Args:
      rule: the name of the rule, for the message.
      primal: the solve; `primal.settings` marks what the solver's settings read.
      wanted: like theta, with booleans: what is differentiated.
      y0_wanted: like y0, with booleans.
    """
    both = jax.tree.map(lambda a, b: a and b, primal.settings, wanted)
    paths = [path for path, is_zero in jax.tree_util.tree_leaves_with_path(both) if is_zero]
    names = dict.fromkeys(_name(path) for path in paths)
    if any(jax.tree.leaves(y0_wanted)):
        names["y0"] = None
    if not names:
        return
    # Python shows each text once for each line that warns. This line is always the same one, so a
    # user's loop is told once.
    warnings.warn(
        f"the derivative with respect to {', '.join(names)} is zero under {rule}: a solution does not "
        f"depend on how {primal.name} came to it. To differentiate the steps use the adjoint Unroll "
        "(or Truncated, Forward, Reversible).",
        ZeroDerivativeWarning,
        stacklevel=1,
    )


def _name(path: tuple) -> str:
    text = jax.tree_util.keystr(path).removeprefix(".")
    return "an array that the solver's settings close over" if text.startswith("solver") else text
