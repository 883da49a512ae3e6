"""Ways to a hypergradient, each as the library's own documentation shows it.

Each takes a problem and gives a function that makes the gradient anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.in_torch.problems import Model, Problem
from benchmarks.problems import MOMENTUM, STEP_SIZE, STEPS
from benchmarks.ways import CG_STEPS

Gradient = Callable[[], Any]


def higher(p: Problem) -> Gradient:
    """`higher.innerloop_ctx` around `torch.optim.SGD`."""
    import higher

    net = p.net()
    optimizer = torch.optim.SGD(net.parameters(), STEP_SIZE, MOMENTUM)

    def gradient() -> Any:
        with higher.innerloop_ctx(net, optimizer) as (model, steps):
            for _ in range(STEPS):
                steps.step(p.inner(model, model.parameters(), p.theta))
            return torch.autograd.grad(p.outer(model), p.theta)

    return gradient


def torchopt(p: Problem) -> Gradient:
    """`torchopt.MetaSGD`; the module and the optimizer are put back after each solve."""
    import torchopt

    net = p.net()
    optimizer = torchopt.MetaSGD(net, lr=STEP_SIZE, momentum=MOMENTUM)
    start = torchopt.extract_state_dict(net), torchopt.extract_state_dict(optimizer)

    def gradient() -> Any:
        for _ in range(STEPS):
            optimizer.step(p.inner(net, net.parameters(), p.theta))
        found = torch.autograd.grad(p.outer(net), p.theta)
        torchopt.recover_state_dict(net, start[0])
        torchopt.recover_state_dict(optimizer, start[1])
        return found

    return gradient


def torchopt_implicit(p: Problem) -> Gradient:
    """`torchopt.diff.implicit.custom_root` around a solve by `torchopt.sgd`."""
    import torchopt

    net = p.net()
    names = [name for name, _ in net.named_parameters()]
    cg = torchopt.linear_solve.solve_cg(maxiter=CG_STEPS, rtol=0.0, atol=0.0)

    def model(y: tuple[Tensor, ...]) -> Model:
        parameters = dict(zip(names, y, strict=True))
        return lambda images: torch.func.functional_call(net, parameters, (images,))

    def objective(y: tuple[Tensor, ...], theta: Tensor) -> Tensor:
        return p.inner(model(y), y, theta)

    @torchopt.diff.implicit.custom_root(torch.func.grad(objective), argnums=1, solve=cg)
    def solve(y: tuple[Tensor, ...], theta: Tensor) -> tuple[Tensor, ...]:
        optimizer = torchopt.sgd(STEP_SIZE, momentum=MOMENTUM)
        state = optimizer.init(y)
        with torch.enable_grad():
            for _ in range(STEPS):
                slope = torch.autograd.grad(objective(y, theta), y)
                updates, state = optimizer.update(slope, state, inplace=True)
                y = torchopt.apply_updates(y, updates, inplace=True)
        return y

    def gradient() -> Any:
        y = solve(
            tuple(leaf.detach().clone().requires_grad_() for leaf in net.parameters()), p.theta
        )
        return torch.autograd.grad(p.outer(model(y)), p.theta)

    return gradient


class _Theta(nn.Module):
    def __init__(self, theta: Tensor):
        super().__init__()
        self.theta = nn.Parameter(theta.detach().clone())

    def forward(self) -> Tensor:
        return self.theta


def betty(p: Problem) -> Gradient:
    """`betty.problems.IterativeProblem` below, an `ImplicitProblem` of `first_order=False` above."""
    from betty.configs import Config
    from betty.problems import IterativeProblem

    class Inner(IterativeProblem):
        def forward(self, images: Tensor) -> Tensor:
            return self.fmodule(self.params, self.buffers, images)

        def training_step(self, batch: Any) -> Tensor:
            return p.inner(self, self.params, self.outer())

        def on_inner_loop_start(self) -> None:
            self.params = tuple(leaf.detach().clone().requires_grad_() for leaf in net.parameters())
            for state in self.optimizer.state:
                state["momentum_buffer"] = None

    net = p.net()
    below = Config(unroll_steps=STEPS, retain_graph=True)
    return _by_engine(p, Inner, net, below, Config(first_order=False))


def betty_implicit(p: Problem) -> Gradient:
    """`betty.problems.ImplicitProblem` of type "cg" below.

    Its next direction is made of the old residual (betty's issue 15, mended after the last release), so expect to
    be told that the gradient is wrong.
    """
    from betty.configs import Config
    from betty.problems import ImplicitProblem

    class Inner(ImplicitProblem):
        def training_step(self, batch: Any) -> Tensor:
            return p.inner(self, self.module.parameters(), self.outer())

        def on_inner_loop_start(self) -> None:
            self.module.load_state_dict(start)
            self.optimizer.state.clear()

    net = p.net()
    start = {name: leaf.clone() for name, leaf in net.state_dict().items()}
    below = Config(type="cg", cg_iterations=CG_STEPS, unroll_steps=STEPS)
    return _by_engine(p, Inner, net, below, Config(retain_graph=True))


def _by_engine(p: Problem, inner: Any, net: nn.Module, below: Any, above: Any) -> Gradient:
    """One outer step by betty's engine, which hands the gradient to the optimizer instead of returning it."""
    from betty.configs import EngineConfig
    from betty.engine import Engine
    from betty.problems import ImplicitProblem

    class Outer(ImplicitProblem):
        def training_step(self, batch: Any) -> Tensor:
            return p.outer(self.inner)

        def custom_optimizer_step(self) -> None:
            self.found = [parameter.grad for parameter in self.trainable_parameters()]

    theta, batches = _Theta(p.theta), [()]  # the data are in the losses
    optimizers = [torch.optim.SGD(m.parameters(), STEP_SIZE, MOMENTUM) for m in (net, theta)]
    lower = inner("inner", below, net, optimizers[0], train_data_loader=batches)
    upper = Outer("outer", above, theta, optimizers[1], train_data_loader=batches)
    dependencies = {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}}
    engine = Engine([upper, lower], EngineConfig(train_iters=STEPS), dependencies)

    def gradient() -> Any:
        engine.run()
        return upper.found

    return gradient
