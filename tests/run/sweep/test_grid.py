"""The words of a sweep: what they mean, what is refused, and how runs are named."""

import re

import pytest

from toolkit.run.experiment import overrides
from toolkit.run.experiment.errors import RunError
from toolkit.run.sweep import grid

LONG = "x" * 300


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (["seed=0:3"], ["seed=0", "seed=1", "seed=2"]),
        (["seed=0:10:4"], ["seed=0", "seed=4", "seed=8"]),
        (["seed=5:0:-2"], ["seed=5", "seed=3", "seed=1"]),
        (["seed=-1:1,7"], ["seed=-1", "seed=0", "seed=7"]),
        (["seed=3"], ["seed=3"]),  # so is nothing but fixed settings
        ([], [""]),
        (["seed=3:4"], ["seed=3"]),  # a range of one is swept all the same
        (["a=1,2", "b=x,y"], ["a=1 b=x", "a=1 b=y", "a=2 b=x", "a=2 b=y"]),
        (["steps=5", "a=1,2"], ["steps=5 a=1", "steps=5 a=2"]),
        (["a=[1,2]", "b=1,2"], ["a=[1,2] b=1", "a=[1,2] b=2"]),
        (["a=[1,2],[3, [4,5]]"], ["a=[1,2]", "a=[3, [4,5]]"]),
        (["a={b: 1, c: 2},null"], ["a={b: 1, c: 2}", "a=null"]),
        (['a=\'x,y\', "z,\\"w"'], ["a='x,y'", 'a="z,\\"w"']),
        (["a=it's,ok"], ["a=it's", "a=ok"]),
        (["a='0:5',b"], ["a='0:5'", "a=b"]),  # quoted, it is a text
        (["a=1,1.0"], ["a=1", "a=1.0"]),  # not the same to a config
        (["a=1:x,2"], ["a=1:x", "a=2"]),
    ],
)
def test_words_make_runs(words, runs):
    points = grid.product(grid.parse(words))
    assert [" ".join(point.words) for point in points] == runs
    for point in points:  # each word is one that `run` takes
        overrides.parse(point.words)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["seed"], "not a setting"),
        (["=1,2"], "not a setting"),
        (["a=1,2", "a=3"], "a: given twice"),
        (["a=1,,2"], "a: empty value"),
        (["a=1,2,"], "a: empty value"),
        (["a=1,1"], "a: the same value twice"),
        (["a=1e-3,0.001"], "a: the same value twice"),
        (["a=0:3,2"], "a: the same value twice"),
        (["a=0:5:0"], "a: bad range"),
        (["a=5:0"], "a: bad range"),
        (["a=007:9"], "a: bad range"),
        (["a=0:99999999999"], "at most 10,000"),
        (["a=0:9999999999999999999999"], "at most 18 digits"),
        (["a=0:200", "b=0:200"], "too many runs"),
        (["a=[1,2"], "a:2: not YAML"),
        (["a=&x 1,2"], "anchors"),
        (["a=010,2"], "leading zeros"),
    ],
)
def test_words_are_refused(words, reason):
    with pytest.raises(RunError, match=re.escape(reason)) as error:
        grid.product(grid.parse(words))
    assert error.value.code == 2


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["seed=0", "adjoint.kind=unroll"], "seed=0,adjoint.kind=unroll"),
        ([], "run"),
        (["rate=1e-3"], "rate=0.001"),
        (["rate=-.5"], "rate=-0.5"),
        (["a=true"], "a=true"),
        (["a=[1,2]"], r"a=1-2-[0-9a-f]{8}"),
        (["a='1'"], r"a=1-[0-9a-f]{8}"),  # the text, not the number
        (["a=../../etc"], r"a=..-..-etc-[0-9a-f]{8}"),
        (["a=é"], r"a=-[0-9a-f]{8}"),
        ([".a=1"], r"a=1-[0-9a-f]{8}"),  # never a hidden folder
        ([f"a={LONG}"], r"a=x{85}-[0-9a-f]{8}"),
    ],
)
def test_names_are_readable_and_safe(words, name):
    found = grid.name_of(words)
    assert re.fullmatch(name, found)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=,-]*", found)
    assert len(found) <= grid.NAME_LIMIT
    assert grid.name_of(words) == found


def test_different_settings_have_different_names():
    values = [
        "1",
        "'1'",
        "1.0",
        "true",
        "'true'",
        "null",
        "'null'",
        "''",
        "a/b",
        "a-b",
        "a b",
        "a,b",
    ]
    values += ["[1,2]", "'[1,2]'", "[[1],2]", LONG, LONG + "y", "é", "ü", "'a,b=1'"]
    names = [grid.name_of([f"a={value}"]) for value in values]
    assert len(set(names)) == len(names)
    assert grid.name_of(["a=x,b=1"]) != grid.name_of(["a=x", "b=1"])
