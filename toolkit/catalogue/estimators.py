"""Estimators of a loss: how its gradient is made."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

import toolkit
from toolkit.catalogue.fields import Count, Positive, arguments
from toolkit.run.experiment.common import STRICT


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
        return toolkit.estimator.ForwardGradient(**arguments(self))


class EvolutionStrategies(BaseModel):
    """Differences of losses at antithetic random points, `sigma` apart."""

    model_config = STRICT
    kind: Literal["evolution_strategies"] = "evolution_strategies"
    sigma: Positive
    num_pairs: Count
    batch: Count | None = None

    def build(self) -> Any:
        return toolkit.estimator.EvolutionStrategies(**arguments(self))


class NodePerturbation(BaseModel):
    """Noise on activations, credited by the loss."""

    model_config = STRICT
    kind: Literal["node_perturbation"] = "node_perturbation"
    sigma: Positive
    num_samples: Count = 1
    batch: Count | None = None

    def build(self) -> Any:
        return toolkit.estimator.NodePerturbation(**arguments(self))


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
        return toolkit.estimator.TruncatedBackprop(**arguments(self))


class TruncatedES(BaseModel):
    """Evolution strategies on a window of a long unroll."""

    model_config = STRICT
    kind: Literal["truncated_es"] = "truncated_es"
    sigma: Positive
    num_pairs: Count
    truncation: Count
    batch: Count | None = None

    def build(self) -> Any:
        return toolkit.estimator.TruncatedES(**arguments(self))


class PersistentES(BaseModel):
    """Evolution strategies on windows, each particle keeping its state and its perturbations."""

    model_config = STRICT
    kind: Literal["persistent_es"] = "persistent_es"
    sigma: Positive
    num_pairs: Count
    truncation: Count
    batch: Count | None = None

    def build(self) -> Any:
        return toolkit.estimator.PersistentES(**arguments(self))


WindowedEstimator = Annotated[
    TruncatedBackprop | TruncatedES | PersistentES, Field(discriminator="kind")
]
