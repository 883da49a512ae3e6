"""`toolkit check`: a rehearsal of a run from its config to its page, in a folder that is removed."""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.commands.arguments import add_config
from toolkit.run.experiment.errors import Complaint, Exit, RunError, fail, printable, shown
from toolkit.run.experiment.output import warn
from toolkit.run.store import environment

if TYPE_CHECKING:
    from toolkit.run.drive.prepare import PreparedRun
    from toolkit.run.program.compiled import CompiledProgram
    from toolkit.run.store.directory import RunDirectory

STEPS = 2


def add(parser: ArgumentParser) -> None:
    add_config(parser)


def run(arguments: Namespace) -> int:
    """Validates and prints a config, runs two steps, saves and loads the state, finishes and draws.

    Warns of each input of the program's losses whose gradient is always zero.

    Raises: RunError: exit 2 for a config, a program, a `finish` or a figure that is wrong, exit 3 for a state
        that a load changes, exit 6 for numbers that are not finite.
    """
    from toolkit.run.drive.prepare import prepare
    from toolkit.run.experiment import load, plain_yaml

    environment.pin_threads()
    prepared = prepare(load.load(arguments.config, arguments.overrides))
    from toolkit.run.program.losses import dead_inputs
    from toolkit.run.store.arrays import named_leaves

    source = prepared.loaded.experiment
    dead = dead_inputs(prepared.traced, source)
    for name, inputs in dead.items():
        for found in inputs:
            warn(printable(f"{source}: losses: {name}: {found}"))
    size = _rehearsed(prepared, plain_yaml.dump(prepared.loaded.resolved))
    leaves = named_leaves(prepared.traced.template).values()
    count = sum(leaf.size for leaf in leaves)
    print(plain_yaml.dump(prepared.loaded.resolved), end="")
    metrics = ", ".join(prepared.traced.metrics) or "none"
    if dead:
        number = sum(map(len, dead.values())) or "none"
        print(f"# inputs without gradient in the losses {', '.join(dead)}: {number}")
    print(f"# tried {STEPS} steps, a save and a load of {size:,} bytes, finish and the figures")
    print(
        f"# ok: {source}, state of {len(leaves)} arrays with {count:,} numbers, metrics: {metrics}"
    )
    return Exit.DONE


def _rehearsed(prepared: PreparedRun, config: str) -> int:
    """Makes a run of two steps. Returns the bytes of a checkpoint."""
    from toolkit.run.program.seeds_on_cores import compile_program
    from toolkit.run.store import birth, directory

    compiled = compile_program(prepared.traced, prepared.loaded.experiment)
    with tempfile.TemporaryDirectory(prefix="toolkit-check-") as name:
        record = {
            "status": "running",
            "step": STEPS,
            "steps": prepared.settings.steps,
            "environment": prepared.environment,
        }
        with directory.held(birth.create(Path(name) / "run", config, record)) as place:
            state = _stepped(prepared, compiled, place)
            size = _saved(prepared, compiled, state, place)
            _finished(prepared, state, place)
            return size


def _stepped(prepared: PreparedRun, compiled: CompiledProgram, place: RunDirectory) -> Any:
    """The state after two steps, whose rows are logged. Raises: RunError (exit 6) if one is not finite."""
    import numpy as np

    from toolkit.run.experiment.experiments import reported
    from toolkit.run.program import finite
    from toolkit.run.program.budget import Pace, Paced, with_fractions
    from toolkit.run.program.gradient_rows import by_leaf
    from toolkit.run.store import directory, metrics

    source = prepared.loaded.experiment
    # Two steps end by their number, so a budget is not needed to say what fraction is used up.
    if issubclass(type(compiled.template), Paced):
        compiled = with_fractions(compiled, Pace(STEPS, None, 0.0), 0, 1)
    with reported(source, "init failed"):
        state = compiled.init()
    watch = finite.watch(state, finite.held(state))
    with metrics.open_log(place.path / directory.METRICS, metrics.EMPTY) as log:
        for step in range(1, STEPS + 1):
            # The last step reports its gradients, where the config asks for that.
            call = (step == STEPS and compiled.reporting) or compiled.advance
            with reported(source, f"step {step} failed"):
                made = call(state, np.int32(1), np.int32(1))
            state, bad = made.state, watch.bad(np.asarray(made.found[0]))
            values = {name: column[0].item() for name, column in made.values.items()}
            metrics.append(log, metrics.row(step, values, 0.0, False, by_leaf(made.reports)))
            if step % prepared.settings.log_every == 0:
                bad |= finite.bad_metrics(values)
            if bad:
                what = f"step {step}: {', '.join(bad)} not finite"
                remedy = "finite numbers; `toolkit run` says which line made it"
                raise fail(Exit.NOT_FINITE, source, what, ", ".join(bad.values()), remedy)
    return state


def _saved(
    prepared: PreparedRun, compiled: CompiledProgram, state: Any, place: RunDirectory
) -> int:
    """The bytes of a checkpoint. Raises: RunError (exit 3) if the state that is loaded is another one."""
    from toolkit.run.store import arrays, checkpoints, directory, metrics

    folder, log = place.path / directory.CHECKPOINTS, place.path / directory.METRICS
    size = checkpoints.save(folder, STEPS, state, 0.0, metrics.EMPTY, "")
    found = checkpoints.load_newest(folder, "", log, arrays.size(compiled.template), warn)
    assert found is not None  # or it raises
    again = checkpoints.restore(found, compiled.template, folder)
    if arrays.encode(again) != arrays.encode(state):
        source = prepared.loaded.experiment
        raise fail(Exit.CHECKPOINT, source, "a load changes the state", "other bits", "the same")
    return size


def _finished(prepared: PreparedRun, state: Any, place: RunDirectory) -> None:
    """Calls `finish` and draws the experiment's own figures.

    In a run, a figure that fails is a gap in the page and a warning. Here it is an error, because whoever
    checks wants to know of it before the steps are made.

    Raises: RunError: exit 2 that names `finish` or each figure that fails, exit 6 for a final metric that is
        not finite.
    """
    from toolkit.run.experiment import sources
    from toolkit.run.experiment.experiments import reported
    from toolkit.run.store import directory, files, final

    source = prepared.loaded.experiment
    with reported(source, "finish failed"):
        program = prepared.traced.program
        result = program.finish(state, program.data)
    files.write_folder(place.path / directory.FINAL, final.files(result, 0.0, source, source))
    from toolkit.run.report import story
    from toolkit.run.report.drawing import plots

    problems: list[Complaint] = []
    figures = story.own_figures(story.read(place.path), prepared.settings)
    pictures = sources.pictures(source)
    file = pictures if pictures.is_file() else source
    for index, figure in enumerate(figures):
        try:
            with reported(file, f"figure {shown(figure.title)} failed"):
                plots.svg(figure, index)
        except RunError as error:
            problems += error.problems
    if problems:
        raise RunError(Exit.CONFIG, *problems)
