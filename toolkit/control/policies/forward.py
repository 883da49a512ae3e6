"""`forward()`: carry tangents along with the steps, one for each differentiated scalar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from toolkit.control import bounded, residuals
from toolkit.control.policies.policy import set_positive
from toolkit.control.policies.store import store
from toolkit.control.prepared import Counted, PreparedLoop, PreparedWhile
from toolkit.derive.refusal import refuse_reverse_mode
from toolkit.derive.tangents import forward_rule
from toolkit.errors.readable import readable
from toolkit.types import Tree


@dataclass(frozen=True)
class forward:
    """Carry tangents along with the steps: the memory does not depend on their number.

    Args:
      max_tangents: the most differentiated scalars that are accepted, in `init`, `xs` and what the
        loop closes over together; each costs a run of the loop. At least 1.

    Differentiation: forward and reverse mode; higher orders by forward mode over either.

    Cost: with `P` scalars `P + 1` runs of the loop in time, `P` carries and outputs in memory; the
    same in forward mode, where `store()` needs one run.

    Source: Wengert 1964; Williams & Zipser 1989 (real-time recurrent learning).
    """

    max_tangents: int = 1000

    @readable
    def __post_init__(self) -> None:
        set_positive(self, "max_tangents")

    def run(self, loop: PreparedLoop) -> tuple[Tree, Tree]:
        """A plain scan, with a rule of its own."""

        bare = loop.bare()

        def under(ticker: Any) -> Callable[..., Any]:
            return lambda *operands: store().run(
                _with_operands(bare, operands)._replace(ticker=ticker)
            )

        # The runs that carry tangents have no ticker, so that no step is counted twice.
        solve = forward_rule(under(loop.ticker), under(None), self._require)
        return solve(loop.closed, loop.init, loop.xs)

    def run_while(self, loop: PreparedWhile) -> Counted:
        """A plain `while_loop`, with a rule of its own."""

        bare = loop.bare()

        def run(closed: Tree, init: Tree) -> Counted:
            return bounded.plain(bare, closed, init)

        # The tangents run through a `while_loop`, which has no reverse mode. Without this, a gradient of
        # the gradient would fail with an error of JAX's that names no remedy.
        def push(closed: Tree, init: Tree) -> Counted:
            return refuse_reverse_mode(run(closed, init), _NO_REVERSE_OVER_FORWARD)

        return forward_rule(run, push, self._require)(loop.closed, loop.init)

    def memory(self, loop: PreparedLoop) -> int:
        """For each scalar its direction, and twice the tangents of carry and outputs."""
        moving = residuals.moving(loop)
        each = residuals.size(moving) + 2 * residuals.size(loop.init) + residuals.outputs(loop)
        return sum(leaf.size for leaf in moving) * each

    def _require(self, scalars: int) -> None:
        if scalars > self.max_tangents:
            raise ValueError(
                f"`gradient=forward(max_tangents={self.max_tangents})` must have at most that many "
                f"differentiated scalars: got {scalars}, and each costs a run of the loop; use "
                "tk.control.checkpoint(), or raise max_tangents."
            )


_NO_REVERSE_OVER_FORWARD = (
    "gradient=forward() has no reverse mode over its derivative in tk.while_loop: use forward mode "
    "over it (jax.hessian, or jax.jvp of jax.grad)."
)


def _with_operands(loop: PreparedLoop, operands: tuple[Tree, Tree, Tree]) -> PreparedLoop:
    closed, init, xs = operands
    return loop._replace(closed=closed, init=init, xs=xs)
