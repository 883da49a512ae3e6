"""Linear solves whose right side, matrix or start is hostile."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np

from tests.laws.adversarial.calls import (
    NAN,
    Flagged,
    Refused,
    Right,
    Row,
    check,
    each,
    f32,
    linear,
)
from toolkit.linear import CG, GMRES, BiCGStab, Dense, Diagonal, Neumann, Nystrom
from toolkit.types import Status

D3, ONES = np.diag([1.0, 2.0, 3.0]), np.ones(3)
SOLVERS = {
    "cg": CG(50, 1e-6),
    "gmres": GMRES(50, 1e-6),
    "bicgstab": BiCGStab(50, 1e-6),
    "neumann": Neumann(200),
    "nystrom": Nystrom(3, 1e-9),
    "dense": Dense(),
}
STOPPED_SHORT = Flagged(Status.STEP_LIMIT)
HUGE = np.full(3, 3e38, np.float32)  # its norm, 3e38 * sqrt(3), is no float32

RIGHT_SIDES = [
    *[
        Row(f"zero_right_side_{name}", linear(solver, D3, 0 * ONES), Right(0 * ONES))
        for name, solver in SOLVERS.items()
    ],
    # A norm of 0 or of infinity must not pass for a residual. Krylov solvers work in units of the largest entry.
    *[
        Row(
            f"right_side_without_norm_{name}",
            linear(SOLVERS[name], D3, HUGE),
            Right(HUGE / f32([1, 2, 3])),
        )
        for name in ("cg", "gmres", "bicgstab")
    ],
    *[
        Row(
            f"right_side_without_norm_{name}",
            linear(SOLVERS[name], D3, HUGE),
            Flagged(Status.NOT_FINITE, nan=True),
        )
        for name in ("neumann", "nystrom", "dense")
    ],
    *[
        Row(
            f"{size}_right_side{suffix}",
            linear(solver, D3, f32(scale * ONES)),
            Right(scale / np.diag(D3), 1e-5),
        )
        for size, scale in {"tiny": 6e-30, "huge": 6e30}.items()
        for suffix, solver in {
            "": Dense(),
            "_neumann": SOLVERS["neumann"],
            "_cg": SOLVERS["cg"],
        }.items()
    ],
    *[
        Row(
            f"integer_right_side_{name}",
            partial(solver, lambda v: 2 * v, jnp.asarray([1, 2])),
            Refused(r"`b` must have floating or complex arrays as leaves: got int64\[2\]; use jnp"),
        )
        for name, solver in SOLVERS.items()
    ],
    Row(
        "real_and_complex_bicgstab",
        lambda: BiCGStab(9, 1e-6)(lambda v: v, (jnp.ones(1), 1j * jnp.ones(1))),
        Refused(r"`b` must have real leaves or complex ones under BiCGStab, not both: .*use GMRES"),
    ),
]

MATRICES = [
    *[
        # CG goes on until it overflows; a direct solve leaves the free unknown 0.
        Row(
            f"singular_inconsistent_{name}",
            linear(solver, np.diag([1.0, 2.0, 0.0]), ONES),
            Flagged(Status.NOT_FINITE) if name == "cg" else STOPPED_SHORT,
        )
        for name, solver in SOLVERS.items()
    ],
    Row(
        "indefinite_neumann",
        linear(Neumann(50), np.diag([1.0, -2.0, 3.0]), ONES),
        STOPPED_SHORT,
    ),
    Row(
        "nonsymmetric_cg",
        linear(CG(50, 1e-6), np.asarray([[1.0, 5.0], [-4.0, 1.0]]), np.ones(2)),
        STOPPED_SHORT,
    ),
    Row(
        "preconditioner_of_zeros",
        linear(CG(9, 1e-6, Diagonal(0.0)), D3, ONES),
        Flagged(Status.NOT_FINITE, nan=True),
    ),
]

PRODUCTS = [
    *[
        Row(
            f"product_is_{kind}_{name}",
            partial(solver, matvec, jnp.ones(3)),
            Refused(r"`matvec` must return a tree like `b`: got .*, expected float64\[3\]"),
        )
        for name, solver in SOLVERS.items()
        for kind, matvec in (
            ("scalar", jnp.sum),
            ("short", lambda v: v[:2]),
            ("tuple", lambda v: (v,)),
        )
    ],
    *[
        Row(
            f"matrix_for_a_product_{name}",
            partial(solver, jnp.eye(3), jnp.ones(3)),
            Refused(
                r"`matvec` must be a callable.*got float64\[3,3\]; .*lambda v: A @ v", TypeError
            ),
        )
        for name, solver in SOLVERS.items()
    ],
]

ARGUMENTS = [
    Row(
        "x0_of_another_shape",
        linear(CG(50, 1e-6), D3, ONES, np.ones(2)),
        Refused(r"`x0` must have .*got float64\[2\], exp"),
    ),
    Row("x0_string", linear(GMRES(9, 1e-6), D3, ONES, "x"), Refused(r"`x0` must have .*got str")),
    Row(
        "neumann_nan_step",
        lambda: Neumann(9, NAN),
        Refused("`step_size` must be a positive number: got nan"),
    ),
    Row(
        "neumann_string_step",
        lambda: Neumann(9, "a"),
        Refused("`step_size` must be a positive number: got 'a'"),
    ),
    Row(
        "nystrom_nan_damping",
        lambda: Nystrom(2, NAN),
        Refused("`damping` must be a positive number: got nan"),
    ),
    Row(
        "nystrom_no_damping",
        lambda: Nystrom(2, None),
        Refused("`damping` must be a positive number: got None"),
    ),
]


@each(RIGHT_SIDES)
def test_right_sides_of_any_size_are_solved_or_flagged(row: Row) -> None:
    check(row)


@each(MATRICES)
def test_a_matrix_that_a_solver_is_not_for_is_flagged(row: Row) -> None:
    check(row)


@each(PRODUCTS)
def test_the_product_must_return_a_tree_like_the_right_side(row: Row) -> None:
    check(row)


@each(ARGUMENTS)
def test_other_arguments_are_refused_by_name(row: Row) -> None:
    check(row)
