"""Which of 216 small architectures reads digits best, and do cheap hypergradients find it?

    toolkit run configs/architecture_search.yaml                      about 90 s on 2 cores
    toolkit run configs/architecture_search.yaml rules=[exact]        one rule alone

A cell of three edges looks at a digit `x`; each edge `e_k` is one of six operations on images, and the
weights `y` of a softmax regression read both nodes:

    n1 = e1(x),  n2 = e2(x) + e3(n1),  scores = (n1, n2) W + b

The search mixes the operations of an edge by `softmax(theta_k)`, and descends the validation loss:

    min_theta  F(theta) = mean_val CE(y*(theta), theta)
    y*(theta) = argmin_y  mean_train CE(y, theta) + l2 / 2 |y|^2

`exact` trains to convergence and applies the implicit function theorem; `t1t2` makes one step of `y` and
differentiates through it; `darts` takes the same derivative by a difference of gradients; `first_order`
is DARTS without it, as if `y` did not depend on theta. At the end the strongest operation of each edge
is kept. The inner problem is strongly convex, so each of the 216 architectures can be trained to its one
minimum, and what a search has found can be ranked among them.

Expect (5 seeds of 5 draws, range over seeds of the mean over draws; points are of test accuracy, above the
mean of all architectures, whose standard deviation is 1.0 to 1.2; the rank is by validation loss):

                                  F at the end      points         test accuracy above    rank
    exact                         0.32 to 0.39      1.0 to 1.7     77 to 94 % of all      2 to 15
    t1t2                          0.34 to 0.44     -0.1 to 0.7     48 to 65 %             10 to 39
    darts                         0.34 to 0.44     -0.1 to 1.0     48 to 79 %             10 to 39
    first_order                   0.35 to 0.44     -0.2 to 1.0     45 to 78 %             20 to 51
    least validation loss                           1.1 to 1.8     84 to 94 %             1

The cosine of the cheap directions with the exact hypergradient is 0.3 to 0.4, mean over a search, and at
times below 0 in all three. This is partly because their weights lag behind: with trained weights it is
0.4 to 0.8. Differentiating through the one step changes little, and so does a step three times as long
(T1-T2, seed 0: F at the end is 0.388 instead of 0.381).

A bit in the column `issues` says that the error of a solve may be more than ten times its tolerance,
because the curvature is small; against float64 the exact hypergradient was off by 3e-4 to 1.5e-3.

Source: Liu, Simonyan & Yang 2019; one step: Luketina et al. 2016.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

import toolkit as tk
from experiments.architecture_search_cells import (
    ARCHITECTURES,
    EDGES,
    OPERATIONS,
    Data,
    judged,
    kept,
    loss,
    penalised,
    start,
    trained_from_scratch,
    words,
)
from toolkit import run

RULES = {
    "exact": "exact hypergradient",
    "t1t2": "T1-T2",
    "darts": "DARTS",
    "first_order": "first-order DARTS",
}
Rule = Literal["exact", "t1t2", "darts", "first_order"]


class Config(run.Settings):
    """What this experiment can be asked."""

    rules: Annotated[tuple[Rule, ...], Field(min_length=1)] = tuple(RULES)
    draws: Annotated[int, Field(ge=2)] = 5  # splits of the digits, each searched; `S` in shapes
    train_size: PositiveInt = 100
    validation_size: PositiveInt = 400
    l2: PositiveFloat = 0.03
    updates: PositiveInt = 5  # of theta in a step of the run
    inner_step_size: PositiveFloat = 0.1  # of the rules that step the weights once an update
    solver: tk.solver.Solver = tk.solver.LBFGS(max_steps=300, tol=1e-5)
    adjoint: tk.adjoint.Adjoint = tk.adjoint.Implicit(
        linear_solver=tk.linear.CG(max_steps=500, tol=1e-3)
    )
    optimizer: tk.optimizers.Optimizer = tk.optimizers.Adam(learning_rate=0.05)

    @model_validator(mode="after")
    def _each_rule_once(self) -> Self:
        if len(set(self.rules)) < len(self.rules):
            raise ValueError(f"rules must name each rule once: got {', '.join(self.rules)}")
        return self


class Search(NamedTuple):
    """Where the search by one rule stands."""

    y: dict[str, jax.Array]  # softmax regression
    theta: jax.Array  # [3, 6] logits of the gates
    direction: jax.Array  # [3, 6] along which the last update went
    carried: Any  # the state of the rule's own method


class Rules(NamedTuple):
    """The two functions of a rule on one draw."""

    init: Callable[[], Search]
    update: Callable[[Search], Search]


def build(config: Config) -> run.Program:
    """The functions that the runner drives."""

    def over_draws(of: Callable[..., Any], rule: str, digits: Data, *stacked: Any) -> Any:
        return jax.vmap(lambda draw, *one: of(config, draw, rule, *one))(digits, *stacked)

    def init(_: jax.Array, data: dict[str, Data]) -> dict[str, Search]:
        first = lambda config, draw, rule: rule_of(config, draw, rule).init()
        return {rule: over_draws(first, rule, data["digits"]) for rule in config.rules}

    def step(
        state: dict[str, Search], data: dict[str, Data]
    ) -> tuple[dict[str, Search], dict[str, jax.Array]]:
        digits = data["digits"]
        moved = {rule: over_draws(advance, rule, digits, search) for rule, search in state.items()}
        before = [(old.y, old.theta) for _, old in moved.values()]
        y, theta = jax.tree.map(lambda *leaves: jnp.stack(leaves), *before)
        # [R, S] hypergradients: all rules go through one program, which is compiled once.
        exact = jax.vmap(lambda draw, y, theta: exactly(config, draw)(y, theta))
        known = jax.vmap(exact, in_axes=(None, 0, 0))(digits, y, theta)
        metrics = {}
        for i, (rule, (after, old)) in enumerate(moved.items()):
            hg = jax.tree.map(lambda leaf, i=i: leaf[i], known)
            metrics |= {
                f"loss_{rule}": jnp.mean(hg.value),
                f"gradient_norm_{rule}": jnp.mean(jax.vmap(jnp.linalg.norm)(hg.gradient)),
                f"open_gate_{rule}": jnp.mean(jnp.max(jax.nn.softmax(old.theta), axis=-1)),
                f"issues_{rule}": jnp.bitwise_or.reduce(hg.report.status),
            }
            if rule != "exact":
                trained = over_draws(from_trained, rule, digits, old, hg.solution.value)
                for name, direction in (("cosine", after.direction), ("cosine_trained", trained)):
                    metrics[f"{name}_{rule}"] = jnp.mean(jax.vmap(cosine)(direction, hg.gradient))
        return {rule: after for rule, (after, _) in moved.items()}, metrics

    def finish(state: dict[str, Search], data: dict[str, Data]) -> run.Final:
        return conclude(
            config, data["digits"], {rule: search.theta for rule, search in state.items()}
        )

    def differentiated(_: dict[str, Search], data: dict[str, Data]) -> dict[str, run.Loss]:
        outer, solve = levels(config, jax.tree.map(lambda leaf: leaf[0], data["digits"]))
        return run.losses_of(solve, outer, start(), jnp.zeros((EDGES, len(OPERATIONS))))

    return run.Program(init, step, finish, differentiated, data={"digits": load(config)})


def load(config: Config) -> Data:
    """The seeded splits of a config, stacked."""
    keys = jax.random.split(jax.random.key(config.seed), config.draws)
    sizes = (config.train_size, config.validation_size)
    drawn = [Data(*tk.data.split(key, tk.data.digits(), *sizes)) for key in keys]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)


def levels(config: Config, data: Data) -> tuple[Callable[..., Any], tk.SolutionMap]:
    """The outer function, and training as a function of (start, theta)."""
    solve = tk.argmin(
        lambda y, theta: penalised(y, jax.nn.softmax(theta), data.train, config.l2),
        config.solver,
        adjoint=config.adjoint,
    )
    return lambda y, theta: loss(y, jax.nn.softmax(theta), data.validation), solve


def exactly(config: Config, data: Data) -> Callable[[Any, jax.Array], tk.Hypergradient]:
    """`F` and its gradient at (start, theta)."""
    return tk.hypergradient(*levels(config, data))


def exact_rule(config: Config, data: Data) -> Rules:
    """Descent along the exact hypergradient, each solve from where the last one ended."""
    hypergradient, optimizer = exactly(config, data), config.optimizer.build()

    def init() -> Search:
        theta = jnp.zeros((EDGES, len(OPERATIONS)))
        return Search(start(), theta, theta, optimizer.init(theta))

    def update(search: Search) -> Search:
        hg = hypergradient(search.y, search.theta)
        updates, carried = optimizer.update(hg.gradient, search.carried, search.theta)
        theta = optax.apply_updates(search.theta, updates)
        return Search(hg.solution.value, theta, hg.gradient, carried)

    return Rules(init, update)


def one_step_rule(config: Config, data: Data, rule: str) -> Rules:
    """One of the methods that move the weights by one step an update."""
    problem = tk.bilevel.Problem(
        lambda y, theta, batch: penalised(y, jax.nn.softmax(theta), batch, config.l2),
        lambda y, theta, batch: loss(y, jax.nn.softmax(theta), batch),
        data.train,
        data.validation,
    )
    # A method hands its direction to its optimizer. This transformation keeps it as its state, and passes it on.
    remember = optax.GradientTransformation(jnp.zeros_like, lambda g, *_: (g, g))
    optimizer = optax.chain(remember, config.optimizer.build())
    settings: dict[str, Any] = {
        "inner_step_size": config.inner_step_size,
        "outer_step_size": 1.0,  # not used: `outer_optimizer` has its own
        "outer_optimizer": optimizer,
    }
    method = {
        "t1t2": lambda: tk.bilevel.T1T2(**settings),
        "darts": lambda: tk.bilevel.DARTS(**settings),
        "first_order": lambda: tk.bilevel.DARTS(**settings, virtual_step_size=0.0),
    }[rule]()
    first, step = method(problem)

    def seen(state: Any) -> Search:
        return Search(state.y, state.theta, state.outer_optimizer[0], state)

    def init() -> Search:
        # The key would draw batches, but here a batch is all examples.
        theta = jnp.zeros((EDGES, len(OPERATIONS)))
        return seen(first(jax.random.key(config.seed), start(), theta))

    return Rules(init, lambda search: seen(step(search.carried)[0]))


def rule_of(config: Config, data: Data, rule: str) -> Rules:
    """The rule of that name on one draw."""
    return exact_rule(config, data) if rule == "exact" else one_step_rule(config, data, rule)


def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """Of the angle between two gradients; 0 where one of them is 0."""
    product = jnp.linalg.norm(a) * jnp.linalg.norm(b)
    return jnp.sum(a * b) / jnp.where(product > 0, product, 1)


def advance(config: Config, data: Data, rule: str, search: Search) -> tuple[Search, Search]:
    """`updates` updates on one draw: where the search stands, and where it stood before the last."""
    update = rule_of(config, data, rule).update

    def body(search: Search, _: None) -> tuple[Search, tuple[Any, jax.Array]]:
        return update(search), (search.y, search.theta)

    after, visited = jax.lax.scan(body, search, length=config.updates)
    y, theta = jax.tree.map(lambda leaf: leaf[-1], visited)
    return after, after._replace(y=y, theta=theta)


def from_trained(
    config: Config, data: Data, rule: str, before: Search, y: dict[str, jax.Array]
) -> jax.Array:
    """What the rule would go along at the same theta, had it trained its weights to `y`."""
    carried = before.carried._replace(y=y, theta=before.theta)
    return rule_of(config, data, rule).update(before._replace(y=y, carried=carried)).direction


def conclude(config: Config, data: Data, thetas: dict[str, jax.Array]) -> run.Final:
    """Keep the strongest operations, train what is left, and rank it among all architectures."""
    all_of = trained_from_scratch(config.solver, config.l2, data)
    found = {rule: kept(thetas[rule]) for rule in config.rules}
    found["exhaustive"] = np.argmin(all_of["validation_loss"], axis=0)
    random = all_of["test_accuracy"]
    metrics: dict[str, float] = {
        "accuracy_random": float(random.mean()),
        "accuracy_random_std": float(random.std(axis=0, ddof=1).mean()),
        "accuracy_best": float(random.max(axis=0).mean()),
        "architectures": len(ARCHITECTURES),
        "not_converged": int(np.sum(all_of["status"] != 0)),
    }
    for name, chosen in found.items():
        metrics |= judged(name, chosen, all_of)
    names = RULES | {"exhaustive": "least validation loss of all"}
    table = (
        *((names[name], words(metrics, name)) for name in found),
        (
            "a random architecture",
            f"accuracy {metrics['accuracy_random']:.1%} +- {metrics['accuracy_random_std']:.1%}",
        ),
    )
    params = {
        "theta": thetas,
        "found": {name: jnp.asarray(chosen) for name, chosen in found.items()},
        "all": {name: jnp.asarray(values) for name, values in all_of.items()},
    }
    return run.Final(params, metrics, table)
