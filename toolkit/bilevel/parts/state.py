"""The state that methods carry from step to step, and how a step becomes an `Algorithm`."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.array_arguments import require_key
from toolkit.bilevel.parts.devices import state_axes
from toolkit.bilevel.parts.movers import Mover, at, mover
from toolkit.bilevel.parts.oracles import rules_of_inner, zeros_like
from toolkit.bilevel.parts.problem import Algorithm, Info, Problem, with_data
from toolkit.errors.readable import readable, returned_by
from toolkit.jaxprs.varying_axes import vary
from toolkit.leaves.module_variables import call_unchanged
from toolkit.types import Tree


class State(NamedTuple):
    """All that a step needs."""

    y: Tree
    theta: Tree
    step: Array  # [] int32, steps made
    key: Array
    inner_optimizer: Any
    outer_optimizer: Any
    memory: Any  # what the method carries besides: a NamedTuple of its own, or None


class LinearState(NamedTuple):
    """All that a step needs, of a method that keeps the solution of its linear system."""

    y: Tree
    theta: Tree
    v: Tree  # near H^{-1} grad_y outer
    step: Array
    key: Array
    inner_optimizer: Any
    outer_optimizer: Any
    memory: Any


class Moves(NamedTuple):
    """How the variables of a state move down a direction; each move changes its own fields only."""

    inner: Mover
    outer: Mover
    linear_step_size: Any

    def y(self, s: Any, direction: Tree) -> Any:
        """One inner step."""
        y, optimizer = self.inner.move(s.y, direction, s.inner_optimizer, s.step)
        return s._replace(y=y, inner_optimizer=optimizer)

    def theta(self, s: Any, direction: Tree) -> Any:
        """One outer step."""
        theta, optimizer = self.outer.move(s.theta, direction, s.outer_optimizer, s.step)
        return s._replace(theta=theta, outer_optimizer=optimizer)

    def v(self, s: LinearState, residual: Tree) -> LinearState:
        """One step on the linear system."""
        return s._replace(v=tree.add_scaled(s.v, -at(self.linear_step_size, s.step), residual))


def moves_of(settings: Any, problem: Problem) -> Moves:
    """How the variables move by the step sizes and the optimizers of a method's settings.

    Raises:
      TypeError: `problem` is no `Problem`.
    """
    if not isinstance(problem, Problem):
        raise TypeError(
            f"`problem` must be a tk.bilevel.Problem(inner, outer, ...): got {reprlib.repr(problem)}."
        )
    linear = getattr(settings, "linear_step_size", None)
    return Moves(
        mover(settings.inner_step_size, getattr(settings, "inner_optimizer", None)),
        mover(settings.outer_step_size, settings.outer_optimizer),
        settings.inner_step_size if linear is None else linear,
    )


def algorithm(
    settings: Any,
    problem: Problem,
    moves: Moves,
    step: Callable[[Any], tuple[Any, Info]],
    *,
    name: str | None = None,
    linear: bool = False,
    memory: Callable[[Tree, Tree], Any] = lambda y0, theta0: None,
    symmetric: str = "",
) -> Algorithm:
    """`(init, step)` of a method, from its step on a state; the steps are counted here.

    Args:
      settings: the method itself; called again on the problem with other data where `data` are given.
      problem: the problem; its losses are checked when a state is made.
      moves: how the variables move; the state starts with the states of their optimizers.
      step: `state -> (state, info)`, without counting.
      name: the step's name in messages and compiled programs; None takes that of the settings' class.
      linear: whether the state has a `v`, zero at first.
      memory: `(y0, theta0) -> ` the first memory.
      symmetric: what to use instead where the second derivatives of `inner` do not commute; "" for a
        method that only pulls back through its gradient, and needs no symmetry.
    """

    def on(data: Any) -> Algorithm:
        return settings(with_data(problem, data))

    @readable
    def init(key: Array, y0: Tree, theta0: Tree, data: Any = None) -> Any:
        if data is not None:
            return on(data).init(key, y0, theta0)
        require_key("key", key)
        _require_real("y0", y0)
        _require_real("theta0", theta0)
        _require_scalars(problem, y0, theta0)
        if symmetric:
            _require_true_gradient(counted.__name__, problem, y0, theta0, symmetric)
        # Python numbers are weakly typed to JAX, and a step would return them strongly typed: a loop over
        # steps refuses a state that changes its type.
        y0, theta0 = _typed(y0), _typed(theta0)
        variables = {"y": y0, "theta": theta0} | ({"v": zeros_like(y0)} if linear else {})
        state = (LinearState if linear else State)(
            **variables,
            step=jnp.asarray(0, jnp.int32),
            key=key,
            inner_optimizer=moves.inner.init(y0),
            outer_optimizer=moves.outer.init(theta0),
            memory=memory(y0, theta0),
        )
        # In `shard_map` a type says along which axes a value differs between devices. A step makes the whole
        # state differ along the axes of the losses, and a loop refuses a state that changes its type: the
        # state is marked so from the start.
        state = vary(state, state_axes(problem, key, y0, theta0))
        # A step may be compiled to overwrite its state (`donate_argnums=0`). Were a leaf the caller's own
        # array, or one array two leaves, that would destroy what is still needed: each leaf is a copy.
        return jax.tree.map(lambda leaf: jnp.copy(leaf) if isinstance(leaf, Array) else leaf, state)

    @readable
    def counted(s: Any, data: Any = None) -> tuple[Any, Info]:
        if data is not None:
            return on(data).step(s)
        new, said = step(s)
        return new._replace(step=s.step + 1), said

    counted.__name__ = name or type(settings).__name__
    return Algorithm(init, counted)


def _typed(start: Tree) -> Tree:
    """`start` with strongly typed arrays for its floating leaves."""
    inexact, *others = tree.parts(start)
    return tree.whole(tree.strong(inexact), *others)


def split_key(s: Any, count: int) -> Array:
    """`count` keys of this step, one for each role, so that the roles draw independently.

    They are made of the first key and the step, and the state's key stays: a step that is taken again,
    from a checkpoint or at another point, draws the same.
    """
    return jax.random.split(jax.random.fold_in(s.key, s.step), count)


def _require_real(name: str, start: Tree) -> None:
    leaves = jax.tree.leaves(tree.parts(start).inexact)
    if not leaves or any(map(jnp.iscomplexobj, leaves)):
        raise ValueError(
            f"`{name}` must have floating leaves to move and no complex ones: got "
            f"{tree.describe(start)}; carry a complex array as its real and imaginary part."
        )


def _require_true_gradient(
    name: str, problem: Problem, y0: Tree, theta0: Tree, instead: str
) -> None:
    """Refuse an `inner` whose gradient may be that of no function."""
    if own := rules_of_inner(problem, y0, theta0, problem.inner_data).own:
        raise ValueError(
            f"`inner` must have a true gradient under {name}, which takes its second derivatives for "
            f"symmetric: it calls {own}, whose derivative rule is its own; use {instead}."
        )


def _require_scalars(problem: Problem, y0: Tree, theta0: Tree) -> None:
    """Refuse losses that are no real scalar; traced on all of the data, nothing is run."""
    for name in ("inner", "outer"):
        data = getattr(problem, f"{name}_data")
        parts = tree.parts(y0), tree.parts(theta0), tree.parts(data)

        def loss(*arrays: Any, name: str = name, parts: Any = parts) -> Any:
            whole = [tree.whole(*own, part[2]) for own, part in zip(arrays, parts, strict=True)]
            return call_unchanged(name, getattr(problem, name), *whole)

        value = jax.eval_shape(loss, *(part[:2] for part in parts))
        if not (hasattr(value, "dtype") and value.shape == () and jnp.isrealobj(value)):
            raise returned_by(
                getattr(problem, name),
                ValueError(
                    f"`{name}` must return a real scalar, the mean loss of the batch: got "
                    f"{tree.describe(value)}."
                ),
            )
