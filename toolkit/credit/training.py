"""`train`: a rule and an optimizer as one pair `(init, step)`; `epoch`: a pass over the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit.credit.passes import Batch, Info, LearningRule, Loss
from toolkit.errors.readable import readable
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.optimizers import Optimizer, built
from toolkit.settings import require
from toolkit.types import Tree
from toolkit.vocabulary.roles import Rule


class TrainState(NamedTuple):
    """All that is carried from one step to the next."""

    params: Tree
    rule: Any
    optimizer: Any
    step: Array  # [] int32, steps made


@readable
def train(
    model: Any, loss: Loss, rule: LearningRule, optimizer: Any
) -> tuple[Callable[..., TrainState], Callable[..., tuple[TrainState, Info]]]:
    """Training by a rule, as `(init, step)`; both pure, for `jit`, `vmap` over seeds, `scan` over batches.

        init, step = tk.credit.train(model, loss, tk.credit.DualPropagation(), optax.adam(1e-3))
        state = init(key, params, batch)
        state, info = step(state, batch, key)

    Args:
      model: of `tk.credit.layered`, or an energy for the rules that relax.
      loss: `(output [B, ...], target) -> [B]`; the rule takes the mean.
      rule: one of `tk.credit`, or any callable `(model, loss) -> (init, gradients)`.
      optimizer: an optax transformation, or one of `tk.optimizers`.

    Raises:
      TypeError: `rule` or `optimizer` is none, such as a class in place of an instance.
      ValueError: from the rule, for a model or a loss that it cannot train.
    """
    require("rule", rule, Rule)
    require("optimizer", optimizer, Optimizer)
    rule_init, gradients = rule(model, loss)
    optimizer = built(optimizer)

    @readable
    def init(key: Array, params: Tree, batch: Batch) -> TrainState:
        own = rule_init(key, params, batch)
        state = TrainState(params, own, optimizer.init(params), jnp.zeros((), jnp.int32))
        # Inside `jax.shard_map` a step makes the parameters differ between devices as the batch does.
        return vary(state, varying_axes((key, params, batch)))

    @readable
    def step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Info]:
        gradient, rule_state, info = gradients(state.params, state.rule, batch, key)
        updates, moments = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, rule_state, moments, state.step + 1), info

    return init, step


@readable
def epoch(
    step: Callable[..., tuple[TrainState, Info]],
    state: TrainState,
    data: Batch,
    batch_size: int,
    key: Array,
) -> tuple[TrainState, Info]:
    """One pass over the data in a fresh order, as one `scan`; pure, for `jit` and `vmap` over seeds.

        state, info = tk.credit.epoch(step, state, (x, target), 50, key)

    Args:
      step: of `train`.
      data: `(x, target)`, all examples, leaves `[N, ...]`.
      batch_size: `B`. Examples beyond a multiple of it are left out of this pass; the next draws others.
      key: for the order and for the rule, which gets a key of its own each step.

    Returns: the state, and `Info` with leaves `[N // B]`.

    Raises:
      ValueError: `batch_size` is no int from 1 to N.
    """
    x, _ = data
    size = len(x)
    if (
        isinstance(batch_size, bool)
        or not isinstance(batch_size, int)
        or batch_size not in range(1, size + 1)
    ):
        raise ValueError(
            f"`batch_size` must be an int from 1 to {size}, the number of examples: got {batch_size!r}."
        )
    order_key, rule_key = jax.random.split(key)
    count = size // batch_size
    order = jax.random.permutation(order_key, size)[: count * batch_size]

    def one(state: TrainState, drawn: tuple[Array, Array]) -> tuple[TrainState, Info]:
        rows, step_key = drawn
        return step(state, jax.tree.map(lambda leaf: leaf[rows], data), step_key)

    draws = (order.reshape(count, batch_size), jax.random.split(rule_key, count))
    return jax.lax.scan(one, state, draws)
