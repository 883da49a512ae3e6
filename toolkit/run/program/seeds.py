"""Several seeds in one program: `seeds: 5` runs the seeds `seed` to `seed + 4` of a config.

The experiment is built once for each seed. Its data (a split, corrupted labels) may differ from seed to seed.
What is the same for all seeds is kept once. Arrays that the functions close over may differ, too, and become
arguments of one program. Seeds whose programs differ are refused.

On a CPU each seed's step is a call of its own, and the calls share the cores. If seeds differ only in their
key and their data, that is the program of their single runs, and gives the same bits. On accelerators all
seeds run at once by `jax.vmap`, over all devices. Batched operations add up in another order, so their
numbers agree with single runs only within rounding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from toolkit.jaxprs import platform
from toolkit.jaxprs.constants import constants, evaluate_with, literals
from toolkit.run.experiment.common import Settings, every_seed
from toolkit.run.experiment.errors import Exit, fail
from toolkit.run.experiment.interface import Final, Gradients
from toolkit.run.program.data import DrivenProgram, laid_out, placed
from toolkit.run.program.means import estimate, written
from toolkit.run.program.seeds_on_cores import Each, SeedData, Shared, by_seed, joined, keys

ALIKE = "each by the program of a single run: equal to single runs to the bit"
OWN_ARRAYS = "each with arrays of its own that it closes over: equal to single runs within rounding, not to the bit"
AT_ONCE = "by vmap: equal to single runs within rounding, not to the bit"
# Operations by which a program spreads its own work over devices; then the seeds are not spread as well.
PLACED = ("shard_map", "sharding_constraint")
_OVER = PartitionSpec("seeds")  # the leading axis of what is each seed's own
_ADDRESS = re.compile(r"0x[0-9a-f]+")  # of a rule's function, in the text of a jaxpr


def together(build: Callable[[Any], DrivenProgram], settings: Settings) -> DrivenProgram:
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
    if programs[0].takes_fraction:
        expected = "a program without it, or seeds: 1"
        got = "a program that takes the fraction used of its budget"
        raise fail(Exit.CONFIG, "config", "seeds: not with a schedule by budget", got, expected)
    programs, own = _sharing([p._replace(step=_scalars(p.step)) for p in programs])
    example = jax.random.key(0)
    data = [p.data for p in programs]
    start = _shared([p.init for p in programs], example, data, "init")
    template = jax.eval_shape(programs[0].init, example, data[0])
    advance = _shared([p.step for p in programs], template, data, "step")
    each = [
        SeedData(start.own[i], advance.own[i], jax.tree.leaves(p.data))
        for i, p in enumerate(programs)
    ]
    whose = SeedData([True] * len(each[0].init), [True] * len(each[0].step), own)

    def finish(states: Any, _: Any) -> Final:
        ends = [p.finish(_of(states, i), p.data) for i, p in enumerate(programs)]
        return _joined(dict(zip(seeds, ends, strict=True)))

    def losses(states: Any, _: Any) -> Any:
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), states)
        return programs[0].losses(one, programs[0].data) if programs[0].losses else {}

    make = _one_by_one if on_cores() else _at_once
    init, step, handed = make(seeds, start, advance, each, whose)
    recorded = {
        f"{name}[{seed}]": tree
        for seed, program in zip(seeds, programs, strict=True)
        for name, tree in program.recorded.items()
    }
    return DrivenProgram(
        init, step, finish, losses if programs[0].losses else None, handed, recorded
    )


def _sharing(programs: Sequence[DrivenProgram]) -> tuple[list[DrivenProgram], list[bool]]:
    """The programs with the data once that all have in common, and of each leaf whether it is each seed's own.

    Raises: RunError (exit 2) where the data of seeds differ in more than their numbers.
    """

    def shapes(data: Any) -> Any:
        leaves, structure = jax.tree.flatten(data)
        return structure, [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]

    if any(shapes(p.data) != shapes(programs[0].data) for p in programs):
        expected = "the same shapes for all; run the seeds as a sweep instead"
        what = "seeds: the shapes of the data depend on the seed"
        raise fail(Exit.CONFIG, "config", what, "others", expected)
    columns = list(zip(*(jax.tree.leaves(p.data) for p in programs), strict=True))
    own = [not _equal(column) for column in columns]
    structure = jax.tree.structure(programs[0].data)
    found = []
    for i, program in enumerate(programs):
        leaves = [c[i if mine else 0] for c, mine in zip(columns, own, strict=True)]
        found.append(program._replace(data=structure.unflatten(leaves)))
    return found, own


def on_cores() -> bool:
    """Whether each seed is a call of its own. Not if XLA_FLAGS split the CPU into devices: the seeds use these."""
    return platform.is_cpu() and len(platform.devices()) == 1


def bits(program: DrivenProgram) -> str:
    """How the numbers of a program of many seeds relate to those of single runs."""
    if not isinstance(program.step, Each):
        return AT_ONCE
    return ALIKE if program.step.alike else OWN_ARRAYS


def _one_by_one(
    seeds: tuple[int, ...], start: Shared, advance: Shared, each: list[SeedData], own: SeedData
) -> tuple[Any, Any, Any]:
    """`init`, `step` and what they are handed, one seed after another."""
    step = Each(seeds, start, advance, own)
    return step.init, step, each


def _at_once(
    seeds: tuple[int, ...], start: Shared, advance: Shared, each: list[SeedData], own: SeedData
) -> tuple[Any, Any, Any]:
    """`init`, `step` and what they are handed, by vmap."""
    begin, proceed = (_vmapped(shared, len(seeds), own) for shared in (start, advance))

    def init(_: Any, data: SeedData) -> Any:
        return begin(data, keys(seeds))

    def step(states: Any, data: SeedData) -> tuple[Any, dict[str, Any]]:
        states, metrics = proceed(data, states)
        return states, by_seed(seeds, lambda i: {k: v[i] for k, v in metrics.items()})

    data, mesh = joined(each, own), _mesh(advance, len(seeds))
    if mesh is not None:
        shares = _OVER if len(seeds) % mesh.size == 0 else PartitionSpec()
        where = lambda one: NamedSharding(mesh, shares if one else PartitionSpec())
        put = laid_out if platform.elsewhere() else placed
        data = put(data, jax.tree.map(where, own))
    return init, step, data


def _scalars(step: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def without_gradients(state: Any, data: Any) -> Any:
        state, metrics = step(state, data)
        return state, {k: v for k, v in metrics.items() if not isinstance(v, Gradients)}

    return without_gradients


def _shared(
    functions: Sequence[Callable[[Any, Any], Any]],
    example: Any,
    data: Sequence[Any],
    name: str,
) -> Shared:
    """The functions of the argument and the data as one.

    Constants in which they differ become arrays of each seed's own. Without any it is the first function.

    Args:
      data: of each seed, in trees of the same shapes.
      name: `init` or `step`.
    """
    # Two jaxprs are the same program if their texts agree and so do the arrays inside them that cannot become
    # arguments (the text shows these shortened). What they close over outside, the constants, may differ.
    traced = [
        jax.make_jaxpr(function, return_shape=True)(example, own)
        for function, own in zip(functions, data, strict=True)
    ]
    first, shape = traced[0]
    texts = [_text(jaxpr) for jaxpr, _ in traced]
    inner = [[_bytes(value) for value in literals(jaxpr.jaxpr)] for jaxpr, _ in traced]
    if any(text != texts[0] for text in texts) or any(values != inner[0] for values in inner):
        expected = "the same program on other data; run the seeds as a sweep instead"
        raise fail(
            Exit.CONFIG, "config", f"seeds: {name} depends on the seed", "another program", expected
        )
    # Constants that are equal for all seeds stay what they are; the others are arguments.
    columns = list(zip(*(constants(jaxpr) for jaxpr, _ in traced), strict=True))
    alike = [_equal(column) for column in columns]
    placed = any(word in texts[0] for word in PLACED)
    structure, of_data = jax.tree.structure(shape), jax.tree.structure(data[0])

    def itself(own: SeedData, argument: Any) -> Any:
        return functions[0](argument, of_data.unflatten(own.data))

    def call(own: SeedData, argument: Any) -> Any:
        pending = iter(getattr(own, name))
        consts = [c[0] if same else next(pending) for c, same in zip(columns, alike, strict=True)]
        return structure.unflatten(
            evaluate_with(first, consts, [*jax.tree.leaves(argument), *own.data])
        )

    own = [
        [c[i] for c, same in zip(columns, alike, strict=True) if not same]
        for i in range(len(functions))
    ]
    return Shared(itself if all(alike) else call, own, placed)


def _vmapped(shared: Shared, seeds: int, own: SeedData) -> Callable[[SeedData, Any], Any]:
    """All seeds at once: equal shares of them on each device, the last one again where they do not divide."""
    # What the seeds have in common is mapped over nothing: no seed has a copy of it.
    axes = jax.tree.map(lambda one: 0 if one else None, own)
    batched = jax.vmap(shared.call, in_axes=(axes, 0))
    mesh = _mesh(shared, seeds)
    if mesh is None:
        return batched
    specs = jax.tree.map(lambda one: _OVER if one else PartitionSpec(), own)
    # Seeds exchange nothing, so there is nothing for `check_vma` to find. With it, jax would refuse loops
    # whose carry starts as a constant, the same on every device, and ends as a value of each device.
    spread = jax.shard_map(
        batched, mesh=mesh, in_specs=(specs, _OVER), out_specs=_OVER, check_vma=False
    )
    if seeds % mesh.size == 0:
        return spread
    # The share of each device has to be the same, so the last seed is computed again until they divide.
    padded = np.minimum(np.arange(-(-seeds // mesh.size) * mesh.size), seeds - 1)

    def run(data: SeedData, arguments: Any) -> Any:
        data = jax.tree.map(lambda one, leaf: leaf[padded] if one else leaf, own, data)
        results = spread(data, jax.tree.map(lambda leaf: leaf[padded], arguments))
        return jax.tree.map(lambda leaf: leaf[:seeds], results)

    return run


def _mesh(shared: Shared, seeds: int) -> Mesh | None:
    """The devices that the seeds are spread over; None for one, or where the program spreads its own work."""
    devices = platform.devices()[:seeds]
    if len(devices) == 1 or shared.placed:
        return None
    return Mesh(np.asarray(devices), ("seeds",), axis_types=(AxisType.Auto,))


def _text(jaxpr: Any) -> str:
    """The program without its outermost constants, whose values are arguments, and without addresses in memory."""
    return _ADDRESS.sub("", str(jaxpr.jaxpr))


def _equal(column: Sequence[Any]) -> bool:
    """Whether arrays are the same to the bit."""
    return all(one is column[0] or _bytes(one) == _bytes(column[0]) for one in column)


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
