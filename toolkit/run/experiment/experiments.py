"""Experiments are files, found by a plain name under the working directory and loaded in one of two ways.

`declarations` runs only the statements that `Config` needs, so that a config is judged without importing jax;
`whole` runs the file. Neither reads nor writes byte code: a cache keyed on whole seconds can serve an older file.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from toolkit.run.experiment import sources
from toolkit.run.experiment.common import Settings
from toolkit.run.experiment.errors import Exit, RunError, fail, nearest, shown

FOLDER = "experiments"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class _WholeLoader(SourceFileLoader):
    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class _DeclarationsLoader(SourceFileLoader):
    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path), path)
        tree.body = needed_by("Config", tree.body)
        return self.source_to_code(tree, path)


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
    file, draws = (pictures, whole(pictures)) if pictures.is_file() else (path, module)
    return (file, draws.figures) if hasattr(draws, "figures") else None


def summary(path: Path) -> str:
    """The first line of an experiment's docstring, read without running it."""
    try:
        text = ast.get_docstring(ast.parse(path.read_bytes())) or ""
    except (SyntaxError, ValueError, OSError):
        return "(not readable)"
    return text.strip().partition("\n")[0]


def declarations(path: Path) -> ModuleType:
    """The part of the file that `Config` needs; the whole file where that part does not stand on its own."""
    try:
        module = _load(path, _DeclarationsLoader)
        if issubclass(module.Config, Settings) and module.Config.__pydantic_complete__:
            return module
    except (
        Exception
    ):  # whatever the slice lacks, the whole file has, or else it reports the error itself
        pass
    return whole(path)


def whole(path: Path) -> ModuleType:
    """The experiment's module. Raises: RunError (exit 2) that names the line at which it fails."""
    with reported(path, "cannot be loaded"):
        return _load(path, _WholeLoader)


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
def reported(path: Path, what: str) -> Iterator[None]:
    """Turns any exception of an experiment's code into one line that names the line of the experiment."""
    try:
        yield
    except RunError:
        raise
    except SyntaxError as error:
        place = f"{path}:{error.lineno}" if error.lineno else path
        raise fail(Exit.CONFIG, place, what, f"SyntaxError: {error.msg}", "valid Python") from error
    except Exception as error:
        line = _last_line_in(path, error)
        place = f"{path}:{line}" if line else path
        reason = str(error).strip().partition("\n")[0][:300]
        raise fail(
            Exit.CONFIG, place, what, f"{type(error).__name__}: {reason}", "no exception"
        ) from error


def needed_by(name: str, body: Iterable[ast.stmt]) -> list[ast.stmt]:
    """The top-level statements that binding `name` needs, directly or through other names, in their order."""
    body = list(body)
    bound = [_names(statement, ast.Store) for statement in body]
    kept = {i for i, statement in enumerate(body) if _is_future(statement)}
    wanted, seen = [name], set()
    while wanted:
        current = wanted.pop()
        seen.add(current)
        for i in (i for i, names in enumerate(bound) if current in names and i not in kept):
            kept.add(i)
            wanted += [used for used in _names(body[i], ast.Load) if used not in seen]
    return [body[i] for i in sorted(kept)]


def _names(statement: ast.stmt, context: type[ast.expr_context]) -> set[str]:
    """Names that a statement binds (Store) or reads (Load) at any depth; a superset does no harm."""
    names = {
        n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, context)
    }
    if context is ast.Load:
        texts = (
            n.value
            for n in ast.walk(statement)
            if isinstance(n, ast.Constant) and isinstance(n.value, str)
        )
        return names | {text for text in texts if text.isidentifier()}  # annotations in quotes
    for node in ast.walk(statement):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
    return names


def _is_future(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


def _load(path: Path, loader_class: type[SourceFileLoader]) -> ModuleType:
    name = f"{FOLDER}.{path.stem}"
    loader = loader_class(name, str(path))
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


def _last_line_in(path: Path, error: BaseException) -> int | None:
    line, frame = None, error.__traceback__
    while frame is not None:
        if Path(frame.tb_frame.f_code.co_filename) == path:
            line = frame.tb_lineno
        frame = frame.tb_next
    return line
