"""How is the derivative of a solve made? Rules: the same value, another derivative."""

from toolkit.adjoint.forward import Forward
from toolkit.adjoint.implicit import Implicit
from toolkit.adjoint.nudged import Nudged
from toolkit.adjoint.one_step import OneStep
from toolkit.adjoint.reversible.rule import Reversible
from toolkit.adjoint.stopped import Stopped
from toolkit.adjoint.truncated import Truncated
from toolkit.adjoint.unroll import Unroll
from toolkit.adjoint.zeros import ZeroDerivativeWarning
from toolkit.vocabulary.roles import Adjoint

__all__ = [
    "Adjoint",
    "Forward",
    "Implicit",
    "Nudged",
    "OneStep",
    "Reversible",
    "Stopped",
    "Truncated",
    "Unroll",
    "ZeroDerivativeWarning",
]


def __dir__() -> list[str]:
    return sorted(__all__)
