"""A training step of clamped predictive coding, beside FabricPC's on the same network."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import optax

import toolkit as tk
from benchmarks.contest import Entry, Suite
from benchmarks.suites.credit_gradients import BATCH, SIZES, half_squares, problem

STEPS, RATE = 20, 0.1  # of the descent in the activities


def ours() -> Any:
    """`tk.credit.train`."""
    model, params, batch = problem()
    rule = tk.credit.PredictiveCoding("clamped", steps=STEPS, step_size=RATE)
    init, step = tk.credit.train(model, half_squares, rule, optax.adam(1e-3))
    key = jax.random.key(2)

    def call(params: Any, moments: Any, batch: Any, key: Any) -> Any:
        state = init(key, params, batch)._replace(optimizer=moments)
        state, info = step(state, batch, key)
        return state.params, state.optimizer, info

    return call, (params, optax.adam(1e-3).init(params), batch, key)


def by_hand() -> Any:
    """Descent in the two hidden activities, all of them at once; the first layer's prediction is made once."""
    _, params, batch = problem()
    optimizer = optax.adam(1e-3)

    def predicted(own: Any, h: Any) -> Any:
        return jnp.tanh(h @ own["kernel"] + own["bias"])

    def energy(params: Any, hidden: Any, first: Any, target: Any) -> Any:
        h1, h2 = hidden
        output = h2 @ params[2]["kernel"] + params[2]["bias"]
        errors = (h1 - first, h2 - predicted(params[1], h1), target - output)
        return sum(jnp.sum(error**2) for error in errors) / 2

    def call(params: Any, moments: Any, batch: Any) -> Any:
        x, target = batch
        first = predicted(params[0], x)

        def descend(hidden: Any, _: None) -> Any:
            slopes = jax.grad(energy, 1)(params, hidden, first, target)
            return jax.tree.map(lambda h, slope: h - RATE * slope, hidden, slopes), None

        hidden, _ = jax.lax.scan(descend, (first, predicted(params[1], first)), length=STEPS)
        total = lambda params: energy(params, hidden, predicted(params[0], x), target) / len(x)
        updates, moments = optimizer.update(jax.grad(total)(params), moments, params)
        return optax.apply_updates(params, updates), moments

    return call, (params, optimizer.init(params), batch)


def fabricpc() -> Any:
    """FabricPC's own step; its weights are put in the place of ours."""
    import fabricpc.nodes as nodes
    from fabricpc.core.activations import IdentityActivation, TanhActivation
    from fabricpc.core.inference import InferenceSGD
    from fabricpc.core.topology import Edge
    from fabricpc.graph_assembly import TaskMap, graph
    from fabricpc.graph_initialization import initialize_params
    from fabricpc.training import make_train_step

    _, params, (x, target) = problem()
    activations = (*[TanhActivation()] * (len(SIZES) - 2), IdentityActivation())
    layers = [nodes.Linear(shape=(SIZES[0],), name="x")]
    layers += [
        nodes.Linear(shape=(units,), name=f"layer{k}", activation=activation)
        for k, (units, activation) in enumerate(zip(SIZES[1:], activations, strict=True))
    ]
    structure = graph(
        nodes=layers,
        edges=[Edge(source=below, target=here.slot("in")) for below, here in pairwise(layers)],
        task_map=TaskMap(x=layers[0], y=layers[-1]),
        inference=InferenceSGD(eta_infer=RATE, infer_steps=STEPS),
    )
    theirs = initialize_params(structure, jax.random.key(0))
    for k, own in enumerate(params):
        node = theirs.nodes[f"layer{k}"]
        (kernel,), (bias,) = node.weights, node.biases
        node.weights[kernel], node.biases[bias] = (
            own["kernel"],
            own["bias"].reshape(node.biases[bias].shape),
        )
    optimizer = optax.adam(1e-3)
    step = make_train_step(structure, optimizer, algorithm="pc")
    batch = {"x": x, "y": target}
    return step, (theirs, optimizer.init(theirs), batch, jax.random.key(1))


SUITE = Suite(
    "Predictive coding: a training step",
    f"A tanh network {'-'.join(map(str, SIZES))}, batch {BATCH}, half squared error, {STEPS} steps of descent in "
    "the activities with the output clamped, then a step of Adam.",
    {
        "hand": Entry(by_hand),
        "toolkit": Entry(ours),
        "fabricpc": Entry(fabricpc),
    },
)
