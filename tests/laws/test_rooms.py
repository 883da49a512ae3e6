"""No rule without its laws: the rooms are enumerated, and each rule in them must be in a table of laws.

Who adds a file to a room and no row to a table is told here, by name, where the row belongs.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import toolkit.adjoint
import toolkit.bilevel.methods
import toolkit.credit
import toolkit.estimator
import toolkit.linear
import toolkit.solver
from tests.bilevel.methods import test_formulas, test_methods
from tests.estimator import test_windows
from tests.laws import test_credit_rules, test_estimators, test_solve_rules
from tests.linear import test_linear_solvers, test_nystrom, test_preconditioners
from tests.solver import test_argmin_solvers, test_bisection, test_equation_solvers


class Room(NamedTuple):
    """Where rules of one role live, and the tables whose laws each must obey."""

    package: ModuleType
    member: str  # what a class of this role has
    listed: Callable[[], Iterable[Any]]  # instances, or constructors' names
    table: str  # where to add a row


def _bilevel_methods() -> list[Any]:
    return [method.make() for method in test_methods.METHODS.values()] + [
        settings for settings, _ in test_formulas.CASES.values()
    ]


ROOMS = {
    "adjoint": Room(
        toolkit.adjoint,
        "differentiable",
        lambda: (
            [rule.adjoint for rule in test_solve_rules.RULES.values()]
            + [*test_solve_rules.VALUE_RULES.values()]
        ),
        "RULES of tests/laws/test_solve_rules.py",
    ),
    "solver": Room(
        toolkit.solver,
        "bind",
        lambda: (
            [*test_argmin_solvers.SOLVERS.values()]
            + [*test_equation_solvers.FIXED_POINT.values()]
            + [test_bisection.SOLVER]
        ),
        "SOLVERS of tests/solver/test_argmin_solvers.py, or FIXED_POINT of test_equation_solvers.py",
    ),
    "linear solver": Room(
        toolkit.linear,
        "__call__",
        lambda: [*test_linear_solvers.SYMMETRIC.values()] + [*test_nystrom.LOW_RANK.values()],
        "SYMMETRIC of tests/linear/test_linear_solvers.py",
    ),
    "preconditioner": Room(
        toolkit.linear,
        "approximate_inverse",
        lambda: [inverse for inverse, _ in test_preconditioners.PRECONDITIONERS.values()],
        "PRECONDITIONERS of tests/linear/test_preconditioners.py",
    ),
    "estimator": Room(
        toolkit.estimator,
        "__call__",
        lambda: [rule.make(1) for rule in test_estimators.RULES.values()] + [*test_windows.RULES],
        "RULES of tests/laws/test_estimators.py, or of tests/estimator/test_windows.py",
    ),
    "learning rule": Room(
        toolkit.credit,
        "predict",
        lambda: [row.rule for row in test_credit_rules.RULES.values()],
        "RULES of tests/laws/test_credit_rules.py",
    ),
    "bilevel method": Room(
        toolkit.bilevel.methods,
        "__call__",
        _bilevel_methods,
        "METHODS of tests/bilevel/methods/test_methods.py",
    ),
}
rooms = pytest.mark.parametrize("name", ROOMS)


def classes_in(room: Room) -> set[type]:
    """The public classes of the room's files that have its member; roles themselves do not count."""
    found = set()
    for module in pkgutil.walk_packages(room.package.__path__, room.package.__name__ + "."):
        for name, value in vars(importlib.import_module(module.name)).items():
            here = inspect.isclass(value) and value.__module__ == module.name
            is_role = getattr(value, "_is_protocol", False)
            if here and room.member in vars(value) and not (is_role or name.startswith("_")):
                found.add(value)
    return found


def require_listed(room: Room) -> None:
    """Refuse a class of the room that no table of laws has."""
    listed = {type(rule) for rule in room.listed()}
    for unlisted in sorted(cls.__name__ for cls in classes_in(room) - listed):
        raise AssertionError(f"{unlisted} obeys no law yet: add a row to {room.table}")


@rooms
def test_every_rule_of_a_room_is_in_a_table_of_laws(name: str) -> None:
    assert len(classes_in(ROOMS[name])) >= 2  # the enumeration sees something
    require_listed(ROOMS[name])


@rooms
def test_every_rule_of_a_room_is_public(name: str) -> None:
    package = ROOMS[name].package
    face = toolkit.bilevel if name == "bilevel method" else package
    assert {cls.__name__ for cls in classes_in(ROOMS[name])} <= set(face.__all__)


def test_a_constructor_of_a_method_is_in_a_table_of_laws() -> None:
    """`AID` and others are functions that make settings: known by name."""
    named = {*test_methods.METHODS, *test_formulas.CASES}
    made_here = [
        name
        for name in toolkit.bilevel.__all__
        if getattr(toolkit.bilevel, name).__module__.startswith("toolkit.bilevel.methods.")
    ]
    assert len(made_here) > 15
    assert [name for name in made_here if name not in named] == []


@rooms
def test_a_new_file_without_a_row_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above have power: a file that somebody adds to the room makes them fail."""
    room = ROOMS[name]
    (tmp_path / "newcomer.py").write_text(
        f"class Newcomer:\n    def {room.member}(self, *args):\n        ...\n"
    )
    monkeypatch.setattr(room.package, "__path__", [*room.package.__path__, str(tmp_path)])
    monkeypatch.delitem(
        sys.modules, f"{room.package.__name__}.newcomer", raising=False
    )  # of another room's turn
    try:
        with pytest.raises(AssertionError, match=r"^Newcomer obeys no law yet: add a row to "):
            require_listed(room)
        with pytest.raises(AssertionError):
            test_every_rule_of_a_room_is_public(name)
    finally:
        sys.modules.pop(f"{room.package.__name__}.newcomer", None)
        vars(room.package).pop("newcomer", None)
