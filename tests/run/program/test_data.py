"""The data of a program: handed to the functions that take them, as arguments of what is compiled."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import held_arrays
from tests.run.conftest import ROOT, outcome, rows
from tests.run.drive.test_runs import Killed, killed_at
from tests.run.small_experiments import lay_out
from toolkit.run.experiment.errors import RunError
from toolkit.run.experiment.interface import Final, Program
from toolkit.run.program import budget, compiled, seeds, seeds_on_cores
from toolkit.run.program.data import driven
from toolkit.run.report import draw
from toolkit.run.store import metrics

SOURCE = Path("experiments/own.py")

FITTED = '''"""Descent on the mean of some points, by batches that a key draws."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from toolkit import run


class Config(run.Settings):
    points: int = 1000
    differ: str = "by key"
    handed: bool = True
    nan_at: int = -1
    takes_fraction: bool = False


class State(NamedTuple):
    key: jax.Array
    w: jax.Array
    count: jax.Array


def build(config):
    own = config.seed if config.differ == "by data" else 0
    points = np.random.default_rng(own).normal(size=(config.points, 4)).astype("float32")
    data = {"train": {"x": points, "rows": np.arange(config.points)}, "scale": 0.5}

    def init(key, data):
        key, _ = jax.random.split(key)
        return State(key, data["train"]["x"][0], jnp.asarray(0))

    def step(state, data):
        key, drawn = jax.random.split(state.key)
        picked = jax.random.choice(drawn, data["train"]["rows"], (8,))
        gradient = state.w - data["train"]["x"][picked].mean(axis=0)
        count = state.count + 1
        w = state.w - 0.1 * data["scale"] * gradient
        loss = jnp.mean((data["train"]["x"] - w) ** 2)
        loss = jnp.where(count == config.nan_at, jnp.log(data["train"]["x"][0, 0] * 0 - 1), loss)
        found = {"loss": loss, "gradient": run.Gradients(gradient)}
        return State(key, w, count), found

    def finish(state, data):
        return run.Final({"w": state.w}, {"error": jnp.sum((state.w - data["train"]["x"].mean(0)) ** 2)})

    def losses(state, data):
        return {"fit": run.Loss(lambda w: jnp.mean((data["train"]["x"] - w) ** 2), (state.w,))}

    if config.takes_fraction:
        def paced(state, fraction, data):
            return step(state, {**data, "scale": data["scale"] * (1 - fraction)})
        return run.Program(init, paced, finish, losses, True, data)
    if not config.handed:
        data = jax.tree.map(jnp.asarray, data)
        return run.Program(
            lambda key: init(key, data), lambda state: step(state, data), finish, losses, data=data
        )
    return run.Program(init, step, finish, losses, data=data)
'''


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves out the report, most of a small run's time."""
    monkeypatch.setattr(draw, "write", lambda *_: [])


@pytest.fixture
def fitted(work):
    lay_out(work, "fitted", FITTED)


def test_data_that_are_handed_are_data_that_are_closed_over(toolkit, fitted, undrawn):
    assert toolkit("run", "fitted.yaml", "--out", "handed")[0] == 0
    assert toolkit("run", "fitted.yaml", "handed=false", "--out", "closed")[0] == 0
    assert rows("handed")[-1]["loss"] > 0
    for one, other in zip(rows("handed"), rows("closed"), strict=True):
        # XLA computes with constants while it compiles, and may round otherwise.
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
    recorded = [json.loads(Path(f"{run}/run.json").read_text()) for run in ("handed", "closed")]
    hashes = [{k: v for k, v in r["environment"].items() if k[:5] == "data/"} for r in recorded]
    assert hashes[0] == hashes[1] and sorted(hashes[0]) == ["data/scale", "data/train"]


@pytest.mark.parametrize("word", ["steps=20", "takes_fraction=true", "seeds=3"])
def test_a_killed_run_continues_to_the_same_bits(toolkit, fitted, undrawn, monkeypatch, word):
    assert toolkit("run", "fitted.yaml", word, "--out", "whole")[0] == 0
    with monkeypatch.context() as patch:
        killed_at(patch, metrics, "append", 7)
        with pytest.raises(Killed):
            toolkit("run", "fitted.yaml", word, "--out", "cut")
    assert toolkit("resume", "cut")[0] == 0
    assert outcome("cut") == outcome("whole")


def test_every_command_hands_them_on(toolkit, fitted, undrawn):
    code, out, err = toolkit("check", "fitted.yaml", "diagnostics.gradients_every=2")
    assert (code, err) == (0, [])
    assert "# inputs without gradient in the losses fit: none" in out
    code, out, _ = toolkit("describe", "fitted.yaml")
    line = FITTED.splitlines().index("    def step(state, data):") + 1
    assert code == 0 and any(x.startswith("step") and f"line {line}" in x for x in out), out
    assert toolkit("audit", "fitted.yaml")[0] == 0
    words = ("run", "fitted.yaml", "diagnostics.gradients_every=5", "nan_at=12", "--out", "nan")
    code, out, err = toolkit(*words)
    assert code == 6
    assert any("data['train']['x']" in x for x in out), out
    assert toolkit("explain", "nan")[0] == 0


def test_changed_data_are_another_run(toolkit, fitted, undrawn, monkeypatch):
    with monkeypatch.context() as patch:
        killed_at(patch, metrics, "append", 7)
        with pytest.raises(Killed):
            toolkit("run", "fitted.yaml", "--out", "cut")
    text = FITTED.replace("default_rng(own)", "default_rng(own + 1)")
    Path("experiments/fitted.py").write_text(text)
    code, _, err = toolkit("resume", "cut")
    assert code == 7 and "data/train" in err[0]


# ---------------------------------------------------------------------------- many seeds


@pytest.mark.parametrize("differ", ["by key", "by data"])
def test_seeds_are_single_runs_to_the_bit(toolkit, fitted, undrawn, differ):
    """Also where each has data of its own: they are arguments, and the program is the same."""
    config = ("fitted.yaml", f"differ={differ}")
    code, out, _ = toolkit("run", *config, "seed=4", "seeds=2", "--out", "all")
    assert code == 0
    assert (
        "2 seeds in one program, each by the program of a single run: equal to single runs to the bit"
        in out
    )
    for seed in (4, 5):
        assert toolkit("run", *config, f"seed={seed}", "--out", f"single{seed}")[0] == 0
        found = [row[f"loss[{seed}]"] for row in rows("all")]
        assert found == [row["loss"] for row in rows(f"single{seed}")]


def own(scale=1.0, seed=0, closes=False):
    """A program whose data are partly of each seed's own."""
    common = np.random.default_rng(0).normal(size=(500, 3)).astype("float32")
    labels = scale * np.random.default_rng(seed).normal(size=500).astype("float32")

    def step(state, data):
        w = state - 0.1 * data["x"].T @ (data["x"] @ state - data["y"]) / 500
        return w + (jnp.asarray(labels[:3]) if closes else 0), {"norm": jnp.linalg.norm(w)}

    return Program(
        lambda key, data: jax.random.normal(key, (3,)) + data["y"][:3],
        step,
        lambda state, data: Final({"w": state}, {"y": data["y"][0]}),
        data={"x": common, "y": labels},
    )


class Settings:
    """What `together` asks of a config."""

    seed, seeds = 3, 3
    diagnostics = type("diagnostics", (), {"gradients_every": 0})

    def model_copy(self, update):
        made = Settings()
        made.__dict__.update(update)
        return made


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("how", ["on cores", "at once"])
def test_what_seeds_have_in_common_is_there_once(monkeypatch, how, closes):
    monkeypatch.setattr(seeds, "on_cores", lambda: how == "on cores")
    program = seeds.together(lambda c: driven(own(seed=c.seed, closes=closes), SOURCE), Settings())
    leaves = jax.tree.leaves(program.data)
    arrays = {id(leaf): leaf for leaf in leaves if leaf.size > 9}
    assert sum(a.nbytes for a in arrays.values()) == 500 * 3 * 4 + 3 * 500 * 4
    made = seeds_on_cores.compile_program(compiled.trace(program, 3, SOURCE), SOURCE)
    states = made.init()
    for _ in range(2):
        done = made.advance(states, np.int32(1), np.int32(1))
        states = done.state
    for i, seed in enumerate((3, 4, 5)):
        alone = driven(own(seed=seed, closes=closes), SOURCE)
        state = alone.init(jax.random.key(seed), alone.data)
        for _ in range(2):
            state, found = alone.step(state, alone.data)
        np.testing.assert_allclose(states[i], state, rtol=1e-5)
        np.testing.assert_allclose(done.values[f"norm[{seed}]"][0], found["norm"], rtol=1e-5)
    final = program.finish(states, program.data)
    assert final.metrics["y[4]"] == own(seed=4).data["y"][0]
    if how == "at once":
        text = made.advance.func.as_text()
        assert "f32[500,3]" in text and "f32[3,500,3]" not in text
        assert held_arrays.largest(jax.make_jaxpr(program.step)(states, program.data)) < 100


def test_seeds_with_data_of_other_shapes_are_refused():
    def build(config):
        x = jnp.ones(config.seed)
        step = lambda state, data: (state + data["x"].sum(), {})
        return driven(Program(lambda key: jnp.zeros(()), step, None, data={"x": x}), SOURCE)

    with pytest.raises(RunError, match="seeds: the shapes of the data depend on the seed"):
        seeds.together(build, Settings())


DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tests.run.program.test_data import SOURCE, Settings, made, own
from toolkit.run.experiment.interface import Program
from toolkit.run.program import compiled, seeds, seeds_on_cores
from toolkit.run.program.data import driven
import toolkit as tk

# Seeds over two devices: what they have in common is whole on each, their own data lie with their seed.
for count in (2, 3):
    Settings.seeds = count
    program = seeds.together(lambda c: driven(own(seed=c.seed), SOURCE), Settings())
    shapes = {leaf.addressable_shards[0].data.shape for leaf in jax.tree.leaves(program.data)}
    assert shapes == {(500, 3), (1, 500) if count == 2 else (3, 500)}, shapes
    together = seeds_on_cores.compile_program(compiled.trace(program, 3, SOURCE), SOURCE)
    states = together.advance(together.init(), np.int32(1), np.int32(2)).state
    for i in range(count):
        alone = driven(own(seed=3 + i), SOURCE)
        state = alone.init(jax.random.key(3 + i), alone.data)
        for _ in range(2):
            state, _ = alone.step(state, alone.data)
        np.testing.assert_allclose(states[i], state, rtol=1e-5)

# Data that the experiment has spread: the step adds up over the devices, wherever `init` has its numbers from.
mesh = jax.make_mesh((2,), ("d",), (AxisType.Auto,))
x = np.random.default_rng(0).normal(size=(4096, 64)).astype("float32")
spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("d")))
step = lambda w, data: (w - data["x"].T @ (data["x"] @ w) / 4096, {"norm": jnp.linalg.norm(w)})
for init in (lambda key: jnp.ones(64), lambda key, data: jnp.ones(64) + 0 * data["x"][0]):
    program = made(Program(init, step, None, data={"x": spread}))
    text = program.advance.func.as_text()
    assert "f32[2048,64]" in text and "f32[4096,64]" not in text and "all-reduce(" in text
    plain = made(Program(init, step, None, data={"x": x}))
    found, expected = (p.advance(p.init(), np.int32(1), np.int32(3)) for p in (program, plain))
    np.testing.assert_allclose(found.state, expected.state, rtol=1e-4, atol=1e-6)

# A mesh that the config asks for: the data and each batch by rows, what is left of them and the state everywhere.
@jax.tree_util.register_pytree_node_class
class Batches:
    def __init__(self, x):
        self.x = x

    def batch(self, i):
        return jax.lax.dynamic_slice_in_dim(self.x, 64 * i, 64)

    def tree_flatten(self):
        return (self.x,), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)


def step(w, batch, data):
    return w - batch.T @ (batch @ w) / 64 + 0 * data["odd"].sum(), {"norm": jnp.linalg.norm(data["x"] @ w)}

data = {"x": x, "odd": x[:3]}
program = Program(lambda key: jnp.ones(64), step, None, data=data, batches=Batches(x))
mesh = tk.devices.mesh(data=2)
on_mesh, on_one = (driven(program, SOURCE, where) for where in (mesh, None))
held, held_batches = on_mesh.data
shard = lambda leaf: leaf.addressable_shards[0].data.shape
assert [shard(held[n]) for n in ("x", "odd")] == [(2048, 64), (3, 64)] and shard(held_batches.x) == (4096, 64)
found, expected = (seeds_on_cores.compile_program(compiled.trace(p, 0, SOURCE), SOURCE) for p in (on_mesh, on_one))
text = found.advance.func.as_text()
assert "f32[32,64]" in text and "all-reduce(" in text
found, expected = (p.advance(p.init(), np.int32(2), np.int32(2)) for p in (found, expected))
assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(found))
np.testing.assert_allclose(found.state.state, expected.state.state, rtol=1e-4, atol=1e-6)
np.testing.assert_allclose(found.values["norm"], expected.values["norm"], rtol=1e-4, atol=1e-6)
print("same")
"""


def test_data_over_two_devices():
    flags = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    flags["PYTHONPATH"] = str(ROOT)
    words = [sys.executable, "-c", DEVICES]
    done = subprocess.run(words, env=flags, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "same\n", done.stderr


# -------------------------------------------------------------------- what is compiled


def made(program):
    return seeds_on_cores.compile_program(
        compiled.trace(driven(program, SOURCE), 0, SOURCE), SOURCE
    )


@pytest.mark.parametrize("conv", [False, True])
def test_the_compiled_step_holds_no_data_and_copies_none(conv):
    x = np.random.default_rng(0).normal(size=(400, 8, 8, 1)).astype("float32")

    def step(state, data):
        images = data["x"]
        if conv:  # such a step is called one at a time
            images = jax.lax.conv(images, jnp.ones((1, 8, 1, 1), jnp.float32), (1, 1), "SAME")
        return state + 1, {"mean": jnp.vdot(images, images) * state}

    program = made(Program(lambda key: jnp.zeros(()), step, None, data={"x": x}))
    assert program.most == (1 if conv else None)
    text = program.advance.func.as_text()
    assert "f32[400,8,8,1]" in text and len(text) < 1e5
    if not conv:
        memory = program.advance.func.memory_analysis()
        assert memory.temp_size_in_bytes < x.nbytes / 10
    state = program.init()
    for _ in range(2):
        done = program.advance(state, np.int32(1), np.int32(1))
        state = done.state
    assert int(state) == 2


def test_a_state_may_begin_as_the_data():
    """The memory of a state is used again by each step: it must not be that of the data."""
    x = jnp.arange(1000.0)
    step = lambda state, data: ({"w": state["w"] * 2, "x": state["x"] + 1}, {"x": data["x"].sum()})
    init = lambda key, data: {"w": data["x"], "x": data["x"]}
    program = made(Program(init, step, None, data={"x": x}))
    for _ in range(2):
        state = program.init()
        for _ in range(3):
            done = program.advance(state, np.int32(1), np.int32(1))
            state = done.state
            assert done.values["x"][0] == np.arange(1000.0).sum()
        np.testing.assert_array_equal(state["w"], 8 * np.arange(1000.0))
    np.testing.assert_array_equal(x, np.arange(1000.0))


def test_leaves_of_every_kind():
    leaves = {
        "key": jax.random.key(3),
        "nested": [np.float64(2.5), (np.arange(3), None)],
        "bfloat16": jnp.ones(2, jnp.bfloat16),
        "bool": np.array([True, False]),
        "number": 4,
        "complex": 1j * np.ones(2),
    }

    def step(state, data):
        value = jax.random.uniform(data["key"]) + data["nested"][0] + data["nested"][1][0].sum()
        value = value + data["bfloat16"].sum() + data["bool"].sum() + data["number"]
        return state, {"value": value + jnp.sum(jnp.abs(data["complex"]))}

    program = made(Program(lambda key: jnp.zeros(()), step, None, data=leaves))
    done = program.advance(program.init(), np.int32(1), np.int32(1))
    expected = float(jax.random.uniform(jax.random.key(3))) + 2.5 + 3 + 2 + 1 + 4 + 2
    np.testing.assert_allclose(done.values["value"][0], expected, rtol=1e-6)


def test_what_a_function_does_to_its_data_is_forgotten():
    def changing(state, data):
        data["x"] = data["x"] * 2
        return state + data.pop("x").sum(), {}

    finish = lambda state, data: changing(state, data)[0]
    given = {"x": np.ones(2)}
    whole = driven(Program(lambda key: jnp.zeros(()), changing, finish, data=given), SOURCE)
    program = seeds_on_cores.compile_program(compiled.trace(whole, 0, SOURCE), SOURCE)
    state = program.advance(program.init(), np.int32(1), np.int32(2)).state
    assert state == 8
    assert [float(whole.finish(state, whole.data)) for _ in range(2)] == [12, 12]
    np.testing.assert_array_equal(given["x"], [1, 1])


@pytest.mark.parametrize("how", ["on cores", "at once"])
def test_python_numbers_take_the_type_of_what_they_meet(monkeypatch, how):
    monkeypatch.setattr(seeds, "on_cores", lambda: how == "on cores")

    def build(config):
        init = lambda key: jnp.ones(2, jnp.bfloat16)
        step = lambda state, data: (state * data["rate"] + data["one"], {})
        data = {"rate": config.seed / 4, "one": 1}
        return driven(Program(init, step, None, data=data), SOURCE)

    program = seeds.together(build, Settings())
    many = seeds_on_cores.compile_program(compiled.trace(program, 3, SOURCE), SOURCE)
    state = many.advance(many.init(), np.int32(1), np.int32(1)).state
    assert state.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(state[:, 0], float), [1.75, 2, 2.25])


# ----------------------------------------------------------------------- which functions


def test_functions_without_the_parameter_stay_as_they_are():
    data = {"x": np.zeros(3)}
    plain = driven(
        Program(lambda key: 0, lambda state: (state, {}), lambda s: s, data=data), SOURCE
    )
    assert plain.data == () and plain.recorded is data
    assert plain.step(1, ()) == (1, {}) and plain.losses is None
    # Given already, or never called so.
    bound = functools.partial(lambda state, data: (state, {"x": data}), data=7)
    rest = lambda state, *data, **others: (state, {"x": (data, others)})
    assert driven(Program(lambda key: 0, bound, None, data=data), SOURCE).step(1, ()) == (
        1,
        {"x": 7},
    )
    assert driven(Program(lambda key: 0, rest, None, data=data), SOURCE).step(1, ())[1]["x"] == (
        (),
        {},
    )
    # A default of the function's own, in a program without data.
    default = lambda state, data=5: (state, {"x": data})
    assert driven(Program(lambda key: 0, default, None), SOURCE).step(1, ())[1] == {"x": 5}
    # Empty data are data.
    one = driven(Program(lambda key, data: data, default, None, data={}), SOURCE)
    assert one.init(None, one.data) == {}


class Called:
    def __call__(self, state, data):
        return state, {"x": data["x"].sum()}

    def method(self, state, *, data):
        return state, {"x": data["x"].sum()}


@pytest.mark.parametrize(
    "step", [Called(), Called().method, jax.jit(Called().method), functools.partial(Called())]
)
def test_functions_of_every_kind_are_asked(step):
    one = driven(Program(lambda key: 0, step, None, data={"x": np.ones(3)}), SOURCE)
    assert one.step(1, one.data)[1]["x"] == 3


# ------------------------------------------------------------------------------ batches


@jax.tree_util.register_dataclass
@dataclasses.dataclass(eq=False)
class InOrder:
    """Successive rows."""

    rows: Any

    def batch(self, step):
        return jax.lax.dynamic_slice_in_dim(self.rows, step * 4 % len(self.rows), 4)


class OnHost:
    def batch(self, step):
        return np.ones(4)


BATCHED = '''"""Descent on rows that come in order."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from toolkit import run


class Config(run.Settings):
    pass


@jax.tree_util.register_dataclass
@dataclass(eq=False)
class InOrder:
    rows: Any

    def batch(self, step):
        return jax.lax.dynamic_slice_in_dim(self.rows, step * 4 % len(self.rows), 4)


def build(config):
    def step(state, batch, data):
        state = state - data["rate"] * (state - batch.mean())
        return state, {"loss": jnp.mean((batch - state) ** 2)}

    rows = jax.random.normal(jax.random.key(config.seed), (100,))
    finish = lambda state: run.Final({"w": state}, {"w": state})
    return run.Program(lambda key: jax.random.normal(key), step, finish, data={"rate": 0.1}, batches=InOrder(rows))
'''


def test_batches_are_arguments_and_follow_the_steps():
    x = np.arange(400.0, dtype="float32")
    step = lambda state, batch, data: (state + batch.sum() * data["scale"], {"first": batch[0]})
    program = Program(
        lambda key: jnp.float32(0), step, None, data={"scale": 2.0}, batches=InOrder(x)
    )
    whole = driven(program, SOURCE)
    assert sorted(whole.recorded) == ["batches", "scale"]
    state = jax.eval_shape(whole.init, jax.random.key(0), whole.data)
    assert held_arrays.largest(jax.make_jaxpr(whole.step)(state, whole.data)) < 100
    program = made(program)
    done = program.advance(program.init(), np.int32(3), np.int32(2))
    np.testing.assert_array_equal(done.values["first"][:3], [4, 12, 20])
    assert float(done.state.state) == 2 * np.arange(24).sum() and int(done.state.made) == 6


@pytest.mark.parametrize("word", ["steps=20", "seeds=2"])
def test_a_killed_run_of_batches_continues_to_the_same_bits(
    toolkit, work, undrawn, monkeypatch, word
):
    lay_out(work, "fitted", BATCHED)
    test_a_killed_run_continues_to_the_same_bits(toolkit, None, undrawn, monkeypatch, word)
    recorded = json.loads(Path("whole/run.json").read_text())["environment"]
    assert any(name.startswith("data/batches") for name in recorded)


@pytest.mark.parametrize(
    ("step", "batches", "said"),
    [
        (
            lambda state, data: (state, {}),
            InOrder(jnp.ones(8)),
            "step: `data` in the place of `batch`, got step(state, data), expected step(state, batch, data)",
        ),
        (lambda state, batch: (state, {}), OnHost(), "batches: wrong type, got OnHost"),
        (lambda state, batch: (state, {}), np.ones(3), "batches: wrong type, got ndarray"),
    ],
)
def test_what_gives_no_batches_is_refused(step, batches, said):
    with pytest.raises(RunError) as caught:
        driven(Program(lambda key: 0, step, None, batches=batches), SOURCE)
    assert said in str(caught.value) and caught.value.code == 2


def test_a_step_may_take_a_batch_a_fraction_and_the_data():
    def step(state, batch, fraction, data):
        return state + fraction, {"sum": batch.sum() + data["x"]}

    program = Program(
        lambda key: jnp.float32(0), step, None, None, True, {"x": 1}, InOrder(jnp.ones(8))
    )
    whole = budget.paced(driven(program, SOURCE))
    state, found = whole.step(whole.init(None, whole.data), whole.data)
    assert found["sum"] == 5 and state.state.made == 1


KEY, STATE = (lambda key: 0), (lambda state: (state, {}))


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ((KEY, lambda data: (data, {}), None), "step: `data` in the place of `state`, got step(data), expected step(state, data)"),
        ((lambda data: 0, STATE, None), "init: `data` in the place of `key`"),
        ((KEY, STATE, lambda data: 0), "finish: `data` in the place of `state`"),
        ((KEY, STATE, None, lambda data: {}), "losses: `data` in the place of `state`"),
        (
            (KEY, lambda state, data: (state, {}), None, None, True),
            "step: `data` in the place of `fraction`, got step(state, data), expected step(state, fraction, data)",
        ),
    ],
)  # fmt: skip
def test_data_in_the_place_of_something_else_are_refused(program, said):
    with pytest.raises(RunError) as caught:
        driven(Program(*program)._replace(data={"x": np.ones(3)}), SOURCE)
    assert said in str(caught.value) and caught.value.code == 2


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ((1, 2), "data: wrong type, got tuple, expected a dict of trees"),
        ({"x": "text"}, "data failed, got TypeError"),
        ({"x": np.array([1, "a"], object)}, "data failed, got TypeError"),
        ({"x": [np.array([1, 2**40])]}, "data['x'][0] has numbers beyond int32"),
        ({"x": np.array([1e300])}, "data['x'] has numbers beyond float32"),
    ],
)
def test_data_that_no_program_can_take_are_refused(data, said):
    with jax.enable_x64(False), pytest.raises(RunError) as caught:
        driven(Program(KEY, lambda state, data: (state, {}), None, data=data), SOURCE)
    assert said in str(caught.value) and caught.value.code == 2


def test_a_program_without_data_has_none_to_hand():
    with pytest.raises(RunError, match="step: takes `data`, got a Program without any"):
        driven(Program(KEY, lambda state, data: (state, {}), None), SOURCE)
    with jax.enable_x64(True):
        wide = {"x": np.array([2**40, 1]), "y": np.array([1e300])}
        assert (
            driven(Program(KEY, lambda state, data: 0, None, data=wide), SOURCE).data["x"][0]
            == 2**40
        )
