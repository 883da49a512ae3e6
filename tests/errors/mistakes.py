"""Mistakes that users make: each a short program, and what its error has to say."""

from __future__ import annotations

from typing import NamedTuple

import jax

HEAD = """
import jax
import jax.numpy as jnp
import numpy as np
import optax
import toolkit as tk
GD, Newton, Descend = tk.solver.GradientDescent(0.1, 5), tk.solver.Newton(5, 1e-6), tk.solver
y0, theta = {"w": jnp.zeros(3)}, {"lam": jnp.array(0.5)}
"""
SOLVE = "solve = tk.argmin(loss, GD)\nsolve(y0, theta)"
SHAPES = "loss has y: {w: float32[3]}, theta: {lam: float32[]}"
GOOD = 'def loss(y, theta):\n    return jnp.sum((y["w"] - theta["lam"]) ** 2)\n'
PROBLEM = """
def inner(y, theta, batch):
    X, t = batch
    return {inner}
def outer(y, theta, batch):
    return {outer}
data = (jnp.ones((6, 3)), jnp.ones(6))
init, step = tk.bilevel.SOBA(0.1, 0.1, batch_size=2)(tk.bilevel.Problem(inner, outer, data, data))
state, _ = step(init(jax.random.key(0), y0, theta))
"""
INNER = 'jnp.mean((X @ y["w"] - t) ** 2) * theta["lam"]'


class Mistake(NamedTuple):
    """A program, the error that it ends with, and what has to be in the message."""

    name: str
    program: str
    error: type[Exception]
    said: tuple[str, ...]


def loss(*lines: str, call: str = SOLVE) -> str:
    return "\n".join(["def loss(y, theta):", *(f"    {line}" for line in lines), call])


RETURNED = [
    Mistake(
        "vector",
        loss('return (y["w"] - theta["lam"]) ** 2'),
        ValueError,
        ("must return a real scalar", "got float32[3]", 'return (y["w"] - theta["lam"]) ** 2'),
    ),
    Mistake(
        "aux without has_aux",
        loss('value = jnp.sum(y["w"] ** 2)', "return value, {'a': value}"),
        ValueError,
        ("got (float32[], {a: float32[]})", "has_aux=True", "return value, {'a': value}"),
    ),
    Mistake(
        "no return",
        loss('value = jnp.sum(y["w"] ** 2)'),
        ValueError,
        ("got None", "in loss"),
    ),
    Mistake(
        "root of another tree",
        loss('return y["w"] - theta["lam"]', call="tk.root(loss, Newton)(y0, theta)"),
        ValueError,
        ("must return a tree like `y`", "got float32[3], expected {w: float32[3]}", 'y["w"] -'),
    ),
    Mistake(
        "map of another type",
        loss(
            'return {"w": y["w"].astype(jnp.float16)}',
            call="tk.fixed_point(loss, tk.solver.FixedPointIteration(5, 1e-6))(y0, theta)",
        ),
        ValueError,
        ("got {w: float16[3]}, expected {w: float32[3]}", "astype(jnp.float16)"),
    ),
    Mistake(
        "outer returns a vector",
        GOOD + 'tk.hypergradient(lambda y, theta: y["w"] - 1, tk.argmin(loss, GD))(y0, theta)',
        ValueError,
        ("`outer` must return a real scalar: got float32[3]", 'y["w"] - 1'),
    ),
    Mistake(
        "matvec of another shape",
        "tk.linear.CG(9, 1e-6)(lambda v: jnp.ones((4, 3)) @ v, jnp.ones(3))",
        ValueError,
        ("`matvec` must return a tree like `b`: got float32[4], expected float32[3]", "lambda v:"),
    ),
    Mistake(
        "estimator of a vector",
        "tk.estimator.Backprop()(lambda theta: theta**2)(jnp.ones(3), jax.random.key(0))",
        ValueError,
        ("must return one real floating number: got float32[3]", "lambda theta: theta**2"),
    ),
    Mistake(
        "batch loss of a vector",
        PROBLEM.format(inner='(X @ y["w"] - t) ** 2', outer="0."),
        ValueError,
        ("`inner` must return a real scalar", "got float32[6]", 'return (X @ y["w"] - t) ** 2'),
    ),
    Mistake(
        "level of a vector",
        "level = tk.bilevel.Level('z', lambda z, x: (z - x) ** 2, GD, jnp.zeros(3))\n"
        "tk.bilevel.nested(level)(x=jnp.ones(3))",
        ValueError,
        ("`fun` of level `z` must return a real scalar: got float32[3]", "(z - x) ** 2"),
    ),
]

SHAPES_AND_TYPES = [
    Mistake(
        "matrix product in a helper",
        "def predict(w, X):\n    return X @ w\n"
        + loss('return jnp.sum(predict(y["w"], jnp.ones((7, 4))) ** 2) * theta["lam"]'),
        TypeError,
        (SHAPES, "here X: float32[7,4], w = y['w']: float32[3]", "return X @ w"),
    ),
    Mistake(
        "matrix product in a helper of a helper",
        "def first(w, X):\n    return second(w, X)\n"
        "def second(w, X):\n    return third(w, X)\n"
        "def third(w, X):\n    return X @ w\n"
        + loss('return jnp.sum(first(y["w"], jnp.ones((7, 4)))) * theta["lam"]'),
        TypeError,
        (
            SHAPES,
            "w = y['w']: float32[3]",
            "return X @ w",
            "also in first (script.py:10), second (script.py:12)",
        ),
    ),
    Mistake(
        "shapes inside another package",
        loss('return jnp.sum(optax.softmax_cross_entropy(y["w"], jnp.ones(4))) * theta["lam"]'),
        Exception,
        (SHAPES, 'optax.softmax_cross_entropy(y["w"]', "also in softmax_cross_entropy"),
    ),
    Mistake(
        "broadcast",
        loss("target = jnp.ones(4)", 'return jnp.sum((y["w"] - target) ** 2) * theta["lam"]'),
        TypeError,
        (SHAPES, "y['w']: float32[3], target: float32[4]", '(y["w"] - target)'),
    ),
    Mistake(
        "products in a batch loss",
        PROBLEM.format(inner='jnp.mean((X @ y["w"][:2] - t) ** 2)', outer="0."),
        TypeError,
        (
            "inner has y: {w: float32[3]}",
            "X = batch[0]: float32[6,3], y['w']: float32[3]",
            '["w"][:2]',
        ),
    ),
    Mistake(
        "all of the data in a method's step",
        PROBLEM.format(inner='jnp.mean((X @ y["w"] - jnp.ones(6)) ** 2)', outer="0."),
        TypeError,
        ("inner has y: {w: float32[3]}", "X = batch[0]: float32[2,3]", "jnp.ones(6)"),
    ),
    Mistake(
        "products in an estimator",
        'def loss(theta):\n    return jnp.sum(theta["a"] @ theta["b"])\n'
        "tk.estimator.EvolutionStrategies(0.1, 2)(loss)("
        '{"a": jnp.ones(3), "b": jnp.ones(4)}, jax.random.key(0))',
        TypeError,
        ("theta['a']: float32[3], theta['b']: float32[4]", 'theta["a"] @ theta["b"]'),
    ),
    Mistake(
        "products in a level",
        "level = tk.bilevel.Level('z', lambda z, x: jnp.sum((z - x) ** 2), GD, jnp.zeros(3))\n"
        "tk.bilevel.nested(level)(x=jnp.ones(4))",
        TypeError,
        ("<lambda> has z: float32[3], x: float32[4]", "jnp.sum((z - x) ** 2)"),
    ),
    Mistake(
        "products in a function to be explained",
        'def f(p):\n    return p["a"] @ p["b"]\n'
        'tk.debug.explain(f, {"a": jnp.ones(3), "b": jnp.ones(4)})',
        TypeError,
        ("p['a']: float32[3], p['b']: float32[4]", 'return p["a"] @ p["b"]'),
    ),
    Mistake(
        "products in a loss to be checked for dead gradients",
        'def f(p):\n    return p["a"] @ p["b"]\n'
        'tk.debug.dead_gradients(f, {"a": jnp.ones(3), "b": jnp.ones(4)})',
        TypeError,
        ("p['a']: float32[3], p['b']: float32[4]", 'return p["a"] @ p["b"]'),
    ),
    Mistake(
        "products in a Python loop",
        "@tk.control_flow\ndef f(x):\n    A = jnp.ones((3, 3))\n    for i in range(9):\n"
        "        x = A @ x\n    return x\nf(jnp.ones(2))",
        TypeError,
        ("A: float32[3,3], x: float32[2]", "x = A @ x"),
    ),
    Mistake(
        "carry of another shape",
        "def body(carry, x):\n    return jnp.append(carry, x), None\n"
        "tk.loop(body, jnp.ones(3), jnp.ones(4))",
        TypeError,
        ("carry is float32[3] before and float32[4] after", "return jnp.append(carry, x), None"),
    ),
    Mistake(
        "carry of another type",
        'def body(carry, x):\n    return {"n": carry["n"] / 2}, None\n'
        'tk.loop(body, {"n": jnp.int32(3)}, length=4)',
        TypeError,
        ("carry['n'] is int32[] before and float32[] after", 'return {"n": carry["n"] / 2}'),
    ),
    Mistake(
        "carry of another tree",
        "def body(carry):\n    return carry, carry\ntk.while_loop(lambda c: c < 3, body, 0.0)",
        TypeError,
        ("got (float32[], float32[]) from float32[]", "return carry, carry"),
    ),
    Mistake(
        "no pair",
        "def body(carry, x):\n    return carry + 1\ntk.loop(body, jnp.ones(3), length=4)",
        TypeError,
        ("must return a pair (carry, y): got float32[3]", "return carry + 1"),
    ),
    Mistake(
        "condition of an array",
        "tk.while_loop(lambda c: c < 3, lambda c: c + 1, jnp.zeros(3))",
        TypeError,
        ("`cond` must return one boolean of shape (): got bool[3]", "lambda c: c < 3"),
    ),
    Mistake(
        "leading axes",
        'tk.loop(lambda c, x: (c, None), 0.0, {"a": jnp.ones(4), "b": jnp.ones(5)})',
        ValueError,
        ("got xs['a']: 4, xs['b']: 5",),
    ),
    Mistake(
        "entries for other steps",
        "def loss(y, theta, x):\n    return jnp.sum((y - x) ** 2)\n"
        "tk.argmin(loss, GD, adjoint=tk.adjoint.Unroll())(jnp.zeros(3), None, jnp.ones((4, 3)))",
        ValueError,
        ("num_steps=5", "got shape (4, 3)"),
    ),
    Mistake(
        "data of other lengths",
        "f = lambda y, theta, batch: 0.0\n"
        "tk.bilevel.Problem(f, f, (jnp.ones((5, 2)), jnp.ones(4)))",
        ValueError,
        ("`inner_data`", "got (float32[5,2], float32[4])"),
    ),
    Mistake(
        "integer start",
        GOOD + 'tk.argmin(loss, GD)({"w": jnp.zeros(3, int)}, theta)',
        ValueError,
        ("`y0` must have a floating", "got {w: int32[3]}", ".astype(float)"),
    ),
]

TREES = [
    Mistake(
        "missing key",
        loss('return jnp.sum(y["w"] ** 2) * theta["l2"]'),
        KeyError,
        ("'l2'", SHAPES, 'theta["l2"]'),
    ),
    Mistake(
        "missing key in an outer function",
        GOOD + 'def outer(y, theta):\n    return jnp.sum(y["v"])\n'
        "tk.check_hypergradient(outer, tk.argmin(loss, GD), y0, theta)",
        KeyError,
        ("'v'", "outer has y: {w: float32[3]}", 'jnp.sum(y["v"])'),
    ),
    Mistake(
        "swapped arguments",
        'def loss(theta, y):\n    return jnp.sum((y["w"] - theta["lam"]) ** 2)\n' + SOLVE,
        KeyError,
        ("'w'", "loss has theta: {w: float32[3]}, y: {lam: float32[]}"),
    ),
    Mistake(
        "list for an array",
        GOOD + 'tk.argmin(loss, GD)({"w": [0.0, 0.0]}, theta)',
        TypeError,
        ("loss has y: {w: [float32[], float32[]]}", 'y["w"] - theta["lam"]'),
    ),
    Mistake(
        "too few parameters",
        'def loss(y):\n    return jnp.sum(y["w"] ** 2)\n' + SOLVE,
        TypeError,
        ("`fun` must take (y, theta): got (y)", "def loss(y):"),
    ),
    Mistake(
        "outer of one parameter",
        GOOD + 'tk.hypergradient(lambda y: jnp.sum(y["w"]), tk.argmin(loss, GD))(y0, theta)',
        TypeError,
        ("`outer` must take (y, theta): got (y)", "lambda y:"),
    ),
    Mistake(
        "body of one parameter",
        "def body(carry):\n    return carry, None\ntk.loop(body, jnp.ones(3), length=4)",
        TypeError,
        ("`body` must take (carry, x): got (carry)", "def body(carry):"),
    ),
]

ROLES = [
    Mistake(
        "a class for a rule",
        GOOD + "tk.argmin(loss, GD, adjoint=tk.adjoint.Implicit)(y0, theta)",
        TypeError,
        ("`adjoint` must be one of tk.adjoint, such as Implicit()",),
    ),
    Mistake(
        "a solver for a rule",
        GOOD + "tk.argmin(loss, GD, adjoint=GD)(y0, theta)",
        TypeError,
        ("`adjoint` must be one of tk.adjoint, such as Implicit(): got GradientDescent",),
    ),
    Mistake(
        "a text for a number",
        "tk.solver.GradientDescent('0.1', 5)",
        ValueError,
        ("`step_size` must be None, a nonnegative number", "got '0.1'"),
    ),
    Mistake(
        "a number for a key",
        "tk.estimator.EvolutionStrategies(0.1, 2)(lambda t: jnp.sum(t))(jnp.ones(3), 0)",
        TypeError,
        ("`key` must be one key, such as jax.random.key(0): got 0",),
    ),
    Mistake(
        "a matrix for a function",
        "tk.linear.GMRES(9, 1e-6)(jnp.eye(3), jnp.ones(3))",
        TypeError,
        ("got float32[3,3]", "lambda v: A @ v"),
    ),
]

TRACED = [
    Mistake(
        "if",
        loss('if y["w"][0] > 0:', "    return 0.0", 'return jnp.sum(y["w"] ** 2)'),
        jax.errors.TracerBoolConversionError,
        ("depends on the value of the argument y['w']", SHAPES, "@tk.control_flow", "> 0:"),
    ),
    Mistake(
        "if in a loop",
        "def body(c, x):\n    if c[0] > 0:\n        c = -c\n    return c, None\n"
        "tk.loop(body, jnp.ones(3), length=4)",
        jax.errors.TracerBoolConversionError,
        ("depends on the value of the argument c", "body has c: float32[3]", "if c[0] > 0:"),
    ),
    Mistake(
        "list in a Python loop",
        "@tk.control_flow\ndef f(x):\n    layers = [1.0, 2.0]\n    for i in range(2):\n"
        "        x = x * layers[i]\n    return x\nf(jnp.ones(2))",
        TypeError,
        ("`layers[i]`: a value that is traced here", "x = x * layers[i]"),
    ),
    Mistake(
        "int",
        loss('return jnp.sum(y["w"] ** 2) * int(theta["lam"])'),
        jax.errors.ConcretizationTypeError,
        ("depends on the value of the argument theta['lam']", SHAPES, 'int(theta["lam"])'),
    ),
    Mistake(
        "range",
        loss(
            'return sum(jnp.sum(y["w"]) for _ in range(theta["n"]))',
            call=SOLVE.replace("theta", '{"n": 3}'),
        ),
        jax.errors.TracerIntegerConversionError,
        ("theta['n']", "n: int32[]", 'range(theta["n"])'),
    ),
    Mistake(
        "numpy",
        loss('return np.sum(np.asarray(y["w"])) * theta["lam"]'),
        jax.errors.TracerArrayConversionError,
        ("use jax.numpy in place of numpy", SHAPES, 'np.asarray(y["w"])'),
    ),
    Mistake(
        "mask",
        loss('return jnp.sum(y["w"][y["w"] > 0]) * theta["lam"]'),
        jax.errors.NonConcreteBooleanIndexError,
        ("use jnp.where(mask, x, 0)", "y['w']: float32[3]", 'y["w"][y["w"] > 0]'),
    ),
    Mistake(
        "shape",
        loss(
            'return jnp.sum(jnp.zeros(theta["n"])) + jnp.sum(y["w"])',
            call=SOLVE.replace("theta", '{"n": 3}'),
        ),
        TypeError,
        ("depends on the value of the argument theta['n']", "n: int32[]", 'jnp.zeros(theta["n"])'),
    ),
    Mistake(
        "matvec with an if",
        "def matvec(v):\n    return v if v[0] > 0 else 2 * v\n"
        "tk.linear.BiCGStab(9, 1e-6)(matvec, jnp.ones(3))",
        jax.errors.TracerBoolConversionError,
        ("matvec has v: float32[3]", "return v if v[0] > 0 else 2 * v"),
    ),
    Mistake(
        "leak",
        "kept = []\n@jax.jit\ndef leaky(x):\n    kept.append(x)\n    return x\nleaky(1.0)\n"
        + loss('return jnp.sum((y["w"] - kept[0]) ** 2)'),
        jax.errors.UnexpectedTracerError,
        ("leaked was leaky at", "return it from the function that makes it"),
    ),
]
