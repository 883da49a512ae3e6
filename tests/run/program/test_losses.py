"""`toolkit check` names the inputs of an experiment's own losses that cannot learn."""

import pytest

EXPERIMENT = '''"""Two hyperparameters, one of which reaches the outer loss through an integer only."""

import jax
import jax.numpy as jnp

import toolkit as tk
from toolkit import run


class Config(run.Settings):
    rounded: bool = True
    wrong: str = ""


def build(config):
    def inner(y, theta):
        degree = theta["degree"].astype(int) if config.rounded else theta["degree"]
        return jnp.sum((y - theta["weight"] * degree) ** 2)

    def outer(y, theta):
        return jnp.sum((y - 1) ** 2)

    solve = tk.argmin(inner, tk.solver.GradientDescent(0.1, 5))

    def init(key):
        return {"y": jnp.zeros(3), "theta": {"degree": 1.5, "weight": jnp.ones(3), "count": 3}}

    def step(state):
        return state, {"loss": inner(state["y"], state["theta"])}

    def differentiated(state):
        if config.wrong == "dict":
            return [inner]
        if config.wrong == "loss":
            return {"inner": inner}
        hyper = lambda y, theta: outer(solve(y, theta).value, theta)
        if config.wrong == "call":
            hyper = lambda y, theta: outer(theta)
        at = (state["y"], state["theta"])
        return {"inner": run.Loss(inner, at), "hyper": run.Loss(hyper, at, argnums=1)}

    return run.Program(init, step, lambda state: run.Final({}, {}), differentiated)
'''
LINE = EXPERIMENT.splitlines().index(next(x for x in EXPERIMENT.splitlines() if "astype" in x)) + 1


@pytest.fixture
def bilevel(work):
    (work / "experiments/bilevel.py").write_text(EXPERIMENT)
    (work / "bilevel.yaml").write_text(
        "experiment: bilevel\nsteps: 5\nlog_every: 1\ncheckpoint_every: 5\n"
    )


def test_a_hyperparameter_behind_an_integer_is_named(toolkit, bilevel):
    code, out, err = toolkit("check", "bilevel.yaml")
    assert code == 0
    assert len(err) == 1  # the integer leaf `count` is carried, which is no cause for alarm
    assert err[0].startswith(
        "warning: experiments/bilevel.py: losses: hyper: theta['degree']: the gradient is always zero"
    )
    assert f" inside the loop, at experiments/bilevel.py:{LINE}: degree = " in err[0]
    assert "# inputs without gradient in the losses inner, hyper: 1" in out
    assert out[-1].startswith("# ok: experiments/bilevel.py, state of 4 arrays with 8 numbers")


def test_no_alarm_where_all_learn(toolkit, bilevel):
    code, out, err = toolkit("check", "bilevel.yaml", "rounded=false")
    assert (code, err) == (0, [])
    assert "# inputs without gradient in the losses inner, hyper: none" in out


def test_programs_need_no_losses(toolkit):
    code, out, err = toolkit("check", "toy.yaml")
    assert (code, err) == (0, [])
    assert not any("without gradient" in line for line in out)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ("dict", "losses: wrong type, got list, expected a dict of toolkit.run.Loss"),
        ("loss", "losses: inner: wrong type, got function, expected toolkit.run.Loss"),
        ("call", "losses: hyper failed, got TypeError"),
    ],
)
def test_bad_losses_are_one_line(toolkit, bilevel, wrong, complaint):
    code, _, err = toolkit("check", "bilevel.yaml", f"wrong={wrong}")
    assert (code, len(err)) == (2, 1)
    assert complaint in err[0]
