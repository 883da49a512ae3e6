"""Many steps in one call: the cuts meet every row and checkpoint, and no bit depends on them."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toolkit.run.drive import chunks
from toolkit.run.experiment.common import Settings
from toolkit.run.experiment.interface import Final, Program
from toolkit.run.program import compiled
from toolkit.run.program.data import driven
from toolkit.run.program.seeds_on_cores import compile_program

SOURCE = Path("experiments/x.py")


def settings(log, save, gradients=0, steps=1000):
    words = {"experiment": "x", "steps": steps, "log_every": log, "checkpoint_every": save}
    return Settings(**words, diagnostics={"gradients_every": gradients})


@pytest.mark.parametrize(
    ("done", "most", "rules", "expected"),
    [  # expected: rows, steps a row, whether it reports gradients
        (0, 1, (10, 100), (1, 1, False)),  # nothing is known of the time
        (0, 64, (10, 100), (6, 10, False)),
        (0, 9999, (10, 100), (8, 10, False)),  # of the 8 rows that fit into a call
        (0, 9999, (10, 25), (2, 10, False)),
        (20, 9999, (10, 25), (1, 5, False)),  # the checkpoint is no row
        (25, 9999, (10, 50), (1, 5, False)),
        (3, 4, (10, 100), (1, 4, False)),
        (995, 9999, (100, 10000), (1, 5, False)),  # the end
        (0, 9999, (5, 100, 7), (1, 5, False)),
        (5, 9999, (5, 100, 7), (1, 1, False)),
        (6, 9999, (5, 100, 7), (1, 1, True)),
        (999, 9999, (5, 100, 7), (1, 1, True)),  # the last step reports, too
    ],
)
def test_a_call_ends_at_the_next_stop(done, most, rules, expected):
    found = chunks.following(done, 1000, settings(*rules), most, 8)
    assert (found.start, *found[1:]) == (done, *expected)


@pytest.mark.parametrize(
    "rules", [(1, 1), (3, 7), (10, 25), (100, 10), (7, 1000), (3, 7, 5), (1, 9, 1)]
)
@pytest.mark.parametrize("most", [1, 2, 3, 50, 10**6])
def test_no_row_checkpoint_or_report_is_left_out(rules, most):
    rule, done, ends, reporting = settings(*rules, steps=211), 0, [], []
    while done < 211:
        call = chunks.following(done, 211, rule, most, 8)
        assert call.rows * call.every <= max(most, 1)
        ends += [done + (row + 1) * call.every for row in range(call.rows)]
        reporting += [call.end] if call.reports else []
        done = call.end
    due = {n for n in range(1, 212) if n % rules[0] == 0 or n % rules[1] == 0} | {211}
    due |= {n for n in range(1, 212) if chunks.reports(rule, n)}
    assert due <= set(ends)
    assert reporting == [n for n in range(1, 212) if chunks.reports(rule, n)]


def test_a_call_takes_a_tenth_of_a_second():
    stride = chunks.Stride(None)
    assert stride.measured(1, called=5.0, ended=5.001) == 5.0
    assert stride.steps == 8  # 100 would fit, by the first step alone
    assert stride.measured(8, called=5.0, ended=5.009) == 5.001  # it waited for the one before
    assert stride.steps == 64
    stride.measured(64, called=6.0, ended=16.0)
    assert stride.steps == 1
    one = chunks.Stride(1)
    one.measured(1, called=0.0, ended=1e-6)
    assert one.steps == 1


def descent(conv=False, scanned=False):
    def init(key):
        return {"key": key, "w": jnp.ones((1, 8, 8, 1)), "count": 0, "bad": jnp.zeros(2)}

    def blurred(w):
        kernel = jnp.full((3, 3, 1, 1), 0.1)
        return jax.lax.conv_general_dilated(
            w, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def step(state):
        key, noise = jax.random.split(state["key"])
        w = state["w"] + 0.1 * jax.random.normal(noise, state["w"].shape)
        if conv and scanned:
            w = jax.lax.fori_loop(0, 2, lambda _, w: blurred(w), w)
        elif conv:
            w = jax.jit(blurred)(w)
        bad = jnp.stack([jnp.log(5.0 - state["count"]), jnp.sqrt(8.0 - state["count"])])
        following = {"key": key, "w": jnp.tanh(w), "count": state["count"] + 1, "bad": bad}
        return following, {"norm": jnp.linalg.norm(w), "count": state["count"], "half": 0.5}

    return Program(init, step, lambda state: Final({}, {}))


def made(program):
    return compile_program(compiled.trace(driven(program, SOURCE), 0, SOURCE), SOURCE)


def after(program, cuts):
    """Bits of the state after these calls, and of the rows."""
    state, rows = program.init(), []
    for count, every in cuts:
        done = program.advance(state, np.int32(count), np.int32(every))
        assert state["w"].is_deleted()  # no second copy
        state = done.state
        tables = (*done.values.values(), done.found)
        rows += zip(*(np.asarray(table)[:count].tolist() for table in tables), strict=True)
    plain = {**state, "key": jax.random.key_data(state["key"])}
    return {name: np.asarray(leaf).tobytes() for name, leaf in plain.items()}, rows


def test_the_cuts_change_no_bit():
    program = made(descent())
    state, rows = after(program, [(1, 1)] * 12)
    for cuts in ([(12, 1)], [(1, 12)], [(3, 4)], [(1, 5), (2, 3), (1, 1)], [(7, 1), (1, 5)]):
        again, fewer = after(program, cuts)
        assert again == state
        ends = np.cumsum([every for count, every in cuts for _ in range(count)])
        assert repr(fewer) == repr([rows[end - 1] for end in ends])  # NaN equals NaN
    kinds = [row[-1][0] for row in rows]  # of the leaf `bad`, before `w`
    assert kinds == [[False, False]] * 5 + [[False, True]] + [[True, False]] * 6


@pytest.mark.parametrize(
    ("conv", "scanned", "most"), [(False, False, None), (True, False, 1), (True, True, None)]
)
def test_convolutions_stay_outside_of_loops(conv, scanned, most):
    program = made(descent(conv, scanned))
    assert program.most == most
    assert len(after(program, [(1, 1)] * 3)[1]) == 3


HEAVY = [
    "flax",
    "matplotlib",
    "optax",
    "orbax",
    "pandas",
    "pydantic",
    "rich",
    "safetensors",
    "scipy",
    "sklearn",
    "yaml",
]


@pytest.mark.parametrize(
    ("line", "absent"),
    [
        ("import toolkit", ["jax", "numpy", *HEAVY]),
        ("import toolkit; toolkit.argmin", [name for name in HEAVY if name != "optax"]),
        ("import toolkit.run", ["jax", "optax", "flax", "matplotlib", "sklearn"]),
    ],
)
def test_an_import_loads_nothing_heavy(line, absent):
    program = f"import sys; {line}; print(*[name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")
