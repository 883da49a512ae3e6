"""What a jitted function has compiled, and which of its arguments are static."""

from __future__ import annotations

from typing import Any

# What JAX announces by `jax.monitoring` for each program that it compiles.
COMPILED = "/jax/core/compile/backend_compile_duration"


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
