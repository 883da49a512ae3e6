"""The catalogue mirrors the library: the same fields, in the same order, with the same defaults."""

import dataclasses
import inspect

import pytest

from toolkit import catalogue

LIBRARY = {
    "adjoints": "adjoint",
    "solvers": "solver",
    "linear_solvers": "linear",
    "estimators": "estimator",
    "bilevel_methods": "bilevel",
}
MIRRORED = [
    (room, model)
    for family, room in LIBRARY.items()
    for model in catalogue.FAMILIES[family].values()
]


@pytest.mark.parametrize(
    ("room", "model"), MIRRORED, ids=lambda value: getattr(value, "__name__", value)
)
def test_settings_are_mirrored(room, model):
    library = pytest.importorskip(f"toolkit.{room}")
    mirrored = getattr(library, model.__name__, None)
    if mirrored is None:
        pytest.skip(f"toolkit.{room}.{model.__name__} is not there yet")
    ours = {
        n: None if f.is_required() else (f.default,)
        for n, f in model.model_fields.items()
        if n != "kind"
    }
    theirs = {
        field.name: None if field.default is dataclasses.MISSING else (field.default,)
        for field in dataclasses.fields(mirrored)
    }
    assert list(ours.items()) == list(theirs.items())


@pytest.mark.parametrize(("kind", "model"), catalogue.FAMILIES["optimizers"].items())
def test_optimizers_mirror_optax(kind, model):
    optax = pytest.importorskip("optax")
    theirs = inspect.signature(getattr(optax, kind)).parameters
    for name, field in model.model_fields.items():
        if name not in ("kind", "learning_rate"):
            assert field.default == theirs[name].default
    assert hasattr(model(learning_rate=0.1).build(), "update")


def test_nested_kinds_are_built():
    linear = pytest.importorskip("toolkit.linear")
    adjoint = pytest.importorskip("toolkit.adjoint")
    config = catalogue.Implicit(linear_solver=catalogue.CG(max_steps=3, tol=1e-6), damping=0.1)
    assert config.build() == adjoint.Implicit(linear.CG(max_steps=3, tol=1e-6), damping=0.1)


def test_a_penalty_may_grow():
    pytest.importorskip("jax")
    growing = catalogue.PowerDecay(constant=10.0, exponent=-0.5)
    settings = catalogue.F2SA(inner_step_size=0.1, outer_step_size=0.1, penalty=growing).build()
    assert settings.penalty(3) == pytest.approx(20.0)
