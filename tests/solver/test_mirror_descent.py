"""`MirrorDescent` against closed forms, and against projected gradient descent on the same sets."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.adjoint import Forward, Implicit, Nudged, Reversible, Stopped, Unroll
from toolkit.linear import CG, GMRES
from toolkit.solver import MirrorDescent, ProjectedGradient

H = np.diag([1.0, 2.0, 1.5]) + 0.2
Y0 = np.full(3, 1.0)
THETA = {"c": jnp.asarray([2.0, 1.5, 2.2]), "sum": jnp.asarray(3.0)}
# On the simplex, by the entropy: its gradient is log(y) + 1, and the 1 cancels.
SIMPLEX = MirrorDescent(jnp.log, lambda z, t: t["sum"] * jax.nn.softmax(z), 0.3, 400, 1e-12)
# On the positive numbers the projection is the inverse of the mirror.
POSITIVE = MirrorDescent(lambda y: jnp.log(y) + 1, lambda z, t: jnp.exp(z - 1), 0.2, 400, 1e-12)


def loss(y: Any, theta: Any) -> jax.Array:
    return 0.5 * y @ H @ y - y @ theta["c"]


def simplex(theta: Any) -> jax.Array:
    """The solution by its KKT system: all entries are positive."""
    system = np.block([[H, np.ones((3, 1))], [np.ones((1, 3)), np.zeros((1, 1))]])
    return jnp.linalg.solve(jnp.asarray(system), jnp.append(theta["c"], theta["sum"]))[:3]


def positive(theta: Any) -> jax.Array:
    return jnp.linalg.solve(jnp.asarray(H), theta["c"])


def outer(y: Any) -> jax.Array:
    return jnp.sum(jnp.sin(y) * jnp.arange(1.0, 4.0))


RULES = {
    "dense": Implicit(),
    "gmres": Implicit(GMRES(20, 1e-13)),
    "unroll": Unroll(),
    "forward": Forward(),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("solver", "exact"), [(SIMPLEX, simplex), (POSITIVE, positive)])
def test_value_gradient_and_hessian_are_the_closed_forms(
    solver: Any, exact: Any, rule: str
) -> None:
    solve = tk.argmin(loss, solver, adjoint=RULES[rule])
    composed = lambda theta: outer(solve(Y0, theta).value)
    closed = lambda theta: outer(exact(theta))
    both = lambda f: lambda theta: (f(theta), jax.grad(f)(theta), jax.jacfwd(jax.grad(f))(theta))
    got, expected = jax.jit(both(composed))(THETA), both(closed)(THETA)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-10)
    jax.tree.map(close, got, expected)


def test_a_face_of_the_simplex_as_projected_gradients_find_it() -> None:
    theta = {"c": jnp.asarray([2.0, -1.0, 0.2]), "sum": jnp.asarray(3.0)}
    euclidean = lambda y, t: tk.projection.simplex(y, t["sum"])
    projected = ProjectedGradient(euclidean, 0.3, 400, 1e-12)
    found = []
    for solver in (SIMPLEX, projected, MirrorDescent("identity", euclidean, 0.3, 400, 1e-12)):
        solve = tk.argmin(loss, solver)
        hg = jax.jit(tk.hypergradient(lambda y, t: outer(y), solve))(Y0, theta)
        assert hg.solution.info.status == tk.Status.CONVERGED and hg.report.status == 0
        found.append((hg.solution.value, hg.gradient))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8), *found[:2])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), *found[1:])
    assert found[1][0][1] == 0


def test_steps_and_residual_are_those_by_hand() -> None:
    y, steps = Y0, 7
    for t in range(steps + 1):
        last, s = y, 0.3 / (1 + min(t, steps - 1))
        z = np.log(y) - s * (H @ y - np.asarray(THETA["c"]))
        y = 3 * np.exp(z) / np.sum(np.exp(z))
    solver = MirrorDescent(
        SIMPLEX.mirror, SIMPLEX.projection, 0.3 / np.arange(1.0, 1 + steps), steps, 0.0
    )
    got = jax.jit(tk.argmin(loss, solver, adjoint=Stopped()))(Y0, THETA)
    np.testing.assert_allclose(got.value, last, rtol=1e-13)
    np.testing.assert_allclose(got.info.residual, np.linalg.norm(last - y) / s, rtol=1e-9)
    assert (int(got.info.status), int(got.info.steps)) == (tk.Status.STEP_LIMIT, steps)
    many = jax.jit(jax.vmap(lambda c: tk.argmin(loss, SIMPLEX)(Y0, {**THETA, "c": c}).value))
    cs = np.asarray(THETA["c"]) * np.asarray([[1.0], [0.9]])
    np.testing.assert_allclose(many(cs)[1], simplex({**THETA, "c": cs[1]}), rtol=1e-9)


def test_what_mirror_and_projection_close_over_is_differentiated() -> None:
    def value(total: Any, rule: Any) -> jax.Array:
        # A potential of another scale: the same minimum.
        mirror, back = lambda y: total * jnp.log(y), lambda z, _: total * jax.nn.softmax(z / total)
        solver = MirrorDescent(mirror, back, 0.9, 600, 1e-12)
        return outer(tk.argmin(loss, solver, adjoint=rule)(Y0, {"c": THETA["c"]}).value)

    exact = jax.grad(lambda total: outer(simplex({**THETA, "sum": total})))(3.0)
    for rule in (Implicit(), Unroll()):
        np.testing.assert_allclose(
            jax.jit(jax.grad(value), static_argnums=1)(3.0, rule), exact, rtol=1e-6
        )


def test_gauss_newton_is_exact_for_linear_residuals() -> None:
    residuals = lambda y, theta: H @ y - theta["c"]
    plain = {}
    for curvature in ("exact", "gauss_newton"):
        solve = tk.least_squares(residuals, SIMPLEX, curvature=curvature)
        plain[curvature] = jax.jit(jax.grad(lambda t, s=solve: outer(s(Y0, t).value)))(THETA)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7), *plain.values())


def test_refusals_name_the_remedy() -> None:
    slope = lambda solver, rule: jax.grad(
        lambda t: jnp.sum(tk.argmin(loss, solver, adjoint=rule)(Y0, t).value)
    )(THETA)
    for rule, match in (
        (Nudged(0.1), r"got MirrorDescent; use the adjoint Implicit"),
        (Reversible(), r"got MirrorDescent; use the adjoint Unroll"),
    ):
        with pytest.raises(ValueError, match=match):
            slope(SIMPLEX, rule)
    # CG is for symmetric systems: it says that it failed.
    solve = tk.argmin(loss, SIMPLEX, adjoint=Implicit(CG(50, 1e-12)))
    assert tk.hypergradient(lambda y, t: outer(y), solve)(Y0, THETA).report.status != 0
    with pytest.raises(ValueError, match=r"`solver` must solve `root`"):
        tk.root(lambda y, t: y, SIMPLEX)(Y0, THETA)
    for name, bad in (
        ("mirror", {"mirror": lambda y: y[:2]}),
        ("projection", {"projection": lambda z, t: z[:2]}),
    ):
        how = {"mirror": jnp.log, "projection": lambda z, t: z, **bad}
        with pytest.raises(
            ValueError, match=rf"`{name}` must return a tree like its first argument"
        ):
            tk.argmin(loss, MirrorDescent(**how, step_size=0.1, max_steps=5, tol=1e-6))(Y0, THETA)
    with pytest.raises(
        ValueError, match=r"`mirror` must be 'identity', or a callable y.*got 'log'"
    ):
        MirrorDescent("log", lambda z, t: z, 0.1, 5, 1e-6)
    with pytest.raises(ValueError, match=r"`step_size` must be a nonnegative number, .*got None"):
        MirrorDescent(jnp.log, lambda z, t: z, None, 5, 1e-6)
