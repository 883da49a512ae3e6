"""All bilevel methods side by side: on a quadratic with a known answer, and on cleaning digits.

    toolkit run configs/bilevel_race.yaml                          about 3 min on 2 cores
    toolkit run configs/bilevel_race.yaml on_quadratic.SOBA.inner_step_size=0.3

In each step of the run every method of `on_quadratic` and `on_cleaning` goes on until it has spent `calls`
more gradients and Hessian-vector products of a batch loss, as `info` counts them. Then a row of the log has

    quadratic_NAME   F(theta) - min F, in closed form
    cleaning_NAME    F(theta), the validation loss at the exact inner minimiser of theta

A method in the config is a name of your own and one of `toolkit list bilevel_methods`. If its step sizes
let it diverge, the run ends as `not finite` and names it. At the end each method is timed on its own.

Expect (seeds 0 to 2, 10,000 calls; step sizes tuned on seed 0), on the quadratic, where F - min F is 8 to
16 at the start:

    SABA                               2e-14 to 4e-14, at the rounding of float32 after 5,000 calls
    SRBA                               7e-13 to 6e-07, still falling
    HOAG                               2e-11 to 2e-08; its calls are on the whole data, the others' on 32 examples
    SOBA, FSLA, AmIGO                  6e-04 to 3e-02: exact but for the noise of their batches
    F2SA, F3SA                         4e-03 to 3e-02: penalty 10
    AID, ITD, StocBiO, MRBO, VRBO      8e-03 to 2e-01: noise, and series or loops of 3 to 5 terms
    BSA, TTSA, SUSTAIN, PZOBO          1e-02 to 2e-01: sampled series, random directions
    DARTS, SAMA, BOME                  3e-02 to 1
    T1T2                               2e-02, 3e-01 and 181: its direction may even ascend F

and on the digits F at most 0.008 above the lowest, which is HOAG's or SABA's, in all but BOME (0.05 to
0.08) and PZOBO (0.23 to 0.25: 5 random directions for 600 weights).

Source: the problems are those of the public bilevel benchmark (Dagreou et al. 2022), made small.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import BaseModel, Field, PositiveInt

import toolkit as tk
from toolkit import run
from toolkit.run.experiment.common import STRICT

REPEATS = 5  # of the timing
FLOOR = 1e-16  # lowest suboptimality drawn: a logarithmic axis has no 0
STYLES = ("-", "--", ":")  # the next one after each eight curves, because a page has eight colors


class Quadratic(BaseModel):
    """Sizes of the simulated quadratic."""

    model_config = STRICT
    inner_examples: PositiveInt = 1000
    outer_examples: PositiveInt = 500
    inner_size: PositiveInt = 20
    outer_size: PositiveInt = 10


class Cleaning(BaseModel):
    """Sizes of digits cleaning."""

    model_config = STRICT
    train_size: Annotated[int, Field(ge=10)] = 600
    validation_size: Annotated[int, Field(ge=10)] = 400
    corrupted: Annotated[float, Field(ge=0, le=1)] = 0.5


Methods = dict[
    Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*$")], tk.bilevel.BilevelMethod
]


class Config(run.Settings):
    """What this experiment can be asked."""

    calls: PositiveInt = 1000  # gradients and products of each method in a step
    quadratic: Quadratic = Quadratic()
    cleaning: Cleaning = Cleaning()
    on_quadratic: Methods
    on_cleaning: Methods


class Racer(NamedTuple):
    """Where a method stands on a problem."""

    state: Any
    calls: jax.Array  # [] int32, gradients and products so far


class Ground(NamedTuple):
    """The arrays of a problem."""

    examples: tuple[Any, Any]  # inner and outer data
    start: tuple[Any, Any]  # y, theta
    known: Any  # what the measure looks into


class Course(NamedTuple):
    """The functions of a problem, and the methods that run on it."""

    losses: tuple[Callable, Callable]  # inner and outer
    algorithms: dict[str, tk.bilevel.Algorithm]
    measure: Callable[[Any, Ground], jax.Array]  # (a method's state, ground) -> [] what is drawn


def build(config: Config) -> run.Program:
    """The functions that the runner drives."""
    races, grounds = courses(config)

    def init(key: jax.Array, data: dict[str, Ground]) -> dict[str, Any]:
        racers: dict[str, Any] = {"step": jnp.asarray(0, jnp.int32)}
        for name, course in races.items():
            start = (key, *data[name].start, data[name].examples)
            racers[name] = {
                label: Racer(algorithm.init(*start), jnp.asarray(0, jnp.int32))
                for label, algorithm in course.algorithms.items()
            }
        return racers

    def step(
        racers: dict[str, Any], data: dict[str, Ground]
    ) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        new, metrics = {"step": racers["step"] + 1}, {}
        for name, course in races.items():
            calls, ground = config.calls * new["step"], data[name]
            new[name] = {
                label: spend(algorithm.step, racers[name][label], calls, ground)
                for label, algorithm in course.algorithms.items()
            }
            for label, racer in new[name].items():
                metrics[f"{name}_{label}"] = course.measure(racer.state, ground)
        return new, metrics

    def finish(racers: dict[str, Any], data: dict[str, Ground]) -> run.Final:
        return conclude(config, races, data, racers)

    def differentiated(_: dict[str, Any], data: dict[str, Ground]) -> dict[str, run.Loss]:
        losses = {}
        for name, course in races.items():
            (inner, outer), (at, examples) = course.losses, (data[name].start, data[name].examples)
            losses[f"{name}_inner"] = run.Loss(inner, (*at, examples[0]), argnums=(0, 1))
            losses[f"{name}_outer"] = run.Loss(outer, (*at, examples[1]))
        return losses

    return run.Program(init, step, finish, differentiated, data=grounds)


def courses(config: Config) -> tuple[dict[str, Course], dict[str, Ground]]:
    """The two problems of a config, seeded."""
    quadratic_key, split_key, noise_key = jax.random.split(jax.random.key(config.seed), 3)
    quadratic = tk.problems.quadratic.quadratic(quadratic_key, **config.quadratic.model_dump())
    sizes = (config.cleaning.train_size, config.cleaning.validation_size)
    parts = tk.data.standardize(*tk.data.split(split_key, tk.data.digits(), *sizes))
    cleaning = tk.problems.cleaning.cleaning(
        noise_key, *parts, corrupted=config.cleaning.corrupted, num_classes=10
    )
    races = {
        "quadratic": _course(quadratic, config.on_quadratic, "suboptimality"),
        "cleaning": _course(cleaning, config.on_cleaning, "value"),
    }
    return races, {"quadratic": _ground(quadratic), "cleaning": _ground(cleaning)}


def _course(instance: tk.problems.Instance, methods: Mapping[str, Any], name: str) -> Course:
    problem = tk.bilevel.Problem(instance.inner, instance.outer)
    algorithms = {label: method(problem) for label, method in methods.items()}
    measure = lambda state, ground: instance.measure(state.y, state.theta, ground.known)[name]
    return Course((instance.inner, instance.outer), algorithms, measure)


def _ground(instance: tk.problems.Instance) -> Ground:
    examples = instance.inner_data, instance.outer_data
    return Ground(examples, (instance.y0, instance.theta0), instance.known)


def spend(step: Callable[..., Any], racer: Racer, calls: Any, ground: Ground) -> Racer:
    """Steps of a method until it has made `calls` calls in all, or a few more: a step is never cut."""

    def one(racer: Racer) -> Racer:
        state, info = step(racer.state, ground.examples)
        return Racer(state, racer.calls + info.gradient_evals + info.hvp_evals)

    return jax.lax.while_loop(lambda racer: racer.calls < calls, one, racer)


def conclude(
    config: Config, races: dict[str, Course], grounds: dict[str, Ground], racers: dict[str, Any]
) -> run.Final:
    """Who is where, and what a call of each costs."""
    params, metrics, table = {}, {}, []
    for name, course in races.items():
        seconds = seconds_per_call(course, grounds[name], racers[name], config.calls)
        for label, racer in racers[name].items():
            reached = float(course.measure(racer.state, grounds[name]))
            metrics[f"{name}_{label}"] = reached
            params[f"seconds_per_call_{name}_{label}"] = jnp.asarray(seconds[label])
            params[f"theta_{name}_{label}"] = racer.state.theta
            shown = f"{reached:.2e}" if name == "quadratic" else f"{reached:.5f}"
            cost = 1e6 * seconds[label]
            table.append((f"{name}, {label}", f"{shown}   {cost:7.1f} us a call"))
    return run.Final(params, metrics, tuple(table))


def seconds_per_call(
    course: Course, ground: Ground, racers: dict[str, Racer], calls: int
) -> dict[str, float]:
    """The least of some rounds in which the methods take turns."""
    compiled, taken = {}, {label: [] for label in racers}
    for label, algorithm in course.algorithms.items():
        one = lambda racer, ground, step=algorithm.step: spend(
            step, racer._replace(calls=0), calls, ground
        )
        compiled[label] = jax.jit(one).lower(racers[label], ground).compile()
    for _ in range(REPEATS):
        for label, go in compiled.items():
            began = time.perf_counter()
            spent = jax.block_until_ready(go(racers[label], ground)).calls
            taken[label].append((time.perf_counter() - began) / int(spent))
    return {label: min(each) for label, each in taken.items()}


def figures(
    config: Config, params: dict[str, Any], metrics: dict[str, float], rows: list[dict[str, Any]]
) -> tuple[run.Figure, ...]:
    """The pictures of the report."""
    draw, made = run.pictures, []
    calls = config.calls * np.asarray([row["step"] for row in rows])
    for name, methods, said in (
        ("quadratic", config.on_quadratic, "F - min F"),
        ("cleaning", config.on_cleaning, "F - lowest F of this run"),
    ):
        values = {label: np.asarray([row[f"{name}_{label}"] for row in rows]) for label in methods}
        lowest = 0.0 if name == "quadratic" else min(map(np.min, values.values()))
        by_calls, by_time = {}, {}
        for i, (label, each) in enumerate(values.items()):
            above = np.maximum(each - lowest, FLOOR)
            seconds = calls * float(params[f"seconds_per_call_{name}_{label}"])
            look = {"linestyle": STYLES[i // 8 % len(STYLES)]}
            by_calls[label] = draw.Curve(calls, above, look=look)
            by_time[label] = draw.Curve(seconds, above, look=look)
        for title, lines, along, scale in (
            (f"{name}: against calls", by_calls, "gradients and products", "linear"),
            (f"{name}: against time", by_time, "seconds", "log"),
        ):
            made.append(
                draw.curves(
                    title,
                    "Each from the same start, with step sizes of its own.",
                    lines,
                    legend={"ncols": 2, "fontsize": 8, "outside": True},
                    wide=True,
                    xlabel=along,
                    ylabel=said,
                    xscale=scale,
                    yscale="log",
                )
            )
    return tuple(made)
