"""Learned weights of a long tail: parts, weights and derivatives in CI, the whole runs under `-m slow`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from experiments import reweight_long_tail_digits as digits
from tests.experiments.fed import fed
from tests.traces import counted
from toolkit.run.experiment import experiments, load
from toolkit.run.experiment.errors import RunError

ROOT = Path(__file__).parents[2]
CONFIG = "configs/reweight_long_tail.yaml"
SMALL = ("draws=2", "head_size=20", "imbalance=10")


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def _loaded(*words: str) -> tuple[Any, Any]:
    loaded = load.load(Path(CONFIG), [*SMALL, *words])
    module = experiments.load(loaded.experiment)
    return module, load.validate(module.Config, loaded.resolved, {})


def _run(out: Path, *words: str) -> dict[str, float]:
    command = [sys.executable, "-m", "toolkit", "run", CONFIG, *words, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "final" / "metrics.json").read_text())


def test_sizes_fall_geometrically() -> None:
    np.testing.assert_array_equal(
        digits.class_sizes(100, 50.0), [100, 65, 42, 27, 18, 11, 7, 5, 3, 2]
    )
    np.testing.assert_array_equal(digits.class_sizes(30, 1.0), [30] * 10)
    assert digits.class_sizes(5, 1000.0)[-1] == 1


def test_parts_are_apart_and_sized_as_asked() -> None:
    module, settings = _loaded()
    with jax.enable_x64(False):
        data = module.load(settings)
    sizes = digits.class_sizes(settings.head_size, settings.imbalance)
    parts = (
        (data.train, sizes),
        (data.validation, np.full(10, settings.validation_size)),
        (data.test, np.full(10, settings.test_size)),
    )
    for draw in range(settings.draws):
        for part, expected in parts:
            counts = np.bincount(part.labels[draw], minlength=10)
            np.testing.assert_array_equal(counts[data.by_frequency[draw]], expected)
        # All images of the data set differ.
        images = np.concatenate([part.images[draw] for part, _ in parts])
        assert len(np.unique(images, axis=0)) == len(images)
    assert not np.array_equal(data.by_frequency[0], data.by_frequency[1])


def test_a_part_too_large_is_refused() -> None:
    with pytest.raises(RunError, match=r"head_size.* at most 174.*got 175"):
        _loaded("head_size=120", "test_size=50", "validation_size=5")


def test_weights_have_mean_one_and_follow_their_logits() -> None:
    labels = jnp.asarray([0, 0, 0, 7])
    theta = jnp.zeros(10).at[7].set(jnp.log(3.0))
    np.testing.assert_allclose(
        digits.fixed_weights("class", theta, labels), [2 / 3, 2 / 3, 2 / 3, 2], rtol=1e-6
    )
    each = digits.fixed_weights("example", jnp.log(jnp.arange(1.0, 5.0)), labels)
    np.testing.assert_allclose(each, [0.4, 0.8, 1.2, 1.6], rtol=1e-6)
    np.testing.assert_allclose(
        digits.inverse_frequency(labels), [2 / 3, 2 / 3, 2 / 3, 2], rtol=1e-6
    )


def test_the_slope_of_the_integral_is_the_weight() -> None:
    losses = jnp.asarray([1e-4, 0.02, 0.7, 5.0], jnp.float64)
    for seed in range(3):
        theta = jnp.asarray(np.random.default_rng(seed).normal(size=2 * len(digits.TURNS)))
        slopes = jax.vmap(jax.grad(lambda c, t=theta: digits.integral_of_weight(t, c)))(losses)
        np.testing.assert_allclose(slopes, digits.weight_of_loss(theta, losses), rtol=1e-10)
        assert float(digits.integral_of_weight(theta, jnp.zeros(()))) == 0
    flat = jnp.zeros(2 * len(digits.TURNS))
    np.testing.assert_allclose(digits.weight_of_loss(flat, losses), 1, rtol=1e-12)
    rising = flat.at[: len(digits.TURNS)].set(50.0)
    assert np.all(np.diff(digits.weight_of_loss(rising, losses)) > 0)


@pytest.mark.parametrize(
    "kind", ["loss", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("class", "example"))]
)
def test_hypergradient_is_that_of_differences(kind: str) -> None:
    module, settings = _loaded(f"weights={kind}", "head_size=6", "imbalance=3", "l2=0.01")
    # Newton ends at the rounding of float64; what a solve leaves is noise of the differences.
    newton = tk.solver.Newton(
        max_steps=50, tol=1e-12, linear_solver=tk.linear.CG(max_steps=2000, tol=1e-12)
    )
    exact = settings.model_copy(update={"solver": newton})
    with jax.enable_x64(False):
        data = module.load(settings)
    double = lambda leaf: leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf
    one = jax.tree.map(lambda leaf: double(leaf[0]), data)
    solve = module.training(exact, one.train, tk.adjoint.Implicit(tk.linear.CG(2000, 1e-12)))
    size = {"class": 10, "example": len(one.train.labels), "loss": 2 * len(digits.TURNS)}[kind]
    theta = jnp.asarray(np.random.default_rng(0).normal(size=size))
    outer = lambda y, _: jnp.mean(module.losses(y, one.validation))
    start = jax.tree.map(double, module.start())
    tk.check_hypergradient(outer, solve, start, theta, rtol=1e-6)


@pytest.mark.parametrize("kind", ["class", pytest.param("example", marks=pytest.mark.slow)])
def test_weights_descend_the_validation_loss(kind: str) -> None:
    with jax.enable_x64(False):
        module, settings = _loaded(f"weights={kind}", "head_size=60", "imbalance=30")
        program = fed(module.build(settings))
        counting, traces = counted(program.step)
        step, state = jax.jit(counting), program.init(jax.random.key(0))
        rows = []
        for _ in range(25):
            state, metrics = step(state)
            rows.append({name: float(value) for name, value in metrics.items()})
    assert len(traces) == 1  # weak types in the first state would compile it again
    # The tolerances are met; `l2` is small enough to make more of what is left.
    assert int(state.issues) in (0, int(tk.Issue.INNER_NOT_CONVERGED))
    assert rows[-1]["validation_loss"] < 0.75 * rows[0]["validation_loss"]
    assert rows[-1]["test_accuracy_tail"] > rows[0]["test_accuracy_tail"] + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_class_weights_beat_plain_training(tmp_path: Path, seed: int) -> None:
    out = tmp_path / "run"
    metrics = _run(out, f"seed={seed}")
    assert metrics["gain_over_plain"] > 0.05
    assert metrics["gain_over_inverse"] > 0
    assert metrics["tail_learned"] > metrics["tail_plain"] + 0.15
    assert metrics["not_converged"] == 0
    assert "not drawn" not in (out / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["example", "loss"])
def test_one_word_gives_other_weights(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "run"
    metrics = _run(out, f"weights={kind}")
    assert metrics["gain_over_plain"] > 0.01
    page = (out / "report.html").read_text()
    assert "not drawn" not in page
    assert ("Weight as a function of the loss" in page) == (kind == "loss")
