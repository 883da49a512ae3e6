"""Small checks of what JAX records beside a program: each fails if a release has changed what is recorded.

Each function here is the check of one row in `known.py`.
"""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from toolkit.jaxprs import hidden, recorded_lines
from toolkit.jaxprs.collectives import collective_axes
from toolkit.jaxprs.internals.samples import (
    X,
    first,
    on_one_device,
    traced,
)
from toolkit.jaxprs.varying_axes import is_checked, varying_axes


def lines() -> None:
    """An equation remembers the calls that led to it, innermost first."""

    def inside(x: Any) -> Any:
        return jax.lax.sin(x)

    equation = first(lambda x: inside(x))
    ours = [line for file, line in recorded_lines.frames(equation) if file == __file__]
    assert ours[:2] == [inside.__code__.co_firstlineno + 1, lines.__code__.co_firstlineno + 6]


def instructions() -> None:
    """The calls are also known by their code, and by the instruction that they were at."""

    def inside(x: Any) -> Any:
        return jax.lax.sin(x)

    found = [
        (code, at) for code, at in recorded_lines.codes(first(inside)) if code is inside.__code__
    ]
    # `co_positions` has an entry for each instruction, and an instruction takes two bytes.
    (_, at), position = found[0], inside.__code__.co_firstlineno + 1
    assert list(inside.__code__.co_positions())[at // 2][0] == position


def transformations() -> None:
    """An equation knows whether a derivative made it."""
    equations = traced(jax.grad(lambda x: jnp.sin(x).sum())).jaxpr.eqns
    names = [recorded_lines.transformations(equation) for equation in equations]
    assert any("jvp" in name and "transpose" not in name for name in names)
    assert any("transpose" in name for name in names)


def summary() -> None:
    """JAX says in a line where an equation comes from, and leaves out the folders that we exclude."""
    own = first(lambda x: jax.lax.sin(x))
    assert os.path.basename(__file__) in recorded_lines.summary(own)
    # A folder that does not exist: what is excluded stays excluded for the rest of the process.
    scope: dict[str, Any] = {"sin": jax.lax.sin}
    hidden_file = os.path.join(os.sep, "toolkit excludes", "hidden.py")
    exec(compile("def called(x): return sin(x)", hidden_file, "exec"), scope)
    recorded_lines.exclude(os.path.dirname(hidden_file) + os.sep)
    assert "hidden.py" not in recorded_lines.summary(first(lambda x: scope["called"](x)))


def definition() -> None:
    """A program says which function it was traced from."""

    def sine(x: Any) -> Any:
        return jnp.sin(x)

    name, place = recorded_lines.definition(traced(sine))
    assert name == "sine"
    assert place.endswith(f"{os.path.basename(__file__)}:{sine.__code__.co_firstlineno}")


def failed_check() -> None:
    """The exception of a failed check says where the check was made."""

    def checked(x: Any) -> Any:
        checkify.check(x > 0, "not positive")
        return x

    error, _ = checkify.checkify(checked)(-1.0)
    line = checked.__code__.co_firstlineno + 1
    assert (__file__, line) in list(recorded_lines.frames_of_check(error.get_exception()))


def trace_state() -> None:
    """The state of tracing differs inside of a transformation, and only there."""
    found: list[Any] = []

    def noting(x: Any) -> Any:
        found.append(hidden.trace_state())
        return x

    traced(noting)
    assert hidden.trace_state() == hidden.trace_state() != found[0]


def weak_type() -> None:
    """A cast may make a weak type."""
    cast = hidden.converted(jnp.asarray(1, jnp.int32), jnp.dtype("float32"), True)
    assert cast.dtype == np.float32 and cast.weak_type and cast == 1


def device_axes() -> None:
    """A value inside of `jax.shard_map` knows over which axes it varies."""
    found: list[frozenset[str]] = []

    def noting(x: Any) -> Any:
        found.append(varying_axes(x))
        return x

    traced(on_one_device(noting))
    assert found[0] == {"i"}


def device_sums() -> None:
    """A collective says along which axes it combines, and a device's number differs between devices."""
    found: list[Any] = []

    def noting(x: Any) -> Any:
        marked = jax.make_jaxpr(lambda x: jax.lax.pmean(x, "i") + jax.lax.all_gather(x, "i").sum())(
            x
        )
        found.append((collective_axes(marked, [True]), is_checked("i")))
        return x

    traced(on_one_device(noting))
    assert found[0] == ({"i"}, True)


def compilations() -> None:
    """A jitted function counts what it has cached, and JAX announces what it compiles."""
    heard: list[str] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        heard.append(event)

    double = jax.jit(lambda x: 2 * x)
    before = hidden.cache_size(double)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        double(X)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert (before, hidden.cache_size(double)) == (0, 1) and hidden.COMPILED in heard


def static_arguments() -> None:
    """A jitted function knows which of its arguments are static."""
    function = jax.jit(lambda x, n, *, flag: x, static_argnums=1, static_argnames="flag")
    assert {1, "flag"} <= (hidden.static_arguments(function) or set())


def files_of_jax() -> None:
    """The files by which the numbers of JAX are told from a caller's are there."""
    named = (*hidden.MACHINERY, *hidden.HAND_ON, hidden.CUSTOM_RULES, hidden.DIFFERENTIATION)
    for path in (*named, hidden.RANDOM):
        folder, start = os.path.split(path)
        assert os.path.isdir(folder), folder
        assert any(name.startswith(start) for name in os.listdir(folder)), path


def wrappers_of_jax() -> None:
    """The functions in which JAX calls the user's, and those that make keys, keep their names."""
    seeding = {code.co_name for code, _ in recorded_lines.codes(first(jax.random.key, 1))}
    assert seeding & hidden.SEEDED
    found: list[set[str]] = []

    def noting(x: Any) -> Any:
        found.append(_running())
        return x

    traced(jax.vmap(noting))
    traced(on_one_device(noting))
    assert hidden.VMAP in found[0] and hidden.SHARD_MAP in found[-1]


def _running() -> set[str]:
    """Names of the code that is running now, from here outwards."""
    frame: FrameType | None = sys._getframe()
    names: set[str] = set()
    while frame is not None:
        names |= {frame.f_code.co_name, frame.f_code.co_qualname}
        frame = frame.f_back
    return names
