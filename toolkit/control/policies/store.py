"""`store()`: keep what every step leaves for its derivative, as a plain scan does."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.control import bounded, bounded_derivative, residuals
from toolkit.control.policies.policy import set_positive, step_of
from toolkit.control.prepared import Counted, PreparedLoop, PreparedWhile
from toolkit.derive.refusal import refuse_reverse_mode
from toolkit.derive.replay import ticked_scan
from toolkit.errors.readable import readable
from toolkit.types import Tree


@dataclass(frozen=True)
class store:
    """Keep what every step leaves for its derivative: the fastest, and the largest.

    Args:
      unroll: steps in one turn of the compiled loop, at least 1.

    Differentiation: forward and reverse mode, any order. In `tk.while_loop` without `max_steps`:
    forward mode.

    Cost: memory of all steps' intermediate values (of all carries in `tk.while_loop`, whose steps
    run once more in the reverse pass).
    """

    unroll: int = 1

    @readable
    def __post_init__(self) -> None:
        set_positive(self, "unroll")

    def run(self, loop: PreparedLoop) -> tuple[Tree, Tree]:
        """A plain scan."""
        return ticked_scan(step_of(loop), loop.init, loop.xs, loop.length, loop.ticker, self.unroll)

    def run_while(self, loop: PreparedWhile) -> Counted:
        """A plain `while_loop`; with a bound, one that stores its carries."""
        if loop.max_steps is not None:
            return bounded_derivative.run(loop, (), "store()")
        counted = bounded.plain(loop, loop.closed, loop.init)
        return Counted(refuse_reverse_mode(counted.carry, _UNBOUNDED), counted.steps)

    def memory(self, loop: PreparedLoop) -> int:
        """What all steps leave."""
        return (
            residuals.left_by(loop, loop.length)
            + residuals.cotangents(loop)
            + residuals.outputs(loop)
            + 2 * residuals.size(loop.init)  # the carry and its cotangent
        )


_UNBOUNDED = (
    "tk.while_loop has no reverse mode without a bound on its steps: give `max_steps`, or "
    "gradient=tk.control.forward() for few scalars."
)
