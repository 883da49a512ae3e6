"""`checkpoint(how)`: keep few carries and run the steps between them again.

100 steps as 10 segments of 10: the forward pass keeps 10 carries; the reverse pass takes the segments
from the last to the first, and runs each again to get what its 10 steps leave.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from toolkit.control import bounded_derivative, residuals
from toolkit.control.policies.policy import step_of
from toolkit.control.policies.store import store
from toolkit.control.prepared import Counted, PreparedLoop, PreparedWhile
from toolkit.derive.replay import Segments, nested_scan, require_segments, segment_sizes
from toolkit.errors.readable import readable
from toolkit.types import Tree


@dataclass(frozen=True)
class checkpoint:
    """Keep few carries, and run the steps between them again in the reverse pass.

    Args:
      how: "sqrt" keeps a carry every sqrt(length) steps; an int `k` keeps every k-th carry. A tuple
        gives the sizes of nested segments from the outside in; their product covers the length.
        (10, 10, 10) divides 1,000 steps into 10 segments of 10 segments of 10 steps. It keeps 10
        carries, 10 more while one outer segment runs again, and all that 10 steps leave. With a last
        size of 1, (10, 10, 10, 1), the innermost 10 steps keep their carries only, and run once more.

    Differentiation: forward and reverse mode, any order. In `tk.while_loop` with `max_steps` alone.

    Cost: memory of `length / k` carries and of what k steps leave. For a tuple: as many carries as
    all sizes but the last add up to, and what the steps of one innermost segment leave. In addition,
    for each level, one cotangent of what the loop closes over. In time, one more run of the steps for
    each level above the innermost. 1,000 steps of an `[8, 256]` state with `[256, 256]` weights: see
    benchmarks/control.py.

    Source: Griewank & Walther 2008, chapter 12; Chen et al. 2016.
    """

    how: Segments = "sqrt"

    @readable
    def __post_init__(self) -> None:
        require_segments("how", self.how)

    def run(self, loop: PreparedLoop) -> tuple[Tree, Tree]:
        """Scans of scans."""
        sizes = segment_sizes(self.how, loop.length)
        return nested_scan(step_of(loop), loop.init, loop.xs, loop.length, sizes, loop.ticker)

    def run_while(self, loop: PreparedWhile) -> Counted:
        """Loops of loops, in both passes as long as the condition holds."""
        if loop.max_steps is None:
            raise ValueError(
                "`max_steps` must be given to tk.while_loop under checkpoint(): got None, and "
                "what is kept needs a size."
            )
        sizes = segment_sizes(self.how, loop.max_steps)
        return bounded_derivative.run(loop, sizes, repr(self))

    def memory(self, loop: PreparedLoop) -> int:
        """The carries of all levels, and what an innermost segment leaves."""
        sizes = segment_sizes(self.how, loop.length)
        # If the sizes cover the length, the first of them is only the number of the outermost segments,
        # which follows from the length and the other sizes.
        if loop.length <= math.prod(sizes):
            sizes = sizes[1:]
        if not sizes:
            return store().memory(loop)
        stored = loop.length // math.prod(sizes) + sum(sizes[:-1])
        return (
            (stored + 2) * residuals.size(loop.init)
            + residuals.left_by(loop, sizes[-1])
            + (len(sizes) + 1) * residuals.cotangents(loop)
            + 2 * residuals.outputs(loop)  # in segments, and joined
        )
