"""A run loads what it uses, and no more: what of this package is in memory at its end, and before its pages are drawn."""

import json
import subprocess
import sys

import pytest

from tests.run.conftest import ROOT

# Room -> what a run may load of it: "*" is all of it, "." the room's own `__init__` only.
MAY_LOAD = {
    "toolkit": "*",
    "toolkit.leaves": "*",
    "toolkit.vocabulary": "*",
    "toolkit.commands": "arguments cli run",
    # A config may name any rule, so its rooms are loaded whole.
    "toolkit.adjoint": "*",
    "toolkit.adjoint.reversible": "*",
    "toolkit.linear": "*",
    "toolkit.solver": "*",
    "toolkit.solve": "*",
    "toolkit.models": "*",
    "toolkit.derive": "*",
    "toolkit.jaxprs": "*",
    "toolkit.errors": "*",
    "toolkit.devices": "*",
    "toolkit.data": "*",
    "toolkit.debug": ".",
    "toolkit.debug.gradients": "gradient_report",
    "toolkit.debug.nonfinite": "checks",
    "toolkit.run": ".",
    "toolkit.run.experiment": "*",
    "toolkit.run.store": "arrays birth checkpoints compiled_programs directory environment files final intact metrics observed process shards sweeps",
    "toolkit.run.program": "budget compiled data finite gradient_rows seeds_on_cores steps",
    "toolkit.run.drive": "chunks drive_steps finish launch_processes layout places prepare progress_bar run_loop runs signals team tied",
}
AT_THE_END = {
    "toolkit.run.program": "means",
    "toolkit.run.report": "card claims draw groups page story",
    "toolkit.run.report.drawing": "bands gradient_figures heat_map log_axis pictures plots",
}

RUN = """
import json, sys
from toolkit.commands import cli
from toolkit.run.drive import run_loop
from toolkit.run.experiment import load

modules = lambda: sorted(name for name in sys.modules if name.startswith("toolkit"))
before, validated, drive, validate = [], [], run_loop.drive, load.validate

def driven(*given):
    end = drive(*given)
    before[:] = modules()
    return end

def counted(*given):
    validated.append(1)
    return validate(*given)

run_loop.drive, load.validate = driven, counted
code = cli.main(sys.argv[1:])
print(json.dumps([code, before, modules(), len(validated)]))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """(modules when the last step was made, modules at the end, how often the config was validated)."""
    out = tmp_path_factory.mktemp("runs") / "x"
    words = ["run", "configs/tiny.yaml", "steps=2", "claims={}", "--out", str(out)]
    command = [sys.executable, "-c", RUN, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    code, *found = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    return found


def surplus(modules, *tables):
    """The modules that no table admits."""
    allowed = set()
    for table in tables:
        for room, names in table.items():
            allowed |= {room, *(f"{room}.{name}" for name in names.split())}
    whole = [room for table in tables for room, names in table.items() if names == "*"]
    return [
        name for name in modules if name not in allowed and name.rpartition(".")[0] not in whole
    ]


def test_a_run_loads_what_it_uses(loaded):
    before, end, _ = loaded
    assert "toolkit.run.drive.run_loop" in before
    assert surplus(before, MAY_LOAD) == []
    assert surplus(end, MAY_LOAD, AT_THE_END) == []


def test_what_nobody_asked_for_is_named():
    """The check above would not notice anything if it admitted whole packages."""
    others = ["toolkit.run.sweep.grid", "toolkit.plain_python.staging", "toolkit.debug.shapes.annotate"]  # fmt: skip
    assert surplus([*others, "toolkit.run.report.page"], MAY_LOAD, AT_THE_END) == others


def test_the_config_is_validated_once(loaded):
    assert loaded[2] == 1
