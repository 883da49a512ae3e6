"""The one place where a name in a config becomes an object: `kind: implicit` becomes `toolkit.adjoint.Implicit`.

Each model mirrors one settings class of the library, field by field and default by default (a test compares them), so
that a config is checked, completed and described without importing any mathematics. `build()` imports it.

    class Config(run.Settings):
        adjoint: catalogue.Adjoint = catalogue.Implicit()
        solver: catalogue.Solver = catalogue.GradientDescent(step_size=0.2, num_steps=100)

    solve = toolkit.argmin(inner, config.solver.build(), adjoint=config.adjoint.build())
"""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel

from toolkit.catalogue.adjoints import (
    Adjoint,
    Forward,
    Implicit,
    Nudged,
    OneStep,
    Reversible,
    Stopped,
    Truncated,
    Unroll,
)
from toolkit.catalogue.bilevel_methods import (
    BOME,
    BSA,
    DARTS,
    F2SA,
    FSLA,
    HOAG,
    MRBO,
    PZOBO,
    SABA,
    SAMA,
    SOBA,
    SRBA,
    SUSTAIN,
    T1T2,
    TTSA,
    VRBO,
    AmIGO,
    BilevelMethod,
    DoubleLoop,
    StocBiO,
)
from toolkit.catalogue.estimators import (
    Backprop,
    Estimator,
    EvolutionStrategies,
    ForwardGradient,
    NodePerturbation,
    PersistentES,
    TruncatedBackprop,
    TruncatedES,
    WindowedEstimator,
)
from toolkit.catalogue.fields import PowerDecay
from toolkit.catalogue.linear_solvers import (
    CG,
    GMRES,
    BiCGStab,
    Dense,
    LinearSolver,
    Neumann,
    Nystrom,
)
from toolkit.catalogue.optimizers import Adam, AdamW, Optimizer, RMSProp, Sgd
from toolkit.catalogue.solvers import (
    LBFGS,
    Anderson,
    FixedPointIteration,
    GradientDescent,
    Newton,
    Optax,
    Solver,
)

__all__ = [
    "BOME",
    "BSA",
    "CG",
    "DARTS",
    "F2SA",
    "FAMILIES",
    "FSLA",
    "GMRES",
    "HOAG",
    "LBFGS",
    "MRBO",
    "PZOBO",
    "SABA",
    "SAMA",
    "SOBA",
    "SRBA",
    "SUSTAIN",
    "T1T2",
    "TTSA",
    "VRBO",
    "Adam",
    "AdamW",
    "Adjoint",
    "AmIGO",
    "Anderson",
    "Backprop",
    "BiCGStab",
    "BilevelMethod",
    "Dense",
    "DoubleLoop",
    "Estimator",
    "EvolutionStrategies",
    "FixedPointIteration",
    "Forward",
    "ForwardGradient",
    "GradientDescent",
    "Implicit",
    "LinearSolver",
    "Neumann",
    "Newton",
    "NodePerturbation",
    "Nudged",
    "Nystrom",
    "OneStep",
    "Optax",
    "Optimizer",
    "PersistentES",
    "PowerDecay",
    "RMSProp",
    "Reversible",
    "Sgd",
    "Solver",
    "StocBiO",
    "Stopped",
    "Truncated",
    "TruncatedBackprop",
    "TruncatedES",
    "Unroll",
    "WindowedEstimator",
    "kinds",
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
    "bilevel_methods": kinds(BilevelMethod),
    "estimators": kinds(Estimator) | kinds(WindowedEstimator),
}
