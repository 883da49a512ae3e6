"""`resistive`: a network of resistors that computes by Kirchhoff's laws.

`N` nodes, `E` edges of conductance `g_e > 0`. The input nodes are held at voltages x, and the others settle
where the least power is lost:

    E(V) = sum over edges (i, j) of  g_e (V_i - V_j)^2 / 2

At rest the currents into each free node add up to 0. A cost pulls at the output nodes with the current
`-dcost/dV`. As `dE/dg_e = (V_i - V_j)^2 / 2`, each resistor learns from its own voltage drop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from toolkit import tree
from toolkit.energy.energy_model import Cost, EnergyModel, slope
from toolkit.types import Tree

FIRST = (0.5, 1.5)  # conductances are drawn evenly between these


def resistive(
    edges: Any,
    inputs: Sequence[int],
    outputs: Sequence[int],
    realised: Callable[[Array], Array] | None = None,
    measured: Callable[[Array], Array] | None = None,
    wires: Array | None = None,
) -> EnergyModel:
    """A network of resistors, its state the voltages of the free nodes, solved exactly.

    Params are `{"conductance": [E]}`, positive; `init` draws them evenly from 0.5 to 1.5. x is
    `[B, inputs]` in volts, the output `[B, outputs]`. A sweep solves the linear system; under a cost that
    is not linear in the output, with its slope at the last output.

    Args:
      edges: `[E, 2]` node numbers from 0; several edges may join two nodes.
      inputs: nodes that are held at x.
      outputs: free nodes that are read and pulled at.
      realised: `conductances told [E] -> conductances [E]` that the device has; None: the same. Gradients
        pass through it by its own derivative.
      measured: `voltages at the outputs [B, outputs] -> what is read there`; None: the same. For both see
        `tk.energy.ResistiveDevice`.
      wires: the edges once more, `[E, 2]`: an argument of the compiled program, which without them holds
        the edges as constants. Give them for networks of many resistors.

    Raises:
      ValueError: edges are no pairs of distinct nodes; an input or output names no node, twice the same,
        or one that is both; a free node that no path joins to an input, whose voltage nothing decides; x,
        conductances, `wires`, or what `realised` or `measured` returns, of another shape; `wires` that are
        not the edges.

    Cost: a sweep factorises a matrix of the free nodes, once for all examples.

    Source: Kendall, Pantone, Manickavasagam, Bengio & Scellier 2020, section 3.
    """
    pairs = _checked_edges(edges)
    count = int(pairs.max()) + 1
    held, read = _checked_nodes(pairs, count, inputs, outputs)
    _require_functions(realised=realised, measured=measured)
    free = np.setdiff1d(np.arange(count), held)
    ends = pairs if wires is None else _of_shape("wires", wires, pairs.shape)
    if not isinstance(ends, jax.core.Tracer) and np.any(np.asarray(ends) != pairs):
        raise ValueError("`wires` must be the edges themselves, in the same order: got other ones.")

    def init(key: Array, x: Array) -> Tree:
        dtype = jnp.result_type(x, float)
        return {"conductance": jax.random.uniform(key, (len(pairs),), dtype, *FIRST)}

    def conductances(params: Tree) -> Array:
        told = _of_shape('params["conductance"]', params["conductance"], (len(pairs),))
        return told if realised is None else _of_shape("realised", realised(told), told.shape)

    def voltages(x: Array, state: Array) -> Array:
        """`[B, N]`."""
        x = _of_shape("x", x, (len(state), len(held)))
        whole = jnp.zeros((len(x), count), jnp.result_type(x, state))
        return whole.at[:, held].set(x).at[:, free].set(state)

    def energy(params: Tree, x: Array, state: Array) -> Array:
        V = voltages(x, state)
        drops = V[:, ends[:, 0]] - V[:, ends[:, 1]]
        return drops**2 @ conductances(params) / 2

    def output(params: Tree, x: Array, state: Array) -> Array:
        volts = voltages(x, state)[:, read]
        return volts if measured is None else _of_shape("measured", measured(volts), volts.shape)

    def solved(params: Tree, x: Array, current: Array, fixed: np.ndarray, at: Array) -> Array:
        """`[B, N]` voltages with the nodes `fixed` held `at` theirs, and a `current` into every node."""
        unknown = np.setdiff1d(np.arange(count), fixed)
        # LAPACK factorises in float32 at least.
        G = _laplacian(tree.widened(conductances(params)), ends, count)
        pushed = current[:, unknown] - at @ G[np.ix_(unknown, fixed)].T
        # Positive definite: each free node is joined to a held one by a path of positive conductances.
        factor = jax.scipy.linalg.cho_factor(G[np.ix_(unknown, unknown)])
        settled = jax.scipy.linalg.cho_solve(factor, pushed.T).T
        whole = jnp.zeros((len(x), count), settled.dtype)
        return whole.at[:, fixed].set(at.astype(settled.dtype)).at[:, unknown].set(settled)

    def rest(params: Tree, x: Array) -> Array:
        x = _of_shape("x", x, (*jnp.shape(x)[:1], len(held)))
        none = jnp.zeros((len(x), count), jnp.result_type(x, float))
        return solved(params, x, none, held, x)[:, free]

    def update(
        params: Tree, x: Array, state: Array, cost: Cost | None = None, clamp: Array | None = None
    ) -> Array:
        out = output(params, x, state)
        current = jnp.zeros((len(x), count), out.dtype).at[:, read].set(-slope(cost, out))
        if clamp is None:
            return solved(params, x, current, held, x)[:, free].astype(state.dtype)
        clamp = _of_shape("clamp", clamp, out.shape)
        fixed, at = np.concatenate([held, read]), jnp.concatenate([x, clamp], axis=1)
        return solved(params, x, current, fixed, at)[:, free].astype(state.dtype)

    return EnergyModel(init, rest, energy, output, update)


def _laplacian(conductance: Array, ends: Any, count: int) -> Array:
    """`G`, `[N, N]`: `G V` are the currents that leave the nodes through the edges with these ends."""
    i, j = ends.T
    G = jnp.zeros((count, count), conductance.dtype)
    G = G.at[i, j].add(-conductance).at[j, i].add(-conductance)
    return G.at[i, i].add(conductance).at[j, j].add(conductance)


def _require_functions(**given: Any) -> None:
    for name, function in given.items():
        if function is not None and not callable(function):
            raise ValueError(
                f"`{name}` must be a function of one array, or None: got {type(function).__name__}; for a "
                "ResistiveDevice write a lambda that calls its `program` or `read`."
            )


def _of_shape(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    if jnp.shape(value) != shape:
        raise ValueError(f"`{name}` must have the shape {shape}: got {tree.describe(value)}.")
    return value


def _checked_edges(edges: Any) -> np.ndarray:
    pairs = np.asarray(edges)
    fits = pairs.ndim == 2 and pairs.shape[1:] == (2,) and len(pairs) and pairs.dtype.kind in "iu"
    if not fits or pairs.min() < 0 or np.any(pairs[:, 0] == pairs[:, 1]):
        raise ValueError(
            "`edges` must be pairs of two different node numbers, [E, 2] integers from 0: got "
            f"{np.array2string(pairs, threshold=8)}."
        )
    return pairs


def _checked_nodes(
    pairs: np.ndarray, count: int, inputs: Sequence[int], outputs: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    held, read = _nodes("inputs", inputs, count), _nodes("outputs", outputs, count)
    if shared := set(held) & set(read):
        raise ValueError(
            f"`outputs` must be free nodes: got {sorted(map(int, shared))} of `inputs`."
        )
    graph = coo_array((np.ones(len(pairs)), pairs.T), (count, count))
    _, island = connected_components(graph, directed=False)
    adrift = np.flatnonzero(~np.isin(island, island[held]))
    if len(adrift):
        raise ValueError(
            "`edges` must join every node to an input, which decides its voltage: got no path for "
            f"{adrift.tolist()}."
        )
    return held, read


def _nodes(name: str, given: Sequence[int], count: int) -> np.ndarray:
    nodes = np.asarray(given).reshape(-1)
    # Converted to integers, node 1.5 would be node 1.
    are_numbers = nodes.dtype.kind in "iu" and len(set(nodes)) == len(nodes) > 0
    if not are_numbers or not set(nodes) <= set(range(count)):
        raise ValueError(
            f"`{name}` must be different nodes of 0 to {count - 1}, at least one: got {nodes.tolist()}."
        )
    return nodes
