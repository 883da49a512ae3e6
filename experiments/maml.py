"""A start from which a few examples suffice, learned by MAML and by what differs from it in a word.

    toolkit run configs/maml.yaml                                       about 60 s on 2 cores
    toolkit run configs/maml.yaml methods.maml.adjoint.kind=stopped     one word: first-order MAML
    toolkit run configs/maml_digits.yaml                                handwritten digits
    toolkit run configs/maml_implicit.yaml                              implicit MAML, on waves

A network is adapted to a task by a few steps on its support examples and judged on its query
examples. What is learned is the start `theta` of all tasks. The inner variable is the displacement from
it, so that everything the start gets from a derivative stands in `adjoint`:

    min_theta  mean_tasks query_loss(theta + delta(theta))
    delta(theta): descent, from 0, on  support_loss(theta + delta) + proximity / 2 |delta|^2

With `g` the query gradient where the adaptation ends and `H` the support loss's Hessian, `theta` gets

    adjoint unroll                      (1 - step_size H) g, one factor a step: MAML
    adjoint stopped                     g, as if delta were a constant: first-order MAML
    adjoint implicit, a proximity       (1 + H / proximity)^-1 g, if delta is a minimum: implicit MAML
    adjoint unroll, adapts head         the first, delta having the last layer only: ANIL
    stopped, learns from displacement   -delta, no derivative at all: Reptile

Reptile adapts to support and query examples alike. Its direction for a single step is the gradient at
the start, so `joint` is plain training on all tasks, and ends where nothing adapts.

Expect, of waves (3 seeds; 1,000 held-out tasks, standard errors 0.01 to 0.04), squared errors of 2.9 to
3.1 at MAML's start (a predictor that does not adapt has at least 3.006), and after one step 0.46 to 0.59
by MAML, 0.64 to 0.85 by first-order MAML, 0.65 to 0.76 by Reptile, 1.0 to 1.2 by ANIL. MAML is ahead of
first-order MAML in each seed, by 0.07 to 0.39 task by task. After ten steps Reptile has 0.13 to 0.17,
MAML 0.14 to 0.22, first-order MAML 0.21 to 0.26. A start suits the steps that it was learned with: more
than one step makes ANIL's diverge on a few tasks (2 seeds of 3), and from `joint` descent overshoots.

The implicit rule presumes a minimum. A few fixed steps do not stay near one, because nothing keeps the
curvature at this start small: after 1,000 to 2,000 outer steps they diverge. With L-BFGS (seed 0, 2,000
outer steps) the error after its own adaptation is 0.27, where MAML has 0.95.

Of digits (3 seeds; five of the twelve ways to turn 3, 4 and 7, none of them seen in training),
accuracies after one step of 0.81 to 0.82 by MAML, 0.80 by first-order MAML, 0.83 to 0.86 by ANIL, 0.80
to 0.83 by Reptile, and 0.48 to 0.52 from an untrained start; after its own descent by L-BFGS implicit
MAML has 0.95. Ten steps leave nothing to gain: the untrained start gets to 0.95, the learned ones to
0.87 to 0.94, and comparing with the mean support images gives 0.96 without any learning. The proximity
of implicit MAML is 1: with 0.1 its descent ends where the loss still curves downwards, the rule has no
answer there, and the run stops.

Source: Finn, Abbeel & Levine 2017; Nichol, Achiam & Schulman 2018; Rajeswaran et al. 2019; Raghu et al.
2020. Unlike (Finn et al., section 5.1): weights start with variance 1 / inputs; 8,000 outer steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import BaseModel, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

import toolkit as tk
from experiments.maml_tasks import (
    Digits,
    Family,
    Fit,
    Judged,
    Sinusoid,
    Theta,
    displaced,
    drawn,
    family_of,
    known_score,
    misfit,
    named,
    predict,
    random_network,
    standard_error,
    summary,
)
from toolkit import run
from toolkit.problems import few_shot
from toolkit.problems.few_shot import Examples, Task
from toolkit.run.experiment.common import STRICT

UNTRAINED = "untrained"
SHOWN = 2  # held-out tasks kept for the report


class Method(BaseModel):
    """An adaptation, and what the start learns from it."""

    model_config = STRICT
    adjoint: tk.adjoint.Adjoint
    solver: tk.solver.Solver
    proximity: NonNegativeFloat = 0.0
    adapts: Literal["all", "head"] = "all"
    learns_from: Literal["query_loss", "displacement"] = "query_loss"

    @model_validator(mode="after")
    def _a_displacement_is_not_differentiated(self) -> Method:
        if self.learns_from == "displacement" and self.adjoint.kind != "stopped":
            raise ValueError(
                "`adjoint` must be {kind: stopped} where the start learns from the displacement, which "
                f"nothing is differentiated for: got {self.adjoint.kind}"
            )
        return self


class Config(run.Settings):
    """What this experiment can be asked; the first of `methods` is what the others are compared with."""

    problem: Annotated[Sinusoid | Digits, Field(discriminator="kind")]
    methods: Annotated[dict[str, Method], Field(min_length=1)]
    hidden: tuple[PositiveInt, ...] = (40, 40)
    tasks: PositiveInt = 25  # of an outer step
    optimizer: tk.optimizers.Optimizer = tk.optimizers.Adam(learning_rate=1e-3)
    judged_tasks: Annotated[int, Field(ge=2)] = 1000
    judged_step_size: PositiveFloat = 0.01  # of the same descent from every start
    judged_steps: PositiveInt = 10

    @model_validator(mode="after")
    def _names_are_free(self) -> Config:
        if UNTRAINED in self.methods:
            raise ValueError(
                f"`methods` must not name one {UNTRAINED!r}, as the common start is: rename it"
            )
        return self


class Learner(NamedTuple):
    """A start and the state of its optimizer."""

    theta: Theta
    optimizer: Any


class State(NamedTuple):
    """All that is carried from one outer step to the next."""

    learners: dict[str, Learner]
    step: jax.Array


class Keys(NamedTuple):
    """One for each thing that is drawn."""

    start: jax.Array
    tasks: jax.Array  # to learn from
    judged_tasks: jax.Array


def build(config: Config) -> run.Program:
    """The functions that the runner drives."""
    family, keys, optimizer = family_of(config.problem), keys_of(config), config.optimizer.build()
    rules = {name: directions(family.loss, method) for name, method in config.methods.items()}

    def learn(name: str, learner: Learner, tasks: Task) -> tuple[Learner, dict[str, jax.Array]]:
        each = jax.vmap(rules[name], (None, 0))(learner.theta, tasks)
        direction, loss = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), each[:2])
        updates, optimizer_state = optimizer.update(direction, learner.optimizer, learner.theta)
        metrics = {
            f"outer_loss/{name}": loss,
            f"issues/{name}": jnp.bitwise_or.reduce(each[2]),
        }
        return Learner(optax.apply_updates(learner.theta, updates), optimizer_state), metrics

    def init(_: jax.Array) -> State:
        theta = random_start(config, family)
        learner = Learner(theta, optimizer.init(theta))
        return State(dict.fromkeys(config.methods, learner), jnp.asarray(0))

    def step(state: State, data: dict[str, Any]) -> tuple[State, dict[str, jax.Array]]:
        # Every method learns from the same tasks, so that differences between them are not luck.
        key = jax.random.fold_in(keys.tasks, state.step)
        tasks = drawn(family.training, key, config.tasks, data)
        learned = {name: learn(name, one, tasks) for name, one in state.learners.items()}
        learners = {name: learner for name, (learner, _) in learned.items()}
        metrics = {key: value for _, row in learned.values() for key, value in row.items()}
        return State(learners, state.step + 1), metrics

    def finish(state: State, data: dict[str, Any]) -> run.Final:
        return conclude(config, family, data, state)

    def differentiated(state: State, data: dict[str, Any]) -> dict[str, run.Loss]:
        task, losses = family.training(keys.tasks, data), {}
        for name, method in config.methods.items():
            solve, outer = levels(family.loss, method, task)
            theta = state.learners[name].theta
            found = run.losses_of(solve, outer, no_displacement(method, theta), theta)
            if method.learns_from != "query_loss":
                del found["hyper"]  # of which it takes no gradient
            losses |= {f"{name}_{which}": loss for which, loss in found.items()}
        return losses

    return run.Program(init, step, finish, differentiated, data=family.data)


def keys_of(config: Config) -> Keys:
    """The keys of a config's seed."""
    return Keys(*jax.random.split(jax.random.key(config.seed), len(Keys._fields)))


def random_start(config: Config, family: Family) -> Theta:
    """The start of every method."""
    inputs, outputs = family.sizes
    return random_network(keys_of(config).start, (inputs, *config.hidden, outputs))


def no_displacement(method: Method, theta: Theta) -> Theta:
    """Zeros, like the layers that the method adapts."""
    return jax.tree.map(jnp.zeros_like, theta if method.adapts == "all" else theta[-1:])


def adaptation(
    loss: Fit, method: Method, solver: Any, adjoint: Any, examples: Examples
) -> tk.SolutionMap:
    """Adaptation to examples as a function of (first displacement, start)."""

    def inner(delta: Theta, theta: Theta) -> jax.Array:
        distance = optax.tree.norm(delta, squared=True)
        return misfit(loss, theta, delta, examples) + method.proximity / 2 * distance

    return tk.argmin(inner, solver, adjoint=adjoint)


def levels(loss: Fit, method: Method, task: Task) -> tuple[tk.SolutionMap, Any]:
    """Adaptation to a task's support, and the loss on its queries of (displacement, start)."""

    def outer(delta: Theta, theta: Theta) -> jax.Array:
        return misfit(loss, theta, delta, task.query)

    solver, adjoint = method.solver, method.adjoint
    return adaptation(loss, method, solver, adjoint, task.support), outer


def directions(loss: Fit, method: Method) -> Callable[[Theta, Task], tuple[Theta, Any, Any]]:
    """`(theta, task) -> (direction, loss after adaptation, issues)`; the start goes against it."""
    solver, adjoint = method.solver, method.adjoint

    def query_gradient(theta: Theta, task: Task) -> tuple[Theta, Any, Any]:
        solve, outer = levels(loss, method, task)
        hg = tk.hypergradient(outer, solve)(no_displacement(method, theta), theta)
        return hg.gradient, hg.value, hg.report.status

    def displacement(theta: Theta, task: Task) -> tuple[Theta, Any, Any]:
        examples = few_shot.pooled(task)
        solution = adaptation(loss, method, solver, adjoint, examples)(
            no_displacement(method, theta), theta
        )
        direction = optax.tree.sub(theta, displaced(theta, solution.value))
        value = misfit(loss, theta, solution.value, examples)
        lost = solution.info.status == int(tk.Status.NOT_FINITE)
        return direction, value, jnp.where(lost, int(tk.Issue.NOT_FINITE), 0)

    return query_gradient if method.learns_from == "query_loss" else displacement


def judge(config: Config, family: Family, method: Method, theta: Theta, task: Task) -> Judged:
    """Adapt to support examples, by single steps and as the method does; score on query examples."""
    descent = tk.solver.GradientDescent(config.judged_step_size, 1)
    once, whole = (
        adaptation(family.loss, method, solver, tk.adjoint.Stopped(), task.support)
        for solver in (descent, method.solver)
    )

    def advance(delta: Theta, _: None) -> tuple[Theta, jax.Array]:
        return once(delta, theta).value, predict(displaced(theta, delta), task.query.inputs)

    first = no_displacement(method, theta)
    _, predictions = jax.lax.scan(advance, first, length=config.judged_steps + 1)
    scores = jax.vmap(lambda p: family.score(p, task.query.targets))(predictions)
    own = misfit(family.score, theta, whole(first, theta).value, task.query)
    return Judged(scores, own, predictions)


def conclude(config: Config, family: Family, data: dict[str, Any], state: State) -> run.Final:
    """Adapt every start to the same held-out tasks; compare."""
    tasks = drawn(family.held_out, keys_of(config).judged_tasks, config.judged_tasks, data)
    methods = {**config.methods, UNTRAINED: next(iter(config.methods.values()))}
    starts = {name: state.learners[name].theta for name in config.methods}
    starts[UNTRAINED] = random_start(config, family)

    def judge_all(name: str) -> Judged:
        one = lambda task: judge(config, family, methods[name], starts[name], task)
        return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(tasks))

    judged = {name: judge_all(name) for name in starts}
    known = known_score(config.problem, tasks)
    metrics, table = summary(family.measure, known, judged, config.judged_steps)
    params = {
        "start": {name: named(theta) for name, theta in starts.items()},
        "mean": {name: np.mean(values.scores, axis=0) for name, values in judged.items()},
        "error": {name: standard_error(values.scores) for name, values in judged.items()},
        "example": {
            "support": jax.tree.map(lambda leaf: leaf[:SHOWN], tasks.support)._asdict(),
            "query": jax.tree.map(lambda leaf: leaf[:SHOWN], tasks.query)._asdict(),
            "predictions": {name: values.predictions[:SHOWN] for name, values in judged.items()},
        },
    }
    return run.Final(params, metrics, table)
