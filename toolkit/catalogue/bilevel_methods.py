"""Bilevel methods. A step size is a number or a `power_decay`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

import toolkit
from toolkit.catalogue.adjoints import Adjoint
from toolkit.catalogue.fields import Count, Positive, PowerDecay, arguments
from toolkit.catalogue.optimizers import Optimizer
from toolkit.run.experiment.common import STRICT

Rate = Positive | PowerDecay
Momentum = Annotated[float, Field(gt=0, le=1)] | PowerDecay


class SOBA(BaseModel):
    """One step of y, of v and of theta at once."""

    model_config = STRICT
    kind: Literal["soba"] = "soba"
    inner_step_size: Rate
    outer_step_size: Rate
    batch_size: Count | None = None
    linear_step_size: Rate | None = None
    inner_optimizer: Optimizer | None = None
    outer_optimizer: Optimizer | None = None

    def build(self) -> Any:
        return toolkit.bilevel.SOBA(**arguments(self))


class SABA(BaseModel):
    """SOBA with SAGA's memory of every block of the data."""

    model_config = STRICT
    kind: Literal["saba"] = "saba"
    inner_step_size: Rate
    outer_step_size: Rate
    batch_size: Count | None = None
    linear_step_size: Rate | None = None
    full_start: bool = False
    inner_optimizer: Optimizer | None = None
    outer_optimizer: Optimizer | None = None

    def build(self) -> Any:
        return toolkit.bilevel.SABA(**arguments(self))


class SRBA(BaseModel):
    """SOBA with SARAH's differences between looks at the whole data."""

    model_config = STRICT
    kind: Literal["srba"] = "srba"
    inner_step_size: Rate
    outer_step_size: Rate
    batch_size: Count | None = None
    linear_step_size: Rate | None = None
    period: Count | None = None
    radius: Positive | None = None
    inner_optimizer: Optimizer | None = None
    outer_optimizer: Optimizer | None = None

    def build(self) -> Any:
        return toolkit.bilevel.SRBA(**arguments(self))


class FSLA(BaseModel):
    """One step of y, then of v, then of theta, with recursive momentum."""

    model_config = STRICT
    kind: Literal["fsla"] = "fsla"
    inner_step_size: Rate
    outer_step_size: Rate
    batch_size: Count | None = None
    linear_step_size: Rate | None = None
    momentum: Momentum = 0.1
    inner_optimizer: Optimizer | None = None
    outer_optimizer: Optimizer | None = None

    def build(self) -> Any:
        return toolkit.bilevel.FSLA(**arguments(self))


class AmIGO(BaseModel):
    """Warm-started loops of y and of v, then one step of theta."""

    model_config = STRICT
    kind: Literal["amigo"] = "amigo"
    inner_step_size: Rate
    outer_step_size: Rate
    batch_size: Count | None = None
    inner_steps: Count = 10
    linear_steps: Annotated[int, Field(ge=0)] = 10
    linear_step_size: Rate | None = None
    inner_optimizer: Optimizer | None = None
    outer_optimizer: Optimizer | None = None

    def build(self) -> Any:
        return toolkit.bilevel.AmIGO(**arguments(self))


class StocBiO(BaseModel):
    """A loop of y, a Neumann series, one step of theta."""

    model_config = STRICT
    kind: Literal["stocbio"] = "stocbio"
    inner_step_size: Rate
    outer_step_size: Rate
    batch_size: Count | None = None
    inner_steps: Count = 10
    linear_steps: Annotated[int, Field(ge=0)] = 10
    linear_step_size: Positive | None = None
    inner_optimizer: Optimizer | None = None
    outer_optimizer: Optimizer | None = None

    def build(self) -> Any:
        return toolkit.bilevel.StocBiO(**arguments(self))


class BSA(BaseModel):
    """A loop of y, one sampled product of the Neumann series, one step of theta."""

    model_config = STRICT
    kind: Literal["bsa"] = "bsa"
    inner_step_size: Rate
    outer_step_size: Rate
    batch_size: Count | None = None
    inner_steps: Count = 10
    linear_steps: Count = 10
    linear_step_size: Positive | None = None
    inner_optimizer: Optimizer | None = None
    outer_optimizer: Optimizer | None = None

    def build(self) -> Any:
        return toolkit.bilevel.BSA(**arguments(self))


class TTSA(BaseModel):
    """One fast step of y, a sampled product of the Neumann series, one slow step of theta."""

    model_config = STRICT
    kind: Literal["ttsa"] = "ttsa"
    inner_step_size: Rate
    outer_step_size: Rate
    batch_size: Count | None = None
    linear_steps: Count = 10
    linear_step_size: Positive | None = None
    inner_optimizer: Optimizer | None = None
    outer_optimizer: Optimizer | None = None

    def build(self) -> Any:
        return toolkit.bilevel.TTSA(**arguments(self))


class SUSTAIN(BaseModel):
    """TTSA's samples with recursive momentum on both directions."""

    model_config = STRICT
    kind: Literal["sustain"] = "sustain"
    inner_step_size: Rate
    outer_step_size: Rate
    batch_size: Count | None = None
    linear_steps: Count = 10
    linear_step_size: Positive | None = None
    momentum: Momentum = 0.5
    inner_optimizer: Optimizer | None = None
    outer_optimizer: Optimizer | None = None

    def build(self) -> Any:
        return toolkit.bilevel.SUSTAIN(**arguments(self))


class MRBO(BaseModel):
    """StocBiO's samples with recursive momentum on both directions."""

    model_config = STRICT
    kind: Literal["mrbo"] = "mrbo"
    inner_step_size: Rate
    outer_step_size: Rate
    batch_size: Count | None = None
    linear_steps: Annotated[int, Field(ge=0)] = 10
    linear_step_size: Positive | None = None
    momentum: Momentum = 0.5
    inner_optimizer: Optimizer | None = None
    outer_optimizer: Optimizer | None = None

    def build(self) -> Any:
        return toolkit.bilevel.MRBO(**arguments(self))


class VRBO(BaseModel):
    """StocBiO's directions summed up from SPIDER's differences."""

    model_config = STRICT
    kind: Literal["vrbo"] = "vrbo"
    inner_step_size: Rate
    outer_step_size: Rate
    batch_size: Count | None = None
    inner_steps: Count = 10
    linear_steps: Annotated[int, Field(ge=0)] = 10
    linear_step_size: Positive | None = None
    period: Count | None = None
    inner_optimizer: Optimizer | None = None
    outer_optimizer: Optimizer | None = None

    def build(self) -> Any:
        return toolkit.bilevel.VRBO(**arguments(self))


class F2SA(BaseModel):
    """First-order, the lower level as a penalty; with `momentum` F3SA."""

    model_config = STRICT
    kind: Literal["f2sa"] = "f2sa"
    inner_step_size: Rate
    outer_step_size: Rate
    batch_size: Count | None = None
    inner_steps: Count = 10
    penalty: Rate = 10.0
    penalised_step_size: Rate | None = None
    momentum: Momentum | None = None
    outer_optimizer: Optimizer | None = None

    def build(self) -> Any:
        return toolkit.bilevel.F2SA(**arguments(self))


class BOME(BaseModel):
    """First-order, the lower level as a constraint with a computed multiplier."""

    model_config = STRICT
    kind: Literal["bome"] = "bome"
    inner_step_size: Rate
    outer_step_size: Rate
    batch_size: Count | None = None
    inner_steps: Count = 10
    control: Positive = 0.5
    inner_optimizer: Optimizer | None = None
    outer_optimizer: Optimizer | None = None

    def build(self) -> Any:
        return toolkit.bilevel.BOME(**arguments(self))


class PZOBO(BaseModel):
    """Differences of whole inner loops along random directions."""

    model_config = STRICT
    kind: Literal["pzobo"] = "pzobo"
    inner_step_size: Rate
    outer_step_size: Rate
    batch_size: Count | None = None
    inner_steps: Count = 10
    directions: Count = 10
    radius: Positive = 0.1
    inner_optimizer: Optimizer | None = None
    outer_optimizer: Optimizer | None = None

    def build(self) -> Any:
        return toolkit.bilevel.PZOBO(**arguments(self))


class HOAG(BaseModel):
    """Inner problem and linear system to a tolerance that shrinks."""

    model_config = STRICT
    kind: Literal["hoag"] = "hoag"
    inner_step_size: Rate
    outer_step_size: Rate
    batch_size: Count | None = None
    inner_steps: Count = 1000
    linear_steps: Count = 100
    tol: Positive = 0.1
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.9
    inner_optimizer: Optimizer | None = None
    outer_optimizer: Optimizer | None = None

    def build(self) -> Any:
        return toolkit.bilevel.HOAG(**arguments(self))


class DoubleLoop(BaseModel):
    """A short solve, its hypergradient by any adjoint (AID, ITD), one step of theta."""

    model_config = STRICT
    kind: Literal["double_loop"] = "double_loop"
    inner_step_size: Rate
    outer_step_size: Rate
    batch_size: Count | None = None
    inner_steps: Count = 10
    adjoint: Adjoint | None = None
    warm_start: bool = True
    inner_optimizer: Optimizer | None = None
    outer_optimizer: Optimizer | None = None

    def build(self) -> Any:
        return toolkit.bilevel.DoubleLoop(**arguments(self))


class T1T2(BaseModel):
    """Derivative through the last inner update."""

    model_config = STRICT
    kind: Literal["t1t2"] = "t1t2"
    inner_step_size: Rate
    outer_step_size: Rate
    batch_size: Count | None = None
    inner_optimizer: Optimizer | None = None
    outer_optimizer: Optimizer | None = None

    def build(self) -> Any:
        return toolkit.bilevel.T1T2(**arguments(self))


class DARTS(BaseModel):
    """The response of a virtual inner update, by a difference; `virtual_step_size: 0` is first order."""

    model_config = STRICT
    kind: Literal["darts"] = "darts"
    inner_step_size: Rate
    outer_step_size: Rate
    batch_size: Count | None = None
    virtual_step_size: Rate | Literal[0] | None = None
    radius: Positive = 0.01
    inner_optimizer: Optimizer | None = None
    outer_optimizer: Optimizer | None = None

    def build(self) -> Any:
        return toolkit.bilevel.DARTS(**arguments(self))


class SAMA(BaseModel):
    """The response of an update of the inner optimizer, by a difference."""

    model_config = STRICT
    kind: Literal["sama"] = "sama"
    inner_step_size: Rate
    outer_step_size: Rate
    batch_size: Count | None = None
    radius: Positive = 1.0
    inner_optimizer: Optimizer | None = None
    outer_optimizer: Optimizer | None = None

    def build(self) -> Any:
        return toolkit.bilevel.SAMA(**arguments(self))


BilevelMethod = Annotated[
    SOBA
    | SABA
    | SRBA
    | FSLA
    | AmIGO
    | StocBiO
    | BSA
    | TTSA
    | SUSTAIN
    | MRBO
    | VRBO
    | F2SA
    | BOME
    | PZOBO
    | HOAG
    | DoubleLoop
    | T1T2
    | DARTS
    | SAMA,
    Field(discriminator="kind"),
]
