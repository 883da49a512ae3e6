"""Parts of a model in several places: gradients are right, lie with their parts, and their bytes are told."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk

A, B = jax.devices()[0], jax.devices()[3]
FIRST, LAST = (
    tk.devices.mesh(data=4, devices=part) for part in (jax.devices()[:4], jax.devices()[4:])
)
PLACES = {"two_devices": (A, B), "two_meshes": (FIRST, LAST), "device_and_mesh": (A, LAST)}
X, Z = (jax.random.normal(jax.random.key(i), (32, 16)[: 2 - i]) for i in range(2))
PARAMS = {
    "encoder": {"w": jax.random.normal(jax.random.key(2), (16, 128)) / 4, "name": "encoder"},
    "head": jax.random.normal(jax.random.key(3), (128,)) / 11,
}


def _encode(params, x):
    return jnp.tanh(x @ params["w"])


def _classify(head, h, z):
    return jnp.mean((h @ head - z) ** 2)


def _without_name(params):
    return {"encoder": {"w": params["encoder"]["w"]}, "head": params["head"]}


def _plain(params, x, z):
    return _classify(params["head"], _encode(params["encoder"], x), z)


def _placed(where):
    p = tk.devices.place(dict(zip(("encoder", "head"), where, strict=True)))
    encode, classify = p.on("encoder", _encode), p.on("head", _classify)
    loss = lambda params, x, z: classify(params["head"], encode(params["encoder"], x), z)
    return p, loss, p.put(_without_name(PARAMS))


@pytest.mark.parametrize("where", PLACES.values(), ids=PLACES)
def test_gradients_are_right_and_lie_with_their_part(where: tuple) -> None:
    _, loss, params = _placed(where)
    expected = jax.grad(_plain)(_without_name(PARAMS), X, Z)
    gradient = jax.grad(loss)(params, X, Z)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), gradient, expected)
    for part, place in zip(("encoder", "head"), where, strict=True):
        devices = {place} if isinstance(place, jax.Device) else set(place.devices.flat)
        for tree in (params, gradient):
            assert {d for leaf in jax.tree.leaves(tree[part]) for d in leaf.devices()} == devices
    # Another time, and of what is handed over from outside.
    by_x = jax.grad(loss, 1)(params, X, Z)
    np.testing.assert_allclose(by_x, jax.grad(_plain, 1)(PARAMS_, X, Z), rtol=1e-11, atol=1e-17)
    hessian = lambda loss: (
        lambda p: jax.grad(lambda h: loss({**p, "head": h}, X, Z).sum())(p["head"])
    )
    second = lambda loss, p: jax.grad(lambda w: (hessian(loss)({**p, "encoder": w}) ** 2).sum())(
        p["encoder"]
    )
    np.testing.assert_allclose(
        second(loss, params)["w"], second(_plain, PARAMS_)["w"], rtol=1e-9, atol=1e-15
    )


PARAMS_ = _without_name(PARAMS)


@pytest.mark.parametrize("where", PLACES.values(), ids=PLACES)
def test_the_bytes_between_parts_those_of_gradients_included(where: tuple) -> None:
    p, loss, params = _placed(where)
    activations = 32 * 128 * 8
    assert p.moved(loss, params, X, Z) == {("encoder", "head"): activations}
    both = {("encoder", "head"): activations, ("head", "encoder"): activations}
    assert p.moved(jax.grad(loss), params, X, Z) == both
    assert p.moved(jax.value_and_grad(loss, (0, 1)), params, X, Z) == both
    assert p.moved(lambda: [jax.grad(loss)(params, X, Z) for _ in range(3)]) == {
        way: 3 * size for way, size in both.items()
    }
    # Labels that are kept on the encoder's device are sent too, and have no gradient.
    kept = p.put({"encoder": {"x": X.astype(jnp.float32), "label": jnp.zeros(32, jnp.int8)}})
    head = p.on("head", lambda h, batch: jnp.mean(h[:16] @ batch["x"].T * batch["label"]))
    counted = p.moved(jax.grad(lambda h: head(h, kept["encoder"])), params["head"])
    assert counted == {("encoder", "head"): 32 * 16 * 4 + 32}


def test_gradients_of_gradients_are_counted() -> None:
    """The inner gradient comes back twice: for the outer gradient there is a way forth and one back more."""
    p = tk.devices.place({"a": A, "b": B})
    first, last = p.on("a", jnp.sin), p.on("b", lambda h: jnp.sum(h**3))
    x = p.put({"a": jnp.arange(5.0)})["a"]
    outer = lambda x: jnp.sum(jax.grad(lambda x: last(first(x)))(x) ** 2)
    assert p.moved(outer, x) == {("a", "b"): 40, ("b", "a"): 40}
    assert p.moved(jax.grad(outer), x) == {("a", "b"): 80, ("b", "a"): 80}


def test_what_cannot_be_counted_is_refused() -> None:
    p, loss, params = _placed((A, B))
    pushed = lambda loss: jax.jvp(loss, (params, X, Z), (params, X, Z))[1]
    with pytest.raises(
        TypeError, match=r"`moved` counts what reverse mode sends back, .* use jax\.grad"
    ):
        p.moved(lambda: pushed(loss))
    np.testing.assert_allclose(pushed(loss), jax.jvp(_plain, *[(PARAMS_, X, Z)] * 2)[1], rtol=1e-12)
    encode = p.on("encoder", jnp.sin)
    double = p.on("head", lambda h: 2 * h)
    jacobian = lambda: jax.jacrev(lambda x: double(encode(x)))(jnp.ones(3))
    with pytest.raises(ValueError, match=r"one gradient at a time: got many under jax\.jacrev"):
        p.moved(jacobian)
    np.testing.assert_allclose(jacobian(), 2 * np.cos(1) * np.eye(3), rtol=1e-12)


def test_nothing_is_counted_elsewhere() -> None:
    p, loss, params = _placed((A, B))
    other, other_loss, other_params = _placed((A, LAST))
    counted = p.moved(lambda: other_loss(other_params, X, Z))
    assert counted == {}
    inner: list = []
    outer = p.moved(
        lambda: inner.append(
            other.moved(lambda: (loss(params, X, Z), other_loss(other_params, X, Z)))
        )
    )
    assert outer == inner[0] == {("encoder", "head"): 32 * 128 * 8}
    same = tk.devices.place({"a": A, "b": A})
    add = same.on("b", lambda a, b: a + b)
    assert same.moved(lambda: add(same.put({"a": jnp.ones(3)})["a"], 1)) == {}
    # A failure leaves nothing behind.
    with pytest.raises(ZeroDivisionError):
        p.moved(lambda: 1 / 0)
    assert p.moved(lambda: None) == {}


def test_an_inner_solve_in_one_place_and_the_outer_loss_in_another() -> None:
    def inner(y, theta):
        return 0.5 * jnp.mean((X @ y - Z) ** 2) + 0.5 * jnp.sum(jnp.exp(theta) * y**2)

    def solved(theta):
        return tk.argmin(inner, tk.solver.Newton(9, 1e-13))(jnp.zeros(16), theta).value

    def outer(y, weight):
        return jnp.sum(jnp.tanh(weight * y) ** 2)

    theta, weight = jnp.linspace(-1, 1, 16), jnp.linspace(1, 2, 16)
    expected = jax.jit(jax.grad(lambda t, w: outer(solved(t), w), (0, 1)))(theta, weight)
    p = tk.devices.place({"inner": A, "outer": LAST})
    solve, loss = p.on("inner", solved), p.on("outer", outer)
    held = p.put({"inner": theta, "outer": weight})
    gradient = jax.grad(lambda t, w: loss(solve(t), w), (0, 1))(held["inner"], held["outer"])
    for found, right in zip(gradient, expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-9, atol=1e-14)


def test_leaves_of_every_kind_move() -> None:
    p, _, _ = _placed((A, B))
    state = {
        "w": jnp.ones(2, jnp.bfloat16),
        "key": jax.random.key(0),
        "n": np.arange(3),
        "s": "relu",
        "o": None,
    }
    held = p.put({"head": state})["head"]
    assert held["s"] == "relu" and held["o"] is None
    assert all(held[name].devices() == {B} for name in ("w", "key", "n"))
    back = p.on(
        "encoder", lambda t, scale: scale * t["w"] + t["n"].sum() + jax.random.normal(t["key"])
    )
    arrays = {name: held[name] for name in ("w", "key", "n")}
    assert back(arrays, 2.0).devices() == {A}
    # No argument has a place: the result has one all the same.
    assert p.on("head", lambda: jnp.ones(3))().devices() == {B}
    by_int = jax.grad(lambda n: back({**arrays, "n": n}, 2.0).sum().astype(float), allow_int=True)
    assert by_int(held["n"]).dtype == jax.dtypes.float0
    assert p.on("head", lambda x, *, scale: x * scale)(
        jnp.ones(2), scale=jnp.ones(2)
    ).devices() == {B}


def test_a_placed_function_under_jit_is_refused_by_its_name() -> None:
    _, loss, params = _placed((A, B))
    said = r"`_encode`, placed on 'encoder', is called under jax\.jit.* call it outside"
    scanned = lambda params, x, z: jax.lax.scan(
        lambda c, _: (loss(params, x, z), None), 0.0, None, 2
    )
    for way in (jax.jit(loss), jax.grad(jax.jit(loss)), jax.grad(jax.checkpoint(loss)), scanned):
        with pytest.raises(ValueError, match=said):
            way(params, X, Z)
    p = tk.devices.place({"encoder": A})
    with pytest.raises(
        ValueError, match=r"`<lambda>`, placed on 'encoder', is called under jax\.jit"
    ):
        jax.jit(lambda: p.on("encoder", lambda: jnp.ones(3))())()


def test_a_placed_function_under_vmap_is_refused_and_the_remedy_works() -> None:
    p, loss, params = _placed((A, B))
    one = lambda x, z: loss(params, x[None], z[None])
    said = r"`_encode`, placed on 'encoder', .* jax\.vmap.* \.on\('encoder', jax\.vmap\(_encode\)\)"
    for way in (
        jax.vmap(one),
        jax.vmap(jax.grad(one)),
        jax.grad(lambda x, z: jax.vmap(one)(x, z).sum()),
    ):
        with pytest.raises(ValueError, match=said):
            way(X, Z)
    square = p.on("head", jax.vmap(lambda h, x: (h[:16] @ x) ** 2, (None, 0)))
    gradient = jax.grad(lambda h: square(h, X).sum())(params["head"])
    np.testing.assert_allclose(gradient[:16], 2 * (X @ params["head"][:16]) @ X, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda p: p.put({"tail": X}),
            "'tail' is no part of this placement: its parts are 'encoder', 'head'.",
        ),
        (
            lambda p: p.on("tail", _encode),
            "'tail' is no part of this placement: its parts are 'encoder', 'head'.",
        ),
        (lambda p: tk.devices.place({}), "`parts` must be a dict of devices or meshes by name"),
        (lambda p: tk.devices.place([A, B]), "`parts` must be a dict of devices or meshes by name"),
        (
            lambda p: tk.devices.place({"a": "gpu"}),
            "`parts` must hold devices or meshes: got str for 'a'; use",
        ),
    ],
)
def test_what_is_refused(call, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        call(_placed((A, B))[0])
