"""What JAX does not offer as public API: the state of tracing, its caches, and which of its files do what."""

from __future__ import annotations

import os
from typing import Any

import jax
from jax.extend.core import get_opaque_trace_state

# The event that JAX reports to the listeners of `jax.monitoring` for each program that it compiles.
COMPILED = "/jax/core/compile/backend_compile_duration"


def trace_state() -> Any:
    """A token for what is traced now: two are equal if no transformation was entered or left in between."""
    return get_opaque_trace_state(convention="flax")


def converted(leaf: Any, dtype: Any, weak: bool) -> Any:
    """`leaf` in another dtype, weak or not: the public `jax.lax.convert_element_type` makes no weak types."""
    return jax.lax.convert_element_type_p.bind(leaf, new_dtype=dtype, weak_type=weak, sharding=None)


def cache_size(jitted: Any) -> int | None:
    """The number of entries in the cache of a jitted function; None where `jitted` does not tell."""
    count = getattr(jitted, "_cache_size", None)
    return None if count is None else count()


def static_arguments(jitted: Any) -> set[int | str] | None:
    """Positions and names of the static arguments; None where `jitted` does not tell."""
    info = getattr(jitted, "_jit_info", None)
    numbers = getattr(info, "static_argnums", None)
    names = getattr(info, "static_argnames", None)
    return None if numbers is None or names is None else {*numbers, *names}


# What the files of JAX do. `tk.debug.audit` reads from the files on the way to an equation who wrote a
# number. Each path is the beginning of a file's path, as `str.startswith` takes it.
_SOURCE = os.path.join(os.path.dirname(jax.__file__), "_src", "")


def _in_source(*names: str) -> tuple[str, ...]:
    return tuple(_SOURCE + name for name in names)


# They trace and differentiate. Their frames lie between any two calls, and they add no numbers.
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
# Each function in them is one operation or a loop, so the numbers that it reads are its caller's.
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
# Functions that make a key from a seed.
SEEDED = frozenset({"PRNGKey", "_key", "key", "random_seed", "seed_with_impl"})

# The code in which `jax.vmap` and `jax.shard_map` call the user's function.
VMAP = "vmap_f"
SHARD_MAP = "_shard_map.<locals>.wrapped"
