"""The judge of the tables next door: what is expected and does not come fails a row."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

import toolkit as tk
from tests.laws.adversarial.calls import Flagged, Refused, Right, Row, check, each
from toolkit.types import Status


def solved(status: Status, value: float = 1.0) -> tk.Solution:
    return tk.Solution(jnp.asarray(value), tk.SolveInfo(status, 1, 0.0))


def raises(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (lambda: solved(Status.CONVERGED), Right(2.0)),
        (lambda: solved(Status.STEP_LIMIT), Right(1.0)),
        (lambda: solved(Status.CONVERGED), Flagged(Status.STEP_LIMIT)),
        (lambda: solved(Status.NOT_FINITE), Flagged(Status.NOT_FINITE, nan=True)),
        (lambda: raises(ValueError("`a`\nis bad")), Refused("`a`")),
    ],
    ids=["other_value", "flag_beside_it", "no_flag", "finite", "two_lines"],
)
def test_a_row_can_fail(program, expected) -> None:
    with pytest.raises(AssertionError):
        check(Row("row", program, expected))


def test_no_error_and_another_error_fail_too() -> None:
    with pytest.raises(pytest.fail.Exception):
        check(Row("row", lambda: None, Refused("`a`")))
    with pytest.raises(TypeError):
        check(Row("row", lambda: raises(TypeError("`a`")), Refused("`a`")))


def test_two_rows_of_one_name_are_refused() -> None:
    row = Row("row", lambda: None, Right(1.0))
    with pytest.raises(AssertionError, match="bear one name"):
        each([row, row])
