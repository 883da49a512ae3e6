"""`tk.debug.annotate`: the source of a function with the shape and dtype behind each line."""

from __future__ import annotations

import html
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from toolkit.debug.makers import code_of
from toolkit.debug.shapes import syntax
from toolkit.debug.shapes.enclosing import Enclosing
from toolkit.debug.shapes.following import Assigned, FollowedCalls
from toolkit.debug.shapes.syntax import Function, Source
from toolkit.debug.shapes.values import Shape, is_array
from toolkit.debug.source_lines import SourceLine
from toolkit.errors.frames import is_installed
from toolkit.errors.readable import readable

_COLUMN = 60  # comments are aligned up to here; behind a longer line one stands by itself
_LISTED = 3  # different values of one line, and loops around it, that are printed


@dataclass(frozen=True)
class Line:
    """A line of source, and what it computes."""

    file: str
    line: int
    text: str  # as it stands in the file
    comment: str = ""  # shapes, dtypes and loops, as printed
    shapes: tuple[Shape, ...] = ()  # of all arrays that it binds or returns: name, shape, dtype
    # The loops around it, outermost first; one tuple for each way in which the line was run.
    inside: tuple[tuple[Enclosing, ...], ...] = ()


@dataclass(frozen=True)
class Block:
    """A function that ran, inner functions included."""

    name: str
    file: str
    lines: tuple[Line, ...]

    def __str__(self) -> str:
        return "\n".join(_printed(self))


@dataclass(frozen=True)
class Annotated:
    """What `annotate` returns: prints as the source with its shapes."""

    blocks: tuple[Block, ...]  # the function, then what it calls in the same file, by first call
    elsewhere: tuple[Block, ...] = ()  # what it calls in other files of the user's

    @property
    def lines(self) -> tuple[Line, ...]:
        """All lines of the blocks."""
        return tuple(line for block in self.blocks for line in block.lines)

    def __str__(self) -> str:
        return "\n\n".join([*map(str, self.blocks), *self._others()])

    def _repr_html_(self) -> str:
        """For notebooks: colours are those of the page, light or dark."""
        parts = [_html(block) for block in self.blocks] + [
            f"<em>{html.escape(text)}</em>" for text in self._others()
        ]
        style = "background: transparent; color: inherit; overflow-x: auto; line-height: 1.4"
        return f'<pre style="{style}">' + "\n\n".join(parts) + "</pre>"

    def _others(self) -> list[str]:
        """The blocks elsewhere, named."""
        named = [
            f"{one.name} ({SourceLine(one.file, one.lines[0].line)})" for one in self.elsewhere
        ]
        return [f"# calls in other files, in .elsewhere: {', '.join(named)}"] if named else []


@readable
def annotate(fn: Callable[..., Any], *specs: Any) -> Annotated:
    """The source of `fn` with the shape and dtype that stand behind each line; nothing is run.

    `fn(*specs)` is traced, and what each line assigns or returns is read from the variables: all
    names of `w, b = params`, trees leaf by leaf, arguments at the `def`. What is no array is left
    out. A line inside a loop shows one iteration and says so, `x32 inside scan`; without a number
    where that is not known before the program runs. Under `vmap` a line shows one entry of the
    batch, as the function sees it; under `grad` the values, not the derivatives. A line that runs
    more than once with different shapes, as in a Python loop over layers, shows each.

    Args:
      fn: a function with source, also a method, a lambda, a callable object, a
        `functools.partial`, or what `jax.jit`, `jax.grad`, `jax.vmap`, `tk.control_flow` and other
        wrappers made of one.
      specs: its arguments: arrays, `jax.ShapeDtypeStruct`s, or trees of either. Only shapes count;
        everything else is passed as it is.

    Returns: An `Annotated`: its `str` is the text, a notebook shows it as a page, `.lines` has
      `Line(file, line, text, comment, shapes, inside)`. Functions that `fn` calls follow if they
      stand in the same file; those in other files of the user's are listed, and are in `.elsewhere`.

    Raises:
      TypeError: `fn` is no function, or has no source.
      What `fn` raises while it is traced, with the source annotated so far as a note.

    Under `grad` JAX runs the forward rule of a `jax.custom_vjp` or `jax.custom_jvp` in place of the
    function, so it is the rule's lines that have shapes.

    Cost: one trace of `fn`, two to four times as slow as a first one, as what JAX has in its caches
    is traced again; nothing is compiled. A debugger's breakpoints in `fn` do not stop it.

    Example:
      print(tk.debug.annotate(loss, params, jax.ShapeDtypeStruct((32, 8), jnp.float32)))
    """
    if not callable(fn):
        raise TypeError(
            f"`fn` must be callable: got {type(fn).__name__}; write annotate(fn, *specs)."
        )
    code = _code(fn)
    source, function = _source(fn, code)
    watch = FollowedCalls(code)
    try:
        with watch.watching():
            _trace(fn, specs)
    except Exception as error:
        partial = _annotated(watch, source, function)
        if any(line.comment for line in partial.lines):
            error.add_note(f"annotated until it failed:\n{partial}")
        raise
    return _annotated(watch, source, function)


def _trace(fn: Callable[..., Any], specs: Sequence[Any]) -> None:
    leaves, structure = jax.tree.flatten(specs)
    arrays = [leaf for leaf in leaves if is_array(leaf)]

    def call(*given: Any) -> None:
        rest = iter(given)
        filled = [next(rest) if is_array(leaf) else leaf for leaf in leaves]
        fn(*jax.tree.unflatten(structure, filled))

    jax.make_jaxpr(call)(*arrays)


def _code(fn: Any) -> types.CodeType:
    code = code_of(fn)
    if code is None:
        raise _sourceless(fn, "is a class" if isinstance(fn, type) else "is not written in Python")
    return code


def _source(fn: Any, code: types.CodeType) -> tuple[Source, Function]:
    source = syntax.read(code.co_filename)
    if source is None:
        raise _sourceless(fn, "was defined by exec() or in a bare REPL")
    function = source.function(code)
    if function is None:
        raise _sourceless(fn, f"has changed in {code.co_filename} since it was imported")
    return source, function


def _sourceless(fn: Any, why: str) -> TypeError:
    name = getattr(fn, "__qualname__", None) or repr(fn)
    return TypeError(
        f"`fn` must have source to annotate: {name} {why}; give a function from a file or a notebook cell."
    )


def _annotated(watch: FollowedCalls, source: Source, function: Function) -> Annotated:
    seen = watch.seen()
    # `fn` is shown even if it has not run, as where it failed at once; then all functions in the order of
    # their calls.
    ran: dict[tuple[str, Function], Source] = {(source.file, function): source}
    for code in watch.codes:
        if code.function is not None:
            ran.setdefault((code.source.file, code.function), code.source)
    # A function that stands within another one is printed as part of that one.
    outermost = {
        key: one
        for key, one in ran.items()
        if not any(other != key and _within(key, other) for other in ran)
    }
    by_line: dict[tuple[str, int], list[Assigned]] = {}
    for one in seen:
        by_line.setdefault((one.file, one.line), []).append(one)
    blocks = {key: _block(key[1], one, by_line) for key, one in outermost.items()}
    own = next(
        key
        for key in blocks
        if key == (source.file, function) or _within((source.file, function), key)
    )
    home = own[0]
    # `fn` may be a wrapper that a library has put around the user's function. The user means the function.
    if is_installed(home):
        others = [key for key in blocks if key != own and not is_installed(key[0])]
        home = others[0][0] if others else home
        blocks = {key: block for key, block in blocks.items() if key != own or not others}
    here = [block for key, block in blocks.items() if key[0] == home]
    first = [blocks[own]] if own in blocks else []
    return Annotated(
        (*first, *(block for block in here if block not in first)),
        tuple(block for key, block in blocks.items() if key[0] != home),
    )


def _within(inner: tuple[str, Function], outer: tuple[str, Function]) -> bool:
    """Whether one function, given with its file, stands inside another."""
    (file, a), (other, b) = inner, outer
    return file == other and b.first <= a.first and a.last <= b.last


def _block(
    function: Function, source: Source, seen: dict[tuple[str, int], list[Assigned]]
) -> Block:
    lines = []
    for number in range(function.first, function.last + 1):
        found = seen.get((source.file, number), [])
        # A line such as `f = lambda x: ...` would say the same twice: what the lambda returns is shown only
        # where the line binds nothing else.
        found = [one for one in found if one.what != "lambda"] or found
        text = source.lines[number - 1]
        shapes = tuple(dict.fromkeys(shape for one in found for shape in one.shapes))
        inside = tuple(dict.fromkeys(one.around for one in found))
        lines.append(Line(source.file, number, text, _comment(found), shapes, inside))
    return Block(function.name, source.file, tuple(lines))


def _comment(found: Sequence[Assigned]) -> str:
    """`float32[3], x5 inside scan`; different values one after the other."""
    where: dict[str, list[str]] = {}
    for one in found:
        around = ", ".join(map(str, one.around))
        listed = where.setdefault(one.text, [])
        if around not in listed:
            listed.append(around)
    parts = [_with_loops(text, around) for text, around in where.items()]
    more = f" | {len(parts) - _LISTED} more" if len(parts) > _LISTED else ""
    return " | ".join(parts[:_LISTED]) + more


def _with_loops(text: str, around: Sequence[str]) -> str:
    """`float32[3], x5 inside scan; also x7 inside scan`."""
    first, *others = sorted(around, key=bool)  # what runs outside of all loops comes first
    more = f"; {len(others) - _LISTED} more" if len(others) > _LISTED else ""
    listed = "".join(f"; also {one}" for one in others[:_LISTED])
    return f"{text}{', ' * bool(first)}{first}{listed}{more}"


def _laid_out(block: Block) -> Iterator[tuple[str, str]]:
    """Each line without the common indentation, padded, and its comment."""
    indents = [len(one.text) - len(one.text.lstrip()) for one in block.lines if one.text.strip()]
    indent = min(indents, default=0)
    texts = [one.text[indent:].rstrip() for one in block.lines]
    widths = [len(text) for text, one in zip(texts, block.lines, strict=True) if one.comment]
    column = max((width for width in widths if width <= _COLUMN), default=0)
    for text, one in zip(texts, block.lines, strict=True):
        yield (text.ljust(column), f"  # {one.comment}") if one.comment else (text, "")


def _heading(block: Block) -> str:
    return f"# {SourceLine(block.file, block.lines[0].line)}"


def _printed(block: Block) -> Iterator[str]:
    yield _heading(block)
    for text, comment in _laid_out(block):
        yield f"{text}{comment}"


def _html(block: Block) -> str:
    quiet = '<span style="opacity: 0.75; font-style: italic">{}</span>'
    lines = [quiet.format(html.escape(_heading(block)))]
    for text, comment in _laid_out(block):
        lines.append(html.escape(text) + (quiet.format(html.escape(comment)) if comment else ""))
    return "\n".join(lines)
