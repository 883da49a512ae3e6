"""Functions with derivative rules of their own are found wherever they stand, and JAX's own are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.special as special
import numpy as np
import pytest
from jax.experimental.ode import odeint
from jax.extend.core import Primitive
from jax.interpreters import ad

import toolkit as tk
from toolkit.jaxprs.own_rules import rules

X = jnp.array([0.3, 0.4])


@jax.custom_vjp
def ruled(x):
    return x


ruled.defvjp(lambda x: (x, None), lambda _, bar: (jnp.clip(bar, -1, 1),))

vmapped = jax.custom_batching.custom_vmap(ruled)
vmapped.def_vmap(lambda _, batched, x: (ruled(x), batched[0]))
straight = jax.custom_jvp(lambda x: jnp.round(x))
straight.defjvp(lambda primals, dots: (jnp.round(*primals), *dots))
rounded_by_jax = jax.custom_jvp(jnp.floor)
rounded_by_jax.defjvps(lambda dot, out, x: dot)
leaky = jax.custom_jvp(jax.nn.relu)
leaky.defjvps(lambda dot, out, x: dot)
foreign_p = Primitive("doubled_by_a_user")
foreign_p.def_impl(lambda x: 2 * x)
foreign_p.def_abstract_eval(lambda x: x)
ad.deflinear2(foreign_p, lambda bar, _: [3 * bar])


def _scan(f: Callable) -> Callable:
    return lambda x: jax.lax.scan(lambda c, _: (f(c), None), x, None, 2)[0]


def _while(f: Callable) -> Callable:
    return lambda x: jax.lax.while_loop(lambda c: c[0] > 1, f, x)


def _solved(f: Callable) -> Callable:
    return lambda x: jax.lax.custom_linear_solve(f, x, lambda _, b: b, symmetric=True)


def _inside(rule: Any) -> Callable:
    inner = lambda z, x: 0.5 * jnp.sum((z - jnp.sin(x)) ** 2)
    descent = tk.solver.GradientDescent(0.5, 3)
    return lambda x: tk.argmin(inner, descent, adjoint=rule)(x, x).value


def _theta_ruled(x: Any) -> Any:
    inner = lambda z, x: 0.5 * jnp.sum((z - ruled(x)) ** 2)
    descent = tk.solver.GradientDescent(0.5, 3)
    return tk.argmin(inner, descent, adjoint=tk.adjoint.Unroll())(x, x).value


OWN = {
    "custom_vjp": ruled,
    "custom_jvp": straight,
    "jit": jax.jit(ruled),
    "jit of jit": jax.jit(lambda x: jax.jit(ruled)(x)),
    "checkpoint": jax.checkpoint(ruled),
    "vmap": jax.vmap(ruled),
    "scan": _scan(ruled),
    "while": _while(ruled),
    "cond": lambda x: jax.lax.cond(x[0] > 0, ruled, jnp.sin, x),
    "custom_linear_solve": _solved(ruled),
    "custom_vmap": vmapped,
    "custom_gradient": jax.custom_gradient(lambda x: (x, lambda bar: 2 * bar)),
    "linear_call": lambda x: jax.custom_derivatives.linear_call(
        lambda _, x: x, lambda _, bar: 2 * bar, (), x
    ),
    "another rule for a function of JAX": rounded_by_jax,
    "another rule for a function of JAX that has one": leaky,
    "a primitive of the user's": foreign_p.bind,
    "odeint": lambda x: odeint(lambda y, t: -y, x, jnp.arange(2.0)),
    "custom_root": lambda x: jax.lax.custom_root(
        lambda y: y - x, x, lambda f, y: y - f(y), lambda g, y: y
    ),
    "a damped solve": _inside(tk.adjoint.Implicit(damping=0.5)),
    "a linear solver of one's choice": _inside(tk.adjoint.Implicit(tk.linear.Neumann(2))),
    "a solve, in theta": _theta_ruled,
}
TRUE = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "mish": jax.nn.mish,
    "log_softmax": jax.nn.log_softmax,
    "logaddexp": lambda x: jnp.logaddexp(x, x),
    "xlogy": lambda x: special.xlogy(x, x),
    "entr": special.entr,
    "logit": special.logit,
    "sinc": jnp.sinc,
    "pinv": lambda x: jnp.linalg.pinv(jnp.diag(x)),
    "hypot": lambda x: jnp.hypot(x, x),
    "nonzero": lambda x: x[jnp.nonzero(x, size=2)[0]],
    "einsum": lambda x: jnp.einsum("i,i->i", x, x),
    "checkpoint": jax.checkpoint(jnp.sin),
    "stop_gradient": jax.lax.stop_gradient,
    "a rule that a gradient has used": jax.grad(lambda x: jnp.sum(ruled(x) ** 2)),
    "Unroll": _inside(tk.adjoint.Unroll()),
    "Unroll('sqrt')": _inside(tk.adjoint.Unroll("sqrt")),
    "Truncated": _inside(tk.adjoint.Truncated(2)),
    "OneStep": _inside(tk.adjoint.OneStep()),
    "Forward": _inside(tk.adjoint.Forward()),
    "Stopped": _inside(tk.adjoint.Stopped()),
    "Implicit": _inside(tk.adjoint.Implicit()),
    "while_loop": lambda x: tk.while_loop(lambda c: c[0] < 1, lambda c: 2 * c, x, max_steps=3),
}


@pytest.mark.parametrize("name", OWN)
def test_a_rule_that_may_be_no_derivative_is_found(name: str) -> None:
    assert rules(jax.make_jaxpr(OWN[name])(X)).own


@pytest.mark.parametrize("name", TRUE)
def test_a_rule_that_is_a_derivative_is_known(name: str) -> None:
    assert not rules(jax.make_jaxpr(TRUE[name])(X)).own


def test_the_function_is_named_with_its_place() -> None:
    found = rules(jax.make_jaxpr(jax.jit(ruled))(X))
    assert found.own == found.backward
    assert found.own.startswith("`ruled` (") and "test_own_rules.py:" in found.own
    assert np.isfinite(ruled(X)).all()
