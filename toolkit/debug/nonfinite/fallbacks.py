"""Answers where the replay finds nothing or cannot run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax.experimental import checkify

from toolkit.debug.nonfinite.flags import first_bad
from toolkit.debug.nonfinite.interpret import placed
from toolkit.debug.nonfinite.nonfinite_report import NonFiniteReport, in_words
from toolkit.debug.nonfinite.origins import Birth
from toolkit.debug.source_lines import NOWHERE, lines_of
from toolkit.jaxprs.recorded_lines import frames_of_check

_FUSED = (
    "Equation by equation the computation stays finite: compiled, XLA reorders or fuses it. "
    "This is the first bad equation of the compiled computation; operands were not kept."
)


def first_flagged(computation: Any, operands: Sequence[Any]) -> Birth:
    """The first equation whose result is bad while its operands are not, in one compilation."""
    here = first_bad(computation, lambda flags: flags, operands)
    if here is None:
        return Birth((), "unknown", note=_FUSED + " It is finite there too.")
    place, inside = placed(here)
    name = here.equations[-1].primitive.name
    return Birth(here.order, name, place, inside, here.names, note=_FUSED)


def from_checkify(
    fn: Callable[..., Any], args: Sequence[Any], outputs: tuple[str, ...], error: Exception
) -> NonFiniteReport:
    """What `jax.experimental.checkify` knows: the primitive, and where it was traced."""
    note = f"The replay failed ({type(error).__name__}: {_first_line(error)}); checkify answered."
    operation, place = "unknown", NOWHERE
    # checkify tells less, but it accepts every primitive that JAX can compile, so it may answer where the
    # replay cannot. If it fails too, the report says so.
    try:
        checked, _ = checkify.checkify(fn, errors=checkify.float_checks)(*args)
        raised = checked.get_exception()
        message = str(raised or "")
        operation = message.rpartition("primitive: ")[2].strip(". ") or operation
        place = lines_of(frames_of_check(raised))[0]
    except Exception as second:
        note = (
            f"The replay failed ({type(error).__name__}: {_first_line(error)}) "
            f"and so did checkify ({type(second).__name__})."
        )
    return NonFiniteReport(
        place.file,
        place.line,
        place.source,
        in_words(operation),
        "forward",
        (),
        (),
        (),
        None,
        (),
        outputs=outputs,
        note=note,
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
