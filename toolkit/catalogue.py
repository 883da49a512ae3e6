"""The one place where a name in a config becomes an object: `kind: implicit` becomes `toolkit.adjoint.Implicit`.

Each model mirrors one settings class of the library, field by field and default by default (a test compares them), so
that a config is checked, completed and described without importing any mathematics. `build()` imports it.

    class Config(run.Settings):
        adjoint: catalogue.Adjoint = catalogue.Implicit()
        solver: catalogue.Solver = catalogue.GradientDescent(step_size=0.2, num_steps=100)

    solve = toolkit.argmin(inner, config.solver.build(), adjoint=config.adjoint.build())
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field

import toolkit  # cheap: its rooms load on first use
from toolkit.run.settings import STRICT

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def _arguments(model: BaseModel) -> dict[str, Any]:
    """The model's fields as arguments of what it mirrors, nested kinds built."""
    values: dict[str, Any] = {
        name: getattr(model, name) for name in type(model).model_fields if name != "kind"
    }
    return {
        name: value.build() if hasattr(value, "build") else value for name, value in values.items()
    }


# Linear solvers. `tol` is relative to the norm of the right-hand side.


class Nystrom(BaseModel):
    """A damped low-rank inverse from random products, for symmetric systems whose spectrum decays."""

    model_config = STRICT
    kind: Literal["nystrom"] = "nystrom"
    rank: Count
    damping: Positive
    tol: Positive = 1e-3

    def build(self) -> Any:
        return toolkit.linear.Nystrom(**_arguments(self))


class CG(BaseModel):
    """Conjugate gradients, for symmetric positive definite systems."""

    model_config = STRICT
    kind: Literal["cg"] = "cg"
    max_steps: Count
    tol: Positive
    preconditioner: Nystrom | None = None

    def build(self) -> Any:
        return toolkit.linear.CG(**_arguments(self))


class GMRES(BaseModel):
    """Generalized minimal residuals, for any square system."""

    model_config = STRICT
    kind: Literal["gmres"] = "gmres"
    max_steps: Count
    tol: Positive
    preconditioner: Nystrom | None = None

    def build(self) -> Any:
        return toolkit.linear.GMRES(**_arguments(self))


class BiCGStab(BaseModel):
    """Stabilized bi-conjugate gradients, for any square system in little memory."""

    model_config = STRICT
    kind: Literal["bicgstab"] = "bicgstab"
    max_steps: Count
    tol: Positive
    preconditioner: Nystrom | None = None

    def build(self) -> Any:
        return toolkit.linear.BiCGStab(**_arguments(self))


class Neumann(BaseModel):
    """A truncated Neumann series; `step_size: null` estimates the step."""

    model_config = STRICT
    kind: Literal["neumann"] = "neumann"
    num_terms: Count
    step_size: Positive | None = None
    tol: Positive = 1e-3

    def build(self) -> Any:
        return toolkit.linear.Neumann(**_arguments(self))


class Dense(BaseModel):
    """The matrix written out and factorized, for small systems."""

    model_config = STRICT
    kind: Literal["dense"] = "dense"

    def build(self) -> Any:
        return toolkit.linear.Dense()


LinearSolver = Annotated[
    CG | GMRES | BiCGStab | Neumann | Nystrom | Dense, Field(discriminator="kind")
]


# Adjoints: how the derivative of a solve is made.


class Implicit(BaseModel):
    """Implicit function theorem; `linear_solver: null` chooses by structure and size."""

    model_config = STRICT
    kind: Literal["implicit"] = "implicit"
    linear_solver: LinearSolver | None = None
    damping: NonNegative = 0.0

    def build(self) -> Any:
        return toolkit.adjoint.Implicit(**_arguments(self))


class Unroll(BaseModel):
    """Through every step; `checkpoint` stores fewer iterates and recomputes the others."""

    model_config = STRICT
    kind: Literal["unroll"] = "unroll"
    checkpoint: Literal["sqrt"] | Count | None = None
    forward_mode: bool = False

    def build(self) -> Any:
        return toolkit.adjoint.Unroll(**_arguments(self))


class Forward(BaseModel):
    """Tangents carried along with the steps, for few hyperparameters."""

    model_config = STRICT
    kind: Literal["forward"] = "forward"
    max_tangents: Count = 1000

    def build(self) -> Any:
        return toolkit.adjoint.Forward(**_arguments(self))


class Truncated(BaseModel):
    """Through the last `num_steps` steps."""

    model_config = STRICT
    kind: Literal["truncated"] = "truncated"
    num_steps: Count

    def build(self) -> Any:
        return toolkit.adjoint.Truncated(**_arguments(self))


class Reversible(BaseModel):
    """Through every step, undone one at a time; `mean_momentum` sizes the memory of a computed schedule."""

    model_config = STRICT
    kind: Literal["reversible"] = "reversible"
    mean_momentum: Annotated[float, Field(gt=0, le=1)] | None = None

    def build(self) -> Any:
        return toolkit.adjoint.Reversible(**_arguments(self))


class Nudged(BaseModel):
    """Equilibrium propagation: from solves nudged by `beta` times the cotangent, over its norm if `normalize`."""

    model_config = STRICT
    kind: Literal["nudged"] = "nudged"
    beta: Positive
    scheme: Literal["one_sided", "centered", "holomorphic"] = "centered"
    normalize: bool = False
    num_points: Annotated[int, Field(ge=2)] = 4

    def build(self) -> Any:
        return toolkit.adjoint.Nudged(**_arguments(self))


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


# Optimizers of optax.


class Sgd(BaseModel):
    """Gradient descent, with momentum where it is set."""

    model_config = STRICT
    kind: Literal["sgd"] = "sgd"
    learning_rate: Positive
    momentum: Fraction | None = None
    nesterov: bool = False

    def build(self) -> Any:
        import optax

        return optax.sgd(**_arguments(self))


class Adam(BaseModel):
    """Adam; set `eps_root` above zero where its updates are differentiated."""

    model_config = STRICT
    kind: Literal["adam"] = "adam"
    learning_rate: Positive
    b1: Fraction = 0.9
    b2: Fraction = 0.999
    eps: Positive = 1e-8
    eps_root: NonNegative = 0.0
    nesterov: bool = False

    def build(self) -> Any:
        import optax

        return optax.adam(**_arguments(self))


class AdamW(BaseModel):
    """Adam with decoupled weight decay; set `eps_root` above zero where its updates are differentiated."""

    model_config = STRICT
    kind: Literal["adamw"] = "adamw"
    learning_rate: Positive
    b1: Fraction = 0.9
    b2: Fraction = 0.999
    eps: Positive = 1e-8
    eps_root: NonNegative = 0.0
    weight_decay: NonNegative = 1e-4
    nesterov: bool = False

    def build(self) -> Any:
        import optax

        return optax.adamw(**_arguments(self))


class RMSProp(BaseModel):
    """Gradients over a running root mean square of themselves."""

    model_config = STRICT
    kind: Literal["rmsprop"] = "rmsprop"
    learning_rate: Positive
    decay: Fraction = 0.9
    eps: Positive = 1e-8
    initial_scale: NonNegative = 0.0
    centered: bool = False
    momentum: Fraction | None = None
    nesterov: bool = False

    def build(self) -> Any:
        import optax

        return optax.rmsprop(**_arguments(self))


Optimizer = Annotated[Sgd | Adam | AdamW | RMSProp, Field(discriminator="kind")]


# Solvers of the inner problem. `tol` is absolute, on the residual; without it exactly `num_steps` steps run.


class GradientDescent(BaseModel):
    """`v <- momentum*v - grad; y <- y + step_size*v`."""

    model_config = STRICT
    kind: Literal["gradient_descent"] = "gradient_descent"
    step_size: Positive
    num_steps: Count
    momentum: Fraction = 0.0
    tol: Positive | None = None

    def build(self) -> Any:
        return toolkit.solver.GradientDescent(**_arguments(self))


class Optax(BaseModel):
    """Any of the optimizers below as the inner solver."""

    model_config = STRICT
    kind: Literal["optax"] = "optax"
    optimizer: Optimizer
    num_steps: Count
    tol: Positive | None = None

    def build(self) -> Any:
        return toolkit.solver.Optax(**_arguments(self))


class LBFGS(BaseModel):
    """Limited-memory BFGS."""

    model_config = STRICT
    kind: Literal["lbfgs"] = "lbfgs"
    max_steps: Count
    tol: Positive

    def build(self) -> Any:
        return toolkit.solver.LBFGS(**_arguments(self))


class Newton(BaseModel):
    """Newton's method."""

    model_config = STRICT
    kind: Literal["newton"] = "newton"
    max_steps: Count
    tol: Positive
    linear_solver: LinearSolver | None = None

    def build(self) -> Any:
        return toolkit.solver.Newton(**_arguments(self))


class FixedPointIteration(BaseModel):
    """`y <- damping*y + (1 - damping)*fun(y)`."""

    model_config = STRICT
    kind: Literal["fixed_point_iteration"] = "fixed_point_iteration"
    max_steps: Count
    tol: Positive
    damping: Fraction = 0.0

    def build(self) -> Any:
        return toolkit.solver.FixedPointIteration(**_arguments(self))


class Anderson(BaseModel):
    """Anderson acceleration of a fixed-point iteration."""

    model_config = STRICT
    kind: Literal["anderson"] = "anderson"
    max_steps: Count
    tol: Positive
    history: Count = 5

    def build(self) -> Any:
        return toolkit.solver.Anderson(**_arguments(self))


Solver = Annotated[
    GradientDescent | Optax | LBFGS | Newton | FixedPointIteration | Anderson,
    Field(discriminator="kind"),
]


# Estimators of a loss: how its gradient is made.


class Backprop(BaseModel):
    """The gradient itself, by reverse mode."""

    model_config = STRICT
    kind: Literal["backprop"] = "backprop"

    def build(self) -> Any:
        return toolkit.estimator.Backprop()


class ForwardGradient(BaseModel):
    """Directional derivatives along random directions, in forward mode."""

    model_config = STRICT
    kind: Literal["forward_gradient"] = "forward_gradient"
    num_directions: Count = 1
    batch: Count | None = None

    def build(self) -> Any:
        return toolkit.estimator.ForwardGradient(**_arguments(self))


class EvolutionStrategies(BaseModel):
    """Differences of losses at antithetic random points, `sigma` apart."""

    model_config = STRICT
    kind: Literal["evolution_strategies"] = "evolution_strategies"
    sigma: Positive
    num_pairs: Count
    batch: Count | None = None

    def build(self) -> Any:
        return toolkit.estimator.EvolutionStrategies(**_arguments(self))


class NodePerturbation(BaseModel):
    """Noise on activations, credited by the loss."""

    model_config = STRICT
    kind: Literal["node_perturbation"] = "node_perturbation"
    sigma: Positive
    num_samples: Count = 1
    batch: Count | None = None

    def build(self) -> Any:
        return toolkit.estimator.NodePerturbation(**_arguments(self))


Estimator = Annotated[
    Backprop | ForwardGradient | EvolutionStrategies | NodePerturbation,
    Field(discriminator="kind"),
]


class TruncatedBackprop(BaseModel):
    """Reverse mode through a window of a long unroll."""

    model_config = STRICT
    kind: Literal["truncated_backprop"] = "truncated_backprop"
    truncation: Count

    def build(self) -> Any:
        return toolkit.estimator.TruncatedBackprop(**_arguments(self))


class TruncatedES(BaseModel):
    """Evolution strategies on a window of a long unroll."""

    model_config = STRICT
    kind: Literal["truncated_es"] = "truncated_es"
    sigma: Positive
    num_pairs: Count
    truncation: Count
    batch: Count | None = None

    def build(self) -> Any:
        return toolkit.estimator.TruncatedES(**_arguments(self))


class PersistentES(BaseModel):
    """Evolution strategies on windows, each particle keeping its state and its perturbations."""

    model_config = STRICT
    kind: Literal["persistent_es"] = "persistent_es"
    sigma: Positive
    num_pairs: Count
    truncation: Count
    batch: Count | None = None

    def build(self) -> Any:
        return toolkit.estimator.PersistentES(**_arguments(self))


WindowedEstimator = Annotated[
    TruncatedBackprop | TruncatedES | PersistentES, Field(discriminator="kind")
]


def kinds(union: Any) -> dict[str, type[BaseModel]]:
    """The models of a union by the name that selects them."""
    members = get_args(get_args(union)[0])
    return {model.model_fields["kind"].default: model for model in members}


FAMILIES = {
    "adjoints": kinds(Adjoint),
    "solvers": kinds(Solver),
    "linear_solvers": kinds(LinearSolver),
    "optimizers": kinds(Optimizer),
    "estimators": kinds(Estimator) | kinds(WindowedEstimator),
}
