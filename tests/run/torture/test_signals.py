"""SIGTERM, SIGINT, SIGHUP at any time: the code of the signal, no traceback, and the same bits when resumed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.run.torture import kit

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
LONG = ("steps=200000", "checkpoint_every=20000", "log_every=100")
ENDLESS = ("steps=1000000000", "checkpoint_every=100000", "log_every=1000")


def signaled(number, out, *more):
    """(exit code, stdout, stderr) of a run that gets a signal while it steps."""
    process = kit.start("run", "stream.yaml", *LONG, *more, "--out", out)
    assert kit.wait_until(lambda: kit.steps_logged(out) > 100, process)
    process.send_signal(number)
    text, err = process.communicate(timeout=300)
    return process.returncode, text, err


@pytest.mark.slow
@pytest.mark.parametrize("number", list(CODES))
def test_a_signal_saves_at_the_next_step_and_the_run_goes_on_to_the_same_bits(work, number):
    code, out, err = signaled(number, "x")
    assert (code, err) == (CODES[number], "")
    stopped = int(out.rpartition("at step ")[2].partition(";")[0])
    assert stopped % 20_000 != 0  # it did not wait for the next checkpoint of its schedule
    assert (Path("x/checkpoints") / str(stopped)).is_dir()
    assert json.loads(Path("x/run.json").read_text())["status"] == "stopped"
    code, out, _ = kit.finish("resume", "x")
    assert code == 0 and f"continuing from step {stopped}\n" in out
    assert kit.finish("run", "stream.yaml", *LONG, "--out", "y")[0] == 0
    assert kit.result("x") == kit.result("y")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_leaves_at_once(work, number):
    source = work / "experiments/stream.py"
    slow = "jax.lax.fori_loop(0, 200_000_000, lambda i, a: a + jnp.sin(a), state.w[0])"
    source.write_text(source.read_text().replace("metrics = {", f"metrics = {{'slow': {slow}, "))
    process = kit.start("run", "stream.yaml", "--out", "x")
    assert kit.wait_until(lambda: Path("x/events.jsonl").exists(), process)
    time.sleep(4)  # compiled by now, and in the first step for minutes
    process.send_signal(number)
    time.sleep(0.5)
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == CODES[number]
    assert err == f"stopped: {number.name} at once\n"


@pytest.mark.parametrize("times", [4, kit.full(60)])
def test_a_signal_while_python_imports_leaves_no_traceback(work, times):
    """From when our first line runs; before it, the interpreter itself answers: by its own death from the signal, or,
    while it imports what it needs itself, by exit code 1 and a traceback of its own."""
    draw, codes = random.Random(1), []
    whole = seconds_of("list")
    for count in range(times):
        number = list(CODES)[count % 3]
        command = (
            ("resume", "nowhere")
            if count % 5 == 0
            else ("run", "stream.yaml", *ENDLESS, "--out", f"x{count}")
        )
        process = kit.start(*command)
        time.sleep(draw.uniform(0.0, 3 * whole))
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
        codes.append(process.returncode)
        if process.returncode == 1:  # no line of ours has run: its traceback names none
            assert number == signal.SIGINT and "KeyboardInterrupt" in err, err
            ours = any(line.startswith("error:") for line in err.splitlines())
            assert f"toolkit{os.sep}" not in err and not ours, err
            continue
        assert process.returncode in (CODES[number], -number, 2), (process.returncode, err)
        if process.returncode == CODES[number] or number != signal.SIGINT:
            assert "Traceback" not in err, err
    print(sorted(codes))
    assert any(code > 2 for code in codes)


def seconds_of(*words):
    began = time.monotonic()
    kit.finish(*words)
    return time.monotonic() - began


@pytest.mark.slow
def test_nohup_is_respected(work):
    process = kit.start(
        "run", "stream.yaml", *LONG, "--out", "x", before=("nohup",), stdin=subprocess.DEVNULL
    )
    assert kit.wait_until(lambda: kit.steps_logged("x") > 20, process)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=300)
    assert process.returncode == 0
