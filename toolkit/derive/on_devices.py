"""Collectives whose derivative would be silently wrong are refused, each with a way that is right.

JAX differentiates a collective (`lax.pmean`, `lax.psum`, ...) rightly where it keeps account of what differs
between devices: in `jax.shard_map` with its checks. Without them, or under `jax.pmap`, the derivative of a mean
over the devices is that of each device's own share. And where the differentiated array itself differs between
devices, its gradient is that of one device's copy, while the loss depends on all copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from toolkit.jaxprs.collectives import collective_axes
from toolkit.jaxprs.varying_axes import is_checked


def device_axes() -> tuple[str, ...]:
    """The axes of the enclosing `jax.shard_map`s and `jax.pmap`s."""
    return tuple(jax.sharding.get_abstract_mesh().manual_axes)


def refuse_unchecked(name: str, program: Any, marked: Sequence[bool]) -> None:
    """Refuse a collective of what is marked, along an axis of which JAX keeps no account.

    Args:
      name: whose program it is, for the message.
      marked: for each argument of the program, whether it may be differentiated.
    """
    axes = [axis for axis in device_axes() if not is_checked(axis)]
    if not axes:
        return
    for axis in sorted(collective_axes(program, marked) & {*axes}):
        raise ValueError(
            f"`{name}` must have no collective along {axis!r} here: JAX differentiates it wrongly under jax.pmap "
            "and under check_vma=False, because each device then follows its own share of the loss; use "
            "jax.shard_map with check_vma=True (the default), or jax.jit with a NamedSharding."
        )


def refuse_differing(name: str, variable: str, axes: frozenset[str]) -> None:
    """Refuse a collective along axes along which what it is differentiated in differs."""
    for axis in sorted(axes):
        raise ValueError(
            f"`{variable}` must be the same on all devices along {axis!r}, along which `{name}` has a collective of "
            f"it: got one that differs between devices, because the start, the hyperparameters or a part of "
            f"`{name}` beside the collective does; average all of `{name}` over {axis!r}, or none of it."
        )
