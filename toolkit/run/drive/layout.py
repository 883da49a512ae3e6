"""What a run is spread over: its processes and its mesh of devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolkit.run.drive.team import Team
from toolkit.run.experiment.common import Settings
from toolkit.run.experiment.errors import Exit, RunError, fail, shown

if TYPE_CHECKING:
    from jax.sharding import Mesh

LAYOUT = "layout"  # in run.json
# Of a run whose record does not tell.
ALONE: dict[str, Any] = {"processes": 1, "devices": 1, "mesh": {}}


def mesh_of(settings: Settings, team: Team) -> Mesh | None:
    """The devices that the run is spread over; None for one device.

    Raises: RunError (exit 2) for a mesh that cannot be made of the devices there are.
    """
    sizes: dict[str, Any] = settings.devices.mesh
    if not sizes and team.count == 1:
        return None
    import jax

    from toolkit import devices

    if settings.seeds > 1:
        raise _refused(f"with `seeds: {settings.seeds}`", "one process and {}, or one seed", sizes)
    try:
        mesh = devices.mesh(**sizes)
    except (ValueError, TypeError) as error:
        raise _refused(str(error).rstrip("."), "axes that there are devices for", sizes) from None
    idle = {device.process_index for device in jax.devices()} - {
        device.process_index for device in mesh.devices.flat
    }
    if idle:
        expected = f"all {jax.device_count()} of {team.count} processes"
        raise _refused(f"{mesh.size} devices", expected, sizes)
    return mesh


def record(mesh: Mesh | None, team: Team) -> dict[str, Any]:
    """The layout, for run.json."""
    if mesh is None:
        return ALONE
    return {"processes": team.count, "devices": mesh.size, "mesh": dict(mesh.shape)}


def _refused(what: str, expected: str, sizes: dict[str, int]) -> RunError:
    return fail(Exit.CONFIG, "config", f"devices.mesh: {what}", shown(sizes), expected)
