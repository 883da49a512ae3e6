"""Why a run stopped being finite: its steps made again from the checkpoint before, and the bad one taken apart."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from toolkit.debug import explain
from toolkit.run import drive
from toolkit.run.arrays import named_leaves
from toolkit.run.compiled import Compiled
from toolkit.run.finite import Watch, title
from toolkit.run.program import Program
from toolkit.run.settings import Settings


def explained(
    program: Program,
    compiled: Compiled,
    settings: Settings,
    watch: Watch,
    start: drive.Position,
    found: drive.NotFinite,
) -> str:
    """The report on what first made the run bad, as text. `found` may be some steps after it."""
    state = start.state
    for step in range(start.step + 1, found.step + 1):
        made = drive.advance(compiled, settings, step, state)
        bad = set(watch.bad(made.state))
        if step == found.step:
            bad |= found.leaves.keys()
        if bad and (report := explain(_only(program, bad), state)) is not None:
            return f"step {step}, {report}"
        state = made.state
    return (
        f"from the checkpoint of step {start.step}, step {found.step} is finite here: the step reads "
        "something besides its state, or the environment is another one"
    )


def _only(program: Program, names: Collection[str]) -> Any:
    def step(state: Any) -> dict[str, Any]:
        """What is bad of the step's results."""
        state, values = program.step(state)
        leaves = {title(name): leaf for name, leaf in named_leaves(state).items()}
        return {name: leaf for name, leaf in {**leaves, **values}.items() if name in names}

    return step
