"""Optimizers of optax."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from toolkit.catalogue.fields import Fraction, NonNegative, Positive, arguments
from toolkit.run.experiment.common import STRICT


class Sgd(BaseModel):
    """Gradient descent, with momentum where it is set."""

    model_config = STRICT
    kind: Literal["sgd"] = "sgd"
    learning_rate: Positive
    momentum: Fraction | None = None
    nesterov: bool = False

    def build(self) -> Any:
        import optax

        return optax.sgd(**arguments(self))


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

        return optax.adam(**arguments(self))


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

        return optax.adamw(**arguments(self))


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

        return optax.rmsprop(**arguments(self))


Optimizer = Annotated[Sgd | Adam | AdamW | RMSProp, Field(discriminator="kind")]
