"""An experiment of several files: what counts as it, how its pictures are found, and what is hashed."""

import json

from tests.run.conftest import EXPERIMENT
from toolkit.run.experiment import experiments, sources
from toolkit.run.store import environment

PICTURES = """
from experiments.toy import LIMIT
from toolkit import run


def figures(config, params, metrics, rows):
    bars = {"error": metrics["error"], "limit": LIMIT}
    return (run.pictures.bars("Drawn beside", "", bars),)
"""


def _toy(work):
    """The toy with its pictures in a file of their own."""
    path = work / "experiments/toy.py"
    path.write_text(EXPERIMENT.partition("def figures")[0])
    (work / "experiments/toy_figures.py").write_text(PICTURES)
    return path


def test_pictures_in_a_file_of_their_own_are_drawn(toolkit, work):
    _toy(work)
    assert toolkit("run", "toy.yaml", "--out", "x")[0] == 0
    assert "Drawn beside" in (work / "x/report.html").read_text()


def test_a_fault_in_the_pictures_is_told_with_their_line(toolkit, work):
    _toy(work)
    (work / "experiments/toy_figures.py").write_text(PICTURES.replace("LIMIT}", "1 / 0}"))
    code, _, err = toolkit("run", "toy.yaml", "--out", "x")
    assert code == 0
    assert any(
        "experiments/toy_figures.py:7: figures failed, got ZeroDivisionError" in e for e in err
    )


def test_a_fault_in_a_file_beside_the_experiment_is_told_with_its_line(toolkit, work):
    path = _toy(work)
    (work / "experiments/helper.py").write_text("def rate(config):\n    return config.rate / 0\n")
    text = path.read_text().replace(
        "from toolkit import", "from experiments.helper import rate\nfrom toolkit import"
    )
    path.write_text(text.replace("config.rate * gradient", "rate(config) * gradient"))
    code, _, err = toolkit("check", "toy.yaml")
    assert code == 2
    assert "experiments/helper.py:2: step" in err[-1] and "ZeroDivisionError" in err[-1]


def test_a_picture_that_cannot_be_drawn_is_told_with_its_line_before_the_run(toolkit, work):
    _toy(work)
    lines = """
def draw(figure):
    figure.subplots().plot([1], [1, 2])


def figures(config, params, metrics, rows):
    return (run.Figure("Mine", "", draw),)
"""
    head = PICTURES.partition("\n\ndef")[0]
    (work / "experiments/toy_figures.py").write_text(head + lines)
    code, _, err = toolkit("check", "toy.yaml")
    assert code == 2
    assert 'experiments/toy_figures.py:6: figure "Mine" failed, got ValueError' in err[-1]


def test_only_files_with_a_config_are_experiments(work):
    _toy(work)
    (work / "experiments/helper.py").write_text("X = 1\n")
    (work / "experiments/broken.py").write_text("x = (\n")
    assert experiments.available() == [
        "broken",
        "toy",
    ]  # of the broken one its user is told the line


def test_the_hash_tells_of_every_file_that_runs(toolkit, work):
    path = work / "experiments/toy.py"
    alone = environment.experiment_hash(path)
    assert alone == environment.file_hash(path)
    _toy(work)
    (work / "experiments/helper.py").write_text("X = 1\n")
    (work / "experiments/stranger.py").write_text("X = 1\n")
    for line in ("from experiments import helper", "import experiments.helper", "from experiments.helper import X"):  # fmt: skip
        (work / "experiments/toy_figures.py").write_text(f"{line}\n{PICTURES}")
        names = [file.stem for file in sources.files(path)]
        assert names == ["toy", "toy_figures", "helper"], line

    seen = {alone}
    for name in ("toy", "toy_figures", "helper"):
        file = work / f"experiments/{name}.py"
        file.write_text(file.read_text() + "# changed\n")
        seen.add(environment.experiment_hash(path))
    assert len(seen) == 4
    before = environment.experiment_hash(path)
    (work / "experiments/stranger.py").write_text("X = 2\n")
    assert environment.experiment_hash(path) == before


def test_a_change_of_the_pictures_is_told(toolkit, work):
    _toy(work)
    assert toolkit("run", "toy.yaml", "--out", "x")[0] == 0
    recorded = json.loads((work / "x/run.json").read_text())["environment"]["experiment_sha256"]
    assert recorded == environment.experiment_hash(work / "experiments/toy.py")
    (work / "experiments/toy_figures.py").write_text(PICTURES + "# changed\n")
    _, _, err = toolkit("report", "x")
    assert any("changed since the run" in line for line in err)
