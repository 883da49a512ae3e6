"""`layered`: a network as a row of layers, so that a learning rule can treat each by itself.

`B` examples, layers `1..L`. With `h_0 = x`, layer `k` computes

    a_k = maps_k(params_k, h_(k-1)),    h_k = activation_k(a_k).

A rule needs more of a network than its output: what each layer got, what it computed before its
activation, and how a signal comes back through its maps. `Layer` has these; `passes.py` makes the passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax import Array

from toolkit.errors.readable import readable
from toolkit.models.flax_modules import pure, takes_rngs
from toolkit.types import Tree

Activation = Callable[[Array], Array]
NO_PARAMS: tuple = ()

_FORM = "(*maps, activation), such as (conv, max_pool, jax.nn.relu)"


class Map(NamedTuple):
    """One of the maps that a layer is made of."""

    init: Callable[[Array, Array], Tree] | None  # (key, h) -> params; None: it has no parameters
    apply: Callable[[Tree, Array], Array]  # (params, h); params are () where it has none


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer: maps, of which at most one has parameters, and an elementwise activation."""

    maps: tuple[Map, ...]
    activation: Activation
    weights: Callable[[Tree], Tree] | None = None

    def init(self, key: Array, h: Array) -> tuple[Tree, Array]:
        """(the layer's parameters, its output for the input `h`)."""
        params: Tree = NO_PARAMS
        a = h
        for one in self.maps:
            if one.init is not None:
                params = one.init(key, a)
            a = one.apply(params if one.init is None else self._seen(params), a)
        output = self.activation(a)
        if jnp.shape(output) != jnp.shape(a):
            raise ValueError(
                f"the activation {_named(self.activation)} must be elementwise: got shape "
                f"{jnp.shape(output)} from {jnp.shape(a)}; pooling and reshaping stand before it, as maps."
            )
        return params, output

    def steps(self, params: Tree) -> list[Callable[[Array], Array]]:
        """Each map as a function of its input alone, the first map first."""
        seen = self._seen(params)

        def at(one: Map) -> Callable[[Array], Array]:
            own = NO_PARAMS if one.init is None else seen
            return lambda h: one.apply(own, h)

        return [at(one) for one in self.maps]

    def pre(self, params: Tree, h: Array) -> Array:
        """`a_k`, what the layer computes before its activation."""
        for step in self.steps(params):
            h = step(h)
        return h

    def _seen(self, params: Tree) -> Tree:
        """The parameters as the maps see them: quantized, say, while the rule moves the real ones."""
        return params if self.weights is None else self.weights(params)


@dataclass(frozen=True, eq=False)
class Layered:
    """A network of layers, a pair `(init, apply)` of pure functions like every model.

    Attributes:
      layers: layer `k` of the formulas is `layers[k - 1]`.
    """

    layers: tuple[Layer, ...]

    @readable
    def init(self, key: Array, x: Array) -> tuple[Tree, ...]:
        """The parameters: a tuple with an entry a layer, what its map's `init` returns, or `()`.

        Args:
          key: a JAX key; each layer gets one of its own.
          x: examples `[B, ...]`; one is enough, their values do not count.
        """
        keys, params, h = jax.random.split(key, len(self.layers)), [], x
        for layer, layer_key in zip(self.layers, keys, strict=True):
            drawn, h = layer.init(layer_key, h)
            params.append(drawn)
        return tuple(params)

    @readable
    def apply(self, params: Sequence[Tree], x: Array) -> Array:
        """The output `h_L`, `[B, ...]`."""
        h = x
        for layer, own in zip(self.layers, params, strict=True):
            h = layer.activation(layer.pre(own, h))
        return h


@readable
def layered(
    layers: Sequence[Sequence[Any]], weights: Callable[[Tree], Tree] | None = None
) -> Layered:
    """A network from its layers, which every rule of `tk.credit` can train.

        model = tk.credit.layered([
            (nn.Conv(16, (3, 3)), max_pool, jax.nn.relu),
            (flatten, nn.Dense(10), tk.credit.identity),
        ])
        params = model.init(key, x)
        output = model.apply(params, x)

    Args:
      layers: each `(*maps, activation)`. A map is a pair `(init, apply)` with `init(key, h) -> params` and
        `apply(params, h)`; a flax linen module; a flax nnx module, which brings its weights; a
        constructor of an nnx module (`partial(nnx.Linear, 64, 10)`, any callable of `rngs`); or a
        function `h -> h` without parameters: pooling, reshaping. At most one map of a layer is no such
        function. The activation is elementwise. Pooling stands among the maps, and a residual block is
        one module.
      weights: `weights(params_k)` is what the maps see, such as quantized weights; gradients pass
        through it by its own derivative.

    Returns: `Layered`, with `.init(key, x)`, `.apply(params, x)`, and `.layers[k].pre(params[k], h)`.

    Raises:
      ValueError: there is no layer, or a layer has no map or no activation, or two maps with
        parameters; weights of an nnx module stand in two places; `weights` is no function; a module keeps
        more than parameters (flax's BatchNorm; LayerNorm does without). Linen modules show that in
        `init`, and an activation that it is not elementwise, by another shape.
    """
    if not isinstance(layers, Sequence) or isinstance(layers, str) or len(layers) == 0:
        raise ValueError(f"`layers` must be a list of at least one layer {_FORM}: got {layers!r}.")
    if weights is not None and not callable(weights):
        raise ValueError(
            "`weights` must be a function of a layer's parameters, or None: got "
            f"{type(weights).__name__}."
        )
    _refuse_shared(layers)
    return Layered(tuple(_layer(k, one, weights) for k, one in enumerate(layers)))


def _layer(number: int, parts: Any, weights: Callable[[Tree], Tree] | None) -> Layer:
    name = f"layers[{number}]"
    if isinstance(parts, str) or not isinstance(parts, Sequence) or len(parts) < 2:
        raise ValueError(f"`{name}` must be {_FORM}, with a map and an activation: got {parts!r}.")
    *maps, activation = parts
    if _has_parameters(activation) or not callable(activation):
        raise ValueError(
            f"`{name}` must end with an elementwise activation, such as tk.credit.identity: got "
            f"{_named(activation)}."
        )
    made = tuple(_map(f"{name}[{place}]", one) for place, one in enumerate(maps))
    if sum(one.init is not None for one in made) > 1:
        raise ValueError(
            f"`{name}` must have at most one map with parameters: got "
            f"{' and '.join(_named(one) for one in maps if _has_parameters(one))}; make two layers of "
            "it (tk.credit.identity is an activation), or one module."
        )
    return Layer(made, activation, weights)


def _map(name: str, one: Any) -> Map:
    if isinstance(one, linen.Module | nnx.Module) or (_is_callable(one) and takes_rngs(one)):
        return Map(*pure(one))
    if isinstance(one, tuple) and len(one) == 2 and all(map(callable, one)):
        return Map(*one)
    if not _is_callable(one):
        raise ValueError(
            f"`{name}` must be a pair (init, apply), a flax module, or a function of h: got "
            f"{_named(one)}."
        )
    return Map(None, lambda _, h: one(h))


def _is_callable(one: Any) -> bool:
    # A class that is no constructor of an nnx module, such as `nn.Dense` in place of `nn.Dense(10)`, would
    # take h for one of its settings.
    return (
        callable(one)
        and not isinstance(one, tuple)
        and (not isinstance(one, type) or takes_rngs(one))
    )


def _has_parameters(one: Any) -> bool:
    """Whether a part of a layer is a map of its own parameters, whatever these turn out to be."""
    is_module = isinstance(one, linen.Module | nnx.Module | tuple)
    return is_module or (callable(one) and takes_rngs(one))


def _named(one: Any) -> str:
    return getattr(one, "__name__", None) or (
        "a pair (init, apply)" if isinstance(one, tuple) else type(one).__name__
    )


def _refuse_shared(layers: Sequence[Any]) -> None:
    """Refuse nnx weights in two places: they would be two entries, trained apart."""
    seen: dict[int, str] = {}
    for k, parts in enumerate(layers):
        for place, one in enumerate(parts if isinstance(parts, Sequence) else ()):
            here = f"layers[{k}][{place}]"
            for weight in _variables(one):
                if seen.setdefault(id(weight), here) != here:
                    raise ValueError(
                        f"`{here}` must be a module of its own: got a {type(one).__name__} with weights of "
                        f"{seen[id(weight)]}, which two maps cannot share; make another."
                    )


def _variables(one: Any) -> list[nnx.Variable]:
    """The arrays of an nnx module and of all modules in it; of anything else none."""
    if not isinstance(one, nnx.Module):
        return []
    return [value for _, value in nnx.iter_graph(one) if isinstance(value, nnx.Variable)]
