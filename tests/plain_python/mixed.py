"""Random whole programs of mixed types and effects, to be run as Python and through `@tk.control_flow`.

Beside numbers of JAX there are Python's and NumPy's, narrow dtypes, text, lists, dicts and objects, and
calls that change them. `f(x, k)` takes a float32 and an int32 of JAX. Comparisons carry odd constants, so
that none hangs on rounding. Each program knows which constructs it holds.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Lines = list[str]


class Box:
    total = 0

    def __init__(self):
        self.n = 0
        self.part = SimpleNamespace(part=SimpleNamespace(log=[]))

    def bump(self):
        self.n += 1
        return True

    def note(self):
        self.part.part.log.append(1)
        return True

    def add(self):
        type(self).total += 1
        return True

    @property
    def reads(self):
        self.n += 1
        return self.n


@dataclass(slots=True)
class Slotted:
    n: int = 0

    def bump(self):
        self.n += 1
        return True


def make_counter():
    n = 0

    def bump():
        nonlocal n
        n += 1
        return n

    return bump, lambda: n


def world() -> dict[str, Any]:
    """The globals of a program, made anew for each run; functions here are not converted."""
    random.seed(0)
    np.random.seed(0)
    Box.total = 0
    space: dict[str, Any] = {"__name__": "mixed", "COUNT": 0, "LOG": []}
    space |= {"jax": jax, "jnp": jnp, "np": np, "random": random, "contextlib": contextlib}
    space |= {"collections": collections, "itertools": itertools, "functools": functools}
    space |= {"Box": Box, "Slotted": Slotted, "make_counter": make_counter}
    exec(
        "def count():\n    global COUNT\n    COUNT += 1\n    return True\n"
        "def log_it(v=1):\n    LOG.append(v)\n    return True\n"
        "def fails(n=0):\n    if n >= 0:\n        raise ValueError\n    return True\n",
        space,
    )
    return space


def outside(space: dict[str, Any]) -> tuple[Any, ...]:
    """What a program may have changed outside of itself."""
    return space["COUNT"], len(space["LOG"]), Box.total, random.random(), float(np.random.rand())


# Variables of every program: how each begins.
START = """\
n, m, s, flag = 2, 3, 0.5, True
r, j = x * 0.5, k + 1
half, brain = jnp.float16(1.5), jnp.bfloat16(0.5)
byte, ubyte = jnp.int8(3), jnp.uint8(2)
wide, single = np.int64(5), np.float32(0.25)
text, mode, pair = "a", None, (1, x)"""
# Those of a program that uses them: how each begins, and what the program returns of it.
MORE = {
    "xs": ("xs = [1.0, 2.0, 4.0]", "list(xs)"),
    "log": ("log = [3, 1, 2]", "list(log)"),
    "d": ('d = {"a": 1.0, "z": 2}', "dict(d)"),
    "alias": ("alias = log", "list(alias)"),
    "names": ("names = {0}", "len(names)"),
    "queue": ("queue = collections.deque([1.0, 2.0])", "list(queue)"),
    "it": ("it = iter([1.0] * 40)", "len(list(it))"),
    "box": ("box = Box()", "(box.n, len(box.part.part.log))"),
    "slot": ("slot = Slotted()", "slot.n"),
    "bump": ("bump, bumped = make_counter()", "bumped()"),
    "ys": ("ys = []", "list(ys)"),
    "note": ("note = log.append", "len(log)"),
    "inner": (
        "calls = 0\ndef inner(by=1):\n    nonlocal calls\n    calls = calls + by\n    return True", "calls",
    ),
}  # fmt: skip
NEEDS = {"alias": "log", "note": "log"}
PLAIN = [
    "n",
    "m",
    "s",
    "flag",
    "r",
    "j",
    "half",
    "brain",
    "byte",
    "ubyte",
    "wide",
    "single",
    "text",
    "mode",
    "pair",
]


WHOLE = "EVERYTHING"  # what a program returns at its end


def framed(body: Lines) -> Lines:
    """The lines of `f`: the variables that `body` uses, `body`, and what became of them."""
    words = set(re.findall(r"\w+", "\n".join(body)))
    words |= {NEEDS[name] for name in NEEDS if name in words}
    used = [name for name in MORE if name in words]
    start = [line for name in used for line in MORE[name][0].split("\n")]
    shown = [f"{name}={name}" for name in PLAIN] + [f"{name}={MORE[name][1]}" for name in used]
    whole = f"dict({', '.join(shown)})"
    body = [line.replace(WHOLE, whole) for line in body]
    return [*START.splitlines(), *start, *body, f"return {whole}"]


# Calls with an effect; each gives a true value.
ACTS = {
    "closure list": "note(1) or True",
    "method": "box.bump()",
    "slots": "slot.bump()",
    "deep attribute": "box.note()",
    "closure from outside": "bump()",
    "nonlocal": "inner()",
    "global number": "count()",
    "global list": "log_it()",
    "class attribute": "box.add()",
    "property": "box.reads",
    "append": "log.append(1) or True",
    "pop": "log.pop() or True",
    "dict.update": "d.update(a=5.0) or True",
    "dict.setdefault": 'd.setdefault("b", 1)',
    "dict.pop": 'd.pop("z", None) or True',
    "set.add": "names.add(1) or True",
    "deque": "queue.append(3.0) or True",
    "next": "next(it)",
    "iterator by method": "it.__next__()",
    "random": "random.random()",
    "np.random": "np.random.rand()",
    "setattr": 'setattr(box, "n", 7) or True',
    "default argument": "inner(by=2)",
    "partial": "functools.partial(note, 1)() or True",
}
# Statements with an effect.
DEEDS = {
    "sort": "log.sort()",
    "slice assignment": "log[:] = [7, 8]",
    "insert": "log.insert(0, 9)",
    "extend": "log.extend([1, 2])",
    "item": "log[0] = 5",
    "alias": "alias.append(4)",
    "new alias": "other = log; other.append(6)",
    "attribute": "box.n += 1",
    "del": 'del d["z"]',
    "dict item": 'd["a"] = d["a"] + 1',
    "new key": 'd["new"] = r',
    "grown list": "ys.append(r)",
    "array item": "xs[1] = r",
}
# Numbers of every kind; a name that is assigned keeps a value of its kind.
NUMBERS = {
    "int sum": "n = n + {i}",
    "int product": "n = n * 3",
    "int overflow": "n = n * 70000",
    "int floor": "n = (n + 7) // 2",
    "int remainder": "m = (m * 5 + {i}) % 7",
    "int negative power": "s = s + 2 ** -{i}",
    "int power": "m = {i} ** 2",
    "int shift": "m = 1 << {i}",
    "int to float": "m = m + 0.5",
    "int join": "n = n if r > 0.123 else 0.5",
    "bool sum": "n = flag + flag + True",
    "bool product": "m = flag * flag",
    "bool minus": "m = m - flag",
    "bool logic": "flag = flag & (r < 1.777) | (not flag)",
    "bool xor": "flag = flag ^ (j > 2)",
    "sum of bools": "m = sum([flag, True, r > 0.321])",
    "float": "s = s * 0.5 + {i}",
    "half": "half = half * 0.5 + {i}",
    "half join": "half = half if r > 0.123 else 1.0",
    "brain": "brain = brain + s",
    "brain join": "brain = 0.5 if r > 0.123 else brain",
    "byte": "byte = byte + 1",
    "byte join": "byte = byte if r > 0.123 else 1",
    "byte wraps": "byte = byte * 50",
    "unsigned": "ubyte = ubyte + {i}",
    "unsigned down": "ubyte = ubyte - 3",
    "numpy int": "wide = wide + 1",
    "numpy int large": "wide = wide * 3_000_000_000",
    "numpy float": "single = single * 2",
    "weak chain": "n, m, s = m, s, s * 0.5",
    "swap": "n, m = m, n + 1",
    "real": "r = jnp.sin(r) + s",
    "real by int": "r = r * 0.5 + n * 0.001",
    "jax int": "j = j + {i}",
    "jax floor": "j = (j * 3) // 2",
    "tuple": "pair = (pair[0] + 1, pair[1] * 0.5)",
    "max": "r = max(r, s)",
    "min of ints": "n = min(n, {i})",
    "abs": "n = abs(n - 5)",
    "divmod": "n, m = divmod(m + 9, 4)",
    "true division": "s = (n + 1) / 4",
    "round": "n = round(2.5) + n",
    "int()": "m = int(s)",
    "float()": "s = float(m)",
    "numpy function": "s = np.minimum(s, 2.0)",
}
TEXTS = {
    "f-string": 'text = f"{{{i}}}"',
    "str": "text = str({i})",
    "length of text": "m = len(str({i}))",
    "format": 'text = "{{}}".format(n)',
    "percent": 'text = "%d" % n',
    "joined text": 'text = text + "b"',
    "text in a test": 'm = 1 if text == "a" else 2',
    "type is": "m = 1 if type({i}) is int else 2",
    "isinstance": "m = 1 if isinstance({i}, int) else 2",
    "isinstance float": "m = 1 if isinstance(s, float) else 2",
    "mode": 'mode = "b"',
    "key by number": "m = {{0: 1, 1: 5, 2: 7}}.get({i}, 9)",
    "index by number": "m = [4, 5, 6, 7, 8, 9][{i}]",
    "bit_length": "m = n.bit_length()",
    "is_integer": "flag = s.is_integer()",
}


@dataclass
class Program:
    """Source of `f(x, k)`, and what it holds."""

    seed: int
    source: str
    constructs: Counter[str]


@dataclass
class Writer:
    """Writes one program."""

    rng: Random
    used: Counter[str] = field(default_factory=Counter)
    born: int = 0  # names made so far
    effects: int = 0  # effects that may still be written; most are refused, and hide what follows

    def pick(self, table: dict[str, str], kind: str) -> str:
        name = self.rng.choice(sorted(table))
        self.used[f"{kind}: {name}"] += 1
        return table[name]

    def name(self) -> str:
        self.born += 1
        return f"v{self.born}"

    def condition(self) -> str:
        c = self.rng.choice((0.111, 0.333, 0.777, -0.222))
        simple = [
            f"r > {c}",
            f"x < {c}",
            "j > 2",
            "flag",
            f"r + s > {c}",
            "k > 1",
            "n > 3",
            "half > 1",
        ]
        shape = self.rng.choice(("simple", "simple", "and", "or", "not", "chain", "membership"))
        self.used[f"condition: {shape}"] += 1
        a, b = self.rng.sample(simple, 2)
        return {
            "simple": a,
            "and": f"{a} and {b}",
            "or": f"{a} or {b}",
            "not": f"not ({a})",
            "chain": f"{c} < r < s + 2",
            "membership": "j in (1, 3, 4)",
        }[shape]


def indented(lines: Lines) -> Lines:
    return ["    " + line for line in lines]


def block(w: Writer, depth: int, loop: str) -> Lines:
    """One to three statements; `loop`: the innermost loop's variable, or ""."""
    found: Lines = []
    for _ in range(w.rng.choice((1, 2, 2, 3))):
        found += statement(w, depth, loop)
    return found or ["pass"]


def statement(w: Writer, depth: int, loop: str) -> Lines:
    i = loop or "2"
    choice = w.rng.random()
    if depth and choice < 0.45:
        return w.rng.choice(COMPOUND)(w, depth - 1, loop)
    if choice < 0.57 and w.effects:
        return effect(w, loop)
    if choice < 0.62:
        return [w.pick(TEXTS, "text").format(i=i)]
    if choice < 0.68:
        return jump(w, loop)
    return [w.pick(NUMBERS, "number").format(i=i)]


def effect(w: Writer, loop: str) -> Lines:
    """Something that changes once, or always, where a trace is no run of Python."""
    w.effects -= 1
    if w.rng.random() < 0.35:
        return [w.pick(DEEDS, "effect")]
    act = w.pick(ACTS, "effect")
    places = {
        "statement": act,
        "and": f"flag = r > 0.123 and bool({act})",
        "or": f"flag = r > 0.123 or bool({act})",
        "chain": f"flag = 0.123 < r < (({act}) and 5.0)",
        "ternary": f"s = 1.0 if ({act} if r > 0.123 else True) else 2.0",
        "test": f"if r > 0.123 and ({act}):\n    s = s + 1",
        "any": f"flag = any(bool({act}) for _ in range(2))",
        "any of traced": f"flag = any(r > c and bool({act}) for c in (0.1, 0.7))",
        "comprehension": f"m = len([1 for c in (1, 2, 3) if c > 1 and ({act})])",
        "lambda": f"flag = (lambda v: v > 0.123 and bool({act}))(r)",
        "assert": f"assert ({act}) is not None, 'never'",
        "walrus": f"m = 1 if (w := ({act})) else 2",
        "default": f"def g(v={act}):\n    return v\ng()",
        "while test": f"q = 0\nwhile q < 2 and ({act}):\n    q = q + 1",
        "inner function": f"def h():\n    return {act}\nh()",
    }
    place = w.rng.choice(sorted(places))
    w.used[f"place: {place}"] += 1
    return places[place].split("\n")


def jump(w: Writer, loop: str) -> Lines:
    """A `break`, a `continue`, or a `return` whose type may disagree with that of the others."""
    kinds = ["return"] + (["break", "continue"] if loop else [])
    kind = w.rng.choice(kinds)
    w.used[f"jump: {kind}"] += 1
    if kind == "return":
        value = w.pick(RETURNS, "return") if w.rng.random() < 0.4 else WHOLE
        kind = f"return {value}".rstrip()
    if w.rng.random() < 0.3:
        w.used["name assigned in a branch that jumps"] += 1
        return [
            f"if {w.condition()}:",
            f"    late = {w.rng.choice(('r', '1.0', 'n'))}",
            f"    {kind}",
        ]
    return [f"if {w.condition()}:", f"    {kind}"]


RETURNS = {
    "real": "r", "number": "1.5", "int": "n", "flag": "flag", "pair": "r, n", "none": "None", "bare": "",
    "vector": "jnp.ones(3) * r", "dict": '{"r": r}', "text": "text", "list": "[r, s]", "half": "half",
    "jax int": "j", "born": "late",
}  # fmt: skip


def condition(w: Writer, depth: int, loop: str) -> Lines:
    lines = [f"if {w.condition()}:", *indented(block(w, depth, loop))]
    more = w.rng.random()
    if more < 0.3:
        w.used["elif"] += 1
        lines += [f"elif {w.condition()}:", *indented(block(w, depth, loop))]
    if more < 0.6:
        lines += ["else:", *indented(block(w, depth, loop))]
    w.used["if"] += 1
    return lines


def ranges(w: Writer) -> tuple[str, str]:
    i = f"i{w.born}"
    w.born += 1
    table = {
        "range": f"{i} in range(3)",
        "range of none": f"{i} in range(0)",
        "range down": f"{i} in range(4, 0, -2)",
        "range to a traced bound": f"{i} in range(k)",
        "range to a byte": f"{i} in range(byte)",
        "range from an unsigned": f"{i} in range(ubyte, 5)",
        "range to a numpy int": f"{i} in range(np.uint8(3))",
        "array": f"{i} in jnp.arange(3)",
        "numpy bytes": f"{i} in np.arange(3, dtype=np.int8)",
        "enumerate": f"{i}, e in enumerate(jnp.ones(3) * r)",
        "zip": f"{i}, e in zip(range(3), jnp.ones(3))",
        "reversed": f"{i} in reversed(range(3))",
        "list": f"{i} in [0, 1, 2]",
        "iterator": f"{i} in itertools.islice([0, 1, 2], 2)",
        "unroll": f"{i} in list(range(2))",
    }
    return i, w.pick(table, "for")


def for_loop(w: Writer, depth: int, loop: str) -> Lines:
    i, head = ranges(w)
    lines = [f"for {head}:", *indented(block(w, depth, i))]
    if w.rng.random() < 0.3:
        w.used["for else"] += 1
        lines += ["else:", *indented(block(w, depth, loop))]
    if w.rng.random() < 0.3:
        w.used["loop variable after the loop"] += 1
        lines += [f"m = {i} + 1"]
    return lines


def while_loop(w: Writer, depth: int, loop: str) -> Lines:
    c = w.name()
    test = w.rng.choice((f"{c} < 3", f"{c} < 2 + r * 0", f"r < 5.123 and {c} < 3", "True"))
    w.used["while True" if test == "True" else "while"] += 1
    stop = [f"if {c} > 2:", "    break"] if test == "True" else []
    start = w.rng.choice(("0", "jnp.int32(0)"))
    lines = [f"{c} = {start}", f"while {test}:", f"    {c} = {c} + 1", *indented(stop)]
    lines += indented(block(w, depth, c))
    if w.rng.random() < 0.3:
        w.used["while else"] += 1
        lines += ["else:", *indented(block(w, depth, loop))]
    return lines


def search(w: Writer, depth: int, loop: str) -> Lines:
    w.used["name assigned before a break, or in the else"] += 1
    found = w.name()
    lines = ["for e in jnp.arange(3.0):", *indented(block(w, 0, "")), f"    if {w.condition()}:"]
    lines += [f"        {found} = e + r", "        break"]
    if w.rng.random() < 0.3:
        lines += [f"    if {w.condition()}:", "        break"]
    return [*lines, "else:", f"    {found} = -1.0", f"s = s + {found} * 0.1"]


def scope(w: Writer, depth: int, loop: str) -> Lines:
    head = w.rng.choice(
        ("contextlib.nullcontext()", 'jax.named_scope("a")', "contextlib.suppress(ValueError)")
    )
    w.used[f"with {head}"] += 1
    lines = [f"with {head}:", *indented(block(w, depth, loop))]
    if "suppress" in head and w.rng.random() < 0.5:
        lines += [f"    if {w.condition()}:", "        fails()", "    s = s + 1"]
    return lines


def attempt(w: Writer, depth: int, loop: str) -> Lines:
    w.used["try"] += 1
    inside = [line for line in block(w, depth, "") if not _jumps(line)] or ["pass"]
    if not _compiles(inside):
        inside = ["s = s + 1"]
    risk = w.rng.choice(("fails()", f"if {w.condition()}:\n    fails()", "pass"))
    lines = [
        "try:",
        *indented(inside),
        *indented(risk.split("\n")),
        "except ValueError:",
        "    s = s + 2",
    ]
    if w.rng.random() < 0.4:
        w.used["finally"] += 1
        lines += ["finally:", "    n = n + 1"]
    return lines


def _jumps(line: str) -> bool:
    return line.strip().startswith(("return", "break", "continue"))


def _compiles(lines: Lines) -> bool:
    try:
        compile("def f():\n  while 1:\n" + "\n".join("    " + line for line in lines), "", "exec")
    except SyntaxError:
        return False
    return True


def branch_only(w: Writer, depth: int, loop: str) -> Lines:
    w.used["name of one branch"] += 1
    late = w.name()
    lines = [f"if {w.condition()}:", f"    {late} = r * 2"]
    if w.rng.random() < 0.7:
        lines += ["else:", f"    {late} = {w.rng.choice(('0.5', '1', 'half', 'r', 'True'))}"]
    return [*lines, f"s = s + {late}"]


def functions(w: Writer, depth: int, loop: str) -> Lines:
    shape = w.rng.choice(
        ("late closure", "default", "nonlocal", "recursion", "made closure", "decorated", "early")
    )
    w.used[f"function: {shape}"] += 1
    g, i = w.name(), loop or "3"
    return {
        "late closure": [f"{g} = lambda: n + {i}", "n = n + 1", f"m = {g}()"],
        "default": [f"{g} = lambda v={i}: v * 2", f"m = {g}()"],
        "nonlocal": [f"def {g}():", "    nonlocal n", "    n = n + 1", "    return n", f"m = {g}() + {g}()"],
        "recursion": [f"def {g}(q):", f"    return 1 if q <= 0 else q * {g}(q - 1)", f"m = {g}(3)"],
        "made closure": [
            f"def make_{g}(v):", "    return lambda: v * 2", f"{g} = make_{g}(0.0)",
            "for e in jnp.arange(2.0):", f"    {g} = make_{g}(e)", f"s = s + {g}()",
        ],
        "decorated": [
            "@functools.lru_cache", f"def {g}(q):", "    return q + 1", f"m = {g}(2)",
        ],
        "early": [
            f"def {g}(v):", f"    if v > {w.rng.choice((0.3, -5.0))}:", "        return v",
            "    if v < -0.7:", f"        return {w.rng.choice(('-v', '1.0', 'n', 'half', 'None', '(v, v)'))}",
            "    return v * 2", f"r = {g}(r)",
        ],
    }[shape]  # fmt: skip


def grow(w: Writer, depth: int, loop: str) -> Lines:
    use = w.rng.choice(("max", "min", "any", "all", "sum", "len", "sorted"))
    w.used[f"grown list: {use}"] += 1
    g = w.name()
    lines = [
        f"{g} = []",
        f"for e in {w.rng.choice(('jnp.arange(3.0)', 'range(3)', '[1.0, 2.0]'))}:",
    ]
    lines += [
        f"    {g}.append(e * r + 1)",
        f"s = s + {use}({g})" if use != "sorted" else f"s = sorted({g})[0]",
    ]
    return lines


def delete(w: Writer, depth: int, loop: str) -> Lines:
    w.used["del of a name"] += 1
    late = w.name()
    return [f"{late} = r", *block(w, 0, loop), f"del {late}"]


COMPOUND: tuple[Callable[[Writer, int, str], Lines], ...] = (
    condition, condition, condition, for_loop, for_loop, for_loop, while_loop, search, scope, attempt, branch_only,
    functions, grow, delete,
)  # fmt: skip


def generate(seed: int) -> Program:
    """The program of this seed, of at most 24 lines of its own."""
    rng = Random(seed)
    while True:
        w = Writer(rng, effects=rng.choice((0, 0, 1, 2)))
        body = [line for _ in range(rng.choice((2, 3, 3, 4))) for line in statement(w, 2, "")]
        unknown = any("return late" in line for line in body) and not any(
            "late =" in line for line in body
        )
        if len(body) <= 24 and _compiles(body) and not unknown:
            lines = ["def f(x, k):", *indented(framed(body)), ""]
            return Program(seed, "\n".join(lines), w.used)
