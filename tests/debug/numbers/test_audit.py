"""Numbers that nobody can set are found with their line and operation, and structure is not."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax
from jax.scipy.special import log_ndtr

import toolkit as tk
from toolkit.debug import Constant, audit
from toolkit.debug.numbers.structural import Supplied

VECTOR = jax.ShapeDtypeStruct((5,), jnp.float32)
MATRIX = jax.ShapeDtypeStruct((5, 5), jnp.float32)
SCALAR = jax.ShapeDtypeStruct((), jnp.float32)
COUNT = jax.ShapeDtypeStruct((), jnp.int32)
KEY = jax.eval_shape(lambda: jax.random.key(0))
HERE = str(Path(__file__))

Row = tuple[float, int, str]  # value, line, operation


class Case(NamedTuple):
    fn: Callable[..., Any]
    specs: tuple[Any, ...]


PLANTED: list[Case] = []
HEALTHY: list[Case] = []


def planted(*specs: Any) -> Callable[..., Any]:
    """A row whose lines say what is found there: `# finds: VALUE OPERATION; VALUE OPERATION`."""
    return lambda fn: (PLANTED.append(Case(fn, specs or (VECTOR,))), fn)[1]


def healthy(*specs: Any) -> Callable[..., Any]:
    """A row in which nothing is found."""
    return lambda fn: (HEALTHY.append(Case(fn, specs or (VECTOR,))), fn)[1]


def expected(fn: Callable[..., Any]) -> set[Row]:
    lines, first = inspect.getsourcelines(fn)
    rows = set()
    for number, line in enumerate(lines, first):
        for entry in line.rstrip().partition("# finds: ")[2].split("; "):
            if entry:
                value, _, operation = entry.partition(" ")
                rows.add((float(value), number, operation))
    return rows


def rows(found: tuple[Constant, ...]) -> set[Row]:
    assert all(one.file == HERE for one in found), found
    return {(one.value, one.line, one.operation) for one in found}


# One operation a row


@planted()
def factor(x):
    return jnp.sum(0.37 * x)  # finds: 0.37 mul


@planted()
def half(x):
    return 0.5 * jnp.sum(x**2)  # finds: 0.5 mul


@planted()
def one_value_twice_on_a_line(x):
    return 0.37 * jnp.sum(0.37 * x)  # finds: 0.37 mul


@planted()
def folded_by_python(x):
    return x + 2 * 0.05  # finds: 0.1 add


@planted()
def reciprocal(x):
    return x / 7.5  # finds: 7.5 div


@planted()
def threshold(x):
    return jnp.sum(x > 0.3)  # finds: 0.3 gt


@planted()
def clipped(x):
    return jnp.clip(x, -5, 0.9)  # finds: -5 clip; 0.9 clip


@planted()
def floor_of_a_maximum(x):
    return jnp.maximum(x, 1e-3)  # finds: 0.001 max


@planted()
def replaced(x):
    return jnp.where(x > 0, x, 0.25)  # finds: 0.25 where


@planted()
def masked_by_a_large_number(x):
    return jax.nn.softmax(jnp.where(x > 0, x, -1e9))  # finds: -1e9 where


@planted()
def base_of_a_power(step):
    return 0.97**step  # finds: 0.97 pow


@planted(COUNT)
def boundary_of_a_schedule(step):
    return jnp.where(step > 500, 0.01, 0.1)  # finds: 500 gt; 0.01 where; 0.1 where


@planted(COUNT)
def period(step):
    return step % 50 == 0  # finds: 50 remainder


@planted()
def filled_array(x):
    start = jnp.full(3, 0.15)  # finds: 0.15 broadcast_in_dim
    return jnp.concatenate([start, x])


@planted()
def filled_at_the_line_that_reads_it(x):
    return x + jnp.full(5, 0.15)  # finds: 0.15 add


@planted(SCALAR)
def shape_coincides_but_is_written(x):
    return jnp.sum(jnp.ones(7) * x) * 7.0  # finds: 7.0 mul


@planted(VECTOR)
def length_coincides_but_is_written(x):
    return 5.0 * x  # finds: 5.0 mul


@planted()
def seeded_in_the_code(x):
    return x + jax.random.normal(jax.random.key(42), x.shape)  # finds: 42 random_seed


@planted(KEY)
def range_of_a_draw(key):
    draw = jax.random.uniform
    return draw(key, (3,), minval=-0.3, maxval=0.6)  # finds: -0.3 uniform; 0.6 uniform


# Through calls, branches and loops


@planted()
def in_a_helper(x):
    def helper(x, c):
        return x * c  # finds: 0.3 mul; 0.7 mul

    return helper(x, 0.3) + helper(x, 0.7)


@planted()
def argument_of_a_jitted_function(x):
    @jax.jit
    def scaled(x, c):
        return x * c

    return scaled(x, 0.3)  # finds: 0.3 scaled


@planted()
def inside_a_jitted_function(x):
    @jax.jit
    def scaled(x):
        return 0.3 * x  # finds: 0.3 mul

    return scaled(x)


@planted()
def carried_by_scan(x):
    def body(total, x):
        return 0.9 * total + x, None  # finds: 0.9 mul

    return lax.scan(body, 0.5, x)[0]  # finds: 0.5 initial value


@planted()
def length_of_a_scan(x):
    def body(x, _):
        return jnp.sin(x), None

    return lax.scan(body, x, None, length=40)[0]  # finds: 40 loop length


@planted()
def numbers_of_the_steps(x):
    def body(x, step):
        return x / (1 + step), None

    return lax.scan(body, x, jnp.arange(40))[0]  # finds: 40 loop length


@planted(VECTOR, KEY)
def keys_of_the_steps(x, key):
    def body(x, key):
        return x + jax.random.normal(key, x.shape, x.dtype), None

    keys = jax.random.split(key, 30)
    return lax.scan(body, x, keys)[0]  # finds: 30 loop length


@planted()
def counted_loop(x):
    return lax.fori_loop(0, 25, lambda _, x: jnp.sin(x), x)  # finds: 25 loop length


@planted(VECTOR, COUNT)
def counted_loop_from_an_argument(x, first):
    return lax.fori_loop(first, 25, lambda _, x: jnp.sin(x), x)  # finds: 25 loop length


@planted()
def bound_of_a_while_loop(x):
    def goes_on(state):
        return (state[0] < 60) & (state[1].sum() > 1e-4)  # finds: 60 lt; 1e-4 gt

    return lax.while_loop(goes_on, lambda s: (s[0] + 1, s[1] * 0.8), (0, x))  # finds: 0.8 mul


@planted()
def branches(x):
    return lax.cond(x.sum() > 0, lambda: x * 0.3, lambda: x)  # finds: 0.3 mul


@planted()
def branches_that_return_numbers(x):
    return x * lax.cond(x.sum() > 0, lambda: 0.3, lambda: 0.7)  # finds: 0.3 result; 0.7 result


@planted()
def in_nested_loops(x):
    def outer(x, _):
        def inner(x, _):
            return x - 0.05 * x, None  # finds: 0.05 mul

        return lax.scan(inner, x, None, length=8)  # finds: 8 loop length

    return lax.scan(outer, x, None, length=9)[0]  # finds: 9 loop length


@planted()
def rematerialised(x):
    return jax.checkpoint(lambda x: jnp.sin(0.3 * x))(x)  # finds: 0.3 mul


@planted(MATRIX)
def mapped(x):
    return jax.vmap(lambda row: 0.3 * row)(x)  # finds: 0.3 mul


@planted()
def our_loop(x):
    def body(x, _):
        return 0.3 * x, None  # finds: 0.3 mul

    return tk.loop(body, x, length=6)[0]  # finds: 6 loop length


# What the function closes over

THIRD = jnp.asarray(0.3)
THIRDS = np.full(5, 0.3, np.float32)
DATA = np.linspace(0.1, 0.7, 5, dtype=np.float32)


@planted()
def closes_over_an_array_of_one_number(x):
    return x * THIRD  # finds: 0.3 mul


@planted()
def closes_over_a_numpy_number(x):
    return x * np.float32(0.3)  # finds: 0.3 mul


@planted()
def closes_over_a_filled_array(x):
    return x * THIRDS  # finds: 0.3 mul


@planted()
def closes_over_in_a_loop(x):
    return lax.fori_loop(0, 2, lambda _, x: x * THIRD, x)  # finds: 0.3 mul


@planted()
def closes_over_in_a_jitted_function(x):
    return jax.jit(lambda x: x * THIRD)(x)  # finds: 0.3 mul


# Derivatives: once, at the user's line


@planted()
def gradient(x):
    def loss(x):
        return jnp.sum(0.3 * jax.scipy.special.erf(jnp.sqrt(x)))  # finds: 0.3 mul

    return jax.grad(loss)(x)


@planted()
def gradient_of_a_jitted_loop(x):
    @jax.jit
    def loss(x):
        def body(x, _):
            return jnp.sqrt(x) + 0.3 * jax.nn.gelu(x), None  # finds: 0.3 mul

        return lax.scan(body, x, None, length=2)[0].sum()

    return jax.grad(loss)(x)


@planted()
def hessian(x):
    return jax.hessian(lambda x: jnp.sum(0.3 * jnp.exp(x) ** 1.5))(x)  # finds: 0.3 mul


@planted()
def users_derivative_rule(x):
    @jax.custom_vjp
    def surrogate(x):
        return jnp.sign(x)

    def backward(x, bar):
        return (bar * (jnp.abs(x) < 0.7),)

    surrogate.defvjp(lambda x: (surrogate(x), x), backward)
    return jax.grad(lambda x: surrogate(x).sum())(x)  # finds: 0.7 lt


# Defaults of libraries


@planted()
def slope_of_a_leaky_relu(x):
    return jax.nn.leaky_relu(x)  # finds: 0.01 mul


@planted()
def given_slope(x):
    return jax.nn.leaky_relu(x, 0.2)  # finds: 0.2 leaky_relu


@planted()
def adam(x):
    tx = optax.adam(3e-4)
    go, state = tx.update, tx.init(x)
    return go(x, state)[0]  # finds: 0.9 mul; 0.9 pow; 0.999 mul; 0.999 pow; 1e-8 add; 3e-4 mul


@planted()
def sgd(x):
    return optax.sgd(0.02).update(x, optax.sgd(0.02).init(x))[0]  # finds: 0.02 mul


@planted()
def linen_layer_norm(x):
    layer = nn.LayerNorm(use_bias=False, use_scale=False)
    return layer.apply({}, x)  # finds: 1e-6 add


@planted()
def nnx_layer_norm(x):
    layer = nnx.LayerNorm(5, rngs=nnx.Rngs(0))
    return layer(x)  # finds: 1e-6 add


@planted()
def solver(x):
    descent = tk.solver.GradientDescent(0.15, 30)

    def objective(y, theta):
        return jnp.sum((y - theta) ** 2) + 0.05 * jnp.sum(y**4)  # finds: 0.05 mul

    solve = tk.argmin(objective, descent)

    def outer(x):
        return jnp.sum(solve(jnp.zeros(5), x).value)  # finds: 0.15 mul; 30 loop length

    return jax.grad(outer)(x)


@planted(KEY)
def dropout(key):
    layer = nn.Dropout(0.1, deterministic=False)

    def apply(x):
        return layer.apply({}, x, rngs={"dropout": key})  # finds: 0.9 bernoulli; 0.9 div

    return apply(jnp.ones(4))


@planted()
def tolerance_of_a_jax_solver(x):
    cg = jax.scipy.sparse.linalg.cg
    return cg(lambda v: 2 * v, x, tol=1e-4)[0]  # finds: 1e-4 square


@planted()
def in_control_flow(x):
    @tk.control_flow
    def shrink(x):
        n = 0
        while n < 70 and jnp.sum(x) > 0.2:  # finds: 70 lt; 0.2 gt
            x = x * 0.9 if x[0] > 0.4 else x - 0.11  # finds: 0.9 mul; 0.4 gt; 0.11 sub
            n = n + 1
        return x

    return shrink(x)


# No number of one's own


@healthy()
def small_integers(x):
    return 2 * x - 1.0 + jnp.sum(x**2) / 2 + x**3 + x**0.5 + x**-1.5 + jnp.zeros(5) + jnp.ones(5)


@healthy()
def gelu(x):
    return jax.nn.gelu(x) + jax.nn.gelu(x, approximate=False)


@healthy()
def activations(x):
    return jax.nn.silu(x) + jax.nn.softplus(x) + jax.nn.selu(x) + jax.nn.relu6(x) + jax.nn.mish(x)


@healthy()
def gradient_of_activations(x):
    @jax.jit
    def total(x):
        return jnp.sum(jax.nn.gelu(x) + jax.nn.selu(x) + jax.nn.relu6(x) + log_ndtr(x))

    return jax.grad(total)(x)


@healthy(MATRIX)
def softmax(x):
    return jax.nn.softmax(x) + jax.nn.log_softmax(x) + jax.nn.logsumexp(x)


@healthy(MATRIX)
def attention(x):
    scores = x @ x.T / jnp.sqrt(x.shape[-1])
    mask = jnp.tril(jnp.ones_like(scores, dtype=bool))
    return jax.nn.softmax(jnp.where(mask, scores, -jnp.inf)) @ x + x / x.shape[-1] ** 0.5


@healthy(MATRIX)
def masked_with_the_smallest_number(x):
    return jnp.where(x > 0, x, jnp.finfo(x.dtype).min)


@healthy(MATRIX)
def moments(x):
    return (x - x.mean(axis=0)) / x.std(axis=0, ddof=1) + jnp.var(x) + jnp.median(x)


@healthy()
def layer_norm_by_hand(x):
    return (x - jnp.mean(x)) / jnp.sqrt(jnp.mean((x - jnp.mean(x)) ** 2))


@healthy(MATRIX)
def mean_by_hand(x):
    return x.sum() / x.size + x.sum(0) * (1 / x.shape[0]) + x.sum(1) / (x.shape[1] - 1)


@healthy(KEY)
def random_numbers(key):
    a, b, c = jax.random.split(key, 3)
    jax.random.permutation(a, 10)
    return jax.random.normal(a, (3,)) + jax.random.uniform(b, (3,)) + jax.random.gumbel(c, (3,))


@healthy(KEY)
def random_integers(key):
    return jax.random.fold_in(key, 7), jax.random.choice(key, jnp.arange(10), (4,), replace=False)


@healthy(MATRIX)
def factorisations(x):
    a = x @ x.T
    return jnp.linalg.cholesky(a), jnp.linalg.eigh(a), jnp.linalg.svd(x), jnp.linalg.solve(a, x)


@healthy(MATRIX)
def gradients_of_factorisations(x):
    return jax.grad(lambda x: jnp.linalg.slogdet(x @ x.T)[1] + jnp.linalg.eigh(x + x.T)[0][0])(x)


@healthy()
def sorted_and_selected(x):
    return jnp.sort(x), jnp.argsort(x), lax.top_k(x, 3), jnp.searchsorted(x, x), jnp.cumsum(x)


@healthy(COUNT)
def one_hot(i):
    return jax.nn.one_hot(i, 10), jnp.eye(7), jnp.arange(20)[i]


@healthy(MATRIX, COUNT)
def indexing(x, i):
    return x[3], x[i], x[:4], x.at[i].set(0), lax.dynamic_slice_in_dim(x, i, 2), jnp.roll(x, 3)


@healthy()
def fourier(x):
    return jnp.fft.fft(x), jnp.fft.irfft(jnp.fft.rfft(x)), jnp.fft.fftfreq(5)


@healthy()
def mathematics(x):
    return jnp.sin(2 * jnp.pi * x) + math.log(2) * x + jnp.log(x) / np.log(10) - np.sqrt(2) * x


@healthy()
def log_density(x):
    return jax.scipy.stats.norm.logpdf(x) + jax.scipy.special.gammaln(x)


@healthy(KEY)
def initialisers(key):
    return nn.initializers.lecun_normal()(key, (7, 4)), nn.initializers.orthogonal()(key, (4, 4))


@healthy()
def scan_over_data(x):
    return lax.scan(lambda total, x: (total + x, total), 0.0, x)


@healthy(VECTOR, COUNT)
def switch(x, i):
    return lax.switch(i, [jnp.sin, jnp.cos, jnp.tanh, jnp.exp, jnp.abs], x)


@healthy(VECTOR)
def closes_over_data(x):
    return x * DATA


@healthy(VECTOR, SCALAR)
def scalar_argument(x, rate):
    return x - rate * jnp.sin(x)


@healthy(VECTOR, jax.ShapeDtypeStruct((5,), jnp.int32))
def cross_entropy(x, labels):
    logits = jnp.outer(x, x)
    loss = optax.softmax_cross_entropy_with_integer_labels
    return jax.grad(lambda logits: jnp.mean(loss(logits, labels)))(logits)


@healthy(MATRIX)
def implicit_derivative(x):
    solve = lambda theta: tk.argmin(
        lambda y, theta: jnp.sum((y - theta) ** 2),
        tk.solver.Newton(max_steps=2, tol=1.0),
        adjoint=tk.adjoint.Implicit(tk.linear.Dense()),
    )(jnp.zeros(5), theta)
    return jax.grad(lambda theta: jnp.sum(solve(theta).value))(x[0])


_ids = lambda case: case.fn.__name__


@pytest.mark.parametrize("case", PLANTED, ids=_ids)
def test_planted_numbers_are_found_and_no_others(case):
    assert rows(audit(case.fn, *case.specs)) == expected(case.fn)


@pytest.mark.parametrize("case", HEALTHY, ids=_ids)
def test_no_alarm(case):
    assert audit(case.fn, *case.specs) == ()


def test_python_numbers_among_the_specs_are_supplied():
    def step(x, count, rate, name):
        assert name == "x"
        return lax.fori_loop(0, count, lambda _, x: x - rate * x, 0.3 * x) if rate > 0 else x

    found = audit(step, VECTOR, 40, 0.25, "x")
    assert [(one.value, one.operation) for one in found] == [(0.3, "mul")]


def test_a_constant_prints_as_one_line():
    (found,) = audit(linen_layer_norm, VECTOR)
    assert str(found).startswith(f"1e-06 in `add` at {Path('tests/debug/numbers/test_audit.py')}:")
    assert "(inside flax/linen/normalization.py:" in str(found)
    assert str(found).endswith("# finds: 1e-6 add")


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match="`fn` must be callable: got int"):
        audit(3)


@pytest.mark.parametrize(
    ("value", "supplied", "explained"),
    [
        (0.3, [0.3], True),
        (-0.3, [0.3], True),
        (float(np.float32(0.3)), [0.3], True),
        (1 / 0.3, [0.3], True),
        (0.09, [0.3], True),
        (0.7, [0.3], True),
        (math.log(0.3), [0.3], True),
        (1 / math.sqrt(50), [50], True),
        (2000, [40, 50], True),
        (0.30001, [0.3], False),
        (0.31, [0.3, 50], False),
        (0.3, [], False),
    ],
)
def test_numbers_made_of_supplied_ones(value, supplied, explained):
    assert Supplied(supplied).explains(value) is explained
