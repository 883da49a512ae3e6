"""Can hypergradients set thousands of penalties, where a grid sets one?

    toolkit run configs/per_feature_penalty.yaml                          about 25 s on 2 cores
    toolkit run configs/per_feature_penalty.yaml penalties=weight         one a weight: 21,440
    toolkit run configs/per_feature_penalty.yaml dataset=breast_cancer    another data set

Logistic regression on the features of an example and on the products of their pairs, with one L2
penalty a feature (or a weight, or one shared). Their logarithms descend the validation loss:

    min_theta  mean_val CE(w*(theta))
    w*(theta) = argmin_w  mean_train CE(w) + 1/2 sum_j exp(theta_j) w_j^2

A fourth part of the data says at which outer step to stop. Expect (5 seeds, against the best shared
penalty of a 25-point grid: validation loss 0.083 to 0.126, test loss 0.058 to 0.133):

    penalties               validation loss      over the shared one's     test loss, stopped, over it
    2,144, one a feature    0.0024 to 0.0032     0.02 to 0.03              0.46 to 0.88
    21,440, one a weight    0.0004 to 0.0005     0.003 to 0.005            0.45 to 1.09
    495, breast cancer      0.0011 to 0.0042     0.008 to 0.02             1.0 to 2.4

So many penalties overfit the validation part by far. Without the stop much of what digits gain is lost,
and on breast cancer, with 114 examples to train on, they do harm. The plainest use of the validation
part is better still: training on it as well, with one penalty that the fourth part chooses (`pooled`),
has less test loss than the stopped penalties on 4 of 5 seeds in each row. A bit in the column `issues`
says that a solve ended above its tolerance, or that its error may be more than ten times that, because
the curvature along the bias is small.

Source: Bengio 2000; a penalty a weight: Maclaurin, Duvenaud & Adams 2015.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field, PositiveFloat

import toolkit as tk
from toolkit import run
from toolkit.data import Labelled

Part = Annotated[float, Field(gt=0, lt=1)]


class Config(run.Settings):
    """What this experiment can be asked."""

    dataset: Literal["digits", "breast_cancer"] = "digits"
    penalties: Literal["shared", "feature", "weight"] = "feature"
    products: bool = True  # features are those of the data, and the products of their pairs
    train: Part = 0.2  # parts of the data; what remains is the test part
    validation: Part = 0.35
    stopping: Part = 0.15
    penalty: PositiveFloat = 1e-3  # of all weights, at first
    bias_penalty: PositiveFloat = 1e-3  # not learned
    lowest_penalty: PositiveFloat = 1e-7  # of the grid of shared penalties, and of the learned ones
    highest_penalty: PositiveFloat = 10.0
    grid_size: Annotated[int, Field(ge=3)] = 25
    solver: tk.solver.Solver = tk.solver.LBFGS(max_steps=200, tol=5e-4)
    adjoint: tk.adjoint.Adjoint = tk.adjoint.Implicit(
        linear_solver=tk.linear.CG(max_steps=500, tol=1e-3)
    )
    optimizer: tk.optimizers.Optimizer = tk.optimizers.Adam(learning_rate=0.1)


class Data(NamedTuple):
    """Four parts; `images` holds the features, `F` of them."""

    train: Labelled
    validation: Labelled  # what the penalties descend
    stopping: Labelled  # says at which outer step the penalties were best
    test: Labelled  # judges, and decides nothing


class State(NamedTuple):
    """All that is carried from one outer step to the next."""

    u: dict[str, jax.Array]  # weights in units of 1 / sqrt(penalty)
    theta: jax.Array  # [1, 1], [F, 1] or [F, K] log penalties
    optimizer: Any
    best: jax.Array  # the theta of the least stopping loss so far
    best_loss: jax.Array
    best_step: jax.Array  # outer steps that led to it
    step: jax.Array
    issues: jax.Array  # tk.Issue bits of all steps so far


def build(config: Config) -> run.Program:
    """The functions that the runner drives."""
    optimizer = config.optimizer.build()

    def levels(data: Data) -> tuple[tk.SolutionMap, Any]:
        outer = lambda u, theta: loss(weights_of(u, theta), data.validation)
        return training(config, data.train, config.adjoint), outer

    def init(_: jax.Array, data: dict[str, Data]) -> State:
        u = start(config, data[config.dataset])
        shape = {"shared": (1, 1), "feature": (len(u["w"]), 1), "weight": u["w"].shape}
        theta = jnp.full(shape[config.penalties], np.log(config.penalty), jnp.float32)
        none, inf = jnp.asarray(0, jnp.int32), jnp.asarray(jnp.inf, jnp.float32)
        return State(u, theta, optimizer.init(theta), theta, inf, none, none, none)

    def step(state: State, data: dict[str, Data]) -> tuple[State, dict[str, jax.Array]]:
        parts = data[config.dataset]
        solve, outer = levels(parts)
        hg = tk.hypergradient(outer, solve)(state.u, state.theta)
        updates, optimizer_state = optimizer.update(hg.gradient, state.optimizer, state.theta)
        theta = optax.projections.projection_box(
            optax.apply_updates(state.theta, updates),
            jnp.log(config.lowest_penalty),
            jnp.log(config.highest_penalty),
        )
        weights = weights_of(hg.solution.value, state.theta)
        stopping = loss(weights, parts.stopping)
        better = stopping < state.best_loss
        metrics = {
            "validation_loss": hg.value,
            "training_loss": loss(weights, parts.train),
            "stopping_loss": stopping,
            "test_loss": loss(weights, parts.test),
            "test_accuracy": accuracy(weights, parts.test),
            "gradient_norm": optax.tree.norm(hg.gradient),
            "inner_residual": hg.report.inner_residual,
            "linear_residual": hg.report.linear_residual,
            "linear_steps": hg.report.linear_steps,
            "issues": hg.report.status,
        }
        following = State(
            hg.solution.value,
            theta,
            optimizer_state,
            jnp.where(better, state.theta, state.best),
            jnp.where(better, stopping, state.best_loss),
            jnp.where(better, state.step, state.best_step),
            state.step + 1,
            state.issues | hg.report.status,
        )
        return following, metrics

    def finish(state: State, data: dict[str, Data]) -> run.Final:
        return conclude(config, data[config.dataset], state)

    def differentiated(state: State, data: dict[str, Data]) -> dict[str, run.Loss]:
        return run.losses_of(*levels(data[config.dataset]), state.u, state.theta)

    return run.Program(init, step, finish, differentiated, data={config.dataset: load(config)})


def load(config: Config) -> Data:
    """The seeded split of a config, features moved by the mean of the training part."""
    source = {"digits": tk.data.digits, "breast_cancer": tk.data.breast_cancer}[config.dataset]()
    parts = (config.train, config.validation, config.stopping)
    sizes = [round(part * len(source.labels)) for part in parts]
    split = tk.data.split(jax.random.key(config.seed), source, *sizes)
    # Pixels share a unit. Scaling them would make those loudest that are nearly always blank.
    moved = tk.data.standardize(*split, scale=config.dataset != "digits")
    if config.products:
        moved = tuple(part._replace(images=with_products(part.images)) for part in moved)
    return Data(*moved)


def with_products(features: jax.Array) -> jax.Array:
    """`[B, F + F (F + 1) / 2]`: the features and the products of their pairs, squares included."""
    first, second = np.triu_indices(features.shape[1])
    return jnp.concatenate([features, features[:, first] * features[:, second]], axis=1)


def outputs(config: Config) -> int:
    """`K`: a score a class, or one where there are two classes."""
    return 10 if config.dataset == "digits" else 1


def scores(weights: dict[str, jax.Array], features: jax.Array) -> jax.Array:
    """`[B, max(K, 2)]`; the first of two classes has score 0."""
    z = features @ weights["w"] + weights["b"]
    return jnp.pad(z, ((0, 0), (1, 0))) if z.shape[1] == 1 else z


def loss(weights: dict[str, jax.Array], data: Labelled) -> jax.Array:
    """Mean cross-entropy."""
    logits = scores(weights, data.images)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, data.labels))


def accuracy(weights: dict[str, jax.Array], data: Labelled) -> jax.Array:
    """The part of the examples whose largest score is the right one."""
    return jnp.mean(jnp.argmax(scores(weights, data.images), axis=1) == data.labels)


def weights_of(u: dict[str, jax.Array], theta: jax.Array) -> dict[str, jax.Array]:
    """`w = u exp(-theta / 2)`: in `u` every penalty is 1, so the curvature is at least 1 at every theta."""
    return {"w": u["w"] * jnp.exp(-theta / 2), "b": u["b"]}


def training(config: Config, train: Labelled, adjoint: Any) -> tk.SolutionMap:
    """Training as a function of (start, theta)."""

    def objective(u: dict[str, jax.Array], theta: jax.Array) -> jax.Array:
        squares = jnp.sum(u["w"] ** 2) + config.bias_penalty * jnp.sum(u["b"] ** 2)
        return loss(weights_of(u, theta), train) + squares / 2

    return tk.argmin(objective, config.solver, adjoint=adjoint)


def start(config: Config, data: Data) -> dict[str, jax.Array]:
    """All weights zero."""
    size, k = data.train.images.shape[1], outputs(config)
    return {"w": jnp.zeros((size, k)), "b": jnp.zeros(k)}


def conclude(config: Config, data: Data, state: State) -> run.Final:
    """Train with the learned penalties, and with each shared one of a grid; compare."""
    grid = np.geomspace(config.lowest_penalty, config.highest_penalty, config.grid_size)
    shared = jnp.log(jnp.asarray(grid, jnp.float32))[:, None, None]
    thetas = jnp.stack(
        [state.theta, state.best, *jnp.broadcast_to(shared, (len(grid), *state.theta.shape))]
    )
    pooled = Labelled(*map(jnp.concatenate, zip(data.train, data.validation, strict=True)))
    alone = judge(config, data, data.train, thetas)
    both = judge(config, data, pooled, thetas[1:])
    best = 2 + int(np.argmin(alone["validation_loss"][2:]))
    best_pooled = 1 + int(np.argmin(both["stopping_loss"][1:]))
    judged = {
        "shared": (alone, best),
        "learned": (alone, 0),
        "stopped": (alone, 1),
        "refit": (both, 0),
        "pooled": (both, best_pooled),
    }
    metrics = {
        f"{measure}_{name}": float(values[measure][i])
        for measure in ("validation_loss", "test_loss", "test_accuracy")
        for name, (values, i) in judged.items()
        if measure != "validation_loss" or values is alone  # the others were trained on that part
    }
    metrics |= {
        "validation_loss_ratio": metrics["validation_loss_learned"]
        / metrics["validation_loss_shared"],
        "test_loss_ratio": metrics["test_loss_stopped"] / metrics["test_loss_shared"],
        "penalties": state.theta.size,
        "stopped_at": int(state.best_step),
        "best_shared_penalty": float(grid[best - 2]),
        "best_pooled_penalty": float(grid[best_pooled - 1]),
        "grid_edge": int(best - 2 in (0, len(grid) - 1)),
        "not_converged": int(np.sum(alone["status"] != 0) + np.sum(both["status"] != 0)),
        "issues": int(state.issues),
    }
    kind = f"{state.theta.size:,} penalties" if state.theta.size > 1 else "1 penalty"
    names = {
        "shared": f"best shared penalty ({grid[best - 2]:.1e})",
        "stopped": f"{kind}, stopped at step {metrics['stopped_at']}",
        "learned": f"{kind}, after {config.steps} steps",
        "refit": f"{kind} of step {metrics['stopped_at']}, trained on validation part too",
        "pooled": f"shared penalty ({grid[best_pooled - 1]:.1e}), trained on validation part too",
    }
    table = tuple((name, "  ".join(_words(metrics, key))) for key, name in names.items())
    params = {
        "log_penalty": state.theta,
        "log_penalty_stopped": state.best,
        "grid": jnp.asarray(grid),
        **{f"grid_{m}": alone[m][2:] for m in ("validation_loss", "test_loss")},
    }
    return run.Final(params, metrics, table)


def _words(metrics: dict[str, float], key: str) -> list[str]:
    words = [
        f"test loss {metrics[f'test_loss_{key}']:.4f}",
        f"accuracy {metrics[f'test_accuracy_{key}']:.1%}",
    ]
    known = metrics.get(f"validation_loss_{key}")
    return words if known is None else [f"validation loss {known:.4f}", *words]


def judge(config: Config, data: Data, train: Labelled, thetas: jax.Array) -> dict[str, np.ndarray]:
    """Train from zero under each of the thetas; losses, test accuracy and status, an entry each."""
    solve = training(config, train, tk.adjoint.Stopped())

    def one(theta: jax.Array) -> dict[str, jax.Array]:
        solution = solve(start(config, data), theta)
        weights = weights_of(solution.value, theta)
        return {
            "validation_loss": loss(weights, data.validation),
            "stopping_loss": loss(weights, data.stopping),
            "test_loss": loss(weights, data.test),
            "test_accuracy": accuracy(weights, data.test),
            "status": solution.info.status,
        }

    judged = jax.jit(lambda thetas: jax.lax.map(one, thetas))(thetas)
    return {name: np.asarray(values) for name, values in judged.items()}
