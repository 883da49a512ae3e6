"""`tk.run.execute` and `tk.run.open`: what the command does, from Python."""

import _thread
import html
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import toolkit as tk
from tests.run.conftest import EXPERIMENT, outcome
from toolkit.run.drive import execute as executing
from toolkit.run.drive import progress_bar, run_loop
from toolkit.run.experiment import heard
from toolkit.run.report import draw
from toolkit.run.store import environment

MAPPING = {
    "experiment": "toy",
    "steps": 20,
    "log_every": 2,
    "checkpoint_every": 5,
    "adjoint": tk.adjoint.Implicit(damping=1e-3),
}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Leaves out the report, most of a small run's time; those tests that look at it draw it."""
    monkeypatch.setattr(draw, "write", lambda *_: [])
    monkeypatch.setattr(environment, "_package_hash", lambda: "constant")


def test_a_path_a_mapping_and_a_config_make_the_run_of_the_command(toolkit):
    assert (
        toolkit("run", "toy.yaml", "rate=0.2", "adjoint.damping=0.25", "--out", "by/hand")[0] == 0
    )
    changes = {"rate": 0.2, "adjoint.damping": np.float64(0.25)}
    run = tk.run.execute("toy.yaml", Path("by/path"), **changes)
    assert outcome("by/path") == outcome("by/hand")
    record, by_hand = (
        json.loads(Path(f"by/{name}/run.json").read_text()) for name in ("path", "hand")
    )
    assert record["command"] == by_hand["command"].replace("by/hand", "by/path")
    assert record["environment"] == by_hand["environment"] and record["wrote"] == []

    again = tk.run.execute(MAPPING, "by/mapping", **changes)
    assert outcome("by/mapping") == outcome("by/hand")
    assert again.config == run.config
    module = sys.modules["experiments.toy"]
    config = module.Config(**{**MAPPING, "rate": 0.2, "adjoint": tk.adjoint.Implicit(damping=0.25)})
    assert tk.run.execute(config).path == Path("runs/toy-1")
    assert outcome("runs/toy-1") == outcome("by/hand")
    # What is recorded as the command makes the same run again.
    words = json.loads(Path("by/mapping/run.json").read_text())["command"].split()
    assert toolkit(*words[1:], "--out", "by/record")[0] == 0
    assert outcome("by/record") == outcome("by/hand")


def test_a_run_object_has_what_the_directory_says(toolkit):
    run = tk.run.execute(
        "toy.yaml", seed=3, sizes=[3, 4], label="a b", solver=tk.solver.LBFGS(5, 1e-3)
    )
    command = json.loads((run.path / "run.json").read_text())["command"]
    assert command.startswith("toolkit run toy.yaml seed=3 'sizes=[3, 4]' 'label=a b' 'solver={")
    assert run.path == Path("runs/toy-1") and run.status == "finished" and run.issues == ()
    assert run.config["seed"] == 3 and run.config["adjoint"] == {"kind": "implicit", "damping": 1e-3, **(
        {k: v for k, v in run.config["adjoint"].items() if k not in ("kind", "damping")}
    )}  # fmt: skip
    assert [row["step"] for row in run.rows] == [*range(2, 21, 2)]
    assert run.final.keys() == {"seconds", "error", "count"} and run.final["count"] == 20
    assert (
        run.params["dense"]["w"].shape == (4,) and run.params["dense"]["half"].dtype == "bfloat16"
    )
    assert str(run) == repr(run) and str(run).startswith("runs/toy-1: finished\n  seconds")
    shown = run._repr_html_()
    # The page is within the attribute of a frame: no tag of it is one of the notebook's.
    assert re.fullmatch(
        r'<iframe srcdoc="[^"<]*" sandbox title="[^"<]*" style="[^"<]*"></iframe>', shown
    )
    page = html.unescape(shown.split('"')[1])
    assert page.startswith("<!") and page == draw.page_of(run._story)[0] and "<h1>toy</h1>" in page


def test_the_rows_as_a_table(toolkit):
    pandas = pytest.importorskip("pandas")
    table = tk.run.execute("toy.yaml").to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert [*table["step"]] == [*range(2, 21, 2)] and {"loss", "norm", "seconds"} < {*table}


@pytest.mark.parametrize(
    "words",
    [
        {"steps": "many"},
        {"stepz": 3},
        {"adjoint.kind": "implicitt"},
        {"adjoint.damping": -1},
        {"nan_at": 8},
        {"experiment": "tooy"},
    ],
)
def test_a_failure_is_that_of_the_command(toolkit, words):
    with pytest.raises(tk.run.RunError) as caught:
        tk.run.execute("toy.yaml", **words)
    typed = [f"{key}={value}" for key, value in words.items()]
    code, _, lines = toolkit("run", "toy.yaml", *typed)
    assert caught.value.code == code
    assert str(caught.value).replace("toy-1", "toy-2") == "\n".join(lines).replace("toy-1", "toy-2")


def test_what_is_no_config_is_refused(toolkit):
    recursive: dict = {"experiment": "toy", "steps": 5}
    recursive["label"] = recursive
    for config, expected in {
        "nothing.yaml": "error: nothing.yaml: cannot read",
        "mapping": "error: config: experiment: missing key, got the keys steps",
        "value": "error: config: label: wrong value, got object, expected a number",
        "key": "error: config: 1: bad key",
        "deep": "too deep",
        "nan": "error: config: rate: wrong value",
        "unicode": "error: ",
    }.items():
        given = {
            "mapping": {"steps": 5},
            "value": {**MAPPING, "label": object()},
            "key": {**MAPPING, 1: 2},
            "deep": recursive,
            "nan": {**MAPPING, "rate": float("nan")},
            "unicode": {**MAPPING, "label": "\ud800"},
        }.get(config, config)
        with pytest.raises(tk.run.RunError) as caught:
            tk.run.execute(given)
        assert caught.value.code == 2 and expected in str(caught.value)
    with pytest.raises(
        TypeError, match="`config` must be a path, a mapping or an experiment's Config: got int"
    ):
        tk.run.execute(3)
    with pytest.raises(tk.run.RunError, match="not an override"):
        tk.run.execute(MAPPING, **{"adjoint..damping": 1})
    assert not Path("runs").exists()


def test_a_missed_claim_is_an_issue(toolkit):
    run = tk.run.execute("toy.yaml", "runs/bold", claims={"error": {"at_most": 1e-9}})
    assert run.status == "finished" and len(run.issues) == 1
    assert run.issues[0].startswith("runs/bold: claim missed: error, got 0.")
    assert tk.run.open("runs/bold").issues == run.issues
    with pytest.raises(tk.run.RunError, match="the run is finished") as caught:
        tk.run.execute("toy.yaml", "runs/bold", claims={"error": {"at_most": 1e-9}})
    assert caught.value.code == 4


@pytest.fixture(autouse=True)
def interrupts_are_pythons():
    """As in a notebook. A job of CI may have inherited that they are ignored, and then nothing would be raised."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_and_wait(job, interrupt=_thread.interrupt_main):
    interrupt()
    until = time.monotonic() + 60
    while job.stop.number is None:
        assert time.monotonic() < until, "no interrupt came"
        time.sleep(0.001)


def interrupted_at(monkeypatch, step, interrupt=interrupt_and_wait):
    """Has the main thread interrupted while the row of a step is written, once."""
    whole, done = run_loop._written, []

    def written(job, log, stride, call, **how):
        if call.chunk.end >= step and not done:
            done.append(1)
            interrupt(job)
        return whole(job, log, stride, call, **how)

    monkeypatch.setattr(run_loop, "_written", written)


@pytest.mark.parametrize(
    "interrupt", [_thread.interrupt_main, lambda: os.kill(os.getpid(), signal.SIGINT)]
)
def test_an_interrupt_saves_and_the_same_call_continues(toolkit, monkeypatch, interrupt):
    whole = tk.run.execute("toy.yaml", "runs/whole")
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    interrupted_at(monkeypatch, 7, lambda job: interrupt_and_wait(job, interrupt))
    with pytest.raises(KeyboardInterrupt):
        tk.run.execute("toy.yaml")
    assert {number: signal.getsignal(number) for number in before} == before
    stopped = tk.run.open("runs/toy-1")
    assert stopped.status == "stopped" and stopped.final is None and stopped.params is None
    saved = max(int(entry.name) for entry in Path("runs/toy-1/checkpoints").iterdir())
    assert 7 <= saved < 20 and "SIGINT" in Path("runs/toy-1/events.jsonl").read_text()
    assert "stopped at step" in repr(stopped) and "stopped" in stopped._repr_html_()

    run = tk.run.execute("toy.yaml")
    assert run.path == stopped.path and run.rows[: len(stopped.rows)] == stopped.rows
    assert outcome(run.path)[:3] == outcome(whole.path)[:3]
    assert json.loads((run.path / "run.json").read_text())["wrote"] == []


def test_an_interrupt_outside_of_the_steps_leaves_a_stopped_run(toolkit, monkeypatch):
    def finishing(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(executing.runs, "finish", finishing)
        with pytest.raises(KeyboardInterrupt):
            tk.run.execute("toy.yaml")
    assert json.loads(Path("runs/toy-1/run.json").read_text())["status"] == "stopped"
    assert tk.run.execute("toy.yaml").path == Path("runs/toy-1")


def test_one_run_at_a_time(toolkit, monkeypatch):
    found = []

    def second():
        try:
            tk.run.execute("toy.yaml")
        except tk.run.RunError as error:
            found.append(error)

    interrupted_at(
        monkeypatch, 3, lambda _: [t := threading.Thread(target=second), t.start(), t.join()]
    )
    tk.run.execute("toy.yaml")
    assert found[0].code == 4 and "a second call of execute" in str(found[0])


def test_another_thread_may_call_it(toolkit):
    found = []
    thread = threading.Thread(target=lambda: found.append(tk.run.execute("toy.yaml")))
    thread.start()
    thread.join()
    record = json.loads((found[0].path / "run.json").read_text())
    assert not [name for name in record["environment"] if name.startswith(("read/", "code/"))]
    assert record["wrote"] == []
    assert threading.get_ident() in heard._threads and len(heard._threads) == 1


def test_whoever_watches_the_rows_is_no_part_of_the_experiment(toolkit, monkeypatch):
    seen = []

    def watch(_):
        read = lambda: seen.append(Path("runs/a/metrics.jsonl").read_bytes())
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()

    interrupted_at(monkeypatch, 7, watch)
    run = tk.run.execute("toy.yaml", "runs/a")
    record = json.loads((run.path / "run.json").read_text())
    assert seen and not [name for name in record["environment"] if name.startswith("read/")]
    assert not any(folder.endswith("/runs/a/") for folder in heard._left_out)


def test_edited_files_run_as_they_are_now(toolkit, monkeypatch):
    """In a process that goes on, the experiment, its modules and its data may be edited between two calls."""
    helper, data = Path("helper.py"), Path("data.txt")
    text = EXPERIMENT.replace(
        "LIMIT = 100.0", "import helper\nLIMIT = float(open('data.txt').read())"
    )
    text = text.replace("config.rate * gradient", "helper.RATE * gradient")
    Path("experiments/toy.py").write_text(text)
    helper.write_text("RATE = 0.1\n")
    data.write_text("1")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    __import__("helper")  # by the notebook, before anything listens
    first = tk.run.execute("toy.yaml", "runs/a")
    recorded = json.loads((first.path / "run.json").read_text())["environment"]
    assert {"code/helper.py", "read/data.txt"} <= recorded.keys()

    interrupted_at(monkeypatch, 7)
    with pytest.raises(KeyboardInterrupt):
        tk.run.execute("toy.yaml", "runs/b")
    helper.write_text("RATE = 0.2\n")
    assert tk.run.execute("toy.yaml", "runs/c").final["error"] != first.final["error"]
    with pytest.raises(
        tk.run.RunError, match=r"the environment differs in code/helper\.py"
    ) as caught:
        tk.run.execute("toy.yaml", "runs/b")
    assert caught.value.code == 7
    helper.write_text("RATE = 0.1\n")
    data.write_text("2")
    with pytest.raises(tk.run.RunError, match=r"the environment differs in read/data\.txt"):
        tk.run.execute("toy.yaml", "runs/b")
    data.write_text("1")
    # What another experiment imports in the meantime is none of this one's.
    Path("experiments/other.py").write_text(EXPERIMENT.replace("LIMIT", "import others\nLIMIT"))
    Path("others.py").write_text("")
    tk.run.execute("toy.yaml", experiment="other")
    assert outcome(tk.run.execute("toy.yaml", "runs/b").path)[:3] == outcome("runs/a")[:3]


def test_numbers_of_threads_are_recorded_as_they_were(toolkit, monkeypatch):
    """They are read when jax is loaded: set later, they would change the record and no thread."""
    for name in environment.THREADS:
        monkeypatch.delenv(name)
    run = tk.run.execute("toy.yaml")
    record = json.loads((run.path / "run.json").read_text())["environment"]
    assert record["NPROC"] is None and not environment.THREADS.keys() & os.environ.keys()


class Shell:
    kernel = "a notebook's"


def test_a_notebook_shows_a_bar(toolkit, monkeypatch, capsys):
    states = []

    class Handle:
        def update(self, bundle, raw):
            states.append((threading.current_thread(), bundle))

    def display(bundle, raw, display_id):
        states.append((threading.current_thread(), bundle))
        return Handle()

    ipython = type(sys)("IPython")
    ipython.get_ipython = Shell
    shown = type(sys)("IPython.display")
    shown.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    monkeypatch.setattr(progress_bar, "REDRAWN_BY_BROWSER", 0)
    tk.run.execute("toy.yaml")
    assert "step" not in capsys.readouterr().out.replace("steps", "")
    assert states[0][1]["text/plain"] == "0/20  compiling"
    assert states[-1][1]["text/plain"].startswith("20/20  loss 0.")
    assert '<progress value="20" max="20"' in states[-1][1]["text/html"]
    assert {thread for thread, _ in states} == {threading.main_thread()}


def test_nothing_of_jax_is_loaded_for_the_names():
    # Otherwise the numbers of threads could never be set before jax is.
    code = "import sys, toolkit as tk; tk.run.execute, tk.run.RunError; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
