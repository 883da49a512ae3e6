"""`truncate(k)`: differentiate through windows of `k` steps, counted from the end.

With k = 3 and 7 steps the windows are [0] [1 2 3] [4 5 6]; no derivative crosses their borders.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from toolkit import tree
from toolkit.control import bounded, residuals
from toolkit.control.policies.policy import set_positive, step_of
from toolkit.control.policies.store import store
from toolkit.control.prepared import Counted, PreparedLoop, PreparedWhile
from toolkit.derive.replay import after, ticked_scan
from toolkit.errors.readable import readable
from toolkit.types import Tree


@dataclass(frozen=True)
class truncate:
    """Differentiate through windows of `k` steps, counted from the end.

    This is truncated backpropagation through time. Each window starts from a carry that is held
    constant, except the first, which starts from `init`. So the last carry is differentiated through
    the last `k` steps, and the output of a step through the steps of its window. The derivative is
    biased: the influence of all steps before a window is left out. With `k` at least the length it is
    `store()`.

    Args:
      k: steps in a window, at least 1.

    Differentiation: forward and reverse mode, any order.

    Cost: if the body returns no floating `y`, memory and reverse pass of `k` steps. Else memory of
    `length / k` carries and of what `k` steps leave, and one more run of the steps. In
    `tk.while_loop` the loop runs twice, because it is not known beforehand where it will stop.

    Source: Williams & Peng 1990; Shaban et al. 2019 (K-RMD).
    """

    k: int

    @readable
    def __post_init__(self) -> None:
        set_positive(self, "k")

    def run(self, loop: PreparedLoop) -> tuple[Tree, Tree]:
        """A constant head and a differentiated tail, or windows."""
        if self.k >= loop.length:
            return store().run(loop)
        if _has_floats(loop.y):
            return self._windows(loop)
        head = loop.length - self.k
        first, last = _cut(loop.xs, head)
        # Nothing is differentiated through the first steps, so their inputs are made constants. Without
        # that, a gradient outside `jit` would compute and keep what those steps leave for a derivative.
        constant = loop._replace(
            closed=tree.stop_gradient(loop.closed),
            init=tree.stop_gradient(loop.init),
            xs=tree.stop_gradient(first),
            length=head,
        )
        carry, ys = store().run(constant)
        tail = loop._replace(
            init=tree.stop_gradient(carry), xs=last, length=self.k, ticker=after(loop.ticker, head)
        )
        carry, last_ys = store().run(tail)
        return carry, _joined(ys, last_ys)

    def run_while(self, loop: PreparedWhile) -> Counted:
        """The loop on constants, and its last steps once more."""
        return bounded.last_steps(loop, self.k)

    def memory(self, loop: PreparedLoop) -> int:
        """What a window leaves, and the carries before the others."""
        if self.k >= loop.length:
            return store().memory(loop)
        if not _has_floats(loop.y):
            return store().memory(loop._replace(length=self.k))
        head = (loop.length - 1) % self.k + 1
        return (
            (loop.length // self.k + 2) * residuals.size(loop.init)
            + residuals.left_by(loop, head)
            + residuals.left_by(loop, self.k)
            + 3 * residuals.cotangents(loop)
            + 2 * residuals.outputs(loop)  # in windows, and joined
        )

    def _windows(self, loop: PreparedLoop) -> tuple[Tree, Tree]:
        """A scan over windows, for a body whose outputs have derivatives of their own."""
        step = step_of(loop)
        head = (loop.length - 1) % self.k + 1  # the first window: what is left over, 1 to k steps
        count = (loop.length - head) // self.k
        first, last = _cut(loop.xs, head)

        def window(carry: Tree, xs: Tree) -> tuple[Tree, Tree]:
            return jax.lax.scan(step, tree.stop_gradient(carry), xs, self.k)

        carry, ys = ticked_scan(step, loop.init, first, head, loop.ticker)
        folded = jax.tree.map(lambda leaf: leaf.reshape(count, self.k, *leaf.shape[1:]), last)
        # Each window runs again in the reverse pass, so that what all steps leave is not kept. Inside a
        # scan XLA cannot merge the two runs, so `prevent_cse`, which would only cost time, is off.
        again = jax.checkpoint(window, prevent_cse=False)
        ticker = after(loop.ticker, head, self.k)
        carry, last_ys = ticked_scan(again, carry, folded, count, ticker)
        last_ys = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), last_ys)
        return carry, _joined(ys, last_ys)


def _has_floats(shapes: Tree) -> bool:
    return any(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(shapes))


def _cut(xs: Tree, at: int) -> tuple[Tree, Tree]:
    return jax.tree.map(lambda leaf: leaf[:at], xs), jax.tree.map(lambda leaf: leaf[at:], xs)


def _joined(first: Tree, last: Tree) -> Tree:
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), first, last)
