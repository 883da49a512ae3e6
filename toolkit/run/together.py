"""Several seeds in one program: `seeds: 5` runs the seeds `seed` to `seed + 4` of a config by `jax.vmap`.

An experiment is built once a seed, as ever. What its functions close over (a split of the data, corrupted labels) may
differ from seed to seed, and becomes an argument; the programs themselves must not, or the seeds are refused. The
numbers agree with those of single runs to rounding, not to the bit: batched operations add up in another order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from toolkit.run.errors import Exit, fail
from toolkit.run.estimate import estimate
from toolkit.run.hoist import constants, evaluate, opened
from toolkit.run.program import Final, Gradients, Program
from toolkit.run.report.groups import written
from toolkit.run.settings import Settings

BITS = "by vmap: equal to single runs within rounding, not to the bit"
_ADDRESS = re.compile(r"0x[0-9a-f]+")  # of a rule's function, in the text of a jaxpr


def together(build: Callable[[Any], Program], settings: Settings) -> Program:
    """One program of all seeds: each leaf of its state has a leading seed axis, each metric a name a seed, `loss[3]`.

    Raises: RunError (exit 2) where the experiment computes something else for another seed, not only from other data.
    """
    if settings.diagnostics.gradients_every > 0:
        expected = "0, or seeds: 1; gradients are reported of single runs"
        got = str(settings.diagnostics.gradients_every)
        raise fail(
            Exit.CONFIG, "config", "diagnostics.gradients_every: not with seeds", got, expected
        )
    seeds = tuple(range(settings.seed, settings.seed + settings.seeds))
    programs = [build(settings.model_copy(update={"seed": seed, "seeds": 1})) for seed in seeds]
    if getattr(programs[0], "takes_fraction", False):
        expected = "a program without it, or seeds: 1"
        got = "a program that takes the fraction used of its budget"
        raise fail(Exit.CONFIG, "config", "seeds: not with a schedule by budget", got, expected)
    example = jax.random.key(0)
    start = _batched([p.init for p in programs], example, "init")
    template = jax.eval_shape(programs[0].init, example)
    advance = _batched([_scalars(p.step) for p in programs], template, "step")

    def init(_: jax.Array) -> Any:
        return start(jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32)))

    def step(states: Any) -> tuple[Any, dict[str, Any]]:
        states, metrics = advance(states)
        named = {
            f"{name}[{seed}]": values[i]
            for name, values in metrics.items()
            for i, seed in enumerate(seeds)
        }
        return states, named

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


def _scalars(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def without_gradients(state: Any) -> Any:
        state, metrics = step(state)
        return state, {k: v for k, v in metrics.items() if not isinstance(v, Gradients)}

    return without_gradients


def _batched(
    functions: Sequence[Callable[[Any], Any]], example: Any, name: str
) -> Callable[[Any], Any]:
    """The functions as one, of stacked arguments: the constants in which they differ are stacked too."""
    traced = [jax.make_jaxpr(function, return_shape=True)(example) for function in functions]
    first, shape = traced[0]
    texts = [_text(jaxpr) for jaxpr, _ in traced]
    inner = [[_bytes(value) for value in _values(jaxpr.jaxpr)] for jaxpr, _ in traced]
    if any(text != texts[0] for text in texts) or any(values != inner[0] for values in inner):
        expected = "the same program on other data; run the seeds as a sweep instead"
        raise fail(
            Exit.CONFIG, "config", f"seeds: {name} depends on the seed", "another program", expected
        )
    columns = list(zip(*(constants(jaxpr) for jaxpr, _ in traced), strict=True))
    alike = [len({_bytes(value) for value in column}) == 1 for column in columns]
    consts = [c[0] if same else jnp.stack(c) for c, same in zip(columns, alike, strict=True)]
    axes = [None if same else 0 for same in alike]

    def one(consts: list[Any], argument: Any) -> Any:
        flat = evaluate(first, consts, jax.tree.leaves(argument))
        return jax.tree.unflatten(jax.tree.structure(shape), flat)

    return lambda arguments: jax.vmap(one, in_axes=(axes, 0))(consts, arguments)


def _text(jaxpr: Any) -> str:
    """The program without its outermost constants, whose values are arguments, and without addresses in memory."""
    return _ADDRESS.sub("", str(jaxpr.jaxpr))


def _values(jaxpr: Any, hoisted: bool = True) -> Iterator[Any]:
    """Numbers written into the program, and arrays in it that cannot become arguments; its text shortens them.

    Args:
        hoisted: whether the constants of the `jit`s and `scan`s at this level become arguments.
    """
    for equation in jaxpr.eqns:
        yield from (atom.val for atom in equation.invars if hasattr(atom, "val"))
        lifted = hoisted and opened(equation)
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "consts") and hasattr(inner, "jaxpr"):
                    yield from () if lifted else inner.consts
                    yield from _values(inner.jaxpr, lifted)
                elif hasattr(inner, "eqns"):
                    yield from _values(inner, False)
                elif isinstance(inner, np.ndarray | jax.Array):
                    yield inner


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
