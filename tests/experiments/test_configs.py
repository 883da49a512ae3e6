"""Every config that ships: it loads, resolves to itself, and opens with its own command."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import pytest
import yaml

from tests import held_arrays
from toolkit.devices.lowering import largest_constant
from toolkit.jaxprs.platform import tracing_for
from toolkit.run.drive.prepare import build
from toolkit.run.experiment import experiments, load, plain_yaml, sources
from toolkit.run.program.compiled import TracedProgram, trace
from toolkit.run.program.data import driven
from toolkit.run.program.losses import dead_inputs
from toolkit.run.program.lowered import lowered

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
FAST = (
    "analog_network",
    "compare_rules",
    "equilibrium_propagation",
    "influence_balancing",
    "nested_relaxation",
    "tiny",
)  # below 2 s each


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_ships_whole(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    first, second, *_ = path.read_text().splitlines()
    assert first == f"# toolkit run configs/{path.name}"
    assert "on 2 cores" in second
    assert "expect" in second
    loaded = load.load(path.relative_to(ROOT))
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(plain_yaml.dump(loaded.resolved))
    assert load.load(resolved).resolved == loaded.resolved
    assert yaml.safe_load(resolved.read_text())["experiment"] == loaded.resolved["experiment"]


NAMES = sorted({yaml.safe_load(path.read_text())["experiment"] for path in CONFIGS})


def test_every_experiment_has_a_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert experiments.available() == NAMES


def test_every_file_belongs_to_an_experiment_and_fits_on_a_page() -> None:
    folder = ROOT / "experiments"
    owned = {file for name in NAMES for file in sources.files(folder / f"{name}.py")}
    assert sorted(owned) == sorted(folder.glob("*.py"))
    long = {file.name: n for file in owned if (n := len(file.read_text().splitlines())) >= 300}
    assert long == {}


@pytest.mark.parametrize("name", NAMES)
def test_experiment_opens_with_its_command_and_its_question(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    path = experiments.find(name, "test")
    module = experiments.load(path)
    # The reader meets the question, then what can be asked, then the program; the rest comes after it.
    defined = [node for node in ast.parse(path.read_text()).body if hasattr(node, "name")]
    functions = [node.name for node in defined if isinstance(node, ast.FunctionDef)]
    public = [name for name in functions if not name.startswith("_")]
    assert public[0] == "build"
    assert callable(module.build)
    assert f"toolkit run configs/{name}.yaml" in (module.__doc__ or "")


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=() if path.stem in FAST else pytest.mark.slow, id=path.stem)
        for path in CONFIGS
    ],
)
def test_every_input_of_a_configs_losses_can_learn(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    loaded = load.load(path.relative_to(ROOT))
    module = experiments.load(loaded.experiment)
    settings = load.validate(experiments.config_class(module), loaded.resolved, {(): str(path)})
    with jax.enable_x64(False):  # as the runner has it
        program = driven(module.build(settings), loaded.experiment)
        template = jax.eval_shape(program.init, jax.random.key(settings.seed), program.data)
        traced = SimpleNamespace(program=program, template=template)
        found = dead_inputs(traced, loaded.experiment)
    assert found, "no losses declared"
    assert {name: [str(one) for one in dead] for name, dead in found.items() if dead} == {}


FEWER = {"depth_without_backprop": ["depths=[2]"]}  # depth makes no other kind of program


class Step(NamedTuple):
    name: str
    source: Path
    traced: TracedProgram  # for accelerators: on a CPU a few products are arranged otherwise


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda path: path.stem)
def step(request: pytest.FixtureRequest) -> Iterator[Step]:
    """A config's step, traced once for all tests of it."""
    path = request.param
    with contextlib.chdir(ROOT), jax.enable_x64(False), tracing_for("tpu"):
        loaded = load.load(path.relative_to(ROOT), FEWER.get(path.stem, []))
        settings, program = build(loaded)
        yield Step(path.stem, loaded.experiment, trace(program, settings.seed, loaded.experiment))


def test_no_config_s_program_holds_its_data(step: Step) -> None:
    """`init` and `step` are handed their arrays; what they hold is 1,024 bytes at most."""
    program, template = step.traced.program, step.traced.template
    key, data = jax.random.key(0), program.data
    assert held_arrays.largest(jax.make_jaxpr(program.init)(key, data)) <= held_arrays.LARGEST
    made = jax.make_jaxpr(step.traced.step)(template, data)
    assert held_arrays.largest(made) <= held_arrays.LARGEST
    if step.name in ("analog_network", "tiny"):
        lower = lambda fn, *given: jax.jit(fn).lower(*given).as_text()
        closed = lambda state: program.step(state, data)
        assert largest_constant(lower(program.init, key, data)) <= 1024
        # Both ways of looking find what is there.
        assert largest_constant(lower(closed, template)) > 1e5
        assert held_arrays.largest(jax.make_jaxpr(closed)(template)) > 1e5


def test_every_config_s_step_lowers_for_tpu_and_cuda(step: Step) -> None:
    for platform in ("tpu", "cuda"):
        found = lowered(step.traced, step.source, platform)
        assert found.largest_constant <= held_arrays.LARGEST
        assert not found.collectives
        assert (found.flops.once > 0) == (step.name != "compare_rules")  # whose step does nothing
