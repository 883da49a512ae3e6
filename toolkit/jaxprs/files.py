"""Which files of JAX trace, differentiate, loop or hand numbers on: who wrote a number is told by them.

Paths are beginnings, as `str.startswith` takes them.
"""

from __future__ import annotations

import os

import jax

SOURCE = os.path.join(os.path.dirname(jax.__file__), "_src", "")


def _in_source(*names: str) -> tuple[str, ...]:
    return tuple(SOURCE + name for name in names)


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

# The functions that call the user's under `jax.vmap` and `jax.shard_map`: the names of their code.
VMAP = "vmap_f"
SHARD_MAP = "_shard_map.<locals>.wrapped"
