"""Nested relaxation: its laws and its twin in CI, whole runs under `-m slow`."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.experiments.fed import fed
from toolkit.run.experiment import experiments, load
from toolkit.run.experiment.errors import RunError

ROOT = Path(__file__).parents[2]
CONFIG = "configs/nested_relaxation.yaml"
SMALL = ("train_size=40", "batch_size=20", "timed_epochs=1")
EXACT = ("scale=0.25", "tol=1e-13", "max_sweeps=1000", "beta=1e-3", "gain=2.0")


def _loaded(*words: str) -> tuple[Any, Any]:
    loaded = load.load(Path(CONFIG), [*SMALL, *words])
    module = experiments.load(loaded.experiment)
    return module, load.validate(module.Config, loaded.resolved, {})


def _network(*words: str) -> tuple[Any, Any, Any, Any, Any]:
    """(module, config, weights, images `[5, 64]`, labels), in float64."""
    module, settings = _loaded(*words)
    widen = partial(jax.tree.map, lambda leaf: jnp.asarray(leaf, jnp.float64))
    theta = widen(fed(module.build(settings)).init(jax.random.key(0)).theta)
    biases = 0.3 * jax.random.normal(jax.random.key(1), theta.biases.shape)
    training, _ = module.load(settings)
    return (
        module,
        settings,
        theta._replace(biases=biases),
        widen(training.images[:5]),
        training.labels[:5],
    )


def _energy(module: Any, theta: Any, images: Any, pull: Any, states: Any) -> Any:
    # G(s) = integral of artanh = s artanh(s) + log(1 - s^2) / 2
    units = states.hidden * jnp.arctanh(states.hidden) + jnp.log1p(-(states.hidden**2)) / 2
    outputs = states.output**2 / 2 + pull * states.output
    return module.coupling(theta, images, states) + jnp.sum(units) + jnp.sum(outputs)


def _run(out: Path, *words: str) -> dict[str, float]:
    command = [sys.executable, "-m", "toolkit", "run", CONFIG, *words, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "final" / "metrics.json").read_text())


def test_it_relaxes_into_a_stationary_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    module, settings, theta, images, _ = _network(*EXACT)
    pull = 0.1 * jax.random.normal(jax.random.key(2), (5, 10))
    relax = jax.jit(partial(module.relax, settings))
    states, sweeps = relax(theta, images, pull, module.rest(settings, images))
    slope = jax.grad(_energy, argnums=4)(module, theta, images, pull, states)
    assert 2 < sweeps < settings.max_sweeps
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in slope) < 1e-10


def test_no_sweep_raises_the_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    module, settings, theta, images, _ = _network("scale=1.5", "max_sweeps=1", "tol=1e-13")
    relax = jax.jit(partial(module.relax, settings, theta, images, 0.0))
    states, energies = module.rest(settings, images), []
    for _ in range(20):
        energies.append(float(_energy(module, theta, images, 0.0, states)))
        states, sweeps = relax(states)
        assert sweeps == 1
    assert np.all(np.diff(energies) < 1e-9)
    assert energies[-1] < energies[0] - 1


def test_the_nudges_give_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    module, settings, theta, images, labels = _network(*EXACT)
    relax = jax.jit(partial(module.relax, settings))
    rest = module.rest(settings, images)

    def loss(theta: Any) -> Any:
        free, _ = relax(theta, images, jnp.zeros((5, 10)), rest)
        return module.cost_of(free.output, settings.gain, labels) / len(images)

    free, _ = relax(theta, images, jnp.zeros((5, 10)), rest)
    pull = jax.grad(module.cost_of)(free.output, settings.gain, labels)
    down, up = (relax(theta, images, sign * settings.beta * pull, free)[0] for sign in (1, -1))
    gradient = module.contrast(settings, theta, images, down, up)
    for n, (leaf, slope) in enumerate(zip(theta, gradient, strict=True)):
        direction = jax.random.normal(jax.random.key(n), leaf.shape)
        ahead, behind = (
            loss(theta._replace(**{theta._fields[n]: leaf + h * direction})) for h in (1e-5, -1e-5)
        )
        # Both quotients are off by the square of their step: beta^2 is 1e-6, times a third derivative.
        np.testing.assert_allclose(jnp.vdot(slope, direction), (ahead - behind) / 2e-5, rtol=1e-5)


@pytest.mark.parametrize("layers", [1, 3])
def test_plain_loops_train_to_the_bits_of_the_twin(
    layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with jax.enable_x64(False):
        module, settings = _loaded(f"layers={layers}")
        training, _ = module.load(settings)
        state = fed(module.build(settings)).init(jax.random.key(0))
        trained = [
            jax.jit(partial(written, settings))(training, state)
            for written in module.WRITTEN.values()
        ]
    jax.tree.map(np.testing.assert_array_equal, *trained)
    (after, _, sweeps), _ = trained
    assert after.batches == 2
    assert np.all(np.asarray(sweeps) > 1)
    assert not np.array_equal(after.theta.weights, state.theta.weights)


def test_the_last_sweep_is_the_first_that_changes_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    module, settings, theta, images, _ = _network(*EXACT, "tol=1e-3")
    rest = module.rest(settings, images)
    states, sweeps = jax.jit(partial(module.relax, settings, theta, images, 0.0))(rest)
    changes, at = [], rest
    once = settings.model_copy(update={"max_sweeps": 1})
    sweep = jax.jit(partial(module.relax, once, theta, images, 0.0))
    for _ in range(int(sweeps)):
        following, _ = sweep(at)
        changes.append(
            max(float(jnp.max(jnp.abs(a - b))) for a, b in zip(following, at, strict=True))
        )
        at = following
    assert changes[-1] <= 1e-3 < changes[-2]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), at, states)


def test_a_batch_larger_than_the_data_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(RunError, match=r"batch_size.*at most train_size 40: got 41"):
        _loaded("batch_size=41")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_run_learns_and_plain_python_changes_no_parameter(tmp_path: Path, seed: int) -> None:
    out = tmp_path / "run"
    metrics = _run(out, f"seed={seed}")
    assert metrics["accuracy"] > 0.94
    assert metrics["differing_parameters"] == 0
    assert "not drawn" not in (out / "report.html").read_text()
