"""Several seeds in one program: the numbers of single runs within rounding, other programs refused."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.run.conftest import EXPERIMENT, rows
from toolkit.run import together
from toolkit.run.errors import RunError
from toolkit.run.sweep import grid

DATA = "    data = jax.random.normal(jax.random.key(config.seed + 100), (config.width,))\n"
BY_DATA = EXPERIMENT.replace("def build(config):\n", f"def build(config):\n{DATA}").replace("(state.w - 1)", "(state.w - data)")  # fmt: skip


def written(work, text):
    (work / "experiments/toy.py").write_text(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(EXPERIMENT, marks=pytest.mark.slow, id="by key"),
        pytest.param(BY_DATA, id="by data"),
    ],
)
def test_seeds_together_are_single_runs_within_rounding(toolkit, work, text):
    written(work, text.split("\n\ndef figures")[0] + "\n")
    code, out, err = toolkit("run", "toy.yaml", "seed=4", "seeds=2", "--out", "both")
    assert (code, err) == (0, [])
    assert (
        "2 seeds in one program, by vmap: equal to single runs within rounding, not to the bit"
        in out
    )
    assert json.loads(Path("both/run.json").read_text())["bits"].startswith(
        "2 seeds in one program"
    )
    both, final = rows("both"), json.loads(Path("both/final/metrics.json").read_text())
    params = load_file("both/final/params.safetensors")
    for seed in (4, 5):
        assert toolkit("run", "toy.yaml", f"seed={seed}", "--out", f"single{seed}")[0] == 0
        for name in ("loss", "norm"):
            found = [row[f"{name}[{seed}]"] for row in both]
            expected = [row[name] for row in rows(f"single{seed}")]
            np.testing.assert_allclose(found, expected, rtol=2e-5)  # float32, 20 steps
        single = load_file(f"single{seed}/final/params.safetensors")
        for name, value in single.items():
            (match,) = [k for k in params if f"seed={seed}" in k and k.endswith(name)]
            if value.dtype.kind == "f":
                np.testing.assert_allclose(params[match], value, rtol=2e-5)
    ends = [json.loads(Path(f"single{s}/final/metrics.json").read_text())["error"] for s in (4, 5)]
    assert final["error"] == pytest.approx(np.mean(ends), rel=1e-4)
    page = Path("both/report.html").read_text()
    assert "loss[4]" not in page and 'id="f0-group-0-band"' in page  # one figure a metric
    code, out, _ = toolkit("report", "both", "single4", "--out", "all.html")
    assert code == 0
    assert 'data-value="3"' in Path("all.html").read_text()  # n: two seeds and one


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (("w = state.w", "w = (jnp.sin if config.seed else jnp.cos)(state.w)"), "step"),
        (("w = state.w", "w = config.seed + state.w"), "step"),  # a number in the program
        (("start, (config.width,))", "start, (config.width,)) * (1.5 + config.seed)"), "init"),
    ],
)
def test_programs_that_differ_by_seed_are_refused(toolkit, work, change, part):
    text = BY_DATA.replace(*change)
    assert text != BY_DATA
    written(work, text)
    code, _, err = toolkit("run", "toy.yaml", "seeds=2", "--out", "d")
    assert (code, len(err)) == (2, 1)
    assert f"seeds: {part} depends on the seed" in err[0]
    assert not Path("d").exists()


def test_gradients_are_of_single_runs(toolkit, work):
    code, _, err = toolkit("run", "toy.yaml", "seeds=2", "diagnostics.gradients_every=5")
    assert code == 2
    assert "diagnostics.gradients_every: not with seeds" in err[0]


def test_a_sweep_of_seeds_together(toolkit, work):
    words = ("sweep", "toy.yaml", "seed=1:4", "rate=0.1,0.2", "--seeds-together", "steps=x")
    _, _, err = toolkit(*words)
    assert "steps" in err[0]
    axes = grid.seeds_together(grid.parse(["seed=1:4", "rate=0.1,0.2"]))
    points = grid.product(axes)
    assert [point.name for point in points] == ["seeds=3,rate=0.1", "seeds=3,rate=0.2"]
    assert points[0].words == ("seed=1", "seeds=3", "rate=0.1")


@pytest.mark.parametrize("word", ["seed=1,3", "seed=3:0:-1", "seed=1:2", "seed=a,b", "rate=1,2"])
def test_only_consecutive_seeds_run_together(word):
    with pytest.raises(RunError, match="consecutive seeds"):
        grid.seeds_together(grid.parse([word]))


def _constructs(data):
    """Ways in which an array that differs by seed is read within a program."""

    @jax.custom_vjp
    def scaled(v):
        return v * data

    scaled.defvjp(lambda v: (v * data, None), lambda _, cotangent: (cotangent * data,))
    once = jax.jit(lambda v: v * data)
    total = lambda v: jnp.sum(jnp.sin(v * data))
    return {
        "plain": lambda w: w * data,
        "jit": once,
        "jit of grad": jax.jit(jax.grad(total)),
        "scan": lambda w: jax.lax.scan(lambda c, x: (c * data, x), w, jnp.ones(2))[0],
        "scan of jit": lambda w: jax.lax.scan(lambda c, x: (once(c) * x, c), w, jnp.arange(1.0, 3.0), reverse=True)[0],
        "jit of scan of jit": jax.jit(lambda w: jax.lax.scan(lambda c, x: (once(c), c + x), w, jnp.ones(2))[1].sum(0)),
        "while": lambda w: jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * data), (0, w))[1],
        "cond": lambda w: jax.lax.cond(w[0] > 0, lambda v: v * data, lambda v: v + data, w),
        "checkpoint": jax.checkpoint(lambda w: w * data),
        "custom rule": lambda w: jax.grad(lambda v: jnp.sum(scaled(v) ** 2))(w),
        "linear solve": lambda w: jax.scipy.sparse.linalg.cg(lambda v: v * (1 + data**2), w)[0],
        "refused: checkpoint of jit": jax.checkpoint(lambda w: once(w)),
        "refused: while of jit": lambda w: jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, once(c[1])), (0, w))[1],
    }  # fmt: skip


@pytest.mark.parametrize("name", _constructs(np.ones(4)))
def test_data_that_a_program_closes_over_is_each_seeds_own(name):
    functions = [
        lambda w, data=jax.random.normal(jax.random.key(seed), (4,)): (
            _constructs(data)[name](w),
            {},
        )
        for seed in (0, 1, 2)
    ]
    w = jnp.arange(1.0, 5.0)
    if name.startswith("refused"):
        with pytest.raises(RunError, match="step depends on the seed"):
            together._batched(functions, w, "step")
        return
    found, _ = together._batched(functions, w, "step")(jnp.stack([w] * 3))
    expected = jnp.stack([function(w)[0] for function in functions])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert len(np.unique(np.asarray(found)[:, 0])) == 3
