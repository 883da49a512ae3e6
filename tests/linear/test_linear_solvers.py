"""Linear solvers against `numpy.linalg.solve`; how each says that it failed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import toolkit as tk
from toolkit.linear import CG, GMRES, BiCGStab, Dense, Lineax, Neumann

N = 6
SYMMETRIC = {
    "cg": CG(50, 1e-12),
    "gmres": GMRES(50, 1e-12),
    "bicgstab": BiCGStab(50, 1e-12),
    # The spectrum lies in [1, 4]: after 200 terms (1 - 1/4.4)^200 = 4e-23 is missing.
    "neumann": Neumann(200, tol=1e-9),
    "neumann_step": Neumann(200, 0.3, tol=1e-9),
    "dense": Dense(),
    "lineax_cg": Lineax(lineax.CG(rtol=1e-12, atol=1e-12), 1e-9),
    "lineax_lu": Lineax(lineax.LU(), 1e-9),
}
GENERAL = {
    name: SYMMETRIC[name] for name in ("gmres", "bicgstab", "neumann_step", "dense", "lineax_lu")
}
ALL = pytest.mark.parametrize(
    "solver",
    [s for name, s in SYMMETRIC.items() if name != "neumann_step"],
    ids=[name for name in SYMMETRIC if name != "neumann_step"],
)
KRYLOV = pytest.mark.parametrize(
    "solver", [SYMMETRIC["cg"], SYMMETRIC["gmres"], SYMMETRIC["bicgstab"]], ids=str
)


def _symmetric(seed: int, n: int = N, low: float = 1.0, high: float = 4.0) -> np.ndarray:
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    return rotation @ np.diag(np.linspace(low, high, n)) @ rotation.T


def _general(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed).normal(size=(N, N))
    return 2 * np.eye(N) + (random - random.T) / 4  # skew part: far from symmetric, well posed


def _hermitian(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(N, N)) + 1j * rng.normal(size=(N, N)))
    return rotation @ np.diag(np.linspace(1, 4, N)) @ rotation.conj().T


def _tree(seed: int, dtype: Any = float) -> dict:
    rng = np.random.default_rng(100 + seed)
    flat = rng.normal(size=N) + (1j * rng.normal(size=N) if dtype is complex else 0)
    return {"w": jnp.asarray(flat[:4]).reshape(2, 2), "b": (jnp.asarray(flat[4:5]), flat[5])}


def _matvec(matrix: Any, like: Any) -> Callable:
    """The product with `matrix` on trees like `like`."""
    _, unravel = ravel_pytree(like)
    return lambda tree: unravel(jnp.asarray(matrix) @ ravel_pytree(tree)[0])


@functools.lru_cache
def _compiled(solver: Any) -> Callable:
    return jax.jit(
        lambda matrix, b, x0: solver(_matvec(matrix, b), b, x0),
        compiler_options={"xla_backend_optimization_level": 0},
    )


def _run(solver: Any, matrix: np.ndarray, b: Any, x0: Any = None) -> tuple:
    """One compilation for all systems of a shape."""
    return _compiled(solver)(jnp.asarray(matrix), b, x0)


def _flat(tree: Any) -> np.ndarray:
    return np.asarray(ravel_pytree(tree)[0])


def _relative_residual(matrix: np.ndarray, x: Any, b: Any) -> float:
    return np.linalg.norm(matrix @ _flat(x) - _flat(b)) / np.linalg.norm(_flat(b))


@ALL
def test_symmetric_system_on_a_tree(solver: Any) -> None:
    for seed in range(3):
        matrix, b = _symmetric(seed), _tree(seed)
        x, info = _run(solver, matrix, b)
        assert jax.tree.structure(x) == jax.tree.structure(b)
        np.testing.assert_allclose(_flat(x), np.linalg.solve(matrix, _flat(b)), rtol=1e-8)
        assert info.status == tk.Status.CONVERGED
        assert not info.negative_curvature


@pytest.mark.parametrize("solver", GENERAL.values(), ids=GENERAL.keys())
def test_nonsymmetric_system_on_a_tree(solver: Any) -> None:
    for seed in range(3):
        matrix, b = _general(seed), _tree(seed)
        x, info = _run(solver, matrix, b)
        np.testing.assert_allclose(_flat(x), np.linalg.solve(matrix, _flat(b)), rtol=1e-8)
        assert info.status == tk.Status.CONVERGED


@ALL
def test_complex_hermitian_system(solver: Any) -> None:
    matrix, b = _hermitian(0), _tree(0, complex)
    x, info = _run(solver, matrix, b)
    np.testing.assert_allclose(_flat(x), np.linalg.solve(matrix, _flat(b)), rtol=1e-8)
    assert info.status == tk.Status.CONVERGED
    assert not info.negative_curvature


def test_cg_takes_at_most_as_many_steps_as_unknowns() -> None:
    b = _tree(0)
    _, info = _run(CG(50, 1e-10), _symmetric(0), b)
    assert info.steps == N  # six distinct eigenvalues, a right side with all of them
    projector = np.eye(N) + np.ones((N, N))  # two distinct eigenvalues
    assert _run(CG(50, 1e-10), projector, b)[1].steps == 2


@ALL
def test_cold_start_is_that_from_zero_and_warm_start_is_no_worse(solver: Any) -> None:
    matrix, b = _symmetric(1), _tree(1)
    exact = np.linalg.solve(matrix, _flat(b))
    near = jax.tree.map(jnp.asarray, ravel_pytree(b)[1](exact * (1 + 1e-6)))
    x, info = _run(solver, matrix, b, near)
    np.testing.assert_allclose(_flat(x), exact, rtol=1e-8)
    assert info.status == tk.Status.CONVERGED
    at_solution, info = _run(solver, matrix, b, x)
    np.testing.assert_allclose(_flat(at_solution), exact, rtol=1e-8)
    if isinstance(solver, (CG, BiCGStab, GMRES)):
        assert info.steps <= 1 or isinstance(solver, GMRES)


def test_warm_start_lowers_the_residual_that_a_cap_leaves() -> None:
    matrix, b = _symmetric(2), _tree(2)
    for solver in (CG(2, 1e-12), GMRES(2, 1e-12), BiCGStab(2, 1e-12), Neumann(2, 0.3)):
        cold, first = _run(solver, matrix, b)
        warm, second = _run(solver, matrix, b, cold)
        assert 0 < float(second.residual) < 0.9 * float(first.residual), solver
        np.testing.assert_allclose(second.residual, _relative_residual(matrix, warm, b), rtol=1e-9)


@ALL
def test_zero_right_side_has_the_solution_zero(solver: Any) -> None:
    matrix, b = _symmetric(0), jax.tree.map(jnp.zeros_like, _tree(0))
    x, info = _run(solver, matrix, b)
    assert not np.any(_flat(x))
    assert info.status == tk.Status.CONVERGED
    assert info.residual == 0
    # From a start other than 0 the residual is absolute, for want of a norm to compare with.
    x, info = _run(solver, matrix, b, _tree(3))
    np.testing.assert_allclose(_flat(x), 0, atol=1e-8)


@ALL
def test_leaves_without_entries(solver: Any) -> None:
    double = lambda tree: jax.tree.map(lambda leaf: 2 * leaf, tree)
    solve = jax.jit(lambda b: solver(double, b))
    x, info = solve({"empty": jnp.zeros((0, 3)), "full": jnp.ones(2)})
    assert x["empty"].shape == (0, 3)
    np.testing.assert_allclose(x["full"], 0.5, rtol=1e-12)
    assert info.status == tk.Status.CONVERGED
    for nothing in (jnp.zeros(0), {}):
        x, info = solve(nothing)
        assert jax.tree.structure(x) == jax.tree.structure(nothing)
        assert info.status == tk.Status.CONVERGED


@ALL
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_right_side_is_nan_never_zero(solver: Any, bad: float) -> None:
    b = _tree(0)
    b["w"] = b["w"].at[0, 1].set(bad)
    x, info = _run(solver, _symmetric(0), b)
    assert np.all(np.isnan(_flat(x)))
    assert info.status == tk.Status.NOT_FINITE
    assert np.isnan(info.residual)


@ALL
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_product_is_nan_never_zero(solver: Any, bad: float) -> None:
    matrix, b = _symmetric(0), _tree(0)
    matrix[2, 2] = bad
    for right_side in (b, jax.tree.map(jnp.zeros_like, b)):
        x, info = _run(solver, matrix, right_side)
        assert np.all(np.isnan(_flat(x)))
        assert info.status == tk.Status.NOT_FINITE


@ALL
def test_non_finite_start_is_nan(solver: Any) -> None:
    b = _tree(0)
    if solver in (SYMMETRIC["dense"], SYMMETRIC["lineax_lu"]):
        pytest.skip("a direct solve has no start")
    x, info = _run(solver, _symmetric(0), b, jax.tree.map(lambda leaf: leaf * np.nan, b))
    assert np.all(np.isnan(_flat(x)))
    assert info.status == tk.Status.NOT_FINITE


@pytest.mark.parametrize("solver", [CG(3, 1e-10), GMRES(3, 1e-10), BiCGStab(2, 1e-10)], ids=str)
def test_a_cap_gives_the_true_residual(solver: Any) -> None:
    matrix, b = _symmetric(0, low=1e-3), _tree(0)
    x, info = _run(solver, matrix, b)
    assert info.status == tk.Status.STEP_LIMIT
    assert info.steps == solver.max_steps
    assert float(info.residual) > 1e-3
    np.testing.assert_allclose(info.residual, _relative_residual(matrix, x, b), rtol=1e-9)


def test_the_status_judges_the_recomputed_residual_not_the_recurrence() -> None:
    # The system moves under the recurrence: the k-th product is with another matrix.
    b = jnp.asarray([2.0, 3.0, 6.0]) / 6  # its largest entry is 1, the unit that CG works in
    matrix = jnp.diag(jnp.asarray([1.0, 2.0, 3.0]))
    noisy = lambda v: matrix @ v + 1e-3 * jnp.sin(1e3 * v)  # not linear: recurrences go astray
    for solver in (CG(4, 1e-9), BiCGStab(4, 1e-9)):
        x, info = solver(noisy, b)
        expected = np.linalg.norm(noisy(x) - b) / np.linalg.norm(b)
        np.testing.assert_allclose(info.residual, expected, rtol=1e-9)
        assert (info.status == tk.Status.CONVERGED) == (expected <= 1e-9)
        assert info.status == tk.Status.STEP_LIMIT


def test_cg_starts_again_where_rounding_parted_the_recurrence_from_the_residual() -> None:
    # float32, condition 300: by recurrence 1e-5 is reached before it is so.
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(200, 200)))[0]
    matrix = jnp.asarray((basis * np.logspace(0, 2.5, 200)) @ basis.T, jnp.float32)
    b = jnp.asarray(rng.normal(size=200), jnp.float32)
    products: list[int] = []

    def product(v: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: products.append(1))
        return matrix @ v

    restarts = 0
    for tol in (4e-5, 3e-5, 2e-5, 1.5e-5, 1e-5):
        products.clear()
        x, info = CG(5000, tol)(product, b)
        jax.effects_barrier()
        assert info.status == tk.Status.CONVERGED
        assert info.products == len(products)
        restarts += int(info.products - info.steps - 1)
        wide = np.asarray(matrix, np.float64) @ np.asarray(x, np.float64) - np.asarray(
            b, np.float64
        )
        assert np.linalg.norm(wide) <= 1.1 * tol * np.linalg.norm(b)
    assert restarts >= 1
    # Below rounding it gives up, long before its steps are used.
    _, info = CG(5000, 1e-7)(product, b)
    assert info.status == tk.Status.STEP_LIMIT and info.steps < 500


@pytest.mark.parametrize(("dtype", "worst"), [("float32", 1e-5), ("float64", 1e-13)])
@pytest.mark.parametrize("unknowns", [20, 100, 400])
def test_steps_to_spare_do_no_harm(unknowns: int, dtype: str, worst: float) -> None:
    """A recurrence that goes on for ever underflows: its directions then turn to noise, or NaN."""
    rng = np.random.default_rng(unknowns)
    rotation, _ = np.linalg.qr(rng.normal(size=(unknowns, unknowns)))
    matrix = (rotation * np.geomspace(1, 1e-2, unknowns)) @ rotation.T
    b = rng.normal(size=unknowns)
    a = jnp.asarray(matrix, dtype)
    x, info = _compiled(CG(5000, 0.0))(a, jnp.asarray(b, dtype), None)
    exact = np.linalg.solve(matrix, b)
    assert np.linalg.norm(x - exact) <= worst * np.linalg.norm(exact)
    assert int(info.steps) < 1000
    assert tk.Status(int(info.status)) is tk.Status.STEP_LIMIT  # a tolerance of 0 is never met


@pytest.mark.parametrize("solver", [CG(50, 1e-12), Dense()], ids=str)
def test_negative_curvature_is_seen_and_the_system_still_solved(solver: Any) -> None:
    matrix, b = _symmetric(0, low=-1.5), _tree(0)
    x, info = _run(solver, matrix, b)
    assert info.negative_curvature
    np.testing.assert_allclose(_flat(x), np.linalg.solve(matrix, _flat(b)), rtol=1e-8)
    assert not _run(solver, _symmetric(0), b)[1].negative_curvature


def test_dense_does_not_call_a_nonsymmetric_matrix_indefinite() -> None:
    b = _tree(0)
    assert not _run(Dense(), -_general(0), b)[1].negative_curvature


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (_symmetric(0), 1),
        (-_symmetric(0), 1),
        (np.diag([1.0, -2.0, 3.0, 1.0, 1.0, 1.0]), 1),
        # No curvature is below 0: an attempt at Cholesky, with rounding added, tells.
        (np.diag([1.0, 0.0, 3.0, 1.0, 1.0, 1.0]), 2),
        (_general(0), 1),
        (-_general(0), 1),
    ],
    ids=["definite", "negative_definite", "indefinite", "semidefinite", "general", "negated"],
)
def test_dense_factorises_once(matrix: np.ndarray, expected: int, monkeypatch: Any) -> None:
    factorised: list[None] = []

    def counting(factorise: Callable) -> Callable:
        def counted(matrix: Any) -> Any:
            jax.debug.callback(lambda: factorised.append(None))
            return factorise(matrix)

        return counted

    monkeypatch.setattr(jnp.linalg, "cholesky", counting(jnp.linalg.cholesky))
    monkeypatch.setattr(jax.scipy.linalg, "lu_factor", counting(jax.scipy.linalg.lu_factor))
    b = jnp.asarray([1.0, 0.0, -1.0, 2.0, 0.5, 3.0])
    x, info = jax.jit(lambda b: Dense()(lambda v: matrix @ v, b))(b)
    jax.effects_barrier()
    assert len(factorised) == expected
    np.testing.assert_allclose(matrix @ x, b, rtol=1e-10, atol=1e-12)
    symmetric = np.allclose(matrix, matrix.T)
    assert info.negative_curvature == (symmetric and np.linalg.eigvalsh(matrix)[0] < -1e-8)


@ALL
def test_a_singular_inconsistent_system_never_counts_as_solved(solver: Any) -> None:
    b = jnp.asarray([1.0, 1.0, 1.0])
    for matrix in (np.diag([1.0, 2.0, 0.0]), np.zeros((3, 3))):
        x, info = _run(solver, matrix, b)
        assert info.status != tk.Status.CONVERGED, matrix
        assert info.status == tk.Status.NOT_FINITE or np.all(np.isfinite(x))


def test_dense_does_not_trust_a_numerically_singular_matrix() -> None:
    # Hilbert's matrix of 14 unknowns has condition number 1e18, and yet a tiny residual.
    matrix = 1.0 / (np.arange(14)[:, None] + np.arange(14)[None, :] + 1.0)
    b = jnp.ones(14)
    assert _run(Dense(), matrix, b)[1].status != tk.Status.CONVERGED


@pytest.mark.parametrize("num_terms", [1, 7])
def test_neumann_is_the_truncated_series(num_terms: int) -> None:
    matrix, b, step = _symmetric(0), _tree(0), 0.2
    contraction = np.eye(N) - step * matrix
    powers = [np.linalg.matrix_power(contraction, j) for j in range(num_terms)]
    expected = step * sum(powers) @ _flat(b)
    solve = jax.jit(lambda step: Neumann(num_terms, step, tol=1e-12)(_matvec(matrix, b), b))
    for x, info in (solve(step), _run(Neumann(num_terms, step, tol=1e-12), matrix, b)):
        np.testing.assert_allclose(_flat(x), expected, rtol=1e-13)
        assert info.status == tk.Status.STEP_LIMIT
        assert info.steps == num_terms
        np.testing.assert_allclose(info.residual, _relative_residual(matrix, x, b), rtol=1e-9)


def test_neumann_from_a_start_is_the_series_for_the_correction() -> None:
    matrix, b, start, step = _symmetric(0), _tree(0), _tree(5), 0.2
    contraction = np.eye(N) - step * matrix
    powers = [np.linalg.matrix_power(contraction, j) for j in range(4)]
    expected = _flat(start) + step * sum(powers) @ (_flat(b) - matrix @ _flat(start))
    x, _ = _run(Neumann(4, step), matrix, b, start)
    np.testing.assert_allclose(_flat(x), expected, rtol=1e-12)


def test_neumann_estimates_a_step_that_converges_on_any_scale() -> None:
    b = _tree(0)
    for scale in (1e-6, 1.0, 1e6):
        matrix = scale * _symmetric(0)
        x, info = _run(Neumann(200), matrix, b)
        np.testing.assert_allclose(_flat(x), np.linalg.solve(matrix, _flat(b)), rtol=1e-8)
        assert info.status == tk.Status.CONVERGED


@pytest.mark.parametrize("num_terms", [30, 3000])  # large, and overflown
def test_neumann_notices_divergence(num_terms: int) -> None:
    b = _tree(0)
    x, info = _run(Neumann(num_terms, 0.6), _symmetric(0), b)  # 2 / lambda_max is 0.5
    expected = tk.Status.STEP_LIMIT if num_terms == 30 else tk.Status.NOT_FINITE
    assert info.status == expected
    assert float(info.residual) > 1 or np.all(np.isnan(_flat(x)))


@ALL
def test_jit_and_vmap_over_system_and_right_side(solver: Any) -> None:
    matrices = np.stack([_symmetric(seed) for seed in range(3)])
    b = np.random.default_rng(9).normal(size=(3, N))
    solve = jax.jit(jax.vmap(lambda matrix, b: solver(lambda v: matrix @ v, b)))
    x, info = solve(matrices, b)
    expected = np.stack([np.linalg.solve(m, r) for m, r in zip(matrices, b, strict=True)])
    np.testing.assert_allclose(x, expected, rtol=1e-8)
    assert info.status.shape == info.steps.shape == info.residual.shape == (3,)
    assert np.all(info.status == tk.Status.CONVERGED)
    # One bad example does not touch its neighbours.
    b[1, 0] = np.nan
    x, info = solve(matrices, b)
    np.testing.assert_allclose(x[::2], expected[::2], rtol=1e-8)
    assert np.all(np.isnan(x[1]))
    assert list(info.status) == [0, 2, 0]


@pytest.mark.parametrize(
    ("dtype", "rtol"),
    # a few units of rounding of each type, and the solvers' tol of 1e-2 for the half types
    [("float32", 1e-3), ("bfloat16", 5e-2), ("float16", 2e-2)],
)
@pytest.mark.parametrize(
    "solver",
    [CG(20, 1e-2), GMRES(20, 1e-2), BiCGStab(20, 1e-2), Neumann(40, tol=1e-1), Dense()],
    ids=lambda s: type(s).__name__,
)
def test_small_types_are_kept(solver: Any, dtype: str, rtol: float) -> None:
    matrix = jnp.asarray(_symmetric(0, n=3), dtype)
    b = {"u": jnp.asarray([1.0, -2.0], dtype), "v": jnp.asarray(0.5, dtype)}
    if dtype == "float32" and not isinstance(solver, (Dense, Neumann)):
        solver = type(solver)(20, 1e-6)
    x, info = _run(solver, matrix, b)
    assert {leaf.dtype for leaf in jax.tree.leaves(x)} == {jnp.dtype(dtype)}
    wide = np.asarray(matrix, float)
    flat_b = np.asarray([1.0, -2.0, 0.5])
    flat_x = np.asarray(ravel_pytree(x)[0], float)
    exact = np.linalg.solve(wide, flat_b)
    assert np.linalg.norm(flat_x - exact) <= rtol * np.linalg.norm(exact)
    assert info.status == tk.Status.CONVERGED


@ALL
def test_trees_that_mix_precisions(solver: Any) -> None:
    solver = type(solver)(20, 1e-4) if isinstance(solver, (CG, GMRES, BiCGStab)) else solver
    b = {"a": jnp.ones(2, jnp.float32), "b": jnp.ones(2, jnp.float64)}
    double = lambda tree: jax.tree.map(lambda leaf: 2 * leaf, tree)
    x, _ = jax.jit(lambda b: solver(double, b))(b)
    assert (x["a"].dtype, x["b"].dtype) == (jnp.float32, jnp.float64)
    np.testing.assert_allclose(x["a"], 0.5, rtol=1e-3)  # tol 1e-4 at condition number 1
    np.testing.assert_allclose(x["b"], 0.5, rtol=1e-3)


@ALL
@pytest.mark.parametrize(("dtype", "size"), [("float64", 1e-170), ("float32", 1e-25)])
def test_a_right_side_whose_square_underflows_is_not_zero(
    solver: Any, dtype: str, size: float
) -> None:
    # 0 for an answer, called converged, is the silent failure: b is not 0, only small.
    matrix = jnp.asarray(_symmetric(0), dtype)
    b = jnp.full(N, size, dtype)
    x, info = _run(solver, matrix, b)
    exact = np.linalg.solve(np.asarray(matrix, float), np.ones(N))
    # float16 keeps three digits, and the matrix costs one; what is refused here is 0, not a last digit.
    right = np.allclose(np.asarray(x, float) / size, exact, rtol=1e-2)
    assert right or info.status != tk.Status.CONVERGED


@KRYLOV
def test_start_of_another_type_is_brought_to_that_of_the_right_side(solver: Any) -> None:
    b = jnp.ones(N)
    x, info = solver(lambda v: 2 * v, b, jnp.ones(N, jnp.float32))
    assert x.dtype == b.dtype
    assert info.status == tk.Status.CONVERGED


@KRYLOV
@pytest.mark.parametrize("start", [jnp.ones(N + 1), {"a": jnp.ones(N)}], ids=["shape", "tree"])
def test_start_of_another_shape_is_refused(solver: Any, start: Any) -> None:
    with pytest.raises(ValueError, match=r"`x0` must have the structure and shapes of `b`: got"):
        solver(lambda v: 2 * v, jnp.ones(N), start)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CG(0, 1e-3), r"`max_steps` must be an int of at least 1: got 0"),
        (lambda: CG(1.5, 1e-3), r"`max_steps` must be an int of at least 1: got 1\.5"),
        (lambda: GMRES(-1, 1e-3), r"`max_steps` must be an int of at least 1: got -1"),
        (lambda: BiCGStab("3", 1e-3), r"`max_steps` must be an int of at least 1: got '3'"),
        (lambda: Neumann(0), r"`num_terms` must be an int of at least 1: got 0"),
        (lambda: CG(3, -1.0), r"`tol` must be a nonnegative number: got -1\.0"),
        (lambda: GMRES(3, float("nan")), r"`tol` must be a nonnegative number: got nan"),
        (lambda: BiCGStab(3, None), r"`tol` must be a nonnegative number: got None"),
        (lambda: Neumann(3, tol="1e-3"), r"`tol` must be a nonnegative number: got '1e-3'"),
        (
            lambda: Neumann(3, step_size=0.0),
            r"`step_size` must be a positive number: got 0\.0",
        ),
    ],
)
def test_bad_settings_are_refused(make: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_dense_without_cholesky_finds_the_same() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(6, 6))
    matrix, b = matrix @ matrix.T + np.eye(6), rng.normal(size=6)
    for one in (matrix, -matrix, matrix + np.triu(matrix)):
        x, info = jax.jit(lambda one: Dense(cholesky=False)(lambda v: one @ v, b))(one)
        np.testing.assert_allclose(x, np.linalg.solve(one, b), rtol=1e-10)
        assert info.status == tk.Status.CONVERGED and not info.negative_curvature
    program = str(jax.make_jaxpr(lambda b: Dense(cholesky=False)(lambda v: matrix @ v, b))(b))
    assert "cholesky" not in program
    assert "cholesky" in str(jax.make_jaxpr(lambda b: Dense()(lambda v: matrix @ v, b))(b))
    _, info = Dense(cholesky=False)(lambda v: jnp.zeros((6, 6)) @ v, b)
    assert info.status == tk.Status.STEP_LIMIT


def test_bicgstab_starts_again_where_its_recurrence_drifts() -> None:
    # In float32 the recurrence's own residual meets the tolerance before the true one does.
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    skewed = 0.1 * np.triu(rng.normal(size=(30, 30)), 1) / 30**0.5
    matrix = jnp.asarray(turn @ np.diag(np.logspace(0, 1, 30)) @ turn.T + skewed, jnp.float32)
    b = jnp.asarray(rng.normal(size=30), jnp.float32)
    x, info = jax.jit(lambda b: BiCGStab(2000, 3e-7)(lambda v: matrix @ v, b))(b)
    left = np.asarray(b, float) - np.asarray(matrix, float) @ np.asarray(x, float)
    assert info.status == tk.Status.CONVERGED
    assert np.linalg.norm(left) <= 6e-7 * np.linalg.norm(b)  # the product of the check rounds, too
    assert info.products > 2 * info.steps + 1  # the residual was recomputed more than once
