"""`NodePerturbation`: noise on the nodes of a computation, correlated with the change of the loss."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.errors.readable import readable
from toolkit.estimator.estimate import (
    Estimate,
    real_losses,
    rejoin,
    require_divisor,
)
from toolkit.estimator.sampling import average, gaussian_like, split
from toolkit.jaxprs.hidden import trace_state
from toolkit.leaves.containers import packed
from toolkit.settings import Count, Positive, settings
from toolkit.types import Tree

NodeLoss = Callable[[Tree, "Perturb"], Array]  # (theta, perturb) -> [] or [B] real


class Perturb(Protocol):
    """Marks a node: `h = perturb("hidden", x @ w)`.

    Args:
      name: tells this node from the others.
      x: the node's value, an array or a tree of floating arrays.
      index: which of the nodes of this name it is, where the node stands in a loop (its step) or
        in a function that is transformed (`jit`, `vmap`, `checkpoint`, ...); may be traced.
    """

    def __call__(self, name: str, x: Tree, index: int | Array | None = None) -> Tree: ...


def unperturbed(name: str, x: Tree, index: int | Array | None = None) -> Tree:
    """The hook that does nothing, for evaluation and for the other estimators."""
    del name, index
    return x


@settings("node_perturbation")
class NodePerturbation:
    """The gradient by the chain rule; the derivative by the nodes is measured, not backpropagated.

    All nodes `a_k` are moved at once, `a_k + sigma e_k` with `e_k ~ N(0, I)`, and the change of the
    loss is correlated with the noise. What remains is each node's own derivative in `theta`, with the
    node's inputs held constant:

        d_k = 1/n sum_i e_k^i [L(noise i) - L(no noise)] / sigma,    g = sum_k (da_k/dtheta)^T d_k

    `d_k` is unbiased for the derivative by `a_k` of the loss smoothed over all nodes' noise, hence
    exact in the mean where `L` is quadratic in the nodes. For `N` noisy units and a locally linear
    loss the variance of all `d_k` together is `(N + 1) |dL/da|^2 / n`: far below that of
    `EvolutionStrategies` where units are fewer than parameters. A path from `theta` to the loss
    that crosses no node (a readout behind the last one, a penalty) has its exact derivative.

    A loss of one number an example, `[B]`, is averaged, and each example's noise is correlated with
    its own loss, which divides the variance by about `B`. Then the leading axis of every node is
    that of the examples, and no example may see another's nodes (no batch normalization).

    Args:
      sigma: `> 0`, in units of the nodes; a number, or an array `[]`. Below the square root of the
        dtype's epsilon what the loss changes by is rounding.
      num_samples: `n >= 1`, noisy evaluations.
      batch: samples at once, a divisor of `num_samples`; None is all of them. The noise does not
        depend on it, the last bits may.

    Raises:
      ValueError: `batch` does not divide `num_samples`; `loss` returns something else than `[]` or
        `[B]` real numbers; two nodes share a name and an index; a node in a loop has no index.

    Differentiation: not of the estimate; the nodes' own derivatives need reverse mode.

    Cost: `n + 2` evaluations and one reverse pass without the cross-node terms; memory of `batch`
    evaluations, or of the reverse pass. Noise is drawn twice rather than stored.

    Source: Williams 1992 (REINFORCE, many layers at once); Werfel, Xie and Seung 2005,
    Learning Curves for Stochastic Gradient Descent in Linear Feedforward Networks (the noiseless
    baseline); Dalm, van Gerven and Ahmad 2023 for deep networks.
    """

    sigma: Positive
    num_samples: Count = 1
    batch: Count | None = None

    def __post_init__(self) -> None:
        require_divisor("batch", self.batch, "num_samples", self.num_samples)

    def __call__(self, loss: NodeLoss) -> Callable[[Tree, Array], Estimate]:
        """`(theta, key) -> (value, gradient)`; the value is the (mean) loss without noise."""

        @readable
        def estimate(theta: Tree, key: Array) -> Estimate:
            parts = tree.parts(theta)
            sample_keys = split(key, self.num_samples)

            def losses(inexact: Tree, at_node: _AtNode) -> Array:
                return real_losses(loss(rejoin(parts, inexact), _hook(at_node)))

            def add_noise(sample_key: Array) -> _AtNode:
                def noisy(address: _Address, x: Tree) -> Tree:
                    return tree.add_scaled(x, self.sigma, gaussian_like(address(sample_key), x))

                return noisy

            # The loss without noise is subtracted from each noisy one. That leaves the mean as it is, since
            # the noise has mean 0, and takes the size of the loss itself out of the variance.
            clean = losses(parts.inexact, lambda address, x: x)

            def change(sample_key: Array) -> tuple[Array, None]:
                return losses(parts.inexact, add_noise(sample_key)) - clean, None

            changes, _ = average(change, sample_keys, self.num_samples, self.batch)
            # The loss is a mean over B examples, so each example's loss has the weight 1/B.
            weights = changes / (self.sigma * clean.size)

            def give_credit(address: _Address, x: Tree) -> Tree:
                def correlation(sample: tuple[Array, Array]) -> tuple[None, Tree]:
                    sample_key, weight = sample
                    noise = tree.conj(gaussian_like(address(sample_key), x))
                    return None, jax.tree.map(lambda e: _along(weight, e) * e, noise)

                samples = (sample_keys, weights)
                _, credit = average(correlation, samples, self.num_samples, self.batch)
                return _credited(x, jax.tree.map(lambda c, leaf: c.astype(leaf.dtype), credit, x))

            value, gradient = jax.value_and_grad(
                lambda inexact: jnp.mean(losses(inexact, give_credit))
            )(parts.inexact)
            return Estimate(value, packed(gradient))

        return estimate


_Address = Callable[[Array], Array]  # a sample's key -> this node's key
_AtNode = Callable[[_Address, Tree], Tree]  # what happens to a node's value


def _hook(at_node: _AtNode) -> Perturb:
    """A `perturb` for one run of the loss, in which no two nodes may draw the same noise."""
    seen: set[tuple[str, int]] = set()
    here = trace_state()

    def perturb(name: str, x: Tree, index: int | Array | None = None) -> Tree:
        inside = trace_state() != here
        if inside and index is None:
            raise ValueError(
                f"`perturb({name!r}, ...)` stands in a loop or a transformed function, where every "
                "pass would draw the same noise: pass `index`, the number of the pass (0 for one)."
            )
        number = 0 if index is None else index
        if not inside and not isinstance(number, jax.core.Tracer):
            if (name, int(number)) in seen:
                raise ValueError(
                    f"`perturb({name!r}, ..., index={index})` was called twice, and two nodes of one "
                    "name would share their noise: give them two names, or two indices."
                )
            seen.add((name, int(number)))

        def address(sample_key: Array) -> Array:
            # Python's own `hash` of a text differs from process to process, and so would the noise.
            of_name = jax.random.fold_in(sample_key, zlib.crc32(name.encode()))
            return jax.random.fold_in(of_name, number)

        return at_node(address, x)

    return perturb


def _along(weight: Array, noise: Array) -> Array:
    """A weight `[]` or `[B]`, shaped to multiply noise `[...]` or `[B, ...]`."""
    if weight.ndim and noise.shape[:1] != weight.shape:
        raise ValueError(
            f"a node must have the examples along its first axis, as the loss has {weight.size} of "
            f"them: got shape {noise.shape}; return the mean loss instead."
        )
    return weight.reshape(weight.shape + (1,) * (noise.ndim - weight.ndim))


# The identity in `x`. Its reverse rule drops the cotangent that arrives, and passes on `credit`, the
# measured derivative by this node: so no derivative is propagated from node to node.
@jax.custom_vjp
def _credited(x: Tree, credit: Tree) -> Tree:
    del credit
    return x


def _credited_forward(x: Tree, credit: Tree) -> tuple[Tree, Tree]:
    return x, credit


def _credited_backward(credit: Tree, cotangent: Tree) -> tuple[Tree, Tree]:
    del cotangent
    return credit, jax.tree.map(jnp.zeros_like, credit)


_credited.defvjp(_credited_forward, _credited_backward)
