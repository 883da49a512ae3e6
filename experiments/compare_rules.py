"""What does each derivative rule cost, and how far is it from the truth?

    toolkit run configs/compare_rules.yaml                                  about 50 s on 2 cores
    toolkit run configs/compare_rules.yaml adjoints.forward.max_tangents=9  how a refusal looks

One problem, every rule: multinomial logistic regression on 500 digits with one penalty a pixel (64
hyperparameters, 640 weights), solved by 500 steps of gradient descent with momentum; the outer loss
is the cross-entropy on 500 others. The first rule of the config is the one that the others are
compared with: the implicit rule with the Hessian written out, on a run that has converged.

Expect: CG, unrolling, forward and exact reversal agree to 1e-5 in float32; holomorphic, centered
and one-sided nudges to about 1e-5, 1e-3 and 3e-2; 10 steps of CG, 100 Neumann terms and a truncation
to 100 steps to 3 % or better; a low-rank inverse of half the rank is 20 % off; one step keeps
little more than the sign. Most of the time is compilation. Milliseconds are of this machine, now:
compare them with each other.
"""

from __future__ import annotations

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

import toolkit as tk
from toolkit import run
from toolkit.data import Labelled

AtLeastTen = Annotated[int, Field(ge=10)]
COLUMNS = (
    "value",
    "relative_error",
    "cosine",
    "seconds",
    "temp_bytes",
    "gradient_evals",
    "hvp_evals",
)


class Config(run.Settings):
    """What this experiment can be asked; the first of `adjoints` is the reference."""

    steps: Annotated[int, Field(ge=1, le=1)] = 1
    log_every: int = 1
    checkpoint_every: int = 1
    train_size: AtLeastTen = 500
    validation_size: AtLeastTen = 500
    log_penalty: float = -4.0
    solver: tk.solver.Solver
    adjoints: dict[str, tk.adjoint.Adjoint]


def build(config: Config) -> run.Program:
    """A run of one step, whose work is done at its end."""
    inner, outer, y0, theta = problem(config)

    def finish(_: jax.Array) -> run.Final:
        rules = config.adjoints
        comparison = tk.compare_adjoints(inner, outer, config.solver, y0, theta, rules)
        rows = comparison.to_rows()
        made = [row for row in rows if row["gradient"] is not None]
        metrics = {
            f"relative_error/{row['rule']}": row["relative_error"]
            for row in made
            if np.isfinite(row["relative_error"])
        }
        params = {
            "gradient": {row["rule"]: np.asarray(row["gradient"]) for row in made},
            "measured": {row["rule"]: np.array([row[key] for key in COLUMNS]) for row in made},
            # A report is drawn from arrays alone, so text is kept as bytes.
            "reason": {
                row["rule"]: np.frombuffer(row["reason"].encode(), np.uint8)
                for row in rows
                if row["reason"]
            },
        }
        names = max(len(row["rule"]) for row in rows)
        table = tuple((line[:names], line[names:]) for line in str(comparison).splitlines())
        return run.Final(params, metrics, table)

    def differentiated(_: jax.Array) -> dict[str, run.Loss]:
        return run.losses_of(tk.argmin(inner, config.solver), outer, y0, theta)

    return run.Program(lambda key: jnp.zeros(()), lambda state: (state, {}), finish, differentiated)


def problem(config: Config) -> tuple[Any, Any, jax.Array, jax.Array]:
    """(inner, outer, y0, theta) of the comparison."""
    sizes = (config.train_size, config.validation_size)
    train, validation, _ = tk.data.split(jax.random.key(config.seed), tk.data.digits(), *sizes)

    def loss(y: jax.Array, data: Labelled) -> jax.Array:
        scores = data.images @ y
        right = jnp.take_along_axis(scores, data.labels[:, None], axis=1)[:, 0]
        # Holomorphic nudges make the scores complex, which optax's cross-entropy does not take.
        return jnp.mean(jax.nn.logsumexp(scores, axis=1) - right)

    def inner(y: jax.Array, theta: jax.Array) -> jax.Array:
        return loss(y, train) + 0.5 * jnp.sum(jnp.exp(theta)[:, None] * y**2)

    def outer(y: jax.Array, theta: jax.Array) -> jax.Array:
        return loss(y, validation)

    return inner, outer, jnp.zeros((64, 10)), jnp.full(64, config.log_penalty)
