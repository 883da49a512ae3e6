"""`watch`: each planted recompilation is named, and healthy programs are left alone."""

from __future__ import annotations

import copy
import functools
import os
import subprocess
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import toolkit as tk
from toolkit.debug import RecompilationError, RecompilationWarning


@pytest.fixture(autouse=True)
def single_precision() -> Iterator[None]:
    """As programs run by default."""
    with jax.enable_x64(False):
        yield


class Point(NamedTuple):
    x: Any
    y: Any


class Unequal:
    """A static value that forgot `__eq__`."""


@jax.tree_util.register_static
class Mode(str):
    """Structure of a tree."""


def double(x: Any, y: Any = 1.0) -> Any:
    return jax.tree.map(lambda leaf: leaf * 2 * y, x)


def scaled(x: Any, n: Any) -> Any:
    return x * n if isinstance(n, (int, float)) else x


def draw(key: Any) -> Any:
    return jax.random.normal(key)


def many(*xs: Any, **more: Any) -> Any:
    return xs, more


def on_mesh(x: jax.Array) -> jax.Array:
    mesh = jax.make_mesh((1,), ("a",), axis_types=(AxisType.Auto,))
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec("a")))


def fresh(function: Any) -> Any:
    """A copy: all jits of one function share what is compiled."""
    parts = (function.__code__, function.__globals__, function.__name__, function.__defaults__)
    return types.FunctionType(*parts)


def jit(function: Any, **options: Any) -> Any:
    return jax.jit(fresh(function), **options)


ONES = np.ones(3, np.float32)
Call = tuple[tuple[Any, ...], dict[str, Any]]


def call(*args: Any, **kwargs: Any) -> Call:
    return args, kwargs


static = functools.partial(jit, static_argnames="n")
PLANTED: dict[str, tuple[Callable[[], Any], Call, Call, str]] = {
    # name: (program, first call, second call, the reason's beginning)
    "shape": (lambda: jit(double), call(ONES), call(np.ones(4, np.float32)),
              "`x`: shape (4,), before (3,)"),
    "rank": (lambda: jit(double), call(ONES), call(ONES[None]), "`x`: shape (1, 3), before (3,)"),
    "shape deep in a tree": (
        lambda: jit(double), call({"a": [ONES, ONES]}), call({"a": [ONES, ONES[:2]]}),
        "`x['a'][1]`: shape (2,), before (3,)"),
    "shape of a field": (
        lambda: jit(double), call(Point(ONES, ONES)), call(Point(ONES, ONES[:1])),
        "`x.y`: shape (1,), before (3,)"),
    "dtype": (lambda: jit(double), call(ONES), call(ONES.astype(np.int32)),
              "`x`: dtype int32, before float32"),
    "half precision": (lambda: jit(double), call(ONES), call(jnp.ones(3, jnp.bfloat16)),
                       "`x`: dtype bfloat16, before float32"),
    "key implementation": (
        lambda: jit(draw), call(jax.random.key(0)),
        call(jax.random.key(0, impl="rbg")), "`key`: dtype key<rbg>, before key<fry>"),
    "weak type": (lambda: jit(double), call(ONES, np.float32(2)), call(ONES, 2.0),
                  "`y`: weak type True, before False (a Python number"),
    "weak type gone": (lambda: jit(double), call(ONES, 2.0), call(ONES, jnp.float32(2)),
                       "`y`: weak type False, before True"),
    "int for float": (lambda: jit(double), call(ONES, 2.0), call(ONES, 2),
                      "`y`: dtype int32, before float32"),
    "committed": (lambda: jit(double), call(ONES), call(jax.device_put(ONES, jax.devices()[0])),
                  "`x`: sharding cpu:0, before not committed to a device"),
    "sharding": (
        lambda: jit(double), call(jax.device_put(ONES, jax.devices()[0])), call(on_mesh(ONES)),
        "`x`: sharding P('a',) on the mesh {'a': 1}, before cpu:0"),
    "static value": (lambda: static(scaled), call(ONES, n=2), call(ONES, n=3),
                     "`n`: static value 3, before 2"),
    "static by position": (lambda: jit(scaled, static_argnums=1), call(ONES, 2), call(ONES, 3),
                           "`n`: static value 3, before 2"),
    "static from the end": (lambda: jit(scaled, static_argnums=-1), call(ONES, 2),
                            call(ONES, 3), "`n`: static value 3, before 2"),
    "static from the end of *xs": (lambda: jit(many, static_argnums=-1), call(ONES, 2), call(ONES, 3),
                                   "`xs[1]`: static value 3, before 2"),
    "static of another type": (lambda: static(scaled), call(ONES, n=1), call(ONES, n=1.0),
                               "`n`: static value 1.0, before 1"),
    "static text": (lambda: static(scaled), call(ONES, n="relu"), call(ONES, n="tanh"),
                    "`n`: static value 'tanh', before 'relu'"),
    "static without __eq__": (lambda: static(scaled), call(ONES, n=Unequal()),
                              call(ONES, n=Unequal()), "`n`: static value …"),
    "a new lambda": (lambda: static(scaled), call(ONES, n=lambda: 1), call(ONES, n=lambda: 1),
                     "`n`: static value <function"),
    "new key": (lambda: jit(double), call({"a": ONES}), call({"a": ONES, "b": ONES}),
                "`x['b']`: new in the tree structure"),
    "lost key": (lambda: jit(double), call({"a": ONES, "b": ONES}), call({"a": ONES}),
                 "`x['b']`: gone from the tree structure"),
    "list for tuple": (lambda: jit(double), call((ONES,)), call([ONES]),
                       "`x`: tree structure PyTreeDef([*]), before PyTreeDef((*,))"),
    "None for array": (lambda: jit(double), call({"a": ONES, "b": ONES}),
                       call({"a": ONES, "b": None}), "`x['b']`: gone from the tree structure"),
    "structure that holds a value": (
        lambda: jit(double), call((ONES, Mode("a"))), call((ONES, Mode("b"))),
        "`x`: tree structure PyTreeDef((*, CustomNode("),
    "by keyword": (lambda: jit(double), call(ONES, 2.0), call(ONES, y=2.0),
                   "`y`: passed by keyword, before by position"),
    "default written out": (lambda: jit(double), call(ONES), call(ONES, 1.0),
                            "`y`: passed, before it was not"),
    "keyword names": (lambda: jit(many), call(a=ONES), call(b=ONES), "`b`: passed, before it was not; `a`: "),
    "one argument more": (lambda: jit(many), call(ONES), call(ONES, ONES),
                          "`xs[1]`: passed, before it was not"),
    "donated": (lambda: jit(double, donate_argnums=0), call(jnp.asarray(ONES)), call(jnp.asarray(ONES[:2])),
                "`x`: shape (2,), before (3,)"),
}  # fmt: skip


def compiles(watched: Any) -> list[str]:
    """The reasons, each without its count."""
    return [reason.partition(": ")[2] for reason in watched.reasons]


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_recompilation_is_named(name: str) -> None:
    program, first, second, words = PLANTED[name]
    watched = tk.debug.watch(program())
    with warnings.catch_warnings():
        warnings.simplefilter("error", RecompilationWarning)
        watched(*first[0], **first[1])
    with pytest.warns(RecompilationWarning) as caught:
        watched(*second[0], **second[1])
    (warned,) = [w for w in caught if w.category is RecompilationWarning]
    assert warned.filename == __file__
    assert (str(warned.message),) == watched.reasons
    (reason,) = compiles(watched)
    assert reason.startswith(words), reason
    assert "\n" not in reason
    # The one cause and nothing else; another name is two: one argument comes, one goes.
    assert len(reason.split("; `")) == (2 if name == "keyword names" else 1), reason
    assert watched.compilations == 2


SETTINGS: dict[str, tuple[Callable[[], Any], str]] = {
    "x64": (lambda: jax.enable_x64(True), "jax_enable_x64: True, before False"),
    "matmul precision": (lambda: jax.default_matmul_precision("highest"),
                         "jax_default_matmul_precision: 'highest', before None"),
    "promotion": (lambda: jax.numpy_dtype_promotion("strict"),
                  "jax_numpy_dtype_promotion: 'strict', before 'standard'"),
    "default device": (lambda: jax.default_device(jax.devices()[0]), "jax_default_device: "),
    "mesh": (lambda: jax.set_mesh(jax.make_mesh((1,), ("a",), axis_types=(AxisType.Auto,))),
             "the mesh of jax.set_mesh: AbstractMesh("),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_changed_is_named(name: str) -> None:
    context, words = SETTINGS[name]
    watched = tk.debug.watch(jax.jit(lambda x: x @ x))
    watched(ONES)
    with context(), pytest.warns(RecompilationWarning, match="compilation 2 of <lambda>: "):
        watched(ONES)
    assert compiles(watched)[0].startswith(words)


def test_the_closest_earlier_call_is_the_one_compared_with() -> None:
    watched = tk.debug.watch(jit(double))
    with pytest.warns(RecompilationWarning):
        watched(ONES, 1.0)
        watched({"a": ONES}, 1.0)
        watched([ONES, ONES], 2)
        watched({"a": ONES[:2]}, 1.0)
    assert compiles(watched)[-1] == "`x['a']`: shape (2,), before (3,)"
    assert watched.compilations == 4


def test_two_changes_are_both_named() -> None:
    watched = tk.debug.watch(static(scaled))
    watched(ONES, n=2)
    with pytest.warns(RecompilationWarning):
        watched(ONES[:2], n=3)
    (reason,) = compiles(watched)
    assert reason.startswith("`x`: shape (2,), before (3,); `n`: static value 3, before 2")


def test_what_is_long_is_cut_to_where_it_differs() -> None:
    watched = tk.debug.watch(static(scaled))
    watched(ONES, n=(*range(100), "left"))
    with pytest.warns(RecompilationWarning):
        watched(ONES, n=(*range(100), "right"))
    (reason,) = compiles(watched)
    assert reason.startswith("`n`: static value …5, 96, 97, 98, 99, 'right'), before …5, ")
    assert len(reason) < 200


def test_past_the_limit_it_raises() -> None:
    watched = tk.debug.watch(jit(double), limit=2)
    watched(ONES)
    with pytest.warns(RecompilationWarning):
        watched(ONES[:2])
    words = r"more than limit=2: compilation 3 of double: `x`: shape \(1,\), before \(2,\)"
    with pytest.raises(RecompilationError, match=words):
        watched(ONES[:1])
    watched(ONES)  # what is compiled is not refused
    assert len(watched.reasons) == 2


def test_an_emptied_cache_is_told_as_such() -> None:
    watched = tk.debug.watch(jit(double))
    watched(ONES)
    watched.clear_cache()
    with pytest.warns(RecompilationWarning, match="the call is like one before it"):
        watched(ONES)


def test_what_was_compiled_before_counts_once() -> None:
    jitted = jit(double)
    for size in (3, 4, 5):
        jitted(np.ones(size, np.float32))
    watched = tk.debug.watch(jitted)
    watched(ONES)
    assert watched.compilations == 1
    with pytest.warns(RecompilationWarning, match=r"compilation 2 .*shape \(1,\), before \(3,\)"):
        watched(ONES[:1])


def run_numbers(watched: Any) -> None:
    for number in (1.0, 2.0, -3.5):
        watched(ONES, number)


def run_numpy_and_jax(watched: Any) -> None:
    for x in (ONES, jnp.asarray(ONES), ONES.astype(np.float64), ONES.copy(), watched(ONES)):
        watched(x)


def run_scalars(watched: Any) -> None:
    for x in (np.float32(1), jnp.float32(1), np.float64(1), jnp.asarray(np.float64(2))):
        watched(x)


def run_fed_back(watched: Any) -> None:
    x = jnp.ones(3)
    for _ in range(4):
        x = watched(x)


def run_committed(watched: Any) -> None:
    x = jax.device_put(jnp.ones(3), jax.devices()[0])
    for _ in range(3):
        x = watched(x)


def run_equivalent_shardings(watched: Any) -> None:
    mesh = jax.make_mesh((1,), ("a",), axis_types=(AxisType.Auto,))
    for spec in (PartitionSpec(), PartitionSpec("a"), PartitionSpec(None)):
        watched(jax.device_put(ONES, NamedSharding(mesh, spec)))


def run_dict_order(watched: Any) -> None:
    watched({"a": ONES, "b": ONES})
    watched({"b": ONES, "a": ONES})


def run_inside_transformations(watched: Any) -> None:
    watched(jnp.ones(3))
    jax.jit(watched)(jnp.ones(5))
    jax.vmap(watched)(jnp.ones((5, 3)))
    jax.grad(lambda x: jnp.sum(watched(x)))(jnp.ones(3))
    jax.lax.scan(lambda carry, _: (watched(carry), None), jnp.ones(6), length=3)
    watched(jnp.ones(3))


def run_without_jit(watched: Any) -> None:
    watched(ONES)
    with jax.disable_jit():
        watched(ONES[:2])


def run_threads(watched: Any) -> None:
    watched(ONES)
    other = jax.jit(lambda x: x - 1)

    def work(size: int) -> None:
        with jax.enable_x64(False):  # a setting of the thread
            for _ in range(20):
                watched(ONES)
                other(np.ones(size))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def run_donated(watched: Any) -> None:
    x = jnp.ones(3)
    for _ in range(3):
        x = watched(x)


def run_keyword_order(watched: Any) -> None:
    watched(x=ONES, y=2.0)
    watched(y=2.0, x=ONES)


def run_equal_statics(watched: Any) -> None:
    for n in ((1, "a"), (1, "".join(["a"])), (1, "a")):
        watched(ONES, n=n)


def run_keys(watched: Any) -> None:
    for seed in range(3):
        watched(jax.random.key(seed))


def run_other_compilations(watched: Any) -> None:
    for size in range(1, 4):
        watched(ONES)
        jax.jit(lambda x: x + 1)(np.ones(size))


def run_training(watched: Any) -> None:
    params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    state = (params, optax.adam(1e-3).init(params))
    for _ in range(3):
        state = watched(state, np.ones((4, 3)))


def train(state: Any, batch: Any) -> Any:
    loss = lambda params: jnp.sum((batch @ params["w"] + params["b"]) ** 2)
    updates, optimizer = optax.adam(1e-3).update(jax.grad(loss)(state[0]), state[1])
    return optax.apply_updates(state[0], updates), optimizer


def printing(x: Any) -> Any:
    jax.debug.callback(lambda value: None, x)
    return x * 2


HEALTHY: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "Python numbers": (lambda: jit(double), run_numbers),
    "NumPy and JAX arrays": (lambda: jit(double), run_numpy_and_jax),
    "NumPy and JAX scalars": (lambda: jit(double), run_scalars),
    "fed back": (lambda: jit(double), run_fed_back),
    "committed": (lambda: jit(double), run_committed),
    "equivalent shardings": (lambda: jit(double), run_equivalent_shardings),
    "order in a dict": (lambda: jit(double), run_dict_order),
    "inside transformations": (lambda: jax.jit(lambda x: x * 2), run_inside_transformations),
    "without jit": (lambda: jit(double), run_without_jit),
    "threads": (lambda: jit(double), run_threads),
    "donated": (lambda: jax.jit(lambda x: x * 2, donate_argnums=0), run_donated),
    "order of keywords": (lambda: jit(double), run_keyword_order),
    "equal static values": (lambda: static(scaled), run_equal_statics),
    "keys": (lambda: jax.jit(lambda key: jax.random.normal(key)), run_keys),
    "others compile": (lambda: jit(double), run_other_compilations),
    "training": (lambda: jit(train, donate_argnums=0), run_training),
    "callbacks": (lambda: jit(printing), run_fed_back),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_program_gives_no_alarm(name: str) -> None:
    program, run = HEALTHY[name]
    watched = tk.debug.watch(program(), limit=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RecompilationWarning)
        run(watched)
    assert watched.reasons == ()
    assert watched.compilations == 1


def test_no_alarm_after_jax_has_lost_its_listeners() -> None:
    watched = tk.debug.watch(jit(double))
    watched(ONES)
    jax.monitoring.clear_event_listeners()
    with pytest.warns(RecompilationWarning):
        watched(ONES[:2])
    with pytest.warns(RecompilationWarning):
        watched(ONES[:1])
    assert [reason[:22] for reason in compiles(watched)] == [
        "`x`: shape (2,), befor",
        "`x`: shape (1,), befor",
    ]


class Model:
    """With a method that is jitted."""

    @tk.debug.watch
    @functools.partial(jax.jit, static_argnums=0)
    def watched(self, x: Any) -> Any:
        """Twice."""
        return x * 2

    @functools.partial(jax.jit, static_argnums=0)
    def jitted(self, x: Any) -> Any:
        return x * 2


def test_methods() -> None:
    model = Model()
    np.testing.assert_array_equal(model.watched(ONES), 2 * ONES)
    with pytest.warns(RecompilationWarning, match=r"`x`: shape \(2,\), before \(3,\)"):
        model.watched(ONES[:2])
    with pytest.warns(
        RecompilationWarning, match="`self`: static value .* object at 0x.*__eq__ and __hash__"
    ):
        Model().watched(ONES)
    bound = tk.debug.watch(model.jitted)
    np.testing.assert_array_equal(bound(ONES), 2 * ONES)
    with pytest.warns(RecompilationWarning, match=r"of jitted: `x`: shape \(2,\), before \(3,\)"):
        bound(ONES[:2])


def test_it_is_the_function_that_it_watches() -> None:
    watched = tk.debug.watch(jit(double))
    assert watched.__name__ == "double"
    assert watched.__wrapped__.__wrapped__.__defaults__ == (1.0,)
    np.testing.assert_array_equal(watched.lower(ONES).compile()(ONES), 2 * ONES)
    assert watched.eval_shape(ONES).shape == (3,)
    np.testing.assert_array_equal(watched(ONES), 2 * ONES)
    assert copy.copy(watched).__name__ == "double"
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        watched()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (
            (double,),
            TypeError,
            r"`jitted` must be made by jax.jit: got double; use watch\(jax.jit\(",
        ),
        ((3,), TypeError, "`jitted` must be made by jax.jit: got int"),
        ((jit(double), 0), ValueError, "`limit` must be a positive int, or None: got 0"),
        ((jit(double), True), ValueError, "`limit` must be a positive int, or None: got True"),
        ((jit(double), 2.0), ValueError, "`limit` must be a positive int, or None: got 2.0"),
    ],
)
def test_bad_arguments_are_refused(arguments: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        tk.debug.watch(*arguments)


def test_a_jit_that_hides_its_cache_is_watched_too() -> None:
    class Hidden:
        """As `flax.nnx.jit` makes them: neither a cache nor which arguments are static."""

        def __init__(self, jitted: Any):
            self.jitted, self.lower = jitted, jitted.lower

        def __call__(self, *args: Any) -> Any:
            return self.jitted(*args)

    watched = tk.debug.watch(Hidden(jit(scaled, static_argnums=1)))
    for x in (ONES, jnp.asarray(ONES), ONES.astype(np.float64)):
        watched(x, 2)
    assert watched.compilations == 1
    with pytest.warns(RecompilationWarning, match=r"`args\[1\]`: static value 3, before 2"):
        watched(ONES, 3)
    with pytest.warns(RecompilationWarning, match=r"`args\[1\]`: static value 'a', before "):
        watched(ONES, "a")
    with pytest.warns(RecompilationWarning, match=r"`args\[0\]`: shape \(2,\), before \(3,\)"):
        watched(ONES[:2], 3)


MANY_DEVICES = """
import jax, numpy as np, toolkit as tk
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
mesh = jax.make_mesh((4,), ("a",), axis_types=(AxisType.Auto,))
watched = tk.debug.watch(jax.jit(lambda x: x * 2))
for spec in (P(), P("a"), P("a", None)):
    x = watched(jax.device_put(np.ones((8, 2), np.float32), NamedSharding(mesh, spec)))
watched(x)
watched(jax.device_put(np.ones((8, 2), np.float32), jax.devices()[2]))
print(*watched.reasons, sep="\\n")
grads = {"w": jax.device_put(np.arange(16.0).reshape(8, 2), NamedSharding(mesh, P("a")))}
print(float(jax.jit(tk.debug.gradient_report)(grads).norm[0]))
"""


@pytest.mark.slow
def test_shardings_over_many_devices() -> None:
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "ignore", "-c", MANY_DEVICES]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | flags)
    assert run.returncode == 0, run.stderr
    second, third, norm = run.stdout.splitlines()
    assert "`x`: sharding P('a',) on the mesh {'a': 4}, before P() on" in second
    assert "`x`: sharding cpu:2, before P(" in third
    assert float(norm) == pytest.approx(np.linalg.norm(np.arange(16)))
