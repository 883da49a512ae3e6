"""The truth of a value that may be traced: a Python bool if it is known, else a traced scalar."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from toolkit.plain_python import mode
from toolkit.plain_python.refusals import refuse


def truth(value: Any) -> Any:
    """`bool(value)`, or a traced boolean of shape ()."""
    if not isinstance(value, jax.Array):
        return bool(value)
    if value.size != 1:
        raise refuse(
            f"the truth of an array of shape {value.shape}: reduce it with jnp.any or jnp.all, or use "
            "jnp.where."
        )
    if not mode.runs_as_python():
        # Not every tracer is unknown: under `jax.grad` without `jit` it carries a value.
        try:
            return bool(value)
        except jax.errors.ConcretizationTypeError:
            return _not_zero(value.reshape(()))
    return bool(value)


def _not_zero(value: Any) -> Any:
    return value if value.dtype == jnp.bool_ else value != jnp.zeros((), value.dtype)


def scalar_truth(value: Any) -> Any:
    """The truth of `value` as an array of shape (), which a `while_loop` wants even if it is known."""
    known = truth(value)
    return jnp.asarray(known)
