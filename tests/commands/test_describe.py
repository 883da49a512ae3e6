"""`toolkit describe`: the parts of a config's experiment, without running it."""

import re

import pytest

EXPERIMENT = '''"""A network of two layers, trained by another module's optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import toolkit as tk
from toolkit import run
from experiments import layers


class Config(run.Settings):
    width: int = 16
    until: bool = False
    wrong: bool = False


def build(config):
    optimizer = optax.adam(0.1)
    table = np.ones((5, 2), np.float32)

    def init(key):
        first, second = jax.random.split(key)
        w = jax.random.normal(first, (8, config.width), jnp.float32)  # w
        b = layers.bias(second, config.width)
        theta = {"w": w, "[b]": b}
        return {"theta": theta, "opt": optimizer.init(theta), "key": key, "table": table, "n": 0}  # opt

    def loss(theta, x):
        return jnp.sum(jnp.tanh(x @ theta["w"]) + theta["[b]"])

    def step(state):
        if config.wrong:
            raise RuntimeError("must not be traced")
        value = loss(state["theta"], jnp.ones((32, 8), jnp.float32))
        if config.until:
            value = jax.lax.while_loop(lambda v: v > 1, lambda v: v / 2, value)  # until
        jax.debug.callback(lambda: open("ran", "w").close())
        return state, {"loss": value}

    def differentiated(state):
        x = jax.ShapeDtypeStruct((32, 8), jnp.float32)
        return {"loss": run.Loss(loss, (state["theta"], x))}

    return run.Program(init, step, lambda state: run.Final({}, {}), differentiated)
'''
LAYERS = """import jax


def bias(key, width):
    return 0.1 * jax.random.normal(key, (width,), "float32")
"""


def line_of(comment):
    lines = EXPERIMENT.splitlines()
    return f"line {1 + next(i for i, line in enumerate(lines) if line.endswith('# ' + comment))}"


@pytest.fixture
def network(work, monkeypatch):
    monkeypatch.syspath_prepend(work)
    monkeypatch.delenv("COLUMNS", raising=False)
    (work / "experiments/network.py").write_text(EXPERIMENT)
    (work / "experiments/layers.py").write_text(LAYERS)
    (work / "network.yaml").write_text(
        "experiment: network\nsteps: 5\nlog_every: 1\ncheckpoint_every: 5\n"
    )
    return work


def cells(lines):
    """The rows of a table by their first cell."""
    rows = [re.split(r"  +", line.strip()) for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_each_part_with_its_size_and_line(toolkit, network):
    before = sorted(network.rglob("*"))
    code, out, err = toolkit("describe", "network.yaml")
    assert (code, err) == (0, [])
    rows = cells(out)
    assert rows["theta/w"] == ["[8, 16]", "float32", "128", "512", "loss", line_of("w")]
    assert rows["theta/[b]"] == ["[16]", "float32", "16", "64", "loss", "experiments/layers.py:5"]
    assert rows["opt/0/mu/w"] == ["[8, 16]", "float32", "128", "512", line_of("opt")]
    assert rows["table"] == ["[5, 2]", "float32", "10", "40"]  # a constant: made at no line of init
    assert rows["key"] == ["[]", "key<fry>", "1", "8"]
    assert rows["n"][:4] == ["[]", "int64", "1", "8"]
    assert "total: 10 arrays, 445 numbers, 1,788 bytes" in "\n".join(out)
    assert "; learned: 2 arrays, 144 numbers, 576 bytes" in "\n".join(out)
    value = 2 * 32 * 8 * 16 + 3 * 32 * 16  # a product; tanh, a sum with b, the sum of all
    assert rows["loss loss"][-1] == rows["step"][-1] == f"{value:,}"
    assert [path for path in sorted(network.rglob("*")) if "__pycache__" not in str(path)] == before


def test_a_loop_of_unknown_length_is_unknown(toolkit, network):
    _, out, _ = toolkit("describe", "network.yaml", "until=true")
    flops = cells(out)["step"][-1]
    assert flops == f"unknown: 9,728 without while loops at {line_of('until')} (1 a step)"


@pytest.mark.parametrize("columns", [80, 120])
def test_nothing_is_cut_in_a_narrow_terminal(toolkit, network, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    _, out, _ = toolkit("describe", "network.yaml", "until=true", "width=1234567")
    body = [line for line in out if not line.startswith(("total", "floating"))]
    assert max(map(len, body)) <= columns
    joined = re.sub(r"\s+", "", "".join(out))
    assert "39,506,144" in joined
    assert "…" not in joined


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("width=a",), "width: wrong value, got "),
        (("widht=3",), "did you mean `width`?"),
        (("wrong=true",), "step failed, got RuntimeError: must not be traced"),
    ],
)
def test_bad_configs_are_one_line(toolkit, network, words, complaint):
    code, out, err = toolkit("describe", "network.yaml", *words)
    assert (code, out, len(err)) == (2, [], 1)
    assert complaint in err[0]


def test_losses_are_not_needed(toolkit):
    code, out, _ = toolkit("describe", "toy.yaml")
    assert code == 0
    assert out[1].split() == ["part", "shape", "dtype", "numbers", "bytes", "made", "at"]
    assert any(line.startswith("half") and "bfloat16" in line for line in out)
    assert any(line.startswith("total: 4 arrays, 8 numbers, ") for line in out)
