"""`Optimistix`: the solvers of optimistix, as solvers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from toolkit import tree
from toolkit.errors.libraries import missing
from toolkit.leaves.promotion import standard_promotion
from toolkit.settings import Count, Tolerance, settings
from toolkit.solver.libraries import ended
from toolkit.solver.requirements import require_objective
from toolkit.types import Ended, InnerProblem, Tree, WholeSolve
from toolkit.vocabulary.kinds import Given

# What each function of optimistix takes besides its own kind of solver, most special first.
_FITTING = {
    "minimise": ("AbstractMinimiser",),
    "least_squares": ("AbstractLeastSquaresSolver", "AbstractMinimiser"),
    "root_find": ("AbstractRootFinder", "AbstractLeastSquaresSolver", "AbstractMinimiser"),
    "fixed_point": (
        "AbstractFixedPointSolver",
        "AbstractRootFinder",
        "AbstractLeastSquaresSolver",
        "AbstractMinimiser",
    ),
}
_EXAMPLES = {
    "AbstractMinimiser": "BFGS, NonlinearCG or NelderMead",
    "AbstractLeastSquaresSolver": "LevenbergMarquardt, Dogleg or GaussNewton",
    "AbstractRootFinder": "Newton or Chord",
    "AbstractFixedPointSolver": "FixedPointIteration",
}

# Those whose constructor takes `rtol` and `atol`, and nothing else that has no default.
_Named = Literal[
    "BFGS",
    "Chord",
    "DFP",
    "Dogleg",
    "FixedPointIteration",
    "GaussNewton",
    "LBFGS",
    "LevenbergMarquardt",
    "NelderMead",
    "Newton",
    "NonlinearCG",
]
_OptimistixSolver = Annotated[
    Any,
    Given(
        "a solver of optimistix, such as optimistix.BFGS(rtol=1e-8, atol=1e-8)",
        fits=lambda value: not isinstance(value, type) and hasattr(value, "terminate"),
        error=TypeError,
    ),
]
_Options = Annotated[
    dict[str, Any],
    Given("a dict of optimistix's options", fits=lambda value: isinstance(value, dict)),
]


@settings("optimistix")
class Optimistix:
    """Any minimiser, root finder, fixed-point or least-squares solver of optimistix.

        solve = tk.argmin(loss, tk.solver.Optimistix(optimistix.BFGS(rtol=1e-8, atol=1e-8), max_steps=200))

    The solver stops by its own rule, `rtol` and `atol` of its constructor. Our status then compares the
    residual with `tol`, whatever optimistix says of its result.

    Args:
      solver: of optimistix; for `argmin` a minimiser, for `least_squares` also a least-squares solver, for
        `root` also a root finder, for `fixed_point` any. A config writes the name of its class, such as
        BFGS, which gets `rtol` and `atol` of `tol` (the root of eps where that is None).
      max_steps: iterations at most.
      tol: the solve counts as converged where the 2-norm of the residual (a gradient, or the function) is
        at most this, absolute; None judges as `tk.argmin` says.
      options: optimistix's options for that solver, such as `{"lower": ..., "upper": ...}`.

    Returns: status `STALLED` where optimistix stopped by its own rule above `tol`.

    Raises:
      TypeError: `solver` is none of optimistix.
      ValueError: a solver unfit for the kind of problem; inside `jax.shard_map` or `jax.pmap`.
      ImportError: optimistix is not installed (the extra `solvers`).

    Differentiation: by the rules that need no steps (`Implicit`, `Nudged`, `Stopped`), and `OneStep` of a
    fixed point. optimistix's own adjoint is not used.

    Cost: that of the solver, and one evaluation for the status. Compiled code calls the host only where
    optimistix does: in its `Bisection` and `IndirectLevenbergMarquardt`.
    """

    solver: _Named | _OptimistixSolver
    max_steps: Count
    tol: Tolerance | None = None
    options: _Options | None = None

    def bind(self, problem: InnerProblem) -> WholeSolve:
        """The whole solve of `problem`; complex leaves as pairs of real ones."""
        try:
            import optimistix
        except ImportError as error:
            raise missing("optimistix", "tk.solver.Optimistix") from error
        entry = {"argmin": "minimise", "root": "root_find", "fixed_point": "fixed_point"}[
            problem.kind
        ]
        if problem.residuals is not None:
            entry = "least_squares"
        _require_fitting(optimistix, entry, self.solver)
        if problem.kind == "argmin":
            require_objective(self, problem)
        objective, residuals = problem.objective, problem.residuals

        @standard_promotion  # optimistix mixes types
        def run(y0: Tree, theta: Tree) -> tuple[Tree, Ended]:
            start = tree.as_real(y0)
            # Shapes and types alone: optimistix keeps `fun` in a cache of JAX, and a tracer would leak with it.
            like, real_like = jax.eval_shape(lambda *trees: trees, y0, start)

            def fun(real: Tree, theta: Tree) -> Tree:
                y = tree.as_like(like, tree.typed_like(real_like, real))
                if residuals is not None:
                    return tree.as_real(residuals(y, theta, None))
                if objective is not None:
                    return objective(y, theta, None)
                return tree.as_real(problem.evaluate(y, theta, None))

            found = getattr(optimistix, entry)(
                fun,
                self._made(optimistix, y0),
                start,
                args=theta,
                options=self.options,
                max_steps=self.max_steps,
                throw=False,
            )
            y = tree.as_like(y0, tree.typed_like(start, found.value))
            steps = jnp.asarray(found.stats["num_steps"], jnp.int32)
            return y, ended(y, steps, self.max_steps)

        return WholeSolve(run, self.tol)

    def _made(self, optimistix: Any, y0: Tree) -> Any:
        """The solver itself, where it was given by name."""
        if not isinstance(self.solver, str):
            return self.solver
        tol = tree.eps(y0) ** 0.5 if self.tol is None else self.tol
        return getattr(optimistix, self.solver)(rtol=tol, atol=tol)


def _require_fitting(optimistix: Any, entry: str, solver: Any) -> None:
    """Refuse a solver that the function `entry` of optimistix does not take."""
    given = getattr(optimistix, solver) if isinstance(solver, str) else type(solver)
    fitting = _FITTING[entry]
    if issubclass(given, tuple(getattr(optimistix, name) for name in fitting)):
        return
    others = ", ".join(_EXAMPLES[name] for name in fitting)
    kind = {"minimise": "argmin", "root_find": "root"}.get(entry, entry)
    squares = issubclass(given, optimistix.AbstractLeastSquaresSolver)
    remedy = "; for a sum of squares use tk.least_squares" if squares else ""
    raise ValueError(
        f"`solver` must be one of optimistix that solves `{kind}`, such as {others}: got "
        f"{given.__name__}{remedy}."
    )
