"""Small checks of programs and equations: each fails if a release of JAX has changed what they consist of.

Each function here is the check of one row in `known.py`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from toolkit.jaxprs import loops, operations, own_rules, read, recorded_lines
from toolkit.jaxprs.classes import ClosedJaxpr, DropVar, Jaxpr, Literal, Var
from toolkit.jaxprs.internals.samples import (
    X,
    everything,
    first,
    last,
    on_one_device,
    shaped,
    traced,
)
from toolkit.jaxprs.own_shardings import own_shardings
from toolkit.jaxprs.thin_products import arranged


def program() -> None:
    """A traced program and its constants come apart, and keep their classes."""
    held = jnp.asarray(X)
    closed = traced(lambda x: x * held)
    jaxpr, constants = read.opened(closed)
    assert isinstance(closed, ClosedJaxpr) and isinstance(jaxpr, Jaxpr)
    assert len(jaxpr.invars) == 1 and np.array_equal(constants[0], X)


def written_number() -> None:
    """A number in the code is a literal, with a value and a type."""
    left, right = first(lambda x: x * 2).invars
    assert isinstance(left, Var) and not isinstance(left, Literal)
    assert isinstance(right, Literal) and read.literal(right) == 2
    assert str(right.aval) == "float32[]"


def dropped_result() -> None:
    """An equation whose result is dropped runs like any other."""
    jaxpr, _ = read.opened(traced(lambda x: (x * x, x)))
    # The result is dropped by hand, so that the check does not depend on when JAX itself drops one.
    equation = jaxpr.eqns[0].replace(outvars=[DropVar(jaxpr.eqns[0].outvars[0].aval)])
    without = jaxpr.replace(eqns=[equation], outvars=jaxpr.invars)
    assert isinstance(equation.outvars[0], Var)
    assert np.array_equal(read.evaluate_open(without, (), X)[0], X)


def evaluation() -> None:
    """A program is evaluated with constants in place of its own, and its equations keep their lines."""
    held = jnp.asarray(X)
    closed = traced(lambda x: x * held)
    jaxpr, _ = read.opened(closed)
    assert np.array_equal(read.evaluate_open(jaxpr, [2 * X], X)[0], 2 * X * X)
    again = traced(lambda x: read.evaluate(closed, x))
    innermost = [next(recorded_lines.frames(one.eqns[0])) for one in (closed, again)]
    assert innermost[0] == innermost[1]


def custom_derivative() -> None:
    """An equation with a derivative rule, evaluated again, keeps the rule."""

    # Both functions are the identity, whose slope is 1: a slope of 3 or 1/2 shows that the rule was used.
    @jax.custom_jvp
    def tripled(x: Any) -> Any:
        return x

    tripled.defjvp(lambda primals, dots: (tripled(*primals), 3 * dots[0]))

    @jax.custom_vjp
    def halved(x: Any) -> Any:
        return x

    halved.defvjp(lambda x: (x, None), lambda _, bar: (bar / 2,))
    for function, slope in ((tripled, 3), (halved, 0.5)):
        equation = first(function)
        grad = jax.grad(lambda x, e=equation: read.evaluate_equation(e, [x])[0].sum())
        assert np.array_equal(grad(X), np.full(3, slope))


def settings_of_equation() -> None:
    """An equation is evaluated again under the settings under which it was made."""

    def tagged(x: Any) -> Any:
        with set_xla_metadata(toolkit="tag"):
            return x * x

    old = first(tagged)
    new = first(lambda x: read.evaluate_equation(old, [x, x])[0])
    assert old.ctx.xla_metadata == new.ctx.xla_metadata == {"toolkit": "tag"}


def calls() -> None:
    """What a call runs is found, whatever kind of call it is."""
    vmapped = jax.custom_batching.custom_vmap(lambda x: 2 * x)
    vmapped.def_vmap(lambda _, batched, x: (2 * x, batched[0]))
    ruled = jax.custom_vjp(lambda x: 2 * x)
    ruled.defvjp(lambda x: (2 * x, None), lambda _, bar: (2 * bar,))
    forward = jax.custom_jvp(lambda x: 2 * x)
    forward.defjvp(lambda primals, dots: (2 * primals[0], 2 * dots[0]))
    composite = jax.lax.composite(lambda x: 2 * x, name="toolkit.double")
    kinds = (jax.jit(lambda x: 2 * x), jax.checkpoint(lambda x: 2 * x), composite)
    for function in (*kinds, vmapped, ruled, forward):
        equation = first(function)
        assert np.array_equal(read.evaluate(read.called(equation), X)[0], 2 * X), equation


def derivative_rules() -> None:
    """A rule of JAX's is told from a user's, and a tangent that only a backward pass could make is found."""
    ruled = jax.custom_vjp(lambda x: 2 * x)
    ruled.defvjp(lambda x: (2 * x, None), lambda _, bar: (2 * bar,))
    (softplus,) = [
        one for one in everything(traced(jax.nn.softplus)) if "custom_jvp" in one.primitive.name
    ]
    assert own_rules.rule_of(softplus).name == "_logaddexp_jvp", own_rules.rule_of(softplus)
    assert own_rules.rules(traced(lambda x: jax.nn.softplus(jax.nn.relu(x)))) == ("", "")
    assert all(own_rules.rules(traced(ruled)))
    pushed = [lambda x, f=f: jax.jvp(f, (x,), (x,))[1] for f in (ruled, jnp.sin)]
    assert [own_rules.has_no_forward_mode(traced(f)) for f in pushed] == [True, False]


def call_of_a_program() -> None:
    """A scan that is computed again for its derivative is split by a call, which is found too."""

    def loss(x: Any) -> Any:
        return jax.lax.scan(lambda c, y: (jnp.sin(c) * y, None), np.float32(1), x)[0]

    derivative = traced(jax.grad(jax.checkpoint(loss)))
    found = [e for e in everything(derivative) if e.primitive.name in ("closed_call", "eval_jaxpr")]
    assert found and all(read.called(equation) is not None for equation in found)


def named_call() -> None:
    """A `jit` keeps the name of its function."""

    def double(x: Any) -> Any:
        return 2 * x

    assert operations.name_called(first(jax.jit(double))) == "double"


def callback() -> None:
    """A print is an effect without results, and can be left out."""

    def printing(x: Any) -> Any:
        jax.debug.print("{}", x)
        return 2 * x

    equation = first(jax.jit(printing))
    inside = read.opened(read.called(equation))[0].eqns
    assert [read.is_callback(one) for one in inside] == [True, False]
    silent = read.without_callbacks(equation)
    assert not silent.effects and len(read.opened(read.called(silent))[0].eqns) == 1


def scan() -> None:
    """A scan's constants, carry and inputs are told apart, and its body runs alone."""

    def summed(held: Any, xs: Any) -> Any:
        step = lambda carry, x: (carry + held * x, carry)
        return jax.lax.scan(step, np.float32(0), xs, reverse=True)

    equation = last(summed, np.float32(2), X)
    parts = loops.scan_parts(equation)
    assert (parts.constants, parts.carried, parts.length) == (1, 1, 3) and parts.reverse
    assert [v.aval.shape for v in parts.parted(equation.invars)[2]] == [(3,)]
    assert read.evaluate(parts.body, 2.0, 1.0, 3.0) == [7.0, 1.0]


def while_loop() -> None:
    """A while loop's two sets of constants and its carry are told apart."""

    def doubled(limit: Any, factor: Any, x: Any) -> Any:
        return jax.lax.while_loop(lambda y: y < limit, lambda y: y * factor, x)

    equation = last(doubled, 9.0, 2.0, 1.0)
    parts = loops.while_parts(equation)
    assert [len(part) for part in parts.parted(equation.invars)] == [1, 1, 1]
    assert read.evaluate(parts.condition, 9.0, 8.0)[0] and read.evaluate(parts.body, 2.0, 8.0) == [
        16
    ]


def condition() -> None:
    """Branches stand in the order of the number that chooses: false, then true."""
    choose = lambda x: jax.lax.cond(x[0] > 0, lambda x: 2 * x, lambda x: 3 * x, x)
    programs = loops.branches(last(choose, X))
    assert [read.evaluate(one, X)[0][0] for one in programs] == [3, 2]


def linear_solve() -> None:
    """A linear solve's product, solver, and their constants are told apart."""

    def solved(a: Any, b: Any) -> Any:
        return jax.lax.custom_linear_solve(lambda x: a * x, b, lambda _, b: b / a, symmetric=True)

    equation = last(solved, 2.0, X)
    parts = loops.solve_parts(equation)
    # The number `a` is the only constant of each of the programs, so one value serves for all of them.
    values = [2.0] * parts.constants + [X]
    assert len(values) == len(equation.invars)
    product = read.evaluate(parts.product, *values[: parts.product_constants], X)
    assert np.array_equal(product[0], 2 * X)
    assert np.array_equal(read.evaluate(parts.solve, *parts.of_solve(values))[0], X / 2)


def shard_map() -> None:
    """A map over devices says over which mesh and axes."""
    equation = first(on_one_device(jnp.sin))
    parts = loops.shard_parts(equation)
    assert parts.axes == {"i"} and dict(parts.mesh.shape) == {"i": 1} and parts.check_vma
    assert len(parts.in_specs) == 1 and len(read.opened(parts.body)[0].invars) == 1


def own_layout() -> None:
    """A result says how the operation that makes it lays it out, inside a `jax.jit` too."""
    mesh = jax.make_mesh((1,), ("i",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    lying = NamedSharding(mesh, PartitionSpec("i"))
    constrain = lambda x: jax.lax.with_sharding_constraint(2 * x, lying)
    program = traced(
        lambda x: (constrain(x), jax.device_put(x + 1, lying), jax.jit(constrain)(x), -x)
    )
    assert own_shardings(program) == [lying, lying, lying, None]


def parameters() -> None:
    """Powers, counts, fills, products, convolutions and windows say what they do."""
    take = lambda x: x.at[np.arange(2)].get(mode="fill", fill_value=7.0)
    image, kernel = shaped(1, 2, 5), shaped(4, 2, 3)
    convolve = lambda x, k: jax.lax.conv(x, k, (1,), "VALID")
    pool = lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (2,), (1,), "VALID")
    fills = [e for e in everything(traced(take)) if e.primitive.name == "gather"]
    assert operations.exponent(first(lambda x: x**3)) == 3
    assert operations.numbered(last(lambda: jax.lax.iota(int, 5))) == 5
    assert [operations.filling(equation) for equation in fills] == [7.0]
    assert tuple(operations.contracted_axes(last(jnp.dot, shaped(2, 3), X))) == (1,)
    assert operations.convolved_channels(last(convolve, image, kernel)) == 4
    assert operations.window_size(last(pool, X)) == 2


def rearranged_product() -> None:
    """A thin product is rewritten as three equations that compute the same, on a CPU."""
    x, w = np.ones((64, 8), np.float32), np.arange(16, dtype=np.float32).reshape(8, 2)
    closed = jax.make_jaxpr(jnp.matmul)(x, w)
    new = arranged(closed, [False, True])
    names = [equation.primitive.name for equation in everything(new)]
    rewritten = ["transpose", "optimization_barrier", "dot_general"]
    assert jax.default_backend() != "cpu" or [n for n in names if n != "jit"] == rewritten
    assert np.array_equal(read.evaluate(new, x, w)[0], x @ w)


def own_primitive() -> None:
    """A primitive of our own is differentiated, transposed, batched and lowered by rules that we give."""
    double = Primitive("toolkit_trial_double")
    double.def_impl(lambda x: 2 * x)
    double.def_abstract_eval(lambda x: x)
    mlir.register_lowering(double, mlir.lower_fun(lambda x: 2 * x, multiple_results=False))
    ad.deflinear2(double, lambda bar, _: [double.bind(bar)])
    batching.primitive_batchers[double] = lambda args, dims: (double.bind(*args), dims[0])
    mapped = jax.vmap(double.bind)
    assert np.array_equal(jax.grad(lambda x: mapped(x).sum())(X), np.full(3, 2.0))
    assert np.array_equal(jax.jit(mapped)(X), 2 * X)


def lanes_of_own_primitive() -> None:
    """A primitive's rule for batches is told how many lanes there are, and their name where the user gave one."""
    double, seen = Primitive("toolkit_trial_lanes"), []
    double.def_impl(lambda x: 2 * x)
    double.def_abstract_eval(lambda x: x)

    def rule(axis: Any, operands: Any, axes: Any) -> Any:
        seen.append((axis.size, None if type(axis.name) is object else axis.name, axis.spmd_name))
        return double.bind(*operands), axes[0]

    batching.fancy_primitive_batchers[double] = rule
    for name in (None, "lanes"):
        assert np.array_equal(jax.vmap(double.bind, axis_name=name)(X), 2 * X)
    assert seen == [(3, None, None), (3, "lanes", None)]
