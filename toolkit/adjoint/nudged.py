"""`Nudged`: equilibrium propagation, the pullback of a solve from solves of a slightly nudged problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge
from jax import Array

from toolkit import tree
from toolkit.adjoint.landscape import Landscape, Visit
from toolkit.adjoint.requirements import require_one_objective
from toolkit.derive.marks import mark
from toolkit.derive.refusal import refuse_derivatives, refuse_forward_mode
from toolkit.derive.symbolic_zeros import instantiate_zeros, values_and_wanted
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.leaves.promotion import standard_promotion
from toolkit.settings import Positive, settings
from toolkit.types import InnerProblem, Issue, Primal, PullbackReport, Tilted, Tree

Scheme = Literal["one_sided", "centered", "holomorphic"]

# A nudged solve that starts from the free solution has a residual of the size of its nudge, and ends
# with one near 0. The ratio of the two says what part of the nudge is left unanswered.
ANSWERED = 1e-3  # up to here a nudged solve counts as converged
UNUSABLE = 0.1  # beyond this not one digit of the answer is known

_NO_FORWARD_MODE = (
    "Nudged() has no forward mode (jvp, jacfwd): a cotangent is what it nudges with; use "
    "Implicit()."
)
_NO_SECOND_ORDER = (
    "Nudged() has first derivatives only: its pullback is made of solves that nothing follows; use "
    "Implicit()."
)


@settings("nudged")
class Nudged:
    """The pullback from solutions of the nudged problem: equilibrium propagation.

    With `q` the cotangent of the solution and `y_b = argmin_y fun(y, theta) + b <q, y>`,

        theta_bar = d/db grad_theta fun(y_b, theta)  at b = 0,

    a finite difference in `b` of gradients: no second derivative, no transposed system. On an energy
    quadratic in `y` it is exact for every `beta` (one-sided: where `theta` enters linearly in `y`).

    | scheme | theta_bar | error | nudged solves |
    |---|---|---|---|
    | `one_sided` | `(g(beta) - g(0)) / beta` | O(beta) | 1 |
    | `centered` | `(g(beta) - g(-beta)) / (2 beta)` | O(beta^2) | 2 |
    | `holomorphic` | `Re sum_k e^(-ik') g(beta e^(ik')) / (N beta)`, `k' = 2 pi k / N` | O(beta^N) | N//2 + 1 |

    with `g(b) = grad_theta fun(y_b, theta)`. Complex nudges come in conjugate pairs, of which one is
    solved; two points are the centered scheme. The solves are the user's solver's own, from the free
    solution.

    Args:
      beta: size of the nudge, positive: a number or a scalar array. Too large a one carries the
        solution out of its basin, too small a one drowns the difference in rounding (in float32
        below about 1e-3) or in the solver's tolerance, which must be well below `beta |q|`.
      scheme: see above. `holomorphic` needs a `fun` that is analytic in a real `y`: no abs, real,
        conj, max or comparison of what depends on `y`. It solves `d fun / dy + b q = 0` in complex
        numbers by a solver that follows the gradient alone (`GradientDescent`, `Newton`, `Optax`
        without a line search).
      normalize: nudge with `beta q / |q|`: one `beta` for outer functions of any scale.
      num_points: of the circle of nudges (`holomorphic` only), at least 2.

    Raises:
      ValueError: a solve that is no argmin, per-step inputs, a `fun` that calls a function with a
        derivative rule of its own (a clipped or straight-through gradient: such a `fun` has no energy),
        or, under `holomorphic`, a complex `y`, a solver that compares values, a function without a
        complex value at complex `y`.

    Differentiation: reverse mode, first order, in `theta` and in what `fun` closes over. Zero by
    theory: with respect to `y0` and to the solver's settings, `beta` included.

    Failure: a nudged solve that is not finite, leaves more than a tenth of its nudge unanswered, or
    left the basin of the free solution (the gradient in between is far from linear) makes the whole
    pullback NaN. `tk.hypergradient` reports `INNER_NOT_CONVERGED` where more than 1e-3 of a nudge
    is unanswered, and `NEGATIVE_CURVATURE` where the energy curved downwards between the free and a
    nudged solution. A function that is not analytic has two complex derivatives, of which the solver
    zeroes one: under `holomorphic` the other counts as unanswered. A branch (relu, where) is analytic
    on either side, and passes.

    Cost: the nudged solves, one after the other, and 4 gradients each. Memory of one solve.

    Source: Scellier & Bengio 2017, equation 9; Laborieux et al. 2021, equation 8 (centered);
    Laborieux & Zenke 2022, equation 9 (holomorphic).
    """

    beta: Positive
    scheme: Scheme = "centered"
    normalize: bool = False
    num_points: Annotated[int, Ge(2)] = 4

    @property
    def presumes_solution(self) -> bool:
        """True: the derivative in `b` is taken at a solution."""
        return True

    @property
    def forward_mode(self) -> bool:
        """False: a cotangent is what it nudges with."""
        return False

    @property
    def needs_no_run(self) -> bool:
        """True: the nudged solves start from the solution, however that was found."""
        return True

    def differentiable(
        self, problem: InnerProblem, primal: Primal, report: PullbackReport | None = None
    ) -> Callable[[Tree, Tree, Tree], tuple[Tree, Array]]:
        """`primal.run` with the pullback from nudged solves, of which `report` tells."""
        if problem.composite is not None:
            raise ValueError(
                "`solver` must minimise a smooth function under Nudged, which tilts it: got "
                f"{primal.name}; use the adjoint Implicit."
            )
        if problem.kind != "argmin":
            raise ValueError(
                f"`adjoint` Nudged needs tk.argmin, whose function it tilts: got tk.{problem.kind}; "
                "use Implicit."
            )
        if problem.given_gradient:
            raise ValueError(
                "`value_and_grad` must be False under Nudged, which differentiates the value of `fun` in theta "
                "and tilts it: got True; use Implicit() or Unroll(), or a `fun` that returns its value alone."
            )
        if problem.own_rule:
            raise ValueError(
                "`fun` must have a true gradient under Nudged, which takes it for an energy: it calls "
                f"{problem.own_rule}, whose derivative rule is its own; use Unroll() or Implicit()."
            )

        def run(y0: Tree, theta: Tree, xs: Tree) -> tuple[Tree, Array]:
            require_one_objective("Nudged", xs)
            constant = tree.stop_gradient((y0, theta, None))
            y, steps = tree.stop_gradient(primal.run(*constant))
            start = _complex(y) if self.scheme == "holomorphic" else y
            assert primal.tilted is not None  # it is no nudged solve itself
            tilted = primal.tilted(start, theta, self.scheme == "holomorphic")
            theta = refuse_forward_mode(tilted.theta, _NO_FORWARD_MODE)
            # `beta` may be a tracer, and a `custom_vjp` must not close over one: it is an argument.
            beta = tree.stop_gradient(jnp.asarray(self.beta, tree.norm(y).dtype))
            zeros = PullbackReport.zeros() if report is None else report
            # A cotangent must differ over the same device axes as its primal, and the report is as y is.
            zeros = vary(zeros, varying_axes(y))
            # The rule must hold no array of this trace: `theta` is an argument.
            rule = _at_solution(self, tilted._replace(theta=None), problem.depth)
            return rule(y, theta, beta, zeros), steps

        return run

    def hvp_evals(self, steps: Array, hyperparameters: int) -> Array:
        """None: first derivatives only."""
        return 0 * steps


class Circle(NamedTuple):
    """The nudges of a scheme, and the weights of the gradients of theta there; `K` nudges."""

    nudges: Array  # [K] in units of beta
    weights: Array  # [K]
    free: float  # the weight of the gradient at the free solution


def _circle(rule: Nudged) -> Circle:
    if rule.scheme == "one_sided":
        return Circle(jnp.ones(1), jnp.ones(1), -1.0)
    if rule.scheme == "centered":
        signs = jnp.asarray([1.0, -1.0])
        return Circle(signs, signs / 2, 0.0)
    N, k = rule.num_points, np.arange(rule.num_points // 2 + 1)
    nudges = np.exp(2j * np.pi * k / N)
    # The energy is real for real y, so the solution at the conjugate nudge is the conjugate one. Only
    # half of the circle is solved, and each nudge strictly inside the half counts twice.
    counts = np.where((k == 0) | (2 * k == N), 1, 2)
    return Circle(jnp.asarray(nudges), jnp.asarray(counts * nudges.conj() / N), 0.0)


def _at_solution(
    rule: Nudged, tilted: Tilted, depth: int
) -> Callable[[Tree, Tree, Array, PullbackReport], Tree]:
    """`(y, theta, beta, report) -> y`, with the rule's pullback."""

    @jax.custom_vjp
    def at_solution(y: Tree, theta: Tree, beta: Array, report: PullbackReport) -> Tree:
        return y

    def forward(*primals: Any) -> tuple[Tree, Tree]:
        (y, theta, beta, report), (_, wanted, *_) = values_and_wanted(primals)
        y, theta = refuse_derivatives((y, theta), _NO_SECOND_ORDER)
        return y, (y, tree.select(theta, wanted), beta, report)

    def backward(residuals: Tree, y_bar: Tree) -> tuple[None, Tree, None, PullbackReport]:
        y, (wanted, constant), beta, report = residuals
        q = refuse_derivatives(instantiate_zeros(y_bar, y), _NO_SECOND_ORDER)
        theta_bar, said = _pullback(rule, tilted, y, wanted, constant, beta, q)
        theta_bar = mark(theta_bar, said.issues, depth)
        said = jax.tree.map(lambda value, zero: value.astype(zero.dtype), said, report)
        said = vary(said, varying_axes(report))
        return None, theta_bar, None, said

    at_solution.defvjp(forward, backward, symbolic_zeros=True)
    return at_solution


@standard_promotion  # nudges are complex numbers, and beta has a type of its own
def _pullback(
    rule: Nudged, tilted: Tilted, y: Tree, wanted: Tree, constant: Tree, beta: Array, q: Tree
) -> tuple[Tree, PullbackReport]:
    """The cotangent of the leaves of theta in `wanted`, and the report on how it was made."""
    circle, size = _circle(rule), tree.norm(q)
    landscape = Landscape(tilted, tree.merge(wanted, constant), rule.scheme == "holomorphic")
    free = landscape.at(_complex(y) if landscape.continued else y)
    beta = beta / jnp.where(size > 0, size, 1) if rule.normalize else beta

    def weighed(y: Tree, weight: Any) -> Tree:
        """`grad_theta Re(weight energy) / beta` at `y`: one term of the difference quotient."""

        def energy(wanted: Tree) -> Array:
            return jnp.real(weight * tilted.energy(y, tree.merge(wanted, constant))) / beta

        return jax.grad(energy)(wanted)

    def visit(theta_bar: Tree, nudge_and_weight: tuple[Array, Array]) -> tuple[Tree, Visit]:
        nudge, weight = nudge_and_weight
        tilt = jax.tree.map(lambda q, leaf: (nudge * beta * q).astype(leaf.dtype), q, free.y)
        y, steps = tilted.run(free.y, landscape.theta, tilt)
        theta_bar = jax.tree.map(jnp.add, theta_bar, weighed(y, weight))
        return theta_bar, landscape.judge(free, y, tilt, steps)

    if circle.free:
        theta_bar, free_residual = weighed(free.y, circle.free), tree.norm(free.slope)
    else:  # the gradient at the free solution has no weight in this scheme
        theta_bar, free_residual = jax.tree.map(jnp.zeros_like, wanted), jnp.zeros_like(size)
    theta_bar, visits = jax.lax.scan(visit, theta_bar, (circle.nudges, circle.weights))
    unanswered = jnp.maximum(jnp.max(visits.residual), free_residual) / (beta * size)
    usable = (unanswered <= UNUSABLE) & ~jnp.any(visits.bent)
    # A zero cotangent has the pullback 0. The division by its norm above would have made NaN of it.
    zero = size == 0
    theta_bar = tree.where(
        zero, jax.tree.map(jnp.zeros_like, theta_bar), tree.nan_unless(usable, theta_bar)
    )
    issues = jnp.where(unanswered <= ANSWERED, 0, int(Issue.INNER_NOT_CONVERGED))
    issues |= jnp.where(jnp.isfinite(unanswered), 0, int(Issue.NOT_FINITE))
    issues |= jnp.where(jnp.any(visits.descends), int(Issue.NEGATIVE_CURVATURE), 0)
    return theta_bar, PullbackReport(jnp.where(zero, 0, issues), jnp.sum(visits.gradient_evals) + 1)


def _complex(y: Tree) -> Tree:
    """Real leaves as complex ones."""
    if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(y)):
        raise ValueError(
            '`y0` must be real under Nudged(scheme="holomorphic"), which continues it: got '
            f'{tree.describe(y)}; use scheme="centered".'
        )
    return jax.tree.map(lambda leaf: jax.lax.complex(leaf, jnp.zeros_like(leaf)), tree.widened(y))
