"""From a config to a checked program, and to the state that its run starts or continues from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from toolkit.run.drive import layout
from toolkit.run.drive.layout import mesh_of
from toolkit.run.drive.team import Team
from toolkit.run.experiment import experiments, heard, load
from toolkit.run.experiment.common import Settings
from toolkit.run.experiment.errors import Exit, fail, shown
from toolkit.run.program.budget import paced
from toolkit.run.store import directory, environment
from toolkit.run.store.observed import Observed

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from toolkit.run.drive.run_loop import RunPosition
    from toolkit.run.program.compiled import CompiledProgram, TracedProgram
    from toolkit.run.program.data import DrivenProgram
    from toolkit.run.program.finite import StateWatch


class PreparedRun(NamedTuple):
    """An experiment loaded, built and traced, with what determines its bits."""

    loaded: load.Loaded
    settings: Settings
    traced: TracedProgram
    environment: dict[str, Any]
    began: float  # on `time.perf_counter`, before jax was loaded
    team: Team  # the processes that compute it
    layout: dict[str, Any]  # what it is spread over, for run.json
    digest: str  # of what config.yaml says; each checkpoint carries it


def prepare(
    loaded: load.Loaded, written: dict[str, Any] | None = None, team: Team | None = None
) -> PreparedRun:
    """Builds the experiment's program and traces it.

    Args:
        team: the processes of the run. None to look at the program on one device, whatever the config says.
        written: what the run's config.yaml says. It may be less than `loaded.resolved`, because the
            experiment may have gained a field since it was written.

    Raises: RunError (exit 2) that names the line.
    """
    mesh = None if team is None else mesh_of(loaded.settings, team)
    team = team or Team()
    settings, program = build(loaded, mesh)
    from toolkit.run.program.compiled import trace
    from toolkit.run.store.arrays import fingerprint  # jax, from here on

    source, gradients = loaded.experiment, settings.diagnostics.gradients_every > 0
    traced = trace(program, settings.seed, source, gradients)
    with experiments.reported(source, "data failed"):
        data = {f"data/{name}": fingerprint(tree) for name, tree in program.recorded.items()}
    record = environment.record(source) | data
    digest = config_hash(loaded.resolved if written is None else written)
    spread = layout.record(mesh, team)
    return PreparedRun(loaded, settings, traced, record, loaded.began, team, spread, digest)


def build(loaded: load.Loaded, mesh: Mesh | None = None) -> tuple[Settings, DrivenProgram]:
    """The typed config, and the program that the experiment makes of it, which is not traced yet."""
    source = loaded.experiment
    settings = loaded.settings
    make = getattr(loaded.module, "build", None)
    if not callable(make):
        raise fail(
            Exit.CONFIG,
            source,
            "no program declared",
            shown(make),
            "def build(config) -> toolkit.run.Program",
        )
    with experiments.reported(source, "build failed"):
        program = _made(make, settings, source, mesh)
    return settings, paced(program) if program.takes_fraction else program


def _made(
    make: Callable[[Any], Any], settings: Settings, source: Path, mesh: Mesh | None
) -> DrivenProgram:
    from toolkit.run.program.data import driven

    one = lambda config: driven(make(config), source, mesh)
    if settings.seeds == 1:
        return one(settings)
    from toolkit.run.program.seeds import together

    return together(one, settings)


def start_position(
    place: directory.RunDirectory | Observed, prepared: PreparedRun, compiled: CompiledProgram
) -> RunPosition:
    """The newest checkpoint, or what `init` makes. Raises: RunError (exit 3) where none is usable."""
    from toolkit.run.drive.run_loop import RunPosition
    from toolkit.run.store import arrays, checkpoints
    from toolkit.run.store.metrics import EMPTY

    folder, log = place.path / directory.CHECKPOINTS, place.path / directory.METRICS
    room = arrays.size(compiled.template)
    team, found = prepared.team, None
    # Damaged ones are set aside, and the next is taken: this process 0 does alone, and the others follow it.
    if team.leads:
        found = checkpoints.load_newest(folder, prepared.digest, log, room, place.warn)
    step = team.agreed(-1 if found is None else found.step)
    if not team.leads and step >= 0:
        found = checkpoints.load_step(folder, step, prepared.digest, log, room)
    if found is None:
        with experiments.reported(prepared.loaded.experiment, "init failed"):
            return RunPosition(0, compiled.init(), 0.0, EMPTY)
    state = checkpoints.restore(found, compiled.template, folder)
    return RunPosition(found.step, state, found.seconds, found.logged)


def watch(
    place: directory.RunDirectory | Observed, prepared: PreparedRun, at: RunPosition
) -> StateWatch:
    """Which leaves of the state have to be finite.

    Records what the first state holds that is not finite: a leaf that starts with a NaN may keep it.
    """
    from toolkit.run.program import finite

    if at.step == 0 and (held := finite.held(at.state)):
        place.update(nonfinite_at_start=held)
    known = place.record().get("nonfinite_at_start", {})
    return finite.watch(prepared.traced.template, known)


def noticing(place: directory.RunDirectory | Observed, source: Path) -> Callable[[], None]:
    """A function that adds to run.json what the experiment has imported, read and written by now."""
    known = -1

    def notice() -> None:
        nonlocal known
        count = heard.count()
        if count == known:
            return
        known, record = count, place.record()
        then, written = record.get("environment", {}), record.get("wrote", [])
        wrote = list(dict.fromkeys([*written, *heard.outputs()]))
        own = {environment.READ + name for name in wrote}
        files = environment.user_files(source)
        found = {**{name: said for name, said in files.items() if name not in own}, **then}
        if (found, wrote) != (then, written):
            place.update(environment=found, wrote=wrote)

    return notice


def config_hash(resolved: dict[str, Any]) -> str:
    """A hash of what determines the numbers: all but the layout, in which a run may be continued elsewhere."""
    resolved = {name: value for name, value in resolved.items() if name != "devices"}
    return hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()
