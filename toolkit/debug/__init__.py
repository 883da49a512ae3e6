"""What does a computation do that its result does not show? Each question about it has a room of its own."""

from typing import TYPE_CHECKING

from toolkit.faces import lazy

if TYPE_CHECKING:
    from toolkit.debug.dead.dead_gradients import DeadGradient, dead_gradients
    from toolkit.debug.gradients.gradient_report import (
        ClipReport,
        GradientReport,
        clip_report,
        gradient_report,
    )
    from toolkit.debug.nonfinite.explain import explain
    from toolkit.debug.nonfinite.guard import Guarded, NonFiniteError, guard
    from toolkit.debug.nonfinite.nonfinite_report import NonFiniteReport
    from toolkit.debug.numbers.audit import Constant, audit
    from toolkit.debug.recompiles.watch import (
        RecompilationError,
        RecompilationWarning,
        Watched,
        watch,
    )
    from toolkit.debug.shapes.annotate import Annotated, annotate

__all__ = [
    "Annotated",
    "ClipReport",
    "Constant",
    "DeadGradient",
    "GradientReport",
    "Guarded",
    "NonFiniteError",
    "NonFiniteReport",
    "RecompilationError",
    "RecompilationWarning",
    "Watched",
    "annotate",
    "audit",
    "clip_report",
    "dead_gradients",
    "explain",
    "gradient_report",
    "guard",
    "watch",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "toolkit.debug.dead.dead_gradients": ("DeadGradient", "dead_gradients"),
        "toolkit.debug.gradients.gradient_report": (
            "ClipReport",
            "GradientReport",
            "clip_report",
            "gradient_report",
        ),
        "toolkit.debug.nonfinite.explain": ("explain",),
        "toolkit.debug.nonfinite.guard": ("Guarded", "NonFiniteError", "guard"),
        "toolkit.debug.nonfinite.nonfinite_report": ("NonFiniteReport",),
        "toolkit.debug.numbers.audit": ("Constant", "audit"),
        "toolkit.debug.recompiles.watch": (
            "RecompilationError",
            "RecompilationWarning",
            "Watched",
            "watch",
        ),
        "toolkit.debug.shapes.annotate": ("Annotated", "annotate"),
    },
)
