"""Momentum gradient descent in integers: steps that can be undone to the bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.adjoint import grid, momentum
from toolkit.adjoint.grid import Grid
from toolkit.adjoint.momentum import Plan, Stack
from toolkit.types import Descent, Problem, Tree

_FEW = 256  # numbers; see `_reals`


class Leaf(NamedTuple):
    """A real leaf of the iterate, on the grid; its entries are the `N` numbers of `grid`."""

    y: Grid
    velocity: Grid
    stack: Stack


class State(NamedTuple):
    """What the loop carries."""

    seen: Tree  # the iterate as floats, where the gradient is taken
    leaves: tuple[Leaf, ...]
    in_range: Array  # [] bool: nothing has left the range so far


class Entry(NamedTuple):
    """What a step is told; outside the loop each leaf has the step as its leading axis."""

    x: Any  # (the step's number, the user's input)
    step_size: Array
    plan: Plan
    valid: Array  # bool: the momentum is in [0, 1]


@dataclass(frozen=True, eq=False)
class Loop:
    """The steps of momentum gradient descent on the grid, and their inverses.

    `start` is the pair `(y, velocity)` of trees that gives shapes and types; the velocity is None
    where the solver keeps none.
    """

    problem: Problem
    descent: Descent
    known: Plan | None  # where the momenta are known
    rows: int  # of memory for discarded bits

    def entries(self, theta: Tree, xs: tuple[Array, Tree]) -> Entry:
        """What each step is told."""
        step_sizes, momenta = jax.vmap(lambda t: self.descent.schedule(theta, t))(xs[0])
        valid = (momenta >= 0) & (momenta <= 1)
        plan = momentum.make_plan(momenta) if self.known is None else self.known
        return Entry(xs, step_sizes, jax.tree.map(jnp.asarray, plan), valid)

    def run(self, start: Tree, theta: Tree, entries: Entry, keep: bool) -> State:
        """All steps; `keep` what is needed to undo them."""

        def step(state: State, entry: Entry) -> tuple[State, None]:
            return self.step(state, theta, entry, start), None

        return jax.lax.scan(step, self.begin(start, keep), entries)[0]

    def begin(self, start: Tree, keep: bool) -> State:
        """The start on the grid, nothing discarded yet."""
        y, velocity = start
        velocity = jax.tree.map(jnp.zeros_like, y) if velocity is None else velocity
        leaves, fits = [], []
        for y_leaf, velocity_leaf in zip(_reals(y), _reals(velocity), strict=True):
            (y_grid, y_fits), (v_grid, v_fits) = grid.to_grid(y_leaf), grid.to_grid(velocity_leaf)
            top = jnp.zeros_like(y_grid.lo)
            rows = jnp.zeros_like(top, jnp.uint8, (max(self.rows, 1), *top.shape)) if keep else None
            leaves.append(Leaf(y_grid, v_grid, Stack(top, rows)))
            fits.append(jnp.all(y_fits & v_fits))
        return State(_floats([leaf.y for leaf in leaves], y), tuple(leaves), _all(fits))

    def step(self, state: State, theta: Tree, entry: Entry, start: Tree) -> State:
        """One step."""
        plan, leaves, fits = self._plan(entry), [], []
        gradients = self._gradient(state.seen, theta, entry)
        for leaf, gradient in zip(state.leaves, gradients, strict=True):
            push, push_fits = grid.to_grid(gradient)
            velocity, stack = momentum.multiply(leaf.velocity, leaf.stack, plan)
            velocity = grid.subtract(velocity, push)
            move, move_fits = grid.to_grid(_displacement(velocity, entry.step_size, gradient.dtype))
            y = grid.add(leaf.y, move)
            leaves.append(Leaf(y, velocity, stack))
            fits.append(jnp.all(push_fits & move_fits & grid.in_range(y) & grid.in_range(velocity)))
        in_range = state.in_range & entry.valid & _all(fits)
        return State(_floats([leaf.y for leaf in leaves], start[0]), tuple(leaves), in_range)

    def unmove(self, state: State, step_size: Array, start: Tree) -> State:
        """Undo the second half of a step, the motion of `y`, to the bit."""
        leaves = []
        for leaf, seen in zip(state.leaves, _reals(state.seen), strict=True):
            move, _ = grid.to_grid(_displacement(leaf.velocity, step_size, seen.dtype))
            leaves.append(leaf._replace(y=grid.subtract(leaf.y, move)))
        seen = _floats([leaf.y for leaf in leaves], start[0])
        return state._replace(seen=seen, leaves=tuple(leaves))

    def unpush(self, state: State, theta: Tree, entry: Entry) -> State:
        """Undo the first half of a step, the change of the velocity, to the bit."""
        plan, leaves = self._plan(entry), []
        gradients = self._gradient(state.seen, theta, entry)
        for leaf, gradient in zip(state.leaves, gradients, strict=True):
            velocity = grid.add(leaf.velocity, grid.to_grid(gradient)[0])
            leaves.append(Leaf(leaf.y, *momentum.unmultiply(velocity, leaf.stack, plan)))
        return state._replace(leaves=tuple(leaves))

    def is_start(self, state: State, start: Tree) -> Array:
        """Whether `state` is where the loop began, to the bit."""
        return _all(
            [
                grid.equal(leaf.y, first.y)
                & grid.equal(leaf.velocity, first.velocity)
                & jnp.all(leaf.stack.top == 0)
                for leaf, first in zip(state.leaves, self.begin(start, False).leaves, strict=True)
            ]
        )

    def floats(self, state: State, start: Tree) -> Tree:
        """`state` as a pair of trees like `start`."""
        velocities = [leaf.velocity for leaf in state.leaves]
        velocity = None if start[1] is None else _floats(velocities, start[1])
        return type(start)(state.seen, velocity)

    def _plan(self, entry: Entry) -> Plan:
        # XLA divides by a constant several times faster than by a number.
        known = self.known
        if known is None or len(set(zip(known.numerator, known.denominator, strict=True))) != 1:
            return entry.plan
        return entry.plan._replace(numerator=known.numerator[0], denominator=known.denominator[0])

    def _gradient(self, y: Tree, theta: Tree, entry: Entry) -> list[Array]:
        """Real leaves, rounded alike in both passes, because both compile it alike.

        XLA on CPU drops barriers before it fuses, and what it fuses with rounds differently. It
        does not fuse across the branches of a condition that it cannot foresee.
        """
        number, x = entry.x
        y, theta, x = jax.lax.optimization_barrier((y, theta, x))
        gradient = jax.lax.cond(
            number >= 0,
            lambda: self.problem.evaluate(y, theta, x),
            lambda: jax.tree.map(jnp.zeros_like, y),
        )
        return _reals(jax.lax.optimization_barrier(gradient))


def _displacement(velocity: Grid, step_size: Array, dtype: Any) -> Array:
    return (step_size * grid.to_float(velocity, dtype)).astype(dtype)


def _reals(values: Tree) -> list[Array]:
    """Real leaves, in float32 at least; one of zeros is added to a tree of few numbers.

    XLA on CPU compiles a loop over few bytes as one piece, and rounds it differently: without the
    zeros the forward loop could be such a loop, and the longer reverse loop not.
    """
    leaves = jax.tree.leaves(tree.as_real(values))
    leaves = [leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in leaves]
    if sum(leaf.size for leaf in leaves) < _FEW:
        leaves.append(jnp.zeros_like(leaves[0], shape=(_FEW,)))
    return leaves


def _floats(numbers: list[Grid], like: Tree) -> Tree:
    """Undo `_reals`, from numbers on the grid to a tree like `like`."""
    leaves, structure = jax.tree.flatten(tree.as_real(like))
    floats = [
        grid.to_float(number, jnp.promote_types(leaf.dtype, jnp.float32)).astype(leaf.dtype)
        for number, leaf in zip(numbers, leaves, strict=False)
    ]
    return tree.as_like(like, jax.tree.unflatten(structure, floats))


def _all(conditions: list[Array]) -> Array:
    return jnp.all(jnp.stack(conditions))
