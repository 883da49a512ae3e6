"""A start from which a few examples suffice, learned by MAML and by what differs from it in a word.

    toolkit run configs/maml.yaml                                       about 60 s on 2 cores
    toolkit run configs/maml.yaml methods.maml.adjoint.kind=stopped     one word: first-order MAML
    toolkit run configs/maml_digits.yaml                                handwritten digits
    toolkit run configs/maml_implicit.yaml                              implicit MAML, on waves

A network is adapted to a task by a few steps on its support examples and judged on its query
examples; the start `theta` of all tasks is learned such that this goes well. The inner variable is the
displacement from the start, so that all that the start gets from a derivative stands in `adjoint`:

    min_theta  mean_tasks query_loss(theta + delta(theta))
    delta(theta): descent, from 0, on  support_loss(theta + delta) + proximity / 2 |delta|^2

With `g` the query gradient where the adaptation ends and `H` the support loss's Hessian, `theta` gets

    adjoint unroll                      (1 - step_size H) g, one factor a step: MAML
    adjoint stopped                     g, for delta is a constant and theta stays: first-order MAML
    adjoint implicit, a proximity       (1 + H / proximity)^-1 g, if delta is a minimum: implicit MAML
    adjoint unroll, adapts head         the first, delta having the last layer only: ANIL
    stopped, learns from displacement   -delta, no derivative at all: Reptile

Reptile adapts to support and query examples alike. Of a single step its direction is the gradient of the
loss at the start: `joint` is plain training on all tasks, and ends where nothing adapts.

Expect, of waves (3 seeds; 1,000 held-out tasks, standard errors of the mean 0.01 to 0.04), squared
errors of 2.9 to 3.1 at MAML's start (3.006 is the least that a predictor can have that does not adapt)
and after one step 0.46 to 0.59 by MAML, 0.64 to 0.85 by first-order MAML, 0.65 to 0.76 by Reptile, 1.0 to
1.2 by ANIL; MAML is ahead in each seed, of first-order MAML by 0.07 to 0.39 task by task. After ten steps
Reptile has 0.13 to 0.17, MAML 0.14 to 0.22, first-order MAML 0.21 to 0.26. A start knows the steps that
it was learned with: ANIL's diverges on a few tasks when more than its one are made (2 seeds of 3), and
from `joint` descent overshoots.

The implicit rule presumes a minimum. Fixed steps do not stay at one, for nothing keeps the curvature of
this start small: after 1,000 to 2,000 outer steps they diverge. With L-BFGS (seed 0, 2,000 outer steps)
the error is 0.27 by its own adaptation, where MAML has 0.95.

Of digits (3 seeds; five of the twelve ways in which 3, 4 and 7 can be turned, none of them seen in
training), accuracies after one step of 0.81 to 0.82 by MAML, 0.80 by first-order MAML, 0.83 to 0.86 by
ANIL, 0.80 to 0.83 by Reptile, and 0.48 to 0.52 from an untrained start; by its own 20 steps implicit MAML
has 0.94 to 0.95. With ten steps there is nothing to gain: the untrained start gets to 0.95, the learned
ones to 0.87 to 0.94, and comparing with the mean support images gives 0.96 without any learning.

Source: Finn, Abbeel & Levine 2017; Nichol, Achiam & Schulman 2018; Rajeswaran et al. 2019; Raghu et al.
2020. Unlike (Finn et al., section 5.1): weights start with variance 1 / inputs; 8,000 outer steps.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import BaseModel, Field, model_validator

import toolkit as tk
from toolkit import catalogue, run
from toolkit.problems import few_shot
from toolkit.problems.few_shot import Examples, Task
from toolkit.run.experiment.common import STRICT

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
UNTRAINED = "untrained"
SHOWN = 2  # held-out tasks drawn
KNOWN = {
    "mse": "the best that does not adapt (closed form)",
    "accuracy": "the nearest mean support image, nothing learned",
}


class Sinusoid(BaseModel):
    """Waves to be continued from a few points."""

    model_config = STRICT
    kind: Literal["sinusoid"] = "sinusoid"
    shots: Count = 10
    queries: Count = 10
    judged_queries: Count = 100


class Digits(BaseModel):
    """Digits, turned by quarters, to be told apart from a few images of each."""

    model_config = STRICT
    kind: Literal["digits"] = "digits"
    ways: Annotated[int, Field(ge=2)] = 5
    shots: Count = 5  # of each of the ways, as are the queries
    queries: Count = 10
    judged_queries: Count = 15
    held_out: tuple[Annotated[int, Field(ge=0, le=9)], ...] = (3, 4, 7)  # seen by no training task

    @model_validator(mode="after")
    def _parts_do_not_overlap(self) -> Digits:
        if (6 in self.held_out) != (9 in self.held_out):
            raise ValueError(
                "`held_out` must have both of 6 and 9 or neither: turned, they are one"
            )
        fewest = min(len(set(self.held_out)), 10 - len(set(self.held_out)))
        if self.ways > 4 * fewest:
            raise ValueError(
                f"`ways` must be at most 4 turns of the {fewest} digits of the smaller part: "
                f"got {self.ways}; change `held_out` or ask for fewer"
            )
        return self


class Method(BaseModel):
    """An adaptation, and what the start learns from it."""

    model_config = STRICT
    adjoint: catalogue.Adjoint
    solver: catalogue.Solver
    proximity: Annotated[float, Field(ge=0)] = 0.0
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
    hidden: tuple[Count, ...] = (40, 40)
    tasks: Count = 25  # of an outer step
    optimizer: catalogue.Optimizer = catalogue.Adam(learning_rate=1e-3)
    judged_tasks: Annotated[int, Field(ge=2)] = 1000
    judged_step_size: Positive = 0.01  # of the same descent from every start
    judged_steps: Count = 10

    @model_validator(mode="after")
    def _names_are_free(self) -> Config:
        if UNTRAINED in self.methods:
            raise ValueError(
                f"`methods` must not name one {UNTRAINED!r}, as the common start is: rename it"
            )
        return self


class Layer(NamedTuple):
    """The connections into a layer of rectified units; the last one's are linear."""

    weights: jax.Array  # [inputs, outputs]
    bias: jax.Array  # [outputs]


Theta = tuple[Layer, ...]
Fit = Callable[[jax.Array, jax.Array], jax.Array]  # (predictions, targets) -> []


class Family(NamedTuple):
    """Tasks to draw and how to judge them."""

    sizes: tuple[int, int]  # of what a network takes and gives
    training: Callable[[jax.Array], Task]
    held_out: Callable[[jax.Array], Task]
    loss: Fit
    measure: str
    score: Fit


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


def keys_of(config: Config) -> Keys:
    """The keys of a config's seed."""
    return Keys(*jax.random.split(jax.random.key(config.seed), len(Keys._fields)))


def squared_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Its mean."""
    return jnp.mean((predictions - targets) ** 2)


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Its mean."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, targets))


def accuracy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """The part whose largest logit is the right one."""
    return jnp.mean(jnp.argmax(logits, axis=1) == targets)


def family_of(config: Config) -> Family:
    """The tasks of a config."""
    problem = config.problem
    if isinstance(problem, Sinusoid):
        return Family((1, 1), *_waves(problem), squared_error, "mse", squared_error)
    return Family((64, problem.ways), *_digits(problem), cross_entropy, "accuracy", accuracy)


def _waves(problem: Sinusoid) -> list[Callable[[jax.Array], Task]]:
    def drawing(queries: int) -> Callable[[jax.Array], Task]:
        def draw(key: jax.Array) -> Task:
            wave_key, point_key = jax.random.split(key)
            wave = few_shot.random_wave(wave_key)
            return few_shot.wave_task(point_key, wave, problem.shots, queries)

        return draw

    return [drawing(problem.queries), drawing(problem.judged_queries)]


def _digits(problem: Digits) -> list[Callable[[jax.Array], Task]]:
    data = tk.data.digits()

    def drawing(classes: list[int], queries: int) -> Callable[[jax.Array], Task]:
        images = few_shot.by_class(data, classes)
        return lambda key: few_shot.class_task(key, images, problem.ways, problem.shots, queries)

    held_out = sorted(set(problem.held_out))
    others = [digit for digit in range(10) if digit not in held_out]
    return [drawing(others, problem.queries), drawing(held_out, problem.judged_queries)]


def drawn(draw: Callable[[jax.Array], Task], key: jax.Array, count: int) -> Task:
    """`count` tasks, stacked."""
    return jax.vmap(draw)(jax.random.split(key, count))


def random_start(config: Config, family: Family) -> Theta:
    """The start of every method: Gaussian weights of variance 1 / inputs, zero biases."""
    inputs, outputs = family.sizes
    pairs = list(pairwise((inputs, *config.hidden, outputs)))
    keys = jax.random.split(keys_of(config).start, len(pairs))
    return tuple(
        Layer(jax.random.normal(key, pair) / pair[0] ** 0.5, jnp.zeros(pair[1]))
        for key, pair in zip(keys, pairs, strict=True)
    )


def predict(theta: Theta, inputs: jax.Array) -> jax.Array:
    """[B, outputs] for inputs [B, F]."""
    for layer in theta[:-1]:
        inputs = jax.nn.relu(inputs @ layer.weights + layer.bias)
    return inputs @ theta[-1].weights + theta[-1].bias


def no_displacement(method: Method, theta: Theta) -> Theta:
    """Zeros, like the layers that the method adapts."""
    return jax.tree.map(jnp.zeros_like, theta if method.adapts == "all" else theta[-1:])


def displaced(theta: Theta, delta: Theta) -> Theta:
    """`theta` with `delta` added to its last layers."""
    kept = len(theta) - len(delta)
    return (*theta[:kept], *jax.tree.map(jnp.add, theta[kept:], delta))


def misfit(fit: Fit, theta: Theta, delta: Theta, examples: Examples) -> jax.Array:
    """Loss or score of a displaced start."""
    return fit(predict(displaced(theta, delta), examples.inputs), examples.targets)


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

    solver, adjoint = method.solver.build(), method.adjoint.build()
    return adaptation(loss, method, solver, adjoint, task.support), outer


def directions(loss: Fit, method: Method) -> Callable[[Theta, Task], tuple[Theta, Any, Any]]:
    """`(theta, task) -> (direction, loss after adaptation, issues)`; the start goes against it."""
    solver, adjoint = method.solver.build(), method.adjoint.build()

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


def build(config: Config) -> run.Program:
    """The functions that the runner drives."""
    family, keys, optimizer = family_of(config), keys_of(config), config.optimizer.build()
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

    def step(state: State) -> tuple[State, dict[str, jax.Array]]:
        # The same tasks for every method.
        tasks = drawn(family.training, jax.random.fold_in(keys.tasks, state.step), config.tasks)
        learned = {name: learn(name, one, tasks) for name, one in state.learners.items()}
        learners = {name: learner for name, (learner, _) in learned.items()}
        metrics = {key: value for _, row in learned.values() for key, value in row.items()}
        return State(learners, state.step + 1), metrics

    def finish(state: State) -> run.Final:
        return conclude(config, family, state)

    def differentiated(state: State) -> dict[str, run.Loss]:
        task, losses = family.training(keys.tasks), {}
        for name, method in config.methods.items():
            solve, outer = levels(family.loss, method, task)
            theta = state.learners[name].theta
            found = run.losses_of(solve, outer, no_displacement(method, theta), theta)
            if method.learns_from != "query_loss":
                del found["hyper"]  # of which it takes no gradient
            losses |= {f"{name}_{which}": loss for which, loss in found.items()}
        return losses

    return run.Program(init, step, finish, differentiated)


class Judged(NamedTuple):
    """What was measured of starts on held-out tasks; without the leading axis, of one task."""

    scores: jax.Array  # [tasks, judged_steps + 1] after 0, 1, ... steps of the same descent
    own: jax.Array  # [tasks] after the method's own adaptation
    predictions: jax.Array  # [tasks, judged_steps + 1, B, outputs] of the queries


def judge(config: Config, family: Family, method: Method, theta: Theta, task: Task) -> Judged:
    """Adapt to support examples, by single steps and as the method does; score on query examples."""
    descent = tk.solver.GradientDescent(config.judged_step_size, 1)
    once, whole = (
        adaptation(family.loss, method, solver, tk.adjoint.Stopped(), task.support)
        for solver in (descent, method.solver.build())
    )

    def advance(delta: Theta, _: None) -> tuple[Theta, jax.Array]:
        return once(delta, theta).value, predict(displaced(theta, delta), task.query.inputs)

    first = no_displacement(method, theta)
    _, predictions = jax.lax.scan(advance, first, length=config.judged_steps + 1)
    scores = jax.vmap(lambda p: family.score(p, task.query.targets))(predictions)
    own = misfit(family.score, theta, whole(first, theta).value, task.query)
    return Judged(scores, own, predictions)


def conclude(config: Config, family: Family, state: State) -> run.Final:
    """Adapt every start to the same held-out tasks; compare."""
    tasks = drawn(family.held_out, keys_of(config).judged_tasks, config.judged_tasks)
    first = next(iter(config.methods))
    methods = {**config.methods, UNTRAINED: config.methods[first]}
    starts = {name: state.learners[name].theta for name in config.methods}
    starts[UNTRAINED] = random_start(config, family)

    def judge_all(name: str) -> Judged:
        one = jax.jit(
            jax.vmap(lambda task: judge(config, family, methods[name], starts[name], task))
        )
        return jax.tree.map(np.asarray, one(tasks))

    judged = {name: judge_all(name) for name in starts}
    last, measure = config.judged_steps, family.measure
    metrics = {f"{measure}_known": known_score(config, tasks)}
    for name, (scores, own, _) in judged.items():
        after = {1: scores[:, 1], last: scores[:, last], "own": own}
        metrics |= {f"{measure}_{k}/{name}": float(np.mean(each)) for k, each in after.items()}
    if measure == "mse":
        after = metrics[f"mse_1/{first}"]
        metrics["ratio_start"] = after / float(np.mean(judged[first].scores[:, 0]))
        metrics["ratio_known"] = after / metrics["mse_known"]
    # From a start that knows no step size descent may diverge: a result, not a failure.
    metrics = {key: value for key, value in metrics.items() if np.isfinite(value)}
    table = tuple((name, words_of(values, judged[first])) for name, values in judged.items())
    known = (KNOWN[measure], f"{metrics[f'{measure}_known']:.3f}")
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
    return run.Final(params, metrics, (*table, known))


def known_score(config: Config, tasks: Task) -> float:
    """What needs no learned start: the best prediction for all waves, or comparing with mean images."""
    if isinstance(config.problem, Sinusoid):
        return few_shot.unadapted_wave_mse()
    ways = config.problem.ways
    right = jax.vmap(lambda task: few_shot.nearest_mean(task, ways) == task.query.targets)(tasks)
    return float(jnp.mean(right))


def standard_error(scores: np.ndarray) -> np.ndarray:
    """Of the mean over tasks, the leading axis."""
    return np.std(scores, axis=0, ddof=1) / len(scores) ** 0.5


def words_of(judged: Judged, reference: Judged) -> str:
    """A line of the table; differences to the reference are task by task."""
    means, own = np.mean(judged.scores, axis=0), np.mean(judged.own)
    gaps = judged.scores - reference.scores
    gap, error = np.mean(gaps, axis=0), standard_error(gaps)
    cells = [
        f"after {k}: {means[k]:.3f} ({gap[k]:+.3f} +- {error[k]:.3f})"
        for k in (0, 1, len(means) - 1)
    ]
    return "  ".join([*cells, f"by its own: {own:.3f}"])


def named(theta: Theta) -> dict[str, dict[str, jax.Array]]:
    """The layers as nested dicts, which a file can hold."""
    return {f"layer{number}": layer._asdict() for number, layer in enumerate(theta, 1)}


def figures(
    config: Config, params: dict[str, Any], metrics: dict[str, float], rows: list[dict[str, Any]]
) -> tuple[run.Figure, ...]:
    """The pictures of the report."""
    waves = isinstance(config.problem, Sinusoid)
    measure = "mse" if waves else "accuracy"
    known = metrics[f"{measure}_known"]

    def adapting(figure: Any) -> None:
        axes = figure.subplots()
        for name in (*config.methods, UNTRAINED):
            mean, error = params["mean"][name], params["error"][name]
            axes.errorbar(range(len(mean)), mean, 2 * error, marker=".", **style_of(config, name))
        axes.axhline(known, linestyle="--", linewidth=1, color="0.5")
        scale = {"yscale": "log"} if waves else {"ylim": (0, 1)}
        axes.set(xlabel="steps on the support examples", ylabel=f"query {measure}", **scale)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))

    def learning(figure: Any) -> None:
        axes = figure.subplots()
        width = max(1, len(rows) // 40)
        for name in config.methods:
            losses = [row[f"outer_loss/{name}"] for row in rows]
            starts = range(0, len(rows) - width + 1, width)
            means = [np.mean(losses[i : i + width]) for i in starts]
            axes.plot(
                [rows[i + width - 1]["step"] for i in starts], means, **style_of(config, name)
            )
        axes.set(xlabel="outer step", ylabel="loss after adaptation", yscale="log")
        axes.legend(fontsize=8)

    return (
        run.Figure(
            "Adapting to held-out tasks",
            f"Mean over {config.judged_tasks:,} tasks, steps of {config.judged_step_size:g}. Bars: two "
            f"standard errors. Dashed: {KNOWN[measure]}.",
            adapting,
        ),
        run.Figure(
            "Learning the starts",
            "After each method's own adaptation, on training tasks; where a start learns from the "
            "displacement, on the examples adapted to.",
            learning,
        ),
        _waves_figure(config, params) if waves else _digits_figure(config, params),
    )


def style_of(config: Config, name: str) -> dict[str, str]:
    """A color a method, and grey for none."""
    place = list(config.methods).index(name) if name in config.methods else None
    return {"label": name, "color": "0.5" if place is None else f"C{place}"}


def _waves_figure(config: Config, params: dict[str, Any]) -> run.Figure:
    example = jax.tree.map(np.asarray, params["example"])
    steps = (0, 1, config.judged_steps)

    def draw(figure: Any) -> None:
        figure.set_size_inches(figure.get_figwidth(), 1.9 * SHOWN)
        grid = figure.subplots(SHOWN, len(config.methods), sharex=True, sharey="row", squeeze=False)
        for wave, line in enumerate(grid):
            x = example["query"]["inputs"][wave, :, 0]
            order = np.argsort(x)
            for axes, name in zip(line, config.methods, strict=True):
                predictions = example["predictions"][name][wave, :, :, 0]
                targets = example["query"]["targets"][wave, :, 0]
                axes.plot(x[order], targets[order], color="0.5", linewidth=3, alpha=0.4)
                for k, style in zip(steps, (":", "--", "-"), strict=True):
                    axes.plot(
                        x[order],
                        predictions[k][order],
                        style,
                        color="C0",
                        linewidth=1,
                        label=f"{k}",
                    )
                support = example["support"]
                axes.plot(support["inputs"][wave, :, 0], support["targets"][wave, :, 0], "C1.")
                axes.set_ylim(1.6 * targets.min(), 1.6 * targets.max())
                if wave == 0:
                    axes.set_title(name, fontsize=9, fontweight="normal")

    return run.Figure(
        "Held-out waves",
        f"Grey the wave, dots the support examples; dotted the start, dashed after 1 step, solid "
        f"after {config.judged_steps}.",
        draw,
        wide=True,
    )


def _digits_figure(config: Config, params: dict[str, Any]) -> run.Figure:
    assert isinstance(config.problem, Digits)
    ways, first = config.problem.ways, next(iter(config.methods))
    columns = min(config.problem.judged_queries, 12)
    example = jax.tree.map(np.asarray, params["example"])
    guesses = np.argmax(example["predictions"][first][0, -1], axis=-1).reshape(ways, -1)
    parts = [example[part]["inputs"][0].reshape(ways, -1, 8, 8) for part in ("support", "query")]

    def draw(figure: Any) -> None:
        figure.set_size_inches(figure.get_figwidth(), 0.8 * ways)
        for way, line in enumerate(figure.subplots(ways, columns + 1, squeeze=False)):
            for column, axes in enumerate(line):
                image = parts[0][way, 0] if column == 0 else parts[1][way, column - 1]
                axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(column == 0)
                if column > 0 and guesses[way, column - 1] != way:
                    axes.set_title(f"taken for {guesses[way, column - 1] + 1}", fontsize=7)
            line[0].set_ylabel(f"{way + 1}", rotation=0, labelpad=8)

    return run.Figure(
        "A held-out task",
        f"Framed the first of {config.problem.shots} support images of each kind, beside it query "
        f"images; above them what {first} mistakes after {config.judged_steps} steps.",
        draw,
        wide=True,
    )
