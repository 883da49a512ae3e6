"""Proximal maps: penalties, steps and trees out of their range."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np

import toolkit as tk
from tests.laws.adversarial.calls import INF, NAN, Flagged, Refused, Right, Row, check, each, f32
from toolkit.types import Status

PULL = jnp.asarray([2.0, -0.5])
# A proximal map returns an array alone, which says what it has to say by NaN.
NOT_A_NUMBER = Flagged(Status.CONVERGED, nan=True)

PENALTIES = [
    Row(f"{case}_{name}", partial(prox, penalty, step), expected)
    for name, prox in (
        ("lasso", lambda penalty, s: tk.prox.lasso(PULL, penalty, s)),
        ("elastic_net", lambda penalty, s: tk.prox.elastic_net(PULL, (penalty, penalty), s)),
        ("group_lasso", lambda penalty, s: tk.prox.group_lasso(PULL, penalty, s)),
    )
    for case, penalty, step, expected in (
        ("negative_penalty", -1.0, 1.0, NOT_A_NUMBER),
        ("negative_step", 1.0, -1.0, NOT_A_NUMBER),
        ("nan_penalty", NAN, 1.0, NOT_A_NUMBER),
        ("infinite_penalty", INF, 1.0, Right(np.zeros(2))),
        ("complex_penalty", 1j, 1.0, Refused(r"`\w+` must be real: got complex128")),
        ("string_penalty", "a", 1.0, Refused(r"`\w+` must be one array, .*got str")),
    )
]

SETS_AND_TREES = [
    Row("empty_box", lambda: tk.prox.box(PULL, (1.0, -1.0)), NOT_A_NUMBER),
    Row(
        "box_of_one",
        lambda: tk.prox.box(PULL, (1.0,)),
        Refused("`bounds` must be a pair: got"),
    ),
    Row(
        "box_of_integers",
        lambda: tk.prox.box(jnp.asarray([3, -4]), (0.5, 1.5)),
        Refused(r"`y` must have floating or complex leaves: got int64\[2\]; cast"),
    ),
    Row(
        "lasso_of_integers",
        lambda: tk.prox.lasso(jnp.asarray([3, -4]), 0.5),
        Refused("`y` must have floating"),
    ),
    Row(
        "group_without_the_axis",
        lambda: tk.prox.group_lasso(PULL, 1.0, axis=3),
        Refused("`axis` must be .*got 3 for f"),
    ),
    # The squares of 3e-30 and of 4e30 are no float32.
    Row(
        "tiny_group",
        lambda: tk.prox.group_lasso(f32([3e-30, 4e-30]), 2.5e-30),
        Right([1.5e-30, 2e-30], 1e-5),
    ),
    Row(
        "huge_group",
        lambda: tk.prox.group_lasso(f32([3e30, 4e30]), 2.5e30),
        Right([1.5e30, 2e30], 1e-5),
    ),
    Row(
        "dependent_rows",
        lambda: tk.prox.affine(PULL, (jnp.ones((2, 2)), jnp.ones(2))),
        NOT_A_NUMBER,
    ),
]


@each(PENALTIES)
def test_a_penalty_without_meaning_gives_nan_or_an_error(row: Row) -> None:
    check(row)


@each(SETS_AND_TREES)
def test_a_set_without_points_gives_nan_and_a_tree_of_another_kind_an_error(row: Row) -> None:
    check(row)
