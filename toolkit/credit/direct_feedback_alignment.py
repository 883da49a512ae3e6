"""`DirectFeedbackAlignment`: each hidden layer gets the output's error through a fixed random medium.

    e = dloss/da_L of each example,    delta_k = act'(a_k) (e M)_k / sqrt(N_k),    delta_L = e

with `(e M)_k` the layer's slice of one projection of the error onto all hidden units, which a device
makes: a matrix, or light in a scattering medium.
"""

from __future__ import annotations

from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from toolkit.credit import passes
from toolkit.credit.passes import Batch, Info, Learner, Loss
from toolkit.credit.projections import GaussianProjection, Projection
from toolkit.settings import settings
from toolkit.types import Tree
from toolkit.vocabulary.kinds import Given

Device = Annotated[
    Projection,
    Given(
        "a device with init(key, num_errors, num_units, dtype) and project(medium, error, key), such as "
        "tk.credit.GaussianProjection()",
        fits=lambda value: (
            not isinstance(value, type) and hasattr(value, "init") and hasattr(value, "project")
        ),
        room="toolkit.credit",
        member="project",
    ),
]


@settings("direct_feedback_alignment")
class DirectFeedbackAlignment:
    """The output's error, projected at random onto all hidden layers at once.

    Args:
      device: `init(key, num_errors, num_units, dtype)` makes a medium, which is the state;
        `project(medium, error, key)` takes each example's error by `a_L`, `[B, num_errors]`, to
        `[B, num_units]`: the slices of the hidden layers, the first layer's first.

    Raises:
      ValueError: a model without layers; a projection of another shape.

    State: the medium.

    Cost: backprop's without its way down, and the projection; memory of the medium.

    Source: Nøkland 2016, equation 7; Launay et al. 2020 (a photonic device).
    """

    device: Device = GaussianProjection()

    def __call__(self, model: Any, loss: Loss) -> Learner:
        """`(init, gradients)` of a layered model under a loss."""
        model = passes.layers_of("DirectFeedbackAlignment", model)

        def init(key: Array, params: Tree, batch: Batch) -> Any:
            x, _ = batch
            pre = passes.shapes(model, params, x).pre
            *hidden, last = [int(np.prod(a.shape[1:])) for a in pre]
            return self.device.init(key, last, sum(hidden), pre[-1].dtype)

        def gradients(params: Tree, state: Any, batch: Batch, key: Array) -> tuple[Tree, Any, Info]:
            x, target = batch
            up = passes.forward(model, params, x)
            judged = passes.judge(loss, up.output, target)
            error = passes.through_activation(model.layers[-1], up.pre[-1], judged.error)
            signals = self._signals(state, error, key, up.pre[:-1])
            hidden = zip(model.layers[:-1], up.pre[:-1], signals, strict=True)
            deltas = [passes.through_activation(*one) for one in hidden]
            gradient = passes.gradients_of(model, params, up.inputs, [*deltas, error])
            return gradient, state, passes.said(judged.mean, gradient)

        return passes.learner(init, gradients)

    def _signals(
        self, medium: Any, error: Array, key: Array, hidden: tuple[Array, ...]
    ) -> list[Array]:
        """What arrives at each hidden layer."""
        if not hidden:
            return []
        sizes = [int(np.prod(a.shape[1:])) for a in hidden]
        projected = self.device.project(medium, passes.flat(error), key)
        if projected.shape != (len(error), sum(sizes)):
            raise ValueError(
                f"`device` must project onto {sum(sizes)} units, [B, {sum(sizes)}]: got shape "
                f"{projected.shape}."
            )
        parts = jnp.split(projected, np.cumsum(sizes)[:-1], axis=1)
        return [
            (part / size**0.5).reshape(a.shape)
            for part, size, a in zip(parts, sizes, hidden, strict=True)
        ]

    def predict(self, model: Any) -> Any:
        """`model.apply`."""
        return model.apply
