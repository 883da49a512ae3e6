"""`toolkit lower`: the step for a machine that is not here."""

from __future__ import annotations

import json
import re

import jax
import pytest

from toolkit.devices import lowering

EXPERIMENT = '''"""Logistic regression: a thin product, a solve, and what a platform may lack."""

import jax
import jax.numpy as jnp

import toolkit as tk
from toolkit import run


class Config(run.Settings):
    what: str = "nothing"
    rows: int = 64


def build(config):
    x = jax.random.normal(jax.random.key(0), (config.rows, 24))

    def init(key):
        return {"theta": jnp.zeros(3), "n": 0}

    def hypergradient(theta, x):
        inner = lambda w, theta: jnp.mean((x @ w) ** 2) + jnp.sum(jnp.exp(theta) * (w - 1) ** 2)
        solve = tk.argmin(inner, tk.solver.GradientDescent(0.1, 3), adjoint=tk.adjoint.Implicit(tk.linear.Dense()))
        return tk.hypergradient(lambda w, theta: jnp.mean(w**3), solve)(jnp.zeros((24, 3)), theta).gradient

    def step(state, data):
        theta = state["theta"]
        if config.what == "print":
            jax.debug.print("{}", theta)  # print
        if config.what == "eig":
            theta = theta + jnp.linalg.eig(jnp.outer(theta, theta))[0].real  # eig
        if config.what == "constant":
            theta = theta + x[:3, 0]
        if config.what == "wrong":
            raise RuntimeError("not traced")  # wrong
        if config.what == "until":
            theta = jax.lax.while_loop(lambda t: t[0] > 1, lambda t: t / 2, theta)
        theta = theta - hypergradient(theta, data["x"])
        return {"theta": theta, "n": state["n"] + 1}, {"norm": jnp.linalg.norm(theta)}

    return run.Program(init, step, lambda state: run.Final({}, {}), data={"x": x})
'''
KEYS = "config platform topology chips flops temp_bytes largest_constant collectives custom_calls"


def line_of(comment):
    lines = EXPERIMENT.splitlines()
    return 1 + next(i for i, line in enumerate(lines) if line.endswith("# " + comment))


@pytest.fixture
def lower(toolkit, work, monkeypatch):
    """Words behind `toolkit lower logistic.yaml` -> (exit code, lines of stdout, lines of stderr)."""
    for name in ("JAX_PLATFORMS", *lowering.ON_A_CPU_HOST):
        monkeypatch.setenv(name, "cpu")  # the command sets what is not set; a test leaves no trace
    (work / "experiments/logistic.py").write_text(EXPERIMENT)
    config = "experiment: logistic\nsteps: 5\nlog_every: 1\ncheckpoint_every: 5\n"
    (work / "logistic.yaml").write_text(config)
    with jax.enable_x64(False):  # as the command has it
        yield lambda *words: toolkit("lower", "logistic.yaml", *words)


@pytest.fixture
def found(lower):
    """As `lower`, the JSON object."""

    def read(*words):
        code, out, err = lower(*words, "--json")
        assert (code, len(out), err) == (0, 1, [])
        return json.loads(out[0])

    return read


def test_one_object_of_these_keys(found):
    said = found("rows=32", "--platform", "cuda")
    assert " ".join(said) == KEYS
    flops = said.pop("flops")
    assert flops > 4 * 3 * 2 * 32 * 24 * 3  # four products for each of three steps at least
    assert said.pop("custom_calls").keys() >= {"cusolver_getrf_ffi"}
    assert said == {
        "config": "logistic.yaml",
        "platform": "cuda",
        "topology": None,
        "chips": 1,
        "temp_bytes": None,
        "largest_constant": said["largest_constant"],
        "collectives": {},
    }
    assert 0 <= said["largest_constant"] < 1024
    assert found("rows=64", "--platform", "cuda")["flops"] > 1.5 * flops


def test_each_platform_has_its_own_program(found, lower):
    assert found("--platform", "tpu")["custom_calls"].keys() >= {"LuDecomposition"}
    code, out, err = lower("what=until", "--platform", "tpu")
    assert (code, err) == (0, [])
    assert out[0] == "logistic.yaml: one step for tpu"
    assert re.fullmatch(r"  FLOPs, on all chips +unknown: .* without .*while loops at .*", out[1])
    assert [line.split("  ")[1] for line in out[1:]] == [
        "FLOPs, on all chips",
        "largest constant",
        "collectives",
        "custom calls",
    ]


def test_a_constant_is_seen(found):
    assert found("what=constant", "--platform", "tpu")["largest_constant"] >= 64 * 24 * 4


def test_seeds_are_one_program(found):
    one = found("rows=32", "--platform", "tpu")
    three = found("rows=32", "seeds=3", "--platform", "tpu")
    assert three["chips"] == 1
    assert three["custom_calls"] == one["custom_calls"]  # by vmap, not one seed after another
    assert one["flops"] < three["flops"] <= 3.01 * one["flops"]  # what seeds share is made once


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_what_cannot_be_lowered_is_named_by_its_line(lower, platform):
    code, out, err = lower("what=print", "--platform", platform)
    assert (code, out, len(err)) == (2, [], 1)
    place = f"experiments/logistic.py:{line_of('print')}"
    assert err[0].startswith(f"error: {place}: step: cannot be lowered for {platform}, got ")
    assert "callbacks" in err[0]


def test_what_one_platform_lacks(lower):
    code, _, err = lower("what=eig", "--platform", "tpu")
    assert code == 2
    assert err[0].startswith(f"error: experiments/logistic.py:{line_of('eig')}: step: cannot ")
    assert "eig" in err[0]
    code, _, err = lower("what=wrong", "--platform", "tpu")
    assert code == 2
    assert f"experiments/logistic.py:{line_of('wrong')}: step failed, got RuntimeError" in err[0]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--platform", "rocm"), 'no such platform, got "rocm", expected one of tpu, cuda'),
        ((), "the following arguments are required: --platform"),
        (
            ("--platform", "cuda", "--topology", "v5e:2x4"),
            '--topology: for tpu alone, got "v5e:2x4" with --platform cuda',
        ),
        (("--platform", "tpu", "--topology", ""), "--topology: empty"),
        (("--platform", "tpu", "--topology", "v5e:2x4"), "tpu-compile"),
        (("--platform", "tpu", "width=3"), "width"),
    ],
)
def test_refused_in_a_line(lower, monkeypatch, words, complaint):
    monkeypatch.setattr(lowering, "has_compiler", lambda: False)
    code, out, err = lower(*words)
    assert (code, out, len(err)) == (2, [], 1)
    assert complaint in err[0]


def test_collectives_of_both_languages():
    before = 'stablehlo.all_reduce"(%1) stablehlo.all_gather"(%2) stablehlo.all_reduce"(%3)'
    assert lowering.collectives(before) == {"all-gather": 1, "all-reduce": 2}
    compiled = """HloModule step
      %all-reduce.1 = f32[3]{0} all-reduce(%all-gather-done.2), to_apply=%sum
      %all-gather-start.2 = (f32[1]{0}, f32[8]{0}) all-gather-start(%x)
      %all-gather-done.2 = f32[8]{0} all-gather-done(%all-gather-start.2)
      %fusion = f32[3]{0} fusion(%all-reduce.1), calls=%all-reduce-scatter"""
    assert lowering.collectives(compiled) == {"all-gather": 1, "all-reduce": 1}


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 8])
def test_compiled_for_chips(found, lower, monkeypatch, seeds):
    if not lowering.has_compiler():
        pytest.skip('needs libtpu: pip install -e ".[tpu-compile]"')
    for name, value in lowering.ON_A_CPU_HOST.items():
        monkeypatch.setenv(name, value)
    words = (f"seeds={seeds}", "--platform", "tpu", "--topology", "v5e:2x4")
    said = found(*words)
    assert (said["topology"], said["chips"]) == ("v5e:2x4", 8)
    assert said["temp_bytes"] > 0
    single = found("--platform", "tpu")["flops"]
    assert said["flops"] == pytest.approx(seeds * single, rel=0.1)  # chips share nothing
    assert said["collectives"]["all-reduce"] >= 1
    code, out, _ = lower(*words)
    assert code == 0
    assert re.fullmatch(r"  temporary memory a chip +[\d,]+ bytes", out[2])
    code, _, err = lower("what=eig", *words[1:])
    assert (code, len(err)) == (2, 1)
    assert f"experiments/logistic.py:{line_of('eig')}: step: cannot be lowered for tpu" in err[0]
