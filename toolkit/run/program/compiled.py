"""A program checked and compiled: `init` and the steps apart, and always the same executables for the same config."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from toolkit.devices.meshes import sharding
from toolkit.jaxprs.own_shardings import own_shardings
from toolkit.jaxprs.read import evaluate
from toolkit.run.experiment.errors import Exit, RunError, fail, shown
from toolkit.run.experiment.experiments import reported
from toolkit.run.experiment.interface import Gradients
from toolkit.run.program.data import DrivenProgram, whole
from toolkit.run.program.steps import ROWS, Made, Reports, Step, looped, single, slow_in_loops
from toolkit.run.store.arrays import named_leaves
from toolkit.run.store.metrics import NESTED, RESERVED, is_reserved


class TracedProgram(NamedTuple):
    """A program whose shapes are known and consistent; nothing has run or been compiled."""

    program: DrivenProgram
    seed: int
    gradients: bool  # whether they are reported
    template: Any  # the state's shapes and types
    metrics: dict[str, Any]  # the shapes of the scalars
    step: Callable[[Any, Any], Any]  # the program's, as it was traced: (state, data)
    loops: bool  # whether many steps are one program
    # On a mesh: where each leaf of the state lies, in a tree. None lets the compiler choose.
    state_shardings: Any = None


class CompiledProgram(NamedTuple):
    """Executables, handed the data, and the state's template with the devices that it lives on.

    `advance` and `reporting` reuse the memory of the state that they are given (it is donated). After a call
    only the state that they returned may be used.
    """

    init: Callable[..., Any]
    advance: Callable[..., Made]  # (state, rows, every: int32): `rows * every` steps
    reporting: Callable[..., Made] | None  # (state, 1, 1)
    template: Any
    most: int | None = None  # steps in a call of `advance`
    rows: int = ROWS  # in a call of `advance`


def trace(
    program: DrivenProgram, seed: int, source: Path, gradients: bool = False
) -> TracedProgram:
    """Checks what the experiment built. Raises: RunError (exit 2) that names the function and the leaf."""
    with reported(source, "init failed"):
        key, data = jax.random.key(seed), program.data
        if program.mesh is None:
            template, shardings = jax.eval_shape(program.init, key, data), None
        else:
            begun, template = jax.make_jaxpr(program.init, return_shape=True)(key, data)
            shardings = _state_shardings(begun, template, program.mesh)
        template = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), template)
    with reported(source, "step failed"):
        jaxpr, (state, metrics) = jax.make_jaxpr(program.step, return_shape=True)(
            template, program.data
        )
    _check_state(template, state, source)
    _check_metrics(metrics, source)
    scalars, found = _parted(metrics)
    if found:
        with reported(source, "step: bad gradients"):
            jax.eval_shape(_reports, found)
    if gradients and not found:
        raise fail(
            Exit.CONFIG,
            source,
            "diagnostics.gradients_every: nothing to report",
            f"the metrics {', '.join(metrics) or 'none'}",
            "a toolkit.run.Gradients among the metrics of `step`, or 0",
        )
    tree = jax.tree.structure((state, metrics))

    # The traced program is compiled, instead of tracing `program.step` again: what runs is what was checked.
    def step(state: Any, data: Any) -> Any:
        return jax.tree.unflatten(tree, evaluate(jaxpr, *jax.tree.leaves((state, data))))

    loops = not slow_in_loops(jaxpr.jaxpr)
    return TracedProgram(program, seed, gradients, template, scalars, step, loops, shardings)


def _state_shardings(begun: Any, template: Any, mesh: Mesh) -> Any:
    """A copy of each leaf on every device, but for those that `init` lays out itself."""
    own, everywhere = own_shardings(begun), sharding(mesh)
    return jax.tree.unflatten(jax.tree.structure(template), [one or everywhere for one in own])


def compile_one(traced: TracedProgram, source: Path) -> CompiledProgram:
    """The executables, handed the data of the program."""
    compiled, data = compile_for_data(traced, source), traced.program.data
    return compiled._replace(
        init=partial(compiled.init, _key(traced), data),
        advance=partial(compiled.advance, data=data),
        reporting=compiled.reporting and partial(compiled.reporting, data=data),
    )


def compile_for_data(traced: TracedProgram, source: Path) -> CompiledProgram:
    """As `compile_one`, but `init` takes a key and data, and `advance` and `reporting` take `data=`.

    Compiles `init`, and the steps for a state on the devices where `init` puts it. A resumed run does the
    same, so that it steps by the same executable.
    """
    data = traced.program.data
    with reported(source, "init failed"):
        # An `init` that looks at no data also has to put the state on the devices of the data. Without
        # `keep_unused` jax would drop arguments that are not read, and their devices with them.
        jitted = jax.jit(
            traced.program.init, keep_unused=True, out_shardings=traced.state_shardings
        )
        init = jitted.lower(_key(traced), data).compile()
    # `ShapeDtypeStruct` drops weak types. A state that is restored from disk has none, so with them a resumed
    # run would need another executable, which may round differently.
    template = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        traced.template,
        init.output_shardings,
    )
    count, mesh = jax.ShapeDtypeStruct((), np.int32), traced.program.mesh
    # A process reads its own devices alone, so each of them has all numbers.
    everywhere = None if mesh is None else sharding(mesh)

    def quiet(data: Any, state: Any) -> Any:
        state, metrics = traced.step(state, data)
        return state, _parted(metrics)[0], {}

    def reporting(data: Any, state: Any) -> Any:
        state, metrics = traced.step(state, data)
        scalars, found = _parted(metrics)
        return state, scalars, _reports(found)

    def compiled(calls: Callable[[Step], Callable[..., Made]], step: Callable[..., Any]) -> Any:
        def advance(state: Any, rows: Any, every: Any, data: Any) -> Made:
            return calls(partial(step, data))(state, rows, every)

        shardings = Made(init.output_shardings, *[everywhere] * 3)  # type: ignore[arg-type]
        jitted = jax.jit(advance, donate_argnums=0, out_shardings=shardings)
        return jitted.lower(template, count, count, data=data).compile()

    loop = partial(looped, metrics=traced.metrics)
    with reported(source, "step failed"):
        # The steps that report gradients are a program of their own. With a `cond` in a single program, XLA
        # would have to keep the gradients and the old state in every step, which can cost more than a short
        # step itself.
        return CompiledProgram(
            init,
            compiled(loop if traced.loops else single, quiet),
            compiled(single, reporting) if traced.gradients else None,
            template,
            *((None, ROWS) if traced.loops else (1, 1)),  # `most`, `rows`: without a loop, one step
        )


def _key(traced: TracedProgram) -> jax.Array:
    """The only key, where the program runs."""
    return whole(jax.random.key(traced.seed), traced.program.mesh)


def _parted(metrics: dict[str, Any]) -> tuple[dict[str, jax.Array], dict[str, Gradients]]:
    """(scalars, gradients)."""
    gradients = {name: value for name, value in metrics.items() if isinstance(value, Gradients)}
    return {name: metrics[name] for name in metrics if name not in gradients}, gradients


def _reports(gradients: dict[str, Gradients]) -> Reports:
    from toolkit.debug import gradient_report

    return {name: gradient_report(*value) for name, value in gradients.items()}


def _check_state(before: Any, after: Any, source: Path) -> None:
    old, new = _types(before, source), _types(after, source)
    for name in old | new:
        if old.get(name) != new.get(name):
            got, expected = new.get(name, "nothing"), old.get(name, "nothing")
            raise fail(
                Exit.CONFIG,
                source,
                f"step: changes the state at {shown(name)}",
                got,
                f"{expected}, as init",
            )
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise fail(
            Exit.CONFIG,
            source,
            "step: changes the state",
            "another tree",
            "the tree that init returns",
        )


def _types(tree: Any, source: Path) -> dict[str, str]:
    try:
        return {
            name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in named_leaves(tree).items()
        }
    except ValueError as error:
        raise fail(Exit.CONFIG, source, "state cannot be saved", str(error)) from error


def _check_metrics(metrics: Any, source: Path) -> None:
    if not isinstance(metrics, dict):
        raise _bad_metrics(source, type(metrics).__name__, "a dict of scalars")
    for name, value in metrics.items():
        if isinstance(value, Gradients) and isinstance(name, str):
            continue  # they have a key of their own in a row
        if not isinstance(name, str) or is_reserved(name):
            raise _bad_metrics(
                source, shown(name), f"names other than {', '.join(RESERVED)} and {NESTED}…"
            )
        if getattr(value, "shape", None) != () or value.dtype.kind not in "biuf":
            raise _bad_metrics(
                source, f"{name} with {getattr(value, 'dtype', '?')}{value.shape}", "real scalars"
            )


def _bad_metrics(source: Path, got: str, expected: str) -> RunError:
    return fail(Exit.CONFIG, source, "step: bad metrics", got, expected)
