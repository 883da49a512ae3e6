"""What every room agrees on: results, statuses, and the roles that settings classes play.

Shapes: a *tree* is any pytree of arrays. `y` is the inner variable, `theta` everything that the
solution is differentiated with respect to. Inside the library both hold only floating or complex
leaves (`None` marks a leaf that is carried untouched), and `theta` also carries the arrays that the
user's functions close over; `toolkit.solve.preparation` does the conversion in one place.

What is handed to whom in one solve, `tk.argmin(fun, solver, adjoint=adjoint)(y0, theta, xs)`:

| struct | what it is | made by | handed to |
|---|---|---|---|
| `InnerProblem` | what is zero, or smallest, at a solution | `solve/preparation.py`, from `fun` | solver, adjoint |
| `Method` | one step of a solver on that problem | `solver.bind(problem)` | `solve/binding.py` |
| `WholeSolve` | the same of a solver that keeps its steps to itself | `solver.bind(problem)` | `solve/without_steps.py` |
| `SolverSteps` | the loop of such steps | `solver/iterate.py`, from a `Method` | adjoint, as `primal.steps` |
| `Primal` | the computation whose derivative is wanted | `solve/binding.py` | `adjoint.differentiable` |
| `SolveCall` | all of these, and the arrays of one call | `solve/preparation.py` | `SolutionMap`, `tk.hypergradient` |

`adjoint.differentiable(problem, primal)` is then called with the arrays and gives `(y, steps made)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

Tree = Any
Matvec = Callable[[Tree], Tree]  # a linear map, as a function
Kind = Literal["argmin", "root", "fixed_point"]
Asked = Literal[
    "argmin", "root", "fixed_point", "least_squares"
]  # a problem of the last kind is an argmin
Curvature = Literal["exact", "gauss_newton"]


class Status(IntEnum):
    """How a solve ended: data inside `jit`, never an exception there."""

    CONVERGED = 0
    STEP_LIMIT = 1
    NOT_FINITE = 2
    STALLED = 3  # stopped above its tolerance with steps left: no descent, no change of sign in the bracket
    INFEASIBLE = 4  # no point satisfies the constraints
    UNBOUNDED = 5  # the objective has no least value

    def __str__(self) -> str:
        return self.name

    def __format__(self, spec: str) -> str:
        return format(int(self), spec) if spec else str(self)


class Issue(IntFlag):
    """What may be wrong with a hypergradient; bits combine, 0 is fine."""

    INNER_NOT_CONVERGED = 1
    LINEAR_NOT_CONVERGED = 2
    NOT_FINITE = 4
    NEGATIVE_CURVATURE = 8
    NOT_REVERSED = 16

    def __str__(self) -> str:
        return self.name or (str(int(self)) if self else "none")

    def __format__(self, spec: str) -> str:
        return format(int(self), spec) if spec else str(self)


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


class StepInfo(NamedTuple):
    """What a step by hand found at the point that it was handed."""

    status: Array  # [] int32, a `Status`; without derivative
    residual: Array  # [] 2-norm over all leaves of the optimality condition; without derivative
    value: Array | None  # [] the function of an argmin; None of an equation
    aux: Tree = None  # the function's aux, when `has_aux=True`


class LinearInfo(NamedTuple):
    """How a linear solve went."""

    status: Array  # [] int32, a `Status`
    steps: Array  # [] int32, iterations (matrix columns for a direct solve)
    residual: Array  # [] ||A x - b|| / ||b||, recomputed from the system handed in
    negative_curvature: Array | bool = False  # [] bool, some p'Ap <= 0 was seen
    products: Array | None = None  # [] int32, products with A; None counts as steps + 1


class Beside(NamedTuple):
    """What the user's function returned on the way to a gradient, or to its own value."""

    value: Array | None  # [] of an argmin
    aux: Tree = None  # numeric leaves


class Evaluation(NamedTuple):
    """What a solver computes at an iterate before it moves on."""

    needed: Tree  # what `Method.update` needs: a gradient, the value of the map, ...
    residual: Tree  # zero at the solution; None where `Method.residual_norm` knows it
    beside: Beside | None = None  # what a step by hand reports; None: not known here


class Descent(NamedTuple):
    """The settings of a method `v <- momentum * v - grad; y <- y + step_size * v`, state `(y, v)`."""

    schedule: Callable[[Tree, Tree], tuple[Tree, Tree]]  # (theta, t) -> (step_size, momentum)
    momenta: Any  # numpy, [num_steps], where they are known before tracing; else None
    accelerated: bool = False  # by Nesterov's momentum instead: another state, and no inverse


class Proximal(NamedTuple):
    """How a method minimises `fun + g`: by the proximal map of g. `s` is the step size."""

    step_size: Callable[[Tree], Array]  # theta -> s, of the last step
    prox: Callable[[Tree, Tree, Array], Tree]  # (z, theta, s) -> argmin_y g(y) + |y - z|^2 / 2s
    loops_on_data: bool = False  # whether `prox` contains a `while_loop`
    # (y, theta) -> where a gradient step begins, of mirror descent; None: at y itself
    mirror: Callable[[Tree, Tree], Tree] | None = None


class Box(NamedTuple):
    """How a method minimises `fun` within bounds of each entry, instead of by a `Proximal`."""

    # (y, gradient, theta) -> `y - clip(y - gradient)`, computed as the gradient, cut off by the ways to the bounds:
    # of a difference of two points the digits below those of `y` are lost, and with them whether a bound is active.
    cut: Callable[[Tree, Tree, Tree], Tree]


class Method(NamedTuple):
    """One step of a solver on one problem, as pure functions of explicit arguments.

    One step is `update(state, evaluate(state, theta, x).needed, theta, t, x)`. Evaluation and
    update are separate functions because a derivative rule may differentiate the evaluation (a
    gradient) by a cheaper pullback than that of plain reverse mode, see `derive/curvature.py`.
    """

    init: Callable[[Tree, Tree], Tree]  # (y0, theta) -> state
    evaluate: Callable[[Tree, Tree, Tree], Evaluation]  # (state, theta, x)
    update: Callable[..., Tree]  # (state, needed, theta, t, x) -> state
    value: Callable[[Tree], Tree]  # state -> y
    num_steps: int  # the number of steps, or its limit when `tol` is given
    tol: float | None  # absolute, on the residual; None runs exactly `num_steps`
    descent: Descent | None = None  # where it is momentum gradient descent
    proximal: Proximal | Box | None = None  # where it minimises more than the objective
    # state after a step -> [] norm of the residual before it, where `evaluate` cannot know it
    residual_norm: Callable[[Tree], Array] | None = None
    # Whether `evaluate` hands on a linear map, a program and its arrays, or reads what the solver's settings hold.
    # A map or an array of one trace means nothing in another one, so such an `evaluate` is traced once, and its
    # derivative is that of this program.
    linearises: bool = False
    # (state, stale) -> state, where it keeps values of the function that belong to the theta of the step before:
    # without these where `stale`, a scalar, is true. Steps by hand may change theta between them.
    forget: Callable[[Tree, Array], Tree] | None = None
    # (state, needed) -> state that holds what `evaluate` found there. A solve of one function begins with it: each
    # step of such a solver evaluates at its end, where the next one begins.
    keep: Callable[[Tree, Any], Tree] | None = None
    # state -> [] bool, whether no step from here leads on: a loop ends there. None: never.
    stalled: Callable[[Tree], Array] | None = None
    # Whether an update costs less than a branch around it, and has finite derivatives at a solution, too.
    cheap_update: bool = False
    # Whether the fixed point that it converges to attracts: no eigenvalue of the map's derivative is 1 or more.
    attracted: bool = False


@dataclass(frozen=True, eq=False)
class InnerProblem:
    """What a solve is to find, as solvers and adjoints see it.

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
    # Functions that the user's one calls, in words; "" without any: one whose derivative rule may be no
    # derivative, and one that has a backward pass alone, and no forward mode.
    own_rule: str = ""
    backward_only: str = ""
    depth: int = 0  # how many solves' functions it is solved in, one inside another
    # Whether its own function solves other problems, as far as that has been traced.
    holds_solves: Callable[[], bool] = lambda: False
    # Whether `fun` contains a loop on data (a `while_loop`), which JAX pushes tangents through but does not
    # transpose.
    loops_on_data: bool = False
    given_gradient: bool = False  # whether `fun` itself returns the gradient
    # Whether `evaluate` has a backward pass of its own and no forward mode, see `derive/curvature.py`.
    reverse_only: bool = False
    # As `evaluate`, with what the function returned on the way; None where nobody asks for that.
    observe: Callable[[Tree, Tree, Tree], tuple[Tree, Beside]] | None = None
    # (y, theta, x) -> the residuals of which `objective` is half the sum of squares; None for other problems.
    residuals: Callable[[Tree, Tree, Tree], Tree] | None = None
    # Whether the implicit rule takes `J'J` of the residuals' derivative J for the Hessian.
    gauss_newton: bool = False

    @property
    def symmetric(self) -> bool:
        """Whether the derivative of `residual` is symmetric: it is a Hessian.

        With a derivative rule of the user's own inside, what a solver follows may be the gradient of no
        function: a clipped gradient, feedback weights. Its derivative is then no Hessian. Nor need a
        gradient that the user has written be one.
        """
        return self.objective is not None and not (self.own_rule or self.given_gradient)

    def look(self, y: Tree, theta: Tree, x: Tree) -> tuple[Tree, Beside | None]:
        """`evaluate`, and what was computed on the way where a step by hand asks for it."""
        if self.observe is None:
            return self.evaluate(y, theta, x), None
        return self.observe(y, theta, x)

    def residual(self, y: Tree, evaluation: Tree) -> Tree:
        """The tree that is zero at the solution, given `evaluation` at `y`.

        At a fixed point `y - fun(y)`, whose derivative `I - J` is what linear solvers are made for: its
        Neumann series is the sum of the powers of J, and for a symmetric contraction it is positive
        definite. On `J - I` that series diverges.
        """
        if self.kind != "fixed_point":
            return evaluation
        return jax.tree.map(lambda old, new: old - new, y, evaluation)


@dataclass(frozen=True, eq=False)
class Composite:
    """A minimum of `smooth + g`, which is where `(y - prox(y - s grad)) / s` is zero; in a box with s = 1."""

    smooth: InnerProblem
    proximal: Proximal | Box


class Ended(NamedTuple):
    """How a solver that keeps its steps to itself ended; no derivative."""

    steps: Array  # [] int32, iterations made
    # [] int32, the `Status` if the residual turns out to be above the tolerance. Beside a NaN value the reason
    # for that: a solver that finds no solution gives NaN.
    otherwise: Array


class WholeSolve(NamedTuple):
    """A solver that keeps its steps to itself, on one problem: a library's, or one on the host."""

    run: Callable[[Tree, Tree], tuple[Tree, Ended]]  # (y0, theta) -> (y, how it ended)
    tol: float | None  # as that of a `Method`
    proximal: Proximal | Box | None = None  # where it minimises more than the objective
    # (y, theta) -> (what is zero, what is at most zero) at a solution, where it has constraints. `run` then gives
    # a `WithMultipliers` of `derive/constrained.py` in place of y.
    constraints: Callable[[Tree, Tree], tuple[Tree, Tree]] | None = None


class SolverSteps(NamedTuple):
    """The loop of a solver, one step at a time.

    With a tolerance the carry also says whether the loop is done; a step after that changes nothing.
    So an adjoint may run all `num_steps` in a loop of fixed length, and needs to know of no tolerance.
    """

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
    """An argmin of `fun(y, theta) + Re sum(q y)`, by the solver of the argmin of `fun`.

    Continued to complex `y`, it is a zero of `d fun / dy + q`, which is neither minimum nor maximum.
    """

    energy: Callable[[Tree, Tree], Array]  # (y, theta) -> fun without the tilt
    run: Callable[[Tree, Tree, Tree], tuple[Tree, Array]]  # (y0, theta, q) -> (y, steps made)
    theta: Tree  # what both of them take as theta


class Primal(NamedTuple):
    """The computation whose derivative an adjoint makes."""

    # (y0, theta, xs) -> (y, steps made); of a `WholeSolve` (y, `Ended`)
    run: Callable[[Tree, Tree, Tree], tuple[Tree, Array]]
    # The same computation step by step; None where the solver keeps its steps to itself.
    steps: SolverSteps | None
    name: str  # of the solver, for messages
    settings: Tree  # like theta, with booleans: true where a setting of the solver reads the leaf
    # (y, theta, continued) -> the same argmin tilted, traced anew at leaves like those of `y`;
    # None where the computation is a tilted one already.
    tilted: Callable[[Tree, Tree, bool], Tilted] | None = None
    no_derivative: bool = (
        False  # whether JAX cannot differentiate `run`: it runs on the host, or loops on data
    )


class PullbackReport(NamedTuple):
    """What only a reverse pass knows about itself.

    A reverse pass can return nothing but cotangents. So a rule is handed zeros in this form, and its
    reverse pass returns the report as their cotangents: to read it, differentiate with respect to these
    zeros, too.
    """

    issues: Array  # [] floating, a `tk.Issue` bit mask
    gradient_evals: Array  # [] floating, inner gradients that the reverse pass took

    @classmethod
    def zeros(cls) -> PullbackReport:
        """What to hand to `differentiable`."""
        return cls(jnp.zeros(()), jnp.zeros(()))


class LinearSolver(Protocol):
    """Solves `A x = b` given `matvec`; trees in, trees out."""

    def __call__(
        self, matvec: Matvec, b: Tree, x0: Tree | None = None
    ) -> tuple[Tree, LinearInfo]: ...


class Preconditioner(Protocol):
    """An approximate inverse, made once for a system."""

    def approximate_inverse(self, matvec: Matvec, like: Tree) -> Matvec:
        """A linear map near `A^{-1}`, on trees like `like`; Hermitian positive definite for CG."""
        ...

    def products(self, like: Tree) -> int:
        """Products with A that making it takes."""
        ...


@runtime_checkable
class Solver(Protocol):
    """A solver's settings; any callable `(fun, y0, theta) -> Solution` also serves."""

    def bind(self, problem: InnerProblem) -> Method | WholeSolve:
        """One step on `problem`, or the whole solve; refuses a kind of problem that it does not solve."""
        ...


class Adjoint(Protocol):
    """A derivative rule of a solve: same value, another derivative.

    A class with these three members is a rule; it need not inherit from anything. This one has the
    derivative of one gradient step at the solution:

        class GradientStep:
            presumes_solution = True

            def differentiable(self, problem, primal):
                def run(y0, theta, xs):
                    y, steps = primal.run(*jax.lax.stop_gradient((y0, theta, xs)))
                    slope = problem.evaluate(y, theta, None)
                    moved = jax.tree.map(lambda a, g: a - 0.1 * g, y, slope)
                    return toolkit.tree.graft(y, moved), steps  # value of y, derivative of moved

                return run

            def hvp_evals(self, steps, hyperparameters):
                return 1

    What a rule may have besides; where it is missing, the default holds:

    | member | default | meaning |
    |---|---|---|
    | `forward_mode` | True | `jax.jvp` passes through the rule |
    | `needs_no_run` | False | `primal.run` is called for its value only, which may be handed in ready |
    | `needs_objective` | False | the rule reads `problem.objective`: it serves no bare equation |
    | a third argument of `differentiable`, `report=None` | none | a `PullbackReport`, see there |
    """

    @property
    def presumes_solution(self) -> bool:
        """Whether the derivative is that of an exact solution, whatever the steps were."""
        ...

    def differentiable(
        self, problem: InnerProblem, primal: Primal
    ) -> Callable[[Tree, Tree, Tree], tuple[Tree, Array]]:
        """`primal.run`, `(y0, theta, xs) -> (y, steps made)`, with this rule's derivative."""
        ...

    def hvp_evals(self, steps: Array, hyperparameters: int) -> Array:
        """Hessian-vector (or Jacobian-vector) products of a gradient in so many scalars."""
        ...
