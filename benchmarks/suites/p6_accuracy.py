"""P6: the error of every rule on P1 in float32, beside what its own report says."""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import toolkit as tk
from benchmarks import problems
from benchmarks.problems import MOMENTUM, STEP_SIZE
from toolkit import linear
from toolkit.adjoint import (
    Forward,
    Implicit,
    Nudged,
    OneStep,
    Reversible,
    Stopped,
    Truncated,
    Unroll,
)

SOLVED = 1000  # steps that leave a residual of rounding size in float32
MU = float(np.exp(-4))  # the curvature of every penalty
ITERATE, SOLUTION, NEITHER = "iterate", "solution", "neither"
RULES: dict[str, tuple[str, Any]] = {  # name -> whose derivative it claims to be, rule
    "Unroll()": (ITERATE, Unroll()),
    'Unroll("sqrt")': (ITERATE, Unroll(checkpoint="sqrt")),
    "Unroll(forward_mode=True)": (ITERATE, Unroll(forward_mode=True)),
    "Reversible()": (ITERATE, Reversible()),
    "Forward()": (ITERATE, Forward()),
    "Implicit()": (SOLUTION, Implicit()),
    "Implicit(CG(20, 1e-6))": (SOLUTION, Implicit(linear.CG(20, 1e-6))),
    "Implicit(CG(20, 1e-4))": (SOLUTION, Implicit(linear.CG(20, 1e-4))),
    "Implicit(CG(100, 1e-6))": (SOLUTION, Implicit(linear.CG(100, 1e-6))),
    "Implicit(Dense())": (SOLUTION, Implicit(linear.Dense())),
    "Implicit(GMRES(100, 1e-6))": (SOLUTION, Implicit(linear.GMRES(100, 1e-6))),
    "Implicit(BiCGStab(100, 1e-6))": (SOLUTION, Implicit(linear.BiCGStab(100, 1e-6))),
    "Implicit(Neumann(20))": (SOLUTION, Implicit(linear.Neumann(20))),
    "Implicit(Neumann(20, 0.1))": (SOLUTION, Implicit(linear.Neumann(20, STEP_SIZE))),
    "Implicit(Neumann(1000))": (SOLUTION, Implicit(linear.Neumann(1000))),
    "Implicit(Nystrom(50, mu))": (SOLUTION, Implicit(linear.Nystrom(50, MU))),
    "Implicit(Nystrom(640, 1e-6))": (SOLUTION, Implicit(linear.Nystrom(640, 1e-6))),
    "Implicit(damping=mu / 10)": (SOLUTION, Implicit(damping=MU / 10)),
    'Nudged(0.01, "one_sided")': (SOLUTION, Nudged(0.01, "one_sided", normalize=True)),
    'Nudged(0.01, "centered")': (SOLUTION, Nudged(0.01, "centered", normalize=True)),
    'Nudged(0.03, "holomorphic")': (SOLUTION, Nudged(0.03, "holomorphic", normalize=True)),
    "Truncated(20)": (NEITHER, Truncated(20)),
    "OneStep()": (NEITHER, OneStep()),
    "Stopped()": (NEITHER, Stopped()),
}


class Found(NamedTuple):
    """A hypergradient and the two things that its report says of it."""

    gradient: np.ndarray
    stated: float  # the estimate of the error, over the norm of the gradient; NaN: none is made
    issues: tk.Issue


class Truths(NamedTuple):
    """In float64, through every step and by a solve to rounding size."""

    iterate: dict[int, np.ndarray]  # by steps
    solution: np.ndarray


def cross_entropy(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """Analytic in the scores, which the holomorphic nudge continues to complex ones."""
    right = jnp.take_along_axis(scores, labels[:, None], 1)[:, 0]
    return jnp.log(jnp.sum(jnp.exp(scores), 1)) - right


def find(rule: Any, steps: int) -> Found:
    """The hypergradient of P1 after so many steps."""
    p = problems.penalties(cross_entropy, steps)
    solver = tk.solver.GradientDescent(STEP_SIZE, steps, MOMENTUM)
    solve = tk.argmin(p.inner, solver, adjoint=rule)
    found = jax.device_get(jax.jit(tk.hypergradient(p.outer, solve))(p.y0, p.theta))
    gradient = np.asarray(found.gradient, np.float64)
    estimate = found.report.error_estimate  # None where the rule makes none
    size = max(float(np.linalg.norm(gradient)), 1e-30)
    stated = np.nan if estimate is None else float(estimate) / size
    return Found(gradient, stated, tk.Issue(int(found.report.status)))


def truths() -> Truths:
    """What the rules are held against."""
    with jax.enable_x64(True):
        iterate = {steps: find(Unroll(), steps).gradient for steps in (problems.STEPS, SOLVED)}
        return Truths(iterate, find(Implicit(linear.CG(2000, 1e-13)), 10 * SOLVED).gradient)


def relative_error(found: Found, truth: np.ndarray) -> float:
    """In the 2-norm."""
    return float(np.linalg.norm(found.gradient - truth) / np.linalg.norm(truth))


def tables(options: argparse.Namespace) -> str:
    """The section: a row a rule."""
    from benchmarks.results import machine

    with jax.default_device(jax.devices("cpu")[0]):
        true = truths()
        gap = relative_error(Found(true.iterate[problems.STEPS], 0, tk.Issue(0)), true.solution)
        lines = [_line(name, claim, rule, true) for name, (claim, rule) in RULES.items()]
    head = (
        "| rule | claims | error to iterate's | to solution's | report states | issues | "
        f"error after {SOLVED:,} steps | report states | issues |\n|---|---|---:|---:|---:|---|---:|---:|---|"
    )
    return f"""\
## P6: the error of every rule, and what its report says

P1 in float32 after {problems.STEPS} steps, where it has not converged (in float64 the iterate's derivative is {gap:.1%} \
from the solution's), and after {SOLVED:,} steps, where it has. Errors are relative, to float64; in bold the one \
that the rule answers for. "report states": `report.error_estimate` over the norm of the gradient; it is made for \
the implicit rule, an estimate ten to a hundred times too high by design. "issues": the bits of `report.status`.

{machine()}

{head}
{chr(10).join(lines)}
"""


def _line(name: str, claim: str, rule: Any, true: Truths) -> str:
    early, late = find(rule, problems.STEPS), find(rule, SOLVED)
    errors = {
        ITERATE: relative_error(early, true.iterate[problems.STEPS]),
        SOLUTION: relative_error(early, true.solution),
    }
    bold = lambda error, said: f"**{error:.0e}**" if said else f"{error:.0e}"
    own = true.iterate[SOLVED] if claim == ITERATE else true.solution
    cells = [
        f"`{name}`",
        claim,
        *(bold(error, claim == which) for which, error in errors.items()),
        *_said(early),
        bold(relative_error(late, own), claim != NEITHER),
        *_said(late),
    ]
    return f"| {' | '.join(cells)} |"


def _said(found: Found) -> tuple[str, str]:
    stated = "-" if np.isnan(found.stated) else f"{found.stated:.0e}"
    return stated, ", ".join(bit.name or "" for bit in found.issues) or "none"
