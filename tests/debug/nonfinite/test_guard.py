"""`tk.debug.guard`: the call, the line and the argument, whatever `every` is; no alarm without a fault."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import toolkit as tk
from tests.debug.nonfinite import guarded
from tests.debug.nonfinite.guarded import BUGS, HEALTHY, W


def failure(case, every, jitted=True, **jit):
    step = tk.debug.guard(jax.jit(case.step, **jit) if jitted else case.step, every)
    with pytest.raises(tk.debug.NonFiniteError) as caught:
        guarded.run(step, case)
        step.check()
    return caught.value


AT_EVERY_CALL = ("log", "state only", "optimizer", "non-finite batch")


@pytest.mark.parametrize(
    ("name", "every"), [*((name, 3) for name in BUGS), *((name, 1) for name in AT_EVERY_CALL)]
)
def test_bug_is_found(name, every):
    case = BUGS[name]

    error = failure(case, every)

    assert error.call == case.call
    assert case.operation in error.report.operation
    if case.operation == "input":
        assert error.report.file is None
    else:
        assert error.report.file == guarded.__file__
        assert error.report.line == guarded.line_of(name)
        assert error.report.source in str(error)
    if case.depends_on is not None:
        assert error.report.depends_on == case.depends_on
    assert f"call {case.call} of " in str(error)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_step_gives_no_alarm(name, every):
    case = HEALTHY[name]
    step = tk.debug.guard(jax.jit(case.step), every)

    guarded.run(step, case)
    step.check()


@pytest.mark.parametrize("every", [1, 4])
def test_donated_state_is_replayed(every):
    case = BUGS["key"]._replace(state={"key": jax.random.key(1), "w": W + 0})

    assert failure(case, every, donate_argnums=0).call == case.call


def test_step_that_is_not_jitted():
    assert failure(BUGS["log"], 2, jitted=False).report.line == guarded.line_of("log")


def test_overwritten_batch_is_replayed_as_it_was():
    buffer = np.ones(2)
    step = tk.debug.guard(jax.jit(guarded.batch_at_fault), every=4)
    w = W
    with pytest.raises(tk.debug.NonFiniteError) as caught:
        for t in range(4):
            buffer[:] = np.inf if t == 2 else 1.0
            w, _ = step(w, buffer)
            jax.block_until_ready(w)

    assert (caught.value.call, caught.value.report.depends_on) == (2, ("x",))


def test_values_are_those_of_the_step_to_the_bit():
    plain, watched = jax.jit(guarded.logs), tk.debug.guard(jax.jit(guarded.logs), every=2)
    one = other = W / 3
    for t in range(4):
        one, other = plain(one, t)[0], watched(other, t)[0]

    np.testing.assert_array_equal(one, other)


def test_step_is_traced_once_until_it_fails():
    traces = []

    def step(w, t):
        traces.append(t)
        return guarded.logs(w, t)

    watched = tk.debug.guard(jax.jit(step), every=2)
    w = W
    for t in range(4):
        w, _ = watched(w, float(t))

    assert len(traces) == 1


def test_state_that_the_caller_changes_between_calls():
    step = tk.debug.guard(jax.jit(guarded.logs), every=5)
    w = W
    with pytest.raises(tk.debug.NonFiniteError) as caught:
        for t in range(8):
            w, _ = step(w + 1.0 if t == 2 else w, float(t))
        step.check()

    assert caught.value.call == 5


def test_goes_on_after_a_failure():
    step = tk.debug.guard(jax.jit(guarded.logs), every=2)
    with pytest.raises(tk.debug.NonFiniteError):
        step(W, 9.0)
        step(W, 0.0)
    step(W, 0.0)
    with pytest.raises(tk.debug.NonFiniteError) as caught:
        step(W, 9.0)

    assert caught.value.call == 3


def test_keyword_arguments_are_named():
    step = tk.debug.guard(jax.jit(guarded.logs))
    with pytest.raises(tk.debug.NonFiniteError) as caught:
        step(t=9.0, w=W)

    assert caught.value.report.depends_on == ("t", "w")


def test_impure_step_is_said_to_be_so():
    calls = []

    def step(w):
        calls.append(0)
        return w / (0.0 if len(calls) == 1 else 1.0)

    with pytest.raises(
        tk.debug.NonFiniteError, match="must depend on its arguments alone"
    ) as caught:
        tk.debug.guard(step)(W)

    assert caught.value.report is None


def test_nan_is_an_alarm_where_an_infinity_was_at_the_start():
    step = tk.debug.guard(lambda s: guarded.State(s.w, s.best - s.best, s.count))
    with pytest.raises(tk.debug.NonFiniteError, match=r"NaN in result\.best"):
        step(guarded.State(W, jnp.inf, 0))


def test_all_bad_leaves_are_listed():
    step = tk.debug.guard(lambda s: {k: v / 0.0 for k, v in s.items()})
    with pytest.raises(tk.debug.NonFiniteError) as caught:
        step({name: jnp.array([0.0, 1.0]) for name in "abcdef"})

    first = str(caught.value).splitlines()[0]
    assert "NaN and infinity in result['a']" in first
    assert first.endswith("and 2 leaves more")


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.grad, "scan"])
def test_traced_call_is_refused(transform):
    step = tk.debug.guard(lambda w: jnp.sum(w))
    if transform == "scan":
        call = lambda w: lax.scan(lambda c, _: (step(c), None), w, length=2)
    else:
        call = transform(step)
    with pytest.raises(TypeError, match="guard the step outside jit"):
        call(W)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3,), "`step` must be a function: got 3"),
        ((jnp.sum, 0), "`every` must be a positive int: got 0"),
        ((jnp.sum, True), "`every` must be a positive int: got True"),
        ((jnp.sum, 2.0), "`every` must be a positive int: got 2.0"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        tk.debug.guard(*arguments)


def test_a_donated_keyword_is_replayed():
    """Its buffer is gone after the call: the replay works on a copy, and `explain` on the original."""
    step = jax.jit(lambda x, *, scale: jnp.log(x) * scale, donate_argnames="scale")
    guarded = tk.debug.guard(step)
    with pytest.raises(tk.debug.NonFiniteError, match="log"):
        guarded(jnp.asarray([1.0, -1.0]), scale=jnp.asarray([2.0, 3.0]))
