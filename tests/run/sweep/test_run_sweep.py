"""Sweeps: all of it is valid or nothing starts, failures are shown and hide nothing, the same command does the rest."""

import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.run.conftest import EXPERIMENT, outcome, pretend, spawn
from toolkit.run.drive import tied
from toolkit.run.drive.signals import StopRequest
from toolkit.run.store import sweeps
from toolkit.run.sweep.launch import command_line, engines, options, window
from toolkit.run.sweep.launch.command_line import Command, Outcome

SWEEP = ("sweep", "toy.yaml", "seed=0:2", "rate=0.1,0.2")
NAMES = [f"seed={seed},rate={rate}" for seed in (0, 1) for rate in (0.1, 0.2)]


@pytest.fixture
def tried(monkeypatch):
    """Replaces the processes of runs by `pretend`; gives the names in the order tried."""
    names = []

    def in_this_process(commands, options, stop):
        for command in commands:
            names.append(command.name)
            yield Outcome(command.name, *pretend(command.words), 0.1)

    monkeypatch.setattr(engines, "engine", lambda name: in_this_process)
    return names


def recorded(folder="d"):
    return json.loads(Path(folder, "sweep.json").read_text())


def test_each_run_is_an_exact_command_in_its_own_directory(toolkit, tried):
    code, out, err = toolkit(*SWEEP, "steps=10", "--out", "d")
    assert (code, err, tried) == (0, [], NAMES)
    assert out[0] == "4 runs in d, by local"
    assert [line.split()[1] for line in out if line.startswith("[")] == NAMES
    assert [line.split()[0] for line in out[-4:]] == NAMES
    record = recorded()
    assert record["command"] == shlex.join(["toolkit", *SWEEP, "steps=10", "--out", "d"])
    assert [run["name"] for run in record["runs"]] == NAMES
    assert [run["exit"] for run in record["runs"]] == [0] * 4
    command = record["runs"][2]["command"]
    assert command == "toolkit run toy.yaml seed=1 rate=0.1 steps=10 --out d/seed=1,rate=0.1"
    assert json.loads(Path("d", NAMES[2], "run.json").read_text())["command"] == command
    assert {entry.name for entry in Path("d").iterdir()} == {*NAMES, "sweep.json", "logs"}


def test_the_same_command_does_only_what_is_missing(toolkit, tried):
    assert toolkit(*SWEEP, "--out", "d")[0] == 0
    before = {name: Path("d", name, "run.json").stat().st_mtime_ns for name in NAMES}
    shutil.rmtree(Path("d", NAMES[1]))
    tried.clear()
    code, out, _ = toolkit(*SWEEP, "--out", "d")
    assert (code, tried) == (0, [NAMES[1]])
    assert out[0] == "4 runs in d, 3 of them finished before, by local"
    after = {name: Path("d", name, "run.json").stat().st_mtime_ns for name in NAMES}
    assert [name for name in NAMES if before[name] != after[name]] == [NAMES[1]]
    tried.clear()
    assert toolkit("sweep", "toy.yaml", "seed=0:3", "rate=0.1,0.2", "--out", "d")[0] == 0
    assert tried == ["seed=2,rate=0.1", "seed=2,rate=0.2"]  # a larger sweep keeps what there is
    assert toolkit("sweep", "toy.yaml", "rate=0.3,0.4", "--out", "d")[0] == 0
    assert len(recorded()["runs"]) == 8  # another one beside it


def test_a_sweep_with_other_axes_finds_what_it_has(toolkit, tried):
    """`seed=0` is named otherwise where the rate is swept as well, and is the same run."""
    assert toolkit(*SWEEP, "--out", "d")[0] == 0
    tried.clear()
    code, out, _ = toolkit("sweep", "toy.yaml", "seed=0:3", "rate=0.1", "--out", "d")
    assert (code, out[0], tried) == (
        0,
        "3 runs in d, 2 of them finished before, by local",
        ["seed=2"],
    )
    assert [run["name"] for run in recorded()["runs"]][:3] == [NAMES[0], NAMES[2], "seed=2"]
    page = Path("d/report.html")
    assert toolkit("report", "d")[0] == 0 and "not counted" not in page.read_text()


def test_a_finished_run_that_was_edited_is_not_shown_as_finished(toolkit, tried):
    assert toolkit(*SWEEP, "--out", "d")[0] == 0
    path = Path("d", NAMES[0], "run.json")
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "final": {"metrics.json": "other"}})
    )
    code, out, err = toolkit(*SWEEP, "--out", "d")
    assert code == 3 and len(err) == 1
    assert any("finished, changed since the run: final/metrics.json" in line for line in out)


def test_two_sweeps_at_one_moment_get_two_directories(toolkit, tried):
    Path("runs/toy-sweep-1").mkdir(parents=True)
    holding = os.open("runs/toy-sweep-1", os.O_RDONLY)
    fcntl.flock(holding, fcntl.LOCK_EX)
    assert toolkit(*SWEEP)[1][0] == "4 runs in runs/toy-sweep-2, by local"
    assert toolkit(*SWEEP, "--out", "runs/toy-sweep-1")[0] == 4
    os.close(holding)


def test_without_a_directory_the_same_sweep_is_found_again(toolkit, tried, work):
    assert toolkit(*SWEEP)[1][0] == "4 runs in runs/toy-sweep-1, by local"
    assert "4 of them finished before" in toolkit(*SWEEP)[1][0]
    assert "runs/toy-sweep-2" in toolkit("sweep", "toy.yaml", "seed=0:2")[1][0]
    (work / "experiments/toy.py").write_text(
        EXPERIMENT + "\n"
    )  # other code: results would be mixed
    assert toolkit(*SWEEP)[1][0] == "4 runs in runs/toy-sweep-3, by local"


def test_a_failure_is_shown_hides_nothing_and_is_tried_again(toolkit, tried):
    words = ("sweep", "toy.yaml", "nan_at=4,-1", "--out", "d")
    code, out, err = toolkit(*words)
    assert code == 6
    assert len(tried) == 2
    assert [run["exit"] for run in recorded()["runs"]] == [6, 0]
    assert out[-2].startswith("nan_at=4   exit 6: step 4: loss not finite")
    assert out[-1].startswith("nan_at=-1  finished")
    assert err == [
        "error: d: 1 of 2 runs failed, got nan_at=4 with exit code 6, "
        "expected 0; d/logs says why, the same command tries them again"
    ]
    tried.clear()
    assert toolkit(*words)[0] == 6
    assert tried == ["nan_at=4"]


def test_a_missed_claim_counts_less_than_a_failure(toolkit, tried, work):
    with (work / "toy.yaml").open("a") as file:
        file.write("claims: {count: {at_least: 15}}\n")
    code, out, err = toolkit("sweep", "toy.yaml", "steps=10,20", "--out", "d")
    assert code == 8
    assert out[-2].startswith("steps=10  finished, 1 of 1 claims missed     10")
    assert err == [
        "error: d: 1 of 2 runs miss a claim, got steps=10 with exit code 8, expected none"
    ]
    tried.clear()
    assert toolkit("sweep", "toy.yaml", "steps=10,20", "--out", "d")[0] == 8
    assert tried == []  # it is finished
    assert toolkit("sweep", "toy.yaml", "steps=10,20", "nan_at=-1,4", "--out", "e")[0] == 6


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["seed=0:2", "rate=0.1,x"], ['error: command line: rate: wrong value, got "x", expected a valid number']),
        (["seed=0:2", "rat=1,2"], ["error: command line: rat: unknown key"]),
        (["seed=-1:2"], ["error: command line: seed: wrong value, got -1"]),
        (["rate=x,y"], ['error: command line: rate: wrong value, got "x"', 'error: command line: rate: wrong value, got "y"']),
        (["rate=1,1.0"], ["error: toolkit sweep: two runs of the same config"]),
        (["adjoint.kind=unroll,implicit", "adjoint.damping=0.5"], ["error: command line: adjoint.damping: unknown key"]),
        (["seed=0:2", "--engine", "das"], ['error: --engine: unknown, got "das", expected one of local, dask, ray, slurm (did you mean `dask`?)']),
        (["seed=0:2", "--address", "x:1"], ["error: --address: has no meaning here"]),
        (["seed=0:2", "--jobs", "0"], ["error: --jobs: wrong value, got 0, expected at least 1"]),
        (["seed=0:2", "--jobs", "x"], ["error: toolkit sweep: argument --jobs"]),
    ],
)  # fmt: skip
def test_nothing_starts_before_all_is_valid(toolkit, tried, work, words, lines):
    before = sorted(work.rglob("*"))
    code, _, err = toolkit("sweep", "toy.yaml", *words)
    assert code == 2
    assert len(err) == len(lines)
    for line, start in zip(err, lines, strict=True):
        assert line.startswith(start)
    assert tried == []
    assert sorted(work.rglob("*")) == before


@pytest.mark.parametrize("engine", ["dask", "ray", "slurm"])
def test_a_missing_extra_is_named(toolkit, tried, monkeypatch, engine):
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    code, _, err = toolkit("sweep", "toy.yaml", "seed=0:2", "--engine", engine)
    assert (code, len(err), tried) == (2, 1, [])
    assert f'expected pip install "toolkit-jax[{engine}]"' in err[0]
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("0:30", 1), ("1:00:00", 60), ("2-12", 3600), ("1-0:1:1", 1442)],
)
def test_times_of_slurm(text, minutes):
    assert options.minutes(text) == minutes


def test_directories_of_others_are_left_alone(toolkit, tried, work):
    (work / "d").mkdir()
    (work / "d/mine.txt").write_text("")
    assert toolkit(*SWEEP, "--out", "d")[0] == 4
    assert [entry.name for entry in (work / "d").iterdir()] == ["mine.txt"]
    assert pretend(("run", "toy.yaml", "--out", "single"))[0] == 0
    assert toolkit(*SWEEP, "--out", "single")[0] == 4
    assert toolkit("sweep", "toy.yaml", "seed=0:2", "--out", "e")[0] == 0
    tried.clear()
    code, _, err = toolkit("sweep", "toy.yaml", "seed=0:2", "rate=0.3", "--out", "e")
    assert (code, tried) == (4, [])
    assert err == [
        "error: e/seed=0: the directory holds a run of another config, got rate 0.3, "
        "expected rate 0.1 as there, or another --out"
    ]


def test_one_sweep_at_a_time(toolkit, tried):
    assert toolkit(*SWEEP, "--out", "d")[0] == 0
    descriptor = os.open("d", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    code, _, err = toolkit(*SWEEP, "--out", "d")
    os.close(descriptor)
    assert code == 4
    assert f"error: d: in use, got process {os.getpid()} on" in err[0]


def test_results_of_other_code_are_kept_with_a_warning(toolkit, tried, work):
    assert toolkit("sweep", "toy.yaml", "seed=0:2", "--out", "d")[0] == 0
    (work / "experiments/toy.py").write_text(EXPERIMENT + "\n")
    tried.clear()
    code, out, err = toolkit("sweep", "toy.yaml", "seed=0:2", "--out", "d")
    assert (code, tried) == (0, [])
    assert err[0].startswith("warning: d: 2 finished runs were made by another version of the code")
    assert "finished, by other code" in out[-1]


def test_a_config_that_changes_under_way_is_noticed(toolkit, tried, work, monkeypatch):
    changing = engines.engine("local")

    def engine(commands, options, stop):
        for number, found in enumerate(changing(commands, options, stop)):
            if number == 0:
                (work / "toy.yaml").write_text((work / "toy.yaml").read_text() + "width: 3\n")
            yield found

    monkeypatch.setattr(engines, "engine", lambda name: engine)
    code, out, _ = toolkit("sweep", "toy.yaml", "seed=0:2", "--out", "d")
    assert code == 4
    assert "finished, with another config" in out[-1]


def test_only_safe_names_are_read_from_a_record(toolkit, tried, work):
    assert toolkit("sweep", "toy.yaml", "seed=0:2", "--out", "d")[0] == 0
    assert pretend(("run", "toy.yaml", "--out", "outside"))[0] == 0
    record = recorded()
    names = ["../outside", "/etc", "", None, 3, "seed=1", "seed=1", "seed=0"]
    record["runs"] = [{"name": name} for name in names] + ["x"]
    Path("d/sweep.json").write_text(json.dumps(record))
    assert sweeps.run_paths(Path("d")) == [Path("d/seed=1"), Path("d/seed=0")]
    Path("d/sweep.json").write_text("[1]")
    assert sweeps.run_paths(Path("d")) == []


def command(tmp_path, *words, lease="lease"):
    lease = tmp_path / lease
    lease.touch()
    environment = (("PYTHONPATH", os.environ.get("PYTHONPATH")), ("A_THREAD_COUNT", None))
    return Command("x", words, str(tmp_path), str(tmp_path / "x"), environment, str(lease))


@pytest.fixture
def python(monkeypatch):
    """Lets `python -m toolkit` be `python -c`, without the second that toolkit takes to start."""
    popen = command_line.subprocess.Popen

    def quick(words, **options):
        return popen(
            [*words[:-3], "-c", words[-1]] if words[-3:-1] == ["-m", "toolkit"] else words,
            **options,
        )

    monkeypatch.setattr(command_line.subprocess, "Popen", quick)


@pytest.mark.parametrize(
    ("code", "expected", "message"),
    [
        ("pass", 0, ""),
        (
            "import sys; sys.exit('error: a\\n\\nerror: \\x1b[1mlast\\n \\n')",
            1,
            "error: \\x1b[1mlast",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137, ""),
        ("import os; assert 'A_THREAD_COUNT' not in os.environ", 0, ""),
        (
            "import os, sys; sys.exit(os.getpgid(0) != os.getppid())",
            0,
            "",
        ),  # out of reach of Ctrl-C
    ],
)
def test_a_process_tells_how_it_ended(tmp_path, python, monkeypatch, code, expected, message):
    monkeypatch.setenv("A_THREAD_COUNT", "7")
    found = command_line.execute(command(tmp_path, code), lambda: False)
    assert (found.code, found.message) == (expected, message)


def test_a_process_is_asked_once_to_stop(tmp_path, python):
    code = "import signal, sys, time\nseen = []\nsignal.signal(15, lambda *_: seen.append(1))\n"
    code += "open('ready', 'w')\nt = time.time()\nwhile time.time() < t + 0.5 + 9 * (not seen): time.sleep(0.01)\nsys.exit(len(seen))"
    asked = []

    def stopping():
        if (tmp_path / "ready").exists():
            asked.append(1)
        return bool(asked)

    assert command_line.execute(command(tmp_path, code), stopping).code == 1
    assert len(asked) > 2


def test_a_worker_without_the_lease_starts_nothing(tmp_path, python):
    given = command(tmp_path, "open('started', 'w')")
    Path(given.lease).unlink()
    assert command_line.leased(given).code == 5
    assert not (tmp_path / "started").exists()


def test_a_run_is_asked_once_when_its_sweep_is_killed(tmp_path, work):
    """Of a killed process the kernel closes the pipes; a second signal would make the run leave unsaved."""
    run = "import os, signal, time; seen = []; signal.signal(15, lambda *_: seen.append(1)); "
    run += "open('ready', 'w')\nwhile not seen: time.sleep(0.01)\ntime.sleep(0.3); open('seen', 'w').write(str(len(seen)))"
    popen = f"subprocess.Popen([sys.executable, '-I', {tied.__file__!r}, sys.executable, '-c', {run!r}], stdin=-1)"
    threads = "import subprocess, sys, threading, time; [threading.Thread(target=time.sleep, args=(60,)).start() for _ in range(9)]; "
    killed = subprocess.Popen([sys.executable, "-c", f"{threads} p = {popen}; time.sleep(60)"])
    awaited(Path("ready"))
    killed.kill()
    killed.wait()
    awaited(Path("seen"))
    assert Path("seen").read_text() == "1"


def awaited(path, seconds=300):
    """Waits for a file that a process writes at once."""
    deadline = time.monotonic() + seconds
    while not path.exists() or (path.name == "seen" and not path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Task:
    """A handle that is done at once, or never."""

    def __init__(self, result=None, done=True):
        self._result, self._done = result, done

    def done(self):
        return self._done

    def result(self):
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


def test_a_lost_worker_is_a_failed_run(tmp_path):
    given = [command(tmp_path)._replace(name=name) for name in "abc"]
    tasks = {"a": Task(Outcome("a", 0, "", 1.0)), "b": Task(RuntimeError("gone\nworker died\n")), "c": Task(Outcome("c", 6, "", 1.0))}  # fmt: skip
    found = list(window.windowed(given, 1, lambda c: tasks[c.name], StopRequest()))
    assert [(o.name, o.code) for o in found] == [("a", 0), ("b", 137), ("c", 6)]
    assert found[1].message == "lost: RuntimeError: worker died"


def test_after_a_signal_nothing_more_starts(tmp_path):
    given = [command(tmp_path)._replace(name=name) for name in "abcd"]
    stop, started, withdrawn = StopRequest(), [], []

    def submit(one):
        started.append(one.name)
        return Task(Outcome(one.name, 0, "", 0.0), done=one.name == "a")

    def withdraw(handle):
        withdrawn.append(handle)
        return True

    outcomes = window.windowed(given, 2, submit, stop, withdraw)
    assert next(outcomes).name == "a"
    stop.number = signal.SIGINT
    assert list(outcomes) == []
    assert started == ["a", "b"]
    assert len(withdrawn) == 1
    assert not Path(given[0].lease).exists()


def test_processes_of_this_machine(work):
    process = spawn("sweep", "toy.yaml", "nan_at=4,-1", "--jobs", "2", "--out", "d")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 6
    assert "1 of 2 runs failed" in err
    assert "nan_at=-1  finished" in out
    assert [run["exit"] for run in recorded()["runs"]] == [6, 0]
    assert (
        Path("d/logs/nan_at=4.err")
        .read_text()
        .startswith("error: d/nan_at=4: step 4: loss not finite")
    )
    assert not list(Path("d").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_sweep_goes_on_to_the_same_bits(work, number):
    (work / "experiments/toy.py").write_text(
        EXPERIMENT.replace(
            "def step(state):",
            "def step(state):\n        jax.debug.callback(lambda: __import__('time').sleep(0.05))",
        )
    )
    words = ("sweep", "toy.yaml", "seed=0:3", "steps=100", "log_every=1", "--jobs", "2")
    whole = spawn(*words, "--out", "whole")
    assert whole.wait(300) == 0
    broken = spawn(*words, "--out", "broken")
    rows = Path("broken/seed=1/metrics.jsonl")
    while not rows.exists() or rows.read_bytes().count(b"\n") < 5:
        time.sleep(0.05)
    broken.send_signal(number)
    code = broken.wait(60)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 128 + number)
    again = spawn(*words, "--out", "broken")
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    for seed in range(3):
        assert outcome(f"broken/seed={seed}") == outcome(f"whole/seed={seed}")
    events = Path("broken/seed=1/events.jsonl").read_text()
    assert '"resume"' in events
