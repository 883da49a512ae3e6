"""What the cache of a jitted function looks at in a call, and how two calls differ in it."""

from __future__ import annotations

import enum
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.tree_util import keystr, tree_flatten_with_path

from toolkit.jaxprs.hidden import static_arguments

# Settings of JAX that are part of a program: changing one compiles every function again.
SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_device",
    "jax_default_prng_impl",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_threefry_partitionable",
    "jax_debug_nans",
    "jax_debug_infs",
    "jax_enable_checks",
)
_MESH = "the mesh of jax.set_mesh"
_LONGEST = 60  # characters of a value in a message
_WEAK = " (a Python number on one call, an array on another: wrap it in jnp.asarray(number, dtype))"
_PLACED = " (jax.device_put it alike for every call)"
_STATIC = " (each value of a static argument is a program of its own)"
_UNEQUAL = (
    " (equal in print, but not by `==`: pass one object, or give its class __eq__ and __hash__)"
)


class Leaf(NamedTuple):
    """A leaf as the cache sees it, without its numbers."""

    shape: tuple[int, ...]
    dtype: Any
    weak_type: bool
    placement: Any  # the sharding of an array that is committed to it, else None
    number: Any  # of a Python number, where it is not known which arguments are static


class Argument(NamedTuple):
    """An argument as the cache sees it."""

    keyword: bool  # passed by name
    static: bool
    value: Any  # if static
    structure: Any
    leaves: dict[str, Leaf]  # by path


class Signature(NamedTuple):
    """A call as the cache sees it. Holds no array, so that donated ones may go."""

    arguments: dict[str, Argument]
    settings: dict[str, Any]


def signature_of(
    jitted: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Signature:
    """The signature of `jitted(*args, **kwargs)`, also when its donated arguments are gone."""
    method: Any = jitted
    if isinstance(jitted, types.MethodType):
        jitted, args = method.__func__, (method.__self__, *args)
    statics = static_arguments(jitted)
    names = _names(jitted, len(args))
    # `jax.jit` takes static arguments by position, by negative position, or by name.
    arguments = {
        name: _argument(arg, False, statics, {i, i - len(args)} | {name})
        for i, (name, arg) in enumerate(zip(names, args, strict=True))
    }
    arguments |= {name: _argument(arg, True, statics, {name}) for name, arg in kwargs.items()}
    settings = {name: getattr(jax.config, name, None) for name in SETTINGS}
    return Signature(arguments, settings | {_MESH: jax.sharding.get_abstract_mesh()})


def differences(new: Signature, old: Signature) -> list[str]:
    """What changed from `old` to `new`, in words, an item each."""
    found: list[str] = []
    for name in {**new.arguments, **old.arguments}:
        found += _in_argument(name, new.arguments.get(name), old.arguments.get(name))
    for name, value in new.settings.items():
        if value != old.settings[name]:
            found.append(f"{name}: {_change(value, old.settings[name])}")
    return found or list(_in_numbers(new, old))


def _names(jitted: Callable[..., Any], count: int) -> list[str]:
    """A name for each positional argument."""
    try:
        parameters = list(inspect.signature(jitted).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [parameter.name for parameter in parameters if parameter.kind in kinds]
    rest = [p.name for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL]
    star = rest[0] if rest else "args"
    return [*names, *(f"{star}[{i}]" for i in range(count - len(names)))][:count]


def _argument(
    arg: Any, keyword: bool, statics: set[int | str] | None, here: set[int | str]
) -> Argument:
    if statics is not None and statics & here:
        return Argument(keyword, True, arg, None, {})
    leaves, structure = tree_flatten_with_path(arg)
    # Where `jitted` does not tell which arguments are static, one that JAX cannot trace must be.
    if statics is None and any(_untyped(leaf) for _, leaf in leaves):
        return Argument(keyword, True, arg, None, {})
    described = {keystr(path): _leaf(leaf, statics is None) for path, leaf in leaves}
    return Argument(keyword, False, None, structure, described)


def _untyped(leaf: Any) -> bool:
    try:
        jax.typeof(leaf)
    except TypeError:
        return True
    return False


def _leaf(leaf: Any, with_number: bool) -> Leaf:
    seen = jax.typeof(leaf)  # as JAX takes it: float64 of NumPy is float32 where x64 is off
    traced = isinstance(leaf, jax.core.Tracer)
    committed = not traced and getattr(leaf, "committed", False)
    number = leaf if with_number and isinstance(leaf, (bool, int, float, complex)) else None
    weak = bool(getattr(seen, "weak_type", False))
    return Leaf(seen.shape, seen.dtype, weak, leaf.sharding if committed else None, number)


def _in_argument(name: str, new: Argument | None, old: Argument | None) -> Iterator[str]:
    if new is None or old is None:
        was = ("passed", "it was not") if old is None else ("not passed", "it was")
        yield f"`{name}`: {was[0]}, before {was[1]}"
        return
    if new.keyword != old.keyword:
        how = ("by position", "by keyword")
        yield f"`{name}`: passed {how[new.keyword]}, before {how[old.keyword]}"
    if new.static or old.static:
        if not _equal(new.value, old.value):
            hint = _UNEQUAL if _alike(new.value, old.value) else _STATIC
            yield f"`{name}`: static value {_change(new.value, old.value)}{hint}"
        return
    for path in {**new.leaves, **old.leaves}:
        yield from _in_leaf(f"`{name}{path}`", new.leaves.get(path), old.leaves.get(path))
    if new.structure != old.structure and new.leaves.keys() == old.leaves.keys():
        yield f"`{name}`: tree structure {_change(new.structure, old.structure)}"


def _in_leaf(place: str, new: Leaf | None, old: Leaf | None) -> Iterator[str]:
    if new is None or old is None:
        yield f"{place}: {'gone from' if new is None else 'new in'} the tree structure"
        return
    if new.shape != old.shape:
        yield f"{place}: shape {new.shape}, before {old.shape}"
    if new.dtype != old.dtype:
        yield f"{place}: dtype {new.dtype}, before {old.dtype}"
    if new.weak_type != old.weak_type:
        yield f"{place}: weak type {new.weak_type}, before {old.weak_type}{_WEAK}"
    if not _placed_alike(new, old):
        change = _apart(_placement(new.placement), _placement(old.placement))
        yield f"{place}: sharding {change}{_PLACED}"


def _in_numbers(new: Signature, old: Signature) -> Iterator[str]:
    for name, argument in new.arguments.items():
        for path, leaf in argument.leaves.items():
            before = old.arguments[name].leaves[path].number
            if not _equal(leaf.number, before):
                yield f"`{name}{path}`: static value {leaf.number}, before {before}{_STATIC}"


def _equal(a: Any, b: Any) -> bool:
    # 1, 1.0 and True are equal in Python, but JAX compiles a program for each, as their types differ.
    return a is b or (type(a) is type(b) and bool(a == b))


def _alike(a: Any, b: Any) -> bool:
    """Whether two unequal values are probably meant to be the same: they print alike, or define no `==`."""
    by_identity: Any = object.__eq__
    return type(a) is type(b) and (type(a).__eq__ == by_identity or repr(a) == repr(b))


def _placed_alike(new: Leaf, old: Leaf) -> bool:
    a, b = new.placement, old.placement
    # Shardings of different shapes cannot be compared, and the shape is listed already.
    if a == b or new.shape != old.shape:
        return (a is None) == (b is None)
    return type(a) is type(b) and a.is_equivalent_to(b, len(new.shape))


def _placement(sharding: Any) -> str:
    if sharding is None:
        return "not committed to a device"
    if isinstance(sharding, jax.sharding.NamedSharding):
        return f"P{tuple(sharding.spec)} on the mesh {dict(sharding.mesh.shape)}"
    if isinstance(sharding, jax.sharding.SingleDeviceSharding):
        device: Any = next(iter(sharding.device_set))
        return f"{device.platform}:{device.id}"
    return _text(sharding)


def _change(new: Any, old: Any) -> str:
    return _apart(_text(new), _text(old))


def _apart(new: str, old: str) -> str:
    """`new, before old`, cut to where the two differ if they are long."""
    pairs = enumerate(zip(new, old, strict=False))
    shared = next((i for i, (a, b) in pairs if a != b), min(len(new), len(old)))
    start = 0 if max(len(new), len(old)) <= _LONGEST else max(shared - _LONGEST // 3, 0)
    return f"{_cut(new, start)}, before {_cut(old, start)}"


def _cut(text: str, start: int) -> str:
    end = start + _LONGEST
    return f"{'…' if start else ''}{text[start:end]}{'…' if len(text) > end else ''}"


def _text(value: Any) -> str:
    return " ".join(repr(value.value if isinstance(value, enum.Enum) else value).split())
