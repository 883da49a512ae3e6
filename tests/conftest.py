"""Settings that every test needs, and no others."""

import ctypes
import gc
import platform
import resource
import sys

import hypothesis
import jax
import pytest

# Derivatives are held against closed forms at rtol 1e-6: float32 cannot tell a right rule from a nearly right one.
jax.config.update("jax_enable_x64", True)

# The first example of a property includes XLA's compilation, so no deadline; the same examples in every run, so
# that a failure in CI is a failure at home.
hypothesis.settings.register_profile("toolkit", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("toolkit")


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_end_with_their_file():
    """JAX keeps every program that it compiled: without this, a worker of the suite grows to 5 GB."""
    yield
    jax.clear_caches()
    gc.collect()  # traced programs refer to themselves in circles
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps freed memory for later; this hands it back


@pytest.hookimpl(optionalhook=True)  # a hook of pytest-xdist, which may be absent
def pytest_xdist_make_scheduler(config, log):
    """Give each file to one worker, so that its tests share compiled programs and free them together."""
    from xdist.scheduler import LoadFileScheduling

    # In the order of their names, not of how many tests they hold: the short files of tests/ itself come last, so
    # that no worker waits long for the other.
    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


PEAKS: list[float] = []  # GB, of each worker that ended


def pytest_sessionfinish(session):
    """Hand the peak of this worker's memory to the process that started it."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
        output["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Keep the peak of a worker that ended; one that crashed has none."""
    if "peak" in getattr(node, "workeroutput", {}):
        PEAKS.append(node.workeroutput["peak"])


def pytest_terminal_summary(terminalreporter):
    """Show the peaks: a laptop of 8 GB has room for two workers of 2 GB each."""
    if PEAKS:
        terminalreporter.write_line(
            "peak memory of the workers: " + ", ".join(f"{peak:.1f} GB" for peak in PEAKS)
        )
