"""Few-shot tasks: what they are made of, and what is known of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.data import Labelled
from toolkit.problems import few_shot

SHOTS, QUERIES, WAYS = 2, 3, 4


def numbered_images(classes: int, size: int) -> jax.Array:
    """[C, M, 64] images, no two pixels alike, so that each tells where it comes from."""
    return jnp.arange(classes * size * 64, dtype=float).reshape(classes, size, 64)


def origin(image: np.ndarray) -> tuple[int, int]:
    """(which of the numbered images, by how many quarters it was turned)."""
    which = int(image.min()) // 64
    upright = np.arange(64.0).reshape(8, 8) + 64 * which
    turns = [k for k in range(4) if np.array_equal(np.rot90(upright, k), image.reshape(8, 8))]
    assert len(turns) == 1
    return which, turns[0]


def test_a_wave_task_has_points_of_its_wave() -> None:
    wave = few_shot.Wave(jnp.asarray(2.0), jnp.asarray(0.5))
    task = few_shot.wave_task(jax.random.key(0), wave, 7, 11)
    assert task.support.inputs.shape == (7, 1)
    assert task.query.targets.shape == (11, 1)
    every = few_shot.pooled(task)
    np.testing.assert_allclose(every.targets, 2 * np.sin(every.inputs - 0.5), rtol=1e-12)
    assert np.abs(every.inputs).max() <= 5
    assert len(np.unique(every.inputs)) == 18


def test_waves_fill_their_ranges() -> None:
    wave = jax.vmap(few_shot.random_wave)(jax.random.split(jax.random.key(0), 4000))
    for values, (low, high) in zip(wave, (few_shot.AMPLITUDES, few_shot.PHASES), strict=True):
        middle, deviation = (low + high) / 2, (high - low) / 12**0.5
        assert low <= values.min() < values.max() <= high
        assert abs(np.mean(values) - middle) < 4 * deviation / 4000**0.5


def test_what_is_known_of_unadapted_waves_is_the_integral() -> None:
    def midpoints(low: float, high: float, count: int) -> np.ndarray:
        return low + (np.arange(count) + 0.5) * (high - low) / count

    a, p, x = np.meshgrid(
        midpoints(*few_shot.AMPLITUDES, 80),
        midpoints(*few_shot.PHASES, 80),
        midpoints(*few_shot.INPUTS, 400),
        indexing="ij",
    )
    values = a * np.sin(x - p)
    best = few_shot.unadapted_wave(x[0, 0])
    # The midpoint rule on 80 amplitudes is off by a part in 1e4.
    np.testing.assert_allclose(best, values.mean(axis=(0, 1)), rtol=1e-3)
    error = np.mean((values - best) ** 2)
    np.testing.assert_allclose(few_shot.unadapted_wave_mse(), error, rtol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_a_class_task_has_distinct_kinds_and_disjoint_examples(seed: int) -> None:
    images = numbered_images(classes=2, size=6)
    task = few_shot.class_task(jax.random.key(seed), images, WAYS, SHOTS, QUERIES)
    seen = few_shot.pooled(task)
    origins = [origin(np.asarray(image)) for image in seen.inputs]
    kinds = [(which // 6, quarters) for which, quarters in origins]
    of_target = {int(t): kind for t, kind in zip(seen.targets, kinds, strict=True)}
    assert sorted(of_target) == list(range(WAYS))
    assert len(set(of_target.values())) == WAYS
    assert kinds == [of_target[int(t)] for t in seen.targets]
    assert len(set(origins)) == WAYS * (SHOTS + QUERIES)
    np.testing.assert_array_equal(task.support.targets, np.repeat(np.arange(WAYS), SHOTS))


def test_kinds_bear_other_numbers_in_other_tasks() -> None:
    images = numbered_images(classes=1, size=5)

    def quarters_of_first(seed: int) -> int:
        task = few_shot.class_task(jax.random.key(seed), images, 4, 1, 1)
        return origin(np.asarray(task.support.inputs[0]))[1]

    assert {quarters_of_first(seed) for seed in range(30)} == {0, 1, 2, 3}


def test_turns_are_numpys() -> None:
    image = np.random.default_rng(0).random(64)
    for k in range(5):
        turned = few_shot.turned(jnp.asarray(image), jnp.asarray(k))
        np.testing.assert_array_equal(turned.reshape(8, 8), np.rot90(image.reshape(8, 8), k))


def test_classes_are_cut_to_the_smallest() -> None:
    labels = jnp.asarray([1, 0, 1, 2, 1, 0])
    data = Labelled(jnp.arange(6.0)[:, None], labels)
    np.testing.assert_array_equal(few_shot.by_class(data, (1, 0))[..., 0], [[0, 2], [1, 5]])


def test_the_nearest_mean_is_numpys() -> None:
    data = tk.data.digits()
    task = few_shot.class_task(jax.random.key(3), few_shot.by_class(data, (3, 4, 7)), 5, 3, 8)
    inputs, targets = map(np.asarray, task.support)
    means = [inputs[targets == way].mean(axis=0) for way in range(5)]
    gaps = [[np.linalg.norm(image - mean) for mean in means] for image in task.query.inputs]
    found = few_shot.nearest_mean(task, 5)
    np.testing.assert_array_equal(found, np.argmin(gaps, axis=1))
    assert np.mean(found == task.query.targets) > 0.8


@pytest.mark.parametrize(
    ("ways", "shots", "queries", "words"),
    [
        (1, 1, 1, "`ways` must be from 2 to the 8 kinds that 2 classes make: got 1"),
        (9, 1, 1, "got 9"),
        (2, 0, 1, "`shots` and `queries` must be positive"),
        (2, 4, 3, "got 4 and 3, expected a sum up to 6"),
    ],
)
def test_tasks_that_cannot_be_are_refused(ways: int, shots: int, queries: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        few_shot.class_task(jax.random.key(0), numbered_images(2, 6), ways, shots, queries)


@pytest.mark.parametrize("classes", [(), (1, 1), (7,)])
def test_classes_that_are_not_there_are_refused(classes: tuple[int, ...]) -> None:
    data = Labelled(jnp.zeros((2, 1)), jnp.asarray([0, 1]))
    with pytest.raises(ValueError, match=r"`classes` must be different labels of the data"):
        few_shot.by_class(data, classes)
