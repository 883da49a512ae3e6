"""Which source lines an equation comes from, as JAX has recorded them."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType
from typing import Any, NamedTuple

from jax.extend import source_info_util


class Definition(NamedTuple):
    """Name and place of the function that a program was traced from."""

    name: str  # without the enclosing functions: "f", not "g.<locals>.f"; "" if not known
    place: str  # file:line; "" if not known


def frames(equation: Any) -> Iterator[tuple[str, int]]:
    """File and line of the calls that led to an equation, innermost first; none where JAX kept no record."""
    return _recorded(equation.source_info.traceback)


def frames_of_check(raised: Any) -> Iterator[tuple[str, int]]:
    """As `frames`, of the exception that `jax.experimental.checkify` makes of a failed check."""
    return _recorded(getattr(raised, "traceback_info", None))


def codes(equation: Any) -> Iterator[tuple[CodeType, int]]:
    """As `frames`, but the code of each call and the byte offset of the instruction that it had reached."""
    traceback = equation.source_info.traceback
    return iter(()) if traceback is None else zip(*traceback.raw_frames(), strict=True)


def transformations(equation: Any) -> str:
    """The names of scopes and transformations around an equation: "jvp(loss)/transpose(jvp(mean))"."""
    return str(equation.source_info.name_stack)


def summary(equation: Any) -> str:
    """The user's line of an equation as JAX prints it: "model.py:12:4 (loss)"."""
    return source_info_util.summarize(equation.source_info)


def exclude(folder: str) -> None:
    """From now on JAX's messages name no line of a file below this folder as the user's."""
    source_info_util.register_exclusion(folder)


def definition(computation: Any) -> Definition:
    """Name and place of the function that a program was traced from."""
    # JAX writes them as one text: "g.<locals>.f at model.py:12".
    info = getattr(getattr(computation, "jaxpr", computation), "debug_info", None)
    name, _, place = (getattr(info, "func_src_info", None) or "").partition(" at ")
    return Definition(name.rpartition(".")[2], place)


def _recorded(traceback: Any) -> Iterator[tuple[str, int]]:
    for frame in traceback.frames if traceback is not None else ():
        yield frame.file_name, frame.line_num
