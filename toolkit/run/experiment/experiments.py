"""Experiments are files, found by a plain name under the working directory, and imported."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from toolkit.run.experiment import heard, sources
from toolkit.run.experiment.common import Settings
from toolkit.run.experiment.errors import Exit, RunError, fail, nearest, shown

FOLDER = "experiments"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
# Of the text of an exception, what is shown: a missing data set names its files, their checksums, and the place to
# get them, which is the part that helps and comes last.
MESSAGE = 900
_loaded: dict[Path, tuple[bytes, ModuleType]] = {}  # by file: its text, and what that defines


class _Loader(SourceFileLoader):
    """Runs the source as it is now.

    Python's own loader prefers byte code that it cached under the file's size and time in whole seconds:
    two edits within one second would run the older file.
    """

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def find(name: Any, where: str) -> Path:
    """The file `experiments/NAME.py`. Raises: RunError (exit 2) for a bad name or a missing file."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise fail(Exit.CONFIG, where, "experiment: bad name", shown(name), "a plain identifier")
    path = Path(FOLDER) / f"{name}.py"
    if not path.is_file():
        known = available()
        expected = (
            f"one of {', '.join(known)}" if known else f"a file {path} under the working directory"
        )
        raise fail(
            Exit.CONFIG, where, "experiment: not found", shown(name), expected, nearest(name, known)
        )
    return path


def available() -> list[str]:
    """Names of the experiments under the working directory: of the files that declare a `Config`."""
    paths = sorted(Path(FOLDER).glob("*.py"))
    return [
        path.stem
        for path in paths
        if _NAME.fullmatch(path.stem)
        and not path.stem.startswith("_")
        and sources.declares_config(path)
    ]


def figures(path: Path, module: ModuleType) -> tuple[Path, Callable[..., Any]] | None:
    """The experiment's `figures` and the file they stand in, `NAME_figures.py` or its own; None without any.

    Args:
      path: the experiment's file.
      module: the same, loaded. A file of pictures may import from it, as `experiments.NAME`.

    Raises: RunError (exit 2) that names the line at which the file of pictures fails.
    """
    pictures = sources.pictures(path)
    file, draws = (pictures, load(pictures)) if pictures.is_file() else (path, module)
    return (file, draws.figures) if hasattr(draws, "figures") else None


def summary(path: Path) -> str:
    """The first line of an experiment's docstring, read without running it."""
    try:
        text = ast.get_docstring(ast.parse(path.read_bytes())) or ""
    except (SyntaxError, ValueError, OSError):
        return "(not readable)"
    return text.strip().partition("\n")[0]


def load(path: Path) -> ModuleType:
    """The experiment's module, imported once while its text stays the same.

    It finds modules beside it under the working directory: `from experiments.maml_tasks import predict`.

    Raises: RunError (exit 2) that names the line at which it fails.
    """
    heard.start(path)
    with reported(path, "cannot be loaded"):
        text = path.read_bytes()
        known = _loaded.get(path.resolve())
        if known is None or known[0] != text:
            known = _loaded[path.resolve()] = text, _import(path)
        return known[1]


def forget(path: Path) -> None:
    """Has the experiment, and what it imports of the user's own files, run again when it is loaded.

    In a process that goes on, files may have been edited since they ran, and modules may have been imported
    before anything listened.
    """
    heard.start(path)
    imported, ran = sources.imported(path, f"{FOLDER}.{path.stem}", heard.own), heard.forget()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        again = name in imported or (file is not None and os.path.abspath(file) in ran)
        if again and name != "__main__":
            del sys.modules[name]
    _loaded.clear()


def call_from_many_threads() -> None:
    """Has jax run CPU programs in the thread that calls them, instead of handing them to a thread of its own.

    So threads that each call the program of a seed also use a core each. No bit changes. Call it before the
    experiment is loaded: that may start jax's backend, which reads this option only once.
    """
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)


def config_class(module: ModuleType) -> type[Settings]:
    """The experiment's `Config`. Raises: RunError (exit 2) where it is missing or of another type."""
    found = getattr(module, "Config", None)
    if isinstance(found, type) and issubclass(found, Settings):
        return found
    got = "nothing" if found is None else shown(getattr(found, "__name__", found))
    raise fail(
        Exit.CONFIG,
        module.__file__,
        "no config declared",
        got,
        "class Config(toolkit.run.Settings)",
    )


@contextmanager
def reported(path: Path, what: str, expected: str = "no exception") -> Iterator[None]:
    """Turns any exception of an experiment's code into one line that names the line of the experiment.

    The files that the code reads are heard of (see `heard`).
    """
    folder = _working_directory()
    try:
        with heard.listening():
            yield
        _refuse_another(folder, path, what)
    except RunError:
        raise
    except SyntaxError as error:
        place = f"{path}:{error.lineno}" if error.lineno else path
        raise fail(Exit.CONFIG, place, what, f"SyntaxError: {error.msg}", "valid Python") from error
    # `sys.exit()` in an experiment would end the command with exit code 0, as if it had done what was asked.
    except (Exception, SystemExit) as error:
        # Of an operation that fails after tracing, JAX gives the line that it was written in as the cause.
        raised = (error, error.__cause__)
        places = (_last_line_in(sources.files(path), one) for one in raised if one is not None)
        place = next(filter(None, places), path)
        got = f"{type(error).__name__}: {_reason(error)}"
        raise fail(Exit.CONFIG, place, what, got, expected) from error


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def _refuse_another(folder: str | None, path: Path, what: str) -> None:
    """Raises: RunError (exit 2) where the experiment has gone to another working directory, and goes back.

    The paths of a run are relative to the one that it was started in.
    """
    now = _working_directory()
    if now != folder:
        if folder is not None:
            os.chdir(folder)
        got = f"a change of the working directory to {now}"
        raise fail(Exit.CONFIG, path, what, got, "the working directory left as it is")


def _reason(error: BaseException) -> str:
    try:
        return str(error).strip().partition("\n")[0][:MESSAGE]
    except Exception:  # an exception may have a `__str__` that fails itself
        return "(without a text)"


def _import(path: Path) -> ModuleType:
    folder, name = path.resolve().parent, f"{FOLDER}.{path.stem}"
    _forget_others(folder)
    if str(folder.parent) not in sys.path:
        sys.path.insert(0, str(folder.parent))
    loader = _Loader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None  # it is None only without a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pydantic looks annotations up in the module of the class
    try:
        loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _forget_others(folder: Path) -> None:
    """Removes the experiments of another working directory from Python's modules.

    Otherwise `from experiments.x import y` would find the module of that name that was imported there.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{FOLDER}."):
            file = getattr(module, "__file__", None)
            if file is None or Path(file).resolve().parent != folder:
                del sys.modules[name]


def _last_line_in(paths: Iterable[Path], error: BaseException) -> str | None:
    """`FILE:LINE` of the innermost frame of an exception in one of these files; None if there is none."""
    known = {path.resolve(): path for path in paths}
    place, frame = None, error.__traceback__
    while frame is not None:
        path = known.get(Path(frame.tb_frame.f_code.co_filename).resolve())
        if path is not None:
            place = f"{path}:{frame.tb_lineno}"
        frame = frame.tb_next
    return place
