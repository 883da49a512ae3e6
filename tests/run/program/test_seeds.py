"""Several seeds in one program: the numbers of single runs, to the bit or within rounding; other programs refused."""

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.run.conftest import ROOT, outcome, rows, spawn
from tests.run.small_experiments import SEEDED, lay_out
from toolkit.run.experiment.errors import RunError
from toolkit.run.program import compiled, seeds, seeds_on_cores
from toolkit.run.program.data import DrivenProgram
from toolkit.run.program.seeds_on_cores import SeedData, joined
from toolkit.run.sweep import grid


def written(work, text):
    (work / "experiments/toy.py").write_text(text)


NOTHING = SeedData([], [], [])
SAYS = {
    "by key": "each by the program of a single run: equal to single runs to the bit",
    "by data": "each with arrays of its own that it closes over: equal to single runs within rounding, not to the bit",
    "at once": "by vmap: equal to single runs within rounding, not to the bit",
}


@pytest.mark.parametrize(
    "how", ["by key", "by data", pytest.param("at once", marks=pytest.mark.slow)]
)
def test_seeds_together_are_single_runs(toolkit, work, monkeypatch, how):
    lay_out(work, "seeded", SEEDED)
    config = ("seeded.yaml", f"differ={'by key' if how == 'by key' else 'by data'}")
    if how == "at once":
        monkeypatch.setattr(seeds, "on_cores", lambda: False)
    code, out, err = toolkit("run", *config, "seed=4", "seeds=3", "--out", "all")
    assert (code, err) == (0, [])
    assert f"3 seeds in one program, {SAYS[how]}" in out
    assert json.loads(Path("all/run.json").read_text())["bits"].endswith(SAYS[how])
    assert "seeds 4 to 6" in Path("all/report.html").read_text()
    all_, final = rows("all"), json.loads(Path("all/final/metrics.json").read_text())
    params = load_file("all/final/params.safetensors")
    same = np.testing.assert_array_equal
    if how != "by key":
        same = functools.partial(np.testing.assert_allclose, rtol=2e-5)  # float32, 20 steps
    errors = []
    for seed in (4, 5, 6):
        assert toolkit("run", *config, f"seed={seed}", "--out", f"single{seed}")[0] == 0
        for name in ("loss", "norm"):
            same(
                [row[f"{name}[{seed}]"] for row in all_],
                [row[name] for row in rows(f"single{seed}")],
            )
        single = load_file(f"single{seed}/final/params.safetensors")
        for name, value in single.items():
            (match,) = [k for k in params if f"seed={seed}" in k and k.endswith(name)]
            if value.dtype.kind == "f" or how == "by key":
                same(params[match], value)
        errors.append(json.loads(Path(f"single{seed}/final/metrics.json").read_text())["error"])
    assert final["error"] == pytest.approx(np.mean(errors), rel=1e-4)
    page = Path("all/report.html").read_text()
    assert "loss[4]" not in page and 'id="f0-group-0-band"' in page  # one figure a metric
    code, _, told = toolkit("report", "all", "single4", "--out", "all.html")
    assert code == 0
    assert told == ["warning: single4: is not counted, repeats seed 4 in all"]
    page = Path("all.html").read_text()
    assert 'data-value="3"' in page and 'data-value="4"' not in page  # n: seed 4 counts once


@pytest.mark.parametrize(
    ("differ", "part"),
    [
        ("by a function in step", "step"),
        ("by a number in step", "step"),
        ("by a number in init", "init"),
    ],
)
def test_programs_that_differ_by_seed_are_refused(toolkit, work, differ, part):
    lay_out(work, "seeded", SEEDED)
    code, _, err = toolkit("run", "seeded.yaml", f"differ={differ}", "seeds=2", "--out", "d")
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
        lambda w, _, data=jax.random.normal(jax.random.key(seed), (4,)): (
            _constructs(data)[name](w),
            {},
        )
        for seed in (0, 1, 2)
    ]
    w = jnp.arange(1.0, 5.0)
    if name.startswith("refused"):
        with pytest.raises(RunError, match="step depends on the seed"):
            seeds._shared(functions, w, [()] * 3, "step")
        return
    shared = seeds._shared(functions, w, [()] * 3, "step")
    expected = jnp.stack([function(w, ())[0] for function in functions])
    each = [SeedData([], own, []) for own in shared.own]
    whose = SeedData([], [True] * len(shared.own[0]), [])
    found, _ = seeds._vmapped(shared, 3, whose)(joined(each, whose), jnp.stack([w] * 3))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    alone = [jax.jit(shared.call)(own, w)[0] for own in each]
    np.testing.assert_allclose(jnp.stack(alone), expected, rtol=1e-5)
    assert len(np.unique(np.asarray(found)[:, 0])) == 3


def test_seeds_that_differ_in_a_key_alone_run_the_function_itself():
    """The claim about bits is about the program: not one rebuilt with the constants as arguments."""
    called = []

    def function(w, _):
        called.append(w)
        return w * jnp.arange(4.0), {}

    functions = [function, lambda w, _: (w * jnp.arange(4.0), {})]
    shared = seeds._shared(functions, jnp.ones(4), [(), ()], "step")
    assert shared.own == [[], []]
    called.clear()
    shared.call(NOTHING, jnp.ones(4))
    assert len(called) == 1


def test_more_seeds_than_cores_one_of_them_slow(toolkit, work):
    """Threads end in any order, and a seed has its own numbers all the same."""
    slow = """
    def step(state):
        seed = state["seed"]
        rounds = jnp.where(seed % 2 == 0, 200_000, 1)
        total = jax.lax.fori_loop(0, rounds, lambda i, x: x + jnp.float32(1), jnp.float32(0))
        return {"seed": seed, "count": state["count"] + 1}, {"seed": seed, "total": total}
"""
    written(
        work,
        f'''"""Which seed am I?"""
import jax
import jax.numpy as jnp
from toolkit import run


class Config(run.Settings):
    adjoint: dict = {{}}


def build(config):
    def init(key):
        return {{"seed": jax.random.key_data(key)[1].astype(jnp.int32), "count": 0}}
{slow}
    return run.Program(init, step, lambda state: run.Final({{}}, {{"seed": state["seed"]}}))
''',
    )
    code, _, err = toolkit("run", "toy.yaml", "seeds=7", "steps=4", "--out", "d")
    assert (code, err) == (0, [])
    for row in rows("d"):
        assert [row[f"seed[{i}]"] for i in range(7)] == list(range(7))
        assert [row[f"total[{i}]"] for i in range(7)] == [200_000.0, 1.0] * 3 + [200_000.0]


def test_an_exception_in_a_thread_is_the_runs(monkeypatch):
    numbers = (0, 1, 2)
    step = lambda w, _: (w + 1, {"w": jnp.sum(w)})
    shared = seeds._shared([step] * 3, jnp.ones(2), [()] * 3, "step")
    start = seeds._shared([lambda *_: jnp.ones(2)] * 3, jax.random.key(0), [()] * 3, "init")
    each = seeds.Each(numbers, start, shared, NOTHING)

    def broken(traced, source, whole=seeds_on_cores.compile_for_data):
        one = whole(traced, source)

        def advance(given, rows, every, data):
            raise RuntimeError("out of memory")

        return one._replace(advance=advance)

    program = DrivenProgram(each.init, each, lambda *_: None, None, [NOTHING] * 3)
    monkeypatch.setattr(seeds_on_cores, "compile_for_data", broken)
    made = seeds_on_cores.compile_program(compiled.trace(program, 0, Path("x.py")), Path("x.py"))
    with pytest.raises(RuntimeError, match="out of memory"):
        made.advance(made.init(), np.int32(1), np.int32(1))


@pytest.mark.slow
def test_a_killed_run_of_seeds_goes_on_to_the_bit(work):
    whole = spawn("run", "toy.yaml", "seeds=3", "steps=400", "--out", "whole")
    assert whole.wait() == 0
    process = spawn("run", "toy.yaml", "seeds=3", "steps=400", "--out", "cut")
    while not list(Path("cut").glob("checkpoints/[0-9]*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert json.loads(Path("cut/run.json").read_text())["status"] == "running"
    assert spawn("resume", "cut").wait() == 0
    assert outcome("cut") == outcome("whole")


DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from toolkit.run.program import seeds
from toolkit.run.program.seeds_on_cores import SeedData, joined
assert jax.device_count() == 2 and not seeds.on_cores()
for count in (1, 3, 4):
    functions = [lambda w, _, d=jnp.arange(4.0) + s: ({"w": w["w"] * d, "key": w["key"]}, {"m": jnp.sum(w["w"] + d)}) for s in range(count)]
    shared = seeds._shared(functions, {"w": jnp.ones(4), "key": jax.random.key(0)}, [()] * count, "step")
    own = SeedData([], [True] * len(shared.own[0]), [])
    each = [SeedData([], arrays, []) for arrays in shared.own]
    given = {"w": jnp.arange(4.0 * count).reshape(count, 4), "key": jax.random.split(jax.random.key(1), count)}
    found, metrics = jax.jit(seeds._vmapped(shared, count, own))(joined(each, own), given)
    for i, function in enumerate(functions):
        expected, m = function({"w": given["w"][i], "key": given["key"][i]}, ())
        np.testing.assert_array_equal(found["w"][i], expected["w"])
        np.testing.assert_array_equal(metrics["m"][i], m["m"])
    assert (found["key"] == given["key"]).all()
    assert count != 4 or {s.data.shape for s in found["w"].addressable_shards} == {(2, 4)}
print("same")
"""


def test_seeds_over_two_devices():
    """Those that do not divide, too: 3 over 2, and 1."""
    flags = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    words = [sys.executable, "-c", DEVICES]
    done = subprocess.run(words, env=flags, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "same\n", done.stderr
