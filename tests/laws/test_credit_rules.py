"""The laws of learning rules: each gives the gradient that it says, on every network, under every transformation.

`exact` rules equal reverse mode; the others have closed forms or identities of their own further below.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import toolkit as tk
from tests.networks import (
    CLASSES,
    IMAGES,
    X,
    cross_entropy,
    dense,
    half_squares,
    mixed,
    network,
    residual,
    targets,
)
from tests.traces import counted as traced
from toolkit.credit.alignment import beside

KEY = jax.random.key(0)
SGD = optax.sgd(0.1)
C, E = tk.credit, tk.energy


class Row(NamedTuple):
    """A rule, and which laws it obeys beside those that all do."""

    traces: int  # how often a layer is evaluated in its program, at most; so grows compile time
    rule: Any
    exact: bool = False  # equals reverse mode of the forward pass, rtol 1e-6
    by_example: bool = True  # the gradient of a batch is the mean of those of its examples


EP = partial(C.EquilibriumPropagation, free_steps=60, nudged_steps=30)
RULES = {
    "backprop": Row(1, C.Backprop(), exact=True),
    "equilibrium propagation": Row(10, EP()),
    "equilibrium propagation, one-sided": Row(11, EP(scheme="one_sided")),
    "equilibrium propagation, random sign": Row(11, EP(scheme="random_sign")),
    "equilibrium propagation, holomorphic": Row(13, EP(scheme="holomorphic", nudge="error")),
    "equilibrium propagation, readout": Row(10, EP(partial(E.hopfield, readout=True))),
    "equilibrium propagation, lifted": Row(
        10, C.EquilibriumPropagation(E.lifted, 1e-5, "centered", 0, 3), exact=True
    ),
    "coupled learning": Row(11, C.CoupledLearning(free_steps=60, clamped_steps=30)),
    "contrastive learning": Row(11, C.ContrastiveLearning(free_steps=60, clamped_steps=30)),
    "dual propagation": Row(6, C.DualPropagation(beta=1e-5), exact=True),
    "dual propagation, plain": Row(6, C.DualPropagation(0.3, 0.01, 3, "plain", damping=0.5)),
    "predictive coding, z-il": Row(3, C.PredictiveCoding("z_il"), exact=True),
    "predictive coding, fixed": Row(3, C.PredictiveCoding("fixed_prediction"), exact=True),
    "predictive coding, nudged": Row(10, C.PredictiveCoding(beta=1e-5), exact=True),
    "predictive coding, clamped": Row(6, C.PredictiveCoding("clamped")),
    "predictive coding, errors": Row(7, C.PredictiveCoding("error_optimising")),
    "predictive coding, lagrangian": Row(
        8, C.PredictiveCoding("augmented_lagrangian", steps=3000), exact=True
    ),
    "feedback alignment": Row(4, C.FeedbackAlignment()),
    "feedback alignment, fixed sign": Row(4, C.FeedbackAlignment("fixed_sign")),
    "feedback alignment, batch sign": Row(4, C.FeedbackAlignment("batch_sign")),
    "feedback alignment, sign": Row(4, C.FeedbackAlignment("sign")),
    "kolen-pollack": Row(4, C.FeedbackAlignment("kolen_pollack", SGD)),
    "direct feedback alignment": Row(2, C.DirectFeedbackAlignment()),
    "photonic": Row(
        2, C.DirectFeedbackAlignment(C.PhotonicProjection(0.4, noise=0.1)), by_example=False
    ),
    "difference target propagation": Row(3, C.DifferenceTargetPropagation(), by_example=False),
    "synthetic gradients": Row(3, C.SyntheticGradients()),
    "synthetic gradients, unconditional": Row(3, C.SyntheticGradients(conditional=False)),
    "forward-forward": Row(3, C.ForwardForward(CLASSES), by_example=False),
    "local losses": Row(2, C.LocalLosses()),
    "node perturbation": Row(3, C.NodePerturbation(num_samples=2), by_example=False),
}
rules = pytest.mark.parametrize("name", RULES)
exact_rules = pytest.mark.parametrize("name", [n for n, row in RULES.items() if row.exact])


class Setting(NamedTuple):
    """A network with its batch."""

    model: Any
    params: Any
    batch: Any


def _setting(model: Any, x: jax.Array) -> Setting:
    return Setting(model, model.init(KEY, x), (x, targets(len(x))))


DENSE = _setting(network(), X)
MIXED = _setting(mixed(), IMAGES)
RESIDUAL = _setting(residual(), X)


@functools.cache
def compiled(name: str) -> Callable:
    """`batch -> (gradients, state, info)` of a rule on DENSE, compiled once for all laws."""
    init, gradients = RULES[name].rule(DENSE.model, half_squares)
    state = init(KEY, DENSE.params, DENSE.batch)
    jitted = jax.jit(gradients)
    return lambda batch: jitted(DENSE.params, state, batch, KEY)


def gradient(rule: Any, setting: Setting, loss: Callable = half_squares) -> tuple[Any, Any, Any]:
    """(gradients, state, info) of one compiled call."""
    init, gradients = rule(setting.model, loss)
    state = init(KEY, setting.params, setting.batch)
    return jax.jit(gradients)(setting.params, state, setting.batch, KEY)


def true_gradient(setting: Setting, loss: Callable, predict: Callable | None = None) -> Any:
    x, target = setting.batch
    predict = setting.model.apply if predict is None else predict
    return jax.grad(lambda params: jnp.mean(loss(predict(params, x), target)))(setting.params)


def assert_close(got: Any, wanted: Any, rtol: float = 1e-6) -> None:
    """Leaf by leaf, relative to the largest entry of the leaf; a leaf of zeros, to that of all leaves."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    largest = [float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(wanted)]
    for a, b, size in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), largest, strict=True):
        np.testing.assert_allclose(a, b, atol=rtol * (size or max(largest)), rtol=rtol)


@exact_rules
@pytest.mark.parametrize("loss", [half_squares, cross_entropy])
def test_exact_rules_equal_backprop(name: str, loss: Callable) -> None:
    if loss is half_squares:
        got, _, info = compiled(name)(DENSE.batch)
    else:
        got, _, info = gradient(RULES[name].rule, DENSE, loss)
    assert_close(got, true_gradient(DENSE, loss))
    np.testing.assert_allclose(
        info.loss, jnp.mean(loss(DENSE.model.apply(DENSE.params, X), DENSE.batch[1]))
    )
    assert info.status == 0


@rules
def test_on_convolution_pooling_linen_nnx_and_pairs(name: str) -> None:
    row = RULES[name]
    got, _, info = gradient(row.rule, MIXED)
    assert jax.tree.structure(got) == jax.tree.structure(MIXED.params)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(got))
    assert not int(info.status) & tk.Issue.NOT_FINITE
    if row.exact:
        assert_close(got, true_gradient(MIXED, half_squares))


# The rule that needs as many sweeps as there are layers: four here, three in DENSE.
LONGER = {
    "equilibrium propagation, lifted": C.EquilibriumPropagation(E.lifted, 1e-5, "centered", 0, 4)
}


@pytest.mark.slow
@rules
def test_on_residual_blocks(name: str) -> None:
    rule = LONGER.get(name, RULES[name].rule)
    if name == "equilibrium propagation, holomorphic":
        with pytest.raises(
            ValueError, match="complex"
        ):  # the variance in LayerNorm is not analytic
            gradient(rule, RESIDUAL, cross_entropy)
        return
    got, _, info = gradient(rule, RESIDUAL, cross_entropy)
    assert jax.tree.structure(got) == jax.tree.structure(RESIDUAL.params)
    assert not int(info.status) & tk.Issue.NOT_FINITE
    if name == "predictive coding, lagrangian":  # activities and multipliers circle, and it says so
        assert int(info.status) & tk.Issue.INNER_NOT_CONVERGED
    elif RULES[name].exact:
        assert_close(got, true_gradient(RESIDUAL, cross_entropy))


@pytest.mark.slow
def test_small_steps_do_not_pass_for_a_settled_network() -> None:
    rule = C.PredictiveCoding("augmented_lagrangian", steps=2000, step_size=0.01)
    _, _, info = gradient(rule, RESIDUAL, cross_entropy)
    assert int(info.status) & tk.Issue.INNER_NOT_CONVERGED


NARROW = Setting(
    network(), *jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (DENSE.params, DENSE.batch))
)
# Nudges of 1e-5 drown in bfloat16's three digits: rules that divide by them take larger ones here.
WIDE_NUDGES = {
    "dual propagation": C.DualPropagation(),
    "predictive coding, nudged": C.PredictiveCoding(beta=0.5),
    "equilibrium propagation, lifted": C.EquilibriumPropagation(E.lifted, 0.5, "centered", 0, 3),
}


@pytest.mark.slow
@rules
def test_in_bfloat16_each_points_where_it_does_in_float64(name: str) -> None:
    rule = WIDE_NUDGES.get(name, RULES[name].rule)
    if name == "equilibrium propagation, holomorphic":
        pytest.skip("there are no complex numbers of 16 bits; its gradient is of complex64")
    got, _, info = gradient(rule, NARROW)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype(jnp.bfloat16)}
    assert info.loss.dtype == jnp.float32
    assert not int(info.status) & tk.Issue.NOT_FINITE
    if RULES[name].exact:
        assert float(jnp.min(beside(got, true_gradient(DENSE, half_squares)).cosine)) > 0.9


@rules
def test_seeds_side_by_side_and_batches_one_after_another(name: str) -> None:
    """`vmap` over seeds of a `scan` over batches gives what single steps give."""
    init, step = C.train(DENSE.model, half_squares, RULES[name].rule, SGD)
    seeds = jax.random.split(KEY, 2)
    step_keys = jax.random.split(jax.random.key(5), 2)

    def trained(seed: jax.Array) -> Any:
        state = init(seed, DENSE.model.init(seed, X), DENSE.batch)
        return jax.lax.scan(lambda s, key: step(s, DENSE.batch, key), state, step_keys)

    together, infos = jax.jit(jax.vmap(trained))(seeds)
    state = init(seeds[1], DENSE.model.init(seeds[1], X), DENSE.batch)
    jitted = jax.jit(step)
    for key in step_keys:
        state, info = jitted(state, DENSE.batch, key)
    assert_close(jax.tree.map(lambda leaf: leaf[1], together.params), state.params, 1e-9)
    assert state.step == 2
    np.testing.assert_allclose(infos.loss[1, -1], info.loss, rtol=1e-9)


@pytest.mark.parametrize("name", [n for n, row in RULES.items() if row.by_example])
def test_a_batch_is_the_mean_of_its_examples(name: str) -> None:
    init, gradients = RULES[name].rule(DENSE.model, half_squares)
    state = init(KEY, DENSE.params, DENSE.batch)

    def of(batch: Any) -> Any:
        return gradients(DENSE.params, state, batch, KEY)[0]

    singles = jax.jit(jax.vmap(lambda x, t: of((x[None], t[None]))))(*DENSE.batch)
    assert_close(jax.jit(of)(DENSE.batch), jax.tree.map(lambda leaf: leaf.mean(0), singles), 1e-8)


@rules
def test_nan_goes_in_and_nan_comes_out(name: str) -> None:
    x, target = DENSE.batch
    got, _, info = compiled(name)((x.at[0, 0].set(jnp.nan), target))
    assert int(info.status) & tk.Issue.NOT_FINITE
    assert any(bool(jnp.any(jnp.isnan(leaf))) for leaf in jax.tree.leaves(got))


@rules
def test_layers_are_traced_a_stated_number_of_times(name: str) -> None:
    init, apply = dense(4)
    counted, traces = traced(apply)
    middle = ((init, counted), jnp.tanh)
    model = C.layered([(dense(5), jnp.tanh), middle, (dense(CLASSES), C.identity)])
    params = model.init(KEY, X)
    rule_init, gradients = RULES[name].rule(model, half_squares)
    state = rule_init(KEY, params, DENSE.batch)
    traces.clear()
    jax.make_jaxpr(gradients)(params, state, DENSE.batch, KEY)
    assert len(traces) <= RULES[name].traces


# Dual propagation


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_transposed_dual_propagation_is_backprop_on_linear_layers_at_any_beta(alpha: float) -> None:
    linear = _setting(network(C.identity), X)
    got, _, info = gradient(C.DualPropagation(alpha, beta=0.7), linear)
    assert_close(got, true_gradient(linear, half_squares), 1e-10)
    assert info.residual < 1e-10


def test_both_forms_of_dual_propagation_coincide_at_one_half() -> None:
    both = [
        gradient(C.DualPropagation(0.5, 0.2, 3, form), DENSE)[0] for form in ("transposed", "plain")
    ]
    assert_close(*both, 1e-12)
    apart = [
        gradient(C.DualPropagation(0.2, 0.2, 3, form), DENSE)[0] for form in ("transposed", "plain")
    ]
    with pytest.raises(AssertionError):
        assert_close(*apart, 1e-3)


def test_sweeps_of_dual_propagation_settle_where_damped_ones_do() -> None:
    plain, _, info = gradient(C.DualPropagation(0.5, 0.3, 60), DENSE)
    damped, _, _ = gradient(C.DualPropagation(0.5, 0.3, 300, damping=1.0), DENSE)
    assert_close(damped, plain, 1e-9)
    assert info.residual < 1e-10


# Equilibrium propagation


def _order(scheme: str, betas: tuple[float, float], **more: Any) -> float:
    """The fitted slope of log error over log beta."""
    rule = EP(scheme=scheme, free_steps=150, nudged_steps=100, **more)
    exact = true_gradient(DENSE, half_squares, rule.predict(DENSE.model))

    @jax.jit
    def error(beta: jax.Array) -> jax.Array:
        varied = EP(beta=beta, scheme=scheme, free_steps=150, nudged_steps=100, **more)
        _, gradients = varied(DENSE.model, half_squares)
        got, _, _ = gradients(DENSE.params, (), DENSE.batch, KEY)
        return optax.tree.norm(optax.tree.sub(got, exact))

    small, large = (float(error(jnp.asarray(beta))) for beta in betas)
    return float(np.log(large / small) / np.log(betas[1] / betas[0]))


@pytest.mark.parametrize(
    ("scheme", "betas", "order"),
    [
        ("one_sided", (1e-3, 2e-3), 1),
        ("centered", (1e-2, 2e-2), 2),
        ("holomorphic", (0.02, 0.04), 4),
    ],
)
def test_the_error_of_a_scheme_has_its_order_in_beta(scheme: str, betas: Any, order: int) -> None:
    assert abs(_order(scheme, betas) - order) < 0.15


@pytest.mark.parametrize("sweeps", [1, 2, 3, 5, 8])
def test_step_by_step_it_is_truncated_reverse_mode(sweeps: int) -> None:
    """Gradient-descending updates (Ernoult et al. 2019, theorem 1), at every step."""
    energy = E.hopfield(DENSE.model, "synchronous")
    x, target = DENSE.batch
    free = E.settle(energy, DENSE.params, x, energy.rest(DENSE.params, x), 300)

    def truncated(params: Any) -> jax.Array:
        state = free
        for _ in range(sweeps):
            state = energy.update(params, x, state)
        return jnp.mean(half_squares(energy.output(params, x, state), target))

    rule = C.EquilibriumPropagation(
        partial(E.hopfield, dynamics="synchronous"), 1e-4, free_steps=300, nudged_steps=sweeps
    )
    assert_close(gradient(rule, DENSE)[0], jax.grad(truncated)(DENSE.params))


def test_the_rule_agrees_with_the_adjoint_of_the_same_name() -> None:
    """Centered, nudged by the error: `tk.adjoint.Nudged` of the summed energy, at beta times B."""
    x, target = DENSE.batch
    # With smaller weights fewer units saturate, where gradient descent on the potentials is slow.
    calm = DENSE._replace(params=optax.tree.scale(0.5, DENSE.params))
    energy, beta = E.hopfield(DENSE.model), 0.05
    rule = C.EquilibriumPropagation(
        E.hopfield, beta, free_steps=300, nudged_steps=300, nudge="error"
    )

    def outer(state: Any, params: Any) -> jax.Array:
        return jnp.mean(half_squares(energy.output(params, x, state), target))

    solve = tk.argmin(
        lambda state, params: jnp.sum(energy.energy(params, x, state)),
        tk.solver.GradientDescent(0.5, 3000, momentum=0.5, tol=1e-13),
        adjoint=tk.adjoint.Nudged(beta * len(x)),
    )
    hg = tk.hypergradient(outer, solve)(energy.rest(calm.params, x), calm.params)
    assert int(hg.report.status) == 0
    assert_close(gradient(rule, calm)[0], hg.gradient, 1e-7)


@pytest.mark.parametrize("beta", [0.01, 2.0])
def test_resistors_learn_in_place_by_the_derivative_of_the_chip_that_is_there(beta: float) -> None:
    """Under levels, write noise and mismatch; backprop through the ideal network follows another one."""
    edges = [(i, j) for i in range(3) for j in (3, 4, 5)] + [
        (i, j) for i in (3, 4, 5) for j in (6, 7)
    ]
    x, target = X[:, :3], 0.3 * X[:, 3:5]
    device = E.ResistiveDevice(levels=16, write_noise=0.05, mismatch=0.7)
    factors = device.init(KEY, len(edges))
    program = partial(device.program, factors, key=jax.random.key(1))
    ideal = E.resistive(edges, range(3), (6, 7))
    chip = E.resistive(edges, range(3), (6, 7), realised=program)
    told = {"conductance": jax.random.uniform(KEY, (len(edges),), minval=0.1, maxval=0.9)}
    # A linear circuit answers a nudge by the error in one sweep, and the difference is exact for any beta.
    rule = C.EquilibriumPropagation(beta=beta, free_steps=0, nudged_steps=1, nudge="error")

    def mean(conductance: jax.Array) -> jax.Array:
        params = {"conductance": conductance}
        return jnp.mean(half_squares(ideal.output(params, x, ideal.rest(params, x)), target))

    got, _, info = rule(chip, half_squares)[1](told, (), (x, target), KEY)
    there = jax.grad(mean)(program(told["conductance"]))
    np.testing.assert_allclose(got["conductance"], there, rtol=1e-9, atol=1e-12)
    assert info.status == 0 and float(info.residual) < 1e-9
    elsewhere = jax.grad(mean)(told["conductance"])
    cosine = elsewhere @ there / jnp.linalg.norm(elsewhere) / jnp.linalg.norm(there)
    assert float(cosine) < 0.95


def test_a_readout_learns_cross_entropy() -> None:
    rule = EP(partial(E.hopfield, readout=True), beta=1e-3)
    exact = true_gradient(DENSE, cross_entropy, rule.predict(DENSE.model))
    assert_close(gradient(rule, DENSE, cross_entropy)[0], exact, 1e-5)  # O(beta^2)


def test_an_energy_of_ones_own_learns() -> None:
    def energy(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.sum((y - x @ params) ** 2 / 2 + 0.1 * y**4, axis=1)

    model = E.descending(
        lambda key, x: jax.random.normal(key, (6, CLASSES)),
        lambda params, x: jnp.zeros((len(x), CLASSES)),
        energy,
        lambda params, x, y: y,
        0.2,
    )
    setting = _setting(model, X)
    rule = EP(beta=1e-4, free_steps=300, nudged_steps=300)
    exact = true_gradient(setting, half_squares, rule.predict(model))
    assert_close(gradient(rule, setting)[0], exact)


# Alignment


def test_forward_weights_take_no_part_in_the_way_down() -> None:
    """A map whose pullback through the forward weights is NaN changes nothing."""

    @jax.custom_vjp
    def product(h: jax.Array, kernel: jax.Array, forward: jax.Array) -> jax.Array:
        return h @ kernel

    def backward(residuals: Any, bar: jax.Array) -> Any:
        h, kernel, forward = residuals
        down = jnp.where(jnp.all(forward == kernel), jnp.nan, bar @ kernel.T)
        return down, h.T @ bar, jnp.zeros_like(kernel)

    product.defvjp(lambda h, w, f: (h @ w, (h, w, f)), backward)
    init, _ = dense(4)
    params = DENSE.params
    planted = lambda own, h: product(h, own["kernel"], params[1]["kernel"]) + own["bias"]
    model = C.layered(
        [(dense(7), jnp.tanh), ((init, planted), jnp.tanh), (dense(CLASSES), C.identity)]
    )
    for rule in (C.FeedbackAlignment(), C.DirectFeedbackAlignment()):
        poisoned, _, info = gradient(rule, DENSE._replace(model=model))
        assert_close(poisoned, gradient(rule, DENSE)[0], 1e-12)
        assert info.status == 0
    assert gradient(C.Backprop(), DENSE._replace(model=model))[2].status  # the poison is there


@pytest.mark.parametrize("kind", ["fixed_sign", "batch_sign", "sign"])
def test_feedback_has_the_signs_of_today(kind: str) -> None:
    init, gradients = C.FeedbackAlignment(kind)(DENSE.model, half_squares)
    state = init(KEY, DENSE.params, DENSE.batch)
    flipped = jax.tree.map(lambda w: -w, DENSE.params)
    _, after, _ = gradients(flipped, state, DENSE.batch, jax.random.key(9))
    same = jax.tree.map(
        lambda b, w: bool(jnp.all(jnp.sign(b) == jnp.sign(w))), after.feedback, flipped
    )
    assert all(jax.tree.leaves(same))
    magnitudes = jax.tree.map(
        lambda a, b: bool(jnp.allclose(abs(a), abs(b))), after.feedback, state.feedback
    )
    assert all(jax.tree.leaves(magnitudes)) == (kind != "batch_sign")


def test_feedback_with_the_forward_weights_is_backprop() -> None:
    init, gradients = C.FeedbackAlignment()(MIXED.model, cross_entropy)
    state = init(KEY, MIXED.params, MIXED.batch)._replace(feedback=MIXED.params)
    got, _, _ = gradients(MIXED.params, state, MIXED.batch, KEY)
    assert_close(got, true_gradient(MIXED, cross_entropy))


def test_decay_shrinks_the_difference_of_kolen_and_pollack() -> None:
    """Both get the same gradient; with weight decay d at rate r the difference shrinks by 1 - r d a step."""
    optimizer = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1))
    init, step = C.train(
        DENSE.model, half_squares, C.FeedbackAlignment("kolen_pollack", optimizer), optimizer
    )
    state = init(KEY, DENSE.params, DENSE.batch)

    def gap(state: Any) -> Any:
        return optax.tree.sub(state.rule.feedback, state.params)

    start, jitted = gap(state), jax.jit(step)
    for _ in range(3):
        state, _ = jitted(state, DENSE.batch, KEY)
    assert_close(gap(state), optax.tree.scale((1 - 0.1 * 0.5) ** 3, start), 1e-9)


def test_a_photonic_device_is_ternary_noisy_and_of_few_levels() -> None:
    device = C.PhotonicProjection(threshold=0.4, levels=5)
    medium = device.init(KEY, 3, 2000, jnp.float64)
    np.testing.assert_allclose(
        jnp.mean(medium**2), 1, atol=5 * (2 / 6000) ** 0.5
    )  # 5 standard errors
    error = jnp.asarray([[0.3, -0.9, 5.0], [0.1, 0.2, -0.3]])
    projected = device.project(medium, error, KEY)
    assert len(np.unique(np.round(projected[0], 9))) == 5
    np.testing.assert_array_equal(projected[1], 0)
    exact = C.PhotonicProjection(threshold=0.4, levels=None).project(medium, error, KEY)
    np.testing.assert_allclose(exact[0], medium[2] - medium[1])
    noisy = C.PhotonicProjection(threshold=0.4, levels=None, noise=0.1).project(medium, error, KEY)
    spread = jnp.std(noisy[0] - exact[0]) / jnp.sqrt(jnp.mean(exact[0] ** 2))
    np.testing.assert_allclose(spread, 0.1, rtol=5 / (2 * 2000) ** 0.5)


# Others


def test_node_perturbation_is_unbiased() -> None:
    linear = _setting(network(C.identity, ()), X)
    _, gradients = C.NodePerturbation(0.5)(linear.model, half_squares)
    draws = jax.vmap(lambda key: gradients(linear.params, (), linear.batch, key)[0])
    got = jax.jit(draws)(jax.random.split(KEY, 20_000))
    for samples, exact in zip(
        jax.tree.leaves(got), jax.tree.leaves(true_gradient(linear, half_squares)), strict=True
    ):
        error = jnp.std(samples, axis=0) / len(samples) ** 0.5
        assert bool(jnp.all(jnp.abs(samples.mean(0) - exact) < 5 * error))


def test_guesses_learn_the_gradient() -> None:
    """With fixed weights the guessed gradients of a linear network approach the true ones."""
    linear = _setting(network(C.identity, (4,)), X)
    init, gradients = C.SyntheticGradients(optimizer=optax.sgd(0.05))(linear.model, half_squares)
    state = init(KEY, linear.params, linear.batch)
    advance = jax.jit(lambda state: gradients(linear.params, state, linear.batch, KEY)[1])
    assert all(bool(jnp.all(w == 0)) for w in jax.tree.leaves(state.synthesisers))
    for _ in range(3000):
        state = advance(state)
    got, _, _ = gradients(linear.params, state, linear.batch, KEY)
    assert_close(got, true_gradient(linear, half_squares), 1e-4)


def test_target_propagation_with_true_inverses_is_gauss_newton() -> None:
    """Linear square layers with their exact inverses: `t_k - h_k = -step W^-1 ... e`."""
    model = C.layered([(dense(CLASSES), C.identity), (dense(CLASSES), C.identity)])
    x = X[:, :CLASSES]
    setting = _setting(model, x)
    init, gradients = C.DifferenceTargetPropagation(noise=0.0, optimizer=optax.sgd(0.0))(
        model, half_squares
    )
    state = init(KEY, setting.params, setting.batch)
    inverse = jnp.linalg.inv(setting.params[1]["kernel"])
    state = state._replace(inverses=({"kernel": inverse, "bias": jnp.zeros(CLASSES)},))
    got, _, _ = gradients(setting.params, state, setting.batch, KEY)
    error = model.apply(setting.params, x) - setting.batch[1]
    np.testing.assert_allclose(got[0]["kernel"], x.T @ (error @ inverse) / len(x), rtol=1e-9)


def test_forward_forward_learns_layer_by_layer() -> None:
    relu = _setting(network(jax.nn.relu, (20, 20)), X)
    rule = C.ForwardForward(CLASSES)
    init, step = C.train(relu.model, cross_entropy, rule, optax.adam(0.01))
    state = init(KEY, relu.params, relu.batch)
    jitted = jax.jit(step)
    for key in jax.random.split(KEY, 400):
        state, _ = jitted(state, relu.batch, key)
    labels = jnp.argmax(relu.batch[1], axis=1)
    for inference in ("goodness", "readout"):
        predict = C.ForwardForward(CLASSES, inference=inference).predict(relu.model)
        guess = predict(state.params, X)
        assert guess.shape == (5, CLASSES)
        np.testing.assert_array_equal(jnp.argmax(guess, axis=1), labels)


def test_local_heads_hear_nothing_from_above() -> None:
    got, _, _ = gradient(C.LocalLosses(), DENSE)
    worse = (*DENSE.params[:-1], jax.tree.map(lambda w: 3 * w, DENSE.params[-1]))
    moved, _, _ = gradient(C.LocalLosses(), DENSE._replace(params=worse))
    assert_close(moved[:-1], got[:-1], 1e-12)
