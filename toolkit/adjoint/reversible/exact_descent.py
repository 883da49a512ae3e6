"""Momentum gradient descent on integers, so that each step can be undone to the bit.

In floating point `(y + d) - d` is not `y`: each undone step would add rounding, and a contraction run
backwards amplifies it without bound. On 64-bit integers addition has an exact inverse. A step adds
numbers that are computed from the state that stays: `y` moves by a function of the velocity, and the
velocity by a function of `y`. So undoing a step computes the same numbers again and subtracts them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.adjoint.reversible import integer_grid, momentum
from toolkit.adjoint.reversible.momentum import MomentumPlan
from toolkit.adjoint.reversible.reals import from_reals, to_reals
from toolkit.adjoint.reversible.recorded import ObjectiveArguments, Recorded, record
from toolkit.jaxprs.varying_axes import on_all_devices, vary, varying_axes
from toolkit.types import Descent, InnerProblem, Tree

# Finer units round less and overflow earlier: integers must stay below 2^62. So an iterate may reach
# 2^22 = 4.2e6, and a velocity 2^20 = 1.0e6 at its finest scale, 1/256.
Y_UNIT = 2.0**-40  # 9e-13
V_UNIT = 2.0**-34  # 6e-11, at the scale 1, which is the coarsest


class GridState(NamedTuple):
    """What the loop carries; the lists are those of `reals`."""

    y: list[Array]  # int64, in units of Y_UNIT
    velocity: list[Array]  # int64, in units of V_UNIT times the scale of the plan
    rows: list[Any]  # bytes that the velocities have spilled; None where no step will be undone
    in_range: Array  # [] bool: nothing has left the range so far


class Entry(NamedTuple):
    """The inputs of one step; outside the loop each leaf has the steps as its leading axis."""

    x: Any  # (the step's number, the user's input)
    step_size: Array
    plan: MomentumPlan
    push: Array  # units of the velocity in a unit of gradient
    move: Array  # units of y in a unit of the velocity
    valid: Array  # bool: the momentum is in [0, 1]


class ReversibleMethod(NamedTuple):
    """The descent, and the memory to undo it."""

    problem: InnerProblem
    descent: Descent
    known: MomentumPlan | None  # where the momenta are known before tracing
    rows: int  # of memory, for the bytes that velocities spill
    most: int  # bytes that a velocity may spill at one step


@dataclass(frozen=True, eq=False)
class ExactDescent:
    """The steps of momentum gradient descent on the grid, and their inverses."""

    method: ReversibleMethod
    start: Tree  # (y, velocity), trees; the velocity is None where the solver keeps none
    # Booleans like theta and x: which cotangents are wanted; None where no step is to be undone.
    wanted: tuple[Tree, Tree] | None

    def entries(self, theta: Tree, xs: tuple[Array, Tree]) -> Entry:
        """The inputs of all steps."""
        step_sizes, momenta = self.schedules(theta, xs[0])
        valid = (momenta >= 0) & (momenta <= 1)
        known = self.method.known
        plan = momentum.make_plan(momenta) if known is None else jax.tree.map(jnp.asarray, known)
        # The integer w of a velocity stands for w * scale * V_UNIT, that of an iterate for y * Y_UNIT. So a
        # gradient g takes g * push from w, and w adds w * move to y.
        push, move = 1 / (plan.scale * V_UNIT), step_sizes * (plan.scale * (V_UNIT / Y_UNIT))
        return Entry(xs, step_sizes, plan, push, move, valid)

    def schedules(self, theta: Tree, numbers: Array) -> tuple[Array, Array]:
        """Step size and momentum of each step, as `dtype`."""
        schedule = self.method.descent.schedule
        step_sizes, momenta = jax.vmap(lambda t: schedule(theta, t))(numbers)
        both = step_sizes.astype(self.dtype), momenta.astype(self.dtype)
        return vary(both, varying_axes(self.start))

    def begin(self) -> GridState:
        """The start on the grid, nothing discarded yet."""
        y, velocity = self.reals(self.start)
        y, velocity = [leaf / Y_UNIT for leaf in y], [leaf / V_UNIT for leaf in velocity]
        in_range = _all([jnp.all(integer_grid.fits(leaf)) for leaf in y + velocity])
        y, velocity = [*map(integer_grid.to_grid, y)], [*map(integer_grid.to_grid, velocity)]
        count = self.method.rows + self.method.most
        keep = self.wanted is not None
        rows = [momentum.no_rows(count, leaf) if keep else None for leaf in y]
        return GridState(y, velocity, rows, in_range)

    def step(self, state: GridState, theta: Tree, entry: Entry) -> GridState:
        """`v <- momentum * v - gradient`, then `y <- y + step_size * v`, in integers."""
        recorded, fits, leaves = self.gradient(state, theta, entry), [], []
        for y, velocity, rows, gradient in zip(*state[:3], recorded.gradient, strict=True):
            push = gradient * entry.push.astype(gradient.dtype)
            # The plan multiplies the velocity by the momentum by changing its unit. `spill` does what is
            # left to do: where the unit became too small, the lowest bytes go to memory.
            velocity, rows = momentum.spill(velocity, rows, entry.plan, self.method.most)
            velocity = integer_grid.subtract(velocity, integer_grid.to_grid(push))
            move = _move(velocity, entry, push.dtype)
            y = integer_grid.add(y, integer_grid.to_grid(move))
            # Beyond the range integers wrap around without a sign of it. Checked are the numbers before
            # they are converted, and the sums.
            fit = [integer_grid.fits(x) for x in (push, move, y, velocity)]
            fits.append(jnp.all(functools.reduce(jnp.logical_and, fit)))
            leaves.append((y, velocity, rows))
        in_range = state.in_range & entry.valid & self.intact(recorded) & _all(fits)
        ys, velocities, memory = ([*column] for column in zip(*leaves, strict=True))
        return GridState(ys, velocities, memory, in_range)

    def unmove(self, state: GridState, entry: Entry) -> GridState:
        """Undo the second half of a step, the motion of `y`, to the bit."""
        ys = [
            integer_grid.subtract(y, integer_grid.to_grid(_move(velocity, entry, dtype)))
            for y, velocity, dtype in zip(state.y, state.velocity, self.dtypes, strict=True)
        ]
        return state._replace(y=ys)

    def unpush(self, state: GridState, recorded: Recorded, entry: Entry) -> GridState:
        """Undo the first half of a step, the change of the velocity, to the bit."""
        velocities = []
        leaves = zip(state.velocity, state.rows, recorded.gradient, strict=True)
        for velocity, rows, gradient in leaves:
            push = integer_grid.to_grid(gradient * entry.push.astype(gradient.dtype))
            velocity = integer_grid.add(velocity, push)
            velocities.append(momentum.fetch(velocity, rows, entry.plan, self.method.most))
        return state._replace(velocity=velocities, in_range=state.in_range & self.intact(recorded))

    def is_start(self, state: GridState) -> Array:
        """Whether `state` is where the loop began, to the bit."""
        first = self.begin()
        pairs = zip(state.y + state.velocity, first.y + first.velocity, strict=True)
        return _all([integer_grid.equal(*pair) for pair in pairs]) & state.in_range

    def gradient(self, state: GridState, theta: Tree, entry: Entry) -> Recorded:
        """The gradient at `state`, with the same bits in the forward and the reverse pass."""
        number, x = entry.x
        at = ObjectiveArguments(from_reals(self.y(state), self.start[0]), theta, x)
        recorded = record(self.method.problem, at, self.wanted, number)
        if varying_axes(recorded.gradient) - varying_axes(self.start):
            # A `cond` of jax 0.10 marks all its results as differing between devices where some operand does.
            raise ValueError(
                "`adjoint` must not be Reversible with this release of jax where data differ between devices and "
                "`y` does not, as with a loss that is averaged over them inside jax.shard_map; use jax 0.12, or "
                "the adjoint Unroll."
            )
        return recorded

    def intact(self, recorded: Recorded) -> Array:
        """`recorded.intact`, the same on all devices that share the iterate.

        It reads what was computed from the data. Inside `jax.shard_map` these may differ between devices where
        the iterate does not, as with a loss that is averaged over them.
        """
        return on_all_devices(recorded.intact, varying_axes(self.start))

    def result(self, last: GridState, entries: Entry) -> Tree:
        """The last state as a pair of trees; NaN if the range was left."""
        scale = jnp.append(1, entries.plan.scale)[-1]  # after the last step; 1 without steps
        pair = self.pair(self.y(last), self.velocity(last, scale))
        return tree.nan_unless(last.in_range, pair)

    def y(self, state: GridState) -> list[Array]:
        """The iterate."""
        leaves = zip(state.y, self.dtypes, strict=True)
        return [integer_grid.to_float(y, dtype) * Y_UNIT for y, dtype in leaves]

    def velocity(self, state: GridState, scale: Array) -> list[Array]:
        """The velocity, counted in units of `scale * V_UNIT`."""
        leaves = zip(state.velocity, self.dtypes, strict=True)
        return [
            integer_grid.to_float(v, dtype) * (scale * V_UNIT).astype(dtype) for v, dtype in leaves
        ]

    @functools.cached_property
    def dtypes(self) -> list[Any]:
        """The types of the real leaves."""
        return [leaf.dtype for leaf in jax.eval_shape(to_reals, self.start[0])]

    @property
    def dtype(self) -> Any:
        """The widest of them."""
        return jnp.result_type(*self.dtypes)

    def reals(self, pair: Tree) -> tuple[list[Array], list[Array]]:
        """A pair of trees like `start` as lists; zeros for a velocity that is None."""
        y = to_reals(pair[0])
        return y, [*map(jnp.zeros_like, y)] if pair[1] is None else to_reals(pair[1])

    def pair(self, y: list[Array], velocity: list[Array]) -> Tree:
        """Undo `reals`."""
        like_y, like_velocity = self.start
        kept = like_velocity is not None
        return type(self.start)(
            from_reals(y, like_y), from_reals(velocity, like_velocity) if kept else None
        )


def _move(velocity: Array, entry: Entry, dtype: Any) -> Array:
    return integer_grid.to_float(velocity, dtype) * entry.move.astype(dtype)


def _all(conditions: list[Array]) -> Array:
    return jnp.all(jnp.stack(conditions))
