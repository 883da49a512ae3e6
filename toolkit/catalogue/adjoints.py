"""Adjoints: how the derivative of a solve is made."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

import toolkit
from toolkit.catalogue.fields import Count, NonNegative, Positive, arguments
from toolkit.catalogue.linear_solvers import LinearSolver
from toolkit.run.experiment.common import STRICT


class Implicit(BaseModel):
    """Implicit function theorem; `linear_solver: null` chooses by structure and size."""

    model_config = STRICT
    kind: Literal["implicit"] = "implicit"
    linear_solver: LinearSolver | None = None
    damping: NonNegative = 0.0

    def build(self) -> Any:
        return toolkit.adjoint.Implicit(**arguments(self))


class Unroll(BaseModel):
    """Through every step; `checkpoint` stores fewer iterates and recomputes the others, `written_out` is for few."""

    model_config = STRICT
    kind: Literal["unroll"] = "unroll"
    checkpoint: Literal["sqrt"] | Count | None = None
    forward_mode: bool = False
    written_out: bool = False

    def build(self) -> Any:
        return toolkit.adjoint.Unroll(**arguments(self))


class Forward(BaseModel):
    """Tangents carried along with the steps, for few hyperparameters."""

    model_config = STRICT
    kind: Literal["forward"] = "forward"
    max_tangents: Count = 1000

    def build(self) -> Any:
        return toolkit.adjoint.Forward(**arguments(self))


class Truncated(BaseModel):
    """Through the last `num_steps` steps."""

    model_config = STRICT
    kind: Literal["truncated"] = "truncated"
    num_steps: Count

    def build(self) -> Any:
        return toolkit.adjoint.Truncated(**arguments(self))


class Reversible(BaseModel):
    """Through every step, undone one at a time; `mean_momentum` sizes the memory of a computed schedule."""

    model_config = STRICT
    kind: Literal["reversible"] = "reversible"
    mean_momentum: Annotated[float, Field(gt=0, le=1)] | None = None

    def build(self) -> Any:
        return toolkit.adjoint.Reversible(**arguments(self))


class Nudged(BaseModel):
    """Equilibrium propagation: from solves nudged by `beta` times the cotangent, over its norm if `normalize`."""

    model_config = STRICT
    kind: Literal["nudged"] = "nudged"
    beta: Positive
    scheme: Literal["one_sided", "centered", "holomorphic"] = "centered"
    normalize: bool = False
    num_points: Annotated[int, Field(ge=2)] = 4

    def build(self) -> Any:
        return toolkit.adjoint.Nudged(**arguments(self))


class OneStep(BaseModel):
    """Through one application of the solver's step at the solution."""

    model_config = STRICT
    kind: Literal["one_step"] = "one_step"

    def build(self) -> Any:
        return toolkit.adjoint.OneStep()


class Stopped(BaseModel):
    """Zero: the solution as a constant."""

    model_config = STRICT
    kind: Literal["stopped"] = "stopped"

    def build(self) -> Any:
        return toolkit.adjoint.Stopped()


Adjoint = Annotated[
    Implicit | Unroll | Forward | Truncated | Reversible | Nudged | OneStep | Stopped,
    Field(discriminator="kind"),
]
