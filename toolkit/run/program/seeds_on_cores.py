"""Many seeds on the cores of a CPU: the program of a single run, compiled once and called for each seed.

As many threads as there are cores call it. A core that is done takes the next seed, so the number of seeds
need not be a multiple of the cores. The calls share no data, so neither the number of threads nor their
timing changes a bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from toolkit import tree
from toolkit.run.program.compiled import (
    CompiledProgram,
    TracedProgram,
    compile_for_data,
    compile_one,
    trace,
)
from toolkit.run.program.data import DrivenProgram
from toolkit.run.program.steps import Made


class SeedData(NamedTuple):
    """What a seed's program is handed besides its state. Seeds have some of these arrays in common.

    With several seeds in one tree, an array of each seed's own has a leading seed axis.
    """

    init: list[Any]  # arrays that `init` closes over, of each seed's own
    step: list[Any]  # likewise `step`
    data: list[Any]  # the leaves of the program's data


class Shared(NamedTuple):
    """A function that all seeds have in common, up to the arrays that it is handed."""

    call: Callable[[SeedData, Any], Any]  # of a seed's arrays, and the argument
    own: list[list[Any]]  # for each seed the arrays of its own that the function closes over
    placed: bool  # whether it spreads its own work over devices


def joined(each: Sequence[SeedData], own: SeedData) -> SeedData:
    """The arrays of all seeds in one tree: stacked those of each seed's `own`, the others once."""
    stack = lambda one, *leaves: jnp.stack(leaves) if one else leaves[0]
    return jax.tree.map(stack, own, *each)


@dataclass(frozen=True)
class Each:
    """A `step` of stacked states, one seed after another.

    As a function it is a loop over the seeds, which serves shapes, checks and explanations. A run calls what
    `compile_each` makes of it: the program of a single seed, from several threads.
    """

    seeds: tuple[int, ...]
    start: Shared  # `init`, of a key
    advance: Shared  # `step`, of a state
    own: SeedData  # bools: which arrays are each seed's own

    def __call__(self, states: Any, data: Sequence[SeedData]) -> tuple[Any, dict[str, Any]]:
        states, metrics = self._mapped(self.advance, states, data)
        return states, by_seed(self.seeds, lambda i: {k: v[i] for k, v in metrics.items()})

    def init(self, _: jax.Array, data: Sequence[SeedData]) -> Any:
        """The stacked states; the key is not used, each seed has its own."""
        return self._mapped(self.start, keys(self.seeds), data)

    @property
    def alike(self) -> bool:
        """Whether the seeds' functions are the same: then the program is that of their single runs."""
        return not any(self.start.own) and not any(self.advance.own)

    def _mapped(self, shared: Shared, arguments: Any, data: Sequence[SeedData]) -> Any:
        own, common = tree.select(joined(data, self.own), self.own)
        call = lambda given: shared.call(tree.merge(given[0], common), given[1])
        return jax.lax.map(call, (own, arguments))


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
    data, count = traced.program.data, range(len(each.seeds))
    single = DrivenProgram(
        lambda key, own: each.start.call(own, key),
        lambda state, own: each.advance.call(own, state),
        traced.program.finish,
        None,
        data[0],
    )
    one = compile_for_data(trace(single, traced.seed, source), source)
    stack = jax.jit(lambda states: jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
    join = stack.lower([one.template for _ in count]).compile()
    template = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        traced.template,
        join.output_shardings,
    )
    split = jax.jit(lambda states: [_at(states, i) for i in count]).lower(template).compile()
    call, given = _on_cores(len(each.seeds)), keys(each.seeds)
    # The stacked states that were made last, and their parts. The next call is nearly always given just
    # these, and then nothing has to be split again.
    known: list[Any] = [None, []]

    def start() -> Any:
        return join([one.init(given[i], data[i]) for i in count])

    def advance(states: Any, rows: Any, every: Any) -> Made:
        parts = known[1] if known[0] is states else split(states)
        # The calls reuse the memory of the parts (they are donated), so `known` must not keep these.
        known[:] = None, []
        made = call(lambda i: one.advance(parts[i], rows, every, data=data[i]))
        parts = [of.state for of in made]
        known[:] = join(parts), parts
        values = by_seed(each.seeds, lambda i: made[i].values)
        found = np.any([np.asarray(of.found) for of in made], axis=0)
        return Made(known[0], values, found, {})

    return one._replace(init=start, advance=advance, template=template)


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


def _at(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
