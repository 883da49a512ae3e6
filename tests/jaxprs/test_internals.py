"""Each of JAX's internals that the package uses means what it meant: a new release fails here, by name."""

from __future__ import annotations

import jax
import pytest

from toolkit.jaxprs import read
from toolkit.jaxprs.internals.known import INTERNALS, Internal, faults


@pytest.mark.parametrize("internal", INTERNALS, ids=lambda internal: internal.name)
def test_an_internal_means_what_it_meant(internal: Internal):
    try:
        internal.check()
    except Exception as error:
        pytest.fail(
            f"jax {jax.__version__} has changed `{internal.name}`, seen in {', '.join(internal.seen)}; "
            f"it affects {internal.affects}: {error!r}"
        )


def test_the_installed_release_was_seen():
    unseen = [one.name for one in INTERNALS if jax.__version__ not in one.seen]
    assert not unseen, (
        f"add jax {jax.__version__} to `BOTH` in internals/known.py once its checks pass"
    )


def test_a_changed_internal_is_named_with_what_it_affects(monkeypatch):
    # As if a release renamed the parameter that holds the program of a `jit`.
    monkeypatch.setitem(read._CALLS, "jit", "renamed")
    monkeypatch.setitem(read._CALLS, "remat2", "renamed")
    monkeypatch.setattr(read, "called", lambda equation: equation.params[read._CALLS["jit"]])

    found = {fault.internal.name: str(fault) for fault in faults()}

    (said,) = [text for name, text in found.items() if name.startswith("jit, remat2")]
    assert "flops in toolkit describe (KeyError" in said
    assert "jax.core.eval_jaxpr" not in found
