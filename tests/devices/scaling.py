"""What 1, 2, 4 and 8 devices compute by one rule on one problem, for every rule of the tables of laws.

The rows are split by `tk.devices.split`, the program is `tk.devices.data_parallel`'s. To make the table of
docs/devices.md again:

    export JAX_ENABLE_X64=1 XLA_FLAGS=--xla_force_host_platform_device_count=8
    python -m tests.devices.scaling
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import toolkit as tk
from tests.bilevel.methods.test_methods import METHODS
from tests.laws import test_credit_rules as credit
from tests.laws import test_solve_rules as solves
from toolkit.types import Tree

PAGE = Path(__file__).parents[2] / "docs" / "devices.md"
MARKS = ("<!-- scaling: made by tests/devices/scaling.py -->\n", "<!-- end of scaling -->\n")
KEY = jax.random.key(0)
THETA, WEIGHTS = jnp.array([0.1, 0.2, 0.3]), jnp.array([1.0, -2.0, 0.5])

Gradient = Callable[[int], Callable[[Tree, tk.devices.Rows], Tree]]  # of a number of rows


def data(rows: int) -> dict[str, np.ndarray]:
    """Examples of a regression, and of three classes."""
    x = np.asarray(jax.random.normal(KEY, (rows, 3)))
    z = np.tanh(x @ WEIGHTS) + 0.1 * x[:, ::-1] @ WEIGHTS
    return {"x": x, "z": np.asarray(z), "target": np.asarray(credit.targets(rows))}


def of_adjoint(adjoint: Any) -> tuple[Gradient, Tree]:
    """The hypergradient of three penalties; means are over the true rows."""

    def gradient(theta: Tree, rows: tk.devices.Rows) -> Tree:
        x, z = rows.tree["x"], rows.tree["z"]
        inner = lambda y, theta: (
            0.5 * rows.mean((x @ y - z) ** 2) + 0.5 * jnp.sum(jnp.exp(theta) * y**2)
        )
        outer = lambda y, theta: rows.mean((x @ y + x[:, 0] - z) ** 2)
        solve = tk.argmin(inner, tk.solver.GradientDescent(0.2, 20, 0.5), adjoint=adjoint)
        return tk.hypergradient(outer, solve)(jnp.zeros(3), theta).gradient

    return lambda _: gradient, THETA


def of_method(make: Callable[..., Any]) -> tuple[Gradient, Tree]:
    """Three steps of a bilevel method on all of the true rows, whose sums go over the devices."""

    def inner(y: Tree, theta: Tree, batch: Any) -> jax.Array:
        penalty = 0.5 * jnp.sum(jnp.exp(theta) * y**2)
        return 0.5 * jnp.mean((batch["x"] @ y - batch["z"]) ** 2) + penalty

    def outer(y: Tree, theta: Tree, batch: Any) -> jax.Array:
        return jnp.mean((batch["x"] @ y + batch["x"][:, 0] - batch["z"]) ** 2)

    def steps(count: int) -> Callable[[Tree, tk.devices.Rows], Tree]:
        def path(theta: Tree, rows: tk.devices.Rows) -> Tree:
            examples = first(count, {name: rows.tree[name] for name in "xz"})
            init, step = make(batch_size=None)(tk.bilevel.Problem(inner, outer))
            state = init(KEY, jnp.zeros(3), theta, (examples, examples))
            one = lambda state, _: step(state, (examples, examples))
            state, _ = jax.lax.scan(one, state, length=3)
            return state.y, state.theta

        return path

    return steps, THETA


def of_credit_rule(rule: Any) -> tuple[Gradient, Tree]:
    """A learning rule's gradient of a network of three layers, of the true rows."""
    params = credit.DENSE.params
    # What is divided by a nudge of 1e-5 has 1e5 times the rounding of a sum: 1e-11 from one order to another.
    if isinstance(getattr(rule, "beta", None), float):
        rule = dataclasses.replace(rule, beta=max(rule.beta, 0.1))
    init, gradients = rule(credit.DENSE.model, credit.half_squares)
    x = credit.DENSE.batch[0]
    state = init(KEY, params, credit.DENSE.batch)

    def of(count: int) -> Callable[[Tree, tk.devices.Rows], Tree]:
        def gradient(params_and_state: Tree, rows: tk.devices.Rows) -> Tree:
            tree = first(count, rows.tree)
            inputs = jnp.tile(tree["x"], (1, x.shape[1]))[:, : x.shape[1]]
            return gradients(*params_and_state, (inputs, tree["target"]), KEY)[0]

        return gradient

    return of, (params, state)


def first(count: int, tree: Tree) -> Tree:
    """The true rows, where these are no mean's: whole arrays may be sliced anywhere, the compiler sees to it."""
    return jax.tree.map(lambda leaf: leaf[:count], tree)


def class_of(kind: str, name: str) -> type:
    """The settings class of a rule."""
    if kind == "bilevel method":
        return type(METHODS[name].make())
    return type(ADJOINTS[name] if kind == "adjoint" else credit.RULES[name].rule)


ADJOINTS = {name: rule.adjoint for name, rule in solves.RULES.items()} | solves.VALUE_RULES
KINDS = {
    "adjoint": {name: functools.partial(of_adjoint, rule) for name, rule in ADJOINTS.items()},
    "bilevel method": {
        name: functools.partial(of_method, method.make) for name, method in METHODS.items()
    },
    "credit rule": {
        name: functools.partial(of_credit_rule, row.rule) for name, row in credit.RULES.items()
    },
}


@functools.cache
def result(kind: str, name: str, devices: int, rows: int) -> np.ndarray:
    """What so many devices compute of so many rows, as one vector."""
    assert jax.config.jax_enable_x64, "float32 rounds to 1e-7"
    gradient, state = KINDS[kind][name]()
    mesh = tk.devices.mesh(data=devices)
    call = tk.devices.data_parallel(gradient(rows), mesh)
    found = call(state, tk.devices.split(data(rows), mesh))
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found)])


def difference(kind: str, name: str, devices: int, rows: int) -> float:
    """Between what so many devices compute and what one does, relative to the latter."""
    one, many = (result(kind, name, count, rows) for count in (1, devices))
    assert np.all(np.isfinite(one)) and (name == "stopped" or np.any(one))
    return float(np.linalg.norm(many - one) / (np.linalg.norm(one) or 1))


COLUMNS = ((2, 63), (4, 63), (8, 63), (8, 64))  # devices and rows


def table() -> str:
    """The table of the page: a row a rule, in each column the difference from one device."""
    heads = " | ".join(f"{devices} devices, {rows} rows" for devices, rows in COLUMNS)
    lines = [f"| | {heads} |", "|---|" + "---:|" * len(COLUMNS)]
    for kind, rules in KINDS.items():
        lines.append(f"| **{kind}** |" + " |" * len(COLUMNS))
        for name in rules:
            cells = (f"{difference(kind, name, *column):.0e}" for column in COLUMNS)
            lines.append(f"| {name} | {' | '.join(cells)} |")
            jax.clear_caches()
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    made = table()
    head, begin, rest = PAGE.read_text().partition(MARKS[0])
    PAGE.write_text(head + begin + made + MARKS[1] + rest.partition(MARKS[1])[2])
