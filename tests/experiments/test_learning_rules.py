"""The experiments on learning rules: a small one of each, from its first epoch to its pictures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments import learners
from tests.experiments.fed import fed
from toolkit.data import Labelled
from toolkit.run.experiment import experiments, load
from toolkit.vocabulary import kinds

ROOT = Path(__file__).parents[2]
SMALL = ("train_size=200", "draws=2")


def _run(name: str, rules: tuple[str, ...], epochs: int, *words: str) -> Any:
    """The final results of a few epochs of few rules, after their pictures were drawn."""
    loaded = load.load(Path(f"configs/{name}.yaml"), [*SMALL, *words])
    module = experiments.load(loaded.experiment)
    settings = load.validate(module.Config, loaded.resolved, {})
    if rules:
        few = {rule: settings.rules[rule] for rule in rules}
        settings = settings.model_copy(update={"rules": few})
    with jax.enable_x64(False):
        program = fed(module.build(settings))
        step, state, rows = jax.jit(program.step), program.init(jax.random.key(0)), []
        for k in range(epochs):
            state, metrics = step(state)
            rows.append({"step": k + 1, **{key: float(value) for key, value in metrics.items()}})
        final = program.finish(state)
    _, figures = experiments.figures(Path(module.__file__), module)
    for figure in figures(settings, final.params, final.metrics, rows):
        canvas = Figure(layout="constrained")
        figure.draw(canvas)
        canvas.savefig(io.BytesIO(), format="png")
    assert len(final.table) >= len(rules)
    return final.metrics, rows


def test_every_rule_is_in_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    contenders = load.load(Path("configs/rules_on_digits.yaml")).resolved["rules"].values()
    rules = [contender["rule"] for contender in contenders]
    assert {rule["kind"] for rule in rules} == set(kinds.of_room("toolkit.credit"))
    forms = {rule["form"] for rule in rules if rule["kind"] == "predictive_coding"}
    schemes = {rule["scheme"] for rule in rules if rule["kind"] == "equilibrium_propagation"}
    feedback = {rule["feedback"] for rule in rules if rule["kind"] == "feedback_alignment"}
    assert forms >= {"z_il", "fixed_prediction", "nudged", "clamped", "error_optimising"}
    assert schemes == {"centered", "one_sided", "random_sign", "holomorphic"}
    assert feedback == {"random", "sign", "batch_sign", "fixed_sign", "kolen_pollack"}


def test_rules_on_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    metrics, rows = _run("rules_on_digits", ("backprop", "feedback"), 3)
    assert rows[-1]["loss/backprop"] < 0.7 * rows[0]["loss/backprop"]
    assert metrics["accuracy/backprop"] > 0.5
    np.testing.assert_allclose(
        [metrics["cosine_first/backprop"], metrics["cosine_last/backprop"]], 1, rtol=1e-5
    )
    assert metrics["seconds_ratio/feedback"] > 0
    assert (
        abs(rows[0]["cosine_first/feedback"]) < 0.5
    )  # fixed feedback knows nothing of the weights


@pytest.mark.slow
def test_convolutional_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    metrics, rows = _run("convolutional_rules", ("backprop", "direct_feedback"), 3, "channels=[3]")
    assert rows[-1]["loss/backprop"] < 0.9 * rows[0]["loss/backprop"]
    np.testing.assert_allclose(metrics["cosine_first/backprop"], 1, rtol=1e-5)
    assert abs(metrics["cosine_first/direct_feedback"]) < 0.7


def test_other_images_are_drawn_from_their_own_parts() -> None:
    config = learners.Training(experiment="own", steps=1, train_size=30, batch_size=10)

    def load(part: str) -> Labelled:
        first = 0 if part == "train" else 100
        rows = np.arange(first, first + 50)
        return Labelled(np.tile(rows[:, None, None, None], (1, 4, 4, 1)).astype("uint8"), rows % 10)

    training, held_out = learners.images(config, load)
    images, targets = training
    assert images.shape == (30, 4, 4, 1) and held_out.images.shape == (50, 4, 4, 1)
    np.testing.assert_allclose(images.mean(axis=0), 0, atol=1e-5)
    # What stands in an image is its row, so that each must still have the label of that row.
    pixel = images[:, 0, 0, 0]
    order = np.argsort(pixel)
    step = np.diff(pixel[order]).min()
    rows = np.round((pixel - pixel[order[0]]) / step).astype(int)
    labels = np.argmax(targets, axis=1)
    np.testing.assert_array_equal((labels - rows) % 10, (labels - rows)[0] % 10)


@pytest.mark.slow
def test_depth_without_backprop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    rules = ("backprop", "nudged_coding", "nudged_coding_4", "feedback")
    with pytest.warns(UserWarning, match="steps"):
        metrics, _ = _run("depth_without_backprop", rules, 1, "depths=[2,8]")
    np.testing.assert_allclose(metrics["cosine_first/backprop_8"], 1, rtol=1e-5)
    assert metrics["cosine_first/nudged_coding_8"] > 0.99
    # A sweep over every other layer in turn carries the target two layers down: four reach eight layers of nine.
    assert metrics["cosine_first/nudged_coding_4_8"] == 0
    assert metrics["cosine_first/nudged_coding_4_2"] > 0.99


@pytest.mark.slow
def test_photonic_feedback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = ("thresholds=[0.05,0.3]", "noises=[0.5]", "many_levels=[2]")
    with pytest.warns(UserWarning, match="at most 1/classes"):
        metrics, rows = _run("photonic_feedback", (), 3, *words)
    for name in ("backprop", "ideal", "device"):
        assert rows[-1][f"loss/{name}"] < rows[0][f"loss/{name}"]
    assert {"accuracy/threshold=0.05", "accuracy/levels=2", "accuracy/noise=0.5"} < set(metrics)
