"""The roles of settings: what Python code may give for each, and from which room a config names it.

A role annotates a field of settings or of an experiment's `Config`, and is offered by its room:
`adjoint: tk.adjoint.Adjoint = tk.adjoint.Implicit()`.
"""

from __future__ import annotations

from typing import Annotated, Any

from toolkit import types
from toolkit.vocabulary import kinds
from toolkit.vocabulary.kinds import Given


def _is_object(value: Any) -> bool:
    """Whether a value is no class: `CG` in place of `CG(...)` has the methods too, and is refused."""
    return not isinstance(value, type)


def _callable_of(room: str, expected: str) -> Given:
    """A setting of a room, or whatever else can be called in its place."""
    fits = lambda value: _is_object(value) and callable(value)
    return Given(expected, fits=fits, room=room, error=TypeError)


Adjoint = Annotated[
    types.Adjoint,
    Given(
        "one of tk.adjoint, such as Implicit()",
        fits=lambda value: _is_object(value) and hasattr(value, "differentiable"),
        room="toolkit.adjoint",
        member="differentiable",
        error=TypeError,
    ),
]
Solver = Annotated[
    types.Solver,
    Given(
        "one of tk.solver, such as GradientDescent(step_size=0.1, num_steps=100), or a callable "
        "(fun, y0, theta) -> tk.Solution",
        fits=lambda value: _is_object(value) and (hasattr(value, "bind") or callable(value)),
        room="toolkit.solver",
        member="bind",
        error=TypeError,
    ),
]
LinearSolver = Annotated[
    types.LinearSolver,
    Given(
        "one of tk.linear, such as CG(max_steps=100, tol=1e-6), or a callable "
        "(matvec, b, x0=None) -> (x, LinearInfo)",
        fits=lambda value: _is_object(value) and callable(value),
        room="toolkit.linear",
        member="__call__",
        error=TypeError,
    ),
]
Preconditioner = Annotated[
    types.Preconditioner,
    Given(
        "tk.linear.Diagonal, tk.linear.Nystrom, or an object with the methods "
        "approximate_inverse(matvec, like) -> (r -> near A^-1 r) and products(like) -> int",
        fits=lambda value: (
            _is_object(value)
            and hasattr(value, "approximate_inverse")
            and hasattr(value, "products")
        ),
        room="toolkit.linear",
        member="approximate_inverse",
    ),
]
Estimator = Annotated[
    Any, _callable_of("toolkit.estimator", "one of tk.estimator, such as Backprop()")
]
BilevelMethod = Annotated[
    Any,
    _callable_of(
        "toolkit.bilevel",
        "one of tk.bilevel, such as SOBA(inner_step_size=0.1, outer_step_size=0.1)",
    ),
]
Rule = Annotated[
    Any,
    _callable_of(
        "toolkit.credit",
        "one of tk.credit, such as DualPropagation(), or a callable (model, loss) -> (init, gradients)",
    ),
]


def _is_transformation(value: Any) -> bool:
    # Judged by its methods: optax.MultiSteps and others can be used as transformations, but are instances of
    # no common class. `build` is that of the settings in `toolkit/optimizers.py`.
    return (hasattr(value, "init") and hasattr(value, "update")) or hasattr(value, "build")


Optimizer = Annotated[
    Any,
    Given(
        "an optax transformation, such as optax.adam(1e-3)",
        fits=_is_transformation,
        room="toolkit.optimizers",
        member="build",
        error=TypeError,
    ),
]
Schedule = Annotated[
    Any,
    Given(
        "an optax schedule (step -> number)",
        fits=lambda value: _is_object(value) and callable(value),
        room="toolkit.optimizers",
        member="__call__",
    ),
]

FAMILIES = {  # what `toolkit list` calls each role
    "adjoints": Adjoint,
    "solvers": Solver,
    "linear_solvers": LinearSolver,
    "optimizers": Optimizer,
    "bilevel_methods": BilevelMethod,
    "estimators": Estimator,
    "learning_rules": Rule,
}


def family(name: str) -> dict[str, type]:
    """The settings classes of a family (a key of `FAMILIES`), by the kind that a config writes."""
    mark = kinds.given(FAMILIES[name])
    assert mark is not None  # a role is made with one
    return kinds.of_room(mark.room, mark.member)
