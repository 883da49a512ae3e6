"""Settings are checked by their annotations, in Python and in a config alike."""

import dataclasses
import importlib
import inspect
import json
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from annotated_types import MinLen
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

import toolkit as tk
from toolkit.bilevel.parts.method_settings import TwoOptimizers
from toolkit.settings import (
    Count,
    Fraction,
    Natural,
    NonNegative,
    Number,
    Positive,
    Tolerance,
    Weight,
    require,
    settings,
)
from toolkit.vocabulary import kinds, roles
from toolkit.vocabulary.kinds import Given

ALL = [
    pytest.param(cls, id=cls.__name__)
    for family in roles.FAMILIES
    for cls in roles.family(family).values()
]
Named = Annotated[object, Given("a named thing", fits=lambda v: v == "thing", error=TypeError)]


@settings("example")
class Example:
    """One field of each type."""

    count: Count
    natural: Natural = 0
    positive: Positive = 1.0
    fraction: Fraction | None = None
    weight: Weight = 1.0
    tolerance: Tolerance = 0.0
    number: Number = -1.0
    word: Literal["a", "b"] = "a"
    flag: bool = False
    text: str = ""
    levels: Annotated[tuple[Count, ...], MinLen(1)] | None = None
    named: Named | None = None
    least: NonNegative = 0.0

    def __post_init__(self) -> None:
        if self.word == "b" and self.flag:
            raise ValueError("`flag` must be False where `word` is 'b': got True.")


# (the arguments, what the message says)
REFUSED = {
    "bool as a count": ({"count": True}, "`count` must be an int of at least 1: got True."),
    "zero": ({"count": 0}, "`count` must be an int of at least 1: got 0."),
    "float as a count": ({"count": 2.0}, "`count` must be an int of at least 1: got 2.0."),
    "array as a count": ({"count": np.ones(2, int)}, "`count` must be an int of at least 1: got int64[2]."),
    "negative": ({"count": 1, "natural": -1}, "`natural` must be an int of at least 0: got -1."),
    "not positive": ({"count": 1, "positive": 0}, "`positive` must be a positive number: got 0."),
    "NaN": ({"count": 1, "positive": np.nan}, "`positive` must be a positive number: got nan."),
    "infinite": ({"count": 1, "positive": np.inf}, "`positive` must be a positive number: got inf."),
    "bool as a number": ({"count": 1, "number": True}, "`number` must be a number: got True."),
    "complex": ({"count": 1, "number": 1j}, "`number` must be a number: got 1j."),
    "text as a number": ({"count": 1, "positive": "1"}, "`positive` must be a positive number: got '1'."),
    "long array": ({"count": 1, "positive": jnp.ones(3)}, "`positive` must be a positive number: got float64[3]."),
    "one": ({"count": 1, "fraction": 1}, "`fraction` must be a number in [0, 1): got 1."),
    "above one": ({"count": 1, "weight": 2}, "`weight` must be a number in (0, 1]: got 2."),
    "array that ends a loop": ({"count": 1, "tolerance": jnp.ones(())}, "`tolerance` must be a nonnegative number: got float64[]."),
    "other word": ({"count": 1, "word": "c"}, "`word` must be one of 'a', 'b': got 'c'."),
    "number as a flag": ({"count": 1, "flag": 1}, "`flag` must be True or False: got 1."),
    "number as a text": ({"count": 1, "text": 1}, "`text` must be a text: got 1."),
    "list": ({"count": 1, "levels": [1]}, "`levels` must be a tuple of at least one item, each an int of at least 1: got [1]."),
    "empty": ({"count": 1, "levels": ()}, "`levels` must be a tuple of at least one item, each an int of at least 1: got ()."),
    "kind": ({"count": 1, "kind": "other"}, "`kind` must be 'example': got 'other'."),
    "two fields": ({"count": 1, "word": "b", "flag": True}, "`flag` must be False where `word` is 'b': got True."),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_python_refuses(arguments, message):
    with pytest.raises(ValueError) as caught:
        Example(**arguments)
    assert str(caught.value) == message


def test_a_given_value_has_its_own_error():
    with pytest.raises(TypeError, match=r"`named` must be a named thing: got 3\."):
        Example(1, named=3)
    assert Example(1, named="thing").named == "thing"


def test_arrays_and_tracers_pass():
    @jax.jit
    def made(number):
        return Example(1, positive=number, least=-jnp.ones(())).positive

    assert made(2.0) == 2
    assert jax.vmap(made)(jnp.arange(3.0)).shape == (3,)


def test_numpy_counts_become_python_ints():
    example = Example(np.int64(3), flag=np.True_)
    assert (type(example.count), type(example.flag)) == (int, bool)
    assert hash(example) == hash(Example(3, flag=True))


def test_instances_are_frozen_and_printed_as_they_are_typed():
    example = Example(3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        example.count = 4
    assert "kind" not in repr(example)
    assert repr(tk.linear.CG(3, 1e-3)) == "CG(max_steps=3, tol=0.001, preconditioner=None)"
    assert list(inspect.signature(Example).parameters)[:2] == ["count", "natural"]
    assert inspect.signature(Example).parameters["kind"].kind is inspect.Parameter.KEYWORD_ONLY


def test_a_new_field_of_a_bilevel_method_is_refused_by_its_annotation():
    @settings("clipped")
    class Clipped(TwoOptimizers):
        clip: Positive | None = None

    assert Clipped(0.1, 0.2, clip=1.0).clip == 1.0
    with pytest.raises(ValueError, match=r"`clip` must be a positive number: got 'x'\."):
        Clipped(0.1, 0.2, clip="x")


def test_require_checks_one_argument():
    require("every", 3, Count)
    with pytest.raises(ValueError, match=r"`every` must be an int of at least 1: got 0\."):
        require("every", 0, Count)


# ------------------------------------------------------------------------------------- in a config


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    adjoint: tk.adjoint.Adjoint = tk.adjoint.Implicit(tk.linear.CG(3, 1e-3))
    solver: tk.solver.Solver | None = None
    method: tk.bilevel.BilevelMethod | None = None
    adjoints: dict[str, tk.adjoint.Adjoint] = {}


def read(**given):
    return Config.model_validate_json(json.dumps(given), strict=True)


def test_a_config_makes_the_library_own_settings():
    nested = {
        "kind": "implicit",
        "damping": 0.3,
        "linear_solver": {"kind": "cg", "max_steps": 3, "tol": 0.1},
    }
    config = read(adjoint=nested, adjoints={"other": {"kind": "unroll", "checkpoint": [2, 3]}})
    assert config.adjoint == tk.adjoint.Implicit(tk.linear.CG(3, 0.1), 0.3)
    assert config.adjoints == {"other": tk.adjoint.Unroll(checkpoint=(2, 3))}


def test_functions_optimizers_and_schedules_are_named():
    lasso = {
        "kind": "proximal_gradient",
        "prox": "lasso",
        "step_size": 0.1,
        "max_steps": 3,
        "tol": 0.1,
    }
    simplex = {
        "kind": "projected_gradient",
        "projection": "simplex",
        "step_size": 0.1,
        "max_steps": 3,
        "tol": 0.1,
    }
    optimizer = {
        "kind": "optax",
        "optimizer": {"kind": "adam", "learning_rate": 0.1},
        "num_steps": 3,
    }
    assert read(solver=lasso).solver.prox is tk.prox.lasso
    assert read(solver=simplex).solver.projection is tk.projection.simplex
    assert read(solver=optimizer).solver == tk.solver.Optax(tk.optimizers.Adam(0.1), 3)
    decay = {"kind": "power_decay", "constant": 10.0, "exponent": -0.5}
    method = {"kind": "f2sa", "inner_step_size": 0.1, "outer_step_size": 0.1, "penalty": decay}
    assert read(method=method).method.penalty(3) == pytest.approx(20.0)


@pytest.mark.parametrize(
    "given",
    [
        {"solver": {"kind": "proximal_gradient", "prox": "lasso", "step_size": 0.1, "max_steps": 3, "tol": 0.1}},
        {"method": {"kind": "soba", "inner_step_size": 0.1, "outer_step_size": {"kind": "power_decay", "constant": 1.0, "exponent": 0.5}}},
        {"adjoint": {"kind": "nudged", "beta": 0.1}},
    ],
    ids=["prox", "schedule", "adjoint"],
)  # fmt: skip
def test_a_resolved_config_gives_the_same_settings(given):
    first = read(**given)
    assert read(**first.model_dump(mode="json")) == first


@pytest.mark.parametrize(
    ("given", "kind", "place"),
    [
        ({"kind": "implict"}, "union_tag_invalid", ()),
        ({"damping": 0.1}, "union_tag_not_found", ()),
        ({"kind": ["implicit"]}, "union_tag_invalid", ()),
        ({"kind": "implicit", "dampin": 0.1}, "unexpected_keyword_argument", ("implicit", "dampin")),
        ({"kind": "nudged"}, "missing", ("nudged", "beta")),
        ({"kind": "nudged", "beta": 0}, "greater_than", ("nudged", "beta")),
        ({"kind": "unroll", "checkpoint": 2, "written_out": True}, "value_error", ("unroll",)),
        (3, "union_tag_not_found", ()),
    ],
)  # fmt: skip
def test_a_config_is_refused_at_its_place(given, kind, place):
    with pytest.raises(ValidationError) as caught:
        read(adjoint=given)
    (error,) = caught.value.errors()
    assert (error["type"], error["loc"]) == (kind, ("adjoint", *place))


def test_a_rule_of_one_s_own_is_a_default():
    class Mine:
        presumes_solution = False

        def differentiable(self, problem, primal): ...

        def hvp_evals(self, steps, hyperparameters): ...

    mine = Mine()
    assert Config(adjoint=mine).adjoint is mine
    with pytest.raises(ValidationError):
        Config(adjoint=Mine)


def test_the_schema_names_the_kinds():
    adjoint = Config.model_json_schema()["properties"]["adjoint"]
    assert set(adjoint["discriminator"]["mapping"]) == set(
        kinds.of_room("toolkit.adjoint", "differentiable")
    )
    described = Config.model_json_schema()["$defs"]["Nudged"]
    assert described["additionalProperties"] is False
    assert described["properties"]["beta"]["exclusiveMinimum"] == 0


@pytest.mark.parametrize("cls", ALL)
def test_every_kind_is_read_back_from_what_it_writes(cls):
    """With the least that it needs."""
    needed = [f for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    some = {int: 3, float: 0.5}
    values = {
        "optimizer": tk.optimizers.Sgd(0.1),
        "mirror": "identity",
        "prox": tk.prox.lasso,
        "projection": tk.projection.simplex,
        "solver": "CG" if cls is tk.linear.Lineax else "BFGS",
        "method": "BFGS",
        "bounds": (0.0, 1.0),
        "num_classes": some[int],
    }
    guess = {f.name: values.get(f.name, some[int] if "Count" in str(f.type) or "Natural" in str(f.type) else some[float]) for f in needed}  # fmt: skip
    made = cls(**guess)
    written = kinds.dump(made)
    assert next(iter(written)) == "kind"
    assert TypeAdapter(cls).validate_json(json.dumps(written), strict=True) == made


@pytest.mark.parametrize(("kind", "cls"), kinds.of_room("toolkit.optimizers", "build").items())
def test_optimizers_mirror_optax(kind, cls):
    theirs = inspect.signature(getattr(optax, kind)).parameters
    for field in dataclasses.fields(cls):
        if field.name not in ("kind", "learning_rate"):
            assert field.default == theirs[field.name].default


def _moves(optimizer):
    update, params = jax.jit(optimizer.update), jnp.asarray([1.0, -2.0])
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = update(params**3, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (tk.optimizers.Sgd(0.1, 0.9, True), optax.sgd(0.1, momentum=0.9, nesterov=True)),
        (
            tk.optimizers.Adam(0.1, 0.8, 0.9, 1e-6, 1e-7, True),
            optax.adam(0.1, b1=0.8, b2=0.9, eps=1e-6, eps_root=1e-7, nesterov=True),
        ),
        (
            tk.optimizers.AdamW(0.1, 0.8, 0.9, 1e-6, 1e-7, 0.3, True),
            optax.adamw(
                0.1, b1=0.8, b2=0.9, eps=1e-6, eps_root=1e-7, weight_decay=0.3, nesterov=True
            ),
        ),
        (
            tk.optimizers.RMSProp(0.1, 0.8, 1e-6, 0.5, True, 0.7, True),
            optax.rmsprop(
                0.1, decay=0.8, eps=1e-6, initial_scale=0.5, centered=True, momentum=0.7,
                nesterov=True,
            ),
        ),
    ],
    ids=["sgd", "adam", "adamw", "rmsprop"],
)  # fmt: skip
def test_each_setting_reaches_optax(ours, theirs):
    np.testing.assert_array_equal(_moves(ours.build()), _moves(theirs))


@pytest.mark.parametrize("family", roles.FAMILIES)
def test_no_two_classes_of_a_room_are_one_kind(family):
    mark = kinds.given(roles.FAMILIES[family])
    offered = vars(importlib.import_module(mark.room)).values()
    classes = [one for one in offered if kinds.is_kind(one)]
    assert len({cls.kind for cls in classes}) == len(set(classes))


def test_settings_that_hold_arrays_can_be_jitted():
    solver = tk.solver.LBFGS(50, 1e-9, (np.zeros(2), jnp.ones(2)))
    assert hash(solver) == hash(solver) and hash(Example(3)) == hash(Example(3))
    solve = tk.argmin(lambda y, theta: jnp.sum((y - theta) ** 2), solver)
    np.testing.assert_allclose(jax.jit(solve)(jnp.zeros(2), 3.0).value, 1.0)
