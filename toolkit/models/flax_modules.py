"""A flax module as a pair of pure functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from flax import errors, linen, nnx
from jax import Array

from toolkit.models.model import Model
from toolkit.types import Tree


def pure(module: Any) -> Model:
    """`(init, apply)` of a flax module that keeps parameters and nothing else.

    `init(key, example)` gives the parameters as a nested dict, and `apply(params, x, ...)` the module's output;
    arguments after `x` go to the module. Leaves that are no real numbers (integers, keys) stay as they are.

    | module | params | `init` |
    |---|---|---|
    | linen module | the collection `params` | draws, from the shape and dtype of `example` |
    | function of `rngs` that makes an nnx module: a class, `partial(nnx.Linear, 64, 10)` | `nnx.Param`s | draws; `example` is not needed |
    | nnx module | `nnx.Param`s | the weights that it has, whatever the key |

    A function without arguments stands for the module that it returns.

    Dropout in linen: pass the key on, `apply(params, x, rngs={"dropout": key})`, or build the module with
    `deterministic=True`.

    Args:
      module: one of the table's left column.

    Raises:
      TypeError: `module` is none of these.
      ValueError: the module keeps state besides its parameters (BatchNorm, nnx's Dropout). nnx modules are
        refused here, linen modules by `init`, where their state first shows. Also from `apply`, for a
        linen module that draws random numbers and got no key.
    """
    if isinstance(module, linen.Module):
        return _from_linen(module)
    if isinstance(module, nnx.Module):
        return _from_nnx(lambda rngs: module)
    if not callable(module):
        raise TypeError(
            "`module` must be a linen module, an nnx module, or a function that makes one: got "
            f"{type(module).__name__}."
        )
    if takes_rngs(module):
        return _from_nnx(lambda rngs: module(rngs=rngs))
    made = module()
    if not isinstance(made, linen.Module | nnx.Module):
        raise TypeError(
            f"`module` must return a linen or an nnx module: it returned {type(made).__name__}."
        )
    return pure(made)


def takes_rngs(factory: Callable[..., Any]) -> bool:
    """Whether nnx can hand this function its random streams."""
    if isinstance(factory, partial):
        return "rngs" not in factory.keywords and takes_rngs(factory.func)
    # Called, every nnx class has the signature (*args, **kwargs) of its metaclass; `__init__` has its own.
    called: Any = factory.__init__ if isinstance(factory, type) else factory  # type: ignore[misc]
    try:
        return "rngs" in inspect.signature(called).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return False


def _from_linen(module: linen.Module) -> Model:
    def init(key: Array, example: Any) -> Tree:
        variables = dict(module.init(key, example))
        params = variables.pop("params", {})
        # What `sow` leaves behind is output for whoever asks for it, and no later call reads it.
        variables.pop("intermediates", None)
        if variables:
            raise _stateful(type(module).__name__, ", ".join(sorted(variables)))
        return params

    def apply(params: Tree, x: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return module.apply({"params": params}, x, *args, **kwargs)
        except errors.InvalidRngError as error:
            raise ValueError(
                f"{type(module).__name__} draws random numbers: pass their key to `apply`, for example "
                'rngs={"dropout": key}, or build the module with deterministic=True.'
            ) from error

    return Model(init, apply)


def _from_nnx(build: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    # The module's structure is the same for every key, so it is found once, without computing a weight.
    abstract = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    graph = nnx.graphdef(abstract)
    kept = nnx.to_flat_state(nnx.state(abstract, nnx.Not(nnx.Param)))
    if kept:
        names = [f"{type(leaf).__name__} {'.'.join(map(str, path))}" for path, leaf in kept]
        raise _stateful(type(abstract).__name__, ", ".join(names))

    def init(key: Array, example: Any = None) -> Tree:
        return nnx.to_pure_dict(nnx.state(build(nnx.Rngs(key)), nnx.Param))

    def apply(params: Tree, x: Any, *args: Any, **kwargs: Any) -> Any:
        module: Any = nnx.merge(graph, nnx.State(params))
        return module(x, *args, **kwargs)

    return Model(init, apply)


def _stateful(name: str, kept: str) -> ValueError:
    return ValueError(
        f"{name} keeps more than parameters ({kept}), and a pure function has nowhere to put it: take "
        "LayerNorm in place of BatchNorm, leave nnx's Dropout out, or carry the state yourself with "
        "linen's `apply(..., mutable=...)` or nnx's `split` and `merge`."
    )
