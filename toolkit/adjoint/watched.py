"""Rules whose reverse pass has something to say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from jax import Array

from toolkit.types import Alarm, Primal, Problem, Tree

Run = Callable[[Tree, Tree, Tree], tuple[Tree, Array]]


class Reporting(Protocol):
    """A rule that can report on its reverse pass."""

    @property
    def presumes_solution(self) -> bool: ...

    def hvp_evals(self, steps: Array, hyperparameters: int) -> Array: ...

    def alarmed(self, problem: Problem, primal: Primal, alarm: Alarm) -> Run:
        """`differentiable`, with the report as the cotangent of `alarm`."""
        ...


@dataclass(frozen=True, eq=False)
class Watched:
    """A rule with an alarm: the adjoint that `tk.hypergradient` puts in the rule's place."""

    rule: Reporting
    alarm: Alarm

    @property
    def presumes_solution(self) -> bool:
        """As the rule's."""
        return self.rule.presumes_solution

    def hvp_evals(self, steps: Array, hyperparameters: int) -> Array:
        """As the rule's."""
        return self.rule.hvp_evals(steps, hyperparameters)

    def differentiable(self, problem: Problem, primal: Primal) -> Run:
        """`primal.run` with the rule's derivative."""
        return self.rule.alarmed(problem, primal, self.alarm)
