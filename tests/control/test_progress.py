"""`progress=True`: few lines, each once, whatever is done with the loop."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import toolkit as tk
from toolkit.control import checkpoint, forward, reversible, store, truncate

POLICIES = {
    "store": store(),
    "sqrt": checkpoint(),
    "every third": checkpoint(3),
    "levels": checkpoint((10, 10, 10)),
    "levels and a rest": checkpoint((4, 5, 6)),
    "truncate": truncate(7),
    "reversible": reversible(lambda carry, _: carry - 0.5),
    "forward": forward(),
}
TRANSFORMS = {
    "value": lambda f: f,
    "jit of grad": lambda f: jax.jit(jax.grad(f)),
    "vmap of grad": lambda f: lambda x: jax.vmap(jax.grad(f))(jnp.stack([x, x, x])),
}


def _loss(gradient: Any, length: int, outputs: bool, progress: bool = True) -> Any:
    def loss(x: jax.Array) -> jax.Array:
        body = lambda carry, _: (carry + 0.5, jnp.sin(carry) if outputs else None)
        carry, ys = tk.loop(body, x, None, length, gradient, progress=progress)
        return carry**2 + (jnp.sum(ys) if outputs else 0.0)

    return loss


@pytest.mark.parametrize(
    "outputs", [pytest.param(False, marks=pytest.mark.slow), True], ids=["", "with outputs"]
)
@pytest.mark.parametrize("name", POLICIES)
def test_each_line_is_printed_once(name: str, outputs: bool, capfd: Any) -> None:
    length = 103
    for transform in TRANSFORMS.values():
        transform(_loss(POLICIES[name], length, outputs))(1.0)
        jax.effects_barrier()
        out, err = capfd.readouterr()
        lines = err.splitlines()
        assert out == "" and 1 <= len(lines) <= 20
        counts = [int(line.removeprefix("loop: ").removesuffix("/103")) for line in lines]
        assert len(set(counts)) == len(counts) and max(counts) == length


def test_a_short_loop_tells_every_step(capfd: Any) -> None:
    _loss(store(), 3, False)(1.0)
    jax.effects_barrier()
    assert capfd.readouterr().err.splitlines() == ["loop: 1/3", "loop: 2/3", "loop: 3/3"]


@pytest.mark.parametrize("name", ["store", "levels and a rest", "reversible"])
def test_without_it_there_is_no_callback(name: str) -> None:
    silent, telling = (
        str(jax.make_jaxpr(jax.grad(_loss(POLICIES[name], 103, True, progress)))(1.0))
        for progress in (False, True)
    )
    assert "callback" not in silent and "callback" in telling


def test_the_value_is_the_same() -> None:
    for name in ("store", "levels and a rest", "reversible"):
        values = [jax.jit(_loss(POLICIES[name], 103, True, p))(1.0) for p in (False, True)]
        assert values[0] == values[1]
