"""Functions whose calls have effects: on lists, objects, closures, classes, iterators, random states, ...

Python has the effect in each iteration, or only in the branch that is taken. A trace has it once, and in
both branches. So each is right or refused; `AT` is an input on which a wrong count would show.
"""

# The cases are written as users write.
# ruff: noqa: B007, B015, F821, F841

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import operator
import queue
import random
import threading
import types
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

AT = -1.0
EFFECTS: dict[str, Callable[..., Any]] = {}
COUNT = 0
LOG: list[int] = []


def effect(function: Callable[..., Any]) -> Callable[..., Any]:
    assert function.__name__ not in EFFECTS
    EFFECTS[function.__name__] = function
    return function


def restore() -> None:
    """What the functions below change outside of themselves, as at the start."""
    global COUNT
    COUNT = 0
    LOG.clear()
    Total.total = Counted.count = 0
    Single.only = None


@dataclass(slots=True)
class Slotted:
    n: int = 0

    def bump(self):
        self.n += 1
        return True


@dataclass(frozen=True, slots=True)
class Frozen:
    n: int = 0


class Part:
    def __init__(self):
        self.log = []


class Deep:
    def __init__(self):
        self.part = Part()
        self.part.part = Part()

    def note(self):
        self.part.part.log.append(1)
        return True


class Total:
    total = 0

    @classmethod
    def add(cls):
        cls.total += 1
        return 1.0


class Lazy:
    def fill(self):
        self.filled = True
        return True

    @property
    def reads(self):
        self.count = getattr(self, "count", 0) + 1
        return self.count


class Meta(type):
    def bump(cls):
        cls.count += 1


class Counted(metaclass=Meta):
    count = 0


class Items(list):
    def grow(self):
        self.append(1)


class Entered:
    def __init__(self):
        self.n = 0

    def __enter__(self):
        self.n += 1

    def __exit__(self, *error):
        self.n += 10


class Single:
    only = None

    @classmethod
    def get(cls):
        if cls.only is None:
            cls.only = Slotted()
        return cls.only


class Numbers:
    def __init__(self):
        self.n = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.n += 1
        return self.n


def bump_global():
    global COUNT
    COUNT += 1
    return 1.0


def log_global(v):
    LOG.append(1)
    return v


def make_counter():
    n = 0

    def bump():
        nonlocal n
        n += 1
        return n

    return bump


def make_log():
    log = []
    return log, lambda v: log.append(v) or True


# Where an effect can stand: `go(x, act)` calls `act` in a place that may not run, or runs three times.


def in_if(x, act):
    if x > 0:
        act()


def in_loop(x, act):
    for i in range(3):
        act()


def in_while(x, act):
    while x < 2:
        act()
        x = x + 1


def in_ternary(x, act):
    y = act() if x > 0 else 1.0


def behind_and(x, act):
    x > 0 and act()


def behind_or(x, act):
    if x < 0 or act():
        pass


def in_chain(x, act):
    0 < x < [act(), 3.0][1]


def in_any(x, act):
    any((x < i and act()) or x < i for i in range(3))


def in_a_lambda(x, act):
    later = lambda v: v > 0 and act()
    later(x)


def in_an_inner_loop(x, act):
    for i in range(2):
        while x < 2:
            act()
            x = x + 1


def after_a_break(x, act):
    for i in range(3):
        if x < i:
            break
        act()


PLACES = (
    in_if, in_loop, in_while, in_ternary, behind_and, behind_or, in_chain, in_any, in_a_lambda, in_an_inner_loop,
    after_a_break,
)  # fmt: skip


def slots():
    c = Slotted()
    return c.bump, lambda: c.n


def frozen_slots():
    c = Frozen()
    return lambda: object.__setattr__(c, "n", c.n + 1), lambda: c.n


def deep_attributes():
    o = Deep()
    return o.note, lambda: len(o.part.part.log)


def a_class_attribute():
    return Total.add, lambda: Total.total


def a_new_attribute():
    o = Lazy()
    return o.fill, lambda: len(vars(o))


def a_property():
    o = Lazy()
    return lambda: o.reads, lambda: getattr(o, "count", 0)


def a_closure():
    bump = make_counter()
    return bump, lambda: bump()


def a_global_number():
    return bump_global, lambda: COUNT


def a_global_list():
    return lambda: log_global(1), lambda: len(LOG)


def a_list_in_a_closure():
    log, note = make_log()
    return lambda: note(1), lambda: len(log)


def a_bound_method():
    log = []
    return functools.partial(log.append, 1), lambda: len(log)


def a_default_argument():
    def act(log=[]):  # noqa: B006
        log.append(1)
        return True

    return act, lambda: len(act.__defaults__[0])


def an_attribute_of_a_function():
    def act():
        act.n = getattr(act, "n", 0) + 1
        return True

    return act, lambda: getattr(act, "n", 0)


def a_generator():
    def numbers():
        n = 0
        while True:
            yield n
            n += 1

    it = numbers()
    return it.__next__, lambda: next(it)


def a_generator_of_equal_items():
    def ones():
        for one in [1.0] * 9:  # noqa: UP028
            yield one

    it = ones()
    return lambda: next(it), lambda: len(list(it))


def a_list_iterator():
    it = iter([1.0] * 9)
    return lambda: next(it), lambda: len(list(it))


def a_count():
    it = itertools.count(1)
    return lambda: next(it), lambda: next(it)


def a_cycle():
    it = itertools.cycle([1.0, 2.0])
    [next(it) for _ in range(3)]
    return lambda: next(it), lambda: next(it)


def a_zip():
    it = zip([1, 1, 1, 1], itertools.repeat(2), strict=False)
    return lambda: next(it), lambda: len(list(it))


def a_deque():
    d = deque([1.0, 2.0, 3.0])
    return lambda: d.rotate(1), lambda: d[0]


def a_set():
    s = {0}
    return lambda: s.add(1), lambda: len(s)


def a_counter():
    c = Counter()
    return lambda: c.update("a"), lambda: c["a"]


def a_dict_default():
    d = {}
    return lambda: d.setdefault(len(d), 1), lambda: len(d)


def the_order_of_a_dict():
    d = OrderedDict(a=1, b=2)
    return lambda: d.move_to_end(next(iter(d))), lambda: next(iter(d)) == "a"


def a_variable_of_a_thread():
    local = threading.local()
    local.n = 0
    return lambda: setattr(local, "n", local.n + 1), lambda: local.n


def a_module():
    made = types.ModuleType("made")
    made.n = 0
    return lambda: setattr(made, "n", made.n + 1), lambda: made.n


def a_metaclass():
    return Counted.bump, lambda: Counted.count


def a_subclass_of_list():
    items = Items()
    return items.grow, lambda: len(items)


def a_context_manager():
    c = Entered()

    def act():
        with c:
            return True

    return act, lambda: c.n


def a_single_object():
    return lambda: Single.get().bump(), lambda: Single.get().n


def an_iterator_of_the_users():
    numbers = Numbers()
    return lambda: next(numbers), lambda: numbers.n


def an_item_by_a_function():
    xs = [1.0]
    return lambda: operator.setitem(xs, 0, xs[0] + 1), lambda: xs[0]


def a_decorator_that_registers():
    known = []

    def act():
        @known.append
        def function():
            return None

    return act, lambda: len(known)


def a_queue():
    q = queue.Queue()
    return lambda: q.put(1), q.qsize


def bytes_that_grow():
    b = bytearray()
    return lambda: b.extend(b"a"), lambda: len(b)


def a_text_in_memory():
    f = io.StringIO()
    return lambda: f.write("a"), lambda: len(f.getvalue())


def a_large_numpy_array():
    a = np.zeros(300_000)

    def act():
        np.add(a, 1, out=a)
        return True

    return act, lambda: a[0]


def an_array_of_objects():
    a = np.array([0, 0], object)
    return lambda: a.itemset(0, 1) if hasattr(a, "itemset") else a.put(0, 1), lambda: a[0]


def a_sorted_list():
    xs = [3, 1, 2]
    return xs.sort, lambda: xs[0]


def randomness():
    random.seed(0)
    return random.random, random.random


def randomness_of_numpy():
    np.random.seed(0)
    return np.random.rand, np.random.rand


def a_generator_of_numpy():
    rng = np.random.default_rng(0)
    return rng.normal, rng.normal


def a_generator_of_python():
    rng = random.Random(0)
    return rng.random, rng.random


KINDS = (
    slots, frozen_slots, deep_attributes, a_class_attribute, a_new_attribute, a_property, a_closure,
    a_global_number, a_global_list, a_list_in_a_closure, a_bound_method, a_default_argument,
    an_attribute_of_a_function, a_generator, a_generator_of_equal_items, a_list_iterator, a_count, a_cycle, a_zip,
    a_metaclass, a_subclass_of_list, a_context_manager, a_single_object, an_iterator_of_the_users,
    an_item_by_a_function, a_decorator_that_registers, a_deque, a_set, a_counter, a_dict_default, the_order_of_a_dict, a_variable_of_a_thread, a_module, a_queue, bytes_that_grow, a_text_in_memory, a_large_numpy_array,
    an_array_of_objects, a_sorted_list, randomness, randomness_of_numpy, a_generator_of_numpy,
    a_generator_of_python,
)  # fmt: skip


@effect
def a_method_assigns_a_variable_of_the_function(x):
    n = 0

    class Bumps:
        def bump(self):
            nonlocal n
            n += 1

    b = Bumps()
    for i in range(3):
        b.bump()
    return n


@effect
def an_inner_function_sees_a_list_of_the_outer_one(x):
    log = []

    def note(y):
        log.append(1)
        return y

    def total(y):
        s = 0.0
        for i in range(3):
            s = s + note(y)
        return s

    total(x)
    return len(log)


@effect
def a_parameter_of_a_lambda(x):
    log = []
    note = lambda v, kept: v > 0 and (kept.append(1) or True)
    note(x, log)
    return len(log)


@effect
def a_jitted_function_appends(x):
    kept = [0]

    @jax.jit
    def note(v):
        kept.append(1)
        return v

    if x > 0:
        note(x)
    return len(kept)


@effect
def an_error_in_a_branch_is_caught_outside(x):
    y = 0.0
    try:
        if x > 0:
            int("no number")
        y = 1.0
    except ValueError:
        y = 2.0
    return y


@effect
def an_error_in_a_loop_is_suppressed(x):
    y = 0.0
    with contextlib.suppress(ValueError):
        for i in range(3):
            y = y + 1
            int("no number")
    return y


@effect
def an_iteration_is_traced_twice(x):
    c = Slotted()
    for i in range(1):
        c.bump()
        if i > 0:
            y = before
        before = x
    return c.n


@effect
def an_operand_loops(x):
    def halve(v):
        n = 0
        while v > 1 or v < 0:  # would never end for v < 0
            v = v * 0.5 if v > 0 else v
            n += 1
        return n

    return 1.0 if x > 0 and halve(x) > 3 else 2.0


@effect
def a_list_is_changed_by_another_name(x):
    a = [1.0]
    b = a
    if x > 0:
        b.append(2.0)
    for i in range(2):
        b[0] = b[0] + 1
    return a[0] + len(a)


@effect
def the_last_closure(x):
    def make(v):
        return lambda: v * 2

    g = make(0.0)
    for v in jnp.arange(3.0):
        g = make(v)
    return g()


@effect
def the_last_default(x):
    for v in jnp.arange(3.0):
        g = lambda w, v=v: v * 2 + w
    return g(x)


@effect
def two_closures_share_a_variable(x):
    def make(v):
        def get():
            return v

        def put(w):
            nonlocal v
            v = w

        return get, put

    for v in jnp.arange(3.0):
        get, put = make(v)
    put(7.0)
    return get()
