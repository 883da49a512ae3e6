"""lineax's solvers: the x of `numpy.linalg.solve`, or NaN; the status believes nobody."""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import lineax
import numpy as np
import pytest

import toolkit as tk
from tests.traces import counted
from toolkit.linear import Lineax

TIGHT = {"rtol": 1e-12, "atol": 1e-12}
SYMMETRIC_ONLY = (lineax.CG(**TIGHT), lineax.Cholesky())
GENERAL = (
    lineax.BiCGStab(**TIGHT),
    lineax.GMRES(**TIGHT),
    lineax.LSMR(**TIGHT),
    lineax.LU(),
    lineax.QR(),
    lineax.SVD(),
    lineax.Normal(lineax.CG(**TIGHT)),
    lineax.Normal(lineax.Cholesky()),
    lineax.AutoLinearSolver(well_posed=None),
)
THETA = jnp.array([0.3, 0.5])
RANDOM = np.random.default_rng(0).normal(size=(4, 4))
GENERAL_MATRIX = RANDOM + 4 * np.eye(4)
SPD = RANDOM @ RANDOM.T + np.eye(4)


def shown(solver: Any) -> str:
    inner = getattr(solver, "inner_solver", None)
    return type(solver).__name__ + ("" if inner is None else type(inner).__name__)


def minimum(adjoint: Any) -> Any:
    """`sum(y^3)` at the minimum of `y'Ay/2 - sin(t0) sum(y) + t1 sum(y^4)`, of a real and a complex leaf."""

    def loss(y, t):
        flat = jnp.concatenate([y["a"], jnp.stack([y["c"].real, y["c"].imag])])
        return flat @ SPD @ flat / 2 - jnp.sin(t[0]) * jnp.sum(flat) + t[1] * jnp.sum(flat**4)

    solve = tk.argmin(loss, tk.solver.Newton(30, 1e-12), adjoint=adjoint)

    def outer(theta):
        y = solve({"a": jnp.zeros(2), "c": jnp.zeros((), complex)}, theta).value
        return jnp.sum(y["a"] ** 3) + y["c"].real * y["c"].imag

    return outer


def both(outer: Any) -> Any:
    """Gradient and Hessian, under `jit`."""
    return jax.jit(lambda theta: (jax.grad(outer)(theta), jax.hessian(outer)(theta)))(THETA)


@pytest.fixture(scope="module")
def expected():
    return both(minimum(tk.adjoint.Implicit()))


@pytest.mark.parametrize(
    "solver",
    [
        SYMMETRIC_ONLY[0],
        GENERAL[3],
        *(pytest.param(one, marks=pytest.mark.slow) for one in (SYMMETRIC_ONLY[1], GENERAL[1])),
    ],
    ids=shown,
)
def test_gradient_and_hessian_of_an_argmin(solver, expected):
    made = both(minimum(tk.adjoint.Implicit(Lineax(solver))))
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-8), made, expected)


def root_slope(solver: Any) -> Any:
    def outer(theta):
        adjoint = tk.adjoint.Implicit(Lineax(solver))
        fun = lambda y, t: GENERAL_MATRIX @ y + y**3 - t
        solve = tk.root(fun, tk.solver.Newton(30, 1e-12), adjoint=adjoint)
        return jnp.sum(solve(jnp.zeros(4), theta).value ** 2)

    thetas = jnp.stack([jnp.arange(1.0, 5.0), jnp.array([0.3, -1.0, 2.0, 0.1])])
    return jax.jit(jax.vmap(jax.grad(outer)))(thetas), thetas


@pytest.mark.parametrize("solver", GENERAL, ids=shown)
def test_gradients_of_unsymmetric_roots_under_vmap(solver):
    made, thetas = root_slope(solver)
    for gradient, theta in zip(made, thetas, strict=True):
        y = np.zeros(4)
        for _ in range(50):
            jacobian = GENERAL_MATRIX + np.diag(3 * y**2)
            y = y - np.linalg.solve(jacobian, GENERAL_MATRIX @ y + y**3 - theta)
        np.testing.assert_allclose(gradient, np.linalg.solve(jacobian.T, 2 * y), rtol=1e-8)


@pytest.mark.parametrize("solver", SYMMETRIC_ONLY, ids=shown)
def test_a_solver_for_symmetric_systems_gives_no_gradient_of_others(solver):
    assert np.all(np.isnan(root_slope(solver)[0]))


@pytest.mark.parametrize("solver", [*SYMMETRIC_ONLY, lineax.LU(), lineax.GMRES(**TIGHT)], ids=shown)
def test_a_lasso(solver):
    """On the support `H_SS dy = dtheta`; Cholesky meets rows of 0 beside it."""
    lasso = tk.solver.ProximalGradient(tk.prox.lasso, 0.1, 4000, 1e-12)
    smooth = lambda y, t: y @ SPD @ y / 2 - y @ jnp.array([3.0, 0.1, -3.0, 0.2])
    solve = tk.argmin(smooth, lasso, adjoint=tk.adjoint.Implicit(Lineax(solver)))
    of = lambda penalty: jnp.sum(solve(jnp.zeros(4), penalty).value ** 2)
    y = np.asarray(solve(jnp.zeros(4), 1.5).value)
    on = y != 0
    assert 0 < on.sum() < 4
    slope = -np.linalg.solve(SPD[np.ix_(on, on)], np.sign(y[on]))
    np.testing.assert_allclose(jax.jit(jax.grad(of))(1.5), 2 * y[on] @ slope, rtol=1e-8)


def direct(solver: Any, matrix: np.ndarray, b: Any, x0: Any = None, tol: Any = None) -> Any:
    return Lineax(solver, tol)(lambda v: jnp.asarray(matrix) @ v, jnp.asarray(b), x0)


@pytest.mark.parametrize("solver", [lineax.Diagonal(), lineax.Tridiagonal()], ids=shown)
def test_a_presumed_form(solver):
    diagonal = np.diag([1.0, 2.0, 3.0j])
    x, info = direct(solver, diagonal, [1.0, 2.0, 1.0 + 0j])
    np.testing.assert_allclose(x, [1, 1, -1j / 3], rtol=1e-12)
    assert info.status == tk.Status.CONVERGED
    x, info = direct(solver, SPD, np.ones(4))
    assert np.all(np.isnan(x)) and info.status == tk.Status.STEP_LIMIT and info.residual > 0.1


@pytest.mark.parametrize("solver", [*SYMMETRIC_ONLY, *GENERAL], ids=shown)
def test_a_map_that_is_linear_over_the_reals_alone(solver):
    def product(v):
        c = 1 + 2j
        return {"r": 3 * v["r"] + jnp.real(c * v["c"]), "c": 9 * v["c"] + np.conj(c) * v["r"]}

    b = {"r": jnp.array(1.0), "c": jnp.array(2.0 + 1j)}
    x, info = Lineax(solver)(product, b)
    real = np.linalg.solve([[3.0, 1, -2], [1, 9, 0], [-2, 0, 9]], [1.0, 2, 1])
    np.testing.assert_allclose([x["r"], x["c"].real, x["c"].imag], real, rtol=1e-8)
    assert info.status == tk.Status.CONVERGED


def test_a_start_and_what_is_solved_already():
    b = jnp.array([1e-25, 2e-25, 0.0])  # squares underflow in float32
    matrix = np.diag([2.0, 4.0, 5.0])
    x, cold = direct(lineax.CG(**TIGHT), matrix, b)
    np.testing.assert_allclose(x, b / np.diag(matrix), rtol=1e-10)
    _, warm = direct(lineax.CG(**TIGHT), matrix, b, x)
    assert warm.steps < cold.steps and warm.status == tk.Status.CONVERGED
    # lineax's BiCGStab divides 0 by 0 in both.
    for right, x0 in ((jnp.zeros(3), None), (b, b / jnp.diag(matrix))):
        x, info = direct(lineax.BiCGStab(**TIGHT), matrix, right, x0)
        np.testing.assert_allclose(x, right / jnp.diag(matrix), rtol=1e-12)
        assert info.status == tk.Status.CONVERGED


def test_the_status_is_of_our_residual():
    loose = lineax.CG(rtol=1e-1, atol=1e-1)  # a success, in its own words
    x, info = direct(loose, SPD, np.arange(4.0))
    left = np.linalg.norm(SPD @ x - np.arange(4)) / np.linalg.norm(np.arange(4))
    np.testing.assert_allclose(info.residual, left, rtol=1e-6)
    assert info.status == tk.Status.STEP_LIMIT and 1e-8 < left < 0.5
    assert direct(loose, SPD, np.arange(4.0), tol=0.5)[1].status == tk.Status.CONVERGED
    for solver in (lineax.LU(), lineax.QR(), lineax.Cholesky(), lineax.AutoLinearSolver(None)):
        x, info = direct(solver, np.diag([1.0, 0.0, 2.0]), np.ones(3))
        assert np.all(np.isnan(x)) and info.status != tk.Status.CONVERGED
    x, info = direct(lineax.SVD(), np.diag([1.0, 0.0, 2.0]), np.ones(3))  # the pseudoinverse
    np.testing.assert_allclose(x, [1, 0, 0.5], rtol=1e-12)
    assert info.status == tk.Status.STEP_LIMIT


@pytest.mark.parametrize("name", ["CG", "BiCGStab", "GMRES", "LSMR"])
def test_by_name_it_stops_at_the_tolerance(name):
    for tol in (1e-3, 1e-11):
        _, info = direct(name, SPD, np.arange(1.0, 5.0), tol=tol)
        assert info.status == tk.Status.CONVERGED and info.residual <= tol


@pytest.mark.parametrize("name", ["LU", "QR", "SVD", "Cholesky", "AutoLinearSolver"])
def test_by_name_direct(name):
    x, info = direct(name, SPD, np.arange(4.0))
    np.testing.assert_allclose(x, np.linalg.solve(SPD, np.arange(4.0)), rtol=1e-10)
    assert info.status == tk.Status.CONVERGED and info.steps == 4


@pytest.mark.parametrize("solver", [*SYMMETRIC_ONLY, *GENERAL], ids=shown)
def test_narrow_numbers_and_strict_promotion(solver):
    loose = jax.tree.map(lambda leaf: 1e-6 if leaf == 1e-12 else leaf, solver)
    with jax.numpy_dtype_promotion("strict"):
        for dtype in (jnp.float32, jnp.bfloat16):
            product = lambda v: (jnp.asarray(SPD, jnp.float32) @ v.astype(jnp.float32)).astype(
                v.dtype
            )
            x, info = Lineax(loose)(product, jnp.ones(4, dtype))
            assert x.dtype == dtype
            exact, eps = np.linalg.solve(SPD, np.ones(4)), float(jnp.finfo(dtype).eps)
            if dtype == jnp.float32:  # a product in bfloat16 is linear to two digits alone
                np.testing.assert_allclose(x, exact, rtol=0, atol=100 * eps)
                assert info.status == tk.Status.CONVERGED


def test_no_host_callback_and_one_trace():
    outer = minimum(tk.adjoint.Implicit(Lineax(lineax.GMRES(**TIGHT))))
    gradient, traces = counted(jax.grad(outer))
    compiled = jax.jit(gradient)
    assert "callback" not in str(compiled.trace(THETA).jaxpr)
    compiled(THETA), compiled(2 * THETA)
    assert len(traces) == 1


def test_no_tracer_leaks():
    outer = minimum(tk.adjoint.Implicit(Lineax(lineax.CG(**TIGHT))))
    with jax.checking_leaks():
        jax.jit(jax.grad(outer))(THETA)


def test_the_report_of_a_hypergradient():
    fun = lambda y, t: jnp.sum((y - t) ** 2 * (1 + t**2)) / 2
    solve = tk.argmin(fun, tk.solver.Newton(9, 1e-9), adjoint=tk.adjoint.Implicit(Lineax("CG")))
    hg = tk.hypergradient(lambda y, t: jnp.sum(y**2), solve)(jnp.zeros(2), THETA)
    np.testing.assert_allclose(hg.gradient, 2 * THETA, rtol=1e-8)
    assert hg.report.status == 0


def test_a_loop_on_data_has_no_transposed_product():
    def fun(y, theta):
        add = lambda carry: (carry[0] + 1, carry[1] + y)
        return jax.lax.while_loop(lambda carry: carry[0] < 3.0, add, (0.0, 0 * y))[1] - theta

    def slope(solver):
        solve = tk.root(fun, tk.solver.Newton(9, 1e-9), adjoint=tk.adjoint.Implicit(Lineax(solver)))
        return jax.jacfwd(lambda theta: solve(jnp.zeros(2), theta).value)(THETA)

    np.testing.assert_allclose(slope("GMRES"), np.eye(2) / 3, rtol=1e-8, atol=1e-12)
    with pytest.raises(TypeError, match=r"must need no transposed product .*: LSMR of lineax does"):
        slope("LSMR")


def test_derivatives_of_a_direct_call():
    call = lambda solver: lambda s: jnp.sum(direct(solver, SPD, s * jnp.arange(4.0))[0])
    exact = np.sum(np.linalg.solve(SPD, np.arange(4.0)))
    np.testing.assert_allclose(jax.grad(call(lineax.LU()))(1.0), exact, rtol=1e-8)
    with pytest.raises(TypeError, match=r"tk.linear.Lineax has no reverse mode where it is called"):
        jax.grad(call(lineax.CG(**TIGHT)))(1.0)


MESSAGES = {
    "triangular": (
        lambda: direct(lineax.Triangular(), SPD, np.ones(4)),
        ValueError,
        "`solver` must be one of lineax that solves a square system given by its products, such as CG, "
        "BiCGStab, GMRES, LSMR, LU, QR, SVD, Cholesky, Diagonal, Tridiagonal, AutoLinearSolver or Normal",
    ),
    "an inner solver": (
        lambda: direct(lineax.Normal(lineax.Diagonal()), SPD, np.ones(4)),
        ValueError,
        "AutoLinearSolver or Normal of CG or Cholesky: got Normal",
    ),
    "on devices": (
        lambda: jax.shard_map(
            lambda b: direct("LU", SPD, b)[0],
            mesh=jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,)),
            in_specs=jax.P("d"),
            out_specs=jax.P("d"),
        )(jnp.ones(4)),
        ValueError,
        "`linear_solver` must not be Lineax inside jax.shard_map or jax.pmap; use jax.jit with a",
    ),
    "a class": (
        lambda: Lineax(lineax.CG),
        TypeError,
        "a solver of lineax, such as lineax.CG(rtol=1e-8, atol=1e-8): got <class",
    ),
    "no such name": (lambda: Lineax("Triangular"), TypeError, "`solver` must be one of 'Auto"),
    "a tolerance": (lambda: Lineax("LU", -1.0), ValueError, "`tol` must be"),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_messages(case):
    make, error, text = MESSAGES[case]
    with pytest.raises(error) as found:
        make()
    assert text in str(found.value) and "\n" not in str(found.value)


def test_a_missing_library_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lineax", None)
    with pytest.raises(
        ImportError, match=r'lineax, which is not installed: pip install "toolkit-jax\[solvers\]"'
    ):
        direct("LU", SPD, np.ones(4))
