"""Every gradient policy of a loop, against the laws that all of them obey.

The loop carries a leapfrog pair (which has an exact inverse), a count, a flag, a key and None; its
derivatives are those of the same steps written out in Python. A new policy is one row in POLICIES.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.control import checkpoint, forward, reversible, store, truncate

STEPS, UNITS, STEP_SIZE = 13, 3, 0.2


class Operands(NamedTuple):
    """What is differentiated: closed over, where the loop begins, and its inputs."""

    weights: jax.Array  # [UNITS, UNITS]
    position: jax.Array  # [UNITS]
    xs: jax.Array  # [STEPS, UNITS]


class Policy(NamedTuple):
    gradient: Any  # operands -> the policy
    forward_mode: bool = True
    hessian: bool = True
    rtol: float = 1e-6


def _force(weights: jax.Array, q: jax.Array) -> jax.Array:
    return jnp.tanh(weights @ q)


def _reversible(operands: Operands) -> Any:
    def inverse(carry: dict, x: jax.Array) -> dict:
        q, p = carry["q"], carry["p"] - x
        p = p + STEP_SIZE / 2 * _force(operands.weights, q)
        q = q - STEP_SIZE * p
        p = p + STEP_SIZE / 2 * _force(operands.weights, q)
        return carry | {"q": q, "p": p, "count": carry["count"] - 1}

    return reversible(inverse)


POLICIES = {
    "store": Policy(lambda _: store()),
    "store_unrolled": Policy(lambda _: store(unroll=4)),
    "checkpoint_sqrt": Policy(lambda _: checkpoint()),
    "checkpoint_1": Policy(lambda _: checkpoint(1)),
    "checkpoint_5": Policy(lambda _: checkpoint(5)),
    "checkpoint_99": Policy(lambda _: checkpoint(99)),
    "checkpoint_levels": Policy(lambda _: checkpoint((13, 1, 1))),
    "checkpoint_levels_and_a_rest": Policy(lambda _: checkpoint((2, 3, 2))),
    "truncate_all": Policy(lambda _: truncate(STEPS)),
    "reversible": Policy(_reversible, forward_mode=False, hessian=False),
    "forward": Policy(lambda _: forward()),
}
# The others run the same code in other sizes; they follow under `-m slow`.
DAILY = {"store", "checkpoint_levels_and_a_rest", "reversible", "forward"}
some_policies = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in DAILY else [pytest.mark.slow]) for name in POLICIES],
)


def _start(position: jax.Array) -> dict:
    return {
        "q": position,
        "p": jnp.zeros_like(position),
        "count": 0,
        "flag": True,
        "key": jax.random.key(3),
        "nothing": None,
    }


def _body(weights: jax.Array) -> Any:
    def body(carry: dict, x: jax.Array) -> tuple[dict, Any]:
        p = carry["p"] - STEP_SIZE / 2 * _force(weights, carry["q"])
        q = carry["q"] + STEP_SIZE * p
        p = p - STEP_SIZE / 2 * _force(weights, q) + x
        count = carry["count"] + 1
        return carry | {"q": q, "p": p, "count": count}, {"energy": jnp.sum(q**2), "count": count}

    return body


def _loop(operands: Operands, gradient: Any) -> tuple[dict, Any]:
    return tk.loop(_body(operands.weights), _start(operands.position), operands.xs, None, gradient)


def _plain(operands: Operands, unroll: int = 1) -> tuple[dict, Any]:
    start = _start(operands.position)
    return jax.lax.scan(_body(operands.weights), start, operands.xs, unroll=unroll)


def _written_out(operands: Operands) -> tuple[dict, Any]:
    carry, ys, body = _start(operands.position), [], _body(operands.weights)
    for x in operands.xs:
        carry, y = body(carry, x)
        ys.append(y)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *ys)


def _loss(result: tuple[dict, Any]) -> jax.Array:
    carry, ys = result
    return jnp.sum(carry["q"] ** 3) + carry["p"][0] + jnp.mean(ys["energy"] * ys["count"])


def _under(name: str) -> Any:
    return lambda operands: _loss(_loop(operands, POLICIES[name].gradient(operands)))


def _operands() -> Operands:
    rng = np.random.default_rng(0)
    return Operands(
        jnp.asarray(np.eye(UNITS) + 0.3 * rng.normal(size=(UNITS, UNITS))),
        jnp.asarray(rng.normal(size=UNITS)),
        jnp.asarray(0.1 * rng.normal(size=(STEPS, UNITS))),
    )


EXACT = lambda operands: _loss(_written_out(operands))


def _close(got: Any, expected: Any, rtol: float = 1e-6) -> None:
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(expected))
    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-9 * scale)
    jax.tree.map(compare, got, expected)


def _bits(result: Any) -> list[bytes]:
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    data = [jax.random.key_data(x) if is_key(x) else x for x in jax.tree.leaves(result)]
    return [np.asarray(leaf).tobytes() for leaf in data]


@some_policies
@pytest.mark.parametrize("how", ["eager", "jit", "differentiated", "vmap"])
def test_value_is_that_of_lax_scan_to_the_bit(name: str, how: str) -> None:
    def value_and_grad(run: Any) -> Any:
        both = lambda o: (lambda result: (_loss(result), result))(run(o))
        return jax.jit(lambda o: jax.value_and_grad(both, has_aux=True, allow_int=True)(o)[0][1])

    transform = {
        "eager": lambda run: run,
        "jit": jax.jit,
        "differentiated": value_and_grad,
        "vmap": lambda run: (
            lambda o: jax.jit(jax.vmap(run))(
                jax.tree.map(lambda leaf: jnp.stack([leaf, leaf / 2]), o)
            )
        ),
    }[how]
    got = transform(lambda o: _loop(o, POLICIES[name].gradient(o)))(_operands())
    unroll = 4 if name == "store_unrolled" else 1  # steps side by side are rounded otherwise
    expected = jax.tree.map(jnp.asarray, transform(lambda o: _plain(o, unroll))(_operands()))
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    assert _bits(got) == _bits(expected)
    weak = lambda tree: [
        getattr(jax.typeof(leaf), "weak_type", None) for leaf in jax.tree.leaves(tree)
    ]
    assert weak(got) == weak(expected)


@some_policies
def test_gradient_is_that_of_the_steps_written_out(name: str) -> None:
    got = jax.jit(jax.grad(_under(name)))(_operands())
    _close(got, jax.jit(jax.grad(EXACT))(_operands()), POLICIES[name].rtol)


@some_policies
def test_hessian_is_exact_or_is_refused_by_name(name: str) -> None:
    along = lambda f: lambda w: f(_operands()._replace(weights=w))
    hessian = jax.jit(jax.hessian(along(_under(name))))
    if not POLICIES[name].hessian:
        with pytest.raises(TypeError, match=r"first derivatives only: use tk\.control\.store\(\)"):
            hessian(_operands().weights)
        return
    expected = jax.jit(jax.hessian(along(_plain_loss)))(_operands().weights)
    _close(hessian(_operands().weights), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["checkpoint_5", "forward"])
def test_reverse_over_reverse_is_exact(name: str) -> None:
    along = lambda f: jax.jit(jax.jacrev(jax.grad(lambda w: f(_operands()._replace(weights=w)))))
    weights = _operands().weights
    _close(along(_under(name))(weights), along(_plain_loss)(weights))


def _plain_loss(operands: Operands) -> jax.Array:
    return _loss(_plain(operands))


@some_policies
def test_forward_mode_is_exact_or_is_refused_by_name(name: str) -> None:
    operands = _operands()
    push = jax.jit(lambda f, o: jax.jvp(f, (o,), (jax.tree.map(jnp.cos, o),)), static_argnums=0)
    if not POLICIES[name].forward_mode:
        with pytest.raises(TypeError, match=r"no forward mode.*use tk\.control\.store\(\) or"):
            push(_under(name), operands)
        return
    _close(push(_under(name), operands), push(_plain_loss, operands))


@some_policies
def test_vmap_of_the_gradient(name: str) -> None:
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf / 2, -leaf]), _operands())
    got = jax.jit(jax.vmap(jax.grad(_under(name))))(many)
    alone = jax.jit(jax.grad(_plain_loss))
    expected = [alone(jax.tree.map(lambda x, i=i: x[i], many)) for i in range(3)]
    _close(got, jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected))


@some_policies
def test_gradient_inside_a_scan_and_of_a_jitted_function(name: str) -> None:
    def descend(f: Any) -> Any:
        gradient = jax.grad(jax.jit(f))
        step = lambda o, _: (jax.tree.map(lambda a, g: a - 1e-2 * g, o, gradient(o)), None)
        return jax.jit(lambda o: jax.lax.scan(step, o, None, 3)[0])(_operands())

    _close(descend(_under(name)), descend(_plain_loss))


def test_policies_are_different_code() -> None:
    distinct = ["store", "checkpoint_5", "checkpoint_levels", "reversible", "forward"]
    programs = {name: str(jax.make_jaxpr(jax.grad(_under(name)))(_operands())) for name in distinct}
    programs["plain"] = str(jax.make_jaxpr(jax.grad(EXACT))(_operands()))
    assert len(set(programs.values())) == len(programs)


@pytest.mark.parametrize("k", [1, 5, pytest.param(12, marks=pytest.mark.slow)])
def test_truncation_differentiates_windows_counted_from_the_end(k: int) -> None:
    def windows(operands: Operands) -> jax.Array:
        carry, ys, body = _start(operands.position), [], _body(operands.weights)
        for t, x in enumerate(operands.xs):
            if t and (STEPS - t) % k == 0:
                carry = carry | jax.lax.stop_gradient({"q": carry["q"], "p": carry["p"]})
            carry, y = body(carry, x)
            ys.append(y)
        return _loss((carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *ys)))

    under = lambda operands: _loss(_loop(operands, truncate(k)))
    got = jax.jit(jax.grad(under))(_operands())
    _close(got, jax.jit(jax.grad(windows))(_operands()))
    exact = jax.grad(_plain_loss)(_operands())
    assert np.linalg.norm(got.weights - exact.weights) > 1e-3 * np.linalg.norm(exact.weights)
    if k == 12:
        along = lambda f: jax.jit(jax.hessian(lambda w: f(_operands()._replace(weights=w))))
        _close(along(under)(_operands().weights), along(windows)(_operands().weights))


def test_truncation_without_outputs_differentiates_the_last_steps_alone() -> None:
    def under(operands: Operands) -> jax.Array:
        body = lambda carry, x: (_body(operands.weights)(carry, x)[0], None)
        start = _start(operands.position)
        return jnp.sum(tk.loop(body, start, operands.xs, None, truncate(5))[0]["q"] ** 3)

    def last_five(operands: Operands) -> jax.Array:
        body, carry = _body(operands.weights), _start(operands.position)
        for t, x in enumerate(operands.xs):
            if t == STEPS - 5:
                carry = carry | jax.lax.stop_gradient({"q": carry["q"], "p": carry["p"]})
            carry, _ = body(carry, x)
        return jnp.sum(carry["q"] ** 3)

    got = jax.jit(jax.grad(under))(_operands())
    _close(got, jax.jit(jax.grad(last_five))(_operands()))
    assert not got.position.any() and not got.xs[:-5].any() and got.xs[-5:-1].all()
