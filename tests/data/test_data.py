"""Digits, splits and label noise: seeded, exact in number, refused where they make no sense."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk


def test_digits_are_the_1797() -> None:
    data = tk.data.digits()
    assert data.images.shape == (1797, 64)
    assert data.images.dtype == jnp.float32
    assert data.images.min() == 0
    assert data.images.max() == 1
    assert np.bincount(data.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_breast_cancer_is_the_569() -> None:
    data = tk.data.breast_cancer()
    assert data.images.shape == (569, 30)
    assert data.images.dtype == jnp.float32
    assert data.images.min() >= 0
    assert np.bincount(data.labels).tolist() == [212, 357]


def test_breast_cancer_features_have_their_names() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    names = datasets.load_breast_cancer().feature_names
    assert list(tk.data.BREAST_CANCER_FEATURES) == list(names)


@pytest.mark.parametrize("scale", [True, False])
def test_standardizing_uses_the_statistics_of_train_alone(scale: bool) -> None:
    train, test = tk.data.split(jax.random.key(0), tk.data.breast_cancer(), 300)
    constant = train.images.at[:, 3].set(7.0)
    train = train._replace(images=constant)
    moved, other = tk.data.standardize(train, test, scale=scale)
    np.testing.assert_allclose(jnp.mean(moved.images[:, :3], axis=0), 0, atol=1e-4)
    deviation = np.where(scale, 1, np.std(train.images[:, :3], axis=0))
    np.testing.assert_allclose(jnp.std(moved.images[:, :3], axis=0), deviation, rtol=1e-4)
    np.testing.assert_array_equal(moved.images[:, 3], 0)
    np.testing.assert_allclose(other.images[:, 3], test.images[:, 3] - 7)
    alone, _ = tk.data.standardize(train, test._replace(images=test.images * 2), scale=scale)
    np.testing.assert_array_equal(alone.images, moved.images)


def test_split_is_a_seeded_partition() -> None:
    data = tk.data.Labelled(jnp.arange(20.0)[:, None], jnp.arange(20))
    parts = tk.data.split(jax.random.key(3), data, 12, 5)
    assert [len(part.labels) for part in parts] == [12, 5, 3]
    assert sorted(np.concatenate([part.labels for part in parts]).tolist()) == list(range(20))
    for part in parts:
        np.testing.assert_array_equal(part.images[:, 0], part.labels)
    again = tk.data.split(jax.random.key(3), data, 12, 5)
    other = tk.data.split(jax.random.key(4), data, 12, 5)
    assert jnp.array_equal(again[0].labels, parts[0].labels)
    assert not jnp.array_equal(other[0].labels, parts[0].labels)


@pytest.mark.parametrize("sizes", [(0, 5), (-1,), (20,), (15, 5)])
def test_split_refuses_empty_parts(sizes: tuple[int, ...]) -> None:
    data = tk.data.Labelled(jnp.zeros((20, 1)), jnp.zeros(20, int))
    with pytest.raises(ValueError, match="`sizes` must be positive and leave at least one of 20"):
        tk.data.split(jax.random.key(0), data, *sizes)


@pytest.mark.parametrize("fraction", [0.0, 0.4, 1.0])
def test_corruption_is_exact_and_never_the_truth(fraction: float) -> None:
    labels = tk.data.digits().labels
    given, corrupted = tk.data.corrupt_labels(jax.random.key(1), labels, fraction, 10)
    assert int(jnp.sum(corrupted)) == round(fraction * 1797)
    np.testing.assert_array_equal(given != labels, corrupted)
    assert given.dtype == labels.dtype
    assert int(given.min()) >= 0
    assert int(given.max()) <= 9


def test_corruption_is_uniform_over_the_other_classes() -> None:
    labels = jnp.zeros(9000, jnp.int32)
    given, _ = tk.data.corrupt_labels(jax.random.key(2), labels, 1.0, 10)
    counts = np.bincount(given, minlength=10)[1:]
    # Binomial(9000, 1/9): standard deviation 30; five of them.
    assert np.all(np.abs(counts - 1000) < 150)


@pytest.mark.parametrize(("fraction", "classes"), [(1.5, 10), (-0.1, 10), (0.5, 1)])
def test_corruption_refuses_nonsense(fraction: float, classes: int) -> None:
    with pytest.raises(ValueError, match=r"`(fraction|num_classes)` must be"):
        tk.data.corrupt_labels(jax.random.key(0), jnp.zeros(4, int), fraction, classes)
