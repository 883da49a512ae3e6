"""What a rule needs of a solve, and what to use where it is missing."""

from __future__ import annotations

from toolkit.types import Primal, SolverSteps, Tree


def require_one_objective(rule: str, xs: Tree) -> None:
    """Refuse per-step inputs where the rule needs one function for all steps."""
    if xs is not None:
        raise ValueError(
            f"`xs` must be None under {rule}: got per-step inputs, and the rule needs one function "
            "for all steps; use Unroll, Truncated or Stopped; what every step reads is part of theta: "
            "solve(y0, (theta, data))."
        )


def require_steps(rule: str, primal: Primal) -> SolverSteps:
    """The solver's steps; refuse a solver that keeps them to itself."""
    if primal.steps is None:
        got = primal.name if primal.no_derivative else f"the callable {primal.name}"
        raise ValueError(
            f"`solver` must show its steps under {rule}: got {got}; use one that "
            "does, such as tk.solver.GradientDescent, or the adjoint Implicit, OneStep or Stopped."
        )
    return primal.steps


def require_steps_without_data_loops(rule: str, primal: Primal) -> SolverSteps:
    """The solver's steps; refuse those that reverse mode cannot cross."""
    steps = require_steps(rule, primal)
    if steps.loops_on_data:
        raise ValueError(
            f"`solver` must have steps that reverse mode can cross under {rule}: got "
            f"{primal.name}, whose steps contain a data-dependent loop (a line search); use the "
            "adjoint Implicit, or tk.solver.GradientDescent."
        )
    return steps
