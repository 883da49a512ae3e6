"""The equations of each method on the whole data, in numpy, on problems whose derivatives are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tests.bilevel.methods import quadratic as q
from toolkit.bilevel import Problem

# Distinct on purpose: a step taken with another's size would show.
A_, C_, E_ = 0.2, 0.15, 0.1  # steps of y, of theta, of the linear system
N_, Q_ = 3, 2  # inner and linear steps
M = q.MEAN
Path = Iterator[tuple[np.ndarray, np.ndarray]]  # (y, x) after each step


class Reference(NamedTuple):
    """The derivatives of a problem, as functions of (y, x)."""

    g_y: Callable[..., Any]
    g_x: Callable[..., Any]
    f_y: Callable[..., Any]
    f_x: Callable[..., Any]
    H: Callable[..., Any]  # d2_yy g
    J: Callable[..., Any]  # d2_xy g, [M, N]

    def hyper(self, y: Any, x: Any, terms: int | None) -> Any:
        """With the inverse, or the series of so many terms at E_."""
        inverse = np.linalg.inv(self.H(y, x)) if terms is None else self.series(y, x, terms)
        return self.f_x(y, x) - self.J(y, x) @ inverse @ self.f_y(y, x)

    def series(self, y: Any, x: Any, terms: int) -> Any:
        power = np.eye(q.N) - E_ * self.H(y, x)
        return E_ * sum(np.linalg.matrix_power(power, k) for k in range(terms))

    def descended(self, y: Any, x: Any, steps: int) -> Any:
        for _ in range(steps):
            y = y - A_ * self.g_y(y, x)
        return y


QUADRATIC = Reference(
    lambda y, x: M["A"] @ y + M["C"].T @ x + M["a"],
    lambda y, x: M["C"] @ y,
    lambda y, x: M["F"] @ y + M["K"].T @ x + M["p"],
    lambda y, x: M["E"] @ x + M["K"] @ y + M["e"],
    lambda y, x: M["A"],
    lambda y, x: M["C"],
)


def curved_inner(y: Any, x: Any, batch: Any) -> Any:
    """Neither derivative of it is the same at two points."""
    mixed = jnp.sum(jnp.sin(x)) * jnp.sum(y**3) / 9 + jnp.sum(x**2) * jnp.sum(jnp.cos(y)) / 5
    return q.inner(y, x, batch) + jnp.sum(jnp.cosh(y)) / 3 + mixed + jnp.sum(x**4)


def curved_outer(y: Any, x: Any, batch: Any) -> Any:
    return q.outer(y, x, batch) + jnp.sum(jnp.sin(y)) * jnp.sum(jnp.cos(x))


def _curved() -> Reference:
    g = lambda y, x: curved_inner(y, x, q.INNER)
    f = lambda y, x: curved_outer(y, x, q.OUTER)
    made = (
        jax.grad(g), jax.grad(g, 1), jax.grad(f), jax.grad(f, 1), jax.hessian(g),
        jax.jacobian(jax.grad(g, 1)),
    )  # fmt: skip
    return Reference(*(lambda *at, d=jax.jit(d): np.asarray(d(*at)) for d in made))


PROBLEMS = {
    "quadratic": (q.problem(), QUADRATIC),
    "curved": (Problem(curved_inner, curved_outer, q.INNER, q.OUTER), _curved()),
}


def start() -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(q.Y0), np.asarray(q.X0)


# The analytic derivatives of the quadratic, for what follows.
g_y, g_x, f_y, f_x, _, _ = QUADRATIC
hyper, descended = QUADRATIC.hyper, QUADRATIC.descended


def soba(p: Reference) -> Path:
    (y, x), v = start(), np.zeros(q.N)
    while True:
        y, v, x = (
            y - A_ * p.g_y(y, x),
            v - E_ * (p.H(y, x) @ v - p.f_y(y, x)),
            x - C_ * (p.f_x(y, x) - p.J(y, x) @ v),
        )
        yield y, x


def amigo(p: Reference) -> Path:
    (y, x), v = start(), np.zeros(q.N)
    while True:
        y = p.descended(y, x, N_)
        for _ in range(Q_):
            v = v - E_ * (p.H(y, x) @ v - p.f_y(y, x))
        x = x - C_ * (p.f_x(y, x) - p.J(y, x) @ v)
        yield y, x


def fsla(p: Reference) -> Path:
    (y, x), v = start(), np.zeros(q.N)
    while True:
        y = y - A_ * p.g_y(y, x)
        v = v - E_ * (p.H(y, x) @ v - p.f_y(y, x))
        x = x - C_ * (p.f_x(y, x) - p.J(y, x) @ v)
        yield y, x


def double(inner_steps: int, terms: int | None) -> Callable[[Reference], Path]:
    """Inner steps, then theta."""

    def path(p: Reference) -> Path:
        y, x = start()
        while True:
            y = p.descended(y, x, inner_steps)
            x = x - C_ * p.hyper(y, x, terms)
            yield y, x

    return path


def single(terms: int) -> Callable[[Reference], Path]:
    """Both at once."""

    def path(p: Reference) -> Path:
        y, x = start()
        while True:
            y, x = y - A_ * p.g_y(y, x), x - C_ * p.hyper(y, x, terms)
            yield y, x

    return path


def vrbo(p: Reference) -> Path:
    y, x = start()
    while True:
        x = x - C_ * p.hyper(y, x, Q_ + 1)
        y = p.descended(y, x, N_)
        yield y, x


def itd(p: Reference) -> Path:
    y, x = start()
    while True:
        J = np.zeros((q.M, q.N))  # less the derivative of y in x, transposed
        for _ in range(N_):
            J = J @ (np.eye(q.N) - A_ * p.H(y, x)) + A_ * p.J(y, x)
            y = y - A_ * p.g_y(y, x)
        x = x - C_ * (p.f_x(y, x) - J @ p.f_y(y, x))
        yield y, x


def t1t2(p: Reference) -> Path:
    y, x = start()
    while True:
        J = p.J(y, x)
        y = y - A_ * p.g_y(y, x)
        x = x - C_ * (p.f_x(y, x) - A_ * J @ p.f_y(y, x))
        yield y, x


def sama(p: Reference) -> Path:
    """The product at y+."""
    y, x = start()
    while True:
        y = y - A_ * p.g_y(y, x)
        x = x - C_ * (p.f_x(y, x) - A_ * p.J(y, x) @ p.f_y(y, x))
        yield y, x


def darts(virtual: float) -> Callable[[Reference], Path]:
    def path(p: Reference) -> Path:
        y, x = start()
        while True:
            w = y - virtual * p.g_y(y, x)
            x = x - C_ * (p.f_x(w, x) - virtual * p.J(y, x) @ p.f_y(w, x))
            y = y - A_ * p.g_y(y, x)
            yield y, x

    return path


L_ = 7.0


def f2sa(p: Reference) -> Path:
    (y, x), z, e = start(), start()[0], A_ / (2 * L_)
    while True:
        for _ in range(N_):
            z, y = z - A_ * p.g_y(z, x), y - e * (p.f_y(y, x) + L_ * p.g_y(y, x))
        x = x - C_ * (p.f_x(y, x) + L_ * (p.g_x(y, x) - p.g_x(z, x)))
        yield y, x


def f3sa(p: Reference) -> Path:
    (y, x), z, e = start(), start()[0], 0.01
    while True:
        z, y, x = (
            z - A_ * p.g_y(z, x),
            y - e * (p.f_y(y, x) + L_ * p.g_y(y, x)),
            x - C_ * (p.f_x(y, x) + L_ * (p.g_x(y, x) - p.g_x(z, x))),
        )
        yield y, x


def bome(p: Reference) -> Path:
    y, x = start()
    while True:
        w = p.descended(y, x, N_)
        f, slope = np.append(p.f_y(y, x), p.f_x(y, x)), p.g_y(y, x)
        constraint = np.append(slope, p.g_x(y, x) - p.g_x(w, x))
        multiplier = max(0, 0.5 - f @ constraint / (constraint @ constraint))
        d = f + multiplier * constraint
        y, x = y - A_ * d[: q.N], x - C_ * d[q.N :]
        yield y, x
