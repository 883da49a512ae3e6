"""`tk.debug.watch`: why a jitted function compiled again."""

from __future__ import annotations

import functools
import threading
import types
import warnings
from collections.abc import Callable
from typing import Any

import jax

from toolkit.debug.recompiles.signature import Signature, differences, signature_of
from toolkit.errors.readable import readable
from toolkit.jaxprs.hidden import COMPILED, cache_size

_PROBE = "/toolkit/debug/watch"


class RecompilationWarning(UserWarning):
    """A watched function compiled again; the message says why."""


class RecompilationError(RuntimeError):
    """A watched function compiled more often than its limit; the message says why."""


class _Heard(threading.local):
    """What JAX has announced in this thread."""

    compilations = 0  # of any function
    probes = 0


_heard = _Heard()


class Watched:
    """A jitted function that tells why it compiles again; made by `watch`."""

    compilations: int  # of its calls; a first call that found its program ready counts as one
    reasons: tuple[str, ...]  # one a compilation after the first

    def __init__(self, jitted: Callable[..., Any], limit: int | None):
        functools.update_wrapper(self, jitted)
        self.__name__: str = getattr(jitted, "__name__", "the function")
        self._lock = threading.Lock()
        self._jitted = jitted
        self._limit = limit
        self._seen: list[Signature] = []
        self.compilations = 0
        self.reasons = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        size, heard = cache_size(self._jitted), _heard.compilations
        result = self._jitted(*args, **kwargs)
        if _compiled(self._jitted, size, heard):
            self._account(signature_of(self._jitted, args, kwargs))
        elif not self.compilations and not _traced((args, kwargs)):
            # The first call found its program compiled, because it ran before it was watched or another `jit`
            # of the same function compiled it. It is counted, so that later ones have a call to differ from.
            self._account(signature_of(self._jitted, args, kwargs))
        return result

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __getattr__(self, name: str) -> Any:
        if name == "_jitted":  # asked for by `copy` before there is one
            raise AttributeError(name)
        return getattr(self._jitted, name)

    def _account(self, signature: Signature) -> None:
        with self._lock:
            self.compilations += 1
            count = self.compilations
            reason = f"compilation {count} of {self.__name__}: {self._reason(signature)}"
            self._seen.append(signature)
            if count > 1:
                self.reasons = (*self.reasons, reason)
        if self._limit is not None and count > self._limit:
            raise RecompilationError(f"more than limit={self._limit}: {reason}")
        if count > 1:
            # The third frame from here is the line that has called the watched function.
            warnings.warn(reason, RecompilationWarning, stacklevel=3)

    def _reason(self, signature: Signature) -> str:
        """How the call differs from the one that is closest to it."""
        found = [differences(signature, seen) for seen in reversed(self._seen)]
        closest = min(found, key=len, default=[])
        return "; ".join(closest) or (
            "the call is like one before it: jax.clear_caches, or a setting of jax.config not looked at"
        )


@readable
def watch(jitted: Callable[..., Any], limit: int | None = None) -> Watched:
    """`jitted`, with a `RecompilationWarning` for each compilation after the first.

    The warning names the argument and what changed in it since the closest earlier call: shape,
    dtype, weak type, sharding, static value, tree structure, how it was passed; or the setting of
    `jax.config`. It is kept in `.reasons`; `.compilations` counts. All other attributes are those of
    `jitted` (`.lower`, `.trace`, ...); methods bind as they do there.

    Args:
      jitted: made by `jax.jit`.
      limit: compilations allowed in all, the first included; None allows any number.

    Raises:
      RecompilationError: by the call that compiled once too often, after it has run.

    Only compilations count: where NumPy arrays, or equivalent shardings, find a program that is
    compiled already, nothing is said. Calls inside another `jit` compile nothing of their own.

    Cost: about a microsecond a call.

    Example:
      step = tk.debug.watch(jax.jit(step), limit=2)
    """
    if not callable(jitted) or not callable(getattr(jitted, "lower", None)):
        name = getattr(jitted, "__name__", type(jitted).__name__)
        raise TypeError(
            f"`jitted` must be made by jax.jit: got {name}; use watch(jax.jit({name}))."
        )
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ValueError(f"`limit` must be a positive int, or None: got {limit!r}.")
    _listening()
    return Watched(jitted, limit)


def _compiled(jitted: Any, size: int | None, heard: int) -> bool:
    """Whether a call before which the cache had `size` entries has compiled `jitted`.

    The size of the cache alone does not tell: it also grows when a NumPy array takes the place of a JAX
    one, without any compilation. Nor do the announcements of JAX: what was compiled may be another function
    that `jitted` calls while it is traced. Together they do.
    """
    if size is not None and cache_size(jitted) == size:
        return False
    # If nobody listened during the call, the size of the cache has to decide alone.
    return _heard.compilations > heard or (size is not None and not _listening())


def _listening() -> bool:
    """Whether JAX's announcements arrive; sees to it that they do from now on."""
    before = _heard.probes
    jax.monitoring.record_event_duration_secs(_PROBE, 0.0)
    if _heard.probes > before:
        return True
    # Nobody listens yet, or somebody has called jax.monitoring.clear_event_listeners().
    jax.monitoring.register_event_duration_secs_listener(_listen)
    return False


def _listen(event: str, duration_secs: float, **_: Any) -> None:
    if event == COMPILED:
        _heard.compilations += 1
    elif event == _PROBE:
        _heard.probes += 1


def _traced(tree: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))
