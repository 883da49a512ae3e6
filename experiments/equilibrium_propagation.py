"""Can a network of settling neurons learn without backprop, from two nudges alone?

    toolkit run configs/equilibrium_propagation.yaml                         about 20 s on 2 cores
    toolkit run configs/equilibrium_propagation.yaml rule.scheme=one_sided   one nudge: by one word

A layered Hopfield network (64-128-10) settles on each digit where every potential is what its neighbours
send it, from below and from above through the same weights: a stationary state of its energy. The rates of
its last layer should be the label:

    min_theta  mean |s_L(theta) - label|^2 / 2       s(theta) at rest

Equilibrium propagation lets it settle twice more, the last layer pulled a little towards the label and a
little away. The difference of the two states is the learning signal of every layer, each from the
activities at its own two ends: no derivative passes through the network.

Each update compares that gradient with the implicit one, layer by layer: the state at rest is the fixed point
of a sweep, and `tk.fixed_point` differentiates it by a linear solve. Expect (5 seeds) held-out accuracy
0.96 to 0.98, and a cosine above 0.9999 in each layer at each update. What a batch costs under each scheme,
and its error over `beta`, are in the report.

Source: Scellier & Bengio 2017; centered nudges: Laborieux et al. 2021.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from pydantic import Field, PositiveFloat, PositiveInt

import toolkit as tk
from experiments import learners
from toolkit import run

LAYERS = ("layer1", "layer2")
SCHEMES = ("one_sided", "centered", "holomorphic")


class Config(run.Settings):
    """What this experiment can be asked; a step is an epoch."""

    log_every: PositiveInt = 1
    checkpoint_every: PositiveInt = 5
    train_size: Annotated[int, Field(ge=10)] = 1400
    batch_size: PositiveInt = 50
    hidden: PositiveInt = 128
    rule: tk.credit.EquilibriumPropagation = tk.credit.EquilibriumPropagation(
        beta=0.02, free_steps=30, nudged_steps=15
    )
    # What it is compared with: where a sweep changes nothing any more, and the derivative there.
    solver: tk.solver.Solver = tk.solver.FixedPointIteration(max_steps=200, tol=1e-5)
    adjoint: tk.adjoint.Adjoint = tk.adjoint.Implicit()
    optimizer: tk.optimizers.Optimizer = tk.optimizers.Adam(learning_rate=1e-3)
    betas: tuple[PositiveFloat, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.2, 0.3, 0.5)


class State(NamedTuple):
    """All that is carried from one epoch to the next."""

    params: Any
    optimizer: Any
    epoch: jax.Array
    worst_cosine: jax.Array  # [2] of each layer's gradient with the implicit one, so far


class Update(NamedTuple):
    """What is known of an update."""

    loss: jax.Array
    residual: jax.Array
    status: jax.Array
    cosines: jax.Array  # [2] with the implicit gradient
    ratios: jax.Array  # [2] of norms


def build(config: Config) -> run.Program:
    """The functions that the runner drives."""
    model, optimizer = network(config), config.optimizer.build()
    _, gradients = config.rule(model, learners.half_squares)

    def init(key: jax.Array, data: dict[str, Any]) -> State:
        params = model.init(key, data["training"][0][:1])
        return State(params, optimizer.init(params), jnp.asarray(0), jnp.ones(len(LAYERS)))

    def update(state: State, batch: learners.Batch, key: jax.Array) -> tuple[State, Update]:
        gradient, _, info = gradients(state.params, (), batch, key)
        exact = implicit(config, state.params, batch).gradient
        cosines, ratios = agreement(gradient, exact)
        updates, moments = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        known = Update(info.loss, info.residual, info.status, cosines, ratios)
        return state._replace(params=params, optimizer=moments), known

    def step(state: State, data: dict[str, Any]) -> tuple[State, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.epoch)
        state, known = tk.credit.epoch(update, state, data["training"], config.batch_size, key)
        lowest = jnp.min(known.cosines, axis=0)
        metrics = {
            "loss": jnp.mean(known.loss),
            "accuracy": accuracy(config, state.params, data["held_out"]),
            "residual": jnp.max(known.residual),
            "issues": jnp.max(known.status),
            **{f"cosine_{n}": c for n, c in zip(LAYERS, lowest, strict=True)},
            **{f"norm_ratio_{n}": r for n, r in zip(LAYERS, known.ratios[-1], strict=True)},
        }
        worst = jnp.minimum(state.worst_cosine, lowest)
        return state._replace(epoch=state.epoch + 1, worst_cosine=worst), metrics

    def finish(state: State, data: dict[str, Any]) -> run.Final:
        return conclude(config, learners.Data(**data), state)

    def differentiated(state: State, data: dict[str, Any]) -> dict[str, run.Loss]:
        batch = some(config, learners.Data(**data))
        value = lambda params: implicit(config, params, batch).value
        return {"hyper": run.Loss(value, (state.params,))}

    return run.Program(init, step, finish, differentiated, data=learners.digits(config)._asdict())


def network(config: Config) -> Any:
    """64-128-10, rates in (0, 1), the last layer linear."""
    units = (config.hidden, learners.NUM_CLASSES)
    return tk.credit.layered(tk.models.dense_layers(units, learners.sigmoid))


def energy_of(config: Config) -> tk.energy.EnergyModel:
    """Its energy: that of the rule."""
    return config.rule.energy(network(config))


def implicit(config: Config, params: Any, batch: learners.Batch) -> tk.Hypergradient:
    """The loss where a sweep changes nothing any more, and its derivative."""
    energy, (x, target) = energy_of(config), batch
    solve = tk.fixed_point(
        lambda state, params: energy.update(params, x, state), config.solver, adjoint=config.adjoint
    )

    def outer(state: Any, params: Any) -> jax.Array:
        return jnp.mean(learners.half_squares(energy.output(params, x, state), target))

    return tk.hypergradient(outer, solve)(energy.rest(params, x), params)


def some(config: Config, data: learners.Data) -> learners.Batch:
    """A batch that is always the same."""
    return jax.tree.map(lambda leaf: leaf[: config.batch_size], data.training)


def accuracy(config: Config, params: Any, data: Any) -> jax.Array:
    """The part of the digits whose largest output is the right one."""
    output = config.rule.predict(network(config))(params, data.images)
    return jnp.mean(jnp.argmax(output, axis=1) == data.labels)


def agreement(gradient: Any, exact: Any) -> tuple[jax.Array, jax.Array]:
    """(cosine, ratio of norms) of two gradients, an entry a layer."""
    pairs = [(ravel_pytree(a)[0], ravel_pytree(b)[0]) for a, b in zip(gradient, exact, strict=True)]
    norms = [(jnp.linalg.norm(a), jnp.linalg.norm(b)) for a, b in pairs]
    cosines = [a @ b / (m * n) for (a, b), (m, n) in zip(pairs, norms, strict=True)]
    return jnp.stack(cosines), jnp.stack([m / n for m, n in norms])


def conclude(config: Config, data: learners.Data, state: State) -> run.Final:
    """Accuracy, and what every scheme makes of one batch of the trained network, at what price."""
    batch, key = some(config, data), jax.random.key(config.seed)
    rules = {scheme: dataclasses.replace(config.rule, scheme=scheme) for scheme in SCHEMES}
    model = network(config)
    compared = tk.credit.compare(model, learners.half_squares, state.params, batch, rules, key)
    metrics = {
        "accuracy": float(accuracy(config, state.params, data.held_out)),
        **{f"worst_cosine_{n}": float(c) for n, c in zip(LAYERS, state.worst_cosine, strict=True)},
    }
    table = [
        ("held-out accuracy", f"{metrics['accuracy']:.1%}"),
        ("worst cosine with the implicit gradient", f"{float(min(state.worst_cosine)):.6f}"),
    ]
    for row in compared.rows:
        if row.layer == 0:
            metrics[f"milliseconds_{row.rule}"] = 1e3 * row.seconds
            metrics[f"sweeps_{row.rule}"] = row.sweeps
            said = f"{1e3 * row.seconds:.1f} ms, {row.sweeps} sweeps, cosine {row.cosine:.5f}"
            table.append((f"a batch by {row.rule}", said))
    errors = errors_over_beta(config, state.params, batch)
    params = {
        **dict(zip(LAYERS, state.params, strict=True)),
        "betas": jnp.asarray(config.betas),
        "errors": errors,
    }
    return run.Final(params, metrics, tuple(table))


def errors_over_beta(config: Config, params: Any, batch: learners.Batch) -> jax.Array:
    """`[schemes, betas]` relative errors of the nudged gradient, settled as far as float32 goes."""
    exact = jax.jit(partial(implicit, config))(params, batch).gradient
    settled = dataclasses.replace(config.rule, free_steps=200, nudged_steps=100)

    def error(scheme: str, beta: jax.Array) -> jax.Array:
        rule = dataclasses.replace(settled, scheme=scheme, beta=beta)
        _, gradients = rule(network(config), learners.half_squares)
        gradient, _, _ = gradients(params, (), batch, jax.random.key(0))
        return optax.tree.norm(optax.tree.sub(gradient, exact)) / optax.tree.norm(exact)

    of_schemes = [jax.jit(partial(jax.lax.map, partial(error, scheme))) for scheme in SCHEMES]
    return jnp.stack([of_scheme(jnp.asarray(config.betas)) for of_scheme in of_schemes])
