"""The platform that a program is traced for, and its devices.

A few programs are arranged otherwise on a CPU than on an accelerator. JAX chooses the platform after it has
traced a program, so whoever arranges one asks here.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax


class _Target(NamedTuple):
    name: str
    devices: tuple[Any, ...]  # of a topology, which this machine need not have; () for one device


# As one of JAX's own contexts it is part of the keys of its caches: what was traced for this machine is traced
# again for another platform.
_target: Any = jax.make_user_context(None)


def tracing_for(name: str, devices: tuple[Any, ...] = ()) -> AbstractContextManager[None]:
    """A context in which programs are traced for another platform than JAX's default one.

    Args:
      name: as JAX's `lowering_platforms` has it.
      devices: of a topology; () for one device of an unknown kind.
    """
    return _target(_Target(name, devices))


def is_cpu() -> bool:
    """Whether programs are traced for CPUs."""
    target = _target.value
    return (jax.default_backend() if target is None else target.name) == "cpu"


def devices() -> list[Any]:
    """The devices that programs are traced for."""
    target = _target.value
    if target is None:
        return jax.devices()
    return list(target.devices) or jax.devices()[:1]


def elsewhere() -> bool:
    """Whether these devices are known by their topology alone: nothing can be put there."""
    return _target.value is not None and bool(_target.value.devices)
