"""What the models have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

import toolkit  # cheap: its rooms load on first use
from toolkit.run.experiment.common import STRICT

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def arguments(model: BaseModel) -> dict[str, Any]:
    """The model's fields as arguments of what it mirrors, nested kinds built."""
    values: dict[str, Any] = {
        name: getattr(model, name) for name in type(model).model_fields if name != "kind"
    }
    return {
        name: value.build() if hasattr(value, "build") else value for name, value in values.items()
    }


class PowerDecay(BaseModel):
    """The schedule `constant / (step + 1)^exponent`; a negative exponent grows, as a penalty must."""

    model_config = STRICT
    kind: Literal["power_decay"] = "power_decay"
    constant: Positive
    exponent: float

    def build(self) -> Any:
        return toolkit.bilevel.power_decay(self.constant, self.exponent)
