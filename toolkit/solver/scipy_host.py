"""scipy's solvers on the host: in float64, with functions that JAX has compiled for the CPU.

A solve ends at the first evaluated point whose residual is small, which is what the status asks for. Each method
has a rule of its own besides, on the change of a value or of x: that is set to 0, or to what float64 resolves.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from toolkit.types import Status

_MANY = 10**9  # evaluations: the limit is on iterations
_RESOLVED = (
    1e-10  # a radius, or a relative step: below it a method without derivatives sees rounding alone
)
_EPS = 4e-16  # `least_squares` refuses tolerances below the rounding of float64


class Method(NamedTuple):
    """What a method is given."""

    limit: str  # the option for the largest number of steps
    own: dict[str, Any]  # options that turn its own rule to stop off
    needs: str = (
        "value"  # besides values: "gradient", "product" or "matrix", of the Hessian or the Jacobian
    )
    bounds: bool = False
    counts_evaluations: bool = False  # whether the limit is on evaluations


# These are not written in Python, and no exception passes through them. A function that is 0 ends them.
_MINPACK = ("hybr", "lm")
_GTOL = {"gtol": 0.0}
METHODS = {
    "minimize": {
        "Nelder-Mead": Method(
            "maxiter", {"xatol": 0.0, "fatol": 0.0, "maxfev": _MANY}, bounds=True
        ),
        "Powell": Method("maxiter", {"xtol": _RESOLVED, "ftol": 0.0, "maxfev": _MANY}, bounds=True),
        "COBYLA": Method("maxiter", {"tol": _RESOLVED}, bounds=True, counts_evaluations=True),
        "COBYQA": Method("maxiter", {"final_tr_radius": _RESOLVED, "maxfev": _MANY}, bounds=True),
        "CG": Method("maxiter", _GTOL, "gradient"),
        "BFGS": Method("maxiter", _GTOL, "gradient"),
        "L-BFGS-B": Method(
            "maxiter", {"ftol": 0.0, "maxfun": _MANY, **_GTOL}, "gradient", bounds=True
        ),
        "TNC": Method(
            "maxfun", {"ftol": 0.0, "xtol": 0.0, **_GTOL}, "gradient", True, counts_evaluations=True
        ),
        "SLSQP": Method("maxiter", {"ftol": 0.0}, "gradient", bounds=True),
        "Newton-CG": Method("maxiter", {"xtol": 0.0}, "product"),
        "trust-ncg": Method("maxiter", _GTOL, "product"),
        "trust-krylov": Method("maxiter", _GTOL, "product"),
        "trust-constr": Method(
            "maxiter", {"xtol": _EPS, "barrier_tol": _EPS, **_GTOL}, "product", bounds=True
        ),
        "dogleg": Method("maxiter", _GTOL, "matrix"),
        "trust-exact": Method("maxiter", _GTOL, "matrix"),
    },
    "root": {
        "hybr": Method("maxfev", {"xtol": 0.0}, "matrix", counts_evaluations=True),
        "lm": Method("maxiter", {"xtol": 0.0, "ftol": 0.0}, "matrix", counts_evaluations=True),
        "df-sane": Method("maxfev", {"ftol": 0.0, "fatol": 0.0}, counts_evaluations=True),
        **{
            name: Method("maxiter", {"fatol": 0.0})
            for name in (
                "anderson",
                "broyden1",
                "broyden2",
                "diagbroyden",
                "excitingmixing",
                "krylov",
                "linearmixing",
            )
        },
    },
    "least_squares": {
        name: Method(
            "max_nfev",
            {"ftol": _EPS, "xtol": _EPS, "gtol": _EPS},
            "matrix",
            bounds=name != "lm",
            counts_evaluations=True,
        )
        for name in ("trf", "dogbox", "lm")
    },
}


class Problem(NamedTuple):
    """One solve, in NumPy arrays; `[n]` unless said otherwise."""

    function: str
    method: str
    max_steps: int
    tol: float
    x0: Any
    lower: Any
    upper: Any
    # x -> (value [], gradient), the function of an equation, or the residuals [m]
    evaluate: Any
    # (x, p) -> product with the Hessian; or x -> the matrix, of the Hessian or the Jacobian
    derivative: Any  # None where the method takes none
    bounded: bool
    eps: float  # of the type in which `evaluate` computes


class _Reached(Exception):
    """A point with a small residual has been evaluated."""


class _Run:
    """The functions as scipy calls them, of the entries that bounds leave free, and what they have seen."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        # Some methods refuse an interval without width.
        self.free = problem.lower < problem.upper
        self.x = problem.x0  # last evaluated
        self.found: Any = None
        self.finite = True
        self.evaluations = self.iterations = 0

    def whole(self, z: Any) -> Any:
        x = self.problem.x0.copy()
        x[self.free] = z
        return x

    def _seen(self, x: Any, *results: Any) -> None:
        self.x, self.evaluations = x, self.evaluations + 1
        self.finite = all(np.all(np.isfinite(one)) for one in results)

    def _is_small(self, x: Any, residual: Any) -> bool:
        # Half: the residual is computed anew for the status, and may round otherwise.
        small = self.finite and np.linalg.norm(residual) <= self.problem.tol / 2
        if small and np.all((self.problem.lower <= x) & (x <= self.problem.upper)):
            self.found = x
        return self.found is not None

    def _optimality(self, x: Any, gradient: Any) -> Any:
        """`x - clip(x - gradient)`, as `bounds.optimality`."""
        return np.clip(gradient, x - self.problem.upper, x - self.problem.lower)

    def value_and_gradient(self, z: Any) -> tuple[float, Any]:
        x = self.whole(z)
        value, gradient = self.problem.evaluate(x)
        self._seen(x, value, gradient)
        if self._is_small(x, self._optimality(x, gradient)):
            raise _Reached
        return float(value), gradient[self.free]

    def value(self, z: Any) -> float:
        return self.value_and_gradient(z)[0]

    def equation(self, z: Any) -> Any:
        x = self.whole(z)  # MINPACK writes its next point where this one stands
        left = self.problem.evaluate(x)
        self._seen(x, left)
        if not self._is_small(x, left):
            return left
        if self.problem.method in _MINPACK:
            return np.zeros_like(left)
        raise _Reached

    def residuals(self, z: Any) -> Any:
        x = self.whole(z)
        left = self.problem.evaluate(x)
        self._seen(x, left)
        return left

    def residuals_jacobian(self, z: Any) -> Any:
        x = self.whole(z)
        left, jacobian = self.problem.derivative(x)
        small = self._is_small(x, self._optimality(x, jacobian.T @ left))
        # As for MINPACK's others: a Jacobian that is 0 ends all three methods.
        return (np.zeros_like(jacobian) if small else jacobian)[:, self.free]

    def product(self, z: Any, p: Any) -> Any:
        direction = np.zeros_like(self.problem.x0)
        direction[self.free] = p
        return self.problem.derivative(self.whole(z), direction)[self.free]

    def matrix(self, z: Any) -> Any:
        return self.problem.derivative(self.whole(z))[np.ix_(self.free, self.free)]

    def count(self, *_: Any) -> None:
        self.iterations += 1


def solve(problem: Problem) -> tuple[Any, int, int]:
    """`x`, the steps made, and the `Status` where the residual at `x` turns out to be above the tolerance."""
    run = _Run(problem)
    if np.any(problem.lower > problem.upper):
        return np.full_like(problem.x0, np.nan), 0, int(Status.INFEASIBLE)
    if not np.all(np.isfinite(problem.x0)):
        return problem.x0, 0, int(Status.NOT_FINITE)
    x, steps = problem.x0, 0
    if np.any(run.free):
        with _quiet():
            x, steps = _solved(run)
    x = np.clip(x, problem.lower, problem.upper)
    if not np.all(np.isfinite(x)):
        return x, steps, int(Status.NOT_FINITE)
    stopped = Status.STALLED if steps < problem.max_steps else Status.STEP_LIMIT
    return x, steps, int(stopped)


def _solved(run: _Run) -> tuple[Any, int]:
    method = METHODS[run.problem.function][run.problem.method]
    try:
        found = _call(run, method)
        x, iterations = run.whole(found.x), found.get("nit", run.evaluations)
    except _Reached:
        iterations = run.iterations + (run.evaluations > 1)
        x = run.x
    except (ValueError, ArithmeticError):
        # What scipy says of a matrix without inverse, or of a function that is not finite: it found no solution,
        # which the status tells.
        x, iterations = run.x, run.iterations
    if run.found is not None:
        x = run.found
    return x, int(run.evaluations if method.counts_evaluations else iterations)


def _call(run: _Run, method: Method) -> Any:
    import scipy.optimize

    problem = run.problem
    name, start = problem.method, problem.x0[run.free]
    lower, upper = problem.lower[run.free], problem.upper[run.free]
    options = {method.limit: problem.max_steps, **method.own}
    if problem.function == "least_squares":
        box = {"bounds": (lower, upper)} if problem.bounded else {}
        return scipy.optimize.least_squares(
            run.residuals, start, run.residuals_jacobian, method=name, **options, **box
        )
    if problem.function == "root":
        jac = run.matrix if method.needs == "matrix" else None
        if name == "krylov":  # it takes differences, of steps that `evaluate` must see
            options["jac_options"] = {"rdiff": problem.eps**0.5}
        callback = {} if method.counts_evaluations else {"callback": run.count}
        return scipy.optimize.root(
            run.equation, start, method=name, jac=jac, options=options, **callback
        )
    given: dict[str, Any] = {"callback": run.count}
    if problem.bounded:
        given["bounds"] = scipy.optimize.Bounds(lower, upper)
        if name == "Nelder-Mead":
            options["initial_simplex"] = _simplex(start, lower, upper)
    if method.needs == "product":
        given["hessp"] = run.product
    if method.needs == "matrix":
        given["hess"] = run.matrix
    takes_gradient = method.needs != "value"
    return scipy.optimize.minimize(
        run.value_and_gradient if takes_gradient else run.value,
        start,
        method=name,
        jac=True if takes_gradient else None,
        options=options,
        **given,
    )


def _simplex(start: Any, lower: Any, upper: Any) -> Any:
    """scipy's first simplex, turned to where the bounds leave room; its own has no width at a lower bound."""
    step = np.where(start == 0, 0.00025, 0.05 * np.abs(start))
    step = np.where(upper - start >= start - lower, step, -step)
    corners = start + np.vstack([np.zeros_like(start), np.diag(step)])
    return np.clip(corners, lower, upper)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without scipy's warnings, which repeat what the status says."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def on_cpu(wide: bool) -> Iterator[None]:
    """Where functions are evaluated: a callback runs in a thread with settings of its own.

    Args:
      wide: `jax_enable_x64` of the trace.
    """
    with jax.default_device(jax.local_devices(backend="cpu")[0]), jax.enable_x64(wide):
        yield
