"""No secret hyperparameters: every number that steers the mathematics is one that a config can set, or has a reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from toolkit.vocabulary import kinds, roles

ROOT = Path(__file__).parents[1] / "toolkit"
ROOMS = (
    "solve/accuracy.py",
    "adjoint",
    "bilevel",
    "derive/composite.py",
    "control",
    "credit",
    "derive/curvature.py",
    "energy",
    "estimator",
    "linear",
    "plain_python",
    "derive/linearised_system.py",
    "problems",
    "prox.py",
    "solver",
    "solve/tilting.py",
    "tree.py",
)
SMALL = 2  # integers up to here are structure, as in `tk.debug.audit`


COUNTS = frozenset(
    {"info", "range", "split", "split_key"}
)  # their numbers count things in the code

# (file, name of the constant or parameter, else of the function): why no config needs to see it.
SAME_BITS = "the arithmetic of a representation: another number would be another format"
ORACLE = "a problem with a known answer: its definition, from the paper that states it"
ANSWER = "measures a known answer as far as the dtype allows; nothing that is learned depends on it"
COST = "counts gradients, products or arrays for a report"
SHORTHAND = "a shorthand for DoubleLoop, whose settings a config has"
TRACING = "bounds the look ahead while Python code is traced; results do not depend on it"
WORDS = "where a message or a bar becomes short"
ROUNDING = "a margin in units of rounding"
JUDGE = (
    "part of the verdict in a report, calibrated in the comment there; values do not depend on it"
)
DIGITS = "how the last digits are reached; the residual says whether they were, and `tol` judges it"
LINE_SEARCH = "the usual numbers of a line search, as optax has its own; the solution stays"
ALLOWED = {
    ("solve/accuracy.py", "SAFETY"): JUDGE,
    ("solve/accuracy.py", "RESOLVED"): JUDGE,
    ("adjoint/reversible/integer_grid.py", "BYTE"): SAME_BITS,
    ("adjoint/reversible/momentum.py", "small"): SAME_BITS,
    ("adjoint/reversible/momentum.py", "advance"): SAME_BITS,
    ("adjoint/nudged.py", "ANSWERED"): JUDGE,
    ("adjoint/nudged.py", "UNUSABLE"): JUDGE,
    ("adjoint/landscape.py", "BENT"): JUDGE,
    ("adjoint/landscape.py", "judge"): COST,
    (
        "adjoint/reversible/reals.py",
        "_FEW",
    ): "arrays this small are joined into one; the numbers stay the same",
    ("adjoint/reversible/rule.py", "rows"): SAME_BITS,
    ("bilevel/methods/aid_itd.py", "inner_steps"): SHORTHAND,
    ("bilevel/methods/aid_itd.py", "linear_steps"): SHORTHAND,
    ("bilevel/methods/aid_itd.py", "linear_solver"): SHORTHAND,
    ("bilevel/methods/one_update.py", "step"): COST,
    ("bilevel/methods/srba.py", "corrected"): COST,
    ("bilevel/methods/vrbo.py", "gradients"): COST,
    ("credit/passes.py", "SETTLED"): JUDGE,
    ("credit/comparison.py", "SCALES"): JUDGE,
    ("credit/comparison.py", "NOTHING"): JUDGE,
    ("credit/comparison.py", "_cells"): "units of a printed table",
    ("energy/resistive.py", "_checked_edges"): WORDS,
    ("credit/comparison.py", "REPEATS"): "turns of a clock: the median of as many calls",
    ("bilevel/parts/iteration.py", "_LINES"): WORDS,
    ("bilevel/parts/iteration.py", "_SHOWN"): WORDS,
    ("credit/predictive_coding.py", "DESCENT_STEPS"): "what `steps=None` stands for",
    ("energy/integral.py", "POINTS"): ANSWER,
    ("energy/networks.py", "probe"): "where an activation is asked whether it is the identity",
    ("energy/resistive.py", "FIRST"): "where weights start, as those of every layer do",
    ("control/policies/reversible.py", "memory"): COST,
    ("control/policies/truncate.py", "memory"): COST,
    (
        "control/policies/forward.py",
        "max_tangents",
    ): "a refusal of what would be slow, as Forward.max_tangents",
    ("control/progress.py", "_LINES"): WORDS,
    ("plain_python/carried/holders.py", "of_array"): TRACING,
    ("plain_python/carried/reachable.py", "_MOST_PARTS"): TRACING,
    (
        "plain_python/carried/reachable.py",
        "made_by_python",
    ): "the bit of CPython's flags of a class",
    ("plain_python/carried/surroundings.py", ""): TRACING,
    ("plain_python/carried/surroundings.py", "remember"): TRACING,
    ("plain_python/staging/items.py", "unsigned"): "bits of a byte",
    ("plain_python/tracing/integers.py", "_PATIENCE"): TRACING,
    ("plain_python/tracing/integers.py", "_ROUNDS"): TRACING,
    ("plain_python/tracing/intervals.py", "rule"): TRACING,
    ("plain_python/tracing/known_intervals.py", "known_of"): TRACING,
    ("plain_python/runtime/statements.py", "_LONG"): WORDS,
    ("plain_python/tracing/integers.py", "_LOOKOUTS"): TRACING,
    ("plain_python/tracing/repeated.py", "_ENDS"): TRACING,
    ("plain_python/carried/structure.py", "describe"): WORDS,
    (
        "linear/choose.py",
        "LARGEST_DENSE",
    ): "the choice where none is named; naming a solver sets it",
    ("linear/choose.py", "_MAX_STEPS"): "the choice where none is named; naming a solver sets it",
    ("linear/choose.py", "tol"): "the choice where none is named; naming a solver sets it",
    ("linear/dense.py", "_ROUNDING"): ROUNDING,
    ("linear/matrices.py", "_POWER_STEPS"): JUDGE,
    ("linear/least_norm.py", "_ROUNDING"): ROUNDING,
    ("linear/least_norm.py", "_SWEEPS"): DIGITS,
    ("solver/interior_point.py", "_TOLERANCE"): DIGITS,
    ("solver/interior_point.py", "_CERTIFIED"): "what counts as a proof; `tol` judges solutions",
    ("solver/interior_point.py", "_ROUNDS"): DIGITS,
    ("solver/interior_point.py", "_REFINEMENTS"): DIGITS,
    ("solver/interior_point.py", "_SHIFT"): DIGITS,
    ("solver/interior_point.py", "_SWEEPS"): DIGITS,
    ("solver/interior_point.py", "_ROUNDING"): ROUNDING,
    ("linear/neumann.py", "_POWER_STEPS"): "finds a step where none is given; `step_size` sets it",
    ("linear/neumann.py", "_MARGIN"): "finds a step where none is given; `step_size` sets it",
    ("problems/cleaning.py", "L2"): ORACLE,
    ("problems/cleaning.py", "solve"): ANSWER,
    ("problems/few_shot.py", "AMPLITUDES"): ORACLE,
    ("problems/few_shot.py", "INPUTS"): ORACLE,
    ("problems/few_shot.py", "SIDE"): ORACLE,
    ("problems/few_shot.py", "TURNS"): ORACLE,
    ("problems/few_shot.py", "second_moment"): ORACLE,
    ("problems/few_shot.py", "unadapted_wave_mse"): ORACLE,
    (
        "problems/quadratic.py",
        "ATTEMPTS",
    ): "draws until the definition holds; a draw that holds is kept",
    ("problems/quadratic.py", "inner_examples"): ORACLE,
    ("problems/quadratic.py", "outer_examples"): ORACLE,
    ("problems/quadratic.py", "inner_size"): ORACLE,
    ("problems/quadratic.py", "outer_size"): ORACLE,
    ("problems/quadratic.py", "mu"): ORACLE,
    ("problems/quadratic.py", "largest_cross"): ORACLE,
    ("problems/regularisation.py", "x0"): ORACLE,
    ("problems/regularisation.py", "solver"): ANSWER,
    ("solver/accelerated.py", "weight"): "the recursion of FISTA, as its paper states it",
    ("solver/anderson.py", "ridge"): ROUNDING,
    ("solver/scipy_host.py", "_MANY"): "no limit: `max_steps` sets that of iterations",
    ("solver/scipy_host.py", "_RESOLVED"): ROUNDING,
    ("solver/scipy_host.py", "_EPS"): ROUNDING,
    ("solver/scipy_host.py", "step"): "the first simplex of scipy's Nelder-Mead",
    ("solver/wolfe.py", "_DECREASE"): LINE_SEARCH,
    ("solver/wolfe.py", "_FLATTER"): LINE_SEARCH,
    ("solver/wolfe.py", "_SHORTEST"): LINE_SEARCH,
    ("solver/wolfe.py", "_TRIALS"): LINE_SEARCH,
    ("solver/wolfe.py", "_ROUNDING"): ROUNDING,
    (
        "solver/quasi_newton.py",
        "_NEAR",
    ): "which metric an entry has on the way; the solution stays",
    ("solver/backtracking.py", "_MOST"): "ends a search that no step size can end",
    ("solver/backtracking.py", "_SHORTEST"): ROUNDING,
    ("tree.py", "unit"): ROUNDING,
}


class Literal(NamedTuple):
    """A number in the code."""

    file: str
    name: (
        str  # of the setting, the parameter or the module's constant; "" in the body of a function
    )
    owner: str  # the class or function that it stands in, or ""
    value: float
    line: int


def literals(source: str, file: str) -> Iterator[Literal]:
    """The numbers of a module that are no structure: neither small integers nor exponents."""
    yield from _walk(ast.parse(source), file, "", "")


def _walk(node: ast.AST, file: str, owner: str, name: str) -> Iterator[Literal]:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
            yield from _one(node, file, owner, name)
        return
    if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda)):
        inner = getattr(node, "name", owner)
        if not isinstance(node, ast.ClassDef):
            for parameter, default in _defaults(node.args):
                yield from _walk(default, file, inner, parameter)
        for child in node.body if isinstance(node.body, list) else [node.body]:
            yield from _walk(child, file, inner, "")
        return
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        yield from _walk(node.left, file, owner, name)  # exponents are structure
        return
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        name = next((t.id for t in targets if isinstance(t, ast.Name)), name)
        if node.value is not None:
            yield from _walk(node.value, file, owner, name)
        return
    if isinstance(node, ast.Subscript):
        yield from _walk(node.value, file, owner, name)  # indices, too
        return
    if isinstance(node, ast.Call) and _called(node) in COUNTS:
        return
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, file, owner, name)


def _called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def _one(node: ast.Constant, file: str, owner: str, name: str) -> Iterator[Literal]:
    value = float(node.value)
    if value != int(value) or abs(value) > SMALL:
        yield Literal(file, name, owner, value, node.lineno)


def _defaults(arguments: ast.arguments) -> Iterator[tuple[str, ast.expr]]:
    positional = [*arguments.posonlyargs, *arguments.args]
    yield from zip(
        [a.arg for a in positional[len(positional) - len(arguments.defaults) :]],
        arguments.defaults,
        strict=True,
    )
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if default is not None:
            yield argument.arg, default


def modules() -> Iterator[Path]:
    for room in ROOMS:
        path = ROOT / room
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def is_in_a_config(one: Literal) -> bool:
    """Whether it is the default of a setting that a config has."""
    classes = [cls for name in roles.FAMILIES for cls in roles.family(name).values()]
    classes += kinds.of_room("toolkit.credit", "project").values()  # a rule's `device`
    classes += kinds.of_room("toolkit.energy", "program").values()  # an experiment's `device`
    return any(c.__name__ == one.owner and one.name in kinds.field_types(c) for c in classes)


def key(one: Literal) -> tuple[str, str]:
    return one.file, one.name or one.owner


FOUND = [
    one
    for path in modules()
    for one in literals(path.read_text(), path.relative_to(ROOT).as_posix())
    if not is_in_a_config(one)
]


def test_every_number_is_in_a_config_or_has_a_reason():
    secret = [one for one in FOUND if key(one) not in ALLOWED]
    assert not secret, "make it a setting that a config has, or say in ALLOWED why not"


def test_no_reason_outlives_its_number():
    assert {key(one) for one in FOUND} >= set(ALLOWED)


@pytest.mark.parametrize(
    ("source", "numbers"),
    [
        ("def f(x, tol=1e-6): return x", [("tol", "f", 1e-6)]),
        ("def f(x, *, steps=20): return x", [("steps", "f", 20)]),
        ("class A:\n    rate: float = 0.3", [("rate", "A", 0.3)]),
        ("LIMIT = 50", [("LIMIT", "", 50)]),
        ("def f(x):\n    y = 0.9 * x\n    return y + 7", [("y", "f", 0.9), ("", "f", 7)]),
        ("f = lambda x, c=0.3: c * x", [("c", "", 0.3)]),
        ("def f(x): return lambda y: -3.5 * y", [("", "f", 3.5)]),
        ("g(x, tol=1e-5)", [("", "", 1e-5)]),
        ("def f(x): return 2 * x**3 - 1.0 + x[5] + split(key, 4) ** 0.5", []),
        ("def f(x, flag=True, name='0.3', none=None): return 0 * x", []),
    ],
)
def test_numbers_are_seen(source, numbers):
    assert [(one.name, one.owner, one.value) for one in literals(source, "a.py")] == numbers


def test_a_setting_that_no_kind_has_is_seen():
    source = "class CG:\n    tol: float = 1e-3\n    slack: float = 0.3"
    hidden = [one.name for one in literals(source, "linear/cg.py") if not is_in_a_config(one)]
    assert hidden == ["slack"]
