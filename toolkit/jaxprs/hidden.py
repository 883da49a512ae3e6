"""What JAX knows and does not offer in public: the state of tracing, caches, and which of its files do what."""

from __future__ import annotations

import os
from typing import Any

import jax
from jax.extend.core import get_opaque_trace_state

# What JAX announces by `jax.monitoring` for each program that it compiles.
COMPILED = "/jax/core/compile/backend_compile_duration"


def trace_state() -> Any:
    """What is being traced now: two of these are equal as long as no transformation was entered or left."""
    return get_opaque_trace_state(convention="flax")


def converted(leaf: Any, dtype: Any, weak: bool) -> Any:
    """`leaf` in another type, weak or not: `jax.lax.convert_element_type` makes no weak types."""
    return jax.lax.convert_element_type_p.bind(leaf, new_dtype=dtype, weak_type=weak, sharding=None)


def cache_size(jitted: Any) -> int | None:
    """How many calls the cache tells apart; None where `jitted` does not tell."""
    count = getattr(jitted, "_cache_size", None)
    return None if count is None else count()


def static_arguments(jitted: Any) -> set[int | str] | None:
    """Numbers and names of the static arguments; None where `jitted` does not tell."""
    info = getattr(jitted, "_jit_info", None)
    numbers = getattr(info, "static_argnums", None)
    names = getattr(info, "static_argnames", None)
    return None if numbers is None or names is None else {*numbers, *names}


# Which files of JAX trace, differentiate, loop or hand numbers on: who wrote a number is told by them.
# Paths are beginnings, as `str.startswith` takes them.
_SOURCE = os.path.join(os.path.dirname(jax.__file__), "_src", "")


def _in_source(*names: str) -> tuple[str, ...]:
    return tuple(_SOURCE + name for name in names)


# They trace and differentiate: they stand between all calls and add no numbers.
MACHINERY = _in_source(
    "interpreters/",
    "ad_checkpoint.py",
    "api.py",
    "api_util.py",
    "core.py",
    "custom_batching.py",
    "custom_derivatives.py",
    "linear_util.py",
    "pjit.py",
    "source_info_util.py",
    "traceback_util.py",
    "tree.py",
    "tree_util.py",
    "util.py",
)
# Each function is one operation, or a loop: the numbers in it are its caller's.
HAND_ON = _in_source(
    "lax/control_flow/",
    "lax/lax.py",
    "lax/parallel.py",
    "nn/functions.py",
    "nn/initializers.py",
    "numpy/array",
    "numpy/ufunc",
    "ops/scatter.py",
)
CUSTOM_RULES, DIFFERENTIATION, RANDOM = _in_source(
    "custom_derivatives.py", "interpreters/ad.py", "random"
)
# Functions that make a key of a seed.
SEEDED = frozenset({"PRNGKey", "_key", "key", "random_seed", "seed_with_impl"})

# The code in which `jax.vmap` and `jax.shard_map` call the user's function.
VMAP = "vmap_f"
SHARD_MAP = "_shard_map.<locals>.wrapped"
