"""The step of an experiment for a machine that is not here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from toolkit.debug.flops import Flops, count
from toolkit.devices import lowering
from toolkit.devices.meshes import sharding
from toolkit.run.experiment.experiments import reported
from toolkit.run.program.compiled import TracedProgram
from toolkit.run.program.data import DATA, by_rows

SEEDS = "seeds"


class LoweredStep(NamedTuple):
    """What a step costs on another machine."""

    chips: int
    flops: Flops  # on all chips
    temp_bytes: int | None  # a chip; None where nothing was compiled
    largest_constant: int  # bytes
    collectives: dict[str, int]  # HLO names
    custom_calls: dict[str, int]


def lowered(
    traced: TracedProgram,
    source: Path,
    platform: str,
    chips: tuple[Any, ...] = (),
    seeds: int = 1,
) -> LoweredStep:
    """The step lowered for a platform and, with chips, compiled for them.

    On several chips the arrays of the data whose rows divide are split, and so are seeds. The state of a
    single seed is on every chip.

    Args:
      traced: traced in the context `jaxprs.platform.tracing_for` of the platform and the chips.
      seeds: how many the state is stacked of.

    Raises: RunError (exit 2) that names the line which cannot be lowered.
    """
    what = f"step: cannot be lowered for {platform}"
    expected = "what there is on that platform, and no call of Python on this machine (callbacks, progress bars)"
    with reported(source, what, expected):
        step = _program(traced, chips, seeds)
        text, for_all = _lowered_for(step, platform, bool(chips))
    found = LoweredStep(
        max(len(chips), 1),
        count(step.jaxpr),
        None,
        lowering.largest_constant(text),
        lowering.collectives(text),
        lowering.custom_calls(text),
    )
    if not chips:
        return found
    what, expected = f"step: cannot be compiled for {len(chips)} chips", "what libtpu can compile"
    with reported(source, what, expected):
        compiled = for_all.compile()
    return found._replace(
        temp_bytes=compiled.memory_analysis().temp_size_in_bytes,
        collectives=lowering.collectives(compiled.as_text()),
    )


def _lowered_for(step: Any, platform: str, for_chips: bool) -> tuple[str, Any]:
    """A traced step as StableHLO, and lowered. Chips are of a platform: it need not be named, and must not be."""
    made = step.lower() if for_chips else step.lower(lowering_platforms=(platform,))
    return made.as_text(), made


def _program(traced: TracedProgram, chips: tuple[Any, ...], seeds: int) -> Any:
    """The step as JAX has traced it, of a state and data that lie as in a run."""
    state, data = traced.template, traced.program.data
    if chips:
        used = np.asarray(chips[:seeds] if seeds > 1 else chips)
        mesh = Mesh(used, (SEEDS if seeds > 1 else DATA,), axis_types=(AxisType.Auto,))
        if seeds > 1:
            state = _split(state, mesh)
            data = jax.tree.map(lambda leaf: _kept(leaf, mesh), data)
        else:
            state = jax.tree.map(lambda leaf: _laid(leaf, sharding(mesh)), state)
            data = _split(data, mesh)
    # A run hands the memory of the old state to the new one.
    step = jax.jit(lambda state, data: traced.step(state, data), donate_argnums=0)
    return step.trace(state, data)


def _split(tree: Any, mesh: Mesh) -> Any:
    """Its shapes, split by rows where these divide."""
    return jax.tree.map(_laid, tree, by_rows(tree, mesh, mesh.axis_names[0]))


def _kept(leaf: Any, mesh: Mesh) -> Any:
    """A shape that lies on these chips already, or the shape of an array on each of them."""
    there = isinstance(leaf, jax.ShapeDtypeStruct) and leaf.sharding is not None
    return leaf if there else _laid(leaf, sharding(mesh))


def _laid(leaf: Any, where: NamedSharding) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
