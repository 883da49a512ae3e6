"""The files that an experiment consists of, found without running them."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path


def files(path: Path) -> list[Path]:
    """The experiment's own file, `NAME_figures.py`, and what these import from the same folder."""
    found = [file for file in (path, pictures(path)) if file == path or file.is_file()]
    for file in found:  # the list grows while imported files are found
        beside = [path.with_name(f"{name}.py") for name in _imported(file, path.parent.name)]
        found += [other for other in beside if other.is_file() and other not in found]
    return found


def pictures(path: Path) -> Path:
    """Where an experiment's pictures stand if they are too long for its own file."""
    return path.with_name(f"{path.stem}_figures.py")


def declares_config(path: Path) -> bool:
    """Whether a file defines `Config`. True of a file that cannot be read, so that loading it tells the user why."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError, OSError):
        return True
    targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    names = {target.id for target in targets if isinstance(target, ast.Name)}
    return "Config" in names | {node.name for node in body if isinstance(node, ast.ClassDef)}


def imported(path: Path, name: str, own: Callable[[str], bool]) -> set[str]:
    """Names of the modules that a file imports, anywhere in it, and that these import.

    Args:
        name: the file's own as a module, `experiments.maml`.
        own: whether a file belongs to the user. Only such modules that Python has by now are looked for.
    """
    found: set[str] = set()
    waiting = [(file, name) for file in files(path)]
    while waiting:
        file, by = waiting.pop()
        for other in _names(file, by):
            module = sys.modules.get(other)
            inside = getattr(module, "__file__", None)
            if other not in found and inside is not None and own(inside):
                found.add(other)
                package = hasattr(module, "__path__")
                waiting.append((Path(inside), f"{other}.__init__" if package else other))
    return found


def _names(path: Path, name: str) -> Iterator[str]:
    """Names that a module imports: of modules, of the packages around them, and of what it takes from them."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    for node in ast.walk(tree):
        wholes: list[str] = []
        if isinstance(node, ast.Import):
            wholes = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            around = ".".join(name.split(".")[: -node.level]) if node.level else ""
            base = ".".join(filter(None, (around, node.module)))
            wholes = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for whole in wholes:
            parts = whole.split(".")
            yield from (".".join(parts[: i + 1]) for i in range(len(parts)))


def _imported(path: Path, folder: str) -> Iterator[str]:
    """Names of the modules of a folder that a file imports, anywhere in it."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == folder:
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            for name in [module] if module else [alias.name for alias in node.names]:
                first, _, rest = name.partition(".")
                if first == folder and rest:
                    yield rest.partition(".")[0]
