"""Which type arithmetic on several types has, where they differ on purpose."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

_P = ParamSpec("_P")
_R = TypeVar("_R")


def standard_promotion(fun: Callable[_P, _R]) -> Callable[_P, _R]:
    """`fun` under JAX's usual promotion of types.

    With `jax_numpy_dtype_promotion="strict"` JAX refuses arithmetic on two types. Users ask for this to find
    slips in their own code. Here the types differ on purpose: float32 sums of bfloat16 leaves.
    """

    @functools.wraps(fun)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with jax.numpy_dtype_promotion("standard"):
            return fun(*args, **kwargs)

    return call


@standard_promotion
def wide_type(*leaves: Any) -> Any:
    """The type that holds all of `leaves`, float32 at least."""
    # Of the types alone: beside float32 a weakly typed float64 would count as a float32.
    return jnp.result_type(jnp.float32, *(jnp.result_type(leaf) for leaf in leaves))
