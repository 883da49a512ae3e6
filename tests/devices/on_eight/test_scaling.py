"""1, 2, 4 and 8 devices give the gradient of one, by every rule; rows that do not divide included."""

from __future__ import annotations

import jax
import pytest

from tests.bilevel.methods.test_methods import COMPILE_LONG
from tests.devices.scaling import KINDS, class_of, difference

EVERY = [(kind, name) for kind, rules in KINDS.items() for name in rules]
# Every day the first row of each class, as the others run the same code; of the methods that compile long, none.
FIRST = {class_of(*row): row for row in reversed(EVERY)}.values()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(
            *row, marks=[] if row in FIRST and row[1] not in COMPILE_LONG else pytest.mark.slow
        )
        for row in EVERY
    ],
)
def test_eight_devices_give_the_gradient_of_one(kind: str, name: str) -> None:
    assert difference(kind, name, 8, 63) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_any_number_of_devices_and_rows(kind: str, name: str) -> None:
    for devices, rows in ((2, 63), (4, 63), (8, 64)):
        assert difference(kind, name, devices, rows) < 1e-12, (devices, rows)
    jax.clear_caches()
