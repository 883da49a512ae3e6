"""Configs: every mistake is one line that names it, overrides do what they say, defaults are written out."""

from pathlib import Path

import pytest

from tests.run.conftest import CONFIG, EXPERIMENT, spawn
from toolkit.run.experiment import experiments, load, plain_yaml


@pytest.mark.parametrize(
    ("replace", "by", "line"),
    [
        ("damping", "dampng", "toy.yaml:8: adjoint.dampng: unknown key, got 0.001, expected one of kind, linear_solver, "
         "damping (did you mean `damping`?)"),
        ("implicit", "implct", 'toy.yaml:7: adjoint.kind: unknown kind, got "implct", expected one of'),
        ("kind: implicit\n  ", "", "toy.yaml:6: adjoint.kind: missing key, got nothing, expected one of"),
        ("steps: 20", "steps: 2.5", "toy.yaml:3: steps: wrong value, got 2.5, expected a valid integer"),
        ("steps: 20", "steps: '20'", 'toy.yaml:3: steps: wrong value, got "20", expected a valid integer'),
        ("steps: 20", "steps: 0", "toy.yaml:3: steps: wrong value, got 0, expected greater than or equal to 1"),
        ("steps: 20", "stepz: 20", "toy.yaml: steps: missing key, got nothing, expected outer steps"),
        ("1e-3", "-1", "toy.yaml:8: adjoint.damping: wrong value, got -1, expected greater"),
        ("1e-3", ".inf", "toy.yaml:8: adjoint.damping: wrong value, got Infinity, expected a finite number"),
        ("toy", "tpy", 'toy.yaml:2: experiment: not found, got "tpy", expected one of toy (did you mean `toy`?)'),
        ("toy", "../toy", 'toy.yaml:2: experiment: bad name, got "../toy", expected a plain identifier'),
        ("experiment: toy", "experimnt: toy", "(did you mean `experiment`?)"),
        (CONFIG, "- 1", "toy.yaml: not a config, got [1], expected a mapping"),
        ("steps: 20", "steps: 20\nclaims: {error: {}}", "toy.yaml:4: claims.error: bad value"),
        ("steps: 20", "steps: 20\nclaims: {error: {at_leest: 1}}", "(did you mean `at_least`?)"),
        ("steps: 20", "steps: 20\nlabel: [1]", "toy.yaml:4: label: wrong value, got [1], expected a valid string"),
        ("steps: 20", "steps: 20\nsizes: [1, x]", 'toy.yaml:4: sizes.1: wrong value, got "x"'),
        ("steps: 20", 'steps: "a\\nerror: forged\\e[2J"', "toy.yaml:3: steps: wrong value"),
        ("steps: 20", "steps: " + "9" * 300 + "x", "…"),
    ],
)  # fmt: skip
def test_mistakes_are_named(toolkit, work, replace, by, line):
    (work / "toy.yaml").write_text(CONFIG.replace(replace, by, 1))
    code, _, err = toolkit("run", "toy.yaml", "--out", "x")
    assert code == 2
    assert all(e.startswith("error: ") and e.isprintable() for e in err)
    assert any(line in e for e in err)
    assert len("\n".join(err).encode()) <= 2000
    assert not (work / "x").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["steps"], 'not an override, got "steps"'),
        (["sizes.5=1"], "sizes.5: no such item"),
        (["sizes.0000000009=1"], "sizes.0000000009: no such item"),
        (["steps.a=1"], "steps.a: steps has no fields, got 20"),
        (["adjoint.kind=unrol"], "(did you mean `unroll`?)"),
        (["seed=010"], "ambiguous number"),
        (["solver.kind=lbfgs"], "command line: solver.max_steps: missing key"),
        (["--ot", "x"], "unknown words"),
    ],
)
def test_bad_words_are_named(toolkit, words, line):
    code, _, err = toolkit("check", "toy.yaml", *words)
    assert code == 2
    assert any(line in e for e in err)


def test_several_mistakes_come_in_the_order_of_their_lines(toolkit, work):
    (work / "toy.yaml").write_text(
        CONFIG.replace("20", "x").replace("damping", "d").replace("5", "-1")
    )
    _, _, err = toolkit("check", "toy.yaml")
    assert [e.split(": ")[1] for e in err] == ["toy.yaml:3", "toy.yaml:5", "toy.yaml:8"]


def test_overrides(work):
    words = [
        "adjoint.kind=unroll",
        "adjoint.checkpoint=sqrt",
        "rate=1e-4",
        "sizes=[3]",
        "label=no",
        "solver.kind=lbfgs",
    ]
    found = load.load(work / "toy.yaml", [*words, "solver.max_steps=3", "solver.tol=1e-6"]).resolved
    others = {"forward_mode": False, "written_out": False}
    assert found["adjoint"] == {"kind": "unroll", "checkpoint": "sqrt", **others}
    assert (found["rate"], found["sizes"], found["label"]) == (1e-4, [3], "no")
    assert found["solver"] == {"kind": "lbfgs", "max_steps": 3, "tol": 1e-6, "history": 10}


def test_an_override_reaches_into_a_default(work):
    (work / "toy.yaml").write_text(CONFIG.partition("adjoint")[0])
    found = load.load(work / "toy.yaml", ["adjoint.damping=0.5", "sizes=[7, 8]"]).resolved
    assert found["adjoint"] == {"kind": "implicit", "linear_solver": None, "damping": 0.5}


def test_the_same_kind_keeps_its_fields(work):
    found = load.load(work / "toy.yaml", ["adjoint.kind=implicit"]).resolved
    assert found["adjoint"]["damping"] == 1e-3


def test_the_resolved_config_is_a_fixed_point(work):
    first = load.load(work / "toy.yaml", ["label=1e-4x", "rate=1e-7"])
    (work / "again.yaml").write_text(plain_yaml.dump(first.resolved))
    again = load.load(work / "again.yaml")
    assert again.resolved == first.resolved
    assert set(type(again.settings).model_fields) == set(again.resolved)


def test_a_file_is_imported_once_while_it_stays_the_same(work):
    file = work / "experiments/toy.py"
    first = load.load(work / "toy.yaml").module
    assert load.load(work / "toy.yaml", ["rate=0.2"]).module is first
    file.write_text(
        EXPERIMENT.replace("LIMIT = 100.0", "LIMIT = 10.00")
    )  # as long, in the same second
    assert load.load(work / "toy.yaml").module.LIMIT == 10.0


def test_an_experiment_imports_modules_beside_it(work):
    """Those of its own working directory, also after another one's of the same name."""
    for place, number in ((work, 1), (work / "other", 2)):
        (place / "experiments").mkdir(parents=True, exist_ok=True)
        (place / "experiments/helper.py").write_text(f"NUMBER = {number}\n")
        source = EXPERIMENT.replace("LIMIT = 100.0", "from experiments.helper import NUMBER")
        (place / "experiments/toy.py").write_text(source)
        assert number == experiments.load(place / "experiments/toy.py").NUMBER


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = (", "experiments/toy.py:1: cannot be loaded, got SyntaxError"),
        ("x = 1", "no config declared, got nothing, expected class Config"),
        ("class Config: pass", "no config declared"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
    ],
)
def test_a_broken_experiment_is_one_line(toolkit, work, source, words):
    (work / "experiments/toy.py").write_text(source)
    code, _, err = toolkit("check", "toy.yaml")
    assert (code, len(err)) == (2, 1)
    assert words in err[0]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("return run.Program(", "return (", "build: wrong type, got tuple"),
        ("state.count + 1), {", "1.5), {", "step: changes the state at \"count\", got float"),
        ('{"loss": loss', '{"loss": w', "step: bad metrics, got loss with float"),
        ('{"loss": loss', '{"seconds": loss', "names other than step, seconds"),
        ("gradient = 2 *", "gradient = undefined *", "step failed, got NameError"),
    ],
)  # fmt: skip
def test_a_broken_program_is_one_line(toolkit, work, old, new, words):
    (work / "experiments/toy.py").write_text(EXPERIMENT.replace(old, new))
    code, _, err = toolkit("check", "toy.yaml")
    assert (code, len(err)) == (2, 1)
    assert words in err[0]


@pytest.mark.parametrize(
    "words", [["--help"], ["run"], ["run", "none.yaml"], ["run", "broken.yaml"]]
)
def test_help_and_usage_errors_answer_at_once(work, words, monkeypatch):
    """They load nothing heavy: 0.1 to 0.2 s, where `import jax` would cost 0.45 s more."""
    (work / "broken.yaml").write_text("steps: [1,")
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    _, err = spawn(*words).communicate()
    loaded = {line.rpartition("|")[2].strip() for line in err.splitlines() if "|" in line}
    assert "toolkit.commands.cli" in loaded
    assert not loaded & {"jax", "numpy", "optax", "flax", "matplotlib", "rich", "scipy"}


def test_check_prints_the_resolved_config(toolkit, work):
    code, out, _ = toolkit("check", "toy.yaml", "rate=0.5")
    assert code == 0
    assert "rate: 0.5" in out
    assert out[-1].startswith("# ok: experiments/toy.py, state of 4 arrays")
    assert not (work / "runs").exists()


@pytest.mark.parametrize(
    "words", [("seed=4294967295", "seeds=2"), ("seed=4294957297", "seeds=10000")]
)
def test_seeds_past_the_last_one_are_refused(toolkit, words):
    code, _, err = toolkit("check", "toy.yaml", *words)
    assert (code, len(err)) == (2, 1)
    assert "command line: seeds: bad value" in err[0] and "seeds end at 2**32" in err[0]


@pytest.mark.parametrize("seed", ["-1", "4294967296", "1e20", "0.5", "true"])
def test_a_seed_is_a_whole_number_of_32_bits(toolkit, seed):
    code, _, err = toolkit("check", "toy.yaml", f"seed={seed}")
    assert (code, len(err)) == (2, 1) and "seed: wrong value" in err[0]


@pytest.mark.parametrize("name", ["seconds", "step", "drift", "gradients/a", "nonfinite"])
def test_a_metric_cannot_take_a_name_of_a_row(toolkit, work, name):
    path = work / "experiments/toy.py"
    path.write_text(EXPERIMENT.replace('{"loss": loss,', f'{{"{name}": loss,'))
    code, _, err = toolkit("check", "toy.yaml")
    assert (code, len(err)) == (2, 1) and f'step: bad metrics, got "{name}"' in err[0]


def test_a_final_metric_cannot_take_the_seconds(toolkit, work):
    path = work / "experiments/toy.py"
    path.write_text(EXPERIMENT.replace('{"error": ', '{"seconds": 1.0, "error": '))
    code, _, err = toolkit("check", "toy.yaml")
    assert (code, len(err)) == (2, 1) and 'finish: bad metric, got "seconds"' in err[0]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('label: str = "plain"', 'label: str = "\\udce9"', "defaults that no config can hold"),
        ('label: str = "plain"', 'label: str = "x" * 300_000', "defaults that no config can hold, got 3"),
        ("def init(key):", "import sys; sys.exit()\n    def init(key):", "build failed, got SystemExit"),
        ("def init(key):", "import os; os.chdir('/')\n    def init(key):", "got a change of the working directory to /"),
        ('(("error", "small"),)', '("error",)', "finish: bad table"),
        ("class Config(", "class Odd(Exception):\n    __str__ = None\n\nraise Odd\nclass Config(", "got Odd: (without a text)"),
    ],
)  # fmt: skip
def test_an_odd_experiment_is_refused_in_one_line(toolkit, work, old, new, words):
    (work / "experiments/toy.py").write_text(EXPERIMENT.replace(old, new))
    code, _, err = toolkit("check", "toy.yaml")
    assert (code, len(err)) == (2, 1) and words in err[0]
    assert Path.cwd() == work
