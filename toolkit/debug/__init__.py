"""What a computation does that its result does not show: gradients a parameter, and why it compiled again."""

from toolkit.debug.audit import Constant, audit
from toolkit.debug.dead_gradients import DeadGradient, dead_gradients
from toolkit.debug.explain import explain
from toolkit.debug.gradient_report import (
    ClipReport,
    GradientReport,
    clip_report,
    gradient_report,
)
from toolkit.debug.report import NonFiniteReport
from toolkit.debug.watch import RecompilationError, RecompilationWarning, Watched, watch

__all__ = [
    "ClipReport",
    "Constant",
    "DeadGradient",
    "GradientReport",
    "NonFiniteReport",
    "RecompilationError",
    "RecompilationWarning",
    "Watched",
    "audit",
    "clip_report",
    "dead_gradients",
    "explain",
    "gradient_report",
    "watch",
]
