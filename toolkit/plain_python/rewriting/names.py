"""Which names a piece of code reads, assigns, changes in place or hands on.

In `x[i] = f(y)` the name `x` is changed in place, `y` is handed on (to a call), and `i` is read.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator

# Methods that change a list, dict, set or deque in place. A method of another class that has one of
# these names is treated the same, which costs a check at run time and changes nothing.
MUTATORS = frozenset((
    "add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "insert", "pop",
    "popitem", "popleft", "remove", "reverse", "setdefault", "sort", "update",
))  # fmt: skip
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def walk(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The nodes of one scope: inner functions and classes are yielded, not entered."""
    for node in nodes:
        yield node
        if isinstance(node, _SCOPES):
            # Decorators and defaults belong to the scope around the function.
            outside = [*getattr(node, "decorator_list", [])]
            if not isinstance(node, ast.ClassDef):
                outside += [*node.args.defaults, *filter(None, node.args.kw_defaults)]
            yield from walk(outside)
        elif isinstance(node, _COMPREHENSIONS):
            # The targets of a comprehension are its own variables. Only `:=` inside it assigns a
            # variable of the function.
            yield from (n for n in walk(ast.iter_child_nodes(node)) if not _is_target(n))
        else:
            yield from walk(ast.iter_child_nodes(node))


def _is_target(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and not _walrus(node)


def _walrus(node: ast.Name) -> bool:
    return getattr(node, "is_walrus", False)


def mark_walruses(tree: ast.AST) -> None:
    """Mark each target of `:=`: in a comprehension these names, and no others, belong to the function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.NamedExpr):
            node.target.is_walrus = True  # type: ignore[attr-defined]


def assigned(nodes: Iterable[ast.AST]) -> set[str]:
    """The names that the code binds."""
    found: set[str] = set()
    for node in walk(nodes):
        if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
            found.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            found.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            found.add(node.rest)
    return found


def root(node: ast.expr) -> str | None:
    """`d` of `d["a"][0]`: the name whose value changes when the place is assigned."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def mutated(nodes: Iterable[ast.AST]) -> set[str]:
    """The names whose value the code changes in place: `x[i] = v`, `ys.append(y)`, `del d[k]`."""
    found: set[str | None] = set()
    for node in walk(nodes):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, (ast.Store, ast.Del)):
            found.add(root(node))
        elif is_mutation(node):
            found.add(root(node.func.value))  # type: ignore[attr-defined]
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)  # `ys += zs` extends a list in place
    return {name for name in found if name is not None}


def is_mutation(node: ast.AST) -> bool:
    """Whether `node` is a call like `ys.append(y)`."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in MUTATORS
    )


def appended(nodes: Iterable[ast.AST]) -> set[str]:
    """The names that the code may grow as lists: `ys.append`, `ys.extend`, `ys += [y]`."""
    found: set[str] = set()
    for node in walk(nodes):
        if (
            is_mutation(node)
            and node.func.attr in ("append", "extend")  # type: ignore[attr-defined]
            and isinstance(node.func.value, ast.Name)  # type: ignore[attr-defined]
        ):
            found.add(node.func.value.id)  # type: ignore[attr-defined]
        elif (
            isinstance(node, ast.AugAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(node.op, ast.Add)
            and isinstance(node.value, (ast.List, ast.ListComp, ast.Tuple, ast.Name))
        ):
            found.add(node.target.id)
    return found


def handed_on(nodes: Iterable[ast.AST]) -> set[str]:
    """The names whose value the code gives to something else: a call, another name, a container."""
    nodes = list(walk(nodes))
    # `d` in `d[0]`, `d.a` or `d()` is looked into, which hands nothing on.
    inside = {
        id(inner)
        for node in nodes
        for inner in (
            [node.value]
            if isinstance(node, (ast.Subscript, ast.Attribute))
            else [node.func]
            if isinstance(node, ast.Call)
            else []
        )
    }
    return {
        node.id
        for node in nodes
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in inside
    }


def loads(nodes: Iterable[ast.AST]) -> Counter[str]:
    """How often each name is read, in inner functions too."""
    every = (inner for node in nodes for inner in ast.walk(node))
    return Counter(n.id for n in every if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))


def mentioned(nodes: Iterable[ast.AST]) -> set[str]:
    """The names and attributes in the code, in inner functions too."""
    every = [inner for node in nodes for inner in ast.walk(node)]
    found = {node.id for node in every if isinstance(node, ast.Name)}
    return found | {node.attr for node in every if isinstance(node, ast.Attribute)}


def declared(nodes: Iterable[ast.AST], kind: type[ast.Nonlocal] | type[ast.Global]) -> set[str]:
    """The names that the code declares `nonlocal`, or `global`."""
    return {name for node in walk(nodes) if isinstance(node, kind) for name in node.names}


def set_by_inner_functions(body: Iterable[ast.AST]) -> set[str]:
    """The names of this scope that functions inside it assign.

    A `nonlocal` two levels down means this scope, unless the function between binds the name itself.
    """
    found: set[str] = set()
    for node in walk(body):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found |= declared(node.body, ast.Nonlocal)
            bound = assigned(node.body) | parameters(node.args)
            found |= set_by_inner_functions(node.body) - bound
        elif isinstance(node, ast.ClassDef):  # a method sees past the names of its class
            found |= set_by_inner_functions(node.body)
    return found


def parameters(arguments: ast.arguments) -> set[str]:
    """The names of a function's parameters."""
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [one for one in (arguments.vararg, arguments.kwarg) if one]
    return {one.arg for one in every}


def contains(nodes: Iterable[ast.AST], *kinds: type[ast.AST]) -> bool:
    """Whether this scope holds a node of these kinds."""
    return any(isinstance(node, kinds) for node in walk(nodes))
