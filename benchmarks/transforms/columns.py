"""The transformations, each applied to a program and compared with the program as it stands.

Letters: `K` thetas, one a lane, a device or a step of a loop; a theta is `[3]`, a value is a scalar.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec as P

import toolkit as tk

Value = Callable[[Array], Array]
THETA = np.array([0.1, -0.2, 0.3])
DIRECTION = np.array([0.6, -0.3, 0.9])
DEVICES = 8
STEP = 1e-5  # of central differences: their error is 1e-10 of the third derivative, and 1e-11 of rounding


class Program(NamedTuple):
    """A public function in use: a scalar of three numbers."""

    value: Value
    # What it should be, in plain JAX, with the derivatives that the function promises; None: its own value, whose
    # derivatives are found by differences.
    exact: Value | None = None
    # Of derivatives, relative to the largest entry.
    rtol: float = 1e-5


class WrongNumber(Exception):
    """A transformed program computes something else than the program."""


class Truth:
    """The numbers that the columns are compared with."""

    def __init__(self, program: Program) -> None:
        self.program = program

    @functools.cached_property
    def value(self) -> np.ndarray:
        return np.asarray(self.program.value(jnp.asarray(THETA)))

    def values(self, thetas: np.ndarray) -> np.ndarray:
        return np.stack([np.asarray(self._compiled(t)) for t in thetas])

    @functools.cached_property
    def gradient(self) -> np.ndarray:
        return self.gradients(THETA[None])[0]

    def gradients(self, thetas: np.ndarray) -> np.ndarray:
        """`[K, 3]`."""
        if self.program.exact is not None:
            return np.asarray(jax.jit(jax.vmap(jax.grad(self.program.exact)))(thetas))
        return np.stack([differences(self._compiled, t) for t in thetas])

    @functools.cached_property
    def hessian(self) -> np.ndarray:
        """`[3, 3]`."""
        if self.program.exact is not None:
            return np.asarray(jax.jit(jax.jacrev(jax.grad(self.program.exact)))(THETA))
        return differences(jax.jit(jax.grad(self.program.value)), THETA)

    @functools.cached_property
    def _compiled(self) -> Value:
        """The program, compiled where that is possible: the column `jit` compares it with the plain call."""
        try:
            jitted = jax.jit(self.program.value)
            jitted(THETA)
        except Exception:
            return self.program.value
        return jitted


def differences(fun: Callable[[Any], Any], theta: np.ndarray) -> np.ndarray:
    """Central differences of `fun` in each entry of theta, along the first axis."""
    moves = STEP * np.eye(len(theta))
    return np.stack(
        [(np.asarray(fun(theta + d)) - np.asarray(fun(theta - d))) / (2 * STEP) for d in moves]
    )


def lanes(count: int) -> np.ndarray:
    """Thetas `[K, 3]` that differ."""
    return THETA + 0.05 * np.arange(count)[:, None] * np.array([1.0, -1.0, 0.5])


def jit(program: Program, truth: Truth) -> None:
    same("value", jax.jit(program.value)(THETA), truth.value, 1e-9)


def grad(program: Program, truth: Truth) -> None:
    same("gradient", jax.jit(jax.grad(program.value))(THETA), truth.gradient, program.rtol)


def jvp(program: Program, truth: Truth) -> None:
    push = lambda theta, t: jax.jvp(program.value, (theta,), (t,))
    value, tangent = jax.jit(push)(THETA, DIRECTION)
    same("value", value, truth.value, 1e-9)
    size = np.abs(truth.gradient).max() * np.abs(DIRECTION).max()
    same("tangent", tangent, truth.gradient @ DIRECTION, program.rtol, size)


def vmap(program: Program, truth: Truth) -> None:
    _each(program, truth, jax.jit(jax.vmap(_differentiated(program))), lanes(3))


def pmap(program: Program, truth: Truth) -> None:
    _each(program, truth, jax.pmap(_differentiated(program)), lanes(DEVICES))


def shard_map(program: Program, truth: Truth) -> None:
    one = _differentiated(program)

    def own(thetas: Array) -> Any:
        return jax.tree.map(lambda leaf: leaf[None], one(thetas[0]))

    mesh = jax.make_mesh((DEVICES,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.shard_map(own, mesh=mesh, in_specs=P("d"), out_specs=P("d"))
    _each(program, truth, jax.jit(spread), lanes(DEVICES))


def second_order(program: Program, truth: Truth) -> None:
    """Reverse mode over reverse mode."""
    found = jax.jit(jax.jacrev(jax.grad(program.value)))(THETA)
    same("second derivative", found, truth.hessian, 10 * program.rtol)


def checkpoint(program: Program, truth: Truth) -> None:
    found = jax.jit(_differentiated(program, jax.checkpoint(program.value)))(THETA)
    _compared(program, truth, found, THETA[None], lambda leaf: leaf[None])


def scan(program: Program, truth: Truth) -> None:
    def total(thetas: Array) -> Array:
        return jax.lax.scan(lambda sum_, t: (sum_ + program.value(t), None), 0.0, thetas)[0]

    _total(program, truth, total)


def control_flow(program: Program, truth: Truth) -> None:
    """A plain Python loop that recomputes each step in the backward pass."""
    step = jax.checkpoint(program.value)

    @tk.control_flow
    def total(thetas):
        sum_ = 0.0
        for theta in thetas:
            sum_ = sum_ + step(theta)
        return sum_

    _total(program, truth, total)


COLUMNS: dict[str, Callable[[Program, Truth], None]] = {
    one.__name__: one
    for one in (
        *(jit, grad, jvp, vmap, pmap, shard_map),
        *(second_order, checkpoint, scan, control_flow),
    )
}


def same(what: str, found: Any, expected: Any, rtol: float, size: float | None = None) -> None:
    """Raises: WrongNumber: they differ by more than `rtol` of the largest entry, or are not finite."""
    found, expected = np.asarray(found), np.asarray(expected)
    size = float(np.abs(expected).max()) if size is None else size
    if not np.all(np.isfinite(found)):
        raise WrongNumber(f"{what} {found}, expected {expected}")
    if found.shape != expected.shape or np.abs(found - expected).max() > rtol * size + 1e-12:
        raise WrongNumber(f"{what} {found}, expected {expected}")


def differentiable(program: Program) -> bool:
    """Whether reverse mode is traced without an error; the column `grad` says why not."""
    try:
        jax.eval_shape(jax.grad(program.value), THETA)
    except Exception:
        return False
    return True


def _differentiated(program: Program, value: Value | None = None) -> Callable[[Array], Any]:
    """The value and, where there is reverse mode, the gradient."""
    value = program.value if value is None else value
    return jax.value_and_grad(value) if differentiable(program) else lambda t: (value(t),)


def _each(program: Program, truth: Truth, mapped: Callable[..., Any], thetas: np.ndarray) -> None:
    _compared(program, truth, mapped(thetas), thetas, lambda leaf: leaf)


def _compared(
    program: Program,
    truth: Truth,
    found: Any,
    thetas: np.ndarray,
    stacked: Callable[[Any], Any],
) -> None:
    same("value", stacked(np.asarray(found[0])), truth.values(thetas), 1e-8)
    if len(found) == 2:
        same("gradient", stacked(np.asarray(found[1])), truth.gradients(thetas), program.rtol)


def _total(program: Program, truth: Truth, total: Value) -> None:
    """A sum over the steps of a loop, and its derivative through the loop."""
    thetas = lanes(3)
    found = jax.jit(_differentiated(program, total))(thetas)
    same("sum", found[0], truth.values(thetas).sum(), 1e-8)
    if len(found) == 2:
        same("gradient", found[1], truth.gradients(thetas), program.rtol)
