"""Pytrees of arrays as safetensors, bit for bit, with names that are paths in the tree."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from toolkit.devices.meshes import put, sharding
from toolkit.run.store import files

# Types that NumPy and safetensors share. Others (bfloat16, float8, int4, complex128) are stored as bytes.
_SHARED = {"bool", "float16", "float32", "float64", "complex64"}
_SHARED |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}

HEADER_LIMIT = 100 << 20  # bytes; the limit of safetensors itself
LAYOUT = "layout"  # key of the file's metadata

Leaves = dict[str, Any]  # name -> array
# name -> {"shape": [...], "dtype": "float32", "key_impl": only for PRNG keys}
Layout = dict[str, dict[str, Any]]


def named_leaves(tree: Any) -> Leaves:
    """Leaves by path, `params/dense/kernel`. Raises: ValueError where a path would be ambiguous."""
    leaves: Leaves = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        keys = [jax.tree_util.keystr((key,), simple=True) for key in path]
        name = "/".join(keys) or "value"
        if name in leaves or any("/" in key for key in keys):
            raise ValueError(f"ambiguous leaf {name!r}, expected distinct keys without `/`")
        leaves[name] = leaf
    return leaves


def encode(tree: Any) -> tuple[bytes, Layout]:
    """A safetensors file of the tree's arrays, and the layout needed to read it back."""
    layout: Layout = {}
    tensors: dict[str, np.ndarray] = {}
    for name, leaf in jax.device_get(plain(tree)).items():
        array = np.asarray(leaf)
        layout[name] = {"shape": list(array.shape), "dtype": array.dtype.name}
        shared = array.dtype.name in _SHARED
        # Not `ascontiguousarray`, which turns an array without dimensions into one of shape (1,).
        tensors[name] = (
            np.array(array, order="C") if shared else np.frombuffer(array.tobytes(), np.uint8)
        )
    for name, leaf in named_leaves(tree).items():
        if _is_key(leaf):
            layout[name]["key_impl"] = _impl(leaf)
    return save_tensors(tensors, {LAYOUT: json.dumps(layout)}), layout


def size_in_header(path: Path) -> int:
    """The bytes that a safetensors file has by its header, which is a limit for reading it.

    Raises: OSError, ValueError, KeyError or TypeError for a file whose header is damaged.
    """
    with open(files.open_regular(path, os.O_RDONLY), "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > HEADER_LIMIT:
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(file.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return 8 + length + max(ends, default=0)


def fingerprint(tree: Any) -> str:
    """Names, types and shapes of a tree's arrays, and a hash of them with all their bits."""
    data, layout = encode(tree)
    leaves = ", ".join(_text(name, entry) for name, entry in layout.items())
    return f"{leaves}; sha256 {hashlib.sha256(data).hexdigest()[:16]}"


def layout_of(data: bytes) -> Layout:
    """The layout that `encode` put into the file's header. Raises: ValueError or KeyError if there is none."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"][LAYOUT])


def decode(data: bytes, layout: Layout) -> dict[str, np.ndarray]:
    """Arrays by name. Raises: ValueError where the bytes are no safetensors file of this layout."""
    try:
        tensors = load_tensors(data)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"not a safetensors file: {error}") from None
    if set(tensors) != set(layout):
        raise ValueError("other arrays than its manifest lists")
    arrays = {}
    for name, entry in layout.items():
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        array = (
            tensors[name] if entry["dtype"] in _SHARED else tensors[name].view(dtype).reshape(shape)
        )
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"{name}: another shape or type than its manifest says")
        arrays[name] = array
    return arrays


def mismatch(layout: Layout, template: Any) -> tuple[str, str] | None:
    """The first leaf at which a stored layout differs from the tree to restore: (stored, wanted)."""
    wanted = {name: _described(name, leaf) for name, leaf in named_leaves(template).items()}
    for name in sorted(wanted.keys() | layout.keys()):
        got = _text(name, layout[name]) if name in layout else f"no {name}"
        expected = wanted.get(name, f"no {name}")
        if got != expected:
            return got, expected
    return None


def size(template: Any) -> int:
    """Bytes of a tree's arrays."""
    leaves = [_stored(leaf) for leaf in named_leaves(template).values()]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def restore(arrays: Mapping[str, np.ndarray], layout: Layout, template: Any) -> Any:
    """A tree like `template`, on the devices of its leaves.

    The arrays are copied. Otherwise a CPU device may use NumPy's memory as its own, and a step, which donates
    its state, would write into it.
    """

    def leaf(name: str, like: Any) -> Any:
        value = jax.numpy.array(arrays[name], copy=True)
        if "key_impl" in layout[name]:
            value = jax.random.wrap_key_data(value, impl=layout[name]["key_impl"])
        return put(value, like.sharding)

    leaves = [leaf(name, like) for name, like in named_leaves(template).items()]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(template), leaves)


def local(tree: Any) -> Any:
    """This process's own copy of each array that lies whole on devices of several processes.

    An operation on the array itself would be one of all processes.
    """
    return jax.tree.map(
        lambda leaf: leaf if leaf.is_fully_addressable else leaf.addressable_shards[0].data, tree
    )


def gathered(tree: Any) -> Any:
    """The arrays whole on a device of this process. All processes call it."""

    def whole(leaf: Any) -> Any:
        if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            everywhere = sharding(leaf.sharding.mesh)
            leaf = jax.jit(lambda one: one, out_shardings=everywhere)(leaf)
        return leaf

    return local(jax.tree.map(whole, tree))


def plain(tree: Any) -> Leaves:
    """Leaves by path; of a key its numbers. The leaves may be shapes, with the devices that they lie on."""
    return {name: _plain(leaf) for name, leaf in named_leaves(tree).items()}


def rebuilt(leaves: Leaves, template: Any) -> Any:
    """A tree like `template` of what `plain` gives."""
    found = [
        jax.random.wrap_key_data(leaves[name], impl=_impl(like)) if _is_key(like) else leaves[name]
        for name, like in named_leaves(template).items()
    ]
    return jax.tree.unflatten(jax.tree.structure(template), found)


def layout_of_tree(tree: Any) -> Layout:
    """The layout that `encode` gives, of arrays or of their shapes."""
    layout: Layout = {}
    for name, leaf in named_leaves(tree).items():
        stored = _stored(leaf)
        layout[name] = {"shape": list(stored.shape), "dtype": stored.dtype.name}
        layout[name] |= {"key_impl": _impl(leaf)} if _is_key(leaf) else {}
    return layout


def nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """`{"dense/kernel": a}` as `{"dense": {"kernel": a}}`."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, last = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = array
    return tree


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(getattr(leaf, "dtype", np.dtype(object)), jax.dtypes.prng_key)


def _impl(key: Any) -> str:
    """The name of a key's generator. The key may be a `ShapeDtypeStruct`: tracing asks for the type alone."""
    found: list[str] = []
    jax.eval_shape(lambda traced: found.append(str(jax.random.key_impl(traced))), key)
    return found[0]


def _plain(leaf: Any) -> Any:
    if not _is_key(leaf):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        stored = _stored(leaf)
        return jax.ShapeDtypeStruct(stored.shape, stored.dtype, sharding=leaf.sharding)
    return jax.random.key_data(leaf)


def _stored(leaf: Any) -> Any:
    return jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf


def _described(name: str, leaf: Any) -> str:
    stored = _stored(leaf)
    entry = {"dtype": stored.dtype.name, "shape": stored.shape}
    return _text(name, entry | ({"key_impl": _impl(leaf)} if _is_key(leaf) else {}))


def _text(name: str, entry: Mapping[str, Any]) -> str:
    shape = ",".join(map(str, entry["shape"]))
    key = f" key of {entry['key_impl']}" if "key_impl" in entry else ""
    return f"{name} {entry['dtype']}[{shape}]{key}"
