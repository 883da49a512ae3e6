"""From a function to its syntax tree, and from a rewritten tree to a function at the same lines.

The tree of `def f(x): return x + a` is compiled inside a factory, so that its free variables are
free again, and the runtime is one of them:

    def _tk_factory(a, _tk_flow):
        def _tk_function(x):
            return x + a

Only the code object of the inner function is used. It is joined with the globals, the defaults and
the closure cells of the original.
"""

from __future__ import annotations
import __future__

import ast
import dis
import inspect
import linecache
import types
import warnings
from typing import Any, Literal

from toolkit.plain_python.refusals import ControlFlowError, UserLine
from toolkit.plain_python.reserved import FLOW, PREFIX
from toolkit.plain_python.rewriting import names

_FACTORY, _FUNCTION = PREFIX + "factory", PREFIX + "function"
_FUTURES = __future__.annotations.compiler_flag

Warned = Literal["ignore", "error"]  # what becomes of Python's warnings


def syntax_tree(function: types.FunctionType) -> ast.FunctionDef:
    """The `def` of `function`, at its own lines.

    Raises:
      ControlFlowError: without source, after an edit since the import, or if something stands
        between `@control_flow` and `def`.
    """
    name, code = function.__qualname__, function.__code__
    if function.__name__ == "<lambda>":
        message = "@control_flow converts a `def`; a lambda is one expression: write a def."
        raise refused_at(function, code.co_firstlineno, message)
    linecache.checkcache(code.co_filename)
    try:
        lines, start = inspect.getsourcelines(function)
    except (OSError, TypeError):
        raise _sourceless(name) from None
    # The source of a method is indented, which `ast.parse` refuses. Removing the indentation would
    # change long strings inside, whose lines may start further left, so an `if 1:` is put above it.
    nested = lines[0][:1].isspace()
    try:
        module = ast.parse(("if 1:\n" if nested else "") + "".join(lines))
    except SyntaxError:
        raise _stale(function) from None
    first = module.body[0]
    definition = first.body[0] if isinstance(first, ast.If) else first
    if isinstance(definition, ast.AsyncFunctionDef):
        raise refused_at(function, start, f"@control_flow cannot convert the coroutine {name}.")
    if not isinstance(definition, ast.FunctionDef):
        raise _stale(function)
    # The parsed text begins at line 1, and an `if 1:` above it adds a line.
    ast.increment_lineno(definition, start - 1 - nested)
    _check_decorators(function, definition)
    if not _same_code(function, definition):
        raise _stale(function)
    return definition


def _sourceless(name: str) -> ControlFlowError:
    return ControlFlowError(
        f"@control_flow needs the source of {name}; it was defined by exec() or in a bare REPL: put it "
        "into a file or a notebook cell."
    )


def _stale(function: types.FunctionType) -> ControlFlowError:
    code = function.__code__
    if code.co_filename in ("<string>", "<stdin>"):
        # Python 3.13 keeps a source under these names, but it is that of another piece of code, so
        # "the file was edited" would mislead.
        return _sourceless(function.__qualname__)
    return refused_at(
        function,
        code.co_firstlineno,
        f"the source of {function.__qualname__} is no longer what was imported: the file was edited "
        "since. Reload the module, or restart.",
    )


def refused_at(function: types.FunctionType, line: int, message: str) -> ControlFlowError:
    """The error to raise at `line` of the file of `function`."""
    code = function.__code__
    return UserLine(code.co_filename, line, code.co_name).refuse(message)


def _check_decorators(function: types.FunctionType, definition: ast.FunctionDef) -> None:
    """Refuse a decorator below `@control_flow`: the new function is made without it."""
    below = [ast.unparse(one) for one in definition.decorator_list]
    ours = [k for k, text in enumerate(below) if text.split(".")[-1] == "control_flow"]
    if ours and ours[-1] != len(below) - 1:
        dropped = ", ".join("@" + text for text in below[ours[-1] + 1 :])
        raise refused_at(
            function,
            definition.lineno,
            f"@control_flow must be closest to def (below jit, grad, vmap): move it under {dropped}.",
        )


def _same_code(function: types.FunctionType, definition: ast.FunctionDef) -> bool:
    """Whether the source still compiles to the code that runs.

    A file that was edited after its import shows other lines than those that run. Converting them
    would silently run code that was never imported.
    """
    if names.contains(definition.body, ast.Assert):
        return (
            True  # pytest rewrites `assert`, so the code of such a function differs from its source
        )
    plain = ast.parse("pass")
    bare = _bare(definition)
    plain.body = [_factory(function, bare, [])]
    here = _fingerprint(function.__code__)
    # Python computes constants such as `~True` while it compiles, unless a warning of that is an error where the
    # module is imported. So the same source has two codes.
    return any(_fingerprint_of(function, plain, warned) == here for warned in ("ignore", "error"))


def _fingerprint_of(
    function: types.FunctionType, module: ast.Module, warned: Warned
) -> list[tuple[str, Any]] | None:
    """That of the function in a module, None where the module does not compile."""
    try:
        return _fingerprint(_find(_compiled(function, module, warned)))
    except SyntaxError:
        return None


def _fingerprint(code: types.CodeType) -> list[tuple[str, Any]]:
    """The instructions, without what depends on the code around the function.

    Python compiles `jax.f(x)` to a method call or not, depending on whether the module imports `jax`
    at its top. The opcodes that differ then are left out or given one name. Jump targets shift with
    them and are left out too.
    """
    found = []
    for one in dis.get_instructions(code):
        if one.opname in ("PUSH_NULL", "PRECALL"):
            continue
        jumps = one.opcode in dis.hasjrel or one.opcode in dis.hasjabs
        name = "LOAD_ATTR" if one.opname == "LOAD_METHOD" else one.opname
        plain = isinstance(one.argval, (str, int, float, complex, bytes, tuple))
        found.append((name, one.argval if plain and not jumps else None))
    return found


def _bare(definition: ast.FunctionDef) -> ast.FunctionDef:
    # The inner function needs a name of its own. Under the user's name a recursive call would find the
    # copy in the factory, and not what the name means in the user's module.
    fields = dict(ast.iter_fields(definition)) | {"decorator_list": [], "name": _FUNCTION}
    # `def f[T](x)` compiles to a further function around `f`, and `_find` would not see `f` inside it.
    if "type_params" in fields:
        fields["type_params"] = []
    return ast.copy_location(ast.FunctionDef(**fields), definition)


def rebuild(
    function: types.FunctionType, definition: ast.FunctionDef, runtime: Any
) -> types.FunctionType:
    """A function with the rewritten body, and the globals, defaults and cells of the original.

    It shares the original's closure cells, so it also sees what is assigned to them later.
    """
    module = ast.parse("pass")
    module.body = [_factory(function, _bare(definition), [FLOW])]
    ast.fix_missing_locations(module)
    code = _renamed(_find(_compiled(function, module)), function.__code__)
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    cells[FLOW] = types.CellType(runtime)
    closure = tuple(cells[name] for name in code.co_freevars)
    rebuilt = types.FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, closure
    )
    rebuilt.__kwdefaults__ = function.__kwdefaults__
    rebuilt.__qualname__ = function.__qualname__
    rebuilt.__module__ = function.__module__
    rebuilt.__doc__ = function.__doc__
    rebuilt.__annotations__ = function.__annotations__
    rebuilt.__dict__.update(function.__dict__)
    return rebuilt


def _factory(
    function: types.FunctionType, definition: ast.FunctionDef, extra: list[str]
) -> ast.stmt:
    """`definition` inside a function that has its free variables as parameters."""
    parameters = ", ".join([*function.__code__.co_freevars, *extra])
    factory = ast.parse(f"def {_FACTORY}({parameters}): pass").body[0]
    assert isinstance(factory, ast.FunctionDef)
    factory.body = [_Mangled(_class_around(function)).visit(definition)]
    return factory


def _compiled(
    function: types.FunctionType, module: ast.Module, warned: Warned = "ignore"
) -> types.CodeType:
    """The code of a module; what Python warns of was told when the user's module was imported."""
    # With `from __future__ import annotations`, annotations are not evaluated. Whether that holds is up
    # to the user's module; `dont_inherit` keeps this module's own import out.
    flags = function.__code__.co_flags & _FUTURES
    file = function.__code__.co_filename
    with warnings.catch_warnings():
        warnings.simplefilter(warned)
        return compile(module, file, "exec", flags=flags, dont_inherit=True)


def _find(code: types.CodeType) -> types.CodeType:
    """The code of the function inside the factory."""
    factory = next(c for c in code.co_consts if isinstance(c, types.CodeType))
    codes = (c for c in factory.co_consts if isinstance(c, types.CodeType))
    return next(c for c in codes if c.co_name == _FUNCTION)


def _renamed(code: types.CodeType, original: types.CodeType) -> types.CodeType:
    """`code` and its blocks under the user's name, which tracebacks and profiles then show."""

    def rename(inner: types.CodeType, name: str, qualname: str) -> types.CodeType:
        # A block (`_tk_for_2`) or a lambda takes the name of the function that it is part of. A function
        # that the user defines inside keeps its own.
        if not inner.co_name.startswith((PREFIX, "<lambda>")):
            name, qualname = inner.co_name, f"{qualname}.<locals>.{inner.co_name}"
        constants = tuple(
            rename(c, name, qualname) if isinstance(c, types.CodeType) else c
            for c in inner.co_consts
        )
        return inner.replace(co_name=name, co_qualname=qualname, co_consts=constants)

    name, qualname = original.co_name, original.co_qualname
    constants = tuple(
        rename(c, name, qualname) if isinstance(c, types.CodeType) else c for c in code.co_consts
    )
    return code.replace(co_name=name, co_qualname=qualname, co_consts=constants)


def _class_around(function: types.FunctionType) -> str | None:
    """The class in whose body the `def` stands, or None."""
    parts = function.__qualname__.split(".")
    return parts[-2] if len(parts) > 1 and parts[-2] != "<locals>" else None


class _Mangled(ast.NodeTransformer):
    """Spells private names `__x` of a class `A` as `_A__x`.

    Python does so when it compiles a class body. The factory compiles the method outside its class,
    where `self.__x` would not be found.
    """

    def __init__(self, around: str | None) -> None:
        self.around = around.lstrip("_") if around else None

    def _name(self, name: str) -> str:
        private = name.startswith("__") and not name.endswith("__") and "." not in name
        return f"_{self.around}{name}" if private and self.around else name

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.copy_location(ast.Name(self._name(node.id), node.ctx), node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        new = ast.Attribute(self.visit(node.value), self._name(node.attr), node.ctx)
        return ast.copy_location(new, node)
