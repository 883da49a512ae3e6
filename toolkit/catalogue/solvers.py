"""Solvers of the inner problem. `tol` is absolute, on the residual; without it exactly `num_steps` steps run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

import toolkit
from toolkit.catalogue.fields import Count, Fraction, Positive, arguments
from toolkit.catalogue.linear_solvers import LinearSolver
from toolkit.catalogue.optimizers import Optimizer
from toolkit.run.experiment.common import STRICT


class GradientDescent(BaseModel):
    """`v <- momentum*v - grad; y <- y + step_size*v`."""

    model_config = STRICT
    kind: Literal["gradient_descent"] = "gradient_descent"
    step_size: Positive
    num_steps: Count
    momentum: Fraction = 0.0
    tol: Positive | None = None

    def build(self) -> Any:
        return toolkit.solver.GradientDescent(**arguments(self))


class Optax(BaseModel):
    """Any of the optimizers below as the inner solver."""

    model_config = STRICT
    kind: Literal["optax"] = "optax"
    optimizer: Optimizer
    num_steps: Count
    tol: Positive | None = None

    def build(self) -> Any:
        return toolkit.solver.Optax(**arguments(self))


class LBFGS(BaseModel):
    """Limited-memory BFGS."""

    model_config = STRICT
    kind: Literal["lbfgs"] = "lbfgs"
    max_steps: Count
    tol: Positive

    def build(self) -> Any:
        return toolkit.solver.LBFGS(**arguments(self))


class Newton(BaseModel):
    """Newton's method."""

    model_config = STRICT
    kind: Literal["newton"] = "newton"
    max_steps: Count
    tol: Positive
    linear_solver: LinearSolver | None = None

    def build(self) -> Any:
        return toolkit.solver.Newton(**arguments(self))


class FixedPointIteration(BaseModel):
    """`y <- damping*y + (1 - damping)*fun(y)`."""

    model_config = STRICT
    kind: Literal["fixed_point_iteration"] = "fixed_point_iteration"
    max_steps: Count
    tol: Positive
    damping: Fraction = 0.0

    def build(self) -> Any:
        return toolkit.solver.FixedPointIteration(**arguments(self))


class Anderson(BaseModel):
    """Anderson acceleration of a fixed-point iteration."""

    model_config = STRICT
    kind: Literal["anderson"] = "anderson"
    max_steps: Count
    tol: Positive
    history: Count = 5

    def build(self) -> Any:
        return toolkit.solver.Anderson(**arguments(self))


Solver = Annotated[
    GradientDescent | Optax | LBFGS | Newton | FixedPointIteration | Anderson,
    Field(discriminator="kind"),
]
