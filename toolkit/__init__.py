"""A JAX toolkit in which the way a derivative is made is a parameter.

The public names, and nothing else. They load on first use, so `import toolkit` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit.faces import lazy

if TYPE_CHECKING:
    from toolkit import (
        adjoint,
        bilevel,
        control,
        credit,
        data,
        debug,
        devices,
        energy,
        estimator,
        linear,
        models,
        optimizers,
        problems,
        projection,
        prox,
        run,
        solver,
    )
    from toolkit.control.loop import loop
    from toolkit.control.while_loop import while_loop
    from toolkit.plain_python.decorator import control_flow
    from toolkit.solve.comparison import Comparison, check_hypergradient, compare_adjoints
    from toolkit.solve.hypergradient import Hypergradient, hypergradient
    from toolkit.solve.hypergradient_report import HypergradientReport
    from toolkit.solve.maps import SolutionMap, argmin, fixed_point, least_squares, root
    from toolkit.types import Issue, Solution, SolveInfo, Status, StepInfo

__version__ = "0.2.0.dev0"

__all__ = [
    "Comparison",
    "Hypergradient",
    "HypergradientReport",
    "Issue",
    "Solution",
    "SolutionMap",
    "SolveInfo",
    "Status",
    "StepInfo",
    "adjoint",
    "argmin",
    "bilevel",
    "check_hypergradient",
    "compare_adjoints",
    "control",
    "control_flow",
    "credit",
    "data",
    "debug",
    "devices",
    "energy",
    "estimator",
    "fixed_point",
    "hypergradient",
    "least_squares",
    "linear",
    "loop",
    "models",
    "optimizers",
    "problems",
    "projection",
    "prox",
    "root",
    "run",
    "solver",
    "while_loop",
]

_ROOMS = (
    "adjoint",
    "bilevel",
    "control",
    "credit",
    "data",
    "debug",
    "devices",
    "energy",
    "estimator",
    "linear",
    "models",
    "optimizers",
    "problems",
    "projection",
    "prox",
    "run",
    "solver",
)

__getattr__, __dir__ = lazy(
    __name__,
    {
        **{f"toolkit.{room}": () for room in _ROOMS},
        "toolkit.control.loop": ("loop",),
        "toolkit.control.while_loop": ("while_loop",),
        "toolkit.plain_python.decorator": ("control_flow",),
        "toolkit.solve.comparison": ("Comparison", "check_hypergradient", "compare_adjoints"),
        "toolkit.solve.hypergradient": ("Hypergradient", "hypergradient"),
        "toolkit.solve.hypergradient_report": ("HypergradientReport",),
        "toolkit.solve.maps": ("SolutionMap", "argmin", "fixed_point", "least_squares", "root"),
        "toolkit.types": ("Issue", "Solution", "SolveInfo", "Status", "StepInfo"),
    },
)
