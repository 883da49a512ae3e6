"""Settings out of their range or of another type."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from tests.laws.adversarial.calls import (
    GRADIENT,
    NAN,
    Refused,
    Right,
    Row,
    check,
    each,
    hyper,
    value,
)
from toolkit.adjoint import Forward, Implicit, Nudged, Reversible, Truncated, Unroll
from toolkit.solver import (
    LBFGS,
    Anderson,
    FixedPointIteration,
    GradientDescent,
    Newton,
    ProjectedGradient,
)

STEPS_AND_TOLERANCES = [
    *[
        Row(
            f"{name}_steps_{kind}",
            partial(make, bad),
            Refused(r"`(num|max)_steps` must be an int of at least [01]: got "),
        )
        for name, bad in {
            "float": 2.5,
            "negative": -1,
            "string": "3",
            "none": None,
            "bool": True,
        }.items()
        for kind, make in (
            ("descent", lambda steps: GradientDescent(0.1, steps)),
            ("lbfgs", lambda steps: LBFGS(steps, 1e-3)),
            ("newton", lambda steps: Newton(steps, 1e-3)),
            ("anderson", lambda steps: Anderson(steps, 1e-3)),
        )
    ],
    Row(
        "traced_steps",
        lambda: jax.jit(lambda n: GradientDescent(0.1, n))(3),
        Refused(r"`num_steps` must be an int of at least 0: got int64\[\]"),
    ),
    *[
        Row(
            f"{name}_tolerance",
            partial(GradientDescent, 0.1, 3, tol=bad),
            Refused("`tol` must be a nonnegative number: got "),
        )
        for name, bad in {"nan": NAN, "negative": -1e-3, "string": "1e-3", "complex": 1j}.items()
    ],
]

STEP_SIZES = [
    *[
        Row(f"{name}_step_size{suffix}", partial(make, bad), Refused(f"`step_size` must be {said}"))
        for name, bad, said in (
            ("nan", NAN, "None, a nonnegative number, .*got nan"),
            ("negative", -0.1, r"None, a nonnegative number, .*got -0\.1"),
            (
                "negative_entry",
                np.asarray([0.1, -0.2, 0.1]),
                r"nonnegative .*got an entry -0\.2",
            ),
            ("complex", 1j, "None, a nonnegative number, .*got 1j"),
            (
                "string",
                "0.1",
                r"None, a nonnegative number, or an array of shape \(\) or \[num_steps\], or a callable .*got '0\.1'",
            ),
            ("short", np.ones(2), r"a number, an array .*got shape \(2,\)"),
        )
        for suffix, make in (
            ("", lambda size: GradientDescent(size, 3)),
            ("_projected", lambda size: ProjectedGradient(lambda y, t: y, size, 3, 1e-3)),
        )
    ],
    *[
        Row(
            f"schedule_returns_{name}",
            value(solver=GradientDescent(schedule, 3)),
            Refused(f"`step_size` must {said}"),
        )
        for name, schedule, said in (
            (
                "string",
                lambda t, k: "a",
                r"return a real array from \(theta, step\): got str",
            ),
            (
                "complex",
                lambda t, k: 1j,
                r"return a real array from \(theta, step\): got complex128",
            ),
            (
                "vector",
                lambda t, k: jnp.ones(3),
                r"be a scalar at each step, .*got shape \(3,\) for float64",
            ),
        )
    ],
]

RANGES = [
    Row(
        "implicit_string_damping",
        lambda: Implicit(damping="a"),
        Refused("`damping` must be a nonnegative number: got 'a'"),
    ),
    Row(
        "implicit_vector_damping",
        lambda: Implicit(damping=np.ones(3)),
        Refused(r"`damping` must be a nonnegative number: got float64\[3\]"),
    ),
    Row(
        "picard_damping_one",
        lambda: FixedPointIteration(9, 1e-6, 1.0),
        Refused(r"`damping` must be a number in \[0, 1\)"),
    ),
    Row(
        "picard_nan_damping",
        lambda: FixedPointIteration(9, 1e-6, NAN),
        Refused(r"`damping` must be a number in .*got nan"),
    ),
    Row(
        "picard_complex_damping",
        lambda: FixedPointIteration(9, 1e-6, 0.1j),
        Refused(r"`damping` must be a number in \[0, 1\): got 0\.1j"),
    ),
    Row(
        "anderson_no_history",
        lambda: Anderson(9, 1e-6, 0),
        Refused("`history` must be an int of at least 1: got 0"),
    ),
    Row(
        "anderson_boolean_history",
        lambda: Anderson(9, 1e-6, True),
        Refused("`history` must be an int .*got True"),
    ),
    Row(
        "truncated_none",
        lambda: Truncated(0),
        Refused("`num_steps` must be an int of at least 1: got 0"),
    ),
    Row(
        "unroll_no_checkpoint",
        lambda: Unroll(0),
        Refused("`checkpoint` must be None, an int of at least 1, or 'sqrt', .*got 0"),
    ),
    Row("checkpoint_beyond_the_end", hyper(adjoint=Unroll(10**6)), Right(GRADIENT)),
    Row(
        "forward_of_too_many",
        hyper(adjoint=Forward(1)),
        Refused(
            r"`theta` must have at most max_tangents=1 .*got 2.*use Unroll\(\) or Implicit\(\)"
        ),
    ),
    Row("nudged_no_beta", lambda: Nudged(0), Refused("`beta` must be a positive number: got 0")),
    Row(
        "nudged_string_beta",
        lambda: Nudged("0.1"),
        Refused("`beta` must be a positive number: got '0.1'"),
    ),
    Row(
        "reversible_mean_above_one",
        lambda: Reversible(2.0),
        Refused(r"`mean_momentum` must be a number in \(0, 1\]: got 2"),
    ),
]


@each(STEPS_AND_TOLERANCES)
def test_steps_and_tolerances_are_refused_by_name(row: Row) -> None:
    check(row)


@each(STEP_SIZES)
def test_step_sizes_are_refused_by_name(row: Row) -> None:
    check(row)


@each(RANGES)
def test_a_setting_is_in_its_range(row: Row) -> None:
    check(row)
