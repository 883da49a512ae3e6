"""Leaves of odd sizes, types and precisions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import toolkit as tk
from tests.laws.adversarial.calls import (
    GRADIENT,
    RULES,
    SOLUTION,
    THETA,
    Y0,
    Refused,
    Right,
    Row,
    bf16,
    check,
    each,
    f16,
    f32,
    halved,
    hyper,
    quadratic,
    square,
    value,
)
from toolkit.solver import LBFGS, Anderson


def with_a_leaf_of_no_entries(y, theta):
    return quadratic(y[0], theta) + jnp.sum(y[1] ** 2)


NO_ENTRIES = [
    Row(
        "no_entries_in_y0",
        hyper(lambda y, t: square(y, t) * jnp.sum(t), y0=np.zeros(0)),
        Right(np.zeros(2)),
    ),
    *[
        Row(
            f"no_entries_in_a_leaf_of_y0_{name}",
            hyper(
                with_a_leaf_of_no_entries,
                y0=(Y0, np.zeros((0, 3))),
                outer=lambda y, theta: square(y[0], theta),
                adjoint=RULES[name],
            ),
            Right(GRADIENT),
        )
        for name in ("implicit", "unroll", "forward", "nudged")
    ],
    *[
        Row(
            f"no_entries_in_theta_{name}",
            hyper(
                lambda y, t: square(y - 1, t) + jnp.sum(t), theta=np.zeros(0), adjoint=RULES[name]
            ),
            Right(np.zeros(0)),
            slow=name != "implicit",
        )
        for name in ("implicit", "unroll", "forward", "nudged")
    ],
]


def no_theta(got: str) -> Refused:
    return Refused(rf"`theta` must have a floating .*got {got}")


def no_y0(got: str) -> Refused:
    return Refused(rf"`y0` must have a floating .*got {got}")


NOT_FLOATING = [
    Row("empty_tree_theta", hyper(theta=()), no_theta(r"\(\)")),
    Row("none_theta", hyper(theta=None), no_theta("None")),
    Row("integer_theta", hyper(theta=3), no_theta(r"int64\[\]")),
    Row("boolean_theta", hyper(theta=True), no_theta(r"bool\[")),
    Row("key_theta", hyper(theta=jax.random.key(0)), no_theta("key<fry>")),
    Row("string_theta", hyper(theta="t"), no_theta("str")),
    Row("empty_tree_y0", value(y0={}), Refused(r"`y0` must have a floating .* leaf .*got \{\}")),
    Row("integer_y0", value(y0=3), no_y0(r"int64\[\]")),
    Row("integer_list_y0", value(y0=[1, 2]), no_y0(r"\[int64")),
    Row("key_y0", value(y0=jax.random.key(0)), no_y0("key<fry>")),
    Row("string_y0", value(y0="abc"), no_y0("str")),
    Row("none_y0", value(y0=None), no_y0("None")),
    Row("object_array_y0", value(y0=np.asarray([None, 1.0])), no_y0(r"object\[2\]")),
    Row(
        "long_double_y0",
        value(y0=np.ones(2, np.longdouble)),
        Refused(r"a leaf must have a type that JAX has: got float\d+\[2\]; use", TypeError),
    ),
]

PYTHON_NUMBERS = [
    Row(
        "python_float_y0",
        hyper(lambda y, t: (y - t) ** 2, y0=0.0, theta=3.0, outer=lambda y, t: y**2),
        Right(6.0),
    ),
    Row(
        "list_of_floats_y0",
        hyper(
            lambda y, t: (y[0] - t) ** 2 + y[1] ** 2,
            y0=[0.0, 1.0],
            theta=3.0,
            outer=lambda y, t: y[0] ** 2,
        ),
        Right(6.0),
    ),
]


def distance(y, theta):
    return sum(
        square(a - b.astype(a.dtype), theta).astype(float) for a, b in zip(y, theta, strict=True)
    )


PRECISIONS = [
    Row(
        "mixed_precisions",
        hyper(
            distance,
            y0=(f16(Y0), f32(Y0), Y0),
            theta=(THETA, bf16(THETA), f32(THETA)),
            outer=lambda y, t: sum(jnp.sum(leaf.astype(float) ** 2) for leaf in y),
        ),
        Right((2 * THETA, 2 * THETA, 2 * THETA), rtol=2e-2, flags=True),
    ),
    # float16 has three digits, bfloat16 two or three. Nudged subtracts two numbers of three digits,
    # whose difference has one fewer.
    *[
        Row(
            f"{kind}_{name}",
            hyper(y0=cast(Y0), theta=cast(THETA), adjoint=RULES[name]),
            Right(GRADIENT, rtol=8e-2 if name == "nudged" else 2e-2, flags=True),
            slow=kind == "bfloat16",
        )
        for kind, cast in {"float16": f16, "bfloat16": bf16}.items()
        for name in ("implicit_cg", "unroll", "nudged")
    ],
    # Solved to a residual of 1e-2 of a curvature near 1, which is what these types' 3 digits allow.
    Row(
        "float16_lbfgs",
        value(solver=LBFGS(30, 1e-2), y0=f16(Y0), theta=f16(THETA)),
        Right(SOLUTION, rtol=1e-2),
    ),
    Row(
        "bfloat16_anderson",
        value(halved, Anderson(30, 1e-2), y0=bf16(Y0), theta=bf16(THETA), make=tk.fixed_point),
        Right(2 * THETA, rtol=1e-2),
        slow=True,
    ),
]


@each(NO_ENTRIES)
def test_leaves_without_entries_change_nothing(row: Row) -> None:
    check(row)


@each(NOT_FLOATING)
def test_what_has_no_derivative_is_refused(row: Row) -> None:
    check(row)


@each(PYTHON_NUMBERS)
def test_python_numbers_will_do(row: Row) -> None:
    check(row)


@each(PRECISIONS)
def test_low_and_mixed_precision_is_as_right_as_its_digits(row: Row) -> None:
    check(row)
