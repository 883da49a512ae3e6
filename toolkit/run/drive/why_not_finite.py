"""Why a run has a NaN or an infinity.

Its steps are made again from the last checkpoint, and the first bad step is taken apart.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from toolkit.debug.nonfinite.explain import explain as explain_step
from toolkit.run.drive import run_loop
from toolkit.run.drive.chunks import Chunk, reports
from toolkit.run.drive.prepare import PreparedRun, prepare, start_position, watch
from toolkit.run.experiment import experiments, load
from toolkit.run.experiment.durations import seconds
from toolkit.run.experiment.errors import Exit, RunError, fail, printable
from toolkit.run.experiment.output import say, warn
from toolkit.run.program import finite
from toolkit.run.program.budget import Pace, with_fraction_of
from toolkit.run.program.compiled import CompiledProgram
from toolkit.run.program.data import DrivenProgram
from toolkit.run.program.seeds_on_cores import compile_program
from toolkit.run.store import directory, environment
from toolkit.run.store.arrays import named_leaves
from toolkit.run.store.observed import Observed


def explain(path: Path) -> int:
    """Finds again which line made a run not finite, and prints it. Returns the exit code."""
    directory.existing(path)
    record = directory.read_record(path)
    found = record.get("nonfinite")
    if not found:
        status = f"a run that is {record.get('status')}"
        expected = "one that ended with exit code 6"
        raise fail(Exit.CONFIG, path, "nothing to explain", status, expected)
    with directory.held(directory.claim(path, to_write=False)) as place:
        prepared = prepare(load.load(path / directory.CONFIG), directory.read_config(path))
        changed = environment.differences(
            record.get("environment", {}), prepared.environment, record.get("wrote", [])
        )
        if changed:
            differs = f"the environment differs in {', '.join(changed)}: the step may differ too"
            warn(printable(f"{path}: {differs}"))
        compiled = compile_program(prepared.traced, prepared.loaded.experiment)
        bad = run_loop.NotFinite(found["step"], found["leaves"])
        say(_explained(place, prepared, compiled, bad))
    return Exit.DONE


def refusal(
    place: directory.RunDirectory,
    prepared: PreparedRun,
    compiled: CompiledProgram,
    found: run_loop.NotFinite,
) -> RunError:
    """Records what was found, explains it, and returns the error to raise (exit 6)."""
    record = {"step": found.step, "leaves": dict(found.leaves)}
    place.update(nonfinite=record)
    say(f"step {found.step} is not finite; making it again to find the line")
    text = _explained(place, prepared, compiled, found)
    place.update(nonfinite={**record, "explanation": text})
    place.event("not_finite", **record, explanation=text)
    say(text)
    return _error(place.path, found)


def unexplained(place: directory.RunDirectory | Observed, found: run_loop.NotFinite) -> RunError:
    """Records what several processes have found. `toolkit explain` makes the step again on one device."""
    record = {"step": found.step, "leaves": dict(found.leaves)}
    place.update(nonfinite=record)
    place.event("not_finite", **record)
    return _error(place.path, found)


def _error(path: Path, found: run_loop.NotFinite) -> RunError:
    name, held = next(iter(found.leaves.items()))
    more = f" and {len(found.leaves) - 1} more" if len(found.leaves) > 1 else ""
    what = f"step {found.step}: {name}{more} not finite"
    remedy = f"finite numbers; `toolkit explain {path}` says which line made it"
    return fail(Exit.NOT_FINITE, path, what, held, remedy)


def _explained(
    place: directory.RunDirectory,
    prepared: PreparedRun,
    compiled: CompiledProgram,
    found: run_loop.NotFinite,
) -> str:
    """The report on what first made the run bad, as text. `found` may be some steps after it."""
    at = start_position(place, prepared, compiled)
    watched, rows = watch(place, prepared, at), directory.read_rows(place.path)
    budget = prepared.settings.budget
    pace = Pace(prepared.settings.steps, None if budget is None else seconds(budget), 0.0)
    state = at.state
    with experiments.reported(prepared.loaded.experiment, "cannot be explained"):
        for step in range(at.step + 1, found.step + 1):
            given = with_fraction_of(rows, pace, step, state)
            # `advance` donates its argument, and the bad step has to be made once more from the same state.
            kept = jax.tree.map(jnp.copy, given)
            made = run_loop.advance(
                compiled, Chunk(step - 1, 1, 1, reports(prepared.settings, step)), given
            )
            state, bad = made.state, set(watched.bad(np.asarray(made.found[0])))
            # A bad metric is no part of the state: it is only known from the row in which the run found it.
            if step == found.step:
                bad |= found.leaves.keys()
            program = prepared.traced.program
            if (
                bad
                and (report := explain_step(_only(program, bad), kept, program.data)) is not None
            ):
                return f"step {step}, {report}"
    return (
        f"from the checkpoint of step {at.step}, step {found.step} is finite here: the step reads "
        "something besides its state, or the environment is another one"
    )


def _only(program: DrivenProgram, names: Collection[str]) -> Any:
    def step(state: Any, data: Any) -> dict[str, Any]:
        """The named ones among the leaves and the metrics that a step makes."""
        state, values = program.step(state, data)
        leaves = {finite.title(name): leaf for name, leaf in named_leaves(state).items()}
        return {name: leaf for name, leaf in {**leaves, **values}.items() if name in names}

    return step
