"""`ForwardForward`: two forward passes, one with the right label in the input and one with a wrong one.

Each hidden layer learns by itself to tell them apart by its goodness `G = mean h^2`:

    softplus(threshold - G) with the right label  +  softplus(G - threshold) with a wrong one

It sees what is below over its root mean square, else the first layer's goodness would be all that the
second one looks at. The last layer learns to read the class out of the highest hidden layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from annotated_types import Ge
from jax import Array

from toolkit import tree
from toolkit.credit import passes
from toolkit.credit.layered import Layered
from toolkit.credit.passes import Batch, Info, Learner, Loss
from toolkit.derive.refusal import refuse_derivatives
from toolkit.settings import Positive, settings
from toolkit.types import Tree
from toolkit.vocabulary.kinds import Given

Embed = Annotated[
    Any, Given("a callable embed(x, label [B, C]) -> x", fits=lambda value: callable(value))
]


def overlay(x: Array, label: Array) -> Array:
    """`x` `[B, ...]` with its first `C` numbers replaced by the label `[B, C]`, as large as the example.

    The label's 1 becomes the example's largest absolute value, so that it is neither lost nor all there is.
    """
    rows = passes.flat(x)
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    marked = jnp.concatenate([label * largest, rows[:, label.shape[1] :]], axis=1)
    return marked.astype(x.dtype).reshape(x.shape)


_NO_DERIVATIVE = (
    "ForwardForward has gradients that nothing can be differentiated through: each layer takes what the layers "
    "below it say as data; use another rule of tk.credit, such as LocalLosses, where its gradient is to be "
    "differentiated."
)


@settings("forward_forward")
class ForwardForward:
    """Hidden layers that tell right labels from wrong ones, without anything that comes back.

    Args:
      num_classes: `C`, at least 2.
      threshold: of the goodness, positive; 2 with the mean of squares.
      embed: `(x, label [B, C]) -> x`, puts a label into the input; `overlay` writes it over the first
        `C` numbers.
      inference: what predicts: `"goodness"`, the sum over hidden layers for each label, in `C` forward
        passes; or `"readout"`, the last layer after one pass with every label alike, `1 / C`.

    Raises:
      ValueError: a model without layers, or without a hidden one; a target that is no class; an input
        with fewer than `C` numbers under `overlay`.

    State: `()`. `info.loss` is that of the last layer's read-out. `predict` gives `[B, C]`.

    Cost: three forward passes and their gradients layer by layer; memory of one layer at a time.

    Source: Hinton 2022, sections 2 and 3.3. Unlike (Hinton, section 2): the mean of squares in place of
    their sum, so that one threshold serves all widths; the read-out sees the highest hidden layer alone.
    """

    num_classes: Annotated[int, Ge(2)]
    threshold: Positive = 2.0
    embed: Embed = overlay
    inference: Literal["goodness", "readout"] = "goodness"

    def __call__(self, model: Any, loss: Loss) -> Learner:
        """`(init, gradients)` of a layered model; `loss` is that of the read-out."""
        model = _with_hidden(model)

        def total(params: Tree, batch: Batch, key: Array) -> tuple[Array, Array]:
            x, target = batch
            right = passes.one_hot(target, self.num_classes, jnp.result_type(x, float))
            if right.shape != (len(x), self.num_classes):
                raise ValueError(
                    f"`target` must be classes [B], or one-hot [B, {self.num_classes}]: got shape "
                    f"{jnp.shape(target)}."
                )
            wrong = _wrong(key, right)
            told = jnp.zeros(())
            for label, sign in ((right, -1), (wrong, 1)):
                for good in _goodness(model, params, self.embed(x, label)):
                    told += jnp.mean(jax.nn.softplus(sign * (good - self.threshold)))
            output = _read(model, params, self.embed(x, jnp.full_like(right, 1 / self.num_classes)))
            read = passes.mean_loss(passes.example_losses(loss, output, target))
            return told + read, read

        def gradients(params: Tree, state: Any, batch: Batch, key: Array) -> tuple[Tree, Any, Info]:
            params, batch = refuse_derivatives((params, batch), _NO_DERIVATIVE)
            gradient, read = jax.grad(total, has_aux=True)(params, batch, key)
            return gradient, state, passes.said(read, gradient)

        return passes.learner(passes.no_state, gradients)

    def predict(self, model: Any) -> Callable[[Tree, Array], Array]:
        """`(params, x) -> [B, C]`, the larger the likelier."""
        model = _with_hidden(model)

        def by_goodness(params: Tree, x: Array) -> Array:
            def of(label: Array) -> Array:
                good = _goodness(model, params, self.embed(x, jnp.tile(label, (len(x), 1))))
                return sum(good[1:], start=good[0])

            labels = jnp.eye(self.num_classes, dtype=jnp.result_type(x, float))
            return jax.lax.map(of, labels).T

        def by_readout(params: Tree, x: Array) -> Array:
            dtype = jnp.result_type(x, float)  # a share of a label is 0 in the integers of an image
            alike = jnp.full((len(x), self.num_classes), 1 / self.num_classes, dtype)
            return _read(model, params, self.embed(x, alike))

        return by_goodness if self.inference == "goodness" else by_readout


def _with_hidden(model: Any) -> Layered:
    layers = passes.layers_of("ForwardForward", model).layers
    if len(layers) < 2:
        raise ValueError("`model` must have a hidden layer for ForwardForward: got one layer.")
    return model


def _goodness(model: Layered, params: Tree, x: Array) -> list[Array]:
    """`G` of each hidden layer, `[B]` each; no derivative passes from layer to layer."""
    good, h = [], x
    for layer, own in zip(model.layers[:-1], params, strict=False):
        h = layer.activation(layer.pre(own, jax.lax.stop_gradient(_normalised(h))))
        good.append(jnp.mean(passes.flat(h) ** 2, axis=1))
    return good


def _read(model: Layered, params: Tree, x: Array) -> Array:
    """The last layer's output above the hidden ones, which it does not teach."""
    h = x
    for layer, own in zip(model.layers[:-1], params, strict=False):
        h = layer.activation(layer.pre(own, _normalised(h)))
    last = model.layers[-1]
    return last.activation(last.pre(params[-1], jax.lax.stop_gradient(_normalised(h))))


def _normalised(h: Array) -> Array:
    """`h` over the root mean square of each example; zeros stay zeros."""
    rows = passes.flat(h)
    spread = jnp.sqrt(jnp.mean(rows**2, axis=1, keepdims=True))
    return tree.safe_divide(rows, spread).reshape(h.shape)


def _wrong(key: Array, right: Array) -> Array:
    """A wrong class of each example, drawn evenly, one-hot."""
    classes = right.shape[1]
    shift = jax.random.randint(key, (len(right),), 1, classes)
    wrong = (jnp.argmax(right, axis=1) + shift) % classes
    return jax.nn.one_hot(wrong, classes, dtype=right.dtype)
