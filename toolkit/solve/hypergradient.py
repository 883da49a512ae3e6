"""`tk.hypergradient`: the gradient of an outer function through a solve, and a report on its quality."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.adjoint.implicit import Implicit
from toolkit.adjoint.zeros import warn_of_zeros
from toolkit.derive import marks
from toolkit.derive.collecting import collect, collect_beside
from toolkit.derive.on_devices import device_axes
from toolkit.errors.readable import call_as, readable, returned_by
from toolkit.leaves.containers import packed
from toolkit.leaves.module_variables import call_unchanged, why_nothing_moves
from toolkit.solve.accuracy import estimate_error
from toolkit.solve.devices import of_each_device, shared
from toolkit.solve.hypergradient_report import (
    HypergradientReport,
    imprecise,
    report_of,
    tolerance_of,
)
from toolkit.solve.maps import SolutionMap
from toolkit.solve.verdict import stopped_short, verdict
from toolkit.types import PullbackReport, Solution, Tree

Outer = Callable[[Tree, Tree], Array]


class Hypergradient(NamedTuple):
    """An outer value, its gradient, and a report on how both were made."""

    value: Array  # [] the outer function at the solution
    gradient: Tree  # like theta; None at leaves without derivative
    solution: Solution
    report: HypergradientReport
    v: Tree = None  # of the implicit rule: like y, F_y' v = grad_y outer; a start for the next call
    aux: Tree = None  # the outer function's aux, when `has_aux=True`


class _Outer(NamedTuple):
    """The outer function, its aux as arrays."""

    fun: Callable[..., Any]
    has_aux: bool
    static: list[Tree]  # what is no array in the aux, set aside while the function is traced

    def both(self, y: Tree, theta: Tree) -> tuple[Array, Tree]:
        """The value, and the numeric leaves of the aux."""
        if not self.has_aux:
            return outer_value(self.fun, y, theta), None
        out = call_as("outer", self.fun, "(y, theta)", y, theta)
        if not (isinstance(out, tuple) and len(out) == 2):
            raise returned_by(
                self.fun,
                ValueError(
                    "`outer` must return a pair (value, aux) with has_aux=True: got "
                    f"{tree.describe(out)}."
                ),
            )
        parts = tree.split(out[1])
        self.static[:] = [parts.static]
        return real_scalar(out[0], self.fun), tree.merge(parts.inexact, parts.arrays)

    def aux(self, arrays: Tree) -> Tree:
        """The aux as the user wrote it."""
        return tree.whole(arrays, self.static[0]) if self.has_aux else None


@readable
def hypergradient(
    outer: Callable[..., Any], solve: SolutionMap, *, has_aux: bool = False
) -> Callable[..., Hypergradient]:
    """`hg(y0, theta)`: value and gradient of `theta -> outer(solve(y0, theta).value, theta)`.

    The gradient is that of `jax.grad` of the composition, by the rule that `solve` was given. `report`
    has what `jax.grad` cannot return: how the inner solve and the linear system ended.

    Args:
      outer: `outer(y, theta) -> real scalar`; with `has_aux`, `(scalar, aux)`.
      solve: from `tk.argmin`, `tk.root` or `tk.fixed_point`.
      has_aux: whether `outer` returns aux arrays; they come back as `aux`.

    Returns: `hg(y0, theta, xs=None, v0=None) -> Hypergradient(value, gradient, solution, report, v, aux)`,
    to be jitted, vmapped or scanned by the caller. Under the implicit rule `v` is the solution of the
    linear system, on a minimum `H^{-1} grad_y outer`; given back as `v0` it is where the next call's
    iterative linear solver starts.

    `report.error_estimate` (implicit rule; `toolkit.solve.accuracy`): how far the gradient may be from that
    of the exact solution under the rule's own damping. Pessimistic: typically ten to a hundred times
    the error. Infinite where the linear solver left more than a tenth of the right-hand side and no
    damping bounds the curvature.

    `report.status`: 0 means that the solve and the linear system met their tolerances, and that by the
    estimate the relative error of the gradient is below ten times the larger of them. A bit is also set
    where both met their tolerances, but a small curvature amplifies what is left of the residuals.

    Raises: TypeError, ValueError on bad arguments, naming them.

    Differentiation: value and gradient, by the modes and to the order that the rule admits.

    Inside `jax.shard_map` the gradient differs between devices along the axes along which the value does, also
    where `theta` does not: it is that of each device's own value, and `jax.lax.pmean` of both is that of the
    mean. With a collective in the inner function each device has an equal share of the sum instead.

    Cost: that of the rule. Each field of the report costs nothing when it is unused in compiled
    code; used, the estimate (which the status asks for) costs two Hessian-vector products.
    """
    if not callable(outer):
        raise TypeError(f"`outer` must be callable: got {type(outer).__name__}.")
    if not isinstance(solve, SolutionMap):
        raise TypeError(
            "`solve` must come from tk.argmin, tk.root or tk.fixed_point: got "
            f"{type(solve).__name__}; for other functions use jax.grad."
        )

    judged = lambda: _Outer(
        outer, has_aux, []
    )  # a new one for each call, which sets something aside in it

    @readable
    def run(y0: Tree, theta: Tree, xs: Tree = None, v0: Tree = None) -> Hypergradient:
        require_inexact(theta)
        if not device_axes():
            return here(y0, theta, xs, v0)

        def value(theta: Tree) -> Array:
            return judged().both(solve(y0, theta, xs).value, theta)[0]

        theta, summed = of_each_device(value, theta)
        hg = here(y0, theta, xs, v0)
        estimate = shared(hg.report.error_estimate, summed)
        report = hg.report._replace(error_estimate=estimate)
        return hg._replace(gradient=shared(hg.gradient, summed), report=report)

    def here(y0: Tree, theta: Tree, xs: Tree, v0: Tree) -> Hypergradient:
        if isinstance(solve.adjoint, Implicit) and xs is None:
            return _by_pullback(judged(), solve, solve.adjoint, y0, theta, v0)
        if v0 is not None:
            raise ValueError(
                "`v0` must be None where no linear system is solved: got "
                f"{tree.describe(v0)} under {type(solve.adjoint).__name__}; use Implicit."
            )
        return _by_reverse_mode(judged(), solve, y0, theta, xs)

    return run


def require_inexact(theta: Tree) -> None:
    """Refuse hyperparameters without anything to differentiate."""
    if not jax.tree.leaves(tree.parts(theta).inexact):
        raise ValueError(
            "`theta` must have a floating or complex leaf to differentiate: got "
            f"{tree.describe(theta)}; {why_nothing_moves(theta, 'integers are carried')}."
        )


def _by_pullback(
    outer: _Outer, solve: SolutionMap, rule: Implicit, y0: Tree, theta: Tree, v0: Tree
) -> Hypergradient:
    # `jax.grad` would solve the same linear system, and could not return how that went. So the pullback
    # is driven by hand, from the outer function's two gradients.
    call = solve.prepare(y0, theta)
    problem, operands = call.problem, call.operands
    with marks.deeper():
        y, steps = rule.differentiable(problem, call.primal)(call.y0, operands, None)
    # The rule's own warning does not see that theta is differentiated here, so it is given by hand.
    wanted = jax.tree.map(lambda _: False, operands)
    wanted = wanted._replace(theta=jax.tree.map(lambda _: True, operands.theta))
    warn_of_zeros("Implicit", call.primal, wanted)

    def both_at(y: Tree, inexact: Tree) -> tuple[Array, Tree]:
        moved = operands._replace(theta=inexact)
        return outer.both(problem.user_y(y, moved), problem.user_theta(moved))

    def outer_at(y: Tree, inexact: Tree) -> Array:
        return both_at(y, inexact)[0]

    slopes = jax.value_and_grad(both_at, (0, 1), has_aux=True)
    watched = _watched_outer(slopes, problem.depth + 1, y, operands.theta)
    ((value, aux), (y_bar, direct)), inside = watched
    pulled = rule.pullback(problem, y, operands, y_bar, _start(v0, y))
    gradient = jax.tree.map(jnp.add, direct, pulled.theta_bar.theta)
    judged = verdict(call, y, steps)
    inside = marks.both(inside, judged.inside)
    if problem.holds_solves():  # those whose derivative in theta enters
        along = lambda v: rule.cotangent(problem, y, operands, v)
        inside = marks.both(inside, collect(along, problem.depth + 1, pulled.solution)[1])
    solution = solve.conclude(call, y, judged.info)
    estimate = estimate_error(outer_at, rule, call, y, pulled, gradient)
    report = report_of(solve, solution, value, gradient, pulled.info, estimate.total, inside)
    tolerance = tolerance_of(rule, call)
    issues = imprecise(estimate, tolerance * tree.norm(gradient))
    # A status that is set already names the cause; this one is for solves that met their tolerances.
    report = report._replace(status=jnp.where(report.status == 0, issues, report.status))
    v = packed(tree.as_like(y, pulled.solution))
    hg = Hypergradient(value, packed(gradient), solution, report, v, outer.aux(aux))
    return _marked(hg, problem.depth)


def _watched_outer(
    fun: Callable[..., Tree], depth: int, *args: Tree, **how: Any
) -> tuple[Tree, Array | None]:
    """`fun(*args)`, made of the outer function, and the `tk.Issue` bits of the solves inside that."""
    try:
        return collect_beside(fun, depth, *args, **how)
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
        # Where nothing is jitted the outer function may look at values. Then it cannot be traced.
        return fun(*args), None


def _marked(hg: Hypergradient, depth: int) -> Hypergradient:
    """`hg`, its arrays marked with what is wrong, where it stands in the function of a solve."""
    if depth == 0:
        return hg
    short = jnp.where(stopped_short(hg.solution.info.status), marks.SHORT, 0)
    issues = hg.report.status | short
    value, gradient, y, v, aux = marks.mark(
        (hg.value, hg.gradient, hg.solution.value, hg.v, hg.aux), issues, depth
    )
    solution = hg.solution._replace(value=y)
    return hg._replace(value=value, gradient=gradient, solution=solution, v=v, aux=aux)


def _start(v0: Tree, y: Tree) -> Tree | None:
    """`v0` on the real leaves of `y`, checked against them."""
    if v0 is None:
        return None
    v = tree.parts(v0).inexact
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), one) for one in (v, y)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"`v0` must be like `y`, or None: got {tree.describe(v0)}, expected {tree.describe(y)}."
        )
    return tree.as_real(v)


def _by_reverse_mode(
    outer: _Outer, solve: SolutionMap, y0: Tree, theta: Tree, xs: Tree
) -> Hypergradient:
    parts = tree.parts(theta)

    # What the reverse pass reports comes back as the cotangent of zeros (see `PullbackReport`): so the
    # outer value is differentiated with respect to these zeros, too.
    depth = marks.depth()

    def composed(operands: tuple[Tree, PullbackReport]) -> tuple[Array, Tree]:
        inexact, pullback_report = operands
        whole = tree.whole(inexact, parts.arrays, parts.static)
        solution, inside = solve.reporting(pullback_report, y0, whole, xs)
        y = tree.parts(solution.value)

        def outer_at(y_inexact: Tree, inexact: Tree) -> tuple[Array, Tree]:
            user_theta = tree.whole(inexact, parts.arrays, parts.static)
            return outer.both(tree.whole(y_inexact, y.arrays, y.static), user_theta)

        slopes = functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
        watched = _watched_outer(outer_at, depth + 1, y.inexact, inexact, derived=slopes)
        (value, aux), more = watched
        return value, (solution, outer.aux(aux), marks.both(inside, more))

    operands = (parts.inexact, PullbackReport.zeros())
    (value, (solution, aux, inside)), (gradient, said) = _value_and_grad(composed, operands)
    report = report_of(solve, solution, value, gradient, None, None, inside)
    said = jax.tree.map(lambda leaf: leaf.astype(jnp.int32), said)
    report = report._replace(
        status=report.status | said.issues,
        gradient_evals=report.gradient_evals + said.gradient_evals,
    )
    hg = Hypergradient(value, packed(gradient), solution, report, None, aux)
    return _marked(hg, depth)


def _value_and_grad(
    composed: Callable[[Tree], tuple[Array, Tree]], inexact: Tree
) -> tuple[tuple[Array, Tree], Tree]:
    """`jax.value_and_grad(has_aux=True)` whose aux may hold static leaves.

    A solution may hold strings or other leaves that JAX cannot return. They are put aside while the
    function is traced, and put back into its result.
    """
    static: list[Tree] = []

    def arrays_only(inexact: Tree) -> tuple[Array, tuple[Tree, Tree]]:
        value, solution = composed(inexact)
        parts = tree.split(solution)
        static.append(parts.static)
        return value, (parts.inexact, parts.arrays)

    (value, arrays), gradient = jax.value_and_grad(arrays_only, has_aux=True)(inexact)
    return (value, tree.whole(*arrays, static[0])), gradient


def outer_value(outer: Outer, y: Tree, theta: Tree) -> Array:
    """`outer(y, theta)` as an array; refused where it is no real scalar."""
    call = functools.partial(call_as, "outer", outer, "(y, theta)")
    return real_scalar(call_unchanged("outer", call, y, theta), outer)


def real_scalar(value: Any, outer: Callable[..., Any]) -> Array:
    """The outer value as an array; refuse what is no real scalar."""
    if not tree.is_inexact(value) or jnp.shape(value) != () or jnp.iscomplexobj(value):
        raise returned_by(
            outer,
            ValueError(f"`outer` must return a real scalar: got {tree.describe(value)}."),
        )
    return jnp.asarray(value)
