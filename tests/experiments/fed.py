"""A program whose functions have its data already, to be called by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from toolkit.run.program.data import driven


def fed(program: Any) -> Any:
    """`init`, `step` and `finish` of the key or the state alone."""
    whole = driven(program, Path("experiments/own.py"))
    of = lambda function: lambda given: function(given, whole.data)
    return SimpleNamespace(init=of(whole.init), step=of(whole.step), finish=of(whole.finish))
