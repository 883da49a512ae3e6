"""Which way does a loss fall, told by evaluations? Rules `estimator(loss) -> (theta, key) -> (value, gradient)`.

A loss that is a long unroll can be differentiated a window at a time; those rules are stateful:
`estimator(system) -> (init, step)`.
"""

from toolkit.estimator.backprop import Backprop
from toolkit.estimator.estimate import Estimate
from toolkit.estimator.evolution_strategies import EvolutionStrategies
from toolkit.estimator.forward_gradient import ForwardGradient
from toolkit.estimator.node_perturbation import NodePerturbation, unperturbed
from toolkit.estimator.persistent_es import PersistentES
from toolkit.estimator.truncated_backprop import TruncatedBackprop
from toolkit.estimator.truncated_es import TruncatedES
from toolkit.estimator.unrolled import Unrolled, WindowedEstimator
from toolkit.vocabulary.roles import Estimator

__all__ = [
    "Backprop",
    "Estimate",
    "Estimator",
    "EvolutionStrategies",
    "ForwardGradient",
    "NodePerturbation",
    "PersistentES",
    "TruncatedBackprop",
    "TruncatedES",
    "Unrolled",
    "WindowedEstimator",
    "unperturbed",
]


def __dir__() -> list[str]:
    return sorted(__all__)
