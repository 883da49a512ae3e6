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
is kept. The inner problem is strongly convex, so that all 216 architectures can be trained to their one
minimum, and what a search has found has a rank.

Expect (5 seeds of 5 draws, range over seeds of the mean over draws; points are of test accuracy, above the
mean of all architectures, whose standard deviation is 1.0 to 1.2; the rank is by validation loss):

                                  F at the end      points         test accuracy above    rank
    exact                         0.32 to 0.39      1.0 to 1.7     77 to 94 % of all      2 to 15
    t1t2                          0.34 to 0.44     -0.1 to 0.7     48 to 65 %             10 to 39
    darts                         0.34 to 0.44     -0.1 to 1.0     48 to 79 %             10 to 39
    first_order                   0.35 to 0.44     -0.2 to 1.0     45 to 78 %             20 to 51
    least validation loss                           1.1 to 1.8     84 to 94 %             1

The cosine of the cheap directions with the exact hypergradient is 0.3 to 0.4, mean over a search, and at
times below 0 in all three. A part of that is that their weights lag behind: with trained weights it is 0.4
to 0.8. Differentiating through the one step makes little difference, and so does a step three times as
long (T1-T2, seed 0: F at the end 0.388 where it is 0.381).

A bit in the column `issues` says that small curvature may make more of what a solve leaves
than ten times its tolerance; against float64 the exact hypergradient was off by 3e-4 to 1.5e-3.

Source: Liu, Simonyan & Yang 2019; one step: Luketina et al. 2016.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field, model_validator

import toolkit as tk
from toolkit import catalogue, run
from toolkit.data import Labelled

NUM_CLASSES, SIDE, EDGES = 10, 8, 3
OPERATIONS = ("same", "blur", "across", "down", "size", "squash")
ARCHITECTURES = np.array(list(itertools.product(range(len(OPERATIONS)), repeat=EDGES)))
RULES = {
    "exact": "exact hypergradient",
    "t1t2": "T1-T2",
    "darts": "DARTS",
    "first_order": "first-order DARTS",
}
Rule = Literal["exact", "t1t2", "darts", "first_order"]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Config(run.Settings):
    """What this experiment can be asked."""

    rules: Annotated[tuple[Rule, ...], Field(min_length=1)] = tuple(RULES)
    draws: Annotated[int, Field(ge=2)] = 5  # splits of the digits, all searched; `S` in shapes
    train_size: Count = 100
    validation_size: Count = 400
    l2: Positive = 0.03
    updates: Count = 5  # of theta, a step of the run
    inner_step_size: Positive = 0.1  # of the rules that make one step of the weights an update
    solver: catalogue.Solver = catalogue.LBFGS(max_steps=300, tol=1e-5)
    adjoint: catalogue.Adjoint = catalogue.Implicit(
        linear_solver=catalogue.CG(max_steps=500, tol=1e-3)
    )
    optimizer: catalogue.Optimizer = catalogue.Adam(learning_rate=0.05)

    @model_validator(mode="after")
    def _each_rule_once(self) -> Self:
        if len(set(self.rules)) < len(self.rules):
            raise ValueError(f"rules must name each rule once: got {', '.join(self.rules)}")
        return self


class Data(NamedTuple):
    """Three parts without a digit in common; stacked, each leaf is `[S, ...]`."""

    train: Labelled
    validation: Labelled
    test: Labelled


class Search(NamedTuple):
    """Where the search by one rule stands."""

    y: dict[str, jax.Array]  # softmax regression
    theta: jax.Array  # [3, 6] logits of the gates
    direction: jax.Array  # [3, 6] what the last update went along
    carried: Any  # the state of the rule's own method


class Rules(NamedTuple):
    """The two functions of a rule on one draw."""

    init: Callable[[], Search]
    update: Callable[[Search], Search]


def load(config: Config) -> Data:
    """The seeded splits of a config, stacked."""
    keys = jax.random.split(jax.random.key(config.seed), config.draws)
    sizes = (config.train_size, config.validation_size)
    drawn = [Data(*tk.data.split(key, tk.data.digits(), *sizes)) for key in keys]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)


def shifted(x: jax.Array, down: int, right: int) -> jax.Array:
    """Images `[B, 8, 8]` moved by up to a pixel; blank comes in."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1)))
    return padded[:, 1 - down : 1 - down + SIDE, 1 - right : 1 - right + SIDE]


def unit(x: jax.Array) -> jax.Array:
    """Each image over its root mean square; a blank one stays blank."""
    return x / jnp.sqrt(jnp.mean(x**2, axis=(1, 2), keepdims=True) + 1e-3)


def operations(x: jax.Array) -> jax.Array:
    """`[6, B, 8, 8]`, in the order of `OPERATIONS`, each of unit size, for images [B, 8, 8]."""
    moves = itertools.product((-1, 0, 1), repeat=2)
    outputs = (
        x,
        sum(shifted(x, *move) for move in moves) / 9,
        shifted(x, 0, -1) - shifted(x, 0, 1),
        shifted(x, -1, 0) - shifted(x, 1, 0),
        jnp.sqrt(x**2 + 0.01),
        jnp.tanh(2 * x),
    )
    return jnp.stack([unit(output) for output in outputs])


def cell(gates: jax.Array, images: jax.Array) -> jax.Array:
    """`[B, 128]` the two nodes, for gates [3, 6] that sum to 1 on each edge and images [B, 64]."""
    x = images.reshape(-1, SIDE, SIDE)
    edge = lambda k, x: jnp.tensordot(gates[k], operations(x), axes=1)
    # Of unit size again: else a gate that opens would shrink the weights, and be paid for it by `l2`.
    first = unit(edge(0, x))
    second = unit(edge(1, x) + edge(2, first))
    return jnp.concatenate([first, second], axis=1).reshape(len(x), -1)


def scores(y: dict[str, jax.Array], gates: jax.Array, images: jax.Array) -> jax.Array:
    """`[B, 10]`."""
    return cell(gates, images) @ y["w"] + y["b"]


def loss(y: dict[str, jax.Array], gates: jax.Array, data: Labelled) -> jax.Array:
    """Mean cross-entropy."""
    logits = scores(y, gates, data.images)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, data.labels))


def penalised(y: dict[str, jax.Array], gates: jax.Array, data: Labelled, l2: float) -> jax.Array:
    """What training descends: `mean CE + l2 / 2 |y|^2`."""
    return loss(y, gates, data) + l2 / 2 * optax.tree.norm(y, squared=True)


def start() -> dict[str, jax.Array]:
    """All weights zero."""
    return {"w": jnp.zeros((2 * SIDE**2, NUM_CLASSES)), "b": jnp.zeros(NUM_CLASSES)}


def levels(config: Config, data: Data) -> tuple[Callable[..., Any], tk.SolutionMap]:
    """The outer function, and training as a function of (start, theta)."""
    solve = tk.argmin(
        lambda y, theta: penalised(y, jax.nn.softmax(theta), data.train, config.l2),
        config.solver.build(),
        adjoint=config.adjoint.build(),
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
    # The state of an optax transformation that passes on what it sees is the direction.
    remember = optax.GradientTransformation(jnp.zeros_like, lambda g, *_: (g, g))
    optimizer = optax.chain(remember, config.optimizer.build())
    settings: dict[str, Any] = {
        "inner_step_size": config.inner_step_size,
        "outer_step_size": 1.0,  # the optimizer's is taken in its place
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
        # The key draws batches, and all examples are one.
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


def build(config: Config) -> run.Program:
    """The functions that the runner drives."""
    data = load(config)

    def over_draws(of: Callable[..., Any], rule: str, *stacked: Any) -> Any:
        return jax.vmap(lambda draw, *one: of(config, draw, rule, *one))(data, *stacked)

    def init(_: jax.Array) -> dict[str, Search]:
        first = lambda config, draw, rule: rule_of(config, draw, rule).init()
        return {rule: over_draws(first, rule) for rule in config.rules}

    def step(state: dict[str, Search]) -> tuple[dict[str, Search], dict[str, jax.Array]]:
        moved = {rule: over_draws(advance, rule, search) for rule, search in state.items()}
        before = [(old.y, old.theta) for _, old in moved.values()]
        y, theta = jax.tree.map(lambda *leaves: jnp.stack(leaves), *before)
        # One program for all rules: [R, S] hypergradients.
        exact = jax.vmap(lambda draw, y, theta: exactly(config, draw)(y, theta))
        known = jax.vmap(exact, in_axes=(None, 0, 0))(data, y, theta)
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
                trained = over_draws(from_trained, rule, old, hg.solution.value)
                for name, direction in (("cosine", after.direction), ("cosine_trained", trained)):
                    metrics[f"{name}_{rule}"] = jnp.mean(jax.vmap(cosine)(direction, hg.gradient))
        return {rule: after for rule, (after, _) in moved.items()}, metrics

    def finish(state: dict[str, Search]) -> run.Final:
        return conclude(config, data, {rule: search.theta for rule, search in state.items()})

    def differentiated(_: dict[str, Search]) -> dict[str, run.Loss]:
        outer, solve = levels(config, jax.tree.map(lambda leaf: leaf[0], data))
        return run.losses_of(solve, outer, start(), jnp.zeros((EDGES, len(OPERATIONS))))

    return run.Program(init, step, finish, differentiated, data={"digits": data})


def trained_from_scratch(config: Config, data: Data) -> dict[str, np.ndarray]:
    """Every architecture, trained to its one minimum on every draw; arrays `[216, S]`."""

    def one(gates: jax.Array, draw: Data) -> dict[str, jax.Array]:
        solve = tk.argmin(
            lambda y, gates: penalised(y, gates, draw.train, config.l2),
            config.solver.build(),
            adjoint=tk.adjoint.Stopped(),
        )
        solution = solve(start(), gates)
        right = scores(solution.value, gates, draw.test.images).argmax(axis=1) == draw.test.labels
        return {
            "validation_loss": loss(solution.value, gates, draw.validation),
            "test_loss": loss(solution.value, gates, draw.test),
            "test_accuracy": jnp.mean(right),
            "status": solution.info.status,
        }

    over_draws = jax.vmap(one, in_axes=(None, 0))
    gates = jax.nn.one_hot(ARCHITECTURES, len(OPERATIONS))
    judged = jax.jit(lambda gates: jax.lax.map(lambda g: over_draws(g, data), gates))(gates)
    return {name: np.asarray(values) for name, values in judged.items()}


def conclude(config: Config, data: Data, thetas: dict[str, jax.Array]) -> run.Final:
    """Keep the strongest operations, train what is left, and rank it among all architectures."""
    all_of = trained_from_scratch(config, data)
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
        *((names[name], _words(metrics, name)) for name in found),
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


def kept(theta: jax.Array) -> np.ndarray:
    """[S] indices into `ARCHITECTURES` of the strongest operations, for theta [S, 3, 6]."""
    strongest = np.argmax(np.asarray(theta), axis=-1)
    return np.ravel_multi_index(tuple(strongest.T), (len(OPERATIONS),) * EDGES)


def judged(name: str, chosen: np.ndarray, all_of: dict[str, np.ndarray]) -> dict[str, float]:
    """What the chosen architectures came to, mean over the draws."""
    draws = np.arange(len(chosen))
    mine = {measure: values[chosen, draws] for measure, values in all_of.items()}
    accuracies, losses = all_of["test_accuracy"], all_of["test_loss"]
    worse = np.sum(accuracies < mine["test_accuracy"], axis=0)
    ties = np.sum(accuracies == mine["test_accuracy"], axis=0) - 1
    others = len(accuracies) - 1
    gain = mine["test_accuracy"] - accuracies.mean(axis=0)
    measured = {
        "accuracy": mine["test_accuracy"].mean(),
        "gain": gain.mean(),
        "gain_std": gain.std(ddof=1),
        # Of the others: a random one is better than half of them.
        "better_than": np.mean((worse + ties / 2) / others),
        "less_loss_than": np.mean(np.sum(losses > mine["test_loss"], axis=0) / others),
        "rank": np.mean(1 + np.sum(all_of["validation_loss"] < mine["validation_loss"], axis=0)),
    }
    return {
        f"gain_{name}_std" if measure == "gain_std" else f"{measure}_{name}": float(value)
        for measure, value in measured.items()
    }


def _words(metrics: dict[str, float], name: str) -> str:
    return (
        f"accuracy {metrics[f'accuracy_{name}']:.1%}, "
        f"{100 * metrics[f'gain_{name}']:+.1f} +- {100 * metrics[f'gain_{name}_std']:.1f} points  "
        f"test loss below {metrics[f'less_loss_than_{name}']:.0%} of the others'  "
        f"rank by validation loss {metrics[f'rank_{name}']:.0f}"
    )


def figures(
    config: Config, params: dict[str, Any], metrics: dict[str, float], rows: list[dict[str, Any]]
) -> tuple[run.Figure, ...]:
    """The pictures of the report."""
    updates = [row["step"] * config.updates - 1 for row in rows]  # a row is of before its last one
    colors = {rule: f"C{i}" for i, rule in enumerate(RULES)}

    def descent(figure: Any) -> None:
        axes = figure.subplots()
        for rule in config.rules:
            values = [row[f"loss_{rule}"] for row in rows]
            axes.plot(updates, values, label=RULES[rule], color=colors[rule])
        axes.set(xlabel="updates of theta made", ylabel="F(theta)")
        axes.legend()

    def angles(figure: Any) -> None:
        axes = figure.subplots()
        for rule in config.rules:
            if rule == "exact":
                continue
            for name, style in (("cosine", "-"), ("cosine_trained", ":")):
                values = [row[f"{name}_{rule}"] for row in rows]
                label = RULES[rule] if name == "cosine" else None
                axes.plot(updates, values, style, label=label, color=colors[rule])
        axes.axhline(0, linewidth=1, color="0.5")
        axes.set(xlabel="updates of theta made", ylabel="cosine", ylim=(None, 1))
        axes.legend()

    def places(figure: Any) -> None:
        axes = figure.subplots()
        accuracies = np.asarray(params["all"]["test_accuracy"])
        means, draws = accuracies.mean(axis=0), np.arange(config.draws)
        columns = {"all": (accuracies - means).ravel()} | {
            name: accuracies[np.asarray(params["found"][name]), draws] - means
            for name in (*config.rules, "exhaustive")
        }
        for place, (name, values) in enumerate(columns.items()):
            spread = np.linspace(-0.3, 0.3, len(values)) if name == "all" else draws * 0.08 - 0.16
            size = 1 if name == "all" else 5
            color = colors.get(name, "0.5")
            axes.plot(place + spread, 100 * values, "o", markersize=size, color=color)
        words = {"all": "all", "exhaustive": "least\nvalidation loss"}
        ticks = [words.get(name, RULES.get(name, name).replace(" ", "\n")) for name in columns]
        axes.set_xticks(range(len(columns)), ticks, fontsize=8)
        axes.set(ylabel="test accuracy, points above the mean")

    def gates(figure: Any) -> None:
        grid = figure.subplots(1, len(config.rules), squeeze=False)[0]
        for axes, rule in zip(grid, config.rules, strict=True):
            theta = np.asarray(params["theta"][rule], np.float64)[0]
            picture = axes.imshow(
                np.exp(theta) / np.exp(theta).sum(axis=1, keepdims=True),
                vmin=0,
                vmax=1,
                aspect="auto",
            )
            axes.set_title(RULES[rule], fontsize=9, fontweight="normal")
            axes.set_xticks(range(len(OPERATIONS)), OPERATIONS, rotation=60, fontsize=8)
            axes.set_yticks(range(EDGES), [f"e{k + 1}" for k in range(EDGES)])
            axes.spines[:].set_visible(False)
        figure.colorbar(picture, ax=list(grid), label="gate", shrink=0.8)

    pictures = [
        run.Figure(
            "What the searches descend",
            f"Validation loss of the mixed cell with its weights trained to convergence, whatever "
            f"weights the rule itself had; mean over {config.draws} draws.",
            descent,
        ),
        run.Figure(
            "What is found, among all 216",
            f"Test accuracy of each architecture trained from scratch, less the mean of all on the same "
            f"draw; {config.draws} draws.",
            places,
            wide=True,
        ),
        run.Figure("The gates", "At the end, on the first draw.", gates, wide=True),
    ]
    if set(config.rules) - {"exact"}:
        pictures.insert(
            1,
            run.Figure(
                "How far off are the cheap directions?",
                "Cosine with the exact hypergradient at the same theta, mean over the draws. Dotted: "
                "the same rule with weights trained to convergence.",
                angles,
            ),
        )
    return tuple(pictures)
