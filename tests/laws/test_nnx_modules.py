"""Modules of flax's nnx as, or in, `y` and `theta`: parameters move, all else is carried, nothing is lost in silence."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import toolkit as tk
from toolkit.adjoint import (
    Forward,
    Implicit,
    Nudged,
    OneStep,
    Reversible,
    Stopped,
    Truncated,
    Unroll,
)

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(12, 2)))
LABELS = jnp.sin(X[:, 0]) + 0.2 * X[:, 1]
MEAN, VAR = jnp.asarray(RNG.normal(size=3)), jnp.asarray(RNG.uniform(0.5, 2, size=3))


class Net(nnx.Module):
    def __init__(self, training: bool = False, dropping: bool = False) -> None:
        how: dict[str, Any] = {"rngs": nnx.Rngs(1), "param_dtype": jnp.float64}
        self.hidden = nnx.Linear(2, 3, **how)
        self.bn = nnx.BatchNorm(3, use_running_average=not training, **how)
        # Made anew, because flax makes them in float32.
        self.bn.mean, self.bn.var = nnx.BatchStat(MEAN), nnx.BatchStat(VAR)
        self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(2), deterministic=not dropping)
        self.out = nnx.Linear(3, 1, **how)
        self.shift = nnx.Variable(jnp.asarray(0.3))  # of no class that flax knows

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(self.drop(jnp.tanh(self.bn(self.hidden(x)))))[:, 0] + self.shift[...]


def plain(net: Net) -> dict[str, jax.Array]:
    """The parameters of a net, or their gradient, without any module."""
    layers = {"hidden": net.hidden, "out": net.out}
    found = {f"{name}.{part}": getattr(layer, part)[...] for name, layer in layers.items() for part in ("kernel", "bias")}  # fmt: skip
    return {**found, "scale": net.bn.scale[...], "bias": net.bn.bias[...]}


def by_hand(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    hidden = x @ p["hidden.kernel"] + p["hidden.bias"]
    normed = (hidden - MEAN) / jnp.sqrt(VAR + 1e-5) * p["scale"] + p["bias"]
    return (jnp.tanh(normed) @ p["out.kernel"] + p["out.bias"])[:, 0] + 0.3


def of_net(y: Net, theta: jax.Array) -> jax.Array:
    weights = jax.tree.leaves(nnx.state(y, nnx.Param))
    return jnp.mean((y(X) - LABELS) ** 2) + jnp.exp(theta) * sum(jnp.sum(w**2) for w in weights)


def of_plain(y: dict[str, jax.Array], theta: jax.Array) -> jax.Array:
    return jnp.mean((by_hand(y, X) - LABELS) ** 2) + jnp.exp(theta) * sum(
        jnp.sum(w**2) for w in y.values()
    )


OUTER = lambda y, theta: jnp.mean((y(X[:5]) - LABELS[:5] + 0.1) ** 2)
OUTER_BY_HAND = lambda y, theta: jnp.mean((by_hand(y, X[:5]) - LABELS[:5] + 0.1) ** 2)
THETA = jnp.asarray(-2.0)
DESCENT = tk.solver.GradientDescent(0.3, 30, momentum=0.5)
RULES = [
    Implicit(), Unroll(), Truncated(3), OneStep(), Forward(), Reversible(), Nudged(1e-3), Stopped(),
]  # fmt: skip


@pytest.mark.parametrize("adjoint", RULES, ids=lambda rule: type(rule).__name__)
def test_a_module_as_y_is_its_parameters(adjoint: Any) -> None:
    net = Net()
    solve, other = (tk.argmin(fun, DESCENT, adjoint=adjoint) for fun in (of_net, of_plain))
    of = lambda hg: (
        hg.value,
        hg.gradient,
        hg.solution.value,
    )  # a report would cost more to compile
    value, gradient, y = jax.jit(lambda *args: of(tk.hypergradient(OUTER, solve)(*args)))(
        net, THETA
    )
    expected = jax.jit(lambda *args: of(tk.hypergradient(OUTER_BY_HAND, other)(*args)))(
        plain(net), THETA
    )
    np.testing.assert_allclose((value, gradient), expected[:2], rtol=1e-6)
    assert isinstance(y, Net)
    for name, weights in plain(y).items():
        np.testing.assert_allclose(weights, expected[2][name], rtol=1e-6)
    # All else is what it was, in the solution and in what was handed in.
    for one in (y, net):
        np.testing.assert_array_equal(one.bn.mean[...], MEAN)
        np.testing.assert_array_equal(one.bn.var[...], VAR)
        assert one.shift[...] == 0.3 and one.drop.rngs.count[...] == 0


def _ridge(y: jax.Array, features: jax.Array) -> jax.Array:
    return jnp.mean((X @ y - features) ** 2) + 0.05 * jnp.sum(y**2)


def _ridge_outer(y: jax.Array) -> jax.Array:
    return jnp.mean((X @ y - LABELS) ** 2)


def test_a_module_in_theta_has_a_gradient_in_its_parameters_alone() -> None:
    net, y0 = Net(), jnp.zeros(2)
    solver = tk.solver.GradientDescent(0.4, 60)
    theta = {"net": net, "scale": jnp.asarray(1.5)}
    solve = tk.argmin(lambda y, t: _ridge(y, t["scale"] * t["net"](X)), solver)
    hg = tk.hypergradient(lambda y, t: _ridge_outer(y), solve)(y0, theta)
    other = tk.argmin(lambda y, t: _ridge(y, t["scale"] * by_hand(t["net"], X)), solver)
    by_plain = {**theta, "net": plain(net)}
    expected = tk.hypergradient(lambda y, t: _ridge_outer(y), other)(y0, by_plain).gradient
    np.testing.assert_allclose(hg.gradient["scale"], expected["scale"], rtol=1e-6)
    gradient = hg.gradient["net"]
    for name, slope in plain(gradient).items():
        np.testing.assert_allclose(slope, expected["net"][name], rtol=1e-6, atol=1e-14)
    kept = jax.tree.leaves(
        nnx.state(gradient, nnx.Not(nnx.Param)), is_leaf=lambda leaf: leaf is None
    )
    assert kept and all(leaf is None for leaf in kept)

    optimizer = nnx.Optimizer(net, optax.sgd(0.1), wrt=nnx.Param)
    before = plain(net)
    optimizer.update(net, gradient)
    for name, weights in plain(net).items():
        np.testing.assert_allclose(weights, before[name] - 0.1 * expected["net"][name], rtol=1e-6)
    np.testing.assert_array_equal(net.bn.mean[...], MEAN)


def test_what_is_carried_is_differentiated_by_jax_as_a_closure_is() -> None:
    """A gradient that the user takes by JAX itself, in the mean of a batch norm, is right and not zero."""
    net, solver = Net(), tk.solver.GradientDescent(0.4, 60)

    def through(mean: jax.Array, in_theta: bool) -> jax.Array:
        graph, state, rest = nnx.split(net, nnx.Param, ...)
        rest = nnx.clone(rest)
        rest["bn"]["mean"][...] = mean
        moved = nnx.merge(graph, state, rest)
        if in_theta:
            solve = tk.argmin(lambda y, net: _ridge(y, net(X)), solver)
            return _ridge_outer(solve(jnp.zeros(2), moved).value)
        features = moved(X)
        return _ridge_outer(tk.argmin(lambda y, _: _ridge(y, features), solver)(jnp.zeros(2)).value)

    got, expected = (jax.grad(through)(MEAN, in_theta) for in_theta in (True, False))
    assert jnp.linalg.norm(expected) > 1e-3
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("net", "path"),
    [
        (lambda: Net(training=True), "`bn.mean` (BatchStat)"),
        (lambda: Net(dropping=True), "`drop.rngs.count` (RngCount)"),
    ],
    ids=["batch norm", "dropout"],
)
def test_a_change_that_would_be_lost_is_refused_by_its_path(
    net: Callable[[], Net], path: str
) -> None:
    refused = lambda name, path=path: pytest.raises(ValueError, match=re.escape(f"`{name}` must leave") + ".*" + re.escape(path))  # fmt: skip
    solve = tk.argmin(of_net, DESCENT)
    with refused("fun"):
        solve(net(), THETA)
    with refused("fun"):
        jax.jit(tk.hypergradient(OUTER, solve))(net(), THETA)
    with refused("fun", path.replace("`", "`net.", 1)):
        tk.argmin(lambda y, t: of_net(y["net"], t), DESCENT, adjoint=Unroll())(
            {"net": net()}, THETA
        )
    with refused("fun"):
        tk.argmin(lambda y, t: _ridge(y, t(X)), DESCENT)(jnp.zeros(2), net())
    with refused("outer"):
        tk.hypergradient(
            lambda y, t: _ridge_outer(y) + t(X).sum(), tk.argmin(_ridge_free, DESCENT)
        )(jnp.zeros(2), net())
    problem = tk.bilevel.Problem(lambda y, t, _: of_net(y, t), lambda y, t, _: OUTER(y, t))
    with refused("inner"):
        tk.bilevel.SOBA(0.1, 0.1)(problem)[0](jax.random.key(0), net(), THETA)
    # In evaluation the same module passes.
    quiet = net()
    quiet.eval()
    assert solve(quiet, THETA).info.steps == 30


def _ridge_free(y: jax.Array, theta: Any) -> jax.Array:
    return _ridge(y, LABELS)


def test_a_change_comes_back_as_aux() -> None:
    def fun(y: Net, theta: jax.Array) -> tuple[jax.Array, Any]:
        loss = of_net(y, theta)
        return loss, nnx.state(y, nnx.BatchStat, nnx.RngCount)

    net = Net(training=True, dropping=True)
    solution = jax.jit(tk.argmin(fun, DESCENT, adjoint=Unroll(), has_aux=True))(net, THETA)
    stats, counts = solution.aux
    y = solution.value
    hidden = X @ y.hidden.kernel[...] + y.hidden.bias[...]
    # flax's moving average, one step of it, at the solution.
    expected = 0.99 * MEAN + 0.01 * hidden.mean(0)
    np.testing.assert_allclose(stats["bn"]["mean"][...], expected, rtol=1e-6)
    assert counts["drop"]["rngs"]["count"][...] == 1
    np.testing.assert_array_equal(y.bn.mean[...], MEAN)
    assert y.drop.rngs.count[...] == 0 == net.drop.rngs.count[...]


def test_bilevel_methods_move_parameters_alone() -> None:
    problem = tk.bilevel.Problem(lambda y, t, _: of_net(y, t), lambda y, t, _: OUTER(y, t))
    other = tk.bilevel.Problem(lambda y, t, _: of_plain(y, t), lambda y, t, _: OUTER_BY_HAND(y, t))
    net, ends = Net(), []
    for one, y0 in ((problem, net), (other, plain(net))):
        init, step = tk.bilevel.SOBA(0.1, 0.1)(one)
        state = init(jax.random.key(0), y0, THETA)
        ends.append(tk.bilevel.iterate(step, state, 4)[0])
    np.testing.assert_allclose(ends[0].theta, ends[1].theta, rtol=1e-6)
    for name, weights in plain(ends[0].y).items():
        np.testing.assert_allclose(weights, ends[1].y[name], rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(ends[0].y.bn.mean[...], MEAN)


def test_a_variable_in_two_places_is_refused() -> None:
    class Tied(nnx.Module):
        def __init__(self) -> None:
            self.first = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
            self.again = self.first

    with pytest.raises(ValueError, match=r"`first\.bias` is `again\.bias` too"):
        tk.argmin(lambda y, _: jnp.sum(y.again(X) ** 2), DESCENT)(Tied())


def test_the_example_of_the_docs() -> None:
    text = (Path(__file__).parents[2] / "docs/modules.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(block, namespace)
    assert len(blocks) == 3


def test_a_module_without_parameters_is_refused_as_y() -> None:
    with pytest.raises(ValueError, match=r"moves in its nnx\.Params alone"):
        tk.argmin(lambda y, _: jnp.sum(y.count[...] ** 2), DESCENT)(nnx.RngStream(0, tag="a"))


def test_neither_the_package_nor_a_solve_imports_flax() -> None:
    code = (
        "import sys, toolkit as tk, jax.numpy as jnp\n"
        "solve = tk.argmin(lambda y, t: jnp.sum((y - t) ** 2), tk.solver.GradientDescent(0.1, 3))\n"
        "tk.hypergradient(lambda y, t: jnp.sum(y), solve)(jnp.zeros(2), jnp.ones(2))\n"
        "assert 'flax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
