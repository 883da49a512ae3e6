"""P3 in PyTorch: the gradient of the mean loss after adapting, in the start that is learned."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.in_torch.problems import tensor
from benchmarks.suites import p3_maml
from benchmarks.suites.p3_maml import SIZES, STEP_SIZE, STEPS, TASKS

Gradient = Callable[[], Any]


class Waves(NamedTuple):
    """`p3_maml.tasks()` and `p3_maml.start()`."""

    tasks: p3_maml.Task  # of tensors
    start: tuple[Tensor, ...]  # w, b, w, b, w, b; w: [inputs, outputs]


def waves() -> Waves:
    """The same numbers."""
    start = tuple(tensor(leaf) for layer in p3_maml.start() for leaf in layer)
    return Waves(p3_maml.Task(*map(tensor, p3_maml.tasks())), start)


def func(p: Waves) -> Gradient:
    """`torch.func.vmap` over tasks of five steps written out, each by `torch.func.grad`."""

    def loss(params: tuple[Tensor, ...], x: Tensor, y: Tensor) -> Tensor:
        w1, b1, w2, b2, w3, b3 = params
        return F.mse_loss(torch.relu(torch.relu(x @ w1 + b1) @ w2 + b2) @ w3 + b3, y)

    def after(params: tuple[Tensor, ...], task: p3_maml.Task) -> Tensor:
        for _ in range(STEPS):
            slope = torch.func.grad(loss)(params, task.x, task.y)
            params = tuple(a - STEP_SIZE * b for a, b in zip(params, slope, strict=True))
        return loss(params, task.new_x, task.new_y)

    mean = lambda params: torch.func.vmap(after, (None, 0))(params, p.tasks).mean()
    return lambda: torch.func.grad(mean)(p.start)


def higher(p: Waves) -> Gradient:
    """A loop over tasks, `higher.innerloop_ctx` for each."""
    import higher

    net = _net(p)
    optimizer = torch.optim.SGD(net.parameters(), STEP_SIZE)

    def gradient() -> Any:
        net.zero_grad()
        for task in zip(*p.tasks, strict=True):
            x, y, new_x, new_y = task
            with higher.innerloop_ctx(net, optimizer, copy_initial_weights=False) as (model, steps):
                for _ in range(STEPS):
                    steps.step(F.mse_loss(model(x), y))
                (F.mse_loss(model(new_x), new_y) / TASKS).backward()
        return _as_started(parameter.grad for parameter in net.parameters())

    return gradient


def torchopt(p: Waves) -> Gradient:
    """A loop over tasks, `torchopt.MetaSGD` put back after each."""
    import torchopt

    net = _net(p)
    optimizer = torchopt.MetaSGD(net, lr=STEP_SIZE)
    start = torchopt.extract_state_dict(net), torchopt.extract_state_dict(optimizer)
    parameters = tuple(net.parameters())

    def gradient() -> Any:
        losses = []
        for x, y, new_x, new_y in zip(*p.tasks, strict=True):
            for _ in range(STEPS):
                optimizer.step(F.mse_loss(net(x), y))
            losses.append(F.mse_loss(net(new_x), new_y))
            torchopt.recover_state_dict(net, start[0])
            torchopt.recover_state_dict(optimizer, start[1])
        return _as_started(torch.autograd.grad(torch.stack(losses).mean(), parameters))

    return gradient


def _net(p: Waves) -> nn.Module:
    first, second, third = (nn.Linear(n, m) for n, m in pairwise(SIZES))
    net = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), p.start, strict=True):
            parameter.copy_(value.T)
    return net


def _as_started(gradients: Any) -> Any:
    """`nn.Linear` keeps `[outputs, inputs]`."""
    return [gradient.T for gradient in gradients]
