"""`list`, `schema`, `doctor`, usage errors, and a bug of ours."""

import json
import os
import subprocess
import sys

import pytest

from tests.run.conftest import ROOT
from toolkit.commands import cli, doctor
from toolkit.commands import list as list_command
from toolkit.jaxprs import loops
from toolkit.jaxprs.internals.known import INTERNALS
from toolkit.vocabulary import roles


def test_list_names_kinds_with_fields_and_experiments(toolkit):
    code, out, _ = toolkit("list")
    text = "\n".join(out)
    assert code == 0
    for family in roles.FAMILIES:
        assert all(f"  {kind} " in text for kind in roles.family(family))
    assert "num_terms, step_size: null, tol: 0.001" in text
    assert "A toy: noisy descent" in text
    assert toolkit("list", "adjoints")[1][0] == "adjoints:"


def test_list_suggests(toolkit):
    code, _, err = toolkit("list", "adjoint")
    assert code == 2
    assert "did you mean `adjoints`?" in err[0]


def test_schema(toolkit):
    code, out, _ = toolkit("schema")
    common = json.loads("\n".join(out))
    assert code == 0
    assert {"Claim", "Implicit", "Anderson"} <= set(common["$defs"])
    fields = json.loads("\n".join(toolkit("schema", "toy.yaml")[1]))["properties"]
    assert {"seed", "rate", "adjoint"} <= set(fields)


def test_each_command_has_a_file_of_its_name_that_loads_nothing_slow():
    """`--help` and a usage error of a command import its module, and may not import jax or pydantic."""
    code = """
import sys
from importlib import import_module
from toolkit.commands.cli import COMMANDS
for name in COMMANDS:
    import_module(f"toolkit.commands.{name}")
print(*sorted({"jax", "numpy", "pydantic", "yaml", "rich", "matplotlib"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("\n", "")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_each_command_has_help(toolkit, command):
    code, out, err = toolkit(command, "--help")
    assert (code, err) == (0, [])
    assert out[0].startswith(f"usage: toolkit {command} [-h]")


@pytest.mark.parametrize(
    "words", [["rn"], ["run"], ["resume"], ["run", "--nonsense"], ["report", "nowhere"], []]
)
def test_usage_errors_exit_2(toolkit, words):
    code, _, err = toolkit(*words)
    assert code == 2
    assert len(err) == bool(words)


def test_doctor(toolkit, monkeypatch):
    code, out, _ = toolkit("doctor")
    assert code == 0
    assert "rows right" in out[-1]
    assert f"internals of jax: {len(INTERNALS)} of {len(INTERNALS)} as" in "".join(out)
    monkeypatch.setattr(doctor, "canary", lambda: 7200)
    code, _, err = toolkit("doctor")
    assert code == 7
    assert "wrong numbers, got 7200 of 40000 rows wrong" in err[0]


def test_doctor_names_what_a_changed_internal_affects(toolkit, monkeypatch):
    monkeypatch.setattr(loops, "while_parts", lambda equation: equation.params["renamed"])

    code, out, err = toolkit("doctor")

    assert code == 0
    assert f"internals of jax: {len(INTERNALS) - 1} of {len(INTERNALS)} as" in "".join(out)
    assert any("while: parameters: tk.debug (KeyError: 'renamed')" in line for line in err)


def test_a_bug_of_ours_is_one_line(toolkit, monkeypatch):
    monkeypatch.setattr(list_command, "run", lambda _: {}["missing"])
    code, _, err = toolkit("list")
    assert (code, len(err)) == (1, 1)
    assert "internal error, got KeyError: 'missing'" in err[0]


def test_words_that_are_not_utf_8_are_refused(toolkit):
    for words in (["check", "toy.yaml", "label=caf\udce9"], ["report", "caf\udce9"], ["\udce9"]):
        code, _, err = toolkit(*words)
        assert (code, len(err)) == (2, 1) and "not UTF-8" in err[0]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("toolkit list > /dev/full", 5),
        ("toolkit list adjoints > /dev/full", 5),
        ("toolkit list | head -n 1 > /dev/null; exit ${PIPESTATUS[0]}", 0),
        ("toolkit list >&- 2>&-", 0),
        ("PYTHONIOENCODING=ascii toolkit list", 0),
        ("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 toolkit list", 0),
        ("mkdir gone; cd gone; rmdir ../gone; toolkit report x", 2),
        ("toolkit report x 2> /dev/full", 2),
        ("toolkit list\tx\n", 2),
    ],
)
def test_a_terminal_that_is_gone_full_or_narrow_is_no_bug(tmp_path, command, code):
    lines = f"toolkit() {{ '{sys.executable}' -m toolkit \"$@\"; }}; {command}"
    done = subprocess.run(
        ["bash", "-c", lines],
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr
