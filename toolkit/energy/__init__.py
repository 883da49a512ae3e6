"""Scalar energies whose minima compute."""

from toolkit.energy import layered

__all__ = ["layered"]
