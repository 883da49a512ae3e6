"""Which energy does a network settle in? Scalar energies whose stationary states compute.

    energy = tk.energy.hopfield(model)
    state = energy.rest(params, x)
    for _ in range(30):
        state = energy.update(params, x, state)
    output = energy.output(params, x, state)

The rules of `tk.credit` that relax take one as their model.
"""

from toolkit.energy.descending import descending
from toolkit.energy.energy_model import EnergyModel, settle
from toolkit.energy.networks import hopfield, lifted, predictive_coding
from toolkit.energy.resistive import resistive
from toolkit.energy.resistive_device import ResistiveDevice

__all__ = [
    "EnergyModel",
    "ResistiveDevice",
    "descending",
    "hopfield",
    "lifted",
    "predictive_coding",
    "resistive",
    "settle",
]


def __dir__() -> list[str]:
    return sorted(__all__)
