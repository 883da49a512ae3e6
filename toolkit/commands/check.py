"""`toolkit check`: the config, the program, and two steps, a save and a load of it, in a folder that is removed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from toolkit.run.drive.prepare import PreparedRun, prepare
from toolkit.run.experiment import experiments, load, plain_yaml
from toolkit.run.experiment.errors import Exit, fail, printable
from toolkit.run.experiment.output import warn
from toolkit.run.program.budget import Pace, Paced, with_fractions
from toolkit.run.store import environment

STEPS = 2


def check(path: Path, words: Sequence[str]) -> int:
    """Validates a config, runs two steps, saves and loads the state; prints the resolved config.

    Warns of each input of the program's losses whose gradient is always zero.

    Raises: RunError: exit 2 for a config or a program that is wrong, exit 3 for a state that a load changes, exit 6
        for numbers that are not finite.
    """
    environment.pin_threads()
    prepared = prepare(load.load(path, words))
    from toolkit.run.program.losses import dead_inputs
    from toolkit.run.store.arrays import named_leaves

    dead = dead_inputs(prepared.traced, prepared.loaded.experiment)
    for name, inputs in dead.items():
        for found in inputs:
            warn(printable(f"{prepared.loaded.experiment}: losses: {name}: {found}"))
    size = _try(prepared)
    leaves = named_leaves(prepared.traced.template).values()
    count = sum(leaf.size for leaf in leaves)
    print(plain_yaml.dump(prepared.loaded.resolved), end="")
    metrics = ", ".join(prepared.traced.metrics) or "none"
    if dead:
        number = sum(map(len, dead.values())) or "none"
        print(f"# inputs without gradient in the losses {', '.join(dead)}: {number}")
    print(f"# tried {STEPS} steps, a save and a load of {size:,} bytes")
    print(
        f"# ok: {prepared.loaded.experiment}, state of {len(leaves)} arrays with {count:,} numbers, metrics: {metrics}"
    )
    return Exit.DONE


def _try(prepared: PreparedRun) -> int:
    """Returns the bytes of a checkpoint."""
    import numpy as np

    from toolkit.run.program import finite
    from toolkit.run.program.seeds_on_cores import compile_program
    from toolkit.run.store import arrays, checkpoint, metrics

    source = prepared.loaded.experiment
    compiled = compile_program(prepared.traced, source)
    if issubclass(type(compiled.template), Paced):
        compiled = with_fractions(compiled, Pace(STEPS, None, 0.0), 0, 1)
    with experiments.reported(source, "init failed"):
        state = compiled.init()
    watch = finite.watch(state, finite.held(state))
    for step in range(1, STEPS + 1):
        with experiments.reported(source, f"step {step} failed"):
            made = compiled.advance(state, np.int32(1), np.int32(1))
        state, bad = made.state, watch.bad(np.asarray(made.found[0]))
        if step % prepared.settings.log_every == 0:
            bad |= finite.bad_metrics({name: made.values[name][0].item() for name in made.values})
        if bad:
            what = f"step {step}: {', '.join(bad)} not finite"
            remedy = "finite numbers; `toolkit run` says which line made it"
            raise fail(Exit.NOT_FINITE, source, what, ", ".join(bad.values()), remedy)
    with tempfile.TemporaryDirectory(prefix="toolkit-check-") as name:
        folder, log = Path(name), Path(name) / "metrics.jsonl"
        log.touch()
        size = checkpoint.save(folder, STEPS, state, 0.0, metrics.EMPTY, "")
        room = arrays.size(compiled.template)
        found = checkpoint.load_newest(folder, "", log, room, warn)
        assert found is not None  # or it raises
        again = checkpoint.restore(found, compiled.template, folder)
    if arrays.encode(again) != arrays.encode(state):
        raise fail(Exit.CHECKPOINT, source, "a load changes the state", "other bits", "the same")
    return size
