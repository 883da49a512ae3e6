"""Selecting the regularisation of a linear classifier, as in the bilevel benchmark.

`B` examples, `F` features, `C` classes. One penalty a feature, of a logistic regression:

    g = mean_i log(1 + exp(-s_i a_i'y)) + 1/2 sum_k exp(x_k) y_k^2        y [F], x [F], s_i = +-1
    f = mean_j log(1 + exp(-s_j a_j'y))                                   on the validation data

or one a class, of a softmax regression (y [F, C], x [C]):

    g = mean_i CE(a_i'y, l_i) + 1/2 sum_c exp(x_c) |y_c|^2;               f = mean_j CE(a_j'y, l_j)

Source: the ijcnn1 and covtype problems of the public bilevel benchmark (Dagreou et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit.data import Labelled
from toolkit.problems.instance import Instance
from toolkit.solve.hypergradient import hypergradient
from toolkit.solve.maps import argmin
from toolkit.solver import LBFGS


def logistic(key: Array, train: Labelled, validation: Labelled) -> Instance:
    """One penalty a feature; labels 0 and 1. Starts at y normal, x = log of uniform numbers.

    `measure` gives `value` = F(x), `gradient_norm` = |grad F(x)|^2 (squared, as the benchmark) and
    `inner_distance` = |y - y*(x)|^2, with y*(x) computed until |grad_y g| is below 1e-9 (float64; 1e-5
    in float32).

    Raises:
      ValueError: labels other than 0 and 1.
    """
    for name, part in (("train", train), ("validation", validation)):
        if not bool(jnp.all((part.labels == 0) | (part.labels == 1))):
            raise ValueError(f"`{name}` must have labels 0 and 1: got {jnp.unique(part.labels)}.")

    def outer(y: Array, x: Array, batch: Labelled) -> Array:
        signs = 2 * batch.labels - 1
        return jnp.mean(jax.nn.softplus(-signs * (batch.images @ y)))

    def inner(y: Array, x: Array, batch: Labelled) -> Array:
        return outer(y, x, batch) + jnp.exp(x) @ y**2 / 2

    y_key, x_key = jax.random.split(key)
    features = train.images.shape[1]
    y0 = jax.random.normal(y_key, (features,))
    # A uniform number can be 0, whose logarithm is -inf.
    x0 = jnp.log(jax.random.uniform(x_key, (features,), minval=1e-6))
    known = train, validation
    return Instance(inner, outer, *known, y0, x0, _exact(inner, outer, known), known)


def softmax(train: Labelled, validation: Labelled, num_classes: int) -> Instance:
    """One penalty a class. Starts at y = 0, x = -2; `measure` is that of `logistic`.

    Raises:
      ValueError: a label outside [0, num_classes).
    """
    for name, part in (("train", train), ("validation", validation)):
        if not bool(jnp.all((part.labels >= 0) & (part.labels < num_classes))):
            raise ValueError(
                f"`{name}` must have labels in [0, {num_classes}): got {jnp.unique(part.labels)}."
            )

    def outer(y: Array, x: Array, batch: Labelled) -> Array:
        scores = batch.images @ y
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, batch.labels))

    def inner(y: Array, x: Array, batch: Labelled) -> Array:
        return outer(y, x, batch) + jnp.exp(x) @ jnp.sum(y**2, 0) / 2

    y0, x0 = jnp.zeros((train.images.shape[1], num_classes)), jnp.full(num_classes, -2.0)
    known = train, validation
    return Instance(inner, outer, *known, y0, x0, _exact(inner, outer, known), known)


def _exact(
    inner: Callable[..., Array], outer: Callable[..., Array], known: tuple[Labelled, Labelled]
) -> Callable[..., dict[str, Array]]:
    """The measures, from a solve whose tolerance lies below the differences that are compared."""

    @jax.jit
    def exact(y: Array, x: Array, known: tuple[Labelled, Labelled]) -> dict[str, Array]:
        train, validation = known
        solver = LBFGS(5000, 1e-9 if y.dtype == jnp.float64 else 1e-5)
        solve = argmin(lambda y, x: inner(y, x, train), solver)
        hg = hypergradient(lambda y, x: outer(y, x, validation), solve)(y, x)
        return {
            "value": hg.value,
            "gradient_norm": hg.gradient @ hg.gradient,
            "inner_distance": jnp.sum((y - hg.solution.value) ** 2),
        }

    return lambda y, x, known=known: exact(y, x, known)
