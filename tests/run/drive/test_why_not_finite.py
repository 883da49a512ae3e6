"""A run that stops being finite: at which step, what is kept, and which line it blames, also in a new process."""

import json

import pytest

from tests.run.conftest import rows, spawn
from tests.run.small_experiments import FADING, PLANTED, lay_out

BLAMED = {
    # what is planted, then: the step, the leaves, words of the line that is blamed
    "a metric": (12, {"loss"}, "jnp.where(count + 1 == 12"),
    "the state between two rows": (7, {"state/w", "loss", "norm"}, "jnp.sqrt(5.5 - count)"),
    "a state that no metric shows": (9, {"state/half"}, "jnp.log(7.5 - count)"),
    "an overflow": (5, {"state/half"}, "half * 1e9"),
    "a loss that overflows first": (4, {"loss", "norm"}, "jnp.sum((w - 1) ** 2)"),
}


@pytest.fixture
def planted(work):
    lay_out(work, "planted", PLANTED)
    return work


@pytest.mark.parametrize("plant", BLAMED)
def test_the_line_is_named(toolkit, planted, plant):
    step, leaves, source = BLAMED[plant]

    code, out, err = toolkit("run", "planted.yaml", f"plant={plant}", "--out", "x")

    assert (code, len(err)) == (6, 1)
    record = json.loads((planted / "x/run.json").read_text())["nonfinite"]
    assert set(record["leaves"]) <= leaves
    assert f"not finite, got {next(iter(record['leaves'].values()))}, " in err[0]
    assert err[0].endswith("finite numbers; `toolkit explain x` says which line made it")
    text = record["explanation"]
    lines = PLANTED.splitlines()
    number = next(i for i, line in enumerate(lines, 1) if source in line)
    assert text.startswith(f"step {step}, first non-finite value in ")
    assert f" at experiments/planted.py:{number}" in text
    assert lines[number - 1].strip() in text
    assert text.splitlines() == [line for line in out if line in text.splitlines()]
    event = [json.loads(line) for line in (planted / "x/events.jsonl").read_text().splitlines()][-2]
    assert (event["event"], event["explanation"]) == ("not_finite", text)


def test_explain_repeats_it_in_a_new_process(planted):
    work, plant = planted, "plant=the state between two rows"
    process = spawn("run", "planted.yaml", plant, "--out", "x", cwd=work)
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


def test_a_bad_state_is_never_saved(toolkit, planted):
    plant = "plant=a state that no metric shows"
    assert toolkit("run", "planted.yaml", plant, "log_every=20", "--out", "x")[0] == 6
    assert sorted(entry.name for entry in (planted / "x/checkpoints").iterdir()) == ["5"]
    assert rows("x")[-1]["step"] == 10
    assert toolkit("resume", "x")[0] == 6


def test_a_state_may_keep_what_it_starts_with(toolkit, planted):
    assert toolkit("run", "planted.yaml", "plant=a start", "--out", "x")[0] == 0
    code, _, err = toolkit("run", "planted.yaml", "plant=a start that becomes NaN", "--out", "y")
    assert (code, "step 2: state/half not finite, got NaN" in err[0]) == (6, True)


def test_a_metric_may_be_missing_between_rows(toolkit, planted):
    plant = "plant=a metric that only some steps measure"
    assert toolkit("run", "planted.yaml", plant, "--out", "x")[0] == 0
    assert all(row["loss"] is not None for row in rows("x"))


def test_an_early_failure_is_explained_without_a_checkpoint(toolkit, work):
    code, out, _ = toolkit("run", "toy.yaml", "nan_at=2", "--out", "x")

    assert code == 6
    assert any(line.startswith("step 2, first non-finite value in constant") for line in out)


def test_gradient_reports_do_not_change_what_is_found(toolkit, planted):
    words = ("plant=the state between two rows", "diagnostics.gradients_every=4")
    code, out, _ = toolkit("run", "planted.yaml", *words, "--out", "x")

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


def test_a_changed_experiment_is_said(toolkit, planted):
    assert toolkit("run", "planted.yaml", "--out", "x")[0] == 6
    (planted / "experiments/planted.py").write_text(PLANTED.replace("jnp.nan, loss", "0.0, loss"))

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
    lay_out(work, "fading", FADING)

    code, out, err = toolkit("run", "fading.yaml", "root=0.6", *budget, "--out", "x")

    assert (code, len(err)) == (6, 1)
    report = next(line for line in out if ", first non-finite value in sqrt at " in line)
    assert report.startswith(step)
    assert toolkit("explain", "x")[1][0] == report
