"""The engines themselves: clusters on this machine, each with a failed run that hides no other, and a signal."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.run.conftest import outcome, spawn

pytestmark = pytest.mark.slow

ENGINES = {
    "dask": ("distributed", ("--engine", "dask")),
    "ray": ("ray", ("--engine", "ray")),
    "slurm": ("submitit", ("--engine", "slurm", "--cluster", "local")),
}


@pytest.fixture(params=ENGINES)
def words(request):
    package, words = ENGINES[request.param]
    pytest.importorskip(package)
    return words


def test_a_failure_hides_no_other_run(work, words):
    process = spawn("sweep", "toy.yaml", "nan_at=4,-1,-2", *words, "--out", "d")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 6, err
    assert "error: d: 1 of 3 runs failed, got nan_at=4 with exit code 6" in err
    assert "nan_at=4   exit 6: step 4: loss not finite" in out
    record = json.loads(Path("d/sweep.json").read_text())
    assert [run["exit"] for run in record["runs"]] == [6, 0, 0]
    # The bits, and what a resume compares, are those of a run by hand.
    assert spawn("run", "toy.yaml", "nan_at=-1", "--out", "by-hand").wait(120) == 0
    assert outcome("d/nan_at=-1") == outcome("by-hand")
    one, other = (json.loads(Path(d, "run.json").read_text()) for d in ("d/nan_at=-1", "by-hand"))
    assert one["environment"] == other["environment"]


def test_a_signal_saves_and_the_same_command_continues(work, words):
    settings = ("seed=0:3", "steps=100000", "log_every=100", "checkpoint_every=100000")
    process = spawn("sweep", "toy.yaml", *settings, *words, "--jobs", "2", "--out", "d")
    rows = [Path(f"d/seed={seed}/metrics.jsonl") for seed in (0, 1)]
    deadline = time.monotonic() + 200
    while not all(path.exists() and path.stat().st_size for path in rows):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    for path in rows:
        assert (
            json.loads((path.parent / "events.jsonl").read_text().splitlines()[-1])["event"]
            == "stop"
        )
    assert not Path("d/seed=2").exists()
    assert (
        spawn("sweep", "toy.yaml", *settings, "--out", "d").wait(500) == 0
    )  # by another engine, too
    assert '"resume"' in Path("d/seed=0/events.jsonl").read_text()


def test_a_scheduler_by_address(work):
    distributed = pytest.importorskip("distributed")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[3])
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        words = ("--engine", "dask", "--address", cluster.scheduler_address)
        process = spawn("sweep", "toy.yaml", "seed=0:2", *words, "--out", "d")
        assert process.wait(200) == 0, process.stderr.read()
    process = spawn("sweep", "toy.yaml", "seed=0:3", *words, "--out", "d")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "error: --address: no scheduler at" in err


def test_slurm_without_slurm_says_so(work):
    pytest.importorskip("submitit")
    process = spawn("sweep", "toy.yaml", "seed=0:2", "--engine", "slurm", "--partition", "p")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "no SLURM here" in err and "--cluster local" in err
    assert not Path("runs").exists()
