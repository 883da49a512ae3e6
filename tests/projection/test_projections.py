"""Projections: nearest by the condition that characterises the nearest point, and exact derivatives."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import isotonic_regression, linprog

import toolkit as tk
from toolkit import projection

RNG = np.random.default_rng(0)
INF = np.inf


class Case(NamedTuple):
    """A polyhedron {A u <= b, E u = e, lower <= u <= upper}, and theta with a change of it."""

    project: Any
    y: Any
    theta: Any
    change: Any  # of theta, by which the set stays nonempty
    rows: Any = None  # (A, b)
    equations: Any = None  # (E, e)
    bounds: Any = (-INF, INF)


def _sums(m: int, n: int) -> np.ndarray:
    """The sums of the rows and columns of a matrix [m, n] as products with its entries."""
    return np.vstack([np.kron(np.eye(m), np.ones(n)), np.kron(np.ones(m), np.eye(n))])


def _section(n: int, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    y, a = 2 * rng.normal(size=n), rng.normal(size=n) * (rng.uniform(size=n) > 0.2)
    lower, upper = -rng.exponential(size=n), rng.exponential(size=n)
    lower[:2], upper[2] = -INF, INF
    inside = np.clip(rng.normal(size=n), lower, upper)
    theta = (lower, upper, a, a @ inside)
    finite = lambda x: np.where(np.isfinite(x), rng.normal(size=n), 0)
    change = (finite(lower), finite(upper), rng.normal(size=n) * (a != 0), 0.7)
    return Case(projection.box_section, y, theta, change, None, (a[None], theta[3]), (lower, upper))


def _transport(m: int, n: int, scale: float) -> Case:
    y, plan = RNG.normal(size=(m, n)) * scale, RNG.exponential(size=(m, n))
    change = RNG.normal(size=(m, n))
    sums = lambda u: (u.sum(1), u.sum(0))
    return Case(
        projection.transport, y, sums(plan), sums(change), None,
        (_sums(m, n), np.concatenate(sums(plan))), (0, INF),
    )  # fmt: skip


Y, A = 1.5 * RNG.normal(size=7), RNG.normal(size=(3, 7))
SIGNS = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 7), -1).reshape(-1, 7)
RISING = (np.eye(7) - np.eye(7, k=1))[:-1]
CASES = {
    "non_negative": Case(projection.non_negative, Y, None, None, bounds=(0, INF)),
    "box": Case(projection.box, Y, (-0.5, 0.8), (0.3, -0.2), bounds=(-0.5, 0.8)),
    "simplex": Case(
        projection.simplex, Y, 1.7, 1.0, None, (np.ones((1, 7)), 1.7), (0, INF)
    ),
    "l1_ball": Case(projection.l1_ball, Y, 1.7, 1.0, (SIGNS, np.full(len(SIGNS), 1.7))),
    "linf_ball": Case(projection.linf_ball, Y, 0.7, 1.0, bounds=(-0.7, 0.7)),
    "hyperplane": Case(
        projection.hyperplane, Y, (A[0], 0.4), (A[1], 1.0), None, (A[:1], 0.4)
    ),
    "halfspace": Case(projection.halfspace, Y, (A[0], -9.0), (A[1], 1.0), (A[:1], -9.0)),
    "affine": Case(
        projection.affine, Y, (A, np.ones(3)), (A[::-1], np.arange(3.0)), None, (A, np.ones(3))
    ),
    "isotonic": Case(projection.isotonic, Y, None, None, (RISING, np.zeros(6))),
    "falling": Case(
        partial(projection.isotonic, increasing=False), Y, None, None, (-RISING, np.zeros(6))
    ),
    **{f"box_section_{seed}": _section(4 + seed, seed) for seed in range(6)},
    "transport": _transport(3, 5, 1.0),
    "transport_far": _transport(4, 4, 30.0),
    "birkhoff": Case(
        projection.birkhoff, RNG.normal(size=(4, 4)), None, None, None,
        (_sums(4, 4), np.ones(8)), (0, INF),
    ),
    # A permutation: the support falls into parts, and the multipliers are not unique.
    "birkhoff_vertex": Case(
        projection.birkhoff, 9 * np.eye(4)[::-1] + 0.1 * RNG.normal(size=(4, 4)), None, None, None,
        (_sums(4, 4), np.ones(8)), (0, INF),
    ),
}  # fmt: skip
EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
# Each compiles several programs: those that repeat another in other numbers are slow.
REPEATED = {
    "transport_far",
    "birkhoff",
    "falling",
    *(f"box_section_{seed}" for seed in range(2, 6)),
}
EACH_KIND = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=pytest.mark.slow if name in REPEATED else ())
        for name, case in CASES.items()
    ],
)


def _arrays(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, tree)


@EACH
def test_it_is_the_nearest_point(case: Case) -> None:
    """`u` is in the set, and no `v` of the set lies further in the direction of `y - u`."""
    u = np.asarray(case.project(jnp.asarray(case.y), _arrays(case.theta))).ravel()
    normal = np.ravel(case.y) - u
    lower, upper = (np.broadcast_to(bound, u.shape) for bound in case.bounds)
    assert np.all(u >= lower) and np.all(u <= upper)
    rows, most = case.rows or (None, None)
    equations, right = case.equations or (None, None)
    if rows is not None:
        assert np.all(rows @ u <= most + 1e-12)
    if equations is not None:
        np.testing.assert_allclose(
            equations @ u, np.broadcast_to(right, len(equations)), atol=1e-12
        )
        right = np.broadcast_to(right, len(equations))
    if rows is not None:
        most = np.broadcast_to(most, len(rows))
    furthest = linprog(-normal, rows, most, equations, right, list(zip(lower, upper, strict=True)))
    assert furthest.status == 0, furthest.message
    np.testing.assert_allclose(-furthest.fun, normal @ u, atol=1e-8)


@EACH_KIND
def test_derivatives_are_those_of_differences(case: Case) -> None:
    """Forward, reverse and second order, under `jit`, in the argument and in theta."""
    at = _arrays((case.y, case.theta))
    move = _arrays((RNG.normal(size=np.shape(case.y)), case.change))
    f = jax.jit(case.project)
    moved = lambda e: jax.tree.map(lambda x, d: x + e * d, at, move)
    differences = lambda g: (g(*moved(1e-6)) - g(*moved(-1e-6))) / 2e-6
    _, forward = jax.jvp(f, at, move)
    np.testing.assert_allclose(forward, differences(f), rtol=1e-6, atol=2e-8)
    out_bar = jnp.asarray(RNG.normal(size=np.shape(case.y)))
    reverse = jax.vjp(f, *at)[1](out_bar)
    products = jax.tree.map(jnp.vdot, reverse, move)
    np.testing.assert_allclose(
        jax.tree.reduce(jnp.add, products), jnp.vdot(out_bar, forward), rtol=1e-9, atol=1e-12
    )
    loss = lambda *args: jnp.sum(f(*args) ** 3)
    slope = jax.jit(lambda *args: jax.jvp(jax.grad(loss), args, move)[1])
    np.testing.assert_allclose(slope(*at), differences(jax.grad(loss)), rtol=1e-5, atol=1e-7)


@EACH_KIND
def test_batches_are_their_rows_and_nan_is_not_lost(case: Case) -> None:
    theta = _arrays(case.theta)
    y = jnp.asarray(case.y)
    f = jax.jit(lambda y: case.project(y, theta))
    batch = jnp.stack([y, 0.5 * y, -y])
    np.testing.assert_allclose(jax.vmap(f)(batch), jnp.stack([*map(f, batch)]), atol=1e-12)
    spoiled = y.at[(0,) * y.ndim].set(jnp.nan)
    value, gradient = jax.value_and_grad(lambda y: jnp.sum(f(y)))(spoiled)
    assert jnp.isnan(value) and jnp.isnan(gradient[(0,) * y.ndim])


@pytest.mark.parametrize("shift", [0.0, 1e8])
def test_sparse_simplex_is_the_best_of_all_supports(shift: float) -> None:
    y = jnp.asarray(RNG.normal(size=6)) + shift
    supports = [s for s in range(1, 64) if bin(s).count("1") <= 3]
    masks = np.asarray([[bool(s >> i & 1) for i in range(6)] for s in supports])
    points = [np.zeros(6) for _ in masks]
    for point, mask in zip(points, masks, strict=True):
        point[mask] = projection.simplex(y[mask], 2.0)
    # All points have the sum 2, so the shift adds the same to all their distances.
    best = min(points, key=lambda p: float(np.sum((p - (y - shift)) ** 2)))
    got = projection.sparse_simplex(y, 2.0, max_nonzero=3)
    np.testing.assert_allclose(got, best, atol=1e-7 if shift else 1e-12)
    np.testing.assert_allclose(jnp.sum(got), 2.0)
    slope = jax.jacobian(lambda y: projection.sparse_simplex(y, 2.0, max_nonzero=3))(y)
    on = np.asarray(got > 0)
    np.testing.assert_allclose(slope, np.diag(on) - np.outer(on, on) / on.sum(), atol=1e-12)


def test_isotonic_is_that_of_scipy_on_a_long_vector() -> None:
    y = RNG.normal(size=500).cumsum()
    np.testing.assert_allclose(
        projection.isotonic(jnp.asarray(y)), isotonic_regression(y).x, rtol=1e-12
    )


def test_l2_ball_scales() -> None:
    y = jnp.asarray([3.0, 4.0])
    np.testing.assert_allclose(projection.l2_ball(y, 2.5), y / 2)
    np.testing.assert_array_equal(projection.l2_ball(y, 6.0), y)
    J = jax.jacobian(projection.l2_ball)(y, 2.5)
    np.testing.assert_allclose(J, 0.5 * (np.eye(2) - np.outer(y, y) / 25), atol=1e-14)
    np.testing.assert_allclose(jax.jacobian(projection.l2_ball, 1)(y, 2.5), y / 5)
    np.testing.assert_array_equal(jax.jacobian(projection.l2_ball)(0 * y, 2.5), np.eye(2))


EMPTY = {
    "box": (projection.box, (jnp.asarray(1.0), jnp.asarray(-1.0))),
    "simplex": (projection.simplex, jnp.asarray(-1.0)),
    "sparse_simplex": (
        partial(projection.sparse_simplex, max_nonzero=2),
        jnp.asarray(-1.0),
    ),
    "l1_ball": (projection.l1_ball, jnp.asarray(-1.0)),
    "l2_ball": (projection.l2_ball, jnp.asarray(-1.0)),
    "linf_ball": (projection.linf_ball, jnp.asarray(-1.0)),
    "hyperplane": (projection.hyperplane, (jnp.zeros(4), jnp.asarray(1.0))),
    "halfspace": (projection.halfspace, (jnp.zeros(4), jnp.asarray(-1.0))),
    "affine": (projection.affine, (jnp.ones((2, 4)), jnp.arange(2.0))),
    "box_section": (projection.box_section, (*map(jnp.asarray, (0.0, 1.0, 1.0, 5.0)),)),
    "lasso": (tk.prox.lasso, jnp.asarray(-1.0)),
    "ridge": (tk.prox.ridge, jnp.asarray(-1.0)),
    "non_negative_lasso": (tk.prox.non_negative_lasso, jnp.asarray(-1.0)),
    "non_negative_ridge": (tk.prox.non_negative_ridge, jnp.asarray(-1.0)),
    "elastic_net": (tk.prox.elastic_net, (jnp.asarray(1.0), jnp.asarray(-1.0))),
    "group_lasso": (tk.prox.group_lasso, jnp.asarray(-1.0)),
    "negative_step": (lambda y, t: tk.prox.ridge(y, t, -1.0), jnp.asarray(1.0)),
    "of_projection": (
        lambda y, t: tk.prox.from_projection(projection.simplex)(y, t, -1.0),
        jnp.asarray(1.0),
    ),
}


@pytest.mark.parametrize("project, theta", EMPTY.values(), ids=EMPTY)
def test_an_empty_set_gives_nan_as_value_and_as_gradient(project: Any, theta: Any) -> None:
    y = jnp.asarray([0.3, -0.2, 2.0, 0.1])
    assert jnp.all(jnp.isnan(project(y, theta)))
    for leaf in jax.tree.leaves(jax.grad(lambda y, t: jnp.sum(project(y, t)), (0, 1))(y, theta)):
        assert jnp.all(jnp.isnan(leaf))


def test_an_infinite_entry_gives_nan_where_it_leaves_no_nearest_point() -> None:
    y = jnp.asarray([jnp.inf, 0.0, 1.0])
    for name, theta in (
        ("simplex", 1.0), ("l1_ball", 1.0), ("l2_ball", 1.0), ("isotonic", None),
        ("hyperplane", (1.0, 1.0)), ("box_section", (0.0, 1.0, 1.0, 1.0)),
    ):  # fmt: skip
        assert jnp.all(jnp.isnan(getattr(projection, name)(y, theta))), name
    np.testing.assert_array_equal(projection.simplex(-y), [0, 1, 0])
    assert jnp.all(jnp.isnan(projection.hyperplane(y[1:], (1.0, jnp.inf))))


def test_sums_that_differ_or_are_negative_give_nan() -> None:
    y = jnp.ones((2, 2))
    for sums in ([1.0, 1.0], [1.0, 2.0]), ([-1.0, 2.0], [0.5, 0.5]):
        value, gradient = jax.value_and_grad(
            lambda y, sums=sums: jnp.sum(
                projection.transport(y, _arrays(tuple(map(np.array, sums))))
            )
        )(y)
        assert jnp.isnan(value) and jnp.all(jnp.isnan(gradient))


MAPS = {
    "non_negative": (projection.non_negative, None),
    "box": (projection.box, (-1.0, 1.0)),
    "simplex": (projection.simplex, None),
    "sparse_simplex": (partial(projection.sparse_simplex, max_nonzero=2), None),
    "l1_ball": (projection.l1_ball, None),
    "l2_ball": (projection.l2_ball, None),
    "linf_ball": (projection.linf_ball, None),
    "hyperplane": (projection.hyperplane, (1.0, 1.0)),
    "halfspace": (projection.halfspace, (1.0, 1.0)),
    "affine": (projection.affine, (jnp.ones((1, 6)), jnp.ones(1))),
    "box_section": (projection.box_section, (-1.0, 1.0, 1.0, 0.5)),
    "ridge": (tk.prox.ridge, 1.0),
    "non_negative_lasso": (tk.prox.non_negative_lasso, 0.1),
    "non_negative_ridge": (tk.prox.non_negative_ridge, 1.0),
}


@pytest.mark.parametrize("project, theta", MAPS.values(), ids=MAPS)
def test_a_tree_keeps_its_structure_and_counts_as_one_vector(project: Any, theta: Any) -> None:
    flat = jnp.asarray([0.5, -1.5, 0.25, 2.0, -0.125, 0.75])
    y = {
        "half": flat[:2].astype(jnp.bfloat16),
        "none": None,
        "pair": (flat[2].astype(jnp.float16), jnp.zeros((0, 3))),
        "wide": flat[3:].astype(jnp.float32),
    }
    with jax.numpy_dtype_promotion("strict"):
        got = project(y, theta)
    like = lambda x: (x.shape, x.dtype)
    assert jax.tree.map(like, got) == jax.tree.map(like, y)
    whole = jnp.concatenate([jnp.ravel(x).astype(float) for x in jax.tree.leaves(got)])
    # The narrowest leaf is bfloat16, whose neighbours differ by up to 8e-3.
    np.testing.assert_allclose(whole, project(flat, theta), atol=1e-2)
    with pytest.raises(ValueError, match="`y` must"):
        project(jnp.arange(6), theta)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda y: projection.simplex(y, jnp.ones(2)), "`total` must be a real number"),
        (lambda y: projection.l2_ball(y, "a"), "`radius` must be a real number.*got str"),
        (lambda y: projection.simplex(1j * y), "`y` must be real"),
        (lambda y: projection.box(y, 1.0), r"`bounds` must be a pair.*\(lower, upper\)"),
        (lambda y: projection.hyperplane(y, (jnp.ones(3), 1.0)), "`plane` must be one array"),
        (lambda y: projection.halfspace(y, (1.0, y)), r"`half\[1\]` must be a real number"),
        (lambda y: projection.box_section(y, (0, 1, 2)), "`section` must be a tuple of 4"),
        (lambda y: projection.transport(y, (y, y)), "`y` must be one matrix"),
        (lambda y: projection.transport(y[None], (y, y)), r"`sums` must be \(row_sums \[1\]"),
        (lambda y: projection.birkhoff(y[None]), "`y` must be a square matrix"),
        (lambda y: projection.isotonic(y[None]), "`y` must be one vector"),
        (lambda y: projection.sparse_simplex(y, max_nonzero=0), "`max_nonzero` must be an int"),
        (lambda y: tk.prox.from_projection(1.0), "`projection` must be a callable"),
    ],
)
def test_another_form_is_refused_by_name(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(jnp.ones(4))


def test_complex_entries_keep_their_phase() -> None:
    y = jnp.asarray([3 + 4j, 0.1j, 0])
    np.testing.assert_allclose(projection.l1_ball(y, 2.0), [1.2 + 1.6j, 0, 0], atol=1e-14)
    np.testing.assert_allclose(projection.linf_ball(y, 2.0), [1.2 + 1.6j, 0.1j, 0], atol=1e-14)
    np.testing.assert_allclose(projection.l2_ball(y, 1.0), y / np.linalg.norm(y), atol=1e-14)
    system = (jnp.asarray([[1j, 1.0, 2.0]]), jnp.asarray([1.0 + 1j]))
    got = projection.affine(y, system)
    np.testing.assert_allclose(system[0] @ got, system[1], atol=1e-13)
    move = np.asarray(got - y)  # along the conjugate of the row
    np.testing.assert_allclose(np.cross(move, np.conj(system[0][0])), 0, atol=1e-13)


def test_every_projection_is_a_constraint_of_a_solve_and_a_proximal_map() -> None:
    """The solution and its derivative in the set's own parameter, by both solvers."""
    target = jnp.asarray([0.9, -0.3, 0.4, 0.2])
    fun = lambda y, theta: jnp.sum((y - target) ** 2)
    by_set = tk.argmin(fun, tk.solver.ProjectedGradient(projection.simplex, 0.3, 200, 1e-10))
    prox = tk.prox.from_projection(projection.simplex)
    by_prox = tk.argmin(fun, tk.solver.ProximalGradient(prox, 0.3, 200, 1e-10))
    for solve in by_set, by_prox:
        value, slope = jax.jvp(lambda s, f=solve: f(jnp.zeros(4), s).value, (1.0,), (1.0,))
        np.testing.assert_allclose(value, projection.simplex(target, 1.0), atol=1e-9)
        np.testing.assert_allclose(slope, [1 / 3, 0, 1 / 3, 1 / 3], atol=1e-8)
