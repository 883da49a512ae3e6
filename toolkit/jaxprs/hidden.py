"""What JAX knows while it traces, and does not offer in public."""

from __future__ import annotations

from typing import Any

import jax
from jax.extend.core import get_opaque_trace_state


def trace_state() -> Any:
    """What is being traced now: two of these are equal as long as no transformation was entered or left."""
    return get_opaque_trace_state(convention="flax")


def converted(leaf: Any, dtype: Any, weak: bool) -> Any:
    """`leaf` in a type that is weak or not. `jax.lax.convert_element_type` lets nobody choose a weak type."""
    return jax.lax.convert_element_type_p.bind(leaf, new_dtype=dtype, weak_type=weak, sharding=None)


def varying_axes(aval: Any) -> frozenset[str]:
    """The axes of an enclosing `jax.shard_map` over which a value of this type varies."""
    manual = getattr(aval, "manual_axis_type", None)
    return manual.varying if manual else frozenset()
