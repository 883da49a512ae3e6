"""`gradient_report` and `clip_report` against NumPy, in every type, and under every transformation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from toolkit.debug import GradientReport, clip_report, gradient_report

TYPES = ["float64", "float32", "bfloat16", "float16", "complex64", "complex128", "float8_e4m3fn"]


def drawn(dtype: str, seed: int = 0) -> dict[str, Any]:
    """A tree with zeros, an empty leaf, a scalar, and everything that is to be skipped."""
    rng = np.random.default_rng(seed)

    def leaf(*shape: int) -> jax.Array:
        values = rng.normal(size=shape) + (1j * rng.normal(size=shape) if "complex" in dtype else 0)
        return jnp.asarray(np.where(rng.random(shape) < 0.3, 0, values)).astype(dtype)

    return {
        "dense": {"w": leaf(5, 4), "b": leaf(4)},
        "empty": leaf(0, 3),
        "scalar": leaf(),
        "list": [leaf(6), None],
        "count": jnp.arange(3),
        "mask": np.array([True]),
        "key": jax.random.key(0),
        "name": "a static leaf",
    }


PATHS = ("['dense']['b']", "['dense']['w']", "['empty']", "['list'][0]", "['scalar']")


def measured(*trees: dict[str, Any]) -> GradientReport:
    """The report, compiled: a tree with static leaves is no argument of `jit`."""
    name = {"name": "a static leaf"}
    dynamic = [{key: leaf for key, leaf in tree.items() if key not in name} for tree in trees]
    return jax.jit(lambda *trees: gradient_report(*(tree | name for tree in trees)))(*dynamic)


def by_path(tree: dict[str, Any]) -> list[np.ndarray]:
    """The measured leaves in the order of `PATHS`, in NumPy's widest types."""
    leaves = (
        tree["dense"]["b"], tree["dense"]["w"], tree["empty"], tree["list"][0], tree["scalar"]
    )  # fmt: skip
    return [np.asarray(leaf).astype(complex) for leaf in leaves]


@pytest.mark.parametrize("dtype", TYPES)
def test_numbers_are_numpys(dtype: str) -> None:
    grads, params, updates = (drawn(dtype, seed) for seed in range(3))
    report = measured(grads, params, updates)
    assert report.paths == PATHS
    wide = dtype in ("float64", "complex128")
    rtol = 1e-6 if wide else 3e-6  # one is held to float64, the others are given in float32
    assert report.norm.dtype == ("float64" if wide else "float32")
    for i, (g, p, u) in enumerate(zip(*map(by_path, (grads, params, updates)), strict=True)):
        np.testing.assert_allclose(report.norm[i], np.linalg.norm(g.ravel()), rtol=rtol)
        np.testing.assert_allclose(report.max_abs[i], np.abs(g).max(initial=0), rtol=rtol)
        zeros = np.mean(g == 0) if g.size else 0
        np.testing.assert_allclose(report.zero_fraction[i], zeros, rtol=rtol)
        size, moved = np.linalg.norm(p.ravel()), np.linalg.norm(u.ravel())
        ratio = 0 if moved == 0 else moved / size if size else np.inf
        np.testing.assert_allclose(report.update_ratio[i], ratio, rtol=rtol)
    np.testing.assert_array_equal(report.nonfinite, 0)
    assert report.nonfinite.dtype == jnp.int32


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("bfloat16", 1e30), ("bfloat16", 1e-30), ("float16", 6e4), ("float16", 1e-6),
        ("float32", 1e38), ("float32", 1e-37), ("float64", 1e200), ("float64", 1e-200),
        ("complex64", 1e30 + 1e30j),
    ],
)  # fmt: skip
def test_no_square_overflows_or_vanishes(dtype: str, value: complex) -> None:
    leaf = jnp.full((2, 2), value, dtype)
    exact = np.abs(np.asarray(leaf).astype(complex))[0, 0]
    half = np.asarray(leaf / 2).astype(complex)[0, 0]  # of 1e-6, float16 has 5 bits
    report = jax.jit(gradient_report)(leaf, leaf, leaf / 2)
    np.testing.assert_allclose(report.norm, [2 * exact], rtol=1e-6)
    np.testing.assert_allclose(report.max_abs, [exact], rtol=1e-6)
    np.testing.assert_allclose(report.update_ratio, [np.abs(half) / exact], rtol=1e-6)
    np.testing.assert_array_equal(report.zero_fraction, [0])


@pytest.mark.parametrize("dtype", TYPES[:-1])
def test_what_is_no_number_is_counted_and_left_out(dtype: str) -> None:
    leaf = jnp.asarray([3, jnp.nan, 0, -4, jnp.inf, -jnp.inf]).astype(dtype)
    report = gradient_report({"w": leaf, "all": jnp.full(2, jnp.nan)})
    np.testing.assert_array_equal(report.nonfinite, [2, 3])
    np.testing.assert_allclose(report.norm, [0, 5])
    np.testing.assert_allclose(report.max_abs, [0, 4])
    np.testing.assert_allclose(report.zero_fraction, [0, 1 / 6])


def test_half_an_imaginary_nan_is_counted() -> None:
    report = gradient_report(jnp.asarray([complex(1, np.nan), complex(np.inf, 0), 3 + 4j]))
    assert (int(report.nonfinite[0]), float(report.norm[0])) == (2, 5)


def test_the_ratio_needs_both_and_hides_nothing() -> None:
    ones, zeros = jnp.ones(3), jnp.zeros(3)
    assert np.isnan(gradient_report(ones).update_ratio).all()
    assert np.isnan(gradient_report(ones, ones).update_ratio).all()
    assert np.isnan(gradient_report(ones, updates=ones).update_ratio).all()
    np.testing.assert_array_equal(gradient_report(ones, zeros, ones).update_ratio, [np.inf])
    np.testing.assert_array_equal(gradient_report(ones, zeros, zeros).update_ratio, [0])
    bad = ones.at[0].set(jnp.nan)
    assert np.isnan(gradient_report(ones, ones, bad).update_ratio).all()


def test_leaves_without_gradient_are_passed_over_beside_none() -> None:
    params = {"w": jnp.ones(3), "frozen": {"w": jnp.ones(2)}, "steps": jnp.asarray(1)}
    grads = {"w": jnp.ones(3), "frozen": None, "steps": np.zeros((), jax.dtypes.float0)}
    report = gradient_report(grads, params, grads)
    assert report.paths == ("['w']",)
    np.testing.assert_array_equal(report.update_ratio, [1])


def test_flax_and_optax_trees() -> None:
    from flax import nnx

    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    grads = nnx.grad(lambda model: jnp.sum(model(jnp.ones(3)) ** 2))(model)
    optimizer = optax.adam(1e-3)
    params = nnx.state(model, nnx.Param)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    report = gradient_report(grads, params, updates)
    assert len(report.paths) == 2
    assert bool(jnp.all(report.norm > 0))


def loss(params: Any, x: Any) -> Any:
    return jnp.sum(jnp.tanh(x @ params["w"] + params["b"]) ** 2)


PARAMS = {"w": np.linspace(-1, 1, 6).reshape(3, 2), "b": np.array([0.1, -0.2])}
BATCHES = np.linspace(-2, 2, 12).reshape(4, 3)


def one(x: Any) -> GradientReport:
    grads = jax.grad(loss)(PARAMS, x)
    return gradient_report(grads, PARAMS, jax.tree.map(lambda g: -0.1 * g, grads))


def close(actual: GradientReport, expected: GradientReport) -> None:
    assert actual.paths == expected.paths
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), actual, expected)


def test_jit_vmap_and_scan_give_the_same() -> None:
    alone = [one(x) for x in BATCHES]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    close(jax.jit(one)(BATCHES[0]), alone[0])
    close(jax.vmap(one)(BATCHES), stacked)
    close(
        jax.jit(lambda xs: jax.lax.scan(lambda _, x: (None, one(x)), None, xs)[1])(BATCHES), stacked
    )
    close(jax.lax.map(one, BATCHES), stacked)


def test_its_derivative_is_zero_and_its_infinities_stay_its_own() -> None:
    def through(w: Any) -> tuple[Any, GradientReport]:
        report = gradient_report(w, w, w)
        return jnp.sum(w**2) + jnp.sum(report.norm) + jnp.sum(report.update_ratio), report

    gradient, report = jax.grad(through, has_aux=True)(jnp.array([3.0, 4.0]))
    np.testing.assert_allclose(gradient, [6, 8])
    np.testing.assert_allclose(report.norm, [5])
    np.testing.assert_array_equal(jax.grad(lambda w: through(w)[0] * 0)(jnp.zeros(2)), [0, 0])
    hessian = jax.hessian(lambda w: through(w)[0])(jnp.ones(2))
    np.testing.assert_allclose(hessian, 2 * np.eye(2))


def test_when_it_is_not_due_nothing_is_measured() -> None:
    due = jax.jit(lambda g, step: gradient_report(g, g, g, when=step % 2 == 0))
    leaf = jnp.array([3.0, 4.0])
    close(due(leaf, 4), gradient_report(leaf, leaf, leaf))
    report = due(leaf, 5)
    for name in ("norm", "max_abs", "zero_fraction", "update_ratio"):
        assert np.isnan(getattr(report, name)).all()
    np.testing.assert_array_equal(report.nonfinite, [-1])
    jaxpr = jax.make_jaxpr(lambda g, s: gradient_report(g, g, g, when=s))(leaf, True).jaxpr
    outside = [eqn.primitive.name for eqn in jaxpr.eqns if eqn.primitive.name != "stop_gradient"]
    assert outside == ["convert_element_type", "cond"]  # of the predicate
    np.testing.assert_array_equal(gradient_report(leaf, when=False).nonfinite, [-1])


def test_it_prints_as_a_table() -> None:
    grads = {"w": jnp.array([3.0, 4.0]), "b": jnp.array([0.0, jnp.nan])}
    assert str(gradient_report(grads, grads, {"w": jnp.ones(2), "b": jnp.ones(2)})).split("\n") == [
        "path   norm  largest   zero  non-finite  update/param",
        "['b']     0        0  50.0%           1             -",
        "['w']     5        4   0.0%           0      2.83e-01",
    ]
    assert "(one leaf)" in str(gradient_report(jnp.ones(2)))
    texts = []
    jax.jit(lambda g: texts.append(str(gradient_report(g))))(grads)
    assert texts == ["GradientReport of 2 leaves, not computed yet: print it outside jit"]
    stacked = str(jax.vmap(gradient_report)(jnp.ones((7, 2))))
    assert stacked == "GradientReport of 1 leaves, stacked (7,): print one of them"


def test_rows() -> None:
    assert gradient_report({"w": jnp.array([3.0, 4.0])}).to_rows()[0] | {
        "update_ratio": None
    } == {
        "path": "['w']", "norm": 5, "max_abs": 4, "zero_fraction": 0, "nonfinite": 0,
        "update_ratio": None,
    }  # fmt: skip


W = jnp.ones(3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (({"n": jnp.arange(3)},), r"`grads` must have a floating or complex leaf: got {n: int64\[3\]}"),
        (({},), "`grads` must have a floating or complex leaf: got {}"),
        (({"w": W}, {"v": W}), r"`params` must be like `grads`: at \['w'\] got no floating leaf, expected float64\[3\]"),
        (({"w": W}, {"w": W[:2]}), r"`params` must be like `grads`: at \['w'\] got float64\[2\], expected float64\[3\]"),
        (({"w": W}, {"w": jnp.arange(3)}), r"`params` .* at \['w'\] got no floating leaf"),
        (({"w": W}, {"w": W}, {"w": W, "b": W}), r"`updates` must be like `grads`: at \['b'\] got float64\[3\], expected no leaf"),
        (({"w": W, "b": None}, {"w": W, "bb": W}), r"`params` .* at \['bb'\] got"),
        ((W, {"w": W}), "`params` must be like `grads`: at the root got no floating leaf"),
    ],
)  # fmt: skip
def test_trees_that_do_not_fit_are_refused(arguments: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        gradient_report(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("when", [1, "yes", np.array([True]), None])
def test_a_bad_when_is_refused(when: Any) -> None:
    with pytest.raises(ValueError, match="`when` must be a boolean of shape"):
        gradient_report(W, when=when)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_clips_are_those_of_optax(dtype: str) -> None:
    rng = np.random.default_rng(0)
    optimizer = optax.clip_by_global_norm(2.0)
    count = jax.jit(lambda grads, previous: clip_report(grads, 2.0, previous))
    report, clipped = None, []
    for _ in range(20):
        grads = {
            "a": jnp.asarray(rng.normal(size=2)).astype(dtype),
            "b": jnp.asarray(rng.normal(size=2)).astype(dtype),
        }
        report = count(grads, report)
        kept = optimizer.update(grads, optimizer.init(grads))[0]
        exact = [np.concatenate([np.asarray(t[k], float) for k in "ab"]) for t in (grads, kept)]
        before, after = map(np.linalg.norm, exact)
        rtol = {"float64": 1e-12, "float32": 1e-6, "bfloat16": 1e-6}[dtype]
        np.testing.assert_allclose(report.norm, before, rtol=rtol)
        # optax rounds the clipped entries to their type, 8 bits in bfloat16.
        np.testing.assert_allclose(
            report.lost_norm, before - after, atol=before * {"bfloat16": 1e-2}.get(dtype, 1e-6)
        )
        clipped.append(before > 2)
        assert bool(report.clipped) == clipped[-1]
    assert 0 < np.mean(clipped) < 1
    assert report is not None
    assert int(report.steps) == 20
    np.testing.assert_allclose(report.frequency, np.mean(clipped), rtol=1e-5)


def test_clips_are_counted_in_a_loop() -> None:
    scales = jnp.array([1.0, 3.0, 5.0, 0.5])

    def body(carry: Any, scale: Any) -> Any:
        report = clip_report(scale * jnp.array([0.6, 0.8]), 2.0, carry)
        return report, report.clipped

    start = clip_report(jnp.zeros(2), 2.0)
    report, clipped = jax.jit(lambda: jax.lax.scan(body, start, scales))()
    np.testing.assert_array_equal(clipped, [False, True, True, False])
    np.testing.assert_allclose(report.frequency, 2 / 5)


def test_a_gradient_that_is_no_number_counts_as_clipped() -> None:
    for bad in (jnp.nan, jnp.inf):
        report = clip_report(jnp.array([1.0, bad]), 1.0)
        assert bool(report.clipped)
        assert not np.isfinite(report.norm)
        assert not np.isfinite(report.lost_norm)


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), np.ones(2), "2", True])
def test_a_bad_max_norm_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="`max_norm` must be "):
        clip_report(W, bad)
