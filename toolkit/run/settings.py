"""What every experiment's config has; an experiment's own `Config` extends it with what its question needs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

STRICT = ConfigDict(
    frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=()
)


class Claim(BaseModel):
    """A bound on one number of `final/metrics.json`; a run that misses it ends with exit code 8."""

    model_config = STRICT

    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _has_a_bound(self) -> Claim:
        if self.at_least is None and self.at_most is None:
            raise ValueError("a claim needs `at_least` or `at_most`")
        return self

    def holds(self, value: float) -> bool:
        above = self.at_least is None or value >= self.at_least
        below = self.at_most is None or value <= self.at_most
        return above and below

    def bounds(self) -> str:
        """The claim in words: `at least 0.9 and at most 1.0`."""
        parts = [("at least", self.at_least), ("at most", self.at_most)]
        return " and ".join(f"{word} {bound:g}" for word, bound in parts if bound is not None)


class Diagnostics(BaseModel):
    """What is measured beside the metrics."""

    model_config = STRICT

    gradients_every: Annotated[int, Field(ge=0)] = Field(
        default=0, description="steps between reports of the gradients in metrics.jsonl; 0 is never"
    )


class Settings(BaseModel):
    """The fields that the runner reads. Frozen; unknown keys are refused."""

    model_config = STRICT

    experiment: str = Field(description="name of experiments/NAME.py under the working directory")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        default=0, description="seed of the only PRNG key"
    )
    seeds: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=1,
        description="seeds run in one program, from `seed` on, by vmap: equal to single runs within rounding",
    )
    steps: Annotated[int, Field(ge=1)] = Field(description="outer steps of the whole run")
    log_every: Annotated[int, Field(ge=1)] = Field(
        description="steps between rows of metrics.jsonl"
    )
    checkpoint_every: Annotated[int, Field(ge=1)] = Field(description="steps between checkpoints")
    keep_checkpoints: Annotated[int, Field(ge=1)] = Field(
        default=3, description="newest checkpoints kept"
    )
    diagnostics: Diagnostics = Field(
        default=Diagnostics(), description="what is measured beside the metrics"
    )
    claims: dict[str, Claim] = Field(default={}, description="bounds by name of a final metric")
    schema_version: Literal[1] = Field(default=1, description="version of this file's layout")
