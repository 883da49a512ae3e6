"""`@tk.control_flow` against plain Python, on random programs: the same values and derivatives, or a refusal.

Each program runs operation by operation as plain Python, and through `@tk.control_flow` compiled, batched
and eagerly. A wrong answer is never allowed; what is refused is counted.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.plain_python.programs import Buffer, Program, generate, load

XS = jnp.asarray([[0.31, -0.52, 0.83], [-0.74, 0.65, 0.16]])
KS = jnp.asarray([3, 0])
TANGENT = jnp.asarray([1.0, -0.7, 0.4])
# Two orders of summation in float64, through at most some hundred maps that stretch little.
RTOL, ATOL = 1e-9, 1e-10
SHORT = 28  # lines of the programs of every CI run
FAST = {"xla_backend_optimization_level": 0}
REFUSALS = (tk.control.ControlFlowError, UnboundLocalError)

Function = Callable[..., Any]


class Results(NamedTuple):
    """Outputs of `f(x, k)` on the first input, and their derivative there; outputs on both."""

    value: Any
    derivative: Any
    lanes: Any


class Verdict(NamedTuple):
    kind: str  # "same", "refused", "wrong", "crashed" (no error of ours) or "unsteady"
    detail: str = ""


def staged(source: str, name: str) -> Function:
    return tk.control_flow(load(source, name))


def derivative(f: Function, bounded: bool) -> Function:
    """Of a sum of all real outputs: reverse mode where there is one."""

    def total(x: jax.Array, k: jax.Array) -> jax.Array:
        number, vector, *_ = f(x, k)
        return number + jnp.sum(jnp.sin(vector))

    if bounded:
        return jax.grad(total)
    return lambda x, k: jax.jvp(lambda x: total(x, k), (x,), (TANGENT,))[1]


def one_by_one(f: Function) -> Any:
    rows = [f(x, k) for x, k in zip(XS, KS, strict=True)]
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *rows)


def plainly(f: Function, bounded: bool) -> Results:
    """Operation by operation, as Python runs it."""
    lanes = one_by_one(f)
    value = jax.tree.map(lambda leaf: leaf[0], lanes)
    return Results(value, derivative(f, bounded)(XS[0], KS[0]), lanes)


def compiled(f: Function, bounded: bool) -> Results:
    """Everything in one compilation: compiling is most of the time."""

    def run(xs: jax.Array, ks: jax.Array) -> Results:
        return Results(f(xs[0], ks[0]), derivative(f, bounded)(xs[0], ks[0]), jax.vmap(f)(xs, ks))

    return jax.jit(run, compiler_options=FAST)(XS, KS)


def difference(expected: Any, got: Any) -> str:
    """Empty where two results agree."""
    a, b = jax.tree.structure(expected), jax.tree.structure(got)
    if a != b:
        return f"structures: {a} and {b}"
    for (path, e), g in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(got), strict=True):
        e, g = np.asarray(e), np.asarray(g)
        exact = not np.issubdtype(e.dtype, np.inexact)
        same = (
            np.array_equal(e, g) if exact else e.shape == g.shape and np.allclose(e, g, RTOL, ATOL)
        )
        if not same or np.issubdtype(g.dtype, np.inexact) is exact:
            return f"{jax.tree_util.keystr(path)}: expected {e!r}, got {g!r}"
    return ""


def steady(f: Function) -> bool:
    """Whether a change far above rounding, far below the constants of the program, changes little."""
    near = [f(XS[i] * (1 + 1e-12), KS[i]) for i in range(2)]
    here = [f(XS[i], KS[i]) for i in range(2)]
    return not difference(here, near)


def judge(
    program: Program, stage: Callable[[str, str], Function] = staged, *, eager: bool = False
) -> Verdict:
    plain = load(program.source, f"plain {program.seed}", Buffer)
    try:
        expected: Any = plainly(plain, program.bounded)
    except UnboundLocalError as error:
        expected = error
    try:
        f = stage(program.source, f"program {program.seed}")
        ways = {"jit": compiled(f, program.bounded)}
        if eager:
            ways["eager"] = plainly(f, program.bounded)
    except REFUSALS as error:
        return Verdict("refused", str(error))
    except Exception as error:
        return Verdict("crashed", f"{type(error).__name__}: {error}")
    if isinstance(expected, UnboundLocalError):
        return Verdict("wrong", f"plain Python says: {expected}")
    for way, got in ways.items():
        if found := difference(expected, got):
            return Verdict("wrong" if steady(plain) else "unsteady", f"{way}{found}")
    return Verdict("same")


def report(program: Program, verdict: Verdict) -> str:
    lines = "\n".join(f"{n:3} {line}" for n, line in enumerate(program.source.splitlines(), 1))
    return f"program {program.seed}: {verdict.kind}: {verdict.detail}\n{lines}"


def survey(programs: Iterable[Program], eager_every: int) -> Counter[str]:
    """What becomes of them; fails on the first that is wrong."""
    kinds: Counter[str] = Counter()
    for program in programs:
        verdict = judge(program, eager=program.seed % eager_every == 0)
        assert verdict.kind in ("same", "refused", "unsteady"), report(program, verdict)
        kinds[verdict.kind] += 1
    return kinds


@pytest.mark.parametrize(
    "start", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (25, 50, 75))]
)
def test_random_programs(start: int) -> None:
    kinds = survey((generate(seed, SHORT) for seed in range(start, start + 25)), eager_every=5)
    assert kinds["refused"] <= 2 and not kinds["unsteady"], kinds


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 2200, 100))
def test_more_random_programs(start: int) -> None:
    kinds = survey(map(generate, range(start, start + 100)), eager_every=2)
    assert kinds["refused"] <= 5 and kinds["unsteady"] <= 1, kinds


CONSTRUCTS = (
    r"range\((\d, )?k", r"range\(\d, \d, -", r"reversed\(range", r"reversed\([a-z]+\)", r"enumerate\(",
    r"zip\(", r"in \[", r"range\(0\):", r"while True", r"while c\d+ < \d and", r"while .* and c\d+ < 3",
    r"\bbreak", r"\bcontinue", r"  return .*\n .*\S", r"\.append", r"jnp\.stack", r"\belif", r" if .* else ",
    r"\) and \(", r"\) or \(", r"not \(", r"< .* < ", r"buffer\[.*\] =", r"buffer\[.*\] \+=", r'table\["p"\] =',
    r"pair = ", r"_replace", r"nonlocal", r"s\d = 0", r"is None", r"kept\d = ", r"\*rest",
)  # fmt: skip


def test_the_programs_hold_every_construct() -> None:
    sources = [generate(seed, SHORT).source for seed in range(100)]
    rare = [c for c in CONSTRUCTS if sum(bool(re.search(c, source)) for source in sources) < 2]
    assert not rare
    loops_else = sum(
        isinstance(node, ast.For | ast.While) and bool(node.orelse)
        for source in sources
        for node in ast.walk(ast.parse(source))
    )
    assert loops_else > 8
    assert generate(7) == generate(7)


def without_jump(kind: type[ast.stmt]) -> Callable[[ast.AST], Any]:
    return lambda node: ast.Pass() if isinstance(node, kind) else node


def without_loop_else(node: ast.AST) -> ast.AST:
    if isinstance(node, ast.For | ast.While):
        node.orelse = []
    return node


def with_branches_exchanged(node: ast.AST) -> ast.AST:
    if isinstance(node, ast.IfExp):
        node.body, node.orelse = node.orelse, node.body
    return node


def with_or_for_and(node: ast.AST) -> ast.AST:
    return ast.Or() if isinstance(node, ast.And) else node


def without_the_first_comparison(node: ast.AST) -> ast.AST:
    if isinstance(node, ast.Compare) and len(node.ops) == 2:
        return ast.Compare(node.comparators[0], node.ops[1:], node.comparators[1:])
    return node


def without_reversal(node: ast.AST) -> ast.AST:
    called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    return node.args[0] if called and node.func.id == "reversed" else node


class Mistake(ast.NodeTransformer):
    def __init__(self, change: Callable[[ast.AST], Any]):
        self.change = change

    def visit(self, node: ast.AST) -> Any:
        return self.change(self.generic_visit(node))


MISTAKES = {
    "break": without_jump(ast.Break),
    "continue": without_jump(ast.Continue),
    "loop else": without_loop_else,
    "ternary": with_branches_exchanged,
    "and": with_or_for_and,
    "chain": without_the_first_comparison,
    "reversed": without_reversal,
}


def mistaken(source: str, mistake: str) -> str:
    return ast.unparse(
        ast.fix_missing_locations(Mistake(MISTAKES[mistake]).visit(ast.parse(source)))
    )


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_transformation_is_noticed(mistake: str) -> None:
    stage = lambda source, name: staged(mistaken(source, mistake), name)
    affected = (
        program
        for program in map(generate, range(5000, 6000))
        if len(program.source) < 900
        and mistaken(program.source, mistake) != ast.unparse(ast.parse(program.source))
    )
    # Some mistakes fall on code that does not run, or whose result is overwritten.
    verdicts = (judge(program, stage) for program in itertools.islice(affected, 12))
    assert any(verdict.kind == "wrong" for verdict in verdicts)


def test_a_wrong_derivative_is_noticed() -> None:
    def stage(source: str, name: str) -> Function:
        f = staged(source, name)
        return lambda x, k: jax.tree.map(jax.lax.stop_gradient, f(x, k))

    verdicts = [judge(generate(seed, SHORT), stage) for seed in range(3)]
    assert [v.kind for v in verdicts] == ["wrong"] * 3
    assert all("derivative" in v.detail for v in verdicts)
