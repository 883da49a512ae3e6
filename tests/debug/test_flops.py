"""Operations counted from a jaxpr: against closed forms, and against XLA where there is no loop."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from toolkit.debug.flops import Flops, Unknown, count

M = jnp.ones((8, 4))
V = jnp.ones(16)
C = jnp.ones((3, 5), complex)
MESH = AbstractMesh((4,), ("d",), axis_types=(AxisType.Auto,))
FOUR = {"mesh": MESH, "in_specs": (P("d"), P()), "out_specs": P("d")}


def counted(fn, *args):
    return count(jax.make_jaxpr(fn)(*args))


def loop_over(body, length):
    return lambda x: lax.scan(lambda c, _: (body(c), None), x, length=length)[0]


@pytest.mark.parametrize(
    ("fn", "args", "expected"),
    [
        (lambda m: m.T @ m, (M,), 2 * 4 * 4 * 8),
        (lambda m: jnp.einsum("bij,bjk->bik", m, m), (jnp.ones((5, 3, 3)),), 5 * 2 * 27),
        (lambda c: c @ c.T, (C,), 8 * 9 * 5),
        (lambda c: c * c + c, (C,), 15 * 8),
        (lambda x: jnp.tanh(x) * x + 1, (V,), 48),
        (lambda x: jnp.sum(x), (V,), 16),
        (jax.jit(lambda x: jnp.max(x)), (V,), 16),
        (lambda x: x.at[jnp.arange(3)].add(1.0), (V,), 3),
        (lambda x: lax.reduce_window(x, 0.0, lax.add, (4,), (4,), "VALID"), (V,), 16),
        (jax.grad(lambda x: jnp.tanh(x)), (1.0,), None),
        (lambda x: x.astype(int) * 3 + 1, (V,), 0),
        (lambda x: jnp.where(x > 0, x.reshape(4, 4).T.reshape(-1), x)[:3], (V,), 0),
        (loop_over(lambda x: x * 2, 7), (V,), 7 * 16),
        (loop_over(loop_over(lambda x: x * 2, 3), 7), (V,), 21 * 16),
        (lambda x: lax.fori_loop(0, 5, lambda i, x: x * 2, x), (V,), 5 * 16),
        (jax.shard_map(lambda x, m: jnp.sum(m) * x, **FOUR), (V, M), 4 * (32 + 4)),
        (jax.checkpoint(lambda x: jnp.exp(x)), (V,), 16),
        (jnp.linalg.cholesky, (jnp.eye(6),), None),
        (jax.vmap(lambda m: m @ m), (jnp.ones((5, 3, 3)),), 5 * 2 * 27),
        (lambda x: x, (jax.random.key(0),), 0),
    ],
)
def test_closed_forms(fn, args, expected):
    found = counted(fn, *args)
    assert not found.unknown
    assert found.low == found.high
    assert found.low > 0 if expected is None else found.low == expected


@pytest.mark.parametrize(
    ("fn", "args"),
    [
        (lambda a, b: a @ b, (jnp.ones((7, 8)), M)),
        (
            lambda x, k: lax.conv(x, k, (1, 1), "VALID"),
            (jnp.ones((2, 3, 9, 9)), jnp.ones((5, 3, 4, 4))),
        ),
        (lambda x: jnp.tanh(x) + x, (V,)),
    ],
)
def test_agrees_with_xla_without_loops(fn, args):
    analysis = jax.jit(fn).lower(*args).cost_analysis()
    theirs = analysis["flops"] + analysis.get("transcendentals", 0)
    assert counted(fn, *args).low == theirs


def test_a_condition_has_bounds():
    found = counted(lambda x: lax.cond(x[0] > 0, lambda x: x, lambda x: x * x, x), V)
    assert (found.low, found.high, found.unknown) == (0, 16, ())
    assert str(found) == "0 to 16"


def test_what_is_not_known_is_said():
    def body(x):
        return x * 2

    found = counted(lambda x: lax.while_loop(lambda x: x[0] < 9, body, x + 1), V)
    assert (found.low, len(found.unknown)) == (16, 1)
    assert str(found).startswith("unknown: 16 without while loops at tests/debug/test_flops.py:")
    assert "(16 a step)" in str(found)
    assert "`svd`" in str(counted(jnp.linalg.svd, M))
    assert counted(
        lambda x: jnp.exp(x), C
    ).unknown  # what a complex exponential costs is not settled
    assert str(Flops(1, 1, tuple(map(Unknown, "abcd")))) == "unknown: 1 without a, b, c and 1 more"


def test_a_checkpointed_scan_is_counted_in_its_derivative():
    # JAX splits such a scan by a call of a program, whose name differs between releases.
    loss = lambda x: lax.scan(lambda c, y: (jnp.sin(c) * y, None), 1.0, x)[0]
    found = counted(jax.grad(jax.checkpoint(loss)), V)
    assert found.unknown == () and found.low > counted(loss, V).low
