"""Which rule says how each parameter must change? Learning rules, with and without backprop, on one model.

    model = tk.credit.layered([(dense, jnp.tanh), (readout, tk.credit.identity)])
    rule = tk.credit.DualPropagation()
    init, gradients = rule(model, loss)  # loss(output, target) -> [B]
    state = init(key, params, batch)
    grads, state, info = gradients(params, state, batch, key)

Any callable `(model, loss) -> (init, gradients)` is a rule.
"""

from toolkit.credit.alignment import Alignment, alignment
from toolkit.credit.backprop import Backprop
from toolkit.credit.comparison import RuleComparison, compare
from toolkit.credit.contrastive import ContrastiveLearning, CoupledLearning
from toolkit.credit.difference_target_propagation import DifferenceTargetPropagation
from toolkit.credit.direct_feedback_alignment import DirectFeedbackAlignment
from toolkit.credit.dual_propagation import DualPropagation
from toolkit.credit.equilibrium_propagation import EquilibriumPropagation
from toolkit.credit.feedback_alignment import FeedbackAlignment
from toolkit.credit.forward_forward import ForwardForward, overlay
from toolkit.credit.layered import layered
from toolkit.credit.local_losses import LocalLosses
from toolkit.credit.node_perturbation import NodePerturbation
from toolkit.credit.passes import Info, Learner
from toolkit.credit.predictive_coding import PredictiveCoding
from toolkit.credit.projections import GaussianProjection, PhotonicProjection
from toolkit.credit.synthetic_gradients import SyntheticGradients
from toolkit.credit.training import TrainState, epoch, train
from toolkit.models.layers import identity
from toolkit.vocabulary.roles import Rule

__all__ = [
    "Alignment",
    "Backprop",
    "ContrastiveLearning",
    "CoupledLearning",
    "DifferenceTargetPropagation",
    "DirectFeedbackAlignment",
    "DualPropagation",
    "EquilibriumPropagation",
    "FeedbackAlignment",
    "ForwardForward",
    "GaussianProjection",
    "Info",
    "Learner",
    "LocalLosses",
    "NodePerturbation",
    "PhotonicProjection",
    "PredictiveCoding",
    "Rule",
    "RuleComparison",
    "SyntheticGradients",
    "TrainState",
    "alignment",
    "compare",
    "epoch",
    "identity",
    "layered",
    "overlay",
    "train",
]


def __dir__() -> list[str]:
    return sorted(__all__)
