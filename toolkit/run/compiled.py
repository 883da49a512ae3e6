"""A program checked and compiled: `init` and `step` apart, always the same executable for the same config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from toolkit.debug import GradientReport, gradient_report
from toolkit.run.arrays import named_leaves
from toolkit.run.each import Each, compile_each
from toolkit.run.errors import Exit, RunError, fail, shown
from toolkit.run.experiment import reported
from toolkit.run.metrics import RESERVED
from toolkit.run.program import Gradients, Program

Reports = dict[str, GradientReport]


class Traced(NamedTuple):
    """A program whose shapes are known and consistent; nothing has run or been compiled."""

    program: Program
    seed: int
    gradients: bool  # whether they are reported
    template: Any  # the state's shapes and types
    metrics: tuple[str, ...]


class Made(NamedTuple):
    """What a step made."""

    state: Any
    values: dict[str, jax.Array]  # the metrics
    reports: Reports  # of the gradients, where this step reports them


class Compiled(NamedTuple):
    """Executables, and the state's template with the devices that it lives on."""

    init: Callable[[], Any]
    step: Callable[[Any], Made]
    reporting: Callable[[Any], Made] | None
    template: Any


def trace(program: Any, seed: int, source: Path, gradients: bool = False) -> Traced:
    """Checks what the experiment built. Raises: RunError (exit 2) that names the function and the leaf."""
    if not isinstance(program, Program):
        raise fail(
            Exit.CONFIG, source, "build: wrong type", type(program).__name__, "toolkit.run.Program"
        )
    with reported(source, "init failed"):
        template = jax.eval_shape(program.init, jax.random.key(seed))
        template = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), template)
    with reported(source, "step failed"):
        state, metrics = jax.eval_shape(program.step, template)
    _check_state(template, state, source)
    _check_metrics(metrics, source)
    scalars, found = _parted(metrics)
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
    return Traced(program, seed, gradients, template, tuple(scalars))


def compile_program(traced: Traced, source: Path) -> Compiled:
    """Compiles both functions; `step` for the state as `init` places it, also in a run that is resumed."""
    if isinstance(traced.program.step, Each):
        return compile_each(traced, source, compile_program)
    key = jax.random.key(traced.seed)
    with reported(source, "init failed"):
        init = jax.jit(traced.program.init).lower(key).compile()
    # Without weak types: a restored array has none, and another executable would round differently.
    template = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        traced.template,
        init.output_shardings,
    )

    def step(state: Any) -> Made:
        state, metrics = traced.program.step(state)
        scalars, _ = _parted(metrics)
        return Made(state, scalars, {})

    def reporting(state: Any) -> Made:
        state, metrics = traced.program.step(state)
        scalars, found = _parted(metrics)
        return Made(state, scalars, _reports(found))

    def compiled(function: Callable[..., Any]) -> Any:
        shardings = Made(init.output_shardings, None, None)  # type: ignore[arg-type]
        return jax.jit(function, out_shardings=shardings).lower(template).compile()

    with reported(source, "step failed"):
        # Two programs: a `cond` would keep the gradients and the old state from being fused and
        # overwritten in every step, at more than the cost of the step itself where that is short.
        return Compiled(
            lambda: init(key),
            compiled(step),
            compiled(reporting) if traced.gradients else None,
            template,
        )


def _parted(metrics: dict[str, Any]) -> tuple[dict[str, jax.Array], dict[str, Gradients]]:
    """(scalars, gradients)."""
    gradients = {name: value for name, value in metrics.items() if isinstance(value, Gradients)}
    return {name: metrics[name] for name in metrics if name not in gradients}, gradients


def _reports(gradients: dict[str, Gradients]) -> Reports:
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
        if not isinstance(name, str) or name in RESERVED:
            raise _bad_metrics(source, shown(name), f"names other than {', '.join(RESERVED)}")
        if getattr(value, "shape", None) != () or value.dtype.kind not in "biuf":
            raise _bad_metrics(
                source, f"{name} with {getattr(value, 'dtype', '?')}{value.shape}", "real scalars"
            )


def _bad_metrics(source: Path, got: str, expected: str) -> RunError:
    return fail(Exit.CONFIG, source, "step: bad metrics", got, expected)
