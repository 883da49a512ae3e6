"""Linear solvers. `tol` is relative to the norm of the right-hand side."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

import toolkit
from toolkit.catalogue.fields import Count, Positive, arguments
from toolkit.run.experiment.common import STRICT


class Nystrom(BaseModel):
    """A damped low-rank inverse from random products, for symmetric systems whose spectrum decays."""

    model_config = STRICT
    kind: Literal["nystrom"] = "nystrom"
    rank: Count
    damping: Positive
    tol: Positive = 1e-3

    def build(self) -> Any:
        return toolkit.linear.Nystrom(**arguments(self))


class CG(BaseModel):
    """Conjugate gradients, for symmetric positive definite systems."""

    model_config = STRICT
    kind: Literal["cg"] = "cg"
    max_steps: Count
    tol: Positive
    preconditioner: Nystrom | None = None

    def build(self) -> Any:
        return toolkit.linear.CG(**arguments(self))


class GMRES(BaseModel):
    """Generalized minimal residuals, for any square system."""

    model_config = STRICT
    kind: Literal["gmres"] = "gmres"
    max_steps: Count
    tol: Positive
    preconditioner: Nystrom | None = None
    restart: Count = 20

    def build(self) -> Any:
        return toolkit.linear.GMRES(**arguments(self))


class BiCGStab(BaseModel):
    """Stabilized bi-conjugate gradients, for any square system in little memory."""

    model_config = STRICT
    kind: Literal["bicgstab"] = "bicgstab"
    max_steps: Count
    tol: Positive
    preconditioner: Nystrom | None = None

    def build(self) -> Any:
        return toolkit.linear.BiCGStab(**arguments(self))


class Neumann(BaseModel):
    """A truncated Neumann series; `step_size: null` estimates the step."""

    model_config = STRICT
    kind: Literal["neumann"] = "neumann"
    num_terms: Count
    step_size: Positive | None = None
    tol: Positive = 1e-3

    def build(self) -> Any:
        return toolkit.linear.Neumann(**arguments(self))


class Dense(BaseModel):
    """The matrix written out and factorized, for small systems."""

    model_config = STRICT
    kind: Literal["dense"] = "dense"

    def build(self) -> Any:
        return toolkit.linear.Dense()


LinearSolver = Annotated[
    CG | GMRES | BiCGStab | Neumann | Nystrom | Dense, Field(discriminator="kind")
]
