"""docs/from_jaxopt.md: each program gives what jaxopt's gives, and no public name of jaxopt is left out."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
import pytest

import toolkit as tk

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that it is no longer maintained
    import jaxopt

PAGE = (Path(__file__).parents[1] / "docs" / "from_jaxopt.md").read_text()
PREAMBLE, *BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TITLES = re.findall(r"^## \d+\. (.*)$", PAGE, re.MULTILINE)
PAIRS = dict(zip(TITLES, zip(BLOCKS[::2], BLOCKS[1::2], strict=True), strict=True))
# Where each program is compared: what `solution` takes.
AT: dict[str, Any] = {
    "Ridge regression by L-BFGS": 0.3,
    "Logistic regression by accelerated descent with a line search": 0.05,
    "The lasso by proximal gradient": 0.2,
    "A smooth loss on the simplex by projected gradient": "mixture",
    "Bounds by L-BFGS-B": 0.4,
    "A quadratic program": np.linspace(0.1, 0.5, 8),
    "A deep equilibrium model by Anderson acceleration": np.linspace(-1.0, 1.0, 8),
    "A root by bisection": 1.3,
    "Nonlinear least squares by Levenberg-Marquardt": "points",
    "A solver of one's own, differentiated at its optimality condition": 0.3,
    "Minibatches from an iterator": 0.1,
    "A hyperparameter by its validation loss": -1.0,
}
RTOL = 1e-6


@functools.cache
def _preamble() -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(PREAMBLE, "the preamble", "exec"), names)
    return names


def _point(title: str) -> Any:
    at = AT[title]
    if isinstance(at, str):
        times = np.linspace(0.0, 3.0, 60)
        noise = 0.1 * np.cos(np.arange(60))
        return {"mixture": _preamble()["mixture"], "points": 2 * np.exp(-0.7 * times) + noise}[at]
    return at


def _solution(block: str) -> Any:
    names = dict(_preamble())
    exec(compile(block, "a program", "exec"), names)
    return names["solution"]


def _weighted(solution: Any, theta: Any) -> Any:
    w = solution(theta)
    return jnp.sum(jnp.sin(jnp.arange(1.0, 1.0 + jnp.size(w))) * jnp.ravel(w))


@pytest.mark.parametrize("title", TITLES)
def test_the_port_gives_what_jaxopt_gives(title: str) -> None:
    theta = jnp.asarray(_point(title))
    found = []
    for block in PAIRS[title]:
        solution = _solution(block)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            found.append((solution(theta), jax.grad(functools.partial(_weighted, solution))(theta)))
    (theirs, their_slope), (ours, our_slope) = found
    for one, other in ((ours, theirs), (our_slope, their_slope)):
        scale = np.max(np.abs(other))
        np.testing.assert_allclose(one, other, rtol=RTOL, atol=RTOL * scale)
        assert scale > 0


def _public() -> set[str]:
    """Names as the page writes them: those of jaxopt itself bare, others behind their module."""
    names = {
        name
        for name in dir(jaxopt)
        if not name.startswith("_") and not inspect.ismodule(getattr(jaxopt, name))
    }
    modules = "base cond implicit_diff isotonic linear_solve loop loss objective perturbations projection prox"
    for module in (*modules.split(), "tree_util"):
        found = importlib.import_module(f"jaxopt.{module}")
        names |= {
            name
            for name in dir(found)
            if not name.startswith("_") and not inspect.ismodule(getattr(found, name))
        }
    return names


def test_every_public_name_has_a_counterpart_or_a_reason() -> None:
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    listed = {name.split(".")[-1] for row in rows for name in re.findall(r"`([\w.]+)`", row)}
    assert _public() == listed


def test_every_name_that_the_page_sends_to_exists() -> None:
    roots = {"tk": tk, "optax": optax, "optimistix": optimistix, "jax": jax}
    paths = set(re.findall(r"\b((?:tk|optax|optimistix|jax)(?:\.\w+)+)", PAGE))
    assert len(paths) > 60
    for path in sorted(paths):
        first, *rest = path.split(".")
        found = roots[first]
        for name in rest:
            found = getattr(found, name)
