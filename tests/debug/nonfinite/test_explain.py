"""`tk.debug.explain` against planted bugs: the line, the operation, the iteration, the argument."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import toolkit as tk
from tests.debug.nonfinite.planted import healthy, loops, slopes, solves, straight
from tests.debug.nonfinite.planted.bug import PARAMS, line_of
from toolkit.debug import explain
from toolkit.debug.nonfinite import interpret

BUGS = {
    name: (module, bug)
    for module in (straight, slopes, loops, solves)
    for name, bug in module.BUGS.items()
}


@pytest.mark.parametrize("name", BUGS)
def test_bug_is_found(name):
    module, bug = BUGS[name]

    report = explain(bug.fn, *bug.args)

    assert report is not None
    assert report.file == module.__file__
    assert report.line == line_of(module, bug.line or name)
    assert bug.operation in report.operation
    assert report.phase == bug.phase
    assert report.iterations == bug.iterations
    if bug.depends_on is not None:
        assert report.depends_on == bug.depends_on
    assert bug.says in (report.suggestion or "")
    assert report.source in str(report)
    assert len(str(report).splitlines()) <= 15
    assert report.note == ""


@pytest.mark.parametrize("name", healthy.HEALTHY)
def test_healthy_program_gives_no_alarm(name):
    fn, args = healthy.HEALTHY[name]

    assert explain(fn, *args) is None


@pytest.mark.parametrize("name", loops.POLICIES)
def test_loop_policy_shows_the_users_line(name):
    policy, iterations = loops.POLICIES[name]

    report = explain(loops.policy_loop(policy), 1.0, loops.XS)

    assert (report.line, report.iterations) == (line_of(loops, "tk.loop"), iterations)
    assert report.phase == "derivative"


def test_implicit_hypergradient_names_the_inner_objective():
    solve = solves.hyper(tk.adjoint.Implicit())

    report = explain(jax.grad(solve), {"shift": jnp.array(-0.5)})

    assert report.line == line_of(solves, "inner objective")
    assert report.depends_on == ("theta['shift']",)


def test_shard_map_is_looked_into():
    report = explain(solves.over_devices, jnp.array([0.0, 1.0]))

    assert (report.operation, report.line) == ("log", line_of(solves, "shard_map"))
    assert "shard_map" in report.note


def test_non_finite_input_is_named():
    params = {"w": jnp.ones(2), "b": jnp.array([0.0, jnp.nan])}

    report = explain(
        jax.grad(lambda params, x: jnp.sum(params["w"] * x + params["b"] ** 2)), params, 1.0
    )

    assert report.operation == "input"
    assert report.depends_on == ("params['b']",)
    assert (report.file, report.operands[0].nan) == (None, 1)


def test_infinite_input_is_named_but_a_mask_is_not():
    total = lambda x, mask: jnp.sum(jnp.exp(x + mask - jnp.max(x + mask)))
    mask = jnp.full(2, -jnp.inf)

    assert explain(total, jnp.array([1.0, jnp.inf]), jnp.zeros(2)).operation == "input"
    assert "sub" in explain(total, jnp.ones(2), mask).operation


def test_masked_faults_are_listed():
    report = explain(
        *straight.BUGS["beside a masked fault"][:1], *straight.BUGS["beside a masked fault"].args
    )

    assert [(masked.operation, masked.line) for masked in report.masked] == [
        ("log", report.line - 1)
    ]
    assert "without effect: log at" in str(report)


def test_operand_says_range_and_counts():
    report = explain(lambda x: jnp.log(x), jnp.array([-2.0, 0.0, 3.0], jnp.float32))

    operand = report.operands[0]
    assert operand == ((3,), "float32", -2.0, 3.0, 0, 0, 1, 1)
    assert str(operand) == "float32[3] in [-2, 3], 1 zero, 1 negative"


def test_first_of_several_outputs_is_told_from_the_others():
    def fn(x):
        return {"good": x, "bad": jnp.log(x - 1.0), "worse": jnp.sqrt(x - 2.0)}

    report = explain(fn, 0.5)

    assert report.operation == "log"
    assert report.outputs == ("result['bad']", "result['worse']")


def test_infinite_constant_that_is_returned():
    report = explain(lambda x: {"x": x, "bound": jnp.inf}, 1.0)

    assert (report.operation, report.outputs) == ("constant", ("result['bound']",))
    assert report.note == ""


def test_debug_print_runs_once(capfd):
    explain(solves.printing, jnp.array(0.0))
    jax.effects_barrier()

    assert capfd.readouterr().out.count("x = ") == 1


def test_debug_print_in_a_loop_runs_once_a_step(capfd):
    def fn(x):
        def body(x, t):
            jax.debug.print("t = {t}", t=t)
            return x + jnp.log(2.0 - t), None

        return lax.scan(body, x, jnp.arange(4.0))[0]

    assert explain(fn, 1.0).iterations == (("scan", 2),)
    jax.effects_barrier()
    assert capfd.readouterr().out.count("t = ") == 4


def test_long_loop_runs_compiled_to_the_bad_iteration():
    def fn(x):
        return lax.scan(
            lambda x, t: (x + 0 * jnp.sqrt(150_000.0 - t), None), x, jnp.arange(200_000.0)
        )[0]

    started = time.monotonic()
    report = explain(fn, 1.0)

    assert report.iterations == (("scan", 150_001),)
    assert time.monotonic() - started < 20  # equation by equation it would be minutes


def test_nan_that_moves_through_the_carry_is_traced_back():
    def fn(x):
        def body(window, t):
            new = jnp.sqrt(4.5 - t)
            return jnp.roll(window, 1).at[0].set(jnp.where(t == 5, new, 1.0)), window[-1]

        return lax.scan(body, x, jnp.arange(12.0))[1]

    report = explain(fn, jnp.ones(3))

    assert (report.operation, report.iterations) == ("sqrt", (("scan", 5),))


def test_float32_without_x64():
    with jax.enable_x64(False):
        report = explain(lambda x: jnp.exp(x), jnp.float32(100.0))

    assert (report.operation, report.operands[0].dtype) == ("exp", "float32")


def test_float64_made_inside_a_float32_program():
    def fn(x):
        with jax.enable_x64(True):
            steps = jnp.arange(4)  # int64

            def body(c, i):
                return c + jnp.log(2.5 - i), None

            wide = lax.scan(body, x.astype(jnp.float64) * 2.0, steps)[0]
            return wide.astype(jnp.float32)

    with jax.enable_x64(False):
        report = explain(fn, jnp.float32(1.0))

    assert (report.operation, report.iterations, report.note) == ("log", (("scan", 3),), "")
    assert report.operands[0].dtype == "float64"


def test_nan_that_a_rule_writes_on_purpose_is_said_to_be_one():
    inner = lambda y, theta: jnp.sum((y - theta) ** 4)
    solver = tk.solver.GradientDescent(30.0, 5, momentum=0.9)
    solve = tk.argmin(inner, solver, adjoint=tk.adjoint.Reversible())
    loss = lambda theta: jnp.sum(solve(jnp.zeros(3), theta).value ** 2)

    with jax.enable_x64(False):
        report = explain(jax.grad(loss), jnp.ones(3))

    assert (report.operation, report.note) == ("constant", "")
    assert "solve(jnp.zeros(3), theta)" in report.source
    assert "reversible/rule.py" in report.inside
    assert "in place of a wrong number" in report.suggestion


def test_fault_of_the_compiled_computation_alone(monkeypatch):
    # A replay that sees no fault, as where XLA's fusion made it.
    monkeypatch.setattr(
        "toolkit.debug.nonfinite.origins.attribute", lambda *args: [{} for _ in args[3]]
    )

    report = explain(jax.jit(lambda x: jnp.sum(jnp.log(x) * 2)), jnp.array([0.0, 1.0]))

    assert report.operation == "log"
    assert "fuses" in report.note


def test_failure_of_the_replay_falls_back_to_checkify(monkeypatch):
    def fail(*args):
        raise NotImplementedError("a primitive from elsewhere")

    monkeypatch.setattr(interpret, "evaluate_equation", fail)

    report = explain(straight.fractional_power, PARAMS)

    assert report.operation == "power (pow)"
    assert report.line == line_of(straight, "power of a negative number")
    assert "a primitive from elsewhere" in report.note
    assert "checkify" in str(report)


def test_numpy_and_static_arguments():
    report = explain(
        lambda x, kind, *rest: getattr(jnp, kind)(x - rest[0]), np.float32(1), "log", 3.0
    )

    assert report.depends_on == ("rest[0]", "x")


def test_refusals_name_the_argument():
    with pytest.raises(TypeError, match=r"`fn` must be a function: got 3"):
        explain(3)
    with pytest.raises(TypeError, match=r"`args` must be concrete: got a traced value"):
        jax.jit(lambda x: explain(jnp.log, x))(1.0)
