"""Many seeds on the cores of a CPU: the program of a single run, compiled once and called for each seed.

As many threads as there are cores call it. A core that is done takes the next seed, so the number of seeds
need not be a multiple of the cores. The calls share no data, so neither the number of threads nor their
timing changes a bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from toolkit.debug.nonfinite.checks import can_fail
from toolkit.run.experiment.interface import Program
from toolkit.run.program.compiled import CompiledProgram, TracedProgram, compile_one, trace
from toolkit.run.program.steps import Made


class Shared(NamedTuple):
    """A function that all seeds have in common, up to arrays that are each seed's own."""

    call: Callable[[Any, Any], Any]  # of a seed's own arrays, and the argument
    own: list[Any]  # the arrays of every seed, stacked; none where seeds differ in their key alone
    placed: bool  # whether it spreads its own work over devices


@dataclass(frozen=True)
class Each:
    """A `step` of stacked states, one seed after another.

    As a function it is a loop over the seeds, which serves shapes, checks and explanations. A run calls what
    `compile_each` makes of it: the program of a single seed, from several threads.
    """

    seeds: tuple[int, ...]
    start: Shared  # `init`, of a key
    advance: Shared  # `step`, of a state

    def __call__(self, states: Any) -> tuple[Any, dict[str, Any]]:
        states, metrics = _mapped(self.advance, states)
        return states, by_seed(self.seeds, lambda i: {k: v[i] for k, v in metrics.items()})

    def init(self, _: jax.Array) -> Any:
        """The stacked states; the key is not used, each seed has its own."""
        return _mapped(self.start, keys(self.seeds))

    @property
    def alike(self) -> bool:
        """Whether the seeds differ in their key alone: then the program is that of their single runs."""
        return not self.start.own and not self.advance.own


class _Owned(NamedTuple):
    """The state of one seed and its own arrays, which a step returns unchanged.

    A step donates its argument: arrays that it did not return would be lost after the first call.
    """

    own: Any
    state: Any


def keys(seeds: tuple[int, ...]) -> jax.Array:
    """The key that a single run of each seed starts from."""
    return jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))


def by_seed(seeds: tuple[int, ...], of: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """The metrics `of(i)` of the i-th seed as `loss[3]`, those of one name together."""
    found = [of(i) for i in range(len(seeds))]
    return {
        f"{name}[{seed}]": metrics[name]
        for name in found[0]
        for seed, metrics in zip(seeds, found, strict=True)
    }


def compile_program(traced: TracedProgram, source: Path) -> CompiledProgram:
    """The executables of a run: one program, or one that is called for each of its seeds."""
    each = isinstance(traced.program.step, Each)
    return compile_each(traced, source) if each else compile_one(traced, source)


def compile_each(traced: TracedProgram, source: Path) -> CompiledProgram:
    """The program of a single seed, called for each on the cores; for a program whose step is an `Each`."""
    each: Any = traced.program.step
    init, like = _init(each)
    single = Program(lambda _: _zeros(like), _single(each.advance), traced.program.finish)
    one = compile_one(trace(single, traced.seed, source), source)
    count = range(len(each.seeds))
    stack = jax.jit(lambda states: jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
    join = stack.lower([one.template.state for _ in count]).compile()
    template = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        traced.template,
        join.output_shardings,
    )
    split = jax.jit(lambda states: [_at(states, i) for i in count]).lower(template).compile()
    call = _on_cores(len(each.seeds))
    # A part begins with the seed's own arrays, which never change. The runner watches the leaves of the state
    # alone, so what the program found in the first `own_leaves` that can be NaN is left out below.
    own_leaves = sum(map(can_fail, each.advance.own))
    # The stacked states that were made last, and their parts. The next call is nearly always given just
    # these, and then nothing has to be split again.
    known: list[Any] = [None, []]

    def start() -> Any:
        return join([init(i) for i in count])

    def advance(states: Any, rows: Any, every: Any) -> Made:
        if known[0] is states:
            parts = known[1]
        else:
            own = [_at(each.advance.own, i) for i in count]
            parts = [_Owned(*pair) for pair in zip(own, split(states), strict=True)]
        # The calls reuse the memory of the parts (they are donated), so `known` must not keep these.
        known[:] = None, []
        made = call(lambda i: one.advance(parts[i], rows, every))
        parts = [of.state for of in made]
        known[:] = join([part.state for part in parts]), parts
        values = by_seed(each.seeds, lambda i: made[i].values)
        found = np.any([np.asarray(of.found)[:, own_leaves:] for of in made], axis=0)
        return Made(known[0], values, found, {})

    return one._replace(init=start, advance=advance, template=template)


def _init(each: Each) -> tuple[Callable[[int], Any], _Owned]:
    """The executable that starts the i-th seed, and the shapes of what a step is given."""
    given, own = keys(each.seeds), [_at(each.start.own, i) for i in range(len(each.seeds))]
    init = jax.jit(each.start.call).lower(own[0], given[0]).compile()
    like = jax.eval_shape(each.start.call, own[0], given[0])
    return lambda i: init(own[i], given[i]), _Owned(_at(each.advance.own, 0), like)


def _on_cores(count: int) -> Callable[[Callable[[int], Any]], list[Any]]:
    """A map over `range(count)` on all cores, for functions that release Python's lock.

    The calling thread works, too.
    """
    helpers = min(count, _cores()) - 1
    pool = ThreadPoolExecutor(helpers, "seed") if helpers else None

    def map_(function: Callable[[int], Any]) -> list[Any]:
        results: list[Any] = [None] * count
        # All threads take from one iterator. Under Python's lock no two of them get the same index.
        waiting = iter(range(count))

        def work() -> None:
            for i in waiting:
                results[i] = jax.block_until_ready(function(i))

        others = [pool.submit(work) for _ in range(helpers)] if pool else []
        work()
        for other in others:
            other.result()
        return results

    return map_


def _single(advance: Shared) -> Callable[[_Owned], Any]:
    def step(given: _Owned) -> tuple[_Owned, dict[str, Any]]:
        state, metrics = advance.call(given.own, given.state)
        return _Owned(given.own, state), metrics

    return step


def _mapped(shared: Shared, arguments: Any) -> Any:
    return jax.lax.map(lambda given: shared.call(*given), (shared.own, arguments))


def _zeros(tree: Any) -> Any:
    """Zeros in place of the state that `init` makes, where only its shapes and its device matter.

    The real `init` is compiled in `_init`, and should not be compiled twice.
    """
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)


def _at(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
