"""The tools that judge a derivative: what they refuse."""

from __future__ import annotations

import numpy as np

import toolkit as tk
from tests.laws.adversarial.calls import (
    DESCENT,
    INF,
    THETA,
    Y0,
    Refused,
    Row,
    check,
    each,
    quadratic,
    square,
)
from toolkit.adjoint import Implicit

SOLVE = tk.argmin(quadratic, DESCENT)

TOOLS = [
    Row(
        "check_of_no_directions",
        lambda: tk.check_hypergradient(square, SOLVE, Y0, THETA, directions=0),
        Refused("`directions` must be a positive int: got 0"),
    ),
    Row(
        "check_to_infinity",
        lambda: tk.check_hypergradient(square, SOLVE, Y0, THETA, INF),
        Refused(r"`rtol` must be a number in \[0, 1\): got inf"),
    ),
    Row(
        "check_of_nothing",
        lambda: tk.check_hypergradient(square, SOLVE, Y0, np.zeros(0)),
        Refused(r"`theta` must have an entry to vary: got float64\[0\]"),
    ),
    Row(
        "comparison_of_none",
        lambda: tk.compare_adjoints(quadratic, square, DESCENT, Y0, THETA, {}),
        Refused(r"`adjoints` must be a dict of rules by name, .*got \{\}"),
    ),
    Row(
        "comparison_of_a_list",
        lambda: tk.compare_adjoints(quadratic, square, DESCENT, Y0, THETA, [Implicit()]),
        Refused(r"`adjoints` must be a dict of rules by name, .*got \[Implicit"),
    ),
    Row(
        "hypergradient_of_a_solver",
        lambda: tk.hypergradient(square, DESCENT),
        Refused(r"`solve` must come from tk\.argmin, .*got GradientDescent", TypeError),
    ),
    Row(
        "hypergradient_of_a_string",
        lambda: tk.hypergradient("loss", SOLVE),
        Refused("`outer` must be callable: got str", TypeError),
    ),
]


@each(TOOLS)
def test_arguments_are_refused_by_name(row: Row) -> None:
    check(row)
