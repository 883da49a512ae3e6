"""Several seeds in one program: `seeds: 5` runs the seeds `seed` to `seed + 4` of a config.

The experiment is built once for each seed. Arrays that its functions close over (a split of the data,
corrupted labels) may differ from seed to seed, and become arguments of one program. Seeds whose programs
differ are refused.

On a CPU each seed's step is a call of its own, and the calls share the cores. If seeds differ only in their
key, that is the program of their single runs, and gives the same bits. On accelerators all seeds run at once
by `jax.vmap`, over all devices. Batched operations add up in another order, so their numbers agree with
single runs only within rounding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from toolkit.jaxprs.constants import constants, evaluate_with, literals
from toolkit.run.experiment.common import Settings, every_seed
from toolkit.run.experiment.errors import Exit, fail
from toolkit.run.experiment.interface import Final, Gradients, Program
from toolkit.run.program.means import estimate, written
from toolkit.run.program.seeds_on_cores import Each, Shared, by_seed, keys

ALIKE = "each by the program of a single run: equal to single runs to the bit"
OWN_DATA = "each with data of its own: equal to single runs within rounding, not to the bit"
AT_ONCE = "by vmap: equal to single runs within rounding, not to the bit"
# Operations by which a program spreads its own work over devices; then the seeds are not spread as well.
PLACED = ("shard_map", "sharding_constraint")
_ADDRESS = re.compile(r"0x[0-9a-f]+")  # of a rule's function, in the text of a jaxpr


def together(build: Callable[[Any], Program], settings: Settings) -> Program:
    """One program of all seeds.

    Each leaf of its state has a leading seed axis. Each metric is there once for each seed, as `loss[3]`.

    Raises: RunError (exit 2) where the experiment computes something else for another seed, not only from
        other data.
    """
    if settings.diagnostics.gradients_every > 0:
        expected = "0, or seeds: 1; gradients are reported of single runs"
        got = str(settings.diagnostics.gradients_every)
        raise fail(
            Exit.CONFIG, "config", "diagnostics.gradients_every: not with seeds", got, expected
        )
    seeds = tuple(every_seed(settings))
    programs = [build(settings.model_copy(update={"seed": seed, "seeds": 1})) for seed in seeds]
    if getattr(programs[0], "takes_fraction", False):
        expected = "a program without it, or seeds: 1"
        got = "a program that takes the fraction used of its budget"
        raise fail(Exit.CONFIG, "config", "seeds: not with a schedule by budget", got, expected)
    example = jax.random.key(0)
    init: Callable[[Any], Any]
    step: Callable[[Any], Any]
    start = _shared([p.init for p in programs], example, "init")
    template = jax.eval_shape(programs[0].init, example)
    advance = _shared([_scalars(p.step) for p in programs], template, "step")
    if on_cores():
        each = Each(seeds, start, advance)
        init, step = each.init, each
    else:
        init, step = _at_once(seeds, start, advance)

    def finish(states: Any) -> Final:
        ends = [p.finish(_of(states, i)) for i, p in enumerate(programs)]
        return _joined(dict(zip(seeds, ends, strict=True)))

    def losses(states: Any) -> Any:
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), states)
        return programs[0].losses(one) if programs[0].losses else {}

    data = {
        f"{name}[{seed}]": tree
        for seed, program in zip(seeds, programs, strict=True)
        for name, tree in program.data.items()
    }
    return Program(init, step, finish, losses if programs[0].losses else None, data=data)


def on_cores() -> bool:
    """Whether each seed is a call of its own. Not if XLA_FLAGS split the CPU into devices: the seeds use these."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def bits(program: Program) -> str:
    """How the numbers of a program of many seeds relate to those of single runs."""
    if not isinstance(program.step, Each):
        return AT_ONCE
    return ALIKE if program.step.alike else OWN_DATA


def _at_once(
    seeds: tuple[int, ...], start: Shared, advance: Shared
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """`init` and `step` by vmap."""
    begin, proceed = _vmapped(start, len(seeds)), _vmapped(advance, len(seeds))

    def step(states: Any) -> tuple[Any, dict[str, Any]]:
        states, metrics = proceed(states)
        return states, by_seed(seeds, lambda i: {k: v[i] for k, v in metrics.items()})

    return lambda _: begin(keys(seeds)), step


def _scalars(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def without_gradients(state: Any) -> Any:
        state, metrics = step(state)
        return state, {k: v for k, v in metrics.items() if not isinstance(v, Gradients)}

    return without_gradients


def _shared(functions: Sequence[Callable[[Any], Any]], example: Any, name: str) -> Shared:
    """The functions as one. Constants in which they differ become arguments; without any it is the first."""
    # Two jaxprs are the same program if their texts agree and so do the arrays inside them that cannot become
    # arguments (the text shows these shortened). What they close over outside, the constants, may differ.
    traced = [jax.make_jaxpr(function, return_shape=True)(example) for function in functions]
    first, shape = traced[0]
    texts = [_text(jaxpr) for jaxpr, _ in traced]
    inner = [[_bytes(value) for value in literals(jaxpr.jaxpr)] for jaxpr, _ in traced]
    if any(text != texts[0] for text in texts) or any(values != inner[0] for values in inner):
        expected = "the same program on other data; run the seeds as a sweep instead"
        raise fail(
            Exit.CONFIG, "config", f"seeds: {name} depends on the seed", "another program", expected
        )
    # Constants that are equal for all seeds stay what they are; the others are stacked, a row for each seed.
    columns = list(zip(*(constants(jaxpr) for jaxpr, _ in traced), strict=True))
    alike = [len({_bytes(value) for value in column}) == 1 for column in columns]
    placed = any(word in texts[0] for word in PLACED)
    if all(alike):
        return Shared(lambda own, argument: functions[0](argument), [], placed)

    def call(own: list[Any], argument: Any) -> Any:
        pending = iter(own)
        consts = [c[0] if same else next(pending) for c, same in zip(columns, alike, strict=True)]
        flat = evaluate_with(first, consts, jax.tree.leaves(argument))
        return jax.tree.unflatten(jax.tree.structure(shape), flat)

    own = [jnp.stack(c) for c, same in zip(columns, alike, strict=True) if not same]
    return Shared(call, own, placed)


def _vmapped(shared: Shared, seeds: int) -> Callable[[Any], Any]:
    """All seeds at once: equal shares of them on each device, the last one again where they do not divide."""
    batched = jax.vmap(shared.call)
    devices = jax.devices()[:seeds]
    if len(devices) == 1 or shared.placed:
        return lambda arguments: batched(shared.own, arguments)
    mesh = jax.make_mesh((len(devices),), ("seeds",), (AxisType.Auto,), devices=devices)
    over = PartitionSpec("seeds")
    # Seeds exchange nothing, so there is nothing for `check_vma` to find. With it, jax would refuse loops
    # whose carry starts as a constant, the same on every device, and ends as a value of each device.
    spread = jax.shard_map(batched, mesh=mesh, in_specs=over, out_specs=over, check_vma=False)
    if seeds % len(devices) == 0:
        return lambda arguments: spread(shared.own, arguments)
    # The share of each device has to be the same, so the last seed is computed again until they divide.
    padded = np.minimum(np.arange(-(-seeds // len(devices)) * len(devices)), seeds - 1)

    def run(arguments: Any) -> Any:
        given = jax.tree.map(lambda leaf: leaf[padded], (shared.own, arguments))
        return jax.tree.map(lambda leaf: leaf[:seeds], spread(*given))

    return run


def _text(jaxpr: Any) -> str:
    """The program without its outermost constants, whose values are arguments, and without addresses in memory."""
    return _ADDRESS.sub("", str(jaxpr.jaxpr))


def _bytes(value: Any) -> tuple[Any, ...]:
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    return array.shape, str(array.dtype), array.tobytes()


def _of(states: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], states)


def _joined(ends: dict[int, Final]) -> Final:
    """The parameters of every seed; the metrics of every seed, and their means, which claims are about."""
    names = list(dict.fromkeys(name for end in ends.values() for name in end.metrics))
    clash = next((m for name in names for s in ends if (m := f"{name}[{s}]") in names), None)
    if clash is not None:
        raise ValueError(f"the metric {clash!r} has the name of a metric of one seed")
    metrics: dict[str, float] = {}
    table: list[tuple[str, str]] = []
    for name in names:
        values = [
            float(np.asarray(end.metrics[name])) for end in ends.values() if name in end.metrics
        ]
        found = estimate(values)
        if found is not None:
            metrics[name] = found.mean
            table.append((name, f"{written(found)} over {found.n} seeds"))
    for name in names:
        metrics |= {
            f"{name}[{s}]": end.metrics[name] for s, end in ends.items() if name in end.metrics
        }
    params = {f"seed={seed}": end.params for seed, end in ends.items()}
    return Final(params, metrics, tuple(table))
