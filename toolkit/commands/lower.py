"""`toolkit lower`: the step of an experiment for a TPU or a GPU that is not here."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from toolkit.commands.arguments import add_config
from toolkit.run.experiment.errors import Exit, fail, nearest, printable, shown
from toolkit.run.experiment.words import two_columns
from toolkit.run.store import environment

if TYPE_CHECKING:
    from toolkit.run.program.lowered import LoweredStep

PLATFORMS = ("tpu", "cuda")
_TOPOLOGY = "a generation and its chips, such as v5e:2x4"


def add(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--platform", required=True, type=_platform, metavar="|".join(PLATFORMS))
    compiled = "compile for these chips, such as v5e:2x4"
    parser.add_argument("--topology", metavar="NAME", help=compiled)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: Namespace) -> int:
    """Prints what a step of a config costs on another machine. Nothing is trained.

    Raises: RunError (exit 2) for what cannot be lowered, with its line, and for a topology that is not to be had.
    """
    from toolkit.devices.lowering import keep_to_the_cpu

    environment.pin_threads()
    keep_to_the_cpu()
    chips = _chips(arguments)
    from toolkit.jaxprs.platform import tracing_for
    from toolkit.run.drive.prepare import build
    from toolkit.run.experiment import load
    from toolkit.run.program.compiled import trace
    from toolkit.run.program.lowered import lowered

    loaded = load.load(arguments.config, arguments.overrides)
    source, platform = loaded.experiment, arguments.platform
    with tracing_for(platform, chips):
        settings, program = build(loaded)
        traced = trace(program, settings.seed, source, settings.diagnostics.gradients_every > 0)
        step = lowered(traced, source, platform, chips, settings.seeds)
    print(json.dumps(_object(arguments, step)) if arguments.json else _text(arguments, step))
    return Exit.DONE


def _platform(name: str) -> str:
    if name not in PLATFORMS:
        expected = f"one of {', '.join(PLATFORMS)}"
        raise fail(
            Exit.CONFIG,
            "--platform",
            "no such platform",
            shown(name),
            expected,
            nearest(name, PLATFORMS),
        )
    return name


def _chips(arguments: Namespace) -> tuple[Any, ...]:
    """The chips of the topology that is asked for, () without one. Raises: RunError (exit 2)."""
    from toolkit.devices import lowering

    name = arguments.topology
    if name is None:
        return ()
    if arguments.platform != "tpu":
        got = f"{shown(name)} with --platform {arguments.platform}"
        raise fail(Exit.CONFIG, "--topology", "for tpu alone", got, "no --topology, or tpu")
    if not name:
        raise fail(Exit.CONFIG, "--topology", "empty", shown(name), _TOPOLOGY)
    if not lowering.has_compiler():
        expected = 'pip install "toolkit-jax[tpu-compile]", which brings the TPU compiler libtpu'
        raise fail(Exit.CONFIG, "--topology", "no compiler for TPUs", shown(name), expected)
    try:
        return lowering.chips(name)
    except ValueError as error:
        got = f"{shown(name)}: {error}"
        raise fail(Exit.CONFIG, "--topology", "no such topology", got, _TOPOLOGY) from error


def _object(arguments: Namespace, step: LoweredStep) -> dict[str, Any]:
    return {
        "config": str(arguments.config),
        "platform": arguments.platform,
        "topology": arguments.topology,
        "chips": step.chips,
        "flops": step.flops.once,
        "temp_bytes": step.temp_bytes,
        "largest_constant": step.largest_constant,
        "collectives": step.collectives,
        "custom_calls": step.custom_calls,
    }


def _text(arguments: Namespace, step: LoweredStep) -> str:
    place = arguments.platform
    if arguments.topology is not None:
        place = f"{arguments.topology}, {step.chips} chips"
    names = lambda counts: ", ".join(f"{name} {n}" for name, n in counts.items()) or "none"
    rows = [
        ("FLOPs, on all chips", str(step.flops)),
        ("largest constant", f"{step.largest_constant:,} bytes"),
        ("collectives", names(step.collectives)),
        ("custom calls", names(step.custom_calls)),
    ]
    if step.temp_bytes is not None:
        rows.insert(1, ("temporary memory a chip", f"{step.temp_bytes:,} bytes"))
    return (
        f"{printable(str(arguments.config))}: one step for {printable(place)}\n{two_columns(rows)}"
    )
