"""The small networks: their formulas, their sizes, and what they refuse."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk

KEY = jax.random.key(0)


def test_mlp_is_its_formula() -> None:
    init, apply = tk.models.mlp((3, 5, 4, 2), jax.nn.relu)
    params = init(KEY)
    x = jax.random.normal(jax.random.key(1), (7, 3))
    h = jax.nn.relu(x @ params["w1"] + params["b1"])
    h = jax.nn.relu(h @ params["w2"] + params["b2"])
    np.testing.assert_array_equal(apply(params, x), h @ params["w3"] + params["b3"])
    np.testing.assert_allclose(apply(params, x[0]), apply(params, x)[0], rtol=1e-12)


def test_mlp_draws_a_key_a_layer() -> None:
    params = tk.models.mlp((64, 50, 10)).init(KEY, jnp.zeros((1, 64)))
    first, second = jax.random.split(KEY)
    np.testing.assert_array_equal(params["w1"], jax.random.normal(first, (64, 50)) / 8)
    np.testing.assert_array_equal(params["w2"], jax.random.normal(second, (50, 10)) / 50**0.5)
    np.testing.assert_array_equal(params["b1"], jnp.zeros(50))
    assert sorted(params) == ["b1", "b2", "w1", "w2"]


def test_mlp_of_one_layer_is_linear() -> None:
    init, apply = tk.models.mlp((3, 2), jnp.tanh)
    params = init(KEY)
    assert sorted(params) == ["b1", "w1"]
    np.testing.assert_array_equal(
        apply(params, jnp.eye(3)), jnp.eye(3) @ params["w1"] + params["b1"]
    )


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0)])
def test_mlp_refuses_sizes_that_make_no_network(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="`sizes` must be two or more positive numbers"):
        tk.models.mlp(sizes)


def test_mlp_does_not_load_flax() -> None:
    code = "import sys, toolkit as tk; tk.models.mlp((2, 1)); print('flax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def _count(params: object) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_lenet_has_its_parameters() -> None:
    init, apply = tk.models.lenet()
    color, gray = jnp.zeros((2, 32, 32, 3)), jnp.zeros((2, 28, 28, 1))
    assert _count(init(KEY, color)) == 62_006
    assert _count(init(KEY, gray)) == 44_426
    assert apply(init(KEY, color), color).shape == (2, 10)


def test_convnet_reads_digits() -> None:
    init, apply = tk.models.convnet(num_classes=10, channels=(4, 8))
    data = tk.data.digits()
    images, labels = data.images[:100].reshape(-1, 8, 8, 1), data.labels[:100]
    params = init(KEY, images)
    assert _count(params) == (9 + 1) * 4 + (9 * 4 + 1) * 8 + (8 + 1) * 10

    def loss(params: object, _: None) -> jax.Array:
        right = jax.nn.one_hot(labels, 10)
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(apply(params, images)) * right, axis=1))

    descent = tk.solver.GradientDescent(0.1, 100, momentum=0.9)
    solve = tk.argmin(loss, descent, adjoint=tk.adjoint.Stopped())
    trained = jax.jit(lambda params: solve(params, None).value)(params)
    assert loss(trained, None) < 0.8 * loss(params, None)


@pytest.mark.parametrize(
    ("model", "shape", "said"),
    [
        (tk.models.lenet(), (1, 8, 8, 1), "at least 16 x 16 pixels: got the shape .1, 8, 8, 1"),
        (tk.models.lenet(), (32, 32, 3), "B, H, W, C"),
        (tk.models.convnet(channels=(1,) * 4), (1, 8, 8, 1), "at least 16 x 16 pixels, .* 4 times"),
    ],
)
def test_images_that_are_too_small_are_refused(
    model: tk.models.Model, shape: tuple[int, ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        model.init(KEY, jnp.zeros(shape))


def test_dense_layers_are_a_network_for_the_rules() -> None:
    model = tk.credit.layered(tk.models.dense_layers((5, 4, 3), jax.nn.relu))
    x = jax.random.normal(KEY, (7, 6))
    params = model.init(KEY, x)
    shapes = [params[k]["kernel"].shape for k in range(3)]
    assert shapes == [(6, 5), (5, 4), (4, 3)]
    h = jax.nn.relu(x @ params[0]["kernel"] + params[0]["bias"])
    h = jax.nn.relu(h @ params[1]["kernel"] + params[1]["bias"])
    np.testing.assert_allclose(
        model.apply(params, x), h @ params[2]["kernel"] + params[2]["bias"], rtol=1e-6
    )


def test_conv_layers_halve_the_image_by_its_mean() -> None:
    model = tk.credit.layered(tk.models.conv_layers((3, 4), num_classes=5))
    x = jax.random.normal(KEY, (2, 8, 8, 1))
    params = model.init(KEY, x)
    assert [params[k]["kernel"].shape for k in range(3)] == [(3, 3, 1, 3), (3, 3, 3, 4), (16, 5)]
    # A kernel that is 1 in its middle passes the image on, so that the mean alone is left.
    middle = jnp.zeros((3, 3, 1, 3)).at[1, 1].set(1)
    seen = model.layers[0].pre({"kernel": middle, "bias": jnp.zeros(3)}, x)
    means = x.reshape(2, 4, 2, 4, 2, 1).mean(axis=(2, 4))
    np.testing.assert_allclose(seen, jnp.broadcast_to(means, (2, 4, 4, 3)), rtol=1e-5, atol=1e-6)
    assert model.apply(params, x).shape == (2, 5)


def test_layers_refuse_sizes_that_make_no_network() -> None:
    with pytest.raises(ValueError, match="`units` must be one or more numbers of at least 1: got"):
        tk.models.dense_layers(())
    with pytest.raises(ValueError, match=r"`channels` must be .*: got \(0,\)"):
        tk.models.conv_layers((0,))
    with pytest.raises(ValueError, match="`num_classes`"):
        tk.models.conv_layers((3,), num_classes=0)
