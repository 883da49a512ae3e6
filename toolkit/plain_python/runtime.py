"""What generated code calls: each function is a construct of Python, on values that may be traced."""

from toolkit.plain_python.around import Around
from toolkit.plain_python.constructs import (
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
from toolkit.plain_python.growing import (
    call_on_list,
    item_of_list,
    iterated,
    iterated_list,
    mutator,
    next_,
)
from toolkit.plain_python.iterables import enumerate_, range_, reversed_, zip_
from toolkit.plain_python.places import (
    augmentable,
    item_at,
    read,
    set_item,
    set_item_elsewhere,
    slice_,
)
from toolkit.plain_python.state import Undefined
from toolkit.plain_python.state import Variables as State
from toolkit.plain_python.truth import (
    all_,
    all_of,
    and_,
    any_,
    any_of,
    compare,
    contains,
    either,
    extreme,
    isinstance_,
    not_,
    or_,
    power,
    shown,
    text,
)

__all__ = [
    "Around", "State", "Undefined", "all_", "all_of", "and_", "any_", "any_of", "augmentable",
    "call_on_list", "caught", "compare", "contains", "either", "enumerate_", "extreme", "for_",
    "forbid_attribute", "forbid_delete", "forbid_raise", "if_", "isinstance_", "item_at",
    "item_of_list", "iterated", "iterated_list", "matchable", "mutator", "next_", "not_", "or_",
    "power", "range_", "read", "returned", "reversed_", "set_item", "set_item_elsewhere", "shown",
    "slice_", "text", "while_", "zip_",
]  # fmt: skip
