"""What CONTRIBUTING.md tells a newcomer to write works: each addition is one new file and at most two touched ones."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"<!-- (new|offer): (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
STEPS = BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text())

USED = """
import sys
import jax, jax.numpy as jnp
import toolkit as tk
from pydantic import TypeAdapter

H = jnp.diag(jnp.asarray([1.0, 2.0]))
inner = lambda y, theta: 0.5 * y @ H @ y - theta @ y
outer = lambda y, theta: jnp.sum(y)
theta = jnp.asarray([1.0, 2.0])

# The rule in a solve: H^-1 is replaced by 1/2.
solve = tk.argmin(inner, tk.solver.LBFGS(50, 1e-9), adjoint=tk.adjoint.ScaledIdentity(0.5))
gradient = tk.hypergradient(outer, solve)(jnp.zeros(2), theta).gradient
assert jnp.allclose(gradient, 0.5), gradient
kind = TypeAdapter(tk.adjoint.Adjoint).validate_json('{"kind": "scaled_identity", "scale": 0.5}')
assert kind == tk.adjoint.ScaledIdentity(0.5)

x, info = tk.linear.SteepestDescent(60)(lambda v: H @ v, theta)
assert info.status == 0 and jnp.allclose(x, theta / jnp.diag(H), atol=1e-3), (x, info)

problem = tk.bilevel.Problem(lambda y, t, _: inner(y, t), lambda y, t, _: jnp.sum((y - 1) ** 2) + jnp.sum(t**2))
init, step = tk.bilevel.Alternating(0.1, 0.1)(problem)
state = init(jax.random.key(0), jnp.zeros(2), theta)
for _ in range(3):
    state, info = jax.jit(step)(state)
assert state.step == 3 and jnp.all(state.theta < theta)

try:
    tk.adjoint.ScaledIdentity(-1)
except ValueError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project with all that CONTRIBUTING.md adds to it."""
    place = tmp_path_factory.mktemp("copy")
    for folder in ("toolkit", "experiments", "configs"):
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for action, path, text in STEPS:
        file = place / path
        if action == "new":
            assert not file.exists()
            file.write_text(text)
        else:
            offer(file, text)
    return place


def offer(face, line):
    """Adds an import to a room's face, and the name to `__all__`."""
    name, text = line.split()[-1], face.read_text()
    face.write_text(text.replace("\n__all__ = [", f"{line}\n__all__ = [\n    {name!r},", 1))


def python(place, *words):
    environment = {**os.environ, "PYTHONPATH": str(place), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, *words], cwd=place, env=environment, capture_output=True, text=True
    )


def test_a_room_s_addition_is_one_new_file_and_one_offer():
    rooms = [Path(path).parent for action, path, _ in STEPS if action == "offer"]
    new = [Path(path) for action, path, _ in STEPS if action == "new"]
    assert [str(room) for room in rooms] == ["toolkit/adjoint", "toolkit/linear", "toolkit/bilevel"]
    assert len(new) == len(rooms) + 2  # an experiment is a file and a config, and touches nothing


def test_the_additions_work(copy):
    done = python(copy, "-c", USED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "`scale` must be a positive number: got -1."


def test_they_are_kinds_that_are_listed(copy):
    listed = python(copy, "-m", "toolkit", "list").stdout
    for kind in ("scaled_identity", "steepest_descent", "alternating", "ridge_penalty"):
        assert f"  {kind} " in listed


def test_the_experiment_runs(copy):
    done = python(copy, "-m", "toolkit", "run", "configs/ridge_penalty.yaml", "--out", "runs/one")
    assert (done.returncode, done.stderr) == (0, "")
    assert (copy / "runs/one/report.html").is_file()


def test_each_room_says_first_which_question_it_answers():
    rooms = sorted((ROOT / "toolkit").glob("*/**/__init__.py"))
    first = {room: ast.get_docstring(ast.parse(room.read_text())).splitlines()[0] for room in rooms}
    assert len(first) > 30
    assert [str(room) for room, line in first.items() if "?" not in line] == []
