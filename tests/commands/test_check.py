"""`toolkit check` rehearses what a run does at its end: `finish` and the figures."""

import pytest

EXPERIMENT = '''"""Counts, and fails at its end where the config says so."""

from toolkit import run


class Config(run.Settings):
    finish: str = "whole"
    figures: str = "whole"


def build(config):
    def step(count):
        return count + 1, {"count": count * 1.0}

    def finish(count):
        if config.finish == "raises":
            raise KeyError("accuracy")
        if config.finish == "nan":
            return run.Final({}, {"count": float("nan")})
        return run.Final({"count": count}, {"count": count}) if config.finish == "whole" else count

    return run.Program(lambda key: 0, step, finish)


def figures(config, params, metrics, rows):
    def draw(figure):
        axes = figure.subplots()
        axes.plot([row["step"] for row in rows], [row["count"] for row in rows])

    def broken(figure):
        figure.subplots().plot(params["weights"])

    if config.figures == "raises":
        return [rows[7]]
    if config.figures == "other":
        return [draw]
    last = broken if config.figures == "one broken" else draw
    return [run.Figure("Counts", "", draw), run.Figure("Weights", "", last)]
'''


def line_of(text):
    return next(i for i, line in enumerate(EXPERIMENT.splitlines(), 1) if text in line)


@pytest.fixture
def counting(work):
    (work / "experiments/counting.py").write_text(EXPERIMENT)
    (work / "counting.yaml").write_text("experiment: counting\nsteps: 1000\n")
    return work


def test_a_run_is_rehearsed_to_its_figures_and_leaves_nothing(toolkit, counting):
    before = sorted(counting.iterdir())
    code, out, err = toolkit("check", "counting.yaml")
    assert (code, err) == (0, [])
    assert out[-1] == (
        "# ok: experiments/counting.py, state of 1 arrays with 1 numbers, metrics: count"
    )
    assert sorted(counting.iterdir()) == before


@pytest.mark.parametrize(
    ("word", "code", "error"),
    [
        ("finish=raises", 2, f":{line_of('raise KeyError')}: finish failed, got KeyError: 'accuracy'"),
        ("finish=other", 2, ": finish: wrong type, got "),
        ("finish=nan", 6, ": final metrics: count not finite, got nan"),
        ("figures=raises", 2, f":{line_of('rows[7]')}: figures failed, got IndexError: "),
        ("figures=other", 2, ": figures: wrong type, got function, expected toolkit.run.Figure"),
        ("figures='one broken'", 2, f""":{line_of('params["weights"]')}: figure "Weights" failed, got KeyError: 'weights'"""),
    ],
)  # fmt: skip
def test_what_would_fail_at_the_end_fails_now_in_one_line(toolkit, counting, word, code, error):
    found, out, err = toolkit("check", "counting.yaml", word)
    assert (found, out, len(err)) == (code, [], 1)
    assert err[0].startswith(f"error: experiments/counting.py{error}")
