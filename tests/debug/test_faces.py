"""One question loads one room of `tk.debug`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import toolkit as tk

HOMES = {
    "annotate": "shapes",
    "audit": "numbers",
    "clip_report": "gradients",
    "dead_gradients": "dead",
    "explain": "nonfinite",
    "gradient_report": "gradients",
    "guard": "nonfinite",
    "watch": "recompiles",
}
# In a process of its own, which forgets the package between two questions; JAX itself is loaded once.
LOADED = """
import importlib, json, sys
loaded = {}
for name in sys.argv[1:]:
    getattr(importlib.import_module("toolkit.debug"), name)
    loaded[name] = [module for module in sys.modules if module.partition(".")[0] == "toolkit"]
    for module in loaded[name]:
        del sys.modules[module]
print(json.dumps(loaded))
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str]]:
    command = [sys.executable, "-c", LOADED, *HOMES]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize(("name", "home"), HOMES.items(), ids=HOMES)
def test_a_question_loads_its_room(loaded, name: str, home: str):
    modules = loaded[name]
    rooms = {room for room in HOMES.values() if f"toolkit.debug.{room}" in modules}
    assert rooms == {home}
    # `annotate` names the loops and solves that a line stands in, so it knows all of them.
    above = {"toolkit.solve", "toolkit.plain_python", "toolkit.control"} & {*modules}
    assert not above or name == "annotate"


def test_every_question_is_in_the_table():
    assert {name for name in tk.debug.__all__ if name.islower()} == HOMES.keys()
