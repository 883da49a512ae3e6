"""SABA: SOBA with the variance reduction of SAGA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit.bilevel.parts import data_blocks
from toolkit.bilevel.parts.direction_triple import along, triple
from toolkit.bilevel.parts.method_settings import Rate, TwoOptimizers
from toolkit.bilevel.parts.oracles import curved, outer_slopes, zeros_like
from toolkit.bilevel.parts.problem import Algorithm, Info, Problem, info
from toolkit.bilevel.parts.state import LinearState, algorithm, moves_of, split_key
from toolkit.settings import settings
from toolkit.types import Tree


class SagaTable(NamedTuple):
    """The terms of one loss on each block, as of when it was last drawn, and their weighted mean."""

    rows: Tree  # [blocks, ...]
    mean: Tree


class SagaTables(NamedTuple):
    """The tables of both losses."""

    inner: SagaTable  # rows are `Curved`
    outer: SagaTable  # rows are `Slopes`


@settings("saba")
class SABA(TwoOptimizers):
    """Stochastic average bilevel algorithm: SOBA's three steps with a memory of every block.

    The data is cut into blocks of `batch_size` successive examples; a step draws one block i of the inner
    and one of the outer data. Let n be the number of blocks and w_i the share of the examples that block
    i has. For each of the five terms s (grad_y g, d2_yy g v, d2_thetay g v, grad_y f, grad_theta f),
    `M_i` is its value when block i was last drawn, and `mean = sum w_i M_i`. The step uses

        n w_i (s_i - M_i) + mean;     then  mean <- mean + w_i (s_i - M_i),  M_i <- s_i

    in place of s, and y, v and theta move as in SOBA. The mean of the direction over the blocks is the
    full-batch direction, whatever the tables hold; its variance goes to 0 at the solution, so that
    constant steps arrive at the exact minimiser. (Blocks of unequal size without `n w_i` are biased.)

    Args:
      inner_step_size: a; a number or an optax schedule. Constant in theory.
      outer_step_size: c; likewise.
      batch_size: examples a block; None takes all, and is full-batch SOBA.
      linear_step_size: b; None takes a.
      full_start: fill the memory at the start by one pass over the data; else it is zero.
      inner_optimizer, outer_optimizer: optax transformations in place of a and c.

    Cost: a step takes 1 inner and 1 outer gradient, and 1 product each with d2_yy and d2_thetay, from
    one linearisation. Memory: two inner and one outer variable for each inner block, one of each for
    each outer block; a jitted step updates it in place if its state is donated (`donate_argnums=0`; the
    state holds copies, so that y0, theta0 and the key remain).

    Rate: E|grad F|^2 below eps in O((n + m)^(2/3) / eps) steps of constant size; linear where F is
    Polyak-Lojasiewicz.

    Source: Dagreou, Ablin, Vaiter & Moreau 2022, section 3.2.
    """

    linear_step_size: Rate | None = None
    full_start: bool = False

    def __call__(self, problem: Problem) -> Algorithm:
        """The method on a problem."""
        moves = moves_of(self, problem)
        size = self.batch_size
        inner_weights = data_blocks.weights(problem.inner_data, size)
        outer_weights = data_blocks.weights(problem.outer_data, size)

        def of_inner(y: Tree, theta: Tree, v: Tree, i: Array) -> Any:
            term = lambda block: curved(problem, y, theta, v, block)
            return data_blocks.on_block(term, problem.inner_data, size, i)

        def of_outer(y: Tree, theta: Tree, i: Array) -> Any:
            term = lambda block: outer_slopes(problem, y, theta, block)
            return data_blocks.on_block(term, problem.outer_data, size, i)

        def start(y0: Tree, theta0: Tree) -> SagaTables:
            inside = lambda i: of_inner(y0, theta0, zeros_like(y0), i)
            outside = lambda i: of_outer(y0, theta0, i)
            return SagaTables(
                _table(inside, inner_weights, self.full_start),
                _table(outside, outer_weights, self.full_start),
            )

        def step(s: LinearState) -> tuple[LinearState, Info]:
            _require_table("inner", s.memory.inner, inner_weights)
            _require_table("outer", s.memory.outer, outer_weights)
            inner_key, outer_key = split_key(s, 2)
            i = jax.random.randint(inner_key, (), 0, len(inner_weights))
            j = jax.random.randint(outer_key, (), 0, len(outer_weights))
            new_g, new_f = of_inner(s.y, s.theta, s.v, i), of_outer(s.y, s.theta, j)
            g, inner = _averaged(s.memory.inner, new_g, i, inner_weights)
            f, outer = _averaged(s.memory.outer, new_f, j, outer_weights)
            direction = triple(g, f)
            said = info(new_g.loss, new_f.loss, direction.theta, gradients=2, hvps=2)
            return along(moves, s, direction)._replace(memory=SagaTables(inner, outer)), said

        return algorithm(self, problem, moves, step, linear=True, memory=start)


def _table(term: Callable[[Array], Tree], weights: Array, full: bool) -> SagaTable:
    indices = jnp.arange(len(weights))
    if full:
        rows = jax.lax.map(term, indices)
    else:
        shapes = jax.eval_shape(term, indices[0])
        zeros = lambda leaf: jnp.zeros((len(weights), *leaf.shape), leaf.dtype)
        rows = jax.tree.map(zeros, shapes)
    mean = lambda leaf: jnp.tensordot(weights.astype(leaf.dtype), leaf, 1)
    return SagaTable(rows, jax.tree.map(mean, rows))


def _require_table(name: str, table: SagaTable, weights: Array) -> None:
    """Refuse a state made on data of another size: a row that is not there would be read as the last one."""
    (rows,) = {jnp.shape(leaf)[0] for leaf in jax.tree.leaves(table.rows)}
    if rows != len(weights):
        raise ValueError(
            f"`data` must be those that `init` had: the state has {rows} blocks of {name} data, these are "
            f"{len(weights)}."
        )


def _averaged(table: SagaTable, new: Any, i: Array, weights: Array) -> tuple[Any, SagaTable]:
    """(estimate of the term on the whole data, the table with `new` in row i).

    The expectation of `n w_i (s_i - M_i) + mean` over a uniform i is `sum w_i s_i - sum w_i M_i + mean`.
    The last two cancel, so that the estimate has no bias; its variance vanishes as the M_i near the s_i.
    """
    old = _row(table.rows, i)
    change = jax.tree.map(jnp.subtract, new, old)
    # The mean follows by the change of one row: to average all rows anew would read the whole table.
    scaled = lambda by: jax.tree.map(lambda m, c: (m + by * c).astype(m.dtype), table.mean, change)
    # Adding row - row (0) makes the write depend on the read, so XLA updates the table in place instead
    # of copying it. Where the row is not finite this writes NaN, but then the mean is not finite either.
    put = lambda rows, leaf, row: jax.lax.dynamic_update_index_in_dim(
        rows, leaf + (row - row), i, 0
    )
    rows = jax.tree.map(put, table.rows, new, old)
    # Unlike (Dagreou et al. 2022, section 3.2): the factor n w_i. Blocks are drawn uniformly, but a
    # smaller last block has a smaller share of the mean; without the factor it would count too much.
    return scaled(len(weights) * weights[i]), SagaTable(rows, scaled(weights[i]))


def _row(rows: Tree, i: Array) -> Tree:
    """Row i of each leaf, read before the table is written.

    XLA is free to move a read to where its value is used. Moved behind the write of row i it would need
    the old table, of which XLA then keeps a whole copy in every step. What a branch of a `cond` computes
    is not moved out of it; the condition always holds, which the compiler cannot know.
    """
    read = lambda: jax.tree.map(lambda leaf: leaf[i], rows)
    nothing = lambda: jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), rows)
    return jax.lax.cond(i >= 0, read, nothing)
