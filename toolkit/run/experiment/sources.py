"""The files that an experiment consists of, found without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
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
