"""What is known of a function before its statements are rewritten: which variables need what care.

In `for i in range(n): ys.append(f(i))` the loop changes `i`, grows the list `ys`, and only reads `n`.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.plain_python.reserved import PREFIX, RESULT
from toolkit.plain_python.rewriting import names


@dataclass
class FunctionScope:
    """What is known of the function whose body is rewritten."""

    own: set[str]  # its variables: parameters, what it assigns, what it declares nonlocal
    changed: set[str]  # own variables that some block may change
    # Variables that may lack a value when they are read: `changed`, and those of the function around it.
    tracked: set[str]
    grown: set[str]  # lists that some block appends to
    mutated: set[str]  # variables that are changed in place anywhere in the function
    inner: set[str]  # own variables that a function inside this one assigns
    first_parameter: str | None  # `self` of a method, for `super()`
    given: set[str]  # parameters of an inner function that it does not return
    loads: Counter[str]  # how often each name is read
    outside: set[str]  # variables of the functions around it that it reads
    count: int = 0  # generated names so far

    def fresh(self, kind: str) -> str:
        """A new name for generated code."""
        self.count += 1
        return f"{PREFIX}{kind}_{self.count}"


def scope_of(
    function: ast.FunctionDef,
    body: Sequence[ast.stmt],
    outer: FunctionScope | None,
    free: Sequence[str],
) -> FunctionScope:
    """What is known of `function`, whose statements are `body`.

    Args:
      body: its statements without jumps, so with the flags that replace them.
      outer: the scope of the function around it, if that function is rewritten too.
      free: names of variables that it takes from functions around it that are not rewritten.
    """
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    blocks = [node for node in names.walk(body) if isinstance(node, (ast.For, ast.While, ast.If))]
    inside = [inner for block in blocks for inner in _parts(block)]
    nonlocals = names.declared(body, ast.Nonlocal)
    local = (names.assigned(body) | names.parameters(arguments)) - nonlocals
    own = local | nonlocals
    inner = names.set_by_inner_functions(body) & own
    changed = (names.assigned(inside) | names.mutated(inside) | names.handed_on(inside)) & own
    changed |= inner
    # An array that is a parameter cannot change in place for the caller, so `x[i] = v` on a parameter
    # is right only if the function returns it.
    returned = {
        name.id
        for node in names.walk(body)
        if isinstance(node, ast.Return) or _is_result(node)
        for name in ast.walk(node)
        if isinstance(name, ast.Name)
    }
    loads = names.loads(body)
    seen = (outer.own | outer.outside) & set(loads) if outer else set()
    return FunctionScope(
        own=own,
        changed=changed,
        tracked=changed | ((outer.tracked - local) if outer else set()),
        grown=(names.appended(inside) & own) | ((outer.grown - local) if outer else set()),
        mutated=names.mutated(body) & own,
        inner=inner,
        first_parameter=positional[0].arg if positional else None,
        loads=loads,
        outside=(set(free) | seen) - local,
        given=(names.parameters(arguments) - returned) if outer else set(),
    )


def _is_result(node: ast.AST) -> bool:
    """Whether `node` is what an early `return` has become."""
    return isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == RESULT


def _parts(block: ast.stmt) -> list[ast.AST]:
    """The parts of a statement that move into a block. A test or an iterable stays outside."""
    assert isinstance(block, (ast.For, ast.While, ast.If))
    target = [block.target] if isinstance(block, ast.For) else []
    return [*target, *block.body, *block.orelse]
