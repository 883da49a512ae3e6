"""`shard_map` in a replay: it runs as one step, and flags tell which of its equations was bad first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
from jax import Array
from jax.sharding import PartitionSpec

from toolkit.debug.nonfinite.flags import first_bad
from toolkit.debug.nonfinite.interpret import PlaceInProgram, Replay
from toolkit.debug.nonfinite.origins import Birth, Value
from toolkit.jaxprs.loops import shard_parts
from toolkit.jaxprs.read import without_callbacks

_NOTE = "Inside shard_map the operands of the equation are not kept: those of the whole are shown."


def shard_map(
    replay: Replay, equation: Any, values: Sequence[Value], here: PlaceInProgram
) -> list[Value]:
    """The results of a `shard_map`."""
    equation = without_callbacks(equation)
    parts = shard_parts(equation)

    # The flags are computed on each device where the program itself would run, and so under the same mesh.
    def placed(flags: Callable[..., Array]) -> Callable[..., Array]:
        return jax.shard_map(
            flags,
            mesh=parts.mesh,
            in_specs=parts.in_specs,
            out_specs=PartitionSpec(tuple(parts.axes)),
            axis_names=set(parts.axes),
            check_vma=parts.check_vma,
        )

    def bear(has_nan: bool) -> Birth:
        arrays = [value.array for value in values]
        found = first_bad(parts.body, placed, arrays, here)
        # With the flags it is another compiled program, which may stay finite where the original did not.
        if found is None:
            return replay.bear("shard_map", values, here, has_nan)
        name = found.equations[-1].primitive.name
        scope = replace(here, equations=found.equations)
        return replay.bear(name, values, scope, has_nan, _NOTE)

    return replay.evaluate(equation, values, here, bear)
