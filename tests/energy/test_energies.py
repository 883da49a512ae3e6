"""Energies: where they rest, what a sweep does, what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.held_arrays import held
from tests.networks import CLASSES, X, dense, half_squares, network, targets
from toolkit.energy.integral import integral

E = tk.energy
KEY = jax.random.key(0)
MODEL = network()
PARAMS = MODEL.init(KEY, X)
TARGET = targets(len(X))
RELU = network(jax.nn.relu)
MAKERS = {
    "hopfield": E.hopfield,
    "hopfield, synchronous": partial(E.hopfield, dynamics="synchronous"),
    "hopfield, readout": partial(E.hopfield, readout=True),
    "predictive coding": E.predictive_coding,
    "lifted": E.lifted,
}
makers = pytest.mark.parametrize("name", MAKERS)


def cost(output: jax.Array) -> jax.Array:
    return 0.1 * half_squares(output, TARGET)


@makers
def test_where_sweeps_end_the_energy_is_stationary(name: str) -> None:
    """Also under a cost: the sweeps and the energy are two statements of one network."""
    energy = MAKERS[name](MODEL)

    def total(state: Any) -> jax.Array:
        pulled = cost(energy.output(PARAMS, X, state))
        return jnp.sum(energy.energy(PARAMS, X, state) + pulled)

    @jax.jit
    def settled() -> Any:
        start = energy.rest(PARAMS, X)
        state = E.settle(energy, PARAMS, X, start, 400, cost=cost)
        return state, jax.grad(total)(state), jax.grad(total)(start)

    _, slope, before = settled()
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(slope)) < 1e-10
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(before)) > 1e-3


@pytest.mark.parametrize("name", ["predictive coding", "lifted"])
def test_some_rest_in_the_forward_pass(name: str) -> None:
    energy = MAKERS[name](MODEL)
    start = energy.rest(PARAMS, X)
    np.testing.assert_allclose(energy.energy(PARAMS, X, start), 0, atol=1e-13)
    np.testing.assert_allclose(energy.output(PARAMS, X, start), MODEL.apply(PARAMS, X), rtol=1e-12)
    after = energy.update(PARAMS, X, start)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), after, start)


def test_a_hopfield_layer_at_rest_is_what_its_neighbours_send() -> None:
    energy = E.hopfield(MODEL)
    u = jax.jit(partial(E.settle, energy, sweeps=300))(PARAMS, X, energy.rest(PARAMS, X))
    s1, s2 = jnp.tanh(u[0]), jnp.tanh(u[1])
    W = [own["kernel"] for own in PARAMS]
    b = [own["bias"] for own in PARAMS]
    np.testing.assert_allclose(u[0], X @ W[0] + b[0] + s2 @ W[1].T, atol=1e-12)
    np.testing.assert_allclose(u[1], s1 @ W[1] + b[1] + u[2] @ W[2].T, atol=1e-12)
    np.testing.assert_allclose(u[2], s2 @ W[2] + b[2], atol=1e-12)


def test_every_other_layer_in_turn_settles_where_all_at_once_does_and_sooner() -> None:
    def left(name: str, sweeps: int) -> float:
        energy = MAKERS[name](MODEL)
        state = E.settle(energy, PARAMS, X, energy.rest(PARAMS, X), sweeps)
        further = energy.update(PARAMS, X, state)
        return max(float(jnp.max(jnp.abs(a - b))) for a, b in zip(further, state, strict=True))

    assert left("hopfield", 20) < 0.1 * left("hopfield, synchronous", 20)


def test_relu_activities_stay_nonnegative() -> None:
    energy, params = E.predictive_coding(RELU), RELU.init(KEY, X)
    pull = lambda output: 3 * half_squares(output, TARGET)
    state = E.settle(energy, params, X, energy.rest(params, X), 3, cost=pull)
    assert min(float(jnp.min(h)) for h in state[:-1]) >= 0


@pytest.mark.parametrize(
    ("activation", "closed"),
    [
        (jnp.tanh, lambda u: jnp.log(jnp.cosh(u))),
        (jax.nn.relu, lambda u: jnp.maximum(u, 0) ** 2 / 2),
        (lambda u: u, lambda u: u**2 / 2),
    ],
)
def test_the_integral_of_an_activation(activation: Callable, closed: Callable) -> None:
    u = jnp.linspace(-6, 6, 41)
    np.testing.assert_allclose(integral(activation, u), closed(u), rtol=1e-10, atol=1e-12)
    slope = jax.vmap(jax.grad(lambda u: integral(activation, u)))(u)
    np.testing.assert_array_equal(slope, activation(u))  # to the bit, not that of the quadrature


def test_the_integral_of_an_analytic_activation_goes_on_to_complex_numbers() -> None:
    u = jnp.asarray([0.3 + 0.4j, -1.0 + 0.2j])
    np.testing.assert_allclose(integral(jnp.tanh, u), jnp.log(jnp.cosh(u)), rtol=1e-12)


def test_an_output_is_held_where_it_is_told() -> None:
    for name in ("hopfield", "predictive coding", "lifted"):
        energy = MAKERS[name](MODEL)
        held = E.settle(energy, PARAMS, X, energy.rest(PARAMS, X), 5, clamp=TARGET)
        np.testing.assert_array_equal(energy.output(PARAMS, X, held), TARGET)


def test_energies_refuse() -> None:
    tanh_last = tk.credit.layered([(dense(CLASSES), jnp.tanh)])
    own = tanh_last.init(KEY, X)
    for maker in (E.hopfield, E.lifted):
        energy = maker(tanh_last)
        with pytest.raises(
            ValueError, match=r"must end with the activation tk.credit.identity .* got tanh"
        ):
            energy.update(own, X, energy.rest(own, X), clamp=TARGET)
    with pytest.raises(ValueError, match="`dynamics` must be one of 'asynchronous', 'synchronous'"):
        E.hopfield(MODEL, "sync")
    with pytest.raises(ValueError, match=r"`model` must be layers, as made by tk.credit.layered"):
        E.lifted(tk.models.mlp([2, 2]))
    with pytest.raises(ValueError, match="`readout` must leave a layer that settles"):
        E.hopfield(tanh_last, readout=True)
    readout = E.hopfield(MODEL, readout=True)
    with pytest.raises(ValueError, match="`clamp` needs an output that settles"):
        readout.update(PARAMS, X, readout.rest(PARAMS, X), clamp=TARGET)


def test_an_energy_by_descent_is_made_of_functions_and_a_step() -> None:
    nothing = lambda *arguments: ()
    with pytest.raises(ValueError, match="`output` must be a function: got 'logits'"):
        E.descending(nothing, nothing, nothing, "logits", 0.1)
    with pytest.raises(ValueError, match=r"`step_size` must be .*: got -0\.1"):
        E.descending(nothing, nothing, nothing, nothing, -0.1)


def test_an_energy_by_descent_has_no_output_to_hold() -> None:
    energy = E.descending(
        lambda key, x: (),
        lambda params, x: x,
        lambda params, x, state: jnp.sum(state**2, axis=1),
        lambda params, x, state: state[:, :CLASSES],
        0.1,
    )
    with pytest.raises(
        ValueError,
        match=r"`clamp` needs an energy whose output is a part .* got tk.energy.descending",
    ):
        energy.update((), X, X, clamp=TARGET)
    with pytest.raises(ValueError, match="use EquilibriumPropagation"):
        tk.credit.CoupledLearning()(energy, half_squares)[1]((), (), (X, TARGET), KEY)


# Resistors: two inputs, two free nodes between, one output.
EDGES = np.array([[0, 2], [1, 2], [2, 3], [1, 3], [3, 4], [2, 4], [0, 2]])
VOLTS = jnp.asarray([[1.0, -0.5], [0.3, 2.0]])


def test_resistors_settle_by_kirchhoff() -> None:
    energy = E.resistive(EDGES, [0, 1], [4])
    params = {"conductance": jnp.asarray([1.0, 2.0, 0.5, 1.5, 1.0, 0.3, 0.7])}
    free = energy.rest(params, VOLTS)
    V = jnp.concatenate([VOLTS, free], axis=1)
    currents = np.zeros_like(V)
    for (i, j), g in zip(EDGES, params["conductance"], strict=True):
        currents[:, i] += g * (V[:, i] - V[:, j])
        currents[:, j] -= g * (V[:, i] - V[:, j])
    np.testing.assert_allclose(currents[:, 2:], 0, atol=1e-14)
    np.testing.assert_array_equal(energy.output(params, VOLTS, free), V[:, 4:])
    np.testing.assert_allclose(energy.update(params, VOLTS, free), free, atol=1e-14)
    held = energy.update(params, VOLTS, free, clamp=jnp.asarray([[0.2], [0.1]]))
    np.testing.assert_array_equal(held[:, 2], [0.2, 0.1])


def test_gradients_pass_through_what_the_device_makes_of_conductances() -> None:
    """By its own derivative: told 1 where the device has f, a change of 1 changes what it has by f."""
    told = {"conductance": jax.random.uniform(KEY, (len(EDGES),), minval=0.5, maxval=1.5)}
    factors = jnp.exp(0.8 * jax.random.normal(jax.random.key(3), (len(EDGES),)))
    device = E.resistive(EDGES, [0, 1], [4], realised=lambda g: factors * g)
    batch = (VOLTS, jnp.asarray([[0.6], [-0.4]]))
    rule = tk.credit.EquilibriumPropagation(beta=1e-3, free_steps=1, nudged_steps=3)
    predict = lambda params: device.output(params, VOLTS, device.rest(params, VOLTS))
    exact = jax.grad(lambda params: jnp.mean(half_squares(predict(params), batch[1])))(told)
    got, _, info = rule(device, half_squares)[1](told, (), batch, KEY)
    np.testing.assert_allclose(got["conductance"], exact["conductance"], rtol=1e-5)  # O(beta^2)
    assert info.status == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0, 1, 2]], [0], [1]), "`edges` must be pairs of two different node numbers"),
        (([[0, 0]], [0], [1]), "`edges` must be pairs of two different node numbers"),
        (([[0, 1]], [0], [2]), "`outputs` must be different nodes of 0 to 1"),
        (([[0, 1], [1, 2]], [0], [1.5]), r"`outputs` must be different nodes .* got \[1.5\]"),
        (([[0, 1]], [], [1]), "`inputs` must be different nodes of 0 to 1, at least one: got"),
        (([[0, 1], [1, 2]], [0, 1], [1]), r"`outputs` must be free nodes: got \[1\] of `inputs`"),
        (([[0, 1], [2, 3]], [0], [1]), r"must join every node to an input.* no path for \[2, 3\]"),
    ],
)
def test_resistors_refuse_edges(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        E.resistive(*arguments)


@pytest.mark.parametrize(
    ("device", "x", "conductances", "message"),
    [
        ({"realised": 3}, VOLTS, 7, "`realised` must be a function of one array, or None: got int"),
        ({"measured": E.ResistiveDevice()}, VOLTS, 7, "`measured` must be .* got ResistiveDevice; .* lambda"),
        ({"realised": lambda g: g[:2]}, VOLTS, 7, r"`realised` must have the shape \(7,\): got float64\[2\]"),
        ({"measured": jnp.sum}, VOLTS, 7, r"`measured` must have the shape \(2, 1\): got float64\[\]"),
        ({}, VOLTS, 6, r'`params\["conductance"\]` must have the shape \(7,\): got float64\[6\]'),
        ({}, VOLTS[:, :1], 7, r"`x` must have the shape \(2, 2\): got float64\[2,1\]"),
    ],
)  # fmt: skip
def test_resistors_refuse_other_shapes(
    device: Any, x: Any, conductances: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        energy = E.resistive(EDGES, [0, 1], [4], **device)
        params = {"conductance": jnp.ones(conductances)}
        energy.output(params, x, energy.rest(params, x))


def test_resistors_refuse_to_hold_other_outputs() -> None:
    energy, params = E.resistive(EDGES, [0, 1], [4]), {"conductance": jnp.ones(len(EDGES))}
    with pytest.raises(
        ValueError, match=r"`clamp` must have the shape \(2, 1\): got float64\[2,2\]"
    ):
        energy.update(params, VOLTS, energy.rest(params, VOLTS), clamp=VOLTS)


def test_a_network_of_resistors_in_narrow_numbers() -> None:
    energy = E.resistive(EDGES, [0, 1], [4])
    rule = tk.credit.CoupledLearning(free_steps=0, clamped_steps=1)
    target = jnp.asarray([[0.5], [0.25]])
    narrow = lambda leaf: jnp.asarray(leaf, jnp.bfloat16)
    params = {"conductance": jnp.asarray([1.0, 2.0, 0.5, 1.5, 1.0, 0.25, 0.75])}
    wide, _, _ = rule(energy, half_squares)[1](params, (), (VOLTS, target), KEY)
    batch = (narrow(VOLTS), narrow(target))
    got, _, info = rule(energy, half_squares)[1](jax.tree.map(narrow, params), (), batch, KEY)
    assert got["conductance"].dtype == jnp.bfloat16 and info.status == 0
    # bfloat16 has eps 0.8 %, and a gradient is the difference of two squared voltage drops, each rounded.
    largest = float(jnp.max(abs(wide["conductance"])))
    np.testing.assert_allclose(
        got["conductance"].astype(float), wide["conductance"], atol=0.03 * largest
    )


def test_edges_may_be_an_argument_of_the_program() -> None:
    """The same voltages and gradients; the program holds no edges."""
    params = {"conductance": jnp.linspace(0.5, 1.5, len(EDGES))}

    def lost(params: Any, wires: Any) -> Any:
        energy = E.resistive(EDGES, [0, 1], [4], wires=wires)
        free = energy.rest(params, VOLTS)
        return jnp.sum(energy.energy(params, VOLTS, free)) + jnp.sum(
            energy.output(params, VOLTS, free)
        )

    loss = jax.value_and_grad(lost)
    jax.tree.map(np.testing.assert_array_equal, loss(params, EDGES), loss(params, None))
    shapes = lambda program: {array.shape for array in held(program)}
    assert EDGES[:, 0].shape in shapes(jax.make_jaxpr(lambda p: loss(p, None))(params))
    assert EDGES[:, 0].shape not in shapes(jax.make_jaxpr(loss)(params, EDGES))
    with pytest.raises(ValueError, match="`wires` must be the edges themselves, in the same order"):
        lost(params, EDGES[::-1])
    with pytest.raises(ValueError, match=r"`wires` must have the shape \(7, 2\): got int"):
        lost(params, EDGES[:3])
