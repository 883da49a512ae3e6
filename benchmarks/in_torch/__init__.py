"""Contestants in PyTorch: the problems with the same numbers, and each library's documented way.

torch may be absent: the modules of this package are imported in the contestants' own processes only.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from benchmarks.contest import Build, Entry, Ready


def entries(problem: str, **settings: Any) -> Callable[[str], Entry]:
    """From a way to its contestant `way(problem(**settings))`; both are `module.function` of this package."""

    def entry(way: str) -> Entry:
        return Entry(lambda: (_named(way)(_named(problem)(**settings)), ()), prepare=eager)

    return entry


def _named(path: str) -> Callable[..., Any]:
    module, name = path.split(".")
    return getattr(import_module(f"{__name__}.{module}"), name)


def eager(build: Build) -> Ready:
    """Runs once, and once more to count bytes; nothing is compiled."""
    import torch

    torch.set_num_threads(1)
    call, _ = build()
    return Ready(call, None, _peak_bytes(call), call())


def _peak_bytes(call: Callable[[], Any]) -> int:
    """The most that a call holds beyond what was there before it, as torch's allocator tells its profiler."""
    from torch.profiler import ProfilerActivity, profile

    call()  # what the first call leaves behind is not temporary
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    events = record.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most
