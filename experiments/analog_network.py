"""Can a network of imprecise resistors learn where it is, and does it have to?

    toolkit run configs/analog_network.yaml                               about 1 min on 2 cores
    toolkit run configs/analog_network.yaml device.read_noise=0.02        worse instruments

A network of resistors reads digits: 129 nodes are held at voltages (the pixels, their negatives, one volt),
16 nodes lie between, and the logits are the differences of ten pairs of output voltages. Nobody computes a
derivative: the error at the outputs is sent in as currents, once as it is and once reversed, and each
resistor learns from its own voltage drop (equilibrium propagation).

Conductances have few `levels`, what is written is noisy, readings have 8 bits, and no two resistors are alike:
what they have for what they are told differs by `mismatch`, relative. Two ways to learn:

    in place    on the chip itself, as above
    deployed    by backprop through the perfect network of as many levels, then written to the chip

Expect (means over 5 chips, seeds 0 to 2) at 64 levels held-out accuracy 0.94 to 0.97 in place, with and
without mismatch; deployed the same without mismatch, 0.88 to 0.91 at 0.5 and 0.70 to 0.76 at 1. With 4 levels
in place 0.92 to 0.97, with 2 levels 0.82 to 0.93. In place the gradient has cosine 1 with the derivative of the
chip that is there, by backprop through the perfect circuit less than 0.3. Without diodes the circuit is
linear in its inputs, so this is the accuracy of a linear classifier.

Source: Kendall, Pantone, Manickavasagam, Bengio & Scellier 2020, without their diodes and amplifiers.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import Field, PositiveFloat, PositiveInt

import toolkit as tk
from experiments import analog_network_chips as circuit
from experiments.analog_network_chips import Batch, Data
from toolkit import run

Levels = Annotated[int, Field(ge=2)]
Spread = Annotated[float, Field(ge=0)]


class Config(run.Settings):
    """What this experiment can be asked; a step is an epoch of every chip.

    Chips are made for every combination of levels and mismatch.
    """

    log_every: PositiveInt = 1
    checkpoint_every: PositiveInt = 5
    train_size: Annotated[int, Field(ge=10)] = 1400
    batch_size: PositiveInt = 50
    hidden: PositiveInt = 16
    gain: PositiveFloat = 50.0  # logits a volt
    chips: PositiveInt = 5
    levels: Annotated[tuple[Levels, ...], Field(min_length=1)] = (2, 4, 16, 64)
    mismatches: Annotated[tuple[Spread, ...], Field(min_length=1)] = (0.0, 0.25, 0.5, 1.0)
    # Its levels and its mismatch are those of the two lists.
    device: tk.energy.ResistiveDevice = tk.energy.ResistiveDevice(
        g_min=0.01, write_noise=0.02, read_noise=1e-3, adc_bits=8, adc_range=0.5
    )
    # Nudged by its error a linear circuit answers in one sweep, and exactly for any beta.
    rule: tk.credit.Rule = tk.credit.EquilibriumPropagation(
        beta=1.0, free_steps=0, nudged_steps=1, nudge="error"
    )
    optimizer: tk.optimizers.Optimizer = tk.optimizers.Adam(learning_rate=0.01)


class State(NamedTuple):
    """All that is carried from one epoch to the next; `M` mismatches, `C` chips, `E` resistors."""

    factors: Array  # [M, C, E] the mismatch of each chip
    in_place: tuple[Any, ...]  # for each number of levels a state of `tk.credit.train`, [M, C, ...]
    perfect: tuple[Any, ...]  # likewise [C, ...]: what is deployed
    epoch: Array


class Perfect(NamedTuple):
    """The circuit as its designer computes it: a model that reverse mode can follow."""

    apply: Any  # (params, x) -> output


def build(config: Config) -> run.Program:
    """The functions that the runner drives."""

    def init(key: Array, data: dict[str, Any]) -> State:
        chip_keys = jax.random.split(key, config.chips)
        starts = jax.vmap(partial(start_of, config, data["wires"]))(chip_keys)
        rows = [jax.vmap(partial(factors_of, config, m))(chip_keys) for m in config.mismatches]
        count = len(config.levels)
        in_place = everywhere(starts, len(rows))
        return State(jnp.stack(rows), (in_place,) * count, (starts,) * count, jnp.asarray(0))

    def step(state: State, data: dict[str, Any]) -> tuple[State, dict[str, Array]]:
        known = Data(**data)
        keys = keys_at(config, state.epoch)
        in_place, perfect, metrics = [], [], {}
        for levels, chips, ideal in zip(config.levels, state.in_place, state.perfect, strict=True):
            learn = partial(learn_in_place, config, levels, known)
            chips, losses = over_chips(learn)(chips, state.factors, keys)
            compute = jax.vmap(partial(learn_by_backprop, config, levels, known))
            ideal, ideal_losses = compute(ideal, keys)
            in_place.append(chips)
            perfect.append(ideal)
            metrics[f"loss_in_place_{levels}"] = jnp.mean(losses)
            metrics[f"loss_perfect_{levels}"] = jnp.mean(ideal_losses)
        return State(state.factors, tuple(in_place), tuple(perfect), state.epoch + 1), metrics

    def finish(state: State, data: dict[str, Any]) -> run.Final:
        return conclude(config, Data(**data), state)

    def differentiated(_: State, data: dict[str, Any]) -> dict[str, run.Loss]:
        wires, training = data["wires"], data["training"]
        start = start_of(config, wires, jax.random.key(0)).params["conductance"]
        return {"perfect": run.Loss(partial(mean_loss, config, wires, training), (start,))}

    return run.Program(init, step, finish, differentiated, data=load(config)._asdict())


def load(config: Config) -> Data:
    """The digits as (voltages, labels), and how the circuit is wired."""
    split_key, _ = jax.random.split(jax.random.key(config.seed))
    parts = tk.data.split(split_key, tk.data.digits(), config.train_size)
    training, held_out = ((circuit.volts(part.images), part.labels) for part in parts)
    edges, _, _ = circuit.wiring(config.hidden)
    return Data(training, held_out, jnp.asarray(edges))


def keys_at(config: Config, epoch: Array) -> Array:
    """One a chip, for the order of its batches and for what its writes and readings draw."""
    _, noise_key = jax.random.split(jax.random.key(config.seed))
    return jax.random.split(jax.random.fold_in(noise_key, epoch), config.chips)


def over_chips(one: Any) -> Any:
    """`one(of each mismatch and chip, factors, key of each chip)` for all chips at once."""
    return jax.vmap(jax.vmap(one), (0, 0, None))


def everywhere(tree: Any, mismatches: int) -> Any:
    """The same for every mismatch, along a new first axis."""
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * mismatches), tree)


def device_of(config: Config, levels: int) -> tk.energy.ResistiveDevice:
    """The technology of the chips of so many levels."""
    return dataclasses.replace(config.device, levels=levels)


def factors_of(config: Config, mismatch: float, chip_key: Array) -> Array:
    """The mismatch of a chip, `[E]`."""
    made_key, _ = jax.random.split(chip_key)
    edges, _, _ = circuit.wiring(config.hidden)
    return dataclasses.replace(config.device, mismatch=mismatch).init(made_key, len(edges))


def start_of(config: Config, wires: Array, chip_key: Array) -> Any:
    """Before the first step: conductances in the lower third of the range."""
    _, told_key = jax.random.split(chip_key)
    low, high = config.device.g_min, config.device.g_max
    top = low + (high - low) / 3
    told = jax.random.uniform(told_key, (len(wires),), minval=low, maxval=top)
    init, _ = trained(config, circuit.network(wires), config.rule)
    return init(chip_key, {"conductance": told}, ())


def trained(config: Config, model: Any, rule: Any) -> Any:
    """`(init, step)` of a model under a rule."""
    return tk.credit.train(model, partial(circuit.loss, config.gain), rule, config.optimizer)


def learn_in_place(
    config: Config, levels: int, data: Data, state: Any, factors: Array, key: Array
) -> tuple[Any, Array]:
    """(the state after an epoch, the mean loss), from the voltages on the chip itself."""

    def step(state: Any, batch: Batch, key: Array) -> tuple[Any, Any]:
        there = circuit.chip(data.wires, device_of(config, levels), factors, key)
        _, step = trained(config, there, config.rule)
        return within_range(config, *step(state, batch, key))

    state, info = tk.credit.epoch(step, state, data.training, config.batch_size, key)
    return state, jnp.mean(info.loss)


def learn_by_backprop(
    config: Config, levels: int, data: Data, state: Any, key: Array
) -> tuple[Any, Array]:
    """(the state after an epoch, the mean loss), through the circuit without noise and mismatch."""
    perfect, device = circuit.network(data.wires), device_of(config, levels)

    def apply(params: Any, x: Array) -> Array:
        return circuit.output_of(perfect, circuit.rounded(device, params["conductance"]), x)

    _, step = trained(config, Perfect(apply), tk.credit.Backprop())
    learn = lambda *at: within_range(config, *step(*at))
    state, info = tk.credit.epoch(learn, state, data.training, config.batch_size, key)
    return state, jnp.mean(info.loss)


def within_range(config: Config, state: Any, info: Any) -> tuple[Any, Any]:
    """What is remembered of a conductance stays in the range, or it would take long to come back."""
    hold = lambda told: jnp.clip(told, config.device.g_min, config.device.g_max)
    return state._replace(params=jax.tree.map(hold, state.params)), info


def mean_loss(config: Config, wires: Array, batch: Batch, conductance: Array) -> Array:
    """Of resistors of known conductances."""
    x, labels = batch
    output = circuit.output_of(circuit.network(wires), conductance, x)
    return jnp.mean(circuit.loss(config.gain, output, labels))


def conclude(config: Config, data: Data, state: State) -> run.Final:
    """Accuracy on every chip both ways, and the cosines of both gradients with that of the chip."""
    keys = keys_at(config, state.epoch)
    batch = jax.tree.map(lambda leaf: leaf[: config.batch_size], data.training)
    columns: dict[str, list[Array]] = {name: [] for name in NAMES}
    for levels, chips, perfect in zip(config.levels, state.in_place, state.perfect, strict=True):
        judge = jax.jit(over_chips(partial(accuracy, config, levels, data)))
        agree = jax.jit(over_chips(partial(cosines, config, levels, data.wires, batch)))
        deployed = everywhere(perfect.params, len(config.mismatches))
        measured = (
            judge(chips.params, state.factors, keys),
            judge(deployed, state.factors, keys),
            *agree(chips.params, state.factors, keys),
        )
        for name, values in zip(NAMES, measured, strict=True):
            columns[name].append(values)
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    return run.Final(arrays, numbers(arrays), table(config, arrays))


NAMES = ("in_place", "deployed", "cosine_in_place", "cosine_backprop")  # [levels, M, C] each


def accuracy(
    config: Config, levels: int, data: Data, params: Any, factors: Array, key: Array
) -> Array:
    """The part of the digits that a chip reads right, after one more write."""
    there = circuit.chip(data.wires, device_of(config, levels), factors, key)
    x, labels = data.held_out
    output = circuit.output_of(there, params["conductance"], x)
    return jnp.mean(jnp.argmax(circuit.logits(config.gain, output), axis=1) == labels)


def cosines(
    config: Config, levels: int, wires: Array, batch: Batch, params: Any, factors: Array, key: Array
) -> tuple[Array, Array]:
    """(in place, backprop through the perfect circuit), with the derivative of the circuit that is there."""
    told, mean = params["conductance"], partial(mean_loss, config, wires, batch)
    device = device_of(config, levels)
    program = partial(device.program, factors, key=key)
    exact = jax.grad(mean)(program(told))
    backprop = jax.grad(lambda told: mean(circuit.rounded(device, told)))(told)
    there = circuit.network(wires, realised=program)  # with perfect instruments
    _, gradients = config.rule(there, partial(circuit.loss, config.gain))
    in_place = gradients(params, (), batch, key)[0]["conductance"]
    cosine = lambda a: a @ exact / (jnp.linalg.norm(a) * jnp.linalg.norm(exact))
    return cosine(in_place), cosine(backprop)


def numbers(arrays: dict[str, Any]) -> dict[str, float]:
    """What the claims refer to, the means over chips: at the last of `levels` and `mismatches` if not said."""
    mean = {name: values.mean(axis=2) for name, values in arrays.items()}
    return {
        "accuracy_in_place": float(mean["in_place"][-1, -1]),
        "accuracy_deployed": float(mean["deployed"][-1, -1]),
        "accuracy_in_place_first_levels": float(mean["in_place"][0, -1]),
        "accuracy_deployed_first_mismatch": float(mean["deployed"][-1, 0]),
        "worst_cosine_in_place": float(arrays["cosine_in_place"].min()),
        "cosine_backprop": float(mean["cosine_backprop"][-1, -1]),
    }


def table(config: Config, arrays: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """A row a combination: accuracy, mean and standard deviation over chips."""

    def said(values: Any) -> str:
        return f"{100 * values.mean():.1f} ± {100 * values.std():.1f} %"

    return tuple(
        (
            f"{levels} levels, mismatch {mismatch:g}",
            f"in place {said(arrays['in_place'][i, j])}, deployed {said(arrays['deployed'][i, j])}",
        )
        for i, levels in enumerate(config.levels)
        for j, mismatch in enumerate(config.mismatches)
    )
