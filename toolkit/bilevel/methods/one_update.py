"""T1-T2, DARTS and SAMA: the response of one inner update in place of that of the minimiser."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.bilevel.parts.method_settings import TwoOptimizers
from toolkit.bilevel.parts.movers import at, is_zero, moved
from toolkit.bilevel.parts.oracles import draw, inner_slope, minus, outer_slopes, plus, theta_slope
from toolkit.bilevel.parts.problem import Algorithm, Info, Problem, info
from toolkit.bilevel.parts.state import State, algorithm, moves_of, split_key
from toolkit.settings import NonNegative, Positive, settings
from toolkit.types import Tree
from toolkit.vocabulary.roles import Schedule


@settings("t1t2")
class T1T2(TwoOptimizers):
    """The exact derivative through the last inner update: a times the identity for the inverse Hessian.

    With a batch B of the inner and B' of the outer data:

        y+ = y - a grad_y g_B(y, theta)
        theta <- theta - c (grad_theta f_B'(y+, theta) - a d2_thetay g_B(y, theta) grad_y f_B'(y+, theta))

    With an `inner_optimizer` y+ is its update, and the derivative that of the update. The fixed point is
    where `grad_theta f - a d2_thetay g grad_y f` vanishes: not the minimiser, whatever the outer step.

    Args:
      inner_step_size: a; a number or an optax schedule.
      outer_step_size: c; likewise.
      batch_size: examples a batch, drawn with replacement; None takes all.
      inner_optimizer, outer_optimizer: optax transformations in place of a and c. The derivative of a
        root of second moments is NaN where they are 0: give `optax.adam` an `eps_root`.

    Cost: a step takes 1 inner and 1 outer gradient and 1 product with d2_thetay.

    Rate: none in general; the direction may even ascend F.

    Source: Luketina et al. 2016, equation 4.
    """

    def __call__(self, problem: Problem) -> Algorithm:
        """The method on a problem."""
        moves = moves_of(self, problem)

        def step(s: State) -> tuple[State, Info]:
            inside, outside = _batches(problem, s, self.batch_size)
            parts = tree.parts(s.theta)

            # Differentiating the update itself, whichever optimizer makes it, gives the formula's product:
            # d y+ / d theta = - a d2_ytheta g for gradient descent.
            def after(theta: Tree) -> tuple[Array, tuple[State, Array]]:
                theta = tree.whole(theta, *parts[1:])
                loss, slope = inner_slope(problem, s.y, theta, inside)
                new = moves.y(s, slope)
                return problem.outer(new.y, theta, outside), (new, loss)

            (outer_loss, (new, inner_loss)), direction = jax.value_and_grad(after, has_aux=True)(
                parts.inexact
            )
            said = info(inner_loss, outer_loss, direction, gradients=2, hvps=1)
            return moves.theta(new, direction), said

        return algorithm(self, problem, moves, step)


@settings("darts")
class DARTS(TwoOptimizers):
    """Differentiable architecture search's step: the response of a virtual update, by a difference.

    With a batch B of the inner and B' of the outer data, and `b = grad_y f_B'(w, theta)`:

        w = y - x grad_y g_B(y, theta)
        e = radius / |b|
        h = grad_theta f_B'(w, theta) - x (grad_theta g_B(y + e b, theta) - grad_theta g_B(y - e b, theta)) / (2 e)
        theta <- theta - c h;   then  y <- y - a grad_y g_B(y, theta)

    Exact where `grad_theta g` is affine or quadratic in y; else up to O(e^2). In float32 the difference
    has a rounding error of order 1e-7 |b| / radius. The fixed point is that of `T1T2` with x for a.

    Args:
      inner_step_size: a; a number or an optax schedule.
      outer_step_size: c; likewise.
      batch_size: examples a batch, drawn with replacement; None takes all.
      virtual_step_size: x; None takes a; 0 is first-order DARTS, `h = grad_theta f_B'(y, theta)`.
      radius: of the perturbation of y.
      inner_optimizer, outer_optimizer: optax transformations in place of a and c.

    Cost: a step takes 4 inner and 1 outer gradients (1 and 1 with x = 0) and no product.

    Rate: none in general.

    Source: Liu, Simonyan & Yang 2019, equations 7 and 8 and algorithm 1.
    """

    virtual_step_size: NonNegative | Schedule | None = None
    radius: Positive = 0.01

    def __call__(self, problem: Problem) -> Algorithm:
        """The method on a problem."""
        moves, first_order = moves_of(self, problem), is_zero(self.virtual_step_size)
        virtual = self.inner_step_size if self.virtual_step_size is None else self.virtual_step_size

        def step(s: State) -> tuple[State, Info]:
            inside, outside = _batches(problem, s, self.batch_size)
            if first_order:
                f = outer_slopes(problem, s.y, s.theta, outside)
                direction = f.in_theta
            else:
                x = at(virtual, s.step)
                first_loss, virtual_slope = inner_slope(problem, s.y, s.theta, inside)
                w = moved(s.y, virtual_slope, x)
                f = outer_slopes(problem, w, s.theta, outside)
                mixed = _difference(problem, s.y, s.theta, f.in_y, inside, self.radius)
                direction = plus(f.in_theta, mixed, -x)
            new = moves.theta(s, direction)
            loss, slope = inner_slope(problem, s.y, new.theta, inside)
            gradients, inner_loss = (2, loss) if first_order else (5, first_loss)
            return moves.y(new, slope), info(inner_loss, f.loss, direction, gradients, hvps=0)

        instead = "" if first_order else "T1T2"
        return algorithm(self, problem, moves, step, symmetric=instead)


@settings("sama")
class SAMA(TwoOptimizers):
    """Scalable meta learning: DARTS' difference along a direction that the inner optimizer has adapted.

    With a batch B of the inner and B' of the outer data, `u` the update that the inner optimizer makes
    of a gradient, and `b = grad_y f_B'(y+, theta)`:

        y+ = y + u(grad_y g_B(y, theta))
        w = (du / dgradient)' b                                    for gradient descent, w = - a b
        e = radius / |w|
        h = grad_theta f_B'(y+, theta) + (grad_theta g_B(y+ + e w, theta) - grad_theta g_B(y+ - e w, theta)) / (2 e)
        theta <- theta - c h

    The derivative of the update is taken from the optimizer itself, whichever it is. It may be negative
    for Adam. The fixed point is biased as that of `T1T2`.

    Args:
      inner_step_size: a; a number or an optax schedule.
      outer_step_size: c; likewise.
      batch_size: examples a batch, drawn with replacement; None takes all.
      radius: of the perturbation of y.
      inner_optimizer, outer_optimizer: optax transformations in place of a and c. The derivative of a
        root of second moments is NaN where they are 0: give `optax.adam` an `eps_root`.

    Cost: a step takes 3 inner and 1 outer gradients and no product.

    Rate: none in general.

    Source: Choe et al. 2023, equations 4 and 5.
    """

    radius: Positive = 1.0

    def __call__(self, problem: Problem) -> Algorithm:
        """The method on a problem."""
        moves = moves_of(self, problem)

        def step(s: State) -> tuple[State, Info]:
            inside, outside = _batches(problem, s, self.batch_size)
            loss, slope = inner_slope(problem, s.y, s.theta, inside)
            new = moves.y(s, slope)
            f = outer_slopes(problem, new.y, s.theta, outside)
            # The pullback of the update, at this gradient: it maps b to (du / dgradient)' b.
            update = lambda slope: tree.parts(moves.y(s, slope).y).inexact
            (adapted,) = jax.vjp(update, slope)[1](f.in_y)
            mixed = _difference(problem, new.y, s.theta, adapted, inside, self.radius)
            direction = plus(f.in_theta, mixed)
            said = info(loss, f.loss, direction, gradients=4, hvps=0)
            return moves.theta(new, direction), said

        return algorithm(self, problem, moves, step, symmetric="T1T2")


def _batches(problem: Problem, s: State, batch_size: int | None) -> tuple[Tree, Tree]:
    inner_key, outer_key = split_key(s, 2)
    inside = draw(inner_key, problem.inner_data, batch_size)
    return inside, draw(outer_key, problem.outer_data, batch_size)


def _difference(
    problem: Problem, y: Tree, theta: Tree, b: Tree, batch: Tree, radius: Array | float
) -> Tree:
    """`d2_thetay g b`, by a central difference of length `radius` to each side; 0 for b = 0.

    The step is radius / |b|: a fixed one would reach far where b is large, and drown in rounding where b is small.
    """
    length = tree.norm(b)
    e = radius / jnp.where(length == 0, 1, length)
    above = theta_slope(problem, moved(y, b, -e), theta, batch)
    below = theta_slope(problem, moved(y, b, e), theta, batch)
    return jax.tree.map(lambda d: (d / (2 * e)).astype(d.dtype), minus(above, below))
