"""A program for machines that are not here: lowered for a TPU or a GPU, or compiled for a topology of TPU chips.

Lowering needs JAX alone. Compiling needs libtpu, the TPU compiler, which works on any CPU host.

Source: `jax.experimental.topologies`; MaxText's `train_compile.py` does the same.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections import Counter
from collections.abc import Iterable
from math import prod
from typing import Any

# What libtpu asks of the machine that it finds itself on. Without answers it asks the metadata server of
# Google's cloud, and waits for one that is not there.
ON_A_CPU_HOST = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
# An array that repeats one number is written as that number; all others as text in hexadecimal, or as a list.
_CONSTANT = re.compile(r'dense(?:_resource)?<(?:"|\[|__)[^>]*> : tensor<([^>]*)>')
_CALL = re.compile(r"stablehlo\.custom_call @(\w+)")
# Calls that say where arrays lie. Nothing is computed by them.
_LAYOUT = re.compile(r"Sharding|SPMD|annotate_device_placement|LayoutConstraint|xla\.sdy")
_KINDS = (
    "all-gather|all-reduce|all-to-all|collective-broadcast|collective-permute|"
    "ragged-all-to-all|reduce-scatter"
)
# In HLO the second half of an asynchronous collective is named `…-done`: each is counted once.
_COLLECTIVE = re.compile(rf"(?<=[\s)])({_KINDS})(?:-start)?\(")
_COLLECTIVE_BEFORE = re.compile(rf"stablehlo\.({_KINDS.replace('-', '_')})\b")


def has_compiler() -> bool:
    """Whether libtpu is installed."""
    return importlib.util.find_spec("libtpu") is not None


def keep_to_the_cpu() -> None:
    """Have JAX and libtpu look for no accelerator on this machine. Call it before jax is imported."""
    for name, value in {"JAX_PLATFORMS": "cpu", **ON_A_CPU_HOST}.items():
        os.environ.setdefault(name, value)


def chips(topology: str) -> tuple[Any, ...]:
    """The devices of a topology such as `v5e:2x4`; nothing can be put on them.

    Raises: ValueError: libtpu knows no such topology.
    """
    from jax.errors import JaxRuntimeError
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except JaxRuntimeError as error:
        raise ValueError(str(error).partition("\n")[0]) from error
    return tuple(found.devices)


def largest_constant(text: str) -> int:
    """The bytes of the largest array that a program holds, as StableHLO; a repeated number is no array."""
    return max((_bytes(kind) for kind in _CONSTANT.findall(text)), default=0)


def custom_calls(text: str) -> dict[str, int]:
    """How often a program, as StableHLO, calls each routine of the platform's libraries."""
    return _counted(name for name in _CALL.findall(text) if not _LAYOUT.search(name))


def collectives(text: str) -> dict[str, int]:
    """How often each exchange between chips stands in a program: compiled, as HLO, or before, as StableHLO."""
    if "stablehlo." in text:
        return _counted(name.replace("_", "-") for name in _COLLECTIVE_BEFORE.findall(text))
    return _counted(_COLLECTIVE.findall(text))


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _bytes(kind: str) -> int:
    """Of a tensor type such as `4x3xf32`."""
    sizes, dtype = re.fullmatch(r"((?:\d+x)*)(.*)", kind).groups()  # type: ignore[union-attr]
    bits = int(re.sub(r"\D", "", dtype) or 8)
    halves = 2 if dtype.startswith("complex") else 1
    return prod(map(int, sizes.split("x")[:-1])) * max(bits // 8, 1) * halves
