"""The programs of docs/devices.md run, one after the other as a reader would type them; every rule is in its table."""

from __future__ import annotations

import re

import jax

from tests.devices.scaling import COLUMNS, KINDS, MARKS, PAGE

TEXT = PAGE.read_text()


def test_the_programs_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict = {}
    with jax.enable_x64(False):  # as a reader's session has it
        for number, block in enumerate(blocks):
            exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
    assert len(blocks) == 10
    x, z, theta = (names[name] for name in ("x", "z", "theta"))
    # The average of the problems of eight devices is that of eight problems on one.
    with jax.enable_x64(False):
        own = jax.vmap(lambda x, z: names["own_gradient"](theta, x, z))(
            x.reshape(8, 8, 3), z.reshape(8, 8)
        )
        assert jax.numpy.allclose(names["average"], own.mean(0), rtol=1e-4)


def test_every_rule_is_in_the_table() -> None:
    table = TEXT.partition(MARKS[0])[2].partition(MARKS[1])[0]
    rows = [line.strip("|").split(" | ") for line in table.splitlines()[2:]]  # heads and a rule
    found = [[cell.strip() for cell in row] for row in rows if "**" not in row[0]]
    assert [row[0] for row in found] == [name for rules in KINDS.values() for name in rules]
    assert {len(row) for row in found} == {1 + len(COLUMNS)}
    assert all(float(cell) < 1e-12 for row in found for cell in row[1:])
