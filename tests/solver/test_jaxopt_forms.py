"""Calls in jaxopt's way: each is answered, in one line, with the call of ours."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import toolkit as tk

Y0, THETA, DATA = np.zeros(2), 1.0, np.ones((5, 2))
LBFGS = tk.solver.LBFGS(9, 1e-5)


def two(y: Any, theta: Any) -> Any:
    return y @ y


def three(y: Any, theta: Any, data: Any) -> Any:
    return y @ y


SOLVE, WITH_DATA = tk.argmin(two, LBFGS), r"solve\(y0, \(theta, data\)\)"
OURS = r"tk\.argmin\(fun, tk\.solver\.LBFGS\(\.\.\.\)\)"
DESCENT = tk.solver.GradientDescent(0.1, 5)
FORMS: dict[str, tuple[Callable, type[Exception], str]] = {
    "data": (lambda: SOLVE(Y0, THETA, DATA), ValueError, r"got float64\[5,2\].*" + WITH_DATA),
    "data_of_three": (lambda: tk.argmin(three, LBFGS)(Y0, THETA, DATA), ValueError, WITH_DATA),
    "data_of_as_many": (lambda: tk.argmin(three, DESCENT)(Y0, THETA, DATA), ValueError, WITH_DATA),
    "data_by_name": (lambda: SOLVE(Y0, THETA, data=DATA), TypeError, "got data.*" + WITH_DATA),
    "run": (lambda: LBFGS.run(Y0), AttributeError, "`run`.*" + OURS),
    "update": (lambda: LBFGS.update(Y0), AttributeError, "`update`.*" + OURS),
    "init_state": (lambda: LBFGS.init_state(Y0), AttributeError, "`init_state`.*" + OURS),
    "constructor": (
        lambda: tk.solver.LBFGS(fun=two, maxiter=9),
        TypeError,
        r"takes max_steps, tol.*: got fun, maxiter \(here max_steps\).*" + OURS,
    ),
    "fixed_point": (
        lambda: tk.solver.Anderson(fixed_point_fun=two, maxiter=9, tol=1e-3),
        TypeError,
        r"tk\.fixed_point\(fun, tk\.solver\.Anderson\(\.\.\.\)\)",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_of_jaxopt_is_answered(name: str) -> None:
    call, error, match = FORMS[name]
    with pytest.raises(error, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", [n for n in tk.solver.__all__ if isinstance(getattr(tk.solver, n), type)]
)
def test_every_solver_answers(name: str) -> None:
    cls = getattr(tk.solver, name)
    with pytest.raises(TypeError, match=rf"{name} takes \w+.*got maxiter.*tk\.solver\.{name}"):
        cls(maxiter=3)


def test_solvers_are_settings_as_before() -> None:
    assert copy.deepcopy(LBFGS) == LBFGS == pickle.loads(pickle.dumps(LBFGS))
    assert not hasattr(LBFGS, "run")
    with pytest.raises(AttributeError, match="no attribute 'foo'"):
        _ = LBFGS.foo
