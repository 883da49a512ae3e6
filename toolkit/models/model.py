"""What a network is here: a pair of pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from toolkit.types import Tree


class Model(NamedTuple):
    """A network without state: all that it knows stands in `params`.

    Both functions are pure. They work under `jit`, `grad` and `vmap`: `jax.vmap(init, (0, None))` draws a
    network a key, and `jax.vmap(apply, (0, None))` applies each of them to the same input.
    """

    init: Callable[..., Tree]  # (key, example) -> params
    apply: Callable[..., Any]  # (params, x, ...) -> output
