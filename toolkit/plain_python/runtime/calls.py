"""Every function that rewritten code calls; this module is the `flow` of the examples.

Each function is a construct of Python on values that may be traced: `flow.for_`, `flow.and_`, ...
"""

from toolkit.plain_python.carried.surroundings import Surroundings, within
from toolkit.plain_python.carried.undefined import Undefined
from toolkit.plain_python.carried.variables import Variables
from toolkit.plain_python.runtime.arithmetic import (
    binary,
    compared,
    holds_for,
    numeric,
    python_bool,
    unary,
)
from toolkit.plain_python.runtime.builtin_calls import (
    all_of,
    any_of,
    contains,
    extreme,
    outside,
)
from toolkit.plain_python.runtime.growing import (
    call_on_list,
    item_of_list,
    iterated,
    iterated_list,
    mutator,
    next_,
)
from toolkit.plain_python.runtime.iterables import enumerate_, range_, reversed_, zip_
from toolkit.plain_python.runtime.logic import all_, and_, any_, compare, either, not_, or_
from toolkit.plain_python.runtime.printing import print_
from toolkit.plain_python.runtime.statements import (
    caught,
    for_,
    forbid_attribute,
    forbid_delete,
    forbid_raise,
    if_,
    matchable,
    returned,
    while_,
)
from toolkit.plain_python.runtime.texts import formatting, shown, text, text_function
from toolkit.plain_python.runtime.type_questions import asked, class_of, identical
from toolkit.plain_python.runtime.variables_and_items import (
    augmentable,
    item_at,
    kept,
    read,
    set_item,
    set_item_elsewhere,
    slice_,
)

__all__ = [
    "Surroundings", "Undefined", "Variables", "all_", "all_of", "and_", "any_", "any_of", "asked",
    "augmentable", "binary", "call_on_list", "caught", "class_of", "compare", "compared",
    "contains", "either", "enumerate_", "extreme", "for_", "forbid_attribute", "forbid_delete",
    "forbid_raise", "formatting", "holds_for", "identical", "if_", "item_at", "item_of_list", "iterated",
    "iterated_list", "kept", "matchable", "mutator", "next_", "not_", "numeric", "or_", "outside",
    "print_",
    "python_bool", "range_", "read", "returned", "reversed_", "set_item", "set_item_elsewhere",
    "shown", "slice_", "text", "text_function", "unary", "while_", "within", "zip_",
]  # fmt: skip
