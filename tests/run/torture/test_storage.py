"""A disk that is full at any size, out of names, read-only, or limited by file size: one line, exit 5, and on to the
same bits once there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.run.torture import kit
from tests.run.torture.conftest import SHORT

PAGE = 4096  # a tmpfs gives out whole pages
PAD = "pad=2000"  # checkpoints of a few pages, so that a disk can be full at many points of a run


def mount(options, folder="disk"):
    Path(folder).mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting is refused here")


@pytest.fixture
def disk(work):
    """Mounts a small disk at `disk`."""
    yield mount
    subprocess.run(["umount", "-l", "disk"], capture_output=True)


def refused(err):
    """Whether it is the one line of a full disk; the warning that space is short may come before."""
    errors = [line for line in err if not line.startswith("warning: disk/x: short of space")]
    return len(errors) == 1 and errors[0].startswith("error: disk/") and "cannot write" in errors[0]


def fill_and_free(toolkit, small, large, finished):
    """Runs on a disk of the options `small`, then resumes on the same one of the options `large`."""
    shutil.rmtree("disk", ignore_errors=True)
    mount(small)
    try:
        code, out, err = toolkit("run", "stream.yaml", *SHORT, PAD, "--out", "disk/x")
        assert code in (0, 5), err
        if code == 5:
            assert refused(err), err
            assert not kit.temporaries("disk")
        subprocess.run(["mount", "-o", f"remount,{large}", "disk"], check=True)
        if code == 5:
            again, out, err = toolkit("run", "stream.yaml", *SHORT, PAD, "--out", "disk/x")
            assert (again, [e for e in err if not e.startswith("warning")]) == (0, [])
        assert kit.result("disk/x") == finished
        return code, "\n".join(out)
    finally:
        subprocess.run(["umount", "disk"], check=True)


@pytest.fixture
def padded(toolkit, quick):
    """The result of an uninterrupted run with a larger state."""
    assert toolkit("run", "stream.yaml", *SHORT, PAD, "--out", "padded")[0] == 0
    return kit.result("padded")


@pytest.mark.parametrize("sizes", [range(1, 44, 14), kit.full(range(1, 60))], ids=["few", "all"])
def test_a_disk_full_at_any_size(toolkit, padded, disk, sizes):
    codes = [fill_and_free(toolkit, f"size={n * PAGE}", "size=1g", padded)[0] for n in sizes]
    print(f"{codes.count(5)} of {len(codes)} sizes were too small")
    assert codes == sorted(codes, reverse=True) and 5 in codes
    assert len(codes) < 20 or (codes.count(5) >= 20 and codes[-1] == 0)


@pytest.mark.parametrize("counts", [range(2, 30, 9), kit.full(range(2, 40))], ids=["few", "all"])
def test_a_disk_without_names(toolkit, padded, disk, counts):
    codes = [fill_and_free(toolkit, f"nr_inodes={n}", "nr_inodes=1000", padded)[0] for n in counts]
    print(f"{codes.count(5)} of {len(codes)} counts were too small")
    assert 5 in codes


@pytest.mark.parametrize("moment", ["run", "resume", "report"])
def test_a_read_only_disk(toolkit, finished, stopped, disk, moment):
    disk("size=10m")
    if moment != "run":
        shutil.copytree(stopped("x") if moment == "resume" else "whole", "disk/x")
    subprocess.run(["mount", "-o", "remount,ro", "disk"], check=True)
    words = {
        "run": ("run", "stream.yaml", *SHORT, "--out", "disk/x"),
        "resume": ("resume", "disk/x"),
        "report": ("report", "disk/x", "--out", "disk/x/page.html"),
    }[moment]
    code, _, err = toolkit(*words)
    assert (code, len(err)) == (5, 1), err
    assert "Read-only file system" in err[0]
    if moment == "resume":
        subprocess.run(["mount", "-o", "remount,rw", "disk"], check=True)
        assert toolkit("resume", "disk/x")[0] == 0
        assert kit.result("disk/x") == finished


def test_a_directory_that_may_not_be_written(work):
    """As an ordinary user, for whom modes count."""
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    Path("closed").mkdir(mode=0o555)
    code, _, err = kit.finish("run", "stream.yaml", "--out", "closed/x")
    assert code == 5 and "Permission denied" in err


@pytest.mark.slow
@pytest.mark.parametrize("limits", [[*range(0, 2000, 100), 3000, 5000, 8000]], ids=["all"])
def test_a_limit_on_the_size_of_files(work, limits):
    """`ulimit -f`: Linux sends a signal, which Python ignores in favour of the error."""
    before = ("bash", "-c", 'ulimit -f "$0"; exec "$@"')
    words = ("run", "stream.yaml", *SHORT, "--out")
    assert kit.finish(*words, "whole")[0] == 0
    for number, limit in enumerate(limits):
        out = f"x{number}"
        blocks = (
            ("prlimit", f"--fsize={limit}") if shutil.which("prlimit") else (*before, limit // 1024)
        )
        code, _, err = kit.finish(*words, out, before=map(str, blocks))
        assert code == 5, (limit, err)
        assert len(err.splitlines()) == 1 and "File too large" in err, err
        code, _, err = kit.finish(*words, out)
        assert code == 0, err
        assert kit.result(out) == kit.result("whole")
        assert not kit.temporaries(".")


def test_a_warning_before_space_runs_out(toolkit, quick, disk):
    disk(f"size={9 * PAGE}")
    assert not any(
        "short of space" in e for e in toolkit("run", "stream.yaml", *SHORT, "--out", "disk/x")[2]
    )
    shutil.rmtree("disk/x")
    code, _, err = toolkit("run", "stream.yaml", *SHORT, PAD, "--out", "disk/x")
    assert code == 5
    assert err[0].startswith("warning: disk/x: short of space: ")
    assert "bytes free, expected at least 32,672 for two checkpoints" in err[0]


@pytest.mark.slow
def test_a_full_log_of_the_terminal_ends_no_run(work):
    """The run's own disk has room; only its stdout does not."""
    with open("/dev/full", "w") as full:
        code, _, err = kit.finish("run", "stream.yaml", *SHORT, "--out", "x", stdout=full)
    assert (code, [e for e in err.splitlines() if not e.startswith("warning")]) == (0, [])
    assert Path("x/final/metrics.json").is_file()
