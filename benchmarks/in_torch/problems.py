"""The problems of `benchmarks.problems`, with the same numbers, as users of PyTorch write them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import problems

Model = Callable[[Tensor], Tensor]  # images -> scores


class Problem(NamedTuple):
    """A bilevel problem without randomness. `theta` requires gradients."""

    net: Callable[[], nn.Module]  # where the solve starts
    inner: Callable[[Model, Iterable[Tensor], Tensor], Tensor]  # model, its parameters, theta
    outer: Callable[[Model], Tensor]
    theta: Tensor


def penalties() -> Problem:
    """P1."""
    (images, labels), held_out = map(_labelled, problems.digits())

    def net() -> nn.Module:
        return _with_parameters(nn.Linear(64, 10, bias=False), [torch.zeros(10, 64)])

    def inner(model: Model, parameters: Iterable[Tensor], theta: Tensor) -> Tensor:
        (weights,) = parameters
        return F.cross_entropy(model(images), labels) + 0.5 * (theta.exp() * weights**2).sum()

    return Problem(net, inner, _loss_on(*held_out), torch.full((64,), -4.0, requires_grad=True))


def cleaning(l2: float = 0.0) -> Problem:
    """P2."""
    train, validation, y0 = problems.noisy_digits()
    images, labels = _labelled(train)
    start = [tensor(y0[name]).T.contiguous() for name in ("w1", "b1", "w2", "b2")]

    def net() -> nn.Module:
        return _with_parameters(
            nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 10)), start
        )

    def inner(model: Model, parameters: Iterable[Tensor], theta: Tensor) -> Tensor:
        losses = F.cross_entropy(model(images), labels, reduction="none")
        loss = (theta.sigmoid() * losses).mean()
        return loss + 0.5 * l2 * sum(p.square().sum() for p in parameters) if l2 else loss

    outer = _loss_on(*_labelled(validation))
    return Problem(net, inner, outer, torch.zeros(1000, requires_grad=True))


def tensor(array: Any) -> Tensor:
    """A copy."""
    return torch.tensor(np.asarray(array))


def _labelled(part: Any) -> tuple[Tensor, Tensor]:
    return tensor(part.images), tensor(part.labels).long()


def _loss_on(images: Tensor, labels: Tensor) -> Callable[[Model], Tensor]:
    return lambda model: F.cross_entropy(model(images), labels)


def _with_parameters(net: nn.Module, values: Iterable[Tensor]) -> nn.Module:
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), values, strict=True):
            parameter.copy_(value)
    return net
