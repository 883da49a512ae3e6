"""What the package never does: run what a file says, open a socket, or write beside the run directory."""

from __future__ import annotations

import ast
import os
import stat
from pathlib import Path

import pytest

from tests.run.conftest import ROOT
from tests.run.torture import kit
from tests.run.torture.conftest import SHORT

PACKAGE = sorted((ROOT / "toolkit").rglob("*.py"))
MODULES = {"pickle", "marshal", "dill", "joblib", "cloudpickle", "shelve"}
CALLS = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {
    ("yaml", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load"), ("os", "system"), ("os", "popen"),
    ("torch", "load"), ("jnp", "load"), ("importlib", "import_module"),
}  # fmt: skip
KEYWORDS = {"shell": True, "allow_pickle": True}

# Each with the reason why no file or config can reach it.
ALLOWED = {
    ("toolkit/commands/cli.py", "importlib.import_module"),  # of a command, by a constant table
    ("toolkit/vocabulary/kinds.py", "import_module"),  # of our own rooms, which the roles name
    ("toolkit/jaxprs/internals/trials_of_records.py", "compile"),  # of a text in the file itself
    ("toolkit/jaxprs/internals/trials_of_records.py", "exec"),  # of the same
    (
        "toolkit/faces.py",
        "import_module",
    ),  # of our own rooms, by the constant tables of their faces
    (
        "toolkit/plain_python/rewriting/source.py",
        "compile",
    ),  # a decorated function's own source, rewritten
}


def found_in(source):
    """What a file does of the list above, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.partition(".")[0] for alias in node.names}
            names |= {(getattr(node, "module", None) or "").partition(".")[0]}
            yield from ((node.lineno, name) for name in names & MODULES)
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name) and function.id in CALLS | {"import_module"}:
            yield node.lineno, function.id
        if isinstance(function, ast.Attribute):
            owner = getattr(function.value, "id", None)
            if (owner, function.attr) in ATTRIBUTES:
                yield node.lineno, f"{owner}.{function.attr}"
        for keyword in node.keywords:
            value = keyword.value
            if keyword.arg in KEYWORDS and not (
                isinstance(value, ast.Constant) and value.value is False
            ):
                yield node.lineno, f"{keyword.arg}="


PLANTED = {
    "import pickle": "pickle", "from joblib import load": "joblib", "eval(text)": "eval", "exec(text)": "exec",
    "import importlib; importlib.import_module(config.name)": "importlib.import_module", "yaml.load(text)": "yaml.load",
    "np.load(path, allow_pickle=True)": "allow_pickle=", "subprocess.run(text, shell=True)": "shell=",
    "np.load(path, allow_pickle=flag)": "allow_pickle=", "os.system(text)": "os.system", "import dill.x": "dill",
}  # fmt: skip


@pytest.mark.parametrize("source", PLANTED)
def test_the_search_finds(source):
    assert [what for _, what in found_in(source)] == [PLANTED[source]]


def test_the_search_lets_pass():
    source = "np.load(path, allow_pickle=False)\nyaml.parse(text)\nsubprocess.run(['git'])\nmodel.eval()\nimport os"
    assert not list(found_in(source))


def test_nothing_in_the_package_runs_what_a_file_says():
    found = {
        (path.relative_to(ROOT).as_posix(), line, what)
        for path in PACKAGE
        for line, what in found_in(path.read_text("utf-8"))
    }
    unexplained = [entry for entry in sorted(found) if (entry[0], entry[2]) not in ALLOWED]
    assert not unexplained
    assert {(path, what) for path, _, what in found} == ALLOWED, "explained, but no longer there"


# Opens for writing, names and sockets, told by Python itself; a library's C code is not heard.
LISTENER = """
import os, sys

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
log = os.open(os.environ["HEARD"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def heard(event, arguments):
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES and not isinstance(arguments[0], int):
        os.write(log, f"{os.path.abspath(arguments[0])}\\n".encode())
    elif event in ("os.mkdir", "os.rename", "os.symlink", "os.link"):
        target = arguments[1] if event != "os.mkdir" else arguments[0]
        os.write(log, f"{os.path.abspath(target)}\\n".encode())
    elif event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto"):
        os.write(log, f"{event} {arguments}\\n".encode())
        raise OSError("no network in this test")


sys.addaudithook(heard)
"""


def test_a_run_writes_in_its_directory_alone_and_opens_no_socket(work):
    (work / "hook").mkdir()
    (work / "hook/sitecustomize.py").write_text(LISTENER)
    (work / "home").mkdir()
    variables = {
        "PYTHONPATH": f"{work / 'hook'}{os.pathsep}{ROOT}",
        "HEARD": str(work / "heard"),
        "HOME": str(work / "home"),
    }
    masked = ("bash", "-c", 'umask 027; exec "$0" "$@"')
    code, _, err = kit.finish(
        "run", "stream.yaml", *SHORT, "--out", "runs/x", env=variables, before=masked
    )
    assert code == 0, err
    heard = (work / "heard").read_text().splitlines()
    assert not [line for line in heard if line.startswith("socket.")]
    ours = (f"{work}/runs", os.devnull)
    # matplotlib keeps an index of the system's fonts, in folders that a new home lacks.
    fonts = {f"{work}/home/.config", f"{work}/home/.cache"}
    others = [line for line in heard if line not in fonts and "matplotlib" not in line]
    beside = [line for line in others if not line.startswith(ours)]
    assert not beside
    for path in (work / "runs").rglob("*"):
        expected = 0o750 if path.is_dir() else 0o640
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_names_of_experiments_are_names(toolkit):
    for name in (
        "os.system",
        "../toy",
        "/etc/passwd",
        "a/b",
        "__init__",
        "",
        "stream.py",
        "ｓtream",
        "x" * 99,
    ):
        code, _, err = toolkit("check", "stream.yaml", f"experiment='{name}'")
        assert (code, len(err)) == (2, 1), name
        assert "experiment: bad name" in err[0] or "experiment: not found" in err[0]
    assert not Path("toy").exists()
