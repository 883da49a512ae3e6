"""`reversible(inverse)`: recover the carries by running the loop backwards, and keep only the last.

Inverting a step that contracts amplifies rounding errors without bound. The gradient at a wrong carry
is wrong, and nothing else would show it. So the forward pass notes one number for each carry, a random
projection, and the reverse pass compares each recovered carry with it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from toolkit import tree
from toolkit.control import residuals
from toolkit.control.policies.recovered import (
    default_tolerance,
    distance,
    drift,
    no_error,
    projection,
    random_signs,
)
from toolkit.control.prepared import (
    Counted,
    PreparedLoop,
    PreparedWhile,
    entry,
    prepare,
    require_callable,
    require_same_types,
)
from toolkit.derive.refusal import refuse_derivatives, refuse_forward_mode
from toolkit.derive.replay import ticked_scan
from toolkit.derive.symbolic_zeros import instantiate_zeros, values_and_wanted
from toolkit.errors.readable import readable
from toolkit.jaxprs.lift import Lifted, lift
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.leaves.containers import packed, unpacked
from toolkit.types import Tree

_NO_FORWARD_MODE = (
    "gradient=reversible() has no forward mode (jvp, jacfwd), its reverse pass is a rule of its "
    "own: use tk.control.store() or tk.control.forward()."
)
_NO_SECOND_ORDER = (
    "gradient=reversible() has first derivatives only: use tk.control.store() or "
    "tk.control.checkpoint()."
)


@dataclass(frozen=True)
class reversible:
    """Keep the last carry, and recover the others by running the loop backwards.

    For each step the reverse pass makes one inverse step and one pullback. It checks three things:
    `body` of a recovered carry must give back the carry that it was recovered from; a random
    projection of it must be the one that the forward pass noted; and the first carry must be `init`.
    Integers, booleans and keys must be equal. If any relative error exceeds `tol`, every derivative
    is NaN, and outside `jit` a warning tells the error. A loop that contracts cannot be reversed,
    whatever the inverse is; `tk.control.reconstruction_error` tells beforehand.

    Args:
      inverse: `inverse(carry, x)` -> the carry before the step that saw `x`; it may close over
        arrays, without derivative. `tk.while_loop` refuses the rule.
      tol: the relative error admitted, in 2-norm over all leaves; None: sqrt(eps) of the coarsest
        floating leaf, 3.5e-4 in float32.

    Differentiation: reverse mode, first order; `init`, `xs` and what `body` closes over.

    Cost: memory of four carries and of one number a step, whatever the length; a reverse pass of
    an inverse and a pullback a step.

    Source: Gomez, Ren, Urtasun & Grosse 2017 (RevNet); why to check: Behrmann et al. 2021.
    """

    inverse: Callable[..., Tree]
    tol: float | None = None

    @readable
    def __post_init__(self) -> None:
        require_callable("inverse", self.inverse)
        if self.tol is not None and not (isinstance(self.tol, Real) and self.tol > 0):
            raise ValueError(f"`tol` must be None or a positive number: got {self.tol!r}.")

    def run(self, loop: PreparedLoop) -> tuple[Tree, Tree]:
        """A scan, and its reverse."""
        back = _lifted_inverse(self.inverse, loop)
        run = _reversible(loop.bare(), back._replace(closed=()), self.tol)
        operands = refuse_forward_mode((loop.closed, loop.init, loop.xs), _NO_FORWARD_MODE)
        return run(*operands, tree.stop_gradient(back.closed))

    def run_while(self, loop: PreparedWhile) -> Counted:
        """Refused: a projection of each carry is noted, and the number of steps is not known."""
        raise ValueError(
            "`gradient` must not be reversible() in tk.while_loop: use tk.control.checkpoint() "
            "with `max_steps`, or tk.loop, whose length is known."
        )

    def memory(self, loop: PreparedLoop) -> int:
        """Four carries, a number a step, and what one step leaves."""
        marks = loop.length * no_error(loop.init).dtype.itemsize
        return (
            4 * residuals.size(loop.init)
            + marks
            + residuals.left_by(loop, 1)
            + residuals.cotangents(loop)
            + residuals.outputs(loop)
        )


def reconstruction_error(
    body: Callable[[Tree, Tree], tuple[Tree, Tree]],
    inverse: Callable[[Tree, Tree], Tree],
    init: Tree,
    xs: Tree = None,
    length: int | None = None,
) -> Array:
    """How far `inverse` misses the carries of `tk.loop`, as `reversible` measures it.

    Args:
      body, init, xs, length: as for `tk.loop`.
      inverse: `inverse(carry, x)` -> the carry before.

    Returns: a scalar, the largest relative error in 2-norm; infinite where an integer differs.

    Differentiation: none.

    Cost: the loop, and as many steps of `inverse` and `body`.
    """
    require_callable("inverse", inverse)
    loop = prepare(body, init, xs, length)
    back = _lifted_inverse(inverse, loop)
    closed, init, xs = tree.stop_gradient((loop.closed, loop.init, loop.xs))
    weights = random_signs(init)
    last, (_, marks) = _run(loop, (closed, init, xs), weights)

    def undo(state: tuple[Tree, Array], slices: tuple[Tree, Array]) -> tuple[Any, None]:
        (later, worst), (x, mark) = state, slices
        carry = back.call(tree.stop_gradient(back.closed), later, x)
        again, _ = loop.step(closed, carry, x)
        error = jnp.maximum(distance(again, later), drift(carry, mark, weights))
        return (carry, jnp.maximum(worst, error)), None

    (first, worst), _ = jax.lax.scan(undo, (last, no_error(init)), (xs, marks), loop.length, True)
    return jnp.maximum(worst, distance(first, init))


class ReverseState(NamedTuple):
    """The cotangents that the reverse pass carries from step to step."""

    carry: Tree
    closed: Tree  # of the closed-over arrays that are differentiated


def _lifted_inverse(inverse: Callable[..., Tree], loop: PreparedLoop) -> Lifted:
    def unstep(carry: Tree, x: Tree) -> Tree:
        return unpacked(inverse(packed(carry), packed(x)))

    back = lift(unstep, loop.init, jax.tree.map(entry, loop.xs))
    require_same_types("inverse", loop.init, back.shape, inverse)
    return back


def _reversible(
    loop: PreparedLoop, back: Lifted, tol: float | None
) -> Callable[..., tuple[Tree, Tree]]:
    @jax.custom_vjp
    def run(closed: Tree, init: Tree, xs: Tree, back_closed: Tree) -> tuple[Tree, Tree]:
        last, (ys, _) = _run(loop, (closed, init, xs), random_signs(init))
        return last, ys

    # `symbolic_zeros` tells which arguments are differentiated (`wanted`). The others get no cotangents,
    # so an array of data that the loop reads costs no memory for them.
    def forward(*primals: Tree) -> tuple[tuple[Tree, Tree], Tree]:
        values, wanted = values_and_wanted(primals)
        closed, init, xs, back_closed = refuse_derivatives(values, _NO_SECOND_ORDER)
        last, (ys, marks) = _run(loop, (closed, init, xs), random_signs(init))
        parts = tree.select(closed, wanted[0]), tree.select(xs, wanted[2])
        return (last, ys), (last, init, marks, parts, back_closed)

    def backward(residuals: Tree, cotangents: Tree) -> tuple[Tree, Tree, Tree, None]:
        last, init, marks, (closed_parts, xs_parts), back_closed = residuals
        weights = random_signs(init)
        last_bar, ys_bar = cotangents
        ys_bar = vary(_output_bars(ys_bar, loop.y), varying_axes(last))
        closed_bar = jax.tree.map(jnp.zeros_like, closed_parts[0])
        bars = ReverseState(instantiate_zeros(last_bar, last), closed_bar)
        undo = _reverse_step(loop, back._replace(closed=back_closed), closed_parts, weights)
        slices = *xs_parts, ys_bar, marks
        state = last, bars, no_error(init)
        (first, bars, worst), xs_bar = jax.lax.scan(undo, state, slices, loop.length, reverse=True)
        worst = jnp.maximum(worst, distance(first, init))
        if axes := tuple(sorted(varying_axes(worst))):
            # In `jax.shard_map` devices add up the cotangents of the arrays that they share, so an error
            # on one device must make the result NaN on all.
            worst = jax.lax.pmax(worst, axes)
        # NaN rather than an exception: under `jit` nothing can be raised.
        admitted = default_tolerance(init) if tol is None else tol
        _warn(worst, admitted)
        bars, xs_bar = tree.nan_unless(worst <= admitted, (bars, xs_bar))
        return bars.closed, bars.carry, xs_bar, None

    run.defvjp(forward, backward, symbolic_zeros=True)
    return run


def _reverse_step(
    loop: PreparedLoop, back: Lifted, closed_parts: tuple[Tree, Tree], weights: Tree
) -> Callable[..., Any]:
    """One step of the reverse pass: recover the carry before, run `body` on it, and pull back.

    Args:
      closed_parts: what `body` closes over: the leaves that are differentiated, and the others.
      weights: of the random projections that the forward pass noted.
    """
    wanted, constant = closed_parts

    def undo(state: tuple[Tree, ReverseState, Array], slices: tuple) -> tuple[Any, Tree]:
        (later, bars, worst), (x_wanted, x_constant, y_bar, mark) = state, slices
        carry = back.call(back.closed, later, tree.merge(x_wanted, x_constant))
        moving, fixed, _ = tree.split(carry)

        def step(moving: Tree, wanted: Tree, x_wanted: Tree) -> tuple[Tree, Tree]:
            closed, x = tree.merge(wanted, constant), tree.merge(x_wanted, x_constant)
            after, y = loop.step(closed, tree.merge(moving, fixed), x)
            return (tree.split(after).inexact, tree.split(y).inexact), after

        _, pullback, again = jax.vjp(step, moving, wanted, x_wanted, has_aux=True)
        carry_bar, closed_bar, x_bar = pullback((bars.carry, y_bar))
        # `distance` finds an inverse that does not undo `body`. Where `body` contracts, many carries
        # lead to almost the same next one, so a wrong carry may pass; `drift` finds that.
        error = jnp.maximum(distance(again, later), drift(carry, mark, weights))
        bars = ReverseState(carry_bar, jax.tree.map(jnp.add, bars.closed, closed_bar))
        return (carry, bars, jnp.maximum(worst, error)), x_bar

    return undo


def _run(
    loop: PreparedLoop, operands: tuple[Tree, Tree, Tree], weights: Tree
) -> tuple[Tree, tuple]:
    """The last carry, and for each step its output and the random projection of the carry before it."""
    closed, init, xs = operands

    def step(carry: Tree, x: Tree) -> tuple[Tree, tuple[Tree, Array]]:
        after, y = loop.step(closed, carry, x)
        return after, (y, projection(carry, weights))

    return ticked_scan(step, init, xs, loop.length, loop.ticker)


def _output_bars(bars: Tree, like: Tree) -> Tree:
    """The cotangents of the floating outputs; zeros for those that nothing depends on."""

    def one(bar: Any, leaf: jax.ShapeDtypeStruct) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return None
        return jnp.zeros(bar.shape, bar.dtype) if isinstance(bar, SymbolicZero) else bar

    return jax.tree.map(one, bars, like, is_leaf=lambda bar: isinstance(bar, SymbolicZero))


def _warn(worst: Array, admitted: float) -> None:
    """Warn with the size of the error. Under `jit` it is not known yet, and only the NaN tells."""
    if isinstance(worst, jax.core.Tracer) or worst <= admitted:
        return
    warnings.warn(
        f"reversible(): the inverse missed a carry by {worst:.1e} relative, {admitted:.1e} is "
        "admitted; all derivatives are NaN. Use tk.control.checkpoint(), or correct the inverse.",
        RuntimeWarning,
        stacklevel=2,
    )
