"""What the rules refuse, and what they warn of, each in one line."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import toolkit as tk
from tests.networks import (
    CLASSES,
    IMAGES,
    X,
    cross_entropy,
    dense,
    half_squares,
    network,
    targets,
)

KEY = jax.random.key(0)
C, E = tk.credit, tk.energy
MODEL = network()
PARAMS = MODEL.init(KEY, X)
BATCH = (X, targets(len(X)))
TANH_LAST = C.layered([(dense(4), jnp.tanh), (dense(CLASSES), jnp.tanh)])
CLIPPED = network(lambda u: jnp.clip(u, 0, 1))
MAX_POOL = partial(linen.max_pool, window_shape=(2, 2), strides=(2, 2))
FLATTEN = lambda h: h.reshape(len(h), -1)
CONVOLUTION = linen.Conv(2, (3, 3), param_dtype=jnp.float64)
# Its second layer pools what settles; pooling the data itself would be no matter.
POOLED = C.layered(
    [
        (CONVOLUTION, jnp.tanh),
        (CONVOLUTION, MAX_POOL, jnp.tanh),
        (FLATTEN, dense(CLASSES), C.identity),
    ]
)


def call(rule: Any, model: Any = MODEL, loss: Any = half_squares, batch: Any = BATCH) -> Any:
    init, gradients = rule(model, loss)
    params = model.init(KEY, batch[0])
    return gradients(params, init(KEY, params, batch), batch, KEY)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: C.DualPropagation(alpha=1.5), r"`alpha` must be a number in \[0, 1\]: got 1.5"),
        (lambda: C.DualPropagation(beta=0), "`beta` must be a positive number: got 0"),
        (lambda: C.DualPropagation(form="lagrangian"), "`form` must be one of 'transposed', 'plain': got 'lagrangian'"),
        (lambda: C.DualPropagation(sweeps=0), "`sweeps` must be an int of at least 1: got 0"),
        (lambda: C.EquilibriumPropagation(beta=-1), "`beta` must be a positive number: got -1"),
        (lambda: C.EquilibriumPropagation(scheme="both"), "`scheme` must be one of 'one_sided', 'centered', 'random_sign', 'holomorphic'"),
        (lambda: C.EquilibriumPropagation(nudge="target"), "`nudge` must be one of 'loss', 'error'"),
        (lambda: C.CoupledLearning(beta=0), "`beta` must be a positive number: got 0"),
        (lambda: C.PredictiveCoding("zil"), "`form` must be one of 'z_il', 'fixed_prediction', 'nudged'"),
        (lambda: C.PredictiveCoding("z_il", steps=3), '`steps` must be None under form="z_il"'),
        (lambda: C.FeedbackAlignment("asymmetric"), "`kind` must be one of 'random', 'fixed_sign', 'batch_sign', 'sign', 'kolen_pollack'"),
        (lambda: C.FeedbackAlignment("kolen_pollack"), '`optimizer` must move the feedback under kind="kolen_pollack": got None'),
        (lambda: C.DirectFeedbackAlignment(3), "`device` must be a device with init"),
        (lambda: C.PhotonicProjection(levels=1), "`levels` must be an int of at least 2: got 1"),
        (lambda: C.ForwardForward(1), "`num_classes` must be an int of at least 2: got 1"),
        (lambda: C.ForwardForward(3, inference="head"), "`inference` must be one of 'goodness', 'readout'"),
        (lambda: C.NodePerturbation(sigma=0), "`sigma` must be a positive number: got 0"),
        (lambda: call(C.Backprop(), loss=lambda o, t: jnp.sum((o - t) ** 2)), r"`loss` must return one real number an example, of shape \(5,\): got float64\[\]"),
        (lambda: C.Backprop()(E.hopfield(MODEL), half_squares), r"`model` must have an `apply\(params, x\)` for Backprop: got EnergyModel; an energy is"),
        (lambda: call(C.EquilibriumPropagation(), loss=lambda o, t: (o - t) ** 2), r"`loss` must return one real number an example, of shape \(5,\)"),
        (lambda: call(C.EquilibriumPropagation(scheme="holomorphic"), CLIPPED), '`scheme` "holomorphic" needs activations, maps and a loss that are complex-analytic'),
        (lambda: call(C.EquilibriumPropagation(scheme="holomorphic"), network(jax.nn.relu)), 'they take max in relu of complex numbers; use scheme="centered"'),
        (lambda: call(C.EquilibriumPropagation(scheme="holomorphic"), network(jax.nn.elu)), "they take real in elu, imag in elu of complex numbers"),
        (lambda: call(C.EquilibriumPropagation(E.lifted, scheme="holomorphic"), network(jax.nn.relu)), "they take max in relu"),
        (lambda: call(C.EquilibriumPropagation(scheme="holomorphic"), network(lambda u: jnp.tanh(jnp.conj(u)))), "they take conj of complex numbers"),
        (lambda: call(C.EquilibriumPropagation(scheme="holomorphic"), network(lambda u: u * jnp.sign(u))), "they take sign of complex numbers"),
        (lambda: call(C.EquilibriumPropagation(scheme="holomorphic"), POOLED, batch=(IMAGES, targets(len(IMAGES)))), "reduce_window_max of complex numbers"),
        (lambda: call(C.EquilibriumPropagation(scheme="holomorphic"), loss=lambda o, t: jnp.sum(jnp.abs(o - t) ** 2, axis=1)), "they take .*conj"),
        (lambda: call(C.EquilibriumPropagation(scheme="holomorphic"), loss=cross_entropy), '`scheme` "holomorphic" needs .*; use .*nudge="error"'),
        (lambda: call(C.CoupledLearning(), TANH_LAST), "must end with the activation tk.credit.identity"),
        (lambda: call(C.CoupledLearning(), batch=(X, jnp.arange(5) % 3), loss=lambda o, t: o[:, 0]), r"`target` must have the shape of the output, \(5, 3\).*: got \(5,\); make labels one-hot"),
        (lambda: call(C.ForwardForward(3), C.layered([(dense(3), C.identity)])), "`model` must have a hidden layer for ForwardForward"),
        (lambda: call(C.ForwardForward(4)), r"`target` must be classes \[B\], or one-hot \[B, 4\]"),
        (lambda: C.compare(MODEL, half_squares, PARAMS, BATCH, {}, KEY), "`rules` must be a dict of rules by name"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line(make: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("activation", [jax.nn.softplus, jax.nn.silu, jax.nn.gelu])
def test_what_is_analytic_is_not_refused_for_how_it_is_written(activation: Any) -> None:
    """JAX guards softplus and log-sum-exp against overflow by a maximum and a real part."""
    loss = lambda o, t: jax.nn.logsumexp(o, axis=1) - jnp.sum(o * t, axis=1)
    model = network(activation)
    params = jax.tree.map(lambda w: 0.3 * w, model.init(KEY, X))
    rule = C.EquilibriumPropagation(
        beta=0.05, scheme="holomorphic", free_steps=80, nudged_steps=80, num_points=6
    )
    got, _, info = rule(model, loss)[1](params, (), BATCH, KEY)
    predict = rule.predict(model)
    exact = jax.grad(lambda params: jnp.mean(loss(predict(params, X), BATCH[1])))(params)
    assert int(info.status) == 0
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def layered_rules() -> list[Any]:
    return [
        C.DualPropagation(),
        C.PredictiveCoding(),
        C.FeedbackAlignment(),
        C.DirectFeedbackAlignment(),
        C.DifferenceTargetPropagation(),
        C.SyntheticGradients(),
        C.ForwardForward(3),
        C.LocalLosses(),
        C.NodePerturbation(),
    ]


@pytest.mark.parametrize("rule", layered_rules(), ids=lambda rule: type(rule).__name__)
def test_an_energy_is_refused_where_layers_are_needed(rule: Any) -> None:
    with pytest.raises(
        ValueError, match=f"`model` must be layers.* for {type(rule).__name__}: got EnergyModel"
    ):
        rule(E.hopfield(MODEL), half_squares)


def test_warnings() -> None:
    with pytest.warns(
        UserWarning, match="`steps` 2 of PredictiveCoding is below the number of layers, 3"
    ) as found:
        C.PredictiveCoding(steps=2)(MODEL, half_squares)
    assert found[0].filename == __file__  # the user's line, not one of ours
    for threshold in (0.3, jnp.asarray(0.3)):
        device = C.DirectFeedbackAlignment(C.PhotonicProjection(threshold=threshold))
        with pytest.warns(
            UserWarning, match="`threshold` 0.3 of PhotonicProjection is at most 1/classes = 0.333"
        ) as found:
            device(MODEL, half_squares)[0](KEY, PARAMS, BATCH)
        assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        C.PredictiveCoding(steps=3)(MODEL, half_squares)
        C.DirectFeedbackAlignment(C.PhotonicProjection(0.34))(MODEL, half_squares)[0](
            KEY, PARAMS, BATCH
        )
        C.PhotonicProjection(0.1).init(KEY, 1, 3, jnp.float32)  # one output is no softmax


@pytest.mark.parametrize(
    "rule", [rule for rule in layered_rules() if not isinstance(rule, C.ForwardForward)],
    ids=lambda rule: type(rule).__name__,
)  # fmt: skip
def test_one_layer_has_no_way_down_and_the_gradient_of_backprop(rule: Any) -> None:
    one = C.layered([(dense(CLASSES), C.identity)])
    wanted, _, _ = call(C.Backprop(), one)
    got, _, info = call(rule, one)
    assert int(info.status) == 0
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        if isinstance(rule, C.NodePerturbation):  # noise, right in the mean
            assert a.shape == b.shape and bool(jnp.all(jnp.isfinite(a)))
        else:
            np.testing.assert_allclose(a, b, rtol=1e-9)


def test_a_guess_that_does_not_see_the_target_admits_any() -> None:
    weighted = lambda output, target: target["weight"] * half_squares(output, target["wanted"])
    batch = (X, {"weight": jnp.arange(1.0, 6.0), "wanted": BATCH[1]})
    got, _, _ = call(C.SyntheticGradients(conditional=False), loss=weighted, batch=batch)
    assert jax.tree.structure(got) == jax.tree.structure(PARAMS)


@pytest.mark.parametrize(
    "rule",
    [C.ForwardForward(CLASSES), C.SyntheticGradients()],
    ids=lambda rule: type(rule).__name__,
)
def test_a_class_that_there_is_not_gives_nan(rule: Any) -> None:
    """Its row of zeros would be learned from without a word."""
    loss = lambda output, target: jnp.sum(output**2, axis=1)
    got, _, info = call(rule, loss=loss, batch=(X, jnp.array([0, 1, 2, 3, 0])))
    assert int(info.status) == tk.Issue.NOT_FINITE
    assert any(bool(jnp.any(jnp.isnan(leaf))) for leaf in jax.tree.leaves(got))
    with pytest.raises(
        ValueError, match=r"`target` must be classes \[B\], or numbers \[B, ...\]: got"
    ):
        call(rule, loss=loss, batch=(X, {"label": BATCH[1]}))


def test_forward_forward_reads_images_of_integers_as_it_learned_to() -> None:
    bytes_ = jnp.asarray(np.arange(5 * 6).reshape(5, 6) * 8, jnp.uint8)
    rule = C.ForwardForward(CLASSES, inference="readout")
    _, gradients = rule(MODEL, half_squares)
    _, _, info = gradients(PARAMS, (), (bytes_, BATCH[1]), KEY)
    predicted = rule.predict(MODEL)(PARAMS, bytes_)
    np.testing.assert_allclose(info.loss, jnp.mean(half_squares(predicted, BATCH[1])), rtol=1e-9)


def test_a_relaxation_that_is_not_converged_says_so() -> None:
    rule = C.EquilibriumPropagation(free_steps=2, nudged_steps=1)
    _, _, info = call(rule)
    assert int(info.status) == tk.Issue.INNER_NOT_CONVERGED and info.residual > 1e-2
    assert int(info.sweeps) == 2 + 2 * 1


NARROW = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (PARAMS, BATCH))


@pytest.mark.parametrize(
    "make",
    [
        partial(C.DualPropagation, 0.0),
        partial(C.DualPropagation, 1.0, sweeps=2, damping=0.1),
        partial(C.EquilibriumPropagation, E.lifted, free_steps=0, nudged_steps=3),
        partial(C.PredictiveCoding, "nudged"),
        partial(C.CoupledLearning, E.lifted, free_steps=0, clamped_steps=3),
    ],
)
def test_a_nudge_that_drowns_in_rounding_says_so(make: Any) -> None:
    """Beyond a few units in the last place nothing changes any more, and what is left is no gradient."""

    @jax.jit
    def told(beta: jax.Array) -> Any:
        params, batch = NARROW
        return make(beta=beta)(MODEL, half_squares)[1](params, (), batch, KEY)[2]

    for beta in (1e-7, 1e-14):
        info = told(jnp.float32(beta))
        assert int(info.status) == tk.Issue.INNER_NOT_CONVERGED and info.residual > 1e-2


def test_where_nothing_pulls_the_network_is_settled() -> None:
    flat = lambda output, target: 0 * jnp.sum(output, axis=1)
    for rule in (C.DualPropagation(), C.PredictiveCoding()):
        got, _, info = call(rule, loss=flat)
        assert int(info.status) == 0 and info.residual == 0
        assert all(bool(jnp.all(leaf == 0)) for leaf in jax.tree.leaves(got))


def test_numbers_may_be_traced() -> None:
    def made(beta: jax.Array, alpha: jax.Array) -> Any:
        return (
            call(C.EquilibriumPropagation(beta=beta, free_steps=9))[0],
            call(C.DualPropagation(alpha, beta, damping=alpha))[0],
            call(C.PredictiveCoding("clamped", step_size=beta))[0],
        )

    traced = jax.jit(made)(jnp.asarray(0.1), jnp.asarray(0.3))
    for a, b in zip(jax.tree.leaves(traced), jax.tree.leaves(made(0.1, 0.3)), strict=True):  # type: ignore[arg-type]
        np.testing.assert_allclose(a, b, rtol=1e-9)


@pytest.mark.parametrize(
    "rule",
    [C.Backprop(), C.DualPropagation(), C.FeedbackAlignment(), C.DirectFeedbackAlignment(), C.EquilibriumPropagation()],
    ids=lambda rule: type(rule).__name__,
)  # fmt: skip
def test_bfloat16_stays_bfloat16(rule: Any) -> None:
    narrow = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree)
    params, batch = narrow(PARAMS), narrow(BATCH)
    init, gradients = rule(MODEL, half_squares)
    state = init(KEY, PARAMS, BATCH)  # the wide one's: keys draw other numbers in another type
    got, _, info = gradients(params, narrow(state), batch, KEY)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype(jnp.bfloat16)}
    assert info.loss.dtype == jnp.float32
    wide, _, _ = call(rule)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wide), strict=True):
        a, b = np.asarray(a, float).ravel(), np.asarray(b, float).ravel()
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.7  # of two digits
