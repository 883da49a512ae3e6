"""A run that stops being finite: at which step, what is kept, and which line it blames, also in a new process."""

import json

import pytest

from tests.run.conftest import EXPERIMENT, rows, spawn

PLANTED = {
    # what is put in place of what, then: the step, the leaves, words of the line that is blamed
    "a metric": ((), 12, {"loss"}, "jnp.where(state.count + 1 == config.nan_at"),
    "the state between two rows": (
        (("gradient = 2 *", "gradient = jnp.sqrt(5.5 - state.count) * 2 *"),),
        7,
        {"state/w", "loss", "norm"},
        "gradient = jnp.sqrt(5.5 - state.count)",
    ),
    "a state that no metric shows": (
        (("state.half + 1,", "state.half + jnp.log(7.5 - state.count).astype(jnp.bfloat16),"),),
        9,
        {"state/half"},
        "jnp.log(7.5 - state.count)",
    ),
    "an overflow": (
        (("state.half + 1,", "(state.half + 1) * 1e9,"),),
        5,
        {"state/half"},
        "(state.half + 1) * 1e9",
    ),
    "a loss that overflows first": (
        (("w = state.w - config.rate", "w = state.w * 1e70 - config.rate"),),
        4,
        {"loss", "norm"},
        "jnp.sum((w - 1) ** 2)",
    ),
}


def plant(work, changes):
    text = EXPERIMENT
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    (work / "experiments/toy.py").write_text(text)


@pytest.mark.parametrize("name", PLANTED)
def test_the_line_is_named(toolkit, work, name):
    changes, step, leaves, source = PLANTED[name]
    plant(work, changes)
    nan_at = 12 if name == "a metric" else -1

    code, out, err = toolkit("run", "toy.yaml", f"nan_at={nan_at}", "--out", "x")

    assert (code, len(err)) == (6, 1)
    record = json.loads((work / "x/run.json").read_text())["nonfinite"]
    assert set(record["leaves"]) <= leaves
    assert f"not finite, got {next(iter(record['leaves'].values()))}, " in err[0]
    assert err[0].endswith("finite numbers; `toolkit explain x` says which line made it")
    text = record["explanation"]
    lines = EXPERIMENT.splitlines() if not changes else _lines(work)
    number = next(i for i, line in enumerate(lines, 1) if source in line)
    assert text.startswith(f"step {step}, first non-finite value in ")
    assert f" at experiments/toy.py:{number}" in text
    assert lines[number - 1].strip() in text
    assert text.splitlines() == [line for line in out if line in text.splitlines()]
    event = [json.loads(line) for line in (work / "x/events.jsonl").read_text().splitlines()][-2]
    assert (event["event"], event["explanation"]) == ("not_finite", text)


def _lines(work):
    return (work / "experiments/toy.py").read_text().splitlines()


def test_explain_repeats_it_in_a_new_process(work):
    plant(work, PLANTED["the state between two rows"][0])
    process = spawn("run", "toy.yaml", "--out", "x", cwd=work)
    process.communicate()
    assert process.returncode == 6
    before = {path: path.read_bytes() for path in sorted((work / "x").rglob("*")) if path.is_file()}

    process = spawn("explain", "x", cwd=work)
    out, err = process.communicate()

    assert (process.returncode, err) == (0, "")
    assert (
        out.rstrip("\n")
        == json.loads((work / "x/run.json").read_text())["nonfinite"]["explanation"]
    )
    assert before == {
        path: path.read_bytes() for path in sorted((work / "x").rglob("*")) if path.is_file()
    }


def test_a_bad_state_is_never_saved(toolkit, work):
    plant(work, PLANTED["a state that no metric shows"][0])

    assert toolkit("run", "toy.yaml", "log_every=20", "--out", "x")[0] == 6
    assert sorted(entry.name for entry in (work / "x/checkpoints").iterdir()) == ["5"]
    assert rows("x")[-1]["step"] == 10
    assert toolkit("resume", "x")[0] == 6


def test_a_state_may_keep_what_it_starts_with(toolkit, work):
    keeps = (
        ("jnp.zeros((2,), jnp.bfloat16)", "jnp.array([jnp.inf, -jnp.inf], jnp.bfloat16)"),
        ("    key: jax.Array\n    w", "    key: jax.Array\n    unset: jax.Array\n    w"),
        ("return State(key, w, jnp", "return State(key, jnp.float32(jnp.nan), w, jnp"),
        ("return State(key, w, state", "return State(key, state.unset, w, state"),
    )
    plant(work, keeps)
    assert toolkit("run", "toy.yaml", "--out", "x")[0] == 0

    plant(work, (*keeps, ("state.half + 1,", "state.half - state.half,")))
    code, _, err = toolkit("run", "toy.yaml", "--out", "y")
    assert (code, "step 2: state/half not finite, got NaN" in err[0]) == (6, True)


def test_a_metric_may_be_missing_between_rows(toolkit, work):
    only_logged = (
        'return State(key, w, state.half + 1, state.count + 1), {"loss": loss,',
        "logs = (state.count + 1) % config.log_every == 0\n"
        '        return State(key, w, state.half + 1, state.count + 1), {"loss": jnp.where(logs, loss, jnp.nan),',
    )
    plant(work, (only_logged,))

    assert toolkit("run", "toy.yaml", "--out", "x")[0] == 0
    assert all(row["loss"] is not None for row in rows("x"))


def test_an_early_failure_is_explained_without_a_checkpoint(toolkit, work):
    code, out, _ = toolkit("run", "toy.yaml", "nan_at=2", "--out", "x")

    assert code == 6
    assert any(line.startswith("step 2, first non-finite value in constant") for line in out)


def test_gradient_reports_do_not_change_what_is_found(toolkit, work):
    report = ('{"loss": loss,', '{"loss": loss, "w": run.Gradients(gradient),')
    plant(work, (*PLANTED["the state between two rows"][0], report))

    code, out, _ = toolkit("run", "toy.yaml", "diagnostics.gradients_every=4", "--out", "x")

    assert code == 6
    assert any(line.startswith("step 7, first non-finite value in sqrt") for line in out)


@pytest.mark.parametrize("state", ["finished", "stopped", "nowhere"])
def test_nothing_to_explain(toolkit, work, state):
    if state != "nowhere":
        assert toolkit("run", "toy.yaml", "--out", "x")[0] == 0
    if state == "stopped":
        record = json.loads((work / "x/run.json").read_text())
        (work / "x/run.json").write_text(json.dumps({**record, "status": "stopped"}))

    code, _, err = toolkit("explain", "x")

    assert (code, len(err)) == (2, 1)
    expected = "not a run directory" if state == "nowhere" else f"got a run that is {state}"
    assert expected in err[0]


def test_a_changed_experiment_is_said(toolkit, work):
    assert toolkit("run", "toy.yaml", "nan_at=12", "--out", "x")[0] == 6
    (work / "experiments/toy.py").write_text(EXPERIMENT.replace("jnp.nan,", "0.0,"))

    code, out, err = toolkit("explain", "x")

    assert code == 0
    assert err == [
        "warning: x: the environment differs in experiment_sha256: the step may differ too"
    ]
    assert "step 12 is finite here" in out[-1]


@pytest.mark.parametrize(
    ("budget", "step"),
    [
        ([], "step 14"),  # 13/20
        (["budget=1h"], "step 15"),  # 14/20, read once a row: every second step
        pytest.param(
            ["steps=1000000000", "budget=20s"], "step ", marks=pytest.mark.slow
        ),  # by the clock
    ],
)
def test_a_step_that_takes_a_fraction_is_made_again_with_the_same(toolkit, work, budget, step):
    takes = (
        ("def step(state):", "def step(state, fraction):"),
        ("w = state.w - config.rate", "w = jnp.sqrt(0.6 - fraction) + state.w - config.rate"),
        ("return run.Program(init, step, finish)", "return run.Program(init, step, finish, takes_fraction=True)"),
    )  # fmt: skip
    plant(work, takes)

    code, out, err = toolkit("run", "toy.yaml", *budget, "--out", "x")

    assert (code, len(err)) == (6, 1)
    report = next(line for line in out if ", first non-finite value in sqrt at " in line)
    assert report.startswith(step)
    assert toolkit("explain", "x")[1][0] == report
