"""One model in several places: each part on its own device or mesh, the gradient through all of them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from toolkit import tree as trees
from toolkit.derive.refusal import refuse_forward_mode
from toolkit.devices.meshes import sharding
from toolkit.errors.readable import readable
from toolkit.types import Tree

Place: TypeAlias = jax.Device | Mesh
Moves: TypeAlias = Counter[tuple[str, str]]  # bytes by (from, to)

# While `Placement.moved` runs a function, what that placement has moved so far.
_COUNTED: ContextVar[Mapping[Placement, Moves]] = ContextVar(
    "counted", default=MappingProxyType({})
)


_NO_FORWARD_MODE = (
    "`moved` counts what reverse mode sends back, and cannot follow forward mode (jvp, jacfwd): use jax.grad, "
    "or call the function outside `moved`."
)


@dataclass(frozen=True, eq=False)
class Placement:
    """Where each part of a model lies; made by `tk.devices.place`."""

    parts: Mapping[str, Place]

    @readable
    def put(self, trees_by_part: Mapping[str, Tree]) -> dict[str, Tree]:
        """Each tree on the device of its part, on every device of a mesh; what is no array stays.

        Args:
          trees_by_part: `{"encoder": tree, "head": tree2}`; some of the parts, or all.

        Raises: ValueError: a name that is no part.
        """
        if not isinstance(trees_by_part, Mapping):
            raise TypeError(
                f"`put` takes a dict of trees by part: got {type(trees_by_part).__name__}; "
                f"{self._known()}."
            )
        for part in trees_by_part:
            self._require(part)
        return {part: self._moved(part, held) for part, held in trees_by_part.items()}

    @readable
    def on(self, part: str, fun: Callable[..., Any]) -> Callable[..., Any]:
        """`fun`, compiled for the devices of a part; its arguments move there when it is called.

            encode, classify = p.on("encoder", encode), p.on("head", classify)
            loss = lambda params, x, z: classify(params["head"], encode(params["encoder"], x), z)
            gradient = jax.grad(loss)(p.put(params), x, z)      # no `jit` around it

        Args:
          fun: of arrays, or trees of them; it sees arguments that lie on one part only.

        Returns: a function with the arguments of `fun`; its results lie on the part.

        Raises:
          ValueError: `part` is unknown; by the returned function, under `jax.jit` or what else compiles
            it as a piece of a larger program, which has to lie on one part; under `jax.vmap`.

        Differentiation: reverse mode, of any order: gradients move back to where an argument came from.
          Forward mode works where nobody counts the bytes.

        Cost: an argument that lies elsewhere is sent, and its gradient is sent back.
        """
        self._require(part)
        compiled = jax.jit(fun, out_shardings=_sharding(self.parts[part]))
        name = getattr(fun, "__name__", type(fun).__name__)

        @functools.wraps(fun)
        def call(*args: Any, **kwargs: Any) -> Any:
            _require_unstaged(name, part, (args, kwargs))
            args, kwargs = self._moved(part, (args, kwargs))
            return compiled(*args, **kwargs)

        return readable(call)

    @readable
    def moved(self, fun: Callable[..., Any], *args: Any) -> dict[tuple[str, str], int]:
        """Call `fun(*args)`, and tell the bytes that went between parts: `{("encoder", "head"): 16384, ...}`.

        Gradients that `fun` takes count, as they move back. An array counts once, on however many devices
        of a mesh it arrives. Arrays that JAX has not been told to keep on a device (`array.committed` is
        False), NumPy's and Python's belong to no part and do not count.

        Raises: TypeError: `fun` uses forward mode (`jax.jvp`). ValueError: it takes many gradients at once
          (`jax.jacrev`).

        Cost: that of `fun`.
        """
        counted: Moves = Counter()
        token = _COUNTED.set({**_COUNTED.get(), self: counted})
        try:
            jax.block_until_ready(fun(*args))
        finally:
            _COUNTED.reset(token)
        return dict(counted)

    def _moved(self, part: str, tree: Tree) -> Tree:
        """The arrays of a tree on a part; Python numbers stay, as `jit` takes them everywhere."""

        def one(leaf: Any) -> Any:
            if not hasattr(leaf, "dtype") or not trees.is_numeric(leaf):
                return leaf
            held = lax.stop_gradient(leaf)
            devices = _devices(self.parts[part])
            if isinstance(held, Array) and held.committed and held.devices() == devices:
                return leaf
            arrived = jax.device_put(leaf, _sharding(self.parts[part]))
            counted = _COUNTED.get().get(self)
            source = self._part_of(held)
            if counted is None or source is None or source == part:
                return arrived
            counted[source, part] += held.nbytes
            return _told(arrived, counted, (part, source))

        return jax.tree.map(one, tree)

    def _part_of(self, held: Any) -> str | None:
        """The part on whose devices an array is kept."""
        if not isinstance(held, Array) or not held.committed:
            return None
        on = held.devices()
        return next((name for name, place in self.parts.items() if on <= _devices(place)), None)

    def _require(self, part: Any) -> None:
        if part not in self.parts:
            raise ValueError(f"{part!r} is no part of this placement: {self._known()}.")

    def _known(self) -> str:
        return f"its parts are {', '.join(map(repr, self.parts))}"


@readable
def place(parts: Mapping[str, Place]) -> Placement:
    """Parts of one model on devices, or meshes, of their own: a small head on a CPU, the rest on a GPU.

        p = tk.devices.place({"encoder": jax.devices()[0], "head": jax.devices()[1]})

    Args:
      parts: a `jax.Device` each, or a `jax.sharding.Mesh`, on whose devices the part is replicated. Two
        parts may lie on the same one.

    Returns: a `Placement`: `.put` places parameters, `.on` functions, `.moved` counts bytes.

    Raises: ValueError: `parts` is no dict, or empty, or has a place that is neither.
    """
    if not isinstance(parts, Mapping) or not parts:
        raise ValueError(
            "`parts` must be a dict of devices or meshes by name, such as {'encoder': jax.devices()[0], "
            f"'head': tk.devices.mesh()}}: got {parts!r}."
        )
    for name, where in parts.items():
        if not isinstance(where, jax.Device | Mesh):
            raise ValueError(
                f"`parts` must hold devices or meshes: got {type(where).__name__} for {name!r}; use one of "
                "jax.devices(), or tk.devices.mesh()."
            )
    return Placement(dict(parts))


def _sharding(place: Place) -> Sharding:
    return sharding(place) if isinstance(place, Mesh) else SingleDeviceSharding(place)


def _devices(place: Place) -> set[jax.Device]:
    return set(place.devices.flat) if isinstance(place, Mesh) else {place}


def _told(array: Array, counted: Moves, way: tuple[str, str]) -> Array:
    """`array`, whose gradient's bytes are counted when it passes here on its way back."""
    if not trees.is_inexact(array):
        return array

    @jax.custom_vjp
    def passed(array: Array) -> Array:
        return array

    def back(_: None, gradient: Array) -> tuple[Array]:
        if isinstance(lax.stop_gradient(gradient), jax.core.Tracer):
            raise ValueError(
                "`moved` counts the bytes of one gradient at a time: got many under jax.jacrev, jax.vmap or "
                "jax.jit; use jax.grad, or call the function outside `moved`."
            )
        counted[way] += gradient.nbytes
        # The gradient of a gradient comes by here again, the other way round.
        return (_told(gradient, counted, way[::-1]),)

    # Where a gradient is itself differentiated, `array` belongs to the outer gradient, which comes back too.
    passed.defvjp(lambda array: (passed(array), None), back)
    return passed(refuse_forward_mode(array, _NO_FORWARD_MODE))


def _require_unstaged(name: str, part: str, arguments: Tree) -> None:
    """Refuse a call whose devices JAX would not look at, or could not send a gradient back to."""
    placed = f"`{name}`, placed on {part!r}, is called under"
    # Whatever is computed while a larger program is traced is a tracer, constants too.
    if isinstance(jnp.zeros(()), jax.core.Tracer):
        raise ValueError(
            f"{placed} jax.jit, or a loop or jax.checkpoint, which compiles it into one program for one "
            "part: call it outside; each placed function is compiled by itself."
        )
    if any(isinstance(lax.stop_gradient(leaf), jax.core.Tracer) for leaf in _arrays(arguments)):
        raise ValueError(
            f"{placed} jax.vmap, where gradients do not find back to their part: place the mapped function, "
            f"as in .on({part!r}, jax.vmap({name}))."
        )


def _arrays(tree: Tree) -> Iterator[Any]:
    return (leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))
