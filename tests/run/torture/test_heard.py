"""What the user's own files are: any way to import a module or to open a file is heard of, and compared on resume."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.run.torture import kit
from tests.run.torture.conftest import SHORT, Killed
from toolkit.run.experiment import experiments, heard
from toolkit.run.store import checkpoints

MODULES = (
    "entry",
    "deep",
    "package",
    "package.inner",
    "package.inner.leaf",
    "spread",
    "spread.leaf",
)


def a_new_process():
    """Forgets what this one has imported and heard, as a new one knows none of it."""
    for name in MODULES:
        sys.modules.pop(name, None)
    for known in (heard._ran, heard._read, heard._wrote, experiments._loaded):
        known.clear()


@pytest.fixture
def entered(toolkit, quick, work):
    """The stream with a module `entry.py` in the working directory. Gives what starts it and is killed later."""
    source = work / "experiments/stream.py"
    source.write_text(source.read_text().replace("import jax\n", "import entry\nimport jax\n", 1))
    saved = checkpoints.save

    def killed(entry, files):
        for name, text in {"entry.py": entry, **files}.items():
            path = work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

        def dying(*words):
            saved(*words)
            raise Killed

        checkpoints.save = dying
        a_new_process()
        try:
            with pytest.raises(Killed):
                toolkit("run", "stream.yaml", *SHORT, "--out", "x")
        finally:
            checkpoints.save = saved
        a_new_process()

    yield killed
    a_new_process()


DEEP = {"deep.py": "A = 1\n"}
PACKAGE = {
    "package/__init__.py": "",
    "package/inner/__init__.py": "",
    "package/inner/leaf.py": "A = 1\n",
}
DATA = {"data/a.txt": "1\n"}
GLOB = "from pathlib import Path\nA = [p.read_text() for p in sorted(Path('data').glob('*'))]"
TRY = "try:\n    A = open('data/b.txt').read()\nexcept OSError:\n    A = ''"
# How the module reaches a file: its text, the files, the one that is changed, and under what name that is told.
REACHED = [
    ("", {}, "entry.py", "code/entry.py"),
    ("import deep", DEEP, "deep.py", "code/deep.py"),
    ("from deep import A", DEEP, "deep.py", "code/deep.py"),
    ("import importlib\nimportlib.import_module('de' + 'ep')", DEEP, "deep.py", "code/deep.py"),
    ("exec(open('deep.py').read())", DEEP, "deep.py", "read/deep.py"),
    ("import runpy\nrunpy.run_path('deep.py')", DEEP, "deep.py", "code/deep.py"),
    ("from package.inner import leaf", PACKAGE, "package/inner/leaf.py", "code/package/inner/leaf.py"),
    ("from package.inner import leaf", PACKAGE, "package/__init__.py", "code/package/__init__.py"),
    ("import spread.leaf", {"spread/leaf.py": "A = 1\n"}, "spread/leaf.py", "code/spread/leaf.py"),
    ("A = open('data/a.txt').read()", DATA, "data/a.txt", "read/data/a.txt"),
    ("import os\nos.read(os.open(b'data/a.txt', os.O_RDONLY), 9)", DATA, "data/a.txt", "read/data/a.txt"),
    ("import numpy as np\nnp.loadtxt('data/a.txt')", DATA, "data/a.txt", "read/data/a.txt"),
    ("import numpy as np\nnp.fromfile('data/a.txt', 'u1')", DATA, "data/a.txt", "read/data/a.txt"),
    ("import numpy as np\nnp.memmap('data/a.txt', 'u1', 'r')", DATA, "data/a.txt", "read/data/a.txt"),
    (GLOB, DATA, "data/b.txt", "read/data/b.txt"),  # a file more in the folder
    (TRY, DATA, "data/b.txt", "read/data/b.txt"),  # one that was not there
]  # fmt: skip


@pytest.mark.parametrize(("entry", "files", "changed", "told"), REACHED)
def test_a_file_that_changes_is_named_on_resume(entered, toolkit, entry, files, changed, told):
    entered(entry, files)
    path = Path(changed)
    path.write_text(f"{path.read_text() if path.exists() else ''}\n# another\n")
    code, _, err = toolkit("resume", "x")
    assert (code, len(err)) == (7, 1)
    assert f"the environment differs in {told}, got {told} " in err[0]


@pytest.mark.parametrize("gone", ["deep.py", "data/a.txt"])
def test_a_file_that_is_gone_is_named(entered, toolkit, gone):
    entered(
        "A = open('data/a.txt').read()\ntry:\n    import deep\nexcept ImportError: pass",
        {**DEEP, **DATA},
    )
    Path(gone).unlink()
    if gone in DATA:
        Path(gone).symlink_to("/dev/null")  # it can be opened, and is no file
    code, _, err = toolkit("resume", "x")
    assert code == 7 and '"not there"' in err[0]


UNCHANGED = [
    ("import deep\nA = open('data/a.txt').read()", {**DEEP, **DATA}),
    ("A = open('made.txt', 'a+').read()", {}),  # its own file
    ("from pathlib import Path\nP = Path('c')\nA = P.read_text() if P.exists() else P.write_text('1')", {}),
    ("import os\nif not os.path.exists('c'):\n    open('d', 'w').close(); os.replace('d', 'c')\nopen('c').read()", {}),
    ("import json, tempfile\ntempfile.TemporaryFile()", {}),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "files"), UNCHANGED)
def test_a_run_whose_files_are_as_they_were_goes_on(entered, toolkit, entry, files):
    entered(entry, files)
    Path("stranger.py").write_text("# nobody imports it\n")
    code, _, err = toolkit("resume", "x")
    assert (code, err) == (0, [])
    assert not any("drift" in row for row in kit.lines("x/metrics.jsonl"))


def test_a_module_that_comes_late_is_recorded_before_the_checkpoint(entered, toolkit, work):
    source = work / "experiments/stream.py"
    late = "def finish(state):\n        import deep\n"
    source.write_text(source.read_text().replace("def finish(state):\n", late))
    entered("", DEEP)
    assert toolkit("resume", "x")[0] == 0
    assert "code/deep.py" in json.loads(Path("x/run.json").read_text())["environment"]


def test_a_large_file_is_told_by_its_size_and_time(tmp_path, monkeypatch):
    monkeypatch.setattr(heard, "HASHED", 0)
    path = tmp_path / "x"
    path.write_text("1")
    before = heard.description(path)
    assert "1 bytes of" in before and heard.description(path, before) == before
    path.write_text("22")
    assert heard.description(path, before) != before
