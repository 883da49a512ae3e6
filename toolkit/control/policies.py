"""How a loop's derivative is made: each rule takes a prepared loop and runs it.

The names are lower case because they are read in a call: `gradient=checkpoint((10, 10, 10))`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from toolkit import tree
from toolkit.control import bounded, residuals
from toolkit.control.prepared import Counted, Prepared, PreparedWhile
from toolkit.derive.refusal import refuse_reverse_mode
from toolkit.derive.replay import (
    Segments,
    after,
    nested_scan,
    require_segments,
    segment_sizes,
    ticked_scan,
)
from toolkit.derive.tangents import forward_rule
from toolkit.errors.readable import readable
from toolkit.types import Tree


@runtime_checkable
class Policy(Protocol):
    """What `gradient=` accepts."""

    def run(self, loop: Prepared) -> tuple[Tree, Tree]:
        """The last carry and the outputs of a loop of known length."""
        ...

    def run_while(self, loop: PreparedWhile) -> Counted:
        """The last carry of a loop that ends on a condition, and the steps that it made."""
        ...

    def memory(self, loop: Prepared) -> int:
        """Bytes that a gradient of `run` keeps."""
        ...


def require_policy(gradient: Any) -> None:
    """Refuse what is no policy, and a policy's class in place of a policy."""
    if isinstance(gradient, type) or not isinstance(gradient, Policy):
        got = f"the class {gradient.__name__}" if isinstance(gradient, type) else repr(gradient)
        raise TypeError(
            f"`gradient` must be a policy of tk.control, such as checkpoint() or truncate(100): "
            f"got {got}."
        )


@dataclass(frozen=True)
class store:
    """Keep what every step leaves for its derivative: the fastest, and the largest.

    Args:
      unroll: steps in one turn of the compiled loop, at least 1.

    Differentiation: forward and reverse mode, any order. In `tk.while_loop`: forward mode where
    there is no `max_steps`, else reverse mode and Hessians (`jax.hessian`).

    Cost: memory of all steps' intermediate values (of all carries in `tk.while_loop`, whose steps
    run once more in the reverse pass).
    """

    unroll: int = 1

    @readable
    def __post_init__(self) -> None:
        _require_positive("unroll", self.unroll)

    def run(self, loop: Prepared) -> tuple[Tree, Tree]:
        """A plain scan."""
        return ticked_scan(_step(loop), loop.init, loop.xs, loop.length, loop.ticker, self.unroll)

    def run_while(self, loop: PreparedWhile) -> Counted:
        """A plain `while_loop`; with a bound, one that stores its carries."""
        if loop.max_steps is not None:
            return bounded.run(loop, (), "store()")
        counted = bounded.plain(loop, loop.closed, loop.init)
        return Counted(refuse_reverse_mode(counted.carry, _UNBOUNDED), counted.steps)

    def memory(self, loop: Prepared) -> int:
        """What all steps leave."""
        return (
            residuals.left_by(loop, loop.length)
            + residuals.cotangents(loop)
            + residuals.outputs(loop)
            + 2 * residuals.size(loop.init)
        )


@dataclass(frozen=True)
class checkpoint:
    """Keep few carries, and run the steps between them again in the reverse pass.

    Args:
      how: "sqrt" keeps a carry every sqrt(length) steps; an int k every k-th; a tuple such as
        (10, 10, 10), sizes from the outside in whose product covers the length, keeps 10 carries,
        10 more while it runs one of the ten segments again, and all that 10 steps leave; with a
        last size of 1, (10, 10, 10, 1), the last 10 steps keep their carries alone, and run again.

    Differentiation: forward and reverse mode, any order. In `tk.while_loop`, with `max_steps`:
    reverse mode and Hessians (`jax.hessian`).

    Cost: memory of `length / k` carries and what k steps leave; for a tuple the sum of all sizes
    but the last, and what that many steps leave; besides, one cotangent of what the loop closes
    over for each level. One more run of the steps for each level above the innermost. 1,000 steps
    of an `[8, 256]` state with `[256, 256]` weights: see benchmarks/control.py.

    Source: Griewank & Walther 2008, chapter 12; Chen et al. 2016.
    """

    how: Segments = "sqrt"

    @readable
    def __post_init__(self) -> None:
        require_segments("how", self.how)

    def run(self, loop: Prepared) -> tuple[Tree, Tree]:
        """Scans of scans."""
        sizes = segment_sizes(self.how, loop.length)
        return nested_scan(_step(loop), loop.init, loop.xs, loop.length, sizes, loop.ticker)

    def run_while(self, loop: PreparedWhile) -> Counted:
        """Loops of loops, in both passes as long as the condition holds."""
        if loop.max_steps is None:
            raise ValueError(
                "`max_steps` must be given to tk.while_loop under checkpoint(): got None, and "
                "what is kept needs a size."
            )
        return bounded.run(loop, segment_sizes(self.how, loop.max_steps), repr(self))

    def memory(self, loop: Prepared) -> int:
        """The carries of all levels, and what an innermost segment leaves."""
        sizes = segment_sizes(self.how, loop.length)
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


@dataclass(frozen=True)
class truncate:
    """Differentiate through windows of `k` steps, counted from the end.

    Each window starts from a carry that is held constant, the first one from `init` itself. So the
    last carry is differentiated through the last `k` steps, and what a step puts out through the
    steps of its window: truncated backpropagation through time. Biased: what lies before a window
    counts for nothing. With `k` at least the length it is `store()`.

    Args:
      k: steps in a window, at least 1.

    Differentiation: forward and reverse mode, any order.

    Cost: memory and reverse pass of `k` steps where the body puts out no floating `y`; else of
    `length / k` carries and what `k` steps leave, and one more run of the steps. In
    `tk.while_loop` the loop runs twice, because where it will stop is not known before.

    Source: Williams & Peng 1990; Shaban et al. 2019 (K-RMD).
    """

    k: int

    @readable
    def __post_init__(self) -> None:
        _require_positive("k", self.k)

    def run(self, loop: Prepared) -> tuple[Tree, Tree]:
        """A constant head and a differentiated tail, or windows."""
        if self.k >= loop.length:
            return store().run(loop)
        if _has_floats(loop.y):
            return self._windows(loop)
        head = loop.length - self.k
        first, last = _cut(loop.xs, head)
        # Outside jit, what the head leaves for a derivative would be made, and kept.
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

    def memory(self, loop: Prepared) -> int:
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

    def _windows(self, loop: Prepared) -> tuple[Tree, Tree]:
        step = _step(loop)
        head = (loop.length - 1) % self.k + 1
        count = (loop.length - head) // self.k
        first, last = _cut(loop.xs, head)

        def window(carry: Tree, xs: Tree) -> tuple[Tree, Tree]:
            return jax.lax.scan(step, tree.stop_gradient(carry), xs, self.k)

        carry, ys = ticked_scan(step, loop.init, first, head, loop.ticker)
        folded = jax.tree.map(lambda leaf: leaf.reshape(count, self.k, *leaf.shape[1:]), last)
        again = jax.checkpoint(window, prevent_cse=False)
        ticker = after(loop.ticker, head, self.k)
        carry, last_ys = ticked_scan(again, carry, folded, count, ticker)
        last_ys = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), last_ys)
        return carry, _joined(ys, last_ys)


@dataclass(frozen=True)
class forward:
    """Carry tangents along with the steps: the memory does not depend on their number.

    Args:
      max_tangents: refuse more differentiated scalars than this, in `init`, `xs` and what the loop
        closes over together; each costs a run of the loop.

    Differentiation: forward and reverse mode; higher orders by forward mode over either.

    Cost: with `P` scalars `P + 1` runs of the loop in time, `P` carries and outputs in memory; the
    same in forward mode, where `store()` needs one run.

    Source: Wengert 1964; Williams & Zipser 1989 (real-time recurrent learning).
    """

    max_tangents: int = 1000

    @readable
    def __post_init__(self) -> None:
        _require_positive("max_tangents", self.max_tangents)

    def run(self, loop: Prepared) -> tuple[Tree, Tree]:
        """A plain scan, with a rule of its own."""

        def under(ticker: Any) -> Callable[..., Any]:
            return lambda *operands: store().run(_with(loop, operands)._replace(ticker=ticker))

        solve = forward_rule(under(loop.ticker), under(None), self._require)
        return solve(loop.closed, loop.init, loop.xs)

    def run_while(self, loop: PreparedWhile) -> Counted:
        """A plain `while_loop`, with a rule of its own."""

        def run(closed: Tree, init: Tree) -> Counted:
            return bounded.plain(loop, closed, init)

        def push(closed: Tree, init: Tree) -> Counted:
            return refuse_reverse_mode(run(closed, init), _NO_REVERSE_OVER_FORWARD)

        return forward_rule(run, push, self._require)(loop.closed, loop.init)

    def memory(self, loop: Prepared) -> int:
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
_UNBOUNDED = (
    "tk.while_loop has no reverse mode without a bound on its steps: give `max_steps`, or "
    "gradient=tk.control.forward() for few scalars."
)


def _step(loop: Prepared) -> Callable[[Tree, Tree], tuple[Tree, Tree]]:
    return lambda carry, x: loop.step(loop.closed, carry, x)


def _with(loop: Prepared, operands: tuple[Tree, Tree, Tree]) -> Prepared:
    closed, init, xs = operands
    return loop._replace(closed=closed, init=init, xs=xs)


def _has_floats(shapes: Tree) -> bool:
    return any(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(shapes))


def _cut(xs: Tree, at: int) -> tuple[Tree, Tree]:
    return jax.tree.map(lambda leaf: leaf[:at], xs), jax.tree.map(lambda leaf: leaf[at:], xs)


def _joined(first: Tree, last: Tree) -> Tree:
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), first, last)


def _require_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a positive int: got {value!r}.")
