"""A JAX toolkit in which the way a derivative is made is a parameter.

The public names, and nothing else. They load on first use, so `import toolkit` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit import (
        adjoint,
        bilevel,
        catalogue,
        control,
        data,
        debug,
        energy,
        estimator,
        linear,
        problems,
        prox,
        run,
        solver,
    )
    from toolkit.comparison import Comparison, check_hypergradient, compare_adjoints
    from toolkit.control.loop import loop
    from toolkit.control.python.decorator import control_flow
    from toolkit.control.while_loop import while_loop
    from toolkit.hypergradients import Hypergradient, HypergradientReport, hypergradient
    from toolkit.solution_map import SolutionMap, argmin, fixed_point, root
    from toolkit.types import Issue, Solution, SolveInfo, Status

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "Hypergradient",
    "HypergradientReport",
    "Issue",
    "Solution",
    "SolutionMap",
    "SolveInfo",
    "Status",
    "adjoint",
    "argmin",
    "bilevel",
    "catalogue",
    "check_hypergradient",
    "compare_adjoints",
    "control",
    "control_flow",
    "data",
    "debug",
    "energy",
    "estimator",
    "fixed_point",
    "hypergradient",
    "linear",
    "loop",
    "problems",
    "prox",
    "root",
    "run",
    "solver",
    "while_loop",
]

_ROOMS = (
    "adjoint",
    "bilevel",
    "catalogue",
    "control",
    "data",
    "debug",
    "energy",
    "estimator",
    "linear",
    "problems",
    "prox",
    "run",
    "solver",
)
_HOME = {
    "Hypergradient": "hypergradients",
    "HypergradientReport": "hypergradients",
    "Comparison": "comparison",
    "check_hypergradient": "comparison",
    "compare_adjoints": "comparison",
    "hypergradient": "hypergradients",
    "control_flow": "control.python.decorator",
    "loop": "control.loop",
    "while_loop": "control.while_loop",
    "SolutionMap": "solution_map",
    "argmin": "solution_map",
    "fixed_point": "solution_map",
    "root": "solution_map",
    "Issue": "types",
    "Solution": "types",
    "SolveInfo": "types",
    "Status": "types",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"toolkit.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(f"toolkit.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'toolkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
