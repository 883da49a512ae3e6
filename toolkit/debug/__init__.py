"""What a computation does that its result does not show: shapes, gradients a parameter, recompilations."""

from toolkit.debug.annotate import Annotated, annotate
from toolkit.debug.audit import Constant, audit
from toolkit.debug.dead_gradients import DeadGradient, dead_gradients
from toolkit.debug.explain import explain
from toolkit.debug.gradient_report import (
    ClipReport,
    GradientReport,
    clip_report,
    gradient_report,
)
from toolkit.debug.guard import Guarded, NonFiniteError, guard
from toolkit.debug.report import NonFiniteReport
from toolkit.debug.watch import RecompilationError, RecompilationWarning, Watched, watch

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
