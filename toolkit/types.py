"""What every room agrees on: results, statuses, and the roles that settings classes play.

Shapes: a *tree* is any pytree of arrays. `y` is the inner variable, `theta` everything that the
solution is differentiated with respect to. Inside the library both hold only floating or complex
leaves (`None` marks a leaf that is carried untouched), and `theta` also carries the arrays that the
user's functions close over; `toolkit.solve.maps` does the conversion in one place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
from jax import Array

Tree = Any
Kind = Literal["argmin", "root", "fixed_point"]


class Status(IntEnum):
    """How a solve ended: data inside `jit`, never an exception there."""

    CONVERGED = 0
    STEP_LIMIT = 1
    NOT_FINITE = 2


class Issue(IntFlag):
    """What may be wrong with a hypergradient; bits combine, 0 is fine."""

    INNER_NOT_CONVERGED = 1
    LINEAR_NOT_CONVERGED = 2
    NOT_FINITE = 4
    NEGATIVE_CURVATURE = 8
    NOT_REVERSED = 16


class SolveInfo(NamedTuple):
    """How a solve went; arrays without gradient."""

    status: Array  # [] int32, a `Status`
    steps: Array  # [] int32, updates made
    residual: Array  # [] 2-norm over all leaves of the optimality condition at the value


class Solution(NamedTuple):
    """What a solve returns."""

    value: Tree  # like y0; differentiable by the adjoint's rule
    info: SolveInfo
    aux: Tree = None  # the function's aux at the value, when `has_aux=True`


class LinearInfo(NamedTuple):
    """How a linear solve went."""

    status: Array  # [] int32, a `Status`
    steps: Array  # [] int32, iterations (matrix columns for a direct solve)
    residual: Array  # [] ||A x - b|| / ||b||, recomputed from the system handed in
    negative_curvature: Array | bool = False  # [] bool, some p'Ap <= 0 was seen
    products: Array | None = None  # [] int32, products with A; None counts as steps + 1


class Evaluation(NamedTuple):
    """What a solver computes at an iterate before it moves."""

    needed: Tree  # what `Method.update` needs: a gradient, the value of the map, ...
    residual: Tree  # zero at the solution; None where `Method.residual_norm` knows it


class Descent(NamedTuple):
    """What makes a method `v <- momentum * v - grad; y <- y + step_size * v`, state `(y, v)`."""

    schedule: Callable[[Tree, Tree], tuple[Tree, Tree]]  # (theta, t) -> (step_size, momentum)
    momenta: Any  # [num_steps] numpy where they are known before tracing, else None


class Proximal(NamedTuple):
    """What makes a method minimise `fun + g`: the proximal map of g, `s` the step size."""

    step_size: Callable[[Tree], Array]  # theta -> s, of the last step
    prox: Callable[[Tree, Tree, Array], Tree]  # (z, theta, s) -> argmin_y g(y) + |y - z|^2 / 2s


class Method(NamedTuple):
    """A solver bound to a problem: pure functions of explicit arguments.

    One step is `update(state, evaluate(state, theta, x).needed, theta, t, x)`. Evaluation and
    update are apart because a derivative rule may give the evaluation a cheaper pullback.
    """

    init: Callable[[Tree, Tree], Tree]  # (y0, theta) -> state
    evaluate: Callable[[Tree, Tree, Tree], Evaluation]  # (state, theta, x)
    update: Callable[..., Tree]  # (state, needed, theta, t, x) -> state
    value: Callable[[Tree], Tree]  # state -> y
    num_steps: int  # the number of steps, or its limit when `tol` is given
    tol: float | None  # absolute, on the residual; None runs exactly `num_steps`
    descent: Descent | None = None  # where it is momentum gradient descent
    proximal: Proximal | None = None  # where it minimises more than the objective
    # state after a step -> [] norm of the residual before it, where `evaluate` cannot know it
    residual_norm: Callable[[Tree], Array] | None = None


@dataclass(frozen=True, eq=False)
class Problem:
    """A solve as the solvers and the adjoints see it.

    `evaluate(y, theta, x)` is the gradient (argmin; for complex leaves its conjugate, along which
    the function ascends), the function (root), or the map (fixed point).
    """

    kind: Kind
    evaluate: Callable[[Tree, Tree, Tree], Tree]
    # The scalar of an argmin; None for an equation, also where that is a complex gradient.
    objective: Callable[[Tree, Tree, Tree], Array] | None
    user_y: Callable[[Tree, Tree], Tree]  # (y, theta) -> y as the user wrote it
    user_theta: Callable[[Tree], Tree]  # theta -> theta as the user wrote it
    linear_solver: LinearSolver  # the default for this structure and size
    composite: Composite | None = None  # where it is a minimum of a sum, as the root of a map

    @property
    def symmetric(self) -> bool:
        """Whether the derivative of `residual` is symmetric: it is a Hessian."""
        return self.objective is not None

    def residual(self, y: Tree, evaluation: Tree) -> Tree:
        """The tree that is zero at the solution, given `evaluation` at `y`."""
        if self.kind != "fixed_point":
            return evaluation
        return jax.tree.map(lambda new, old: new - old, evaluation, y)


@dataclass(frozen=True, eq=False)
class Composite:
    """A minimum of `smooth + g`, which is where `(y - prox(y - s grad)) / s` is zero."""

    smooth: Problem
    proximal: Proximal


class Steps(NamedTuple):
    """The loop of a solver, one step at a time; a tolerance is the loop's affair, not a rule's."""

    begin: Callable[[Tree, Tree], Tree]  # (y0, theta) -> carry
    step: Callable[[Tree, Tree, Tree], Tree]  # (carry, theta, (number, x)) -> carry
    replayed: Callable[[Tree, Tree, Tree], Tree]  # the same, with a cheaper reverse pass
    once: Callable[[Tree, Tree], Tree]  # (carry, theta) -> y after one unconditional step
    finish: Callable[[Tree], tuple[Tree, Array]]  # carry -> (y, steps made)
    run: Callable[[Tree, Tree, Tree], Tree]  # (y0, theta, xs) -> last carry; no reverse mode
    num_steps: int  # at most
    exact: bool  # exactly `num_steps` are made
    loops_on_data: bool  # a step contains a `while_loop`, which reverse mode cannot cross
    descent: Descent | None  # where the steps are those of momentum gradient descent


class Tilted(NamedTuple):
    """An argmin of `fun(y, theta) + Re sum(q y)`, by the solver of another.

    Or its continuation to complex `y`: a zero of `d fun / dy + q`, neither minimum nor maximum.
    """

    energy: Callable[[Tree, Tree], Array]  # (y, theta) -> fun without the tilt
    run: Callable[[Tree, Tree, Tree], tuple[Tree, Array]]  # (y0, theta, q) -> (y, steps made)
    theta: Tree  # what both of them take as theta


class Primal(NamedTuple):
    """The computation whose derivative an adjoint makes."""

    run: Callable[[Tree, Tree, Tree], tuple[Tree, Array]]  # (y0, theta, xs) -> (y, steps made)
    steps: Steps | None  # where the solver shows them
    name: str  # of the solver, for messages
    settings: Tree  # like theta, with booleans: what a setting of the solver reads
    # (y, theta, continued) -> an argmin tilted, traced anew at leaves like those of `y`.
    tilted: Callable[[Tree, Tree, bool], Tilted]


class Alarm(NamedTuple):
    """What only a reverse pass knows: it is given zeros, and these are their cotangents."""

    issues: Array  # [] floating, a `tk.Issue` bit mask
    gradient_evals: Array  # [] floating, inner gradients that the reverse pass took


class LinearSolver(Protocol):
    """Solves `A x = b` given `matvec`; trees in, trees out."""

    def __call__(
        self, matvec: Callable[[Tree], Tree], b: Tree, x0: Tree | None = None
    ) -> tuple[Tree, LinearInfo]: ...


class Preconditioner(Protocol):
    """An approximate inverse, made once for a system."""

    def approximate_inverse(
        self, matvec: Callable[[Tree], Tree], like: Tree
    ) -> Callable[[Tree], Tree]:
        """A linear map near `A^{-1}`, on trees like `like`; Hermitian positive definite for CG."""
        ...

    def products(self, like: Tree) -> int:
        """Products with A that making it takes."""
        ...


@runtime_checkable
class Solver(Protocol):
    """A solver that shows its steps; any callable `(fun, y0, theta) -> Solution` also serves."""

    def bind(self, problem: Problem) -> Method: ...


class Adjoint(Protocol):
    """A derivative rule of a solve: same value, another derivative."""

    @property
    def presumes_solution(self) -> bool:
        """Whether the derivative is that of an exact solution, whatever the steps were."""
        ...

    def differentiable(
        self, problem: Problem, primal: Primal
    ) -> Callable[[Tree, Tree, Tree], tuple[Tree, Array]]:
        """`primal.run` with this rule's derivative."""
        ...

    def hvp_evals(self, steps: Array, hyperparameters: int) -> Array:
        """Hessian-vector (or Jacobian-vector) products of a gradient in so many scalars."""
        ...
