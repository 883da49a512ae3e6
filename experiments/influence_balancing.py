"""When does truncation get even the sign of a gradient wrong, and what does persistence repair?

    toolkit run configs/influence_balancing.yaml                    about 15 s on 2 cores
    toolkit run configs/influence_balancing.yaml truncation=100     the right sign, another minimum

A chain of `units` leaky units, each fed by the next one and by the same unknown `theta`, with a plus
sign for the first `positive` of them and a minus for the rest; the loss sees the first unit alone:

    s_i <- (s_i + s_(i+1)) / 2 +- theta,    L(theta) = mean over an episode of (s_1 - 1)^2 / 2

At rest `s_1 = 2 theta (positive - negative) = -6 theta`, so `theta` must fall. But the units nearest to
the loss push upwards, and a short window feels only them: truncated rules raise `theta` without end.

Four rules descend from one `theta`: backprop through whole episodes, backprop and evolution
strategies through windows of `truncation` steps, and persistent evolution strategies (PES) through
the same windows. Expect backprop and PES near the optimum -0.129, the truncated rules beyond +8 at a
loss ten thousand times higher; at the start a gradient of +26.3 by backprop and PES, -18.0 by
truncation. With `truncation=100` the sign at the start is right (so two claims are missed), but
truncation comes to rest at +0.17.

Source: Tallec and Ollivier 2017, section 5; Vicol, Metz and Sohl-Dickstein 2021, section 5.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

import toolkit as tk
from toolkit import run

RULES = {
    "backprop": "backprop, whole episode",
    "truncated_backprop": "backprop, truncated",
    "truncated_es": "evolution strategies, truncated",
    "pes": "persistent evolution strategies",
}
# Curves of backprop and of evolution strategies coincide: thin lines on broad ones show both.
BY_BACKPROP, BY_ES = {"linewidth": 5, "alpha": 0.5}, {"linewidth": 1.5}
STYLES = dict(zip(RULES, (BY_BACKPROP, BY_BACKPROP, BY_ES, BY_ES), strict=True))


class Config(run.Settings):
    """What this experiment can be asked."""

    units: PositiveInt = 23
    positive: NonNegativeInt = 10
    horizon: PositiveInt = 500
    truncation: PositiveInt = 10
    num_pairs: PositiveInt = 500
    sigma: PositiveFloat = 0.1
    learning_rate: PositiveFloat = 1e-4
    theta: float = 0.5
    windows: tuple[PositiveInt, ...] = (1, 5, 10, 20, 50, 100, 250, 500)
    repeats: Annotated[int, Field(ge=2)] = 16

    @model_validator(mode="after")
    def _windows_fill_an_episode(self) -> Self:
        wrong = [k for k in (self.truncation, *self.windows) if self.horizon % k]
        if wrong:
            raise ValueError(f"windows must divide the horizon {self.horizon}: got {wrong}")
        return self


class State(NamedTuple):
    """All that is carried from one outer step to the next."""

    theta: dict[str, jax.Array]  # [] a rule
    windows: dict[str, Any]  # where each windowed rule stands in its episode
    key: jax.Array


def build(config: Config) -> run.Program:
    """The functions that the runner drives."""
    system = chain(config)
    rules = windowed(config, config.truncation)

    def loss(theta: jax.Array) -> jax.Array:
        return system.loss(theta, jax.random.key(0))  # any key: nothing is drawn from it

    backprop = tk.estimator.Backprop()(loss)

    def init(key: jax.Array) -> State:
        key, start_key = jax.random.split(key)
        theta = dict.fromkeys(RULES, jnp.asarray(config.theta))
        windows = {name: rule.init(theta[name], start_key) for name, rule in rules.items()}
        return State(theta, windows, key)

    def step(state: State) -> tuple[State, dict[str, jax.Array]]:
        next_key, estimate_key = jax.random.split(state.key)
        windows = {}
        gradients = {"backprop": backprop(state.theta["backprop"], estimate_key).gradient}
        for name, rule in rules.items():
            windows[name], estimate = rule.step(
                state.windows[name], state.theta[name], estimate_key
            )
            gradients[name] = estimate.gradient
        theta = {name: state.theta[name] - config.learning_rate * gradients[name] for name in RULES}
        metrics = {
            **{f"theta_{name}": theta[name] for name in RULES},
            **{f"loss_{name}": loss(theta[name]) for name in RULES},
        }
        return State(theta, windows, next_key), metrics

    def finish(state: State) -> run.Final:
        return conclude(config, loss, state)

    def differentiated(state: State) -> dict[str, run.Loss]:
        return {"episode": run.Loss(loss, (state.theta["backprop"],))}

    return run.Program(init, step, finish, differentiated)


def chain(config: Config) -> tk.estimator.Unrolled:
    """The unrolled system."""
    signs = jnp.where(jnp.arange(config.units) < config.positive, 1.0, -1.0)

    def step(state: jax.Array, theta: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        following = jnp.append(state[1:], 0.0)
        state = 0.5 * (state + following) + theta * signs
        return state, (state[0] - 1) ** 2 / 2

    return tk.estimator.Unrolled(lambda theta, key: jnp.ones(config.units), step, config.horizon)


def windowed(config: Config, truncation: int) -> dict[str, tk.estimator.WindowedEstimator]:
    """The three rules that see a window at a time."""
    rules = {
        "truncated_backprop": tk.estimator.TruncatedBackprop(truncation),
        "truncated_es": tk.estimator.TruncatedES(config.sigma, config.num_pairs, truncation),
        "pes": tk.estimator.PersistentES(config.sigma, config.num_pairs, truncation),
    }
    return {name: rule(chain(config)) for name, rule in rules.items()}


def conclude(config: Config, loss: Any, state: State) -> run.Final:
    """Where each rule came to, and what each made of the gradient at the start."""
    # The states are affine in theta, so the loss is quadratic: one Newton step from 0 is its minimum.
    origin = jnp.zeros(())
    optimum = -jax.grad(loss)(origin) / jax.hessian(loss)(origin)
    exact = float(jax.grad(loss)(jnp.asarray(config.theta)))
    lengths = sorted({*config.windows, config.truncation})
    measured = {length: gradients_at_start(config, length) for length in lengths}
    here = measured[config.truncation]

    metrics = {"theta_optimum": float(optimum), "loss_optimum": float(loss(optimum))}
    for name in RULES:
        metrics[f"theta_{name}"] = float(state.theta[name])
        metrics[f"loss_{name}"] = float(loss(state.theta[name]))
    metrics["gradient_backprop"] = exact
    for name, (mean, _) in here.items():
        metrics[f"gradient_{name}"] = mean
        metrics[f"sign_{name}"] = float(np.sign(mean * exact))
    mean, error = here["pes"]
    metrics["gradient_pes_error"] = error
    metrics["bias_pes"] = abs(mean - exact) / error
    table = (
        ("theta at the optimum", f"{metrics['theta_optimum']:.3f}"),
        *((f"theta, {label}", f"{metrics[f'theta_{name}']:.3f}") for name, label in RULES.items()),
        *(
            (f"gradient at the start, {label}", f"{metrics[f'gradient_{name}']:+.1f}")
            for name, label in RULES.items()
        ),
        ("PES: distance to the exact gradient", f"{metrics['bias_pes']:.1f} standard errors"),
    )
    params = {
        "theta": state.theta,
        "windows": jnp.asarray(lengths),
        **{
            name: jnp.asarray([measured[length][name] for length in lengths])  # [K, 2] mean, error
            for name in here
        },
    }
    return run.Final(params, metrics, table)


def gradients_at_start(config: Config, truncation: int) -> dict[str, tuple[float, float]]:
    """Mean over `repeats` episodes of the gradient at the first `theta`, and its standard error."""
    theta = jnp.asarray(config.theta)
    rules = windowed(config, truncation)

    @jax.jit
    def episode(key: jax.Array) -> dict[str, jax.Array]:
        init_key, windows_key = jax.random.split(key)
        states = {name: rule.init(theta, init_key) for name, rule in rules.items()}

        def window(states: Any, window_key: jax.Array) -> tuple[Any, Any]:
            moved = {
                name: rule.step(states[name], theta, window_key) for name, rule in rules.items()
            }
            gradients = {name: estimate.gradient for name, (_, estimate) in moved.items()}
            return {name: state for name, (state, _) in moved.items()}, gradients

        window_keys = jax.random.split(windows_key, config.horizon // truncation)
        gradients = jax.lax.scan(window, states, window_keys)[1]
        return {name: jnp.mean(gradient) for name, gradient in gradients.items()}

    episodes = [
        episode(key) for key in jax.random.split(jax.random.key(config.seed), config.repeats)
    ]
    found = {name: np.asarray([means[name] for means in episodes], np.float64) for name in rules}
    return {
        name: (means.mean().item(), means.std(ddof=1).item() / config.repeats**0.5)
        for name, means in found.items()
    }


def figures(
    config: Config, params: dict[str, Any], metrics: dict[str, float], rows: list[dict[str, Any]]
) -> tuple[run.Figure, ...]:
    """The pictures of the report."""
    draw = run.pictures
    steps = draw.column(rows, "step")

    def of(measure: str) -> dict[str, Any]:
        return {
            label: draw.Curve(steps, draw.column(rows, f"{measure}_{name}"), look=STYLES[name])
            for name, label in RULES.items()
        }

    lengths = np.asarray(params["windows"])
    exact = 2 * [metrics["gradient_backprop"]]
    gradients = {RULES["backprop"]: draw.Curve(lengths[[0, -1]], exact, look=BY_BACKPROP)}
    for name in ("truncated_backprop", "truncated_es", "pes"):
        mean, error = np.asarray(params[name], np.float64).T
        low, high = mean - 2 * error, mean + 2 * error
        gradients[RULES[name]] = draw.Curve(lengths, mean, low, high, True, STYLES[name])
    return (
        draw.curves(
            "The unknown",
            f"Windows of {config.truncation} steps. Dashed: the optimum.",
            of("theta"),
            across={"_optimum": metrics["theta_optimum"]},
            legend={"fontsize": 8},
            xlabel="update",
            ylabel="theta",
            ylim=(-0.6, 2.2),
        ),
        draw.curves(
            "The loss",
            "Of a whole episode, at each rule's theta.",
            of("loss"),
            across={"_optimum": metrics["loss_optimum"]},
            legend=None,
            xlabel="update",
            ylabel="loss of a whole episode",
            yscale="log",
        ),
        draw.curves(
            "How long must a window be?",
            f"Mean gradient of an episode at theta = {config.theta:g}, with two standard errors over "
            f"{config.repeats} repeats; above zero is right. Truncation has the right sign only where "
            f"a window is long beside the chain's memory of about {2 * config.units} steps; PES has "
            "the right value at every length. Dotted: the windows used above.",
            gradients,
            across={"_zero": 0},
            down={"_used": config.truncation},
            legend={"fontsize": 8},
            wide=True,
            xscale="log",
            xlabel="steps in a window",
            ylabel="gradient at the start",
        ),
    )
