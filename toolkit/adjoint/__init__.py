"""Derivative rules of a solve: the same value, another derivative."""

from toolkit.adjoint.implicit import Implicit
from toolkit.adjoint.one_step import OneStep
from toolkit.adjoint.stopped import Stopped
from toolkit.adjoint.truncated import Truncated
from toolkit.adjoint.unroll import Unroll

__all__ = ["Implicit", "OneStep", "Stopped", "Truncated", "Unroll"]
