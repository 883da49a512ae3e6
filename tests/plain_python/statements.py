"""Random statements of the fuzz programs: `(rng, scope) -> (lines, scope)`, the scope as it is after them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from random import Random

from tests.plain_python.expressions import (
    KINDS,
    Scope,
    condition,
    constant,
    expression,
    integer,
    number,
    vector,
)

Lines = list[str]


def indented(lines: Iterable[str]) -> Lines:
    return ["    " + line for line in lines]


def block(rng: Random, scope: Scope) -> Lines:
    """One to three statements; each sees what those before it have defined."""
    lines: Lines = []
    for _ in range(rng.choice((1, 1, 2, 2, 3)) if scope.depth else rng.randint(2, 3)):
        more, scope = statement(rng, scope)
        lines += more
    return lines


def statement(rng: Random, scope: Scope) -> tuple[Lines, Scope]:
    table = [(6, assign), (2, augment), (2, temporary), (1, unpack)]
    if scope.depth:  # at the top of a program a jump would leave little to compare
        # What belongs outside an inner function cannot be written in it: seldom, so that refusals are few.
        table += [(0.1 if scope.function else 4, EXTRA[name]) for name in scope.extra]
        table += [(2 if scope.loop or scope.function else 0.4, jump)]
        table += [(3, call)] if scope.functions else []
    if scope.depth < scope.limit:
        table += [(4, if_), (5, for_), (2, collect), (2, search)]
        table += [(1, promoted), (1, best), (1, kept)]
        table += [] if scope.bounded else [(7, while_), (5, traced_range)]
        table += [(2, define)] if scope.function < 2 else []
    return rng.choices([f for _, f in table], [w for w, _ in table])[0](rng, scope)


def assign(rng: Random, scope: Scope) -> tuple[Lines, Scope]:
    kinds = [kind for kind in KINDS if scope.write[kind]]
    kind = rng.choices(kinds, [2 if kind == "number" else 1 for kind in kinds])[0]
    return [f"{rng.choice(scope.write[kind])} = {expression(rng, scope, kind)}"], scope


def augment(rng: Random, scope: Scope) -> tuple[Lines, Scope]:
    if scope.write["integer"] and rng.random() < 0.4:
        return [f"{rng.choice(scope.write['integer'])} += {integer(rng, scope, 0)} % 3"], scope
    target = rng.choice((*scope.write["number"], *scope.write["vector"]))
    form = rng.choice(("{} *= 0.9", "{} += 0.2 * {}", "{} -= 0.2 * {}"))
    return [form.format(target, number(rng, scope))], scope


def temporary(rng: Random, scope: Scope) -> tuple[Lines, Scope]:
    """A name that may be assigned here for the first time. Each function has its own, so none is read too early."""
    kind = rng.choice(KINDS)
    name = f"{kind[0]}t{scope.function}{rng.randint(0, 1)}"
    return [f"{name} = {expression(rng, scope, kind)}"], scope.reading(**{kind: name})


def unpack(rng: Random, scope: Scope) -> tuple[Lines, Scope]:
    a, b = (rng.choice(scope.write["number"]) for _ in range(2))
    x, y, z = (number(rng, scope, 1) for _ in range(3))
    rest = f"rest{scope.function}"
    forms = (
        [f"{a}, {b} = {b}, {x}"],
        [f"{a}, *{rest} = {x}, {y}, {z}", f"{b} = {rest}[0] - 0.5 * {rest}[1]"],
    )
    return rng.choice(forms), scope


def buffer(rng: Random, scope: Scope) -> tuple[Lines, Scope]:
    where = rng.choice((f"{integer(rng, scope)} % 3", str(rng.randint(-1, 2)), ":2", ":"))
    how = rng.choice(("= {}", "+= 0.2 * {}", "*= 0.9"))
    return [f"buffer[{where}] {how.format(number(rng, scope))}"], scope


def table(rng: Random, scope: Scope) -> tuple[Lines, Scope]:
    p, q = number(rng, scope), vector(rng, scope)
    forms = [f'table["p"] = {p}', f'table["q"] = {q}', f'table["p"] += {p}']
    forms += [] if scope.function else [f'table = {{"p": {p}, "q": {q}}}']
    return [rng.choice(forms)], scope


def pair(rng: Random, scope: Scope) -> tuple[Lines, Scope]:
    if scope.function:  # assigned there, it would be a name of the inner function
        return assign(rng, scope)
    a, v = rng.choice(scope.write["number"]), rng.choice(scope.write["vector"])
    forms = (
        f"pair = ({number(rng, scope)}, {vector(rng, scope)})",
        f"pair = ({a}, pair[1])",
        f"{a}, {v} = pair",
    )
    return [rng.choice(forms)], scope


def box(rng: Random, scope: Scope) -> tuple[Lines, Scope]:
    if scope.function:
        return assign(rng, scope)
    p, q = number(rng, scope), vector(rng, scope)
    forms = (f"box._replace(p={p})", f"Box({p}, {q})", f"Box(p=box.p, q={q})")
    return [f"box = {rng.choice(forms)}"], scope


EXTRA = {"buffer": buffer, "table": table, "pair": pair, "box": box}


def call(rng: Random, scope: Scope) -> tuple[Lines, Scope]:
    value = f"{rng.choice(scope.functions)}({number(rng, scope)})"
    target = rng.choice(scope.write["number"])
    either = f"{target} = {value} if {condition(rng, scope)} else {number(rng, scope)}"
    return [rng.choice((value, f"{target} = {value}", f"{target} = {value}", either))], scope


def outputs(rng: Random, scope: Scope) -> str:
    """What `return` gives: one structure in the whole program, a number in its inner functions."""
    if scope.function:
        return number(rng, scope)
    return ", ".join(expression(rng, scope, kind) for kind in KINDS)


def jump(rng: Random, scope: Scope) -> tuple[Lines, Scope]:
    """`break`, `continue` or `return` under a condition, perhaps after some work."""
    ends = ["break", "continue"] if scope.loop else []
    if scope.function or not ends or rng.random() < 0.4:
        ends += [f"return {outputs(rng, scope)}"]
    work = block(rng, scope.inside()) if scope.depth < scope.limit and rng.random() < 0.4 else []
    skipped, _ = assign(rng, scope)
    return [f"if {condition(rng, scope)}:", *indented([*work, rng.choice(ends)]), *skipped], scope


def if_(rng: Random, scope: Scope) -> tuple[Lines, Scope]:
    lines = [f"if {condition(rng, scope)}:", *indented(block(rng, scope.inside()))]
    if rng.random() < 0.3:
        lines += [f"elif {condition(rng, scope)}:", *indented(block(rng, scope.inside()))]
    if rng.random() < 0.6:
        lines += ["else:", *indented(block(rng, scope.inside()))]
    return lines, scope


def counted(rng: Random, i: str) -> tuple[str, str, dict[str, str], int]:
    """Target, iterable, the names that the target defines, and the number of steps."""
    ranges = (
        ("range(3)", 3),
        ("range(1, 7, 2)", 3),
        ("range(4, 0, -2)", 2),
        ("reversed(range(3))", 3),
        ("range(1)", 1),
    )
    empty = (("range(0)", 0), ("range(0)", 0), ("range(3, 1)", 0))
    text, steps = rng.choice((*ranges, *empty))
    return i, text, {"integer": i}, steps


def iterable(rng: Random, scope: Scope, i: str) -> tuple[str, str, dict[str, str], int]:
    e, g, row = (i.replace("i", letter) for letter in "egr")
    v, w = rng.choice(scope.read["vector"]), rng.choice(scope.read["vector"])
    forms = (
        (e, v, {"number": e}, 3),
        (f"{i}, {e}", f"enumerate({v})", {"integer": i, "number": e}, 3),
        (f"{e}, {i}", f"zip({v}[:2], range(5))", {"integer": i, "number": e}, 2),
        (f"{i}, ({e}, {g})", f"enumerate(zip({v}, {w}), 1)", {"integer": i, "number": e}, 3),
        (e, f"reversed({v})", {"number": e}, 3),
        (row, f"jnp.outer({v}, {w})", {"vector": row}, 3),
        (e, "[0.3, -0.6]", {"number": e}, 2),
        (f"{i}, {e}", "[(0, 0.3), (2, x[1])]", {"integer": i, "number": e}, 2),
    )
    return counted(rng, i) if rng.random() < 0.5 else rng.choice(forms)


def loop_name(rng: Random, scope: Scope) -> str:
    """Two names a function: nested loops may well rebind the variable of the outer one, as in Python."""
    return f"i{scope.function}{rng.randint(0, 1)}"


def nonempty(rng: Random, scope: Scope) -> tuple[str, str, dict[str, str]]:
    """Target, iterable and names of a loop that runs at least once."""
    target, over, names, steps = iterable(rng, scope, loop_name(rng, scope))
    return target, over if steps else "range(2)", names


def for_(rng: Random, scope: Scope) -> tuple[Lines, Scope]:
    target, over, names, steps = iterable(rng, scope, loop_name(rng, scope))
    inner = scope.inside("for").reading(**names)
    lines = [f"for {target} in {over}:", *indented(block(rng, inner))]
    if rng.random() < 0.35:
        lines += ["else:", *indented(block(rng, scope.inside()))]
    # A zero-trip loop defines nothing.
    return lines, scope.reading(**names) if steps else scope


def traced_range(rng: Random, scope: Scope) -> tuple[Lines, Scope]:
    i = loop_name(rng, scope)
    n = integer(rng, scope, 1)
    bounds = rng.choice(
        ("range(k)", "range(1, k)", f"range({n} % 4)", "range(k, 0, -1)", "range(0, k + 2, 2)")
    )
    over = rng.choice((bounds, bounds, f"reversed({bounds})"))
    lines = [f"for {i} in {over}:", *indented(block(rng, scope.inside("for").reading(integer=i)))]
    if rng.random() < 0.35:
        lines += ["else:", *indented(block(rng, scope.inside()))]
    return lines, scope


def while_(rng: Random, scope: Scope) -> tuple[Lines, Scope]:
    """The count goes up first, so that no `continue` makes the loop endless."""
    count = f"c{scope.function}{scope.depth}"
    inner = scope.inside("while").reading(integer=count)
    bounded = ("while {count} < 4 and {test}:", "while {test} and {count} < 3:")
    head = rng.choice((*bounded, "while {count} < k:", "while True:", "while True:"))
    work = [f"{count} += 1"]
    if head == "while True:":
        work += [f"if {count} > 3 or {condition(rng, inner)}:", "    break"]
    lines = [f"{count} = 0", head.format(count=count, test=condition(rng, inner))]
    lines += indented(work + block(rng, inner))
    if rng.random() < 0.35 and head != "while True:":
        lines += ["else:", *indented(block(rng, scope.inside()))]
    return lines, scope.reading(integer=count)


def collect(rng: Random, scope: Scope) -> tuple[Lines, Scope]:
    """A list that grows by one a step."""
    target, over, names = nonempty(rng, scope)
    ys, inner = f"ys{scope.function}{scope.depth}", scope.inside("").reading(**names)
    value = rng.choice((number, vector))(rng, inner)
    work = [*block(rng, inner), f"{ys}.append({value})"]
    use = rng.choice(
        (f"jnp.sum(jnp.stack({ys}))", f"jnp.mean({ys}[-1])", f"jnp.sum(jnp.asarray({ys})[0])")
    )
    lines = [f"{ys} = []", f"for {target} in {over}:", *indented(work)]
    lines += [f"{rng.choice(scope.write['number'])} = jnp.tanh({use})"]
    return lines, scope.reading(**names)


def promoted(rng: Random, scope: Scope) -> tuple[Lines, Scope]:
    """`s = 0` that becomes a number, or a vector."""
    target, over, names = nonempty(rng, scope)
    inner = scope.inside("").reading(**names)
    kind = rng.choice(("number", "vector")) if scope.write["vector"] else "number"
    s = f"s{scope.function}"
    lines = [f"{s} = 0", f"for {target} in {over}:"]
    lines += [f"    {s} = {s} + {expression(rng, inner, kind)}"]
    return [*lines, f"{rng.choice(scope.write[kind])} = jnp.tanh({s})"], scope.reading(**names)


def best(rng: Random, scope: Scope) -> tuple[Lines, Scope]:
    i, name, value = loop_name(rng, scope), f"best{scope.function}", f"value{scope.function}"
    inner = scope.inside("").reading(integer=i)
    lines = [f"{name} = None", f"for {i} in range(3):"]
    lines += [f"    {value} = {number(rng, inner)} + 0.01 * {i}"]
    lines += [f"    if {name} is None or {value} > {name} + 0.0123:", f"        {name} = {value}"]
    return [*lines, f"{rng.choice(scope.write['number'])} = {name}"], scope.reading(integer=i)


def kept(rng: Random, scope: Scope) -> tuple[Lines, Scope]:
    """A name assigned in a loop for the first time, and read after it."""
    i, name = loop_name(rng, scope), f"kept{scope.function}"
    inner = scope.inside("").reading(integer=i)
    work = [*block(rng, inner), f"{name} = {number(rng, inner)}"]
    lines = [f"for {i} in range(2):", *indented(work)]
    return [*lines, f"{rng.choice(scope.write['number'])} = {name}"], scope.reading(integer=i)


def search(rng: Random, scope: Scope) -> tuple[Lines, Scope]:
    """Where a loop was left, read after it."""
    target, over, names = nonempty(rng, scope)
    inner = scope.inside("for").reading(**names)
    kind, name = next(iter(names.items()))
    lines = [f"for {target} in {over}:", *indented([f"if {condition(rng, inner)}:", "    break"])]
    lines += indented(block(rng, inner)) if rng.random() < 0.5 else []
    use = [f"{rng.choice(scope.write[kind])} = {name}"] if scope.write[kind] else []
    return [*lines, *use], scope.reading(**names)


def define(rng: Random, scope: Scope) -> tuple[Lines, Scope]:
    """An inner function with names of its own, and some of the outer ones made `nonlocal`."""
    name, p = f"g{scope.function}{scope.depth}", f"p{scope.function}"
    taken = {kind: tuple(n for n in scope.write[kind] if rng.random() < 0.5) for kind in KINDS}
    shared = [n for names in taken.values() for n in names]
    inner = replace(
        scope.reading(number=p),
        write={**taken, "number": (*taken["number"], p)},
        function=scope.function + 1,
        depth=max(scope.depth, 1) + 1,
        loop="",
        functions=tuple(g for g in scope.functions if g != name),  # no recursion
    )
    head = [f"def {name}({p}, scale={constant(rng)}):"]
    body = [f"nonlocal {', '.join(shared)}"] if shared else []
    body += [*block(rng, inner), f"return {number(rng, inner)} * scale"]
    lines, after = call(rng, replace(scope, functions=(name,)))
    # Its name is known where it was defined, and in the blocks inside.
    return [*head, *indented(body), *lines], replace(after, functions=(*inner.functions, name))
