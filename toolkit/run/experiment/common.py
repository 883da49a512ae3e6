"""The settings that every experiment has. An experiment's own `Config` extends `Settings` with its own fields."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from toolkit.run.experiment.durations import seconds

# `validate_default`: a default outside of its field's own bounds is refused like a value from the file.
# `protected_namespaces`: pydantic warns of names such as `model_width`, which experiments may well use.
STRICT = ConfigDict(
    frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=()
)
SEED_END = 2**32  # a key is made of 32 bits


def _duration(text: str) -> str:
    seconds(text)
    return text


Duration = Annotated[str, AfterValidator(_duration)]


class Claim(BaseModel):
    """What a number of `final/metrics.json` should be: within bounds, or within `tolerance` of `value`.

    Of one run, or on average over `seeds` of them; a run that misses it ends with exit code 8.
    """

    model_config = STRICT

    at_least: float | None = None
    at_most: float | None = None
    value: float | None = None
    tolerance: Annotated[float, Field(ge=0)] | None = None
    seeds: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=1, description="runs that differ in their seed alone, over which the mean is judged"
    )

    @model_validator(mode="after")
    def _has_a_bound(self) -> Claim:
        if (self.value is None) != (self.tolerance is None):
            raise ValueError("`value` and `tolerance` together")
        if self.at_least is None and self.at_most is None and self.value is None:
            raise ValueError("a claim needs `at_least`, `at_most`, or `value` with `tolerance`")
        return self

    def interval(self) -> tuple[float, float]:
        """The lowest and the highest number that it admits."""
        lowest = [-math.inf if self.at_least is None else self.at_least]
        highest = [math.inf if self.at_most is None else self.at_most]
        if self.value is not None and self.tolerance is not None:
            lowest.append(self.value - self.tolerance)
            highest.append(self.value + self.tolerance)
        return max(lowest), min(highest)

    def holds(self, value: float) -> bool:
        low, high = self.interval()
        return low <= value <= high

    def bounds(self) -> str:
        """The claim in words: `at least 0.9 and at most 1`, `0.5 +- 0.1 over 5 seeds`."""
        parts = [("at least", self.at_least), ("at most", self.at_most)]
        words = [f"{word} {bound:g}" for word, bound in parts if bound is not None]
        if self.value is not None:
            words.append(f"{self.value:g} +- {self.tolerance:g}")
        return " and ".join(words) + (f" over {self.seeds} seeds" if self.seeds > 1 else "")


class Diagnostics(BaseModel):
    """What is measured beside the metrics."""

    model_config = STRICT

    gradients_every: Annotated[int, Field(ge=0)] = Field(
        default=0, description="steps between reports of the gradients in metrics.jsonl; 0 is never"
    )


class Devices(BaseModel):
    """What a run computes on: one device, or several that share its data."""

    model_config = STRICT

    processes: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        default=1,
        description="started on this machine; auto: this is one of those that a cluster has started",
    )
    mesh: dict[str, int] = Field(
        default={}, description="devices by axis, such as {data: -1}, one of them -1 for the rest"
    )


class Settings(BaseModel):
    """The fields that the runner reads. Frozen; unknown keys are refused."""

    model_config = STRICT

    experiment: str = Field(description="name of experiments/NAME.py under the working directory")
    seed: Annotated[int, Field(ge=0, lt=SEED_END)] = Field(
        default=0, description="seed of the only PRNG key"
    )
    seeds: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=1,
        description="seeds run in one program, from `seed` on: on all cores, or by vmap on accelerators",
    )
    steps: Annotated[int, Field(ge=1)] = Field(description="outer steps of the whole run")
    log_every: Annotated[int, Field(ge=1)] = Field(
        default=10, description="steps between rows of metrics.jsonl"
    )
    checkpoint_every: Annotated[int, Field(ge=1)] = Field(
        default=100, description="steps between checkpoints"
    )
    keep_checkpoints: Annotated[int, Field(ge=1)] = Field(
        default=3, description="newest checkpoints kept"
    )
    budget: Duration | None = Field(
        default=None,
        description="time for all of the run, such as 90s, 1h30m or 2d, which ends it before `steps` does",
    )
    devices: Devices = Field(default=Devices(), description="what the run computes on")
    diagnostics: Diagnostics = Field(
        default=Diagnostics(), description="what is measured beside the metrics"
    )
    claims: dict[str, Claim] = Field(default={}, description="bounds by name of a final metric")
    schema_version: Literal[1] = Field(default=1, description="version of this file's layout")

    @field_validator("seeds")
    @classmethod
    def _within_the_seeds_there_are(cls, seeds: int, info: ValidationInfo) -> int:
        first = info.data.get("seed", 0)  # missing where it is wrong itself
        if first + seeds > SEED_END:
            raise ValueError(f"at most {SEED_END - first} from seed {first} on, seeds end at 2**32")
        return seeds


def every_seed(settings: Settings) -> range:
    """The seeds of a run. Not a method, since an experiment may have a field of any name."""
    return range(settings.seed, settings.seed + settings.seeds)
