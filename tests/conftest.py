"""Settings that every test needs, and no others."""

import ctypes
import gc
import platform

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
    """A file's tests run on one worker, so that they share compiled programs, and end together."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)
