"""Where do arrays lie? Meshes, rows split over devices, data parallelism, models in several places.

Thin, over `jax.sharding`: whatever is made here is an ordinary `jax.sharding.Mesh` or `jax.Array`.

mesh = tk.devices.mesh()                       # all devices, on the axis `data`
rows = tk.devices.split({"x": x, "z": z}, mesh)
gradient = tk.devices.data_parallel(lambda theta, rows: ..., mesh)
gradient(theta, rows)
"""

from toolkit.devices.meshes import mesh
from toolkit.devices.parallel import data_parallel
from toolkit.devices.placement import Placement, place
from toolkit.devices.rows import Rows, replicated, split

__all__ = [
    "Placement",
    "Rows",
    "data_parallel",
    "mesh",
    "place",
    "replicated",
    "split",
]


def __dir__() -> list[str]:
    return sorted(__all__)
