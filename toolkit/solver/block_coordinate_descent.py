"""`BlockCoordinateDescent`: proximal gradient steps in one block of variables after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.derive.composite import gradient_step
from toolkit.leaves.promotion import standard_promotion
from toolkit.settings import Count, NonNegative, Tolerance, settings
from toolkit.solver.backtracking import Seen, sight, start
from toolkit.solver.proximal_gradient import Prox
from toolkit.solver.proximal_steps import ProximalState, returned_like
from toolkit.solver.requirements import PerStep, require_kind, require_schedule
from toolkit.solver.schedules import at_step
from toolkit.solver.searched import (
    UNIT,
    Splitting,
    after_search,
    arrived,
    look_at,
    search,
    unit_residual,
)
from toolkit.types import Beside, Evaluation, InnerProblem, Method, Proximal, Tree


class SweepState(NamedTuple):
    """The iterate, and what a search knows there."""

    y: Tree
    residual: Array  # [] at the iterate before, without derivative
    sizes: Tree  # like y: a step size for each block, of its next trial
    seen: Seen  # the function at y
    stale: Array  # [] bool: `seen` is not known yet, or is another function's


@settings("block_coordinate_descent")
class BlockCoordinateDescent:
    """`y_i <- prox(y_i - step_size * grad_i, theta, step_size)`, one block i after the other.

    Minimises `fun + sum_i g(y_i)`. The blocks are the slices of each leaf along its first axis, in order, leaf by
    leaf; a scalar is one block. Each gradient is taken anew, at the blocks that have moved already. One step of the
    solver is a sweep over all blocks.

        lasso = BlockCoordinateDescent(tk.prox.lasso, None, 1000, 1e-8)               # y [features]
        multitask = BlockCoordinateDescent(tk.prox.group_lasso, None, 1000, 1e-8)     # y [features, tasks]

    Args:
      prox: `(z, theta, step_size) -> array like z`, z a block: see `tk.solver.ProximalGradient`.
      step_size: a number, an array `[]` or `[max_steps]`, or a callable `(theta, step) -> array`, a scalar for
        all blocks of a sweep: below 2 / L, L the largest curvature within a block. None: each block has a step
        size of its own, found by backtracking, as `tk.solver.GradientDescent` says.
      max_steps: sweeps at most.
      tol: as in `tk.solver.ProximalGradient`.

    Raises:
      ValueError: the solve is no argmin, a schedule has another length than `max_steps` or a value of it is no
        scalar, or `prox` returns no array like `z`.

    Differentiation: as `tk.solver.ProximalGradient`, with `prox` on all blocks at once. Under rules that follow the
    steps a reverse pass through a sweep stores y for each block.

    Cost: a sweep takes one gradient of all of `fun` a block, and one for the residual. With `step_size=None` one
    value and gradient a trial.

    Source: Tseng 2001; Beck & Tetruashvili 2013, section 3 (step sizes of the blocks).
    """

    prox: Prox
    step_size: NonNegative | PerStep | None
    max_steps: Count
    tol: Tolerance

    def __post_init__(self) -> None:
        require_schedule("step_size", self.step_size, self.max_steps)

    def bind(self, problem: InnerProblem) -> Method:
        """The sweeps on `problem`, an argmin."""
        require_kind(self, problem.kind, ("argmin",), "tk.solver.FixedPointIteration")

        def prox(z: Array, theta: Tree, s: Array) -> Array:
            nearest: Array = returned_like("prox", z, self.prox(z, problem.user_theta(theta), s))
            return nearest

        def prox_of_all(z: Tree, theta: Tree, s: Array) -> Tree:
            one = lambda block: prox(block, theta, s)
            return jax.tree.map(lambda leaf: jax.vmap(one)(leaf) if leaf.ndim else one(leaf), z)

        split = Splitting(problem, prox_of_all, self.max_steps, self.tol)
        if self.step_size is None:
            return _searched_sweeps(self, split, prox)

        def step_size(theta: Tree, t: Array) -> Array:
            s = jnp.asarray(at_step("step_size", self.step_size, problem.user_theta(theta), t))
            if s.shape:
                raise ValueError(
                    "`step_size` must be a scalar for each sweep of BlockCoordinateDescent: got shape "
                    f"{s.shape}; None gives each block a size of its own."
                )
            return s

        return _given_sweeps(split, prox, step_size)


def _given_sweeps(
    split: Splitting, prox: Prox, step_size: Callable[[Tree, Array], Array]
) -> Method:
    """Sweeps with one step size for all blocks."""
    problem = split.problem

    def init(y0: Tree, theta: Tree) -> ProximalState:
        return ProximalState(y0, jnp.zeros_like(tree.norm(y0)))

    def evaluate(state: ProximalState, theta: Tree, x: Tree) -> Evaluation:
        gradient, beside = problem.look(state.y, theta, x)
        return Evaluation(gradient, None, beside)

    def update(
        state: ProximalState, gradient: Tree, theta: Tree, t: Array, x: Tree
    ) -> ProximalState:
        s = step_size(theta, t)
        nearest = split.move(state.y, gradient, theta, s)
        move = tree.stop_gradient(jax.tree.map(lambda a, b: (a - b) / s, state.y, nearest))

        def one(y: Tree, number: int, i: Array | None) -> Tree:
            return _moved(prox, number, i, y, problem.evaluate(y, theta, x), theta, s)

        swept = lambda: state._replace(y=_swept(one, state.y, state.y))
        return _unless_solved(split, state, tree.norm(move), swept)

    last = jnp.asarray(max(split.num_steps - 1, 0), jnp.int32)
    assert split.prox is not None  # blocks have one
    return Method(
        init,
        evaluate,
        update,
        lambda state: state.y,
        split.num_steps,
        split.tol,
        proximal=Proximal(lambda theta: step_size(theta, last), split.prox),
        residual_norm=lambda state: state.residual,
    )


def _searched_sweeps(solver: object, split: Splitting, prox: Prox) -> Method:
    """Sweeps in which each block searches its own step size."""
    look = sight(solver, split.problem)

    def init(y0: Tree, theta: Tree) -> SweepState:
        size, seen = start(y0)
        sizes = jax.tree.map(lambda leaf: jnp.full(leaf.shape[:1], size), y0)
        return SweepState(y0, jnp.zeros_like(tree.norm(y0)), sizes, seen, jnp.asarray(True))

    def evaluate(state: SweepState, theta: Tree, x: Tree) -> Evaluation:
        here = look_at(look, state, theta, x)
        return Evaluation(here, None, Beside(here.value))

    @standard_promotion  # a tree may mix types
    def update(state: SweepState, here: Seen, theta: Tree, t: Array, x: Tree) -> SweepState:
        def one(carry: tuple, number: int, i: Array | None) -> tuple:
            y, seen, sizes = carry
            seen = look.recalled(seen, y, theta, x)
            size = _block(jax.tree.leaves(sizes)[number], i)
            move = lambda *step: _moved(prox, number, i, *step)
            found = search(move, look, y, seen, theta, x, size, keeps_gradient=True)
            y = arrived(move, found, y, seen, theta, otherwise=y)
            seen, size = after_search(found, seen, size)
            return y, seen, _put(sizes, number, i, size)

        def swept() -> SweepState:
            begin = (state.y, tree.stop_gradient(here), state.sizes)
            y, seen, sizes = _swept(one, begin, state.y)
            return SweepState(y, state.residual, sizes, seen, state.stale & False)

        residual = unit_residual(split, state.y, here.gradient, theta)
        return _unless_solved(split, state, residual, swept)

    assert split.prox is not None  # blocks have one
    return Method(
        init,
        evaluate,
        update,
        lambda state: state.y,
        split.num_steps,
        split.tol,
        proximal=Proximal(UNIT, split.prox),
        residual_norm=lambda state: state.residual,
        forget=lambda state, stale: state._replace(stale=state.stale | stale),
    )


def _unless_solved(split: Splitting, state: Any, residual: Array, swept: Callable[[], Any]) -> Any:
    """The state after a sweep. A sweep is as dear as all of its blocks: none is made from a solution."""
    assert split.tol is not None  # a setting without default
    after = jax.lax.cond(residual <= split.tol, lambda: state, swept)
    return after._replace(residual=residual.astype(state.residual.dtype))


def _swept(one: Callable[[Any, int, Array | None], Any], carry: Any, y: Tree) -> Any:
    """`carry` after `one(carry, number of the leaf, index of the block)` for each block of `y`, in order."""
    for number, leaf in enumerate(jax.tree.leaves(y)):
        if not leaf.ndim:
            carry = one(carry, number, None)
        elif leaf.shape[0]:  # JAX traces a loop of no turns too, and there is no block to take
            step = lambda carry, i, number=number: (one(carry, number, i), None)
            carry, _ = jax.lax.scan(step, carry, jnp.arange(leaf.shape[0], dtype=jnp.int32))
    return carry


def _moved(
    prox: Callable, number: int, i: Array | None, y: Tree, gradient: Tree, theta: Tree, s: Array
) -> Tree:
    """`y` after the step of one block."""
    block, slope = (_block(jax.tree.leaves(each)[number], i) for each in (y, gradient))
    return _put(y, number, i, prox(gradient_step(block, slope, s), theta, s))


def _block(leaf: Array, i: Array | None) -> Array:
    return leaf if i is None else jax.lax.dynamic_index_in_dim(leaf, i, keepdims=False)


def _put(y: Tree, number: int, i: Array | None, block: Array) -> Tree:
    leaves, structure = jax.tree.flatten(y)
    whole = leaves[number]
    leaves[number] = block if i is None else jax.lax.dynamic_update_index_in_dim(whole, block, i, 0)
    return jax.tree.unflatten(structure, leaves)
