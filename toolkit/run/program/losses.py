"""The losses that a program declares, and which of their inputs cannot learn; nothing is run."""

from __future__ import annotations

from pathlib import Path

from toolkit.debug.dead.dead_gradients import DeadGradient, dead_gradients
from toolkit.run.experiment.errors import Exit, fail
from toolkit.run.experiment.experiments import reported
from toolkit.run.experiment.interface import Loss
from toolkit.run.program.compiled import TracedProgram


def declared(traced: TracedProgram, source: Path) -> dict[str, Loss]:
    """The losses by name, with the shapes of their arguments.

    Raises: RunError (exit 2) that names the loss.
    """
    program = traced.program
    if program.losses is None:
        return {}
    with reported(source, "losses failed"):
        losses = program.losses(traced.template, program.data)
    if not isinstance(losses, dict):
        got, expected = type(losses).__name__, "a dict of toolkit.run.Loss"
        raise fail(Exit.CONFIG, source, "losses: wrong type", got, expected)
    for name, loss in losses.items():
        if not isinstance(loss, Loss):
            got, expected = type(loss).__name__, "toolkit.run.Loss"
            raise fail(Exit.CONFIG, source, f"losses: {name}: wrong type", got, expected)
    return losses


def dead_inputs(traced: TracedProgram, source: Path) -> dict[str, tuple[DeadGradient, ...]]:
    """The inputs of each loss whose gradient is always zero.

    Raises: RunError (exit 2) that names the loss.
    """
    found = {}
    for name, loss in declared(traced, source).items():
        with reported(source, f"losses: {name} failed"):
            dead = dead_gradients(loss.fn, *loss.arguments, argnums=loss.argnums)
        # Integers, truth values and keys in a tree of parameters never have a gradient: that is no mistake.
        found[name] = tuple(one for one in dead if not one.carried)
    return found
