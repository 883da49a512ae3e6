"""Random programs in which Python's integers and bools grow, shift, divide and are compared.

A program is the source text of `f(x, n)`, made from a seed: `x` decides conditions, `n` is the bound of
loops. It returns three integers.
"""

from __future__ import annotations

from random import Random

Lines = list[str]
LITERALS = (
    *("0", "1", "1", "2", "2", "3", "3", "-1", "-2", "5", "7", "10", "12", "100"),
    *("1000", "65537", "2000000000", "True", "False"),
)
BOUNDS = ("3", "5", "1", "40", "n", "1, n", "2, 9, 3", "5, 0, -1", "n, -2, -1", "-3, 3")


def source(seed: int) -> str:
    """The program of this seed."""
    rng = Random(seed)
    names = ["a", "b", "c"]
    start = f"a, b, c = {', '.join(rng.choice(LITERALS) for _ in names)}"
    body = [start, *_block(rng, names, 0, False), *_block(rng, names, 1, False), "return a, b, c"]
    return "\n".join(["def f(x, n):", *_indented(body), ""])


def _indented(lines: Lines) -> Lines:
    return ["    " + line for line in lines]


def _integer(rng: Random, names: Lines, depth: int = 2) -> str:
    if depth == 0 or rng.random() < 0.25:
        return rng.choice(names) if rng.random() < 0.7 else rng.choice(LITERALS)
    a, b = _integer(rng, names, depth - 1), _integer(rng, names, depth - 1)
    literal, c = rng.choice(LITERALS), _condition(rng, names, depth - 1)
    forms = (
        (10, f"({a} {rng.choice('++--*')} {b})"),
        (3, f"({a} {rng.choice(('//', '%'))} {rng.choice((b, literal, '3', '7'))})"),
        (2, f"({a} {rng.choice('&|^')} {b})"),
        (1, f"({a} {rng.choice(('<<', '>>'))} {rng.choice(('1', '3', f'({b} & 3)'))})"),
        (1, f"({rng.choice(('-', '~', 'abs'))}({a}))"),
        (1, f"({a} ** {rng.choice(('2', '3', f'({b} & 1)'))})"),
        (1, f"{rng.choice(('max', 'min'))}({a}, {b})"),
        (1, f"({a} if {c} else {b})"),
        (1, f"({c})"),
        (1, f"sum([{a}, {b}])"),
    )
    return rng.choices([form for _, form in forms], [weight for weight, _ in forms])[0]


def _condition(rng: Random, names: Lines, depth: int = 1) -> str:
    a, b = _integer(rng, names, depth), _integer(rng, names, depth)
    compared = f"{a} {rng.choice(('<', '<=', '==', '!=', '>'))} {b}"
    forms = (
        (5, compared),
        (2, f"x > {rng.choice((0, 1, -1))}"),
        (1, f"not {compared}"),
        (1, f"({compared} {rng.choice(('and', 'or'))} x > 0)"),
        (1, f"{a} in (0, 1, {b})"),
    )
    return rng.choices([form for _, form in forms], [weight for weight, _ in forms])[0]


def _block(rng: Random, names: Lines, depth: int, loop: bool) -> Lines:
    lines: Lines = []
    for _ in range(rng.randint(1, 3)):
        kinds = (_assign, _augment, _if, _for, _while) if depth < 3 else (_assign, _augment)
        lines += rng.choice(kinds)(rng, names, depth)
    if loop and rng.random() < 0.15:
        lines += [f"if {_condition(rng, names)}:", "    " + rng.choice(("break", "continue"))]
    return lines


def _assign(rng: Random, names: Lines, depth: int) -> Lines:
    return [f"{rng.choice('abc')} = {_integer(rng, names)}"]


def _augment(rng: Random, names: Lines, depth: int) -> Lines:
    if rng.random() < 0.4:  # what stays small can be followed for long
        return [f"{rng.choice('abc')} %= {rng.choice((7, 101, 1009))}"]
    operator = rng.choice(("+=", "-=", "*=", "//=", "%=", "&=", "^="))
    return [f"{rng.choice('abc')} {operator} {_integer(rng, names, 1)}"]


def _if(rng: Random, names: Lines, depth: int) -> Lines:
    lines = [f"if {_condition(rng, names)}:", *_indented(_block(rng, names, depth + 1, False))]
    if rng.random() < 0.5:
        lines += ["else:", *_indented(_block(rng, names, depth + 1, False))]
    return lines


def _for(rng: Random, names: Lines, depth: int) -> Lines:
    i = f"i{depth}"
    body = _block(rng, [*names, i], depth + 1, True)
    return [f"for {i} in range({rng.choice(BOUNDS)}):", *_indented(body)]


def _while(rng: Random, names: Lines, depth: int) -> Lines:
    count = f"w{depth}"
    body = [f"{count} += 1", *_block(rng, [*names, count], depth + 1, False)]
    test = f"{count} < {rng.choice(('3', '6', 'n'))} and {_condition(rng, names, 0)}"
    return [f"{count} = 0", f"while {test}:", *_indented(body)]
