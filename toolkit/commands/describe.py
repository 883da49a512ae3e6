"""`toolkit describe`: what an experiment is made of, from shapes alone; nothing is trained."""

from __future__ import annotations

import os
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from toolkit.commands.arguments import add_config
from toolkit.run.experiment.errors import Exit, printable
from toolkit.run.store import environment

if TYPE_CHECKING:
    from toolkit.debug.source_lines import SourceLine
    from toolkit.run.drive.prepare import PreparedRun
    from toolkit.run.experiment.interface import Loss
    from toolkit.run.program.compiled import TracedProgram


class Part(NamedTuple):
    """An array of the state."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    size: int  # entries
    bytes: int
    learned: tuple[str, ...]  # losses that are differentiated with respect to it
    place: str  # where `init` makes it, "" where the trace does not tell


class Cost(NamedTuple):
    """A computation of the experiment."""

    name: str
    place: str  # where it is defined
    flops: str


class Description(NamedTuple):
    """What is printed, before it is laid out."""

    experiment: Path
    state: tuple[Part, ...]
    costs: tuple[Cost, ...]
    has_losses: bool


def add(parser: ArgumentParser) -> None:
    add_config(parser)


def run(arguments: Namespace) -> int:
    """Prints the parts of a config's experiment and what they cost."""
    from toolkit.run.drive.prepare import prepare
    from toolkit.run.experiment import load

    environment.pin_threads()
    prepared = prepare(load.load(arguments.config, arguments.overrides))
    for line in _printed(_description(prepared)):
        print(line)
    return Exit.DONE


def _description(prepared: PreparedRun) -> Description:
    from toolkit.run.program.losses import declared  # jax, from here on

    traced, source = prepared.traced, prepared.loaded.experiment
    program = traced.program
    losses = declared(traced, source)
    costs = [
        _cost("init", program.init, (_seed(), program.data), source),
        _cost("step", program.step, (traced.template, program.data), source),
        *(_cost(f"loss {n}", one.fn, one.arguments, source) for n, one in losses.items()),
    ]
    return Description(source, _state(traced, losses, source), tuple(costs), bool(losses))


def _seed() -> Any:
    import jax

    return jax.eval_shape(lambda: jax.random.key(0))


def _state(traced: TracedProgram, losses: dict[str, Loss], source: Path) -> tuple[Part, ...]:
    import jax

    from toolkit.debug.makers import made_at
    from toolkit.run.store.arrays import named_leaves

    learned: dict[int, list[str]] = {}
    for name, loss in losses.items():
        numbers = loss.argnums if isinstance(loss.argnums, tuple) else (loss.argnums,)
        for leaf in jax.tree.leaves([loss.arguments[number] for number in numbers]):
            learned.setdefault(id(leaf), []).append(name)
    places = made_at(jax.make_jaxpr(traced.program.init)(_seed(), traced.program.data))
    return tuple(
        Part(
            path,
            leaf.shape,
            str(leaf.dtype),
            leaf.size,
            _bytes(leaf),
            tuple(learned.get(id(leaf), ())),
            _shown(place, source),
        )
        for (path, leaf), place in zip(named_leaves(traced.template).items(), places, strict=True)
    )


def _cost(name: str, fn: Callable[..., Any], arguments: Sequence[Any], source: Path) -> Cost:
    import jax

    from toolkit.debug.flops import count
    from toolkit.debug.makers import code_of
    from toolkit.debug.source_lines import NOWHERE, SourceLine
    from toolkit.run.experiment.experiments import reported

    with reported(source, f"{name} failed"):
        flops = count(jax.make_jaxpr(fn)(*arguments))
    code = code_of(fn)
    place = SourceLine(code.co_filename, code.co_firstlineno) if code else NOWHERE
    # A line of the experiment's own file is named by its number, so that the table fits into 80 columns.
    return Cost(name, _shown(place, source), str(flops).replace(f"{source}:", "line "))


def _bytes(leaf: Any) -> int:
    import jax

    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return leaf.size * leaf.dtype.itemsize


def _shown(place: SourceLine, source: Path) -> str:
    """A line of the experiment by its number, another with its file, "" of an unknown one."""
    if place.file is None:
        return ""
    same = Path(place.file).resolve() == source.resolve()
    return f"line {place.line}" if same else str(place)


def _printed(parts: Description) -> list[str]:
    """The lines of both tables and the totals: as wide as the terminal, or as needed without one."""
    state, costs = parts.state, parts.costs
    head = ["part", "shape", "dtype", "numbers", "bytes", "learned by", "made at"]
    rows = [
        [
            p.path,
            _shape(p.shape),
            p.dtype,
            f"{p.size:,}",
            f"{p.bytes:,}",
            ", ".join(p.learned),
            p.place,
        ]
        for p in state
    ]
    if not parts.has_losses:
        head, rows = [*head[:5], head[6]], [[*row[:5], row[6]] for row in rows]
    total = f"total: {_sum(state)}"
    learned = [part for part in state if part.learned]
    if learned:
        total += f"; learned: {_sum(learned)}"
    return [
        f"{printable(str(parts.experiment))}: the state, as init makes it",
        *_table(head, rows),
        total,
        "",
        "floating-point operations of one call, counted from its jaxpr; a loss: its value alone",
        *_table(["computation", "defined at", "FLOPs"], [list(cost) for cost in costs]),
    ]


def _sum(parts: Sequence[Part]) -> str:
    numbers, size = sum(part.size for part in parts), sum(part.bytes for part in parts)
    return f"{len(parts)} arrays, {numbers:,} numbers, {size:,} bytes"


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a table. Nothing is cut: a cell that is too wide goes on in the next line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="")
    for name in head:
        number = name in ("numbers", "bytes")
        table.add_column(
            name, justify="right" if number else "left", overflow="fold", no_wrap=number
        )
    for row in rows:
        # As `Text`: in a plain string rich would read `[b]`, which a path may hold, as markup and drop it.
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(width=_width(), highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


def _width() -> int:
    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return shutil.get_terminal_size().columns
    return 10_000
