"""Exact reversal of momentum gradient descent: how does a solve run backwards to the bit?"""

from toolkit.adjoint.reversible.rule import Reversible

__all__ = ["Reversible"]
