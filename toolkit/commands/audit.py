"""`toolkit audit`: the numbers in an experiment's program that its config does not supply; nothing is run."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from toolkit.commands.arguments import add_config
from toolkit.run.experiment.errors import Exit, RunError, printable
from toolkit.run.store import environment

if TYPE_CHECKING:
    from toolkit.debug.numbers.audit import Constant
    from toolkit.run.drive.prepare import PreparedRun

# Settings that only the runner reads. Their values are in no program, so they do not explain a number there.
_OF_THE_RUNNER = frozenset(
    {"checkpoint_every", "claims", "diagnostics", "keep_checkpoints", "log_every"}
    | {"schema_version"}
)
_COLUMNS = ("value", "where", "operation", "source")
_MOVE = 1e-3  # relative: far above rounding, within most bounds
_WIDEST = 100  # characters of source shown


def add(parser: ArgumentParser) -> None:
    add_config(parser)


def run(arguments: Namespace) -> int:
    """Prints the numbers in the program that the config does not supply; runs and writes nothing."""
    from toolkit.run.drive.prepare import prepare
    from toolkit.run.experiment import load

    environment.pin_threads()
    print("\n".join(report(prepare(load.load(arguments.config, arguments.overrides)))))
    return Exit.DONE


def report(prepared: PreparedRun) -> list[str]:
    """A table of the numbers, a line each, and how many there are."""
    from toolkit.debug.source_lines import SourceLine

    found = hidden_numbers(prepared)
    rows = [
        (
            f"{one.value:.7g}",
            _where(one),
            one.operation,
            printable(SourceLine(one.file, one.line).source)[:_WIDEST],
        )
        for one in found
    ]
    count = len(found) or "no"
    noun = "number" if len(found) == 1 else "numbers"
    source = prepared.loaded.experiment
    return [*_table(rows), f"# {source}: {count} {noun} that the config does not supply"]


def hidden_numbers(prepared: PreparedRun) -> tuple[Constant, ...]:
    """The hidden numbers of `init`, `step` and the losses, each once. Raises: RunError (exit 2) if one fails."""
    from toolkit.run.drive.prepare import build
    from toolkit.run.experiment import load

    loaded = prepared.loaded
    supplied = list(numbers(_seen(loaded.resolved)))
    found = _found(prepared, supplied)
    if not found:
        return ()
    # A number that is left may still be computed from the config in a way that `constants` does not see. Such
    # a number changes if the config does. So the program is built again from a slightly different config,
    # and only numbers that are the same in both count as hidden.
    try:
        moved_settings = load.validate(type(loaded.settings), _moved(loaded.resolved), {})
        _, program = build(loaded._replace(settings=moved_settings))
        moved = prepared._replace(traced=prepared.traced._replace(program=program))
        kept = set(_found(moved, ()))
    except RunError:  # the experiment refuses these values
        return found
    return tuple(one for one in found if one in kept)


def _found(prepared: PreparedRun, supplied: Sequence[int | float]) -> tuple[Constant, ...]:
    from toolkit.debug.numbers.audit import constants
    from toolkit.run.experiment.experiments import reported

    found: list[Constant] = []
    for name, fn, arguments in _functions(prepared):
        with reported(prepared.loaded.experiment, f"{name} failed"):
            found += constants(fn, arguments, supplied)
    return tuple(dict.fromkeys(found))


def _seen(resolved: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in resolved.items() if key not in _OF_THE_RUNNER}


def _moved(tree: Any) -> Any:
    """The config with all its fractions a little smaller. Whole numbers stay, because they may be counts."""
    if isinstance(tree, dict):
        return {key: _moved(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_moved(value) for value in tree]
    return tree * (1 - _MOVE) if isinstance(tree, float) and tree != round(tree) else tree


def numbers(tree: Any) -> Iterator[int | float]:
    """The numbers in a resolved config, the lengths of its lists among them."""
    if isinstance(tree, dict):
        for value in tree.values():
            yield from numbers(value)
    elif isinstance(tree, list | tuple):
        yield len(tree)
        for value in tree:
            yield from numbers(value)
    elif isinstance(tree, int | float) and not isinstance(tree, bool):
        yield tree


def _functions(prepared: PreparedRun) -> Iterator[tuple[str, Callable[..., Any], Sequence[Any]]]:
    import jax

    from toolkit.run.program.losses import declared

    program, template = prepared.traced.program, prepared.traced.template
    yield "init", program.init, (jax.eval_shape(jax.random.key, prepared.traced.seed), program.data)
    yield "step", program.step, (template, program.data)
    for name, loss in declared(prepared.traced, prepared.loaded.experiment).items():
        yield f"losses: {name}", loss.fn, loss.arguments


def _where(one: Constant) -> str:
    from toolkit.debug.source_lines import NOWHERE, SourceLine, installed_name

    place = str(SourceLine(one.file, one.line))
    return place if one.inside == NOWHERE else f"{place} in {installed_name(one.inside)}"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    if not rows:
        return []
    whole = [_COLUMNS, *rows]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in whole
    ]
