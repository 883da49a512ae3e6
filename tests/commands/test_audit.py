"""`toolkit audit` lists the numbers that a config does not supply, and leaves nothing behind."""

import pytest

from toolkit.commands.audit import numbers

EXPERIMENT = '''"""Descent with numbers of several origins."""

import math

import jax
import jax.numpy as jnp
import optax

import toolkit as tk
from toolkit import run


class Config(run.Settings):
    rate: float = 0.03
    units: int = 12
    cut: tuple[float, ...] = (0.4, 0.6)
    optimizer: tk.optimizers.Optimizer = tk.optimizers.Adam(learning_rate=0.02)
    late: bool = False


def build(config):
    optimizer = config.optimizer.build()
    odd = math.tanh(config.rate) / 3  # no form that anybody foresees

    def init(key):
        w = jax.random.normal(key, (config.units,)) / math.sqrt(config.units)
        return w * 0.7 if config.late else w, optimizer.init(w)

    def step(state):
        w, rest = state
        slope = w - config.rate * jnp.clip(w, -config.cut[0], config.cut[1]) + odd * w
        slope = slope - 0.77 * jnp.tanh(w)
        updates, rest = optimizer.update(slope, rest, w)
        return (optax.apply_updates(w, updates), rest), {"loss": jnp.mean(w**2)}

    def differentiated(state):
        return {"inner": run.Loss(lambda w: 0.66 * jnp.sum(w**2), (state[0],))}

    return run.Program(init, step, lambda state: run.Final({}, {}), differentiated)
'''


def line_of(text):
    return next(i for i, line in enumerate(EXPERIMENT.splitlines(), 1) if text in line)


@pytest.fixture
def descent(work):
    (work / "experiments/descent.py").write_text(EXPERIMENT)
    (work / "descent.yaml").write_text(
        "experiment: descent\nsteps: 50\nlog_every: 1\ncheckpoint_every: 5\n"
        "claims: {loss: {at_most: 0.77}}\n"
    )


def test_what_the_config_does_not_supply_is_listed(toolkit, work, descent):
    before = sorted(work.rglob("*"))
    code, out, err = toolkit("audit", "descent.yaml", "late=true")
    assert (code, err) == (0, [])
    assert out[0].split() == ["value", "where", "operation", "source"]
    assert [line.split()[:3] for line in out[1:-1]] == [
        [value, f"experiments/descent.py:{line_of(value)}", "mul"]
        for value in ("0.7", "0.77", "0.66")
    ]
    assert out[2].endswith("slope = slope - 0.77 * jnp.tanh(w)")
    assert out[-1] == "# experiments/descent.py: 3 numbers that the config does not supply"
    assert [path for path in sorted(work.rglob("*")) if "__pycache__" not in path.parts] == before


def test_a_number_in_the_config_is_no_longer_hidden(toolkit, descent):
    _, out, _ = toolkit("audit", "descent.yaml", "rate=0.77")
    assert out[-1] == "# experiments/descent.py: 1 number that the config does not supply"
    assert out[1].startswith("0.66 ")


def test_none(toolkit):
    code, out, _ = toolkit("audit", "toy.yaml", "nan_at=3")
    assert (code, out) == (0, ["# experiments/toy.py: no numbers that the config does not supply"])
    assert toolkit("audit", "toy.yaml", "rate=0.3")[1][1].startswith("0.1 ")


def test_bad_configs_exit_2(toolkit):
    code, out, err = toolkit("audit", "toy.yaml", "rote=3")
    assert (code, out, len(err)) == (2, [], 1)


def test_numbers_of_a_config():
    tree = {"a": 0.5, "b": [3, 4.5], "c": {"d": True, "e": None, "f": "7", "g": -2}}
    assert list(numbers(tree)) == [0.5, 2, 3, 4.5, -2]
