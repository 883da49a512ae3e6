"""`Scipy`: the solvers of scipy, as solvers; they run on the host."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from toolkit import tree
from toolkit.jaxprs.lift import lift
from toolkit.settings import Count, Tolerance, settings
from toolkit.solver import scipy_host
from toolkit.solver.bounds import Bounds, bounded, clip, limits
from toolkit.solver.requirements import require_objective
from toolkit.types import Ended, InnerProblem, Tree, WholeSolve

# The functions of `scipy.optimize` whose methods solve a kind of problem, and an example of each.
_FUNCTIONS = {
    "argmin": ("minimize",),
    "least_squares": ("least_squares", "minimize"),
    "root": ("root",),
    "fixed_point": ("root",),
}


@settings("scipy")
class Scipy:
    """A method of `scipy.optimize.minimize`, `root` or `least_squares`, by kind of problem; on the host.

        solve = tk.argmin(loss, tk.solver.Scipy("L-BFGS-B", max_steps=200, tol=1e-8, bounds=(0.0, jnp.inf)))

    scipy computes in float64, on values and derivatives that JAX computes on the CPU in the type of `y`. It ends
    at the first point whose residual is at most `tol`; the tolerances of its own are off, or far below.

    Args:
      method: for `argmin` one of `minimize`, for `least_squares` also one of `least_squares` (trf, dogbox, lm),
        for `root` and `fixed_point` one of `root`. All get exact derivatives where they take any: gradients,
        Hessian-vector products (Newton-CG, trust-ncg, trust-krylov, trust-constr), Hessians (dogleg,
        trust-exact), Jacobians (hybr, lm, trf, dogbox).
      max_steps: at most, as scipy counts them: iterations, or evaluations (TNC, COBYLA, hybr, lm, df-sane,
        trf, dogbox).
      tol: the solve counts as converged where the 2-norm of the residual is at most this, absolute: of the
        gradient, with bounds of `y - clip(y - gradient)`, or of the function.
      bounds: `(lower, upper)`, each a number, an array or a tree that broadcasts to `y`; or a callable
        `theta -> (lower, upper)`. `-jnp.inf` and `jnp.inf` for none. Hyperparameters. A start outside is moved
        to the bound.

    Returns: status `STALLED` where scipy stopped by its own rule above `tol`, as a method without derivatives
    does at about `sqrt(eps)`. NaN where the function is not finite, or where a lower bound is above its upper
    one (`INFEASIBLE`).

    Raises:
      ValueError: a method unfit for the kind of problem, or that takes no bounds; inside `jax.shard_map` or
        `jax.pmap`.

    Differentiation: by the rules that need no steps (`Implicit`, `Nudged`, `Stopped`), and `OneStep` of a
    fixed point. Where a bound is active, `y` follows it.

    Cost: that of the method, and a call of the host in compiled code (`jax.pure_callback`), which is not lowered
    for other platforms than this one; under `vmap` one lane after another.

    Source: `scipy.optimize`.
    """

    method: Literal[
        "BFGS",
        "CG",
        "COBYLA",
        "COBYQA",
        "L-BFGS-B",
        "Nelder-Mead",
        "Newton-CG",
        "Powell",
        "SLSQP",
        "TNC",
        "anderson",
        "broyden1",
        "broyden2",
        "df-sane",
        "diagbroyden",
        "dogbox",
        "dogleg",
        "excitingmixing",
        "hybr",
        "krylov",
        "linearmixing",
        "lm",
        "trf",
        "trust-constr",
        "trust-exact",
        "trust-krylov",
        "trust-ncg",
    ]
    max_steps: Count
    tol: Tolerance
    bounds: Bounds | None = None

    def bind(self, problem: InnerProblem) -> WholeSolve:
        """The whole solve of `problem`; complex leaves as pairs of real ones."""
        function = self._function(problem)
        if problem.kind == "argmin":
            require_objective(self, problem)

        def run(y0: Tree, theta: Tree) -> tuple[Tree, Ended]:
            return _run(self, function, problem, y0, theta)

        proximal = None if self.bounds is None else bounded(self.bounds, problem)
        return WholeSolve(run, self.tol, proximal)

    def _function(self, problem: InnerProblem) -> str:
        """The function of `scipy.optimize` that takes the method for this kind of problem."""
        asked = problem.kind if problem.residuals is None else "least_squares"
        known = scipy_host.METHODS
        function = next((f for f in _FUNCTIONS[asked] if self.method in known[f]), None)
        if function is None:
            fitting = [name for f in _FUNCTIONS[asked] for name in known[f]]
            squares = "; for a sum of squares use tk.least_squares"
            remedy = squares if self.method in known["least_squares"] and asked == "argmin" else ""
            raise ValueError(
                f"`method` must be one of scipy's that solves `{asked}`, {', '.join(fitting)}: got "
                f"{self.method!r}{remedy}."
            )
        takes = [name for f in _FUNCTIONS[asked] for name in known[f] if known[f][name].bounds]
        if self.bounds is not None and not known[function][self.method].bounds:
            instead = (
                f"one of {', '.join(takes)}" if takes else "tk.least_squares with trf or dogbox"
            )
            raise ValueError(
                f"`bounds` must be None with the method {self.method!r}, which takes none; use {instead}."
            )
        return function


class _Functions(NamedTuple):
    """What scipy asks for, of a vector and of theta."""

    evaluate: Any  # (flat, theta) -> as `scipy_host.Problem.evaluate`
    derivative: (
        Any  # (flat, theta) or (flat, theta, p) -> as there; None where the method takes none
    )


def _run(
    solver: Scipy, function: str, problem: InnerProblem, y0: Tree, theta: Tree
) -> tuple[Tree, Ended]:
    method = scipy_host.METHODS[function][solver.method]
    lower = upper = None
    if solver.bounds is not None:
        box = limits(solver.bounds, problem, y0, theta)
        y0 = clip(y0, box)
        lower, upper = (tree.ravel(one)[0] for one in box)
    flat, back = tree.ravel(tree.as_real(y0))
    if flat.size == 0:
        zero = jnp.asarray(0, jnp.int32)
        return y0, Ended(zero, zero)
    # Shapes and types alone: what is traced below is kept in a program.
    like = jax.eval_shape(lambda y: y, y0)
    if lower is None:
        lower, upper = jnp.full_like(flat, -jnp.inf), jnp.full_like(flat, jnp.inf)
    unflatten = lambda flat: tree.as_like(like, back(flat))
    functions = _functions(function, method.needs, problem, unflatten)
    evaluate = lift(functions.evaluate, flat, theta)
    derivative = None
    if functions.derivative is not None:
        more = (flat,) if method.needs == "product" else ()
        derivative = lift(functions.derivative, flat, theta, *more)
    _require_determined(solver, function, evaluate.shape, flat.size)
    shapes = (
        jax.ShapeDtypeStruct(flat.shape, flat.dtype),
        jax.ShapeDtypeStruct((), jnp.int32),
        jax.ShapeDtypeStruct((), jnp.int32),
    )
    host = _host(solver, function, flat.dtype, evaluate.call, derivative and derivative.call)
    closed = (evaluate.closed, () if derivative is None else derivative.closed)
    x, steps, otherwise = jax.pure_callback(
        host, shapes, flat, lower, upper, theta, closed, vmap_method="sequential"
    )
    return unflatten(x), Ended(steps, otherwise)


def _functions(function: str, needs: str, problem: InnerProblem, unflatten: Any) -> _Functions:
    vector = lambda leaves: tree.ravel(tree.as_real(leaves))[0]

    def condition(flat: Array, theta: Tree) -> Array:
        y = unflatten(flat)
        return vector(problem.residual(y, problem.evaluate(y, theta, None)))

    if function == "root":
        return _Functions(condition, jax.jacfwd(condition) if needs == "matrix" else None)
    if function == "least_squares":
        of_problem = problem.residuals
        assert of_problem is not None  # by `_function`

        def residuals(flat: Array, theta: Tree) -> Array:
            return vector(of_problem(unflatten(flat), theta, None))

        def with_jacobian(flat: Array, theta: Tree) -> tuple[Array, Array]:
            return residuals(flat, theta), jax.jacfwd(residuals)(flat, theta)

        return _Functions(residuals, with_jacobian)
    objective = problem.objective
    assert objective is not None  # by `require_objective`

    def value_and_gradient(flat: Array, theta: Tree) -> tuple[Array, Array]:
        return objective(unflatten(flat), theta, None), condition(flat, theta)

    def product(flat: Array, theta: Tree, p: Array) -> Array:
        return jax.jvp(lambda flat: condition(flat, theta), (flat,), (p,))[1]

    derivatives = {"product": product, "matrix": jax.jacfwd(condition)}
    return _Functions(value_and_gradient, derivatives.get(needs))


def _host(solver: Scipy, function: str, dtype: Any, evaluate: Any, derivative: Any) -> Any:
    """The solve as a callback; `evaluate` and `derivative` take what they close over first."""
    wide = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    compiled = [None if one is None else jax.jit(one) for one in (evaluate, derivative)]

    def host(flat: Any, lower: Any, upper: Any, theta: Tree, closed: Any) -> tuple[Any, Any, Any]:
        def on_arrays(fun: Any, closed: Any, x: Any, *p: Any) -> Any:
            narrow = [one.astype(dtype) for one in (x, *p)]
            made = fun(closed, narrow[0], theta, *narrow[1:])
            return jax.tree.map(lambda one: np.asarray(one, np.float64), made)

        evaluated, derived = (
            None if fun is None else partial(on_arrays, fun, arrays)
            for fun, arrays in zip(compiled, closed, strict=True)
        )
        start, low, high = (np.array(one, np.float64) for one in (flat, lower, upper))
        bounded, eps = solver.bounds is not None, float(jnp.finfo(dtype).eps)
        asked = scipy_host.Problem(
            function, solver.method, solver.max_steps, solver.tol, start, low, high,
            evaluated, derived, bounded, eps,
        )  # fmt: skip
        with scipy_host.on_cpu(wide):
            x, steps, otherwise = scipy_host.solve(asked)
        return x.astype(dtype), np.int32(steps), np.int32(otherwise)

    return host


def _require_determined(solver: Scipy, function: str, residuals: Any, unknowns: int) -> None:
    if function == "least_squares" and solver.method == "lm" and residuals.size < unknowns:
        raise ValueError(
            f"`method` must be 'trf' or 'dogbox' for fewer residuals than unknowns: got 'lm' for "
            f"{residuals.size} residuals of {unknowns} unknowns."
        )
