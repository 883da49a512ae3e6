"""The user's own files that an experiment depends on: modules that it runs, and other files that it reads.

Python tells of them itself, through an audit hook, so it makes no difference how a module is imported or a
file is opened, nor when. What it does not tell of cannot be compared: files that a library opens in C (HDF5,
for one), files of other processes, and the names in a folder. Files outside of the working directory and
beside the experiment are left out, too, and so are folders at the top of it that begin with a dot, which
belong to tools. An experiment that depends on such data names them in `Program.data`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST = 1000  # files that are listed; later ones are not compared
HASHED = (
    1 << 30
)  # bytes that are hashed in all; of larger files the size and the time of change are compared
ABSENT = "not there"
_WRITES = os.O_WRONLY | os.O_RDWR
_PACKAGE = str(Path(__file__).parents[2]) + os.sep  # its hash is recorded as a whole
_LIBRARIES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_STANDARD = os.path.dirname(os.__file__) + os.sep

# By whole path. All experiments of a process share them, since a module is imported only once.
_ran: dict[str, str] = {}  # modules, with their hash when they ran
_read: dict[str, str] = {}  # other files, as `description` says when they were first opened
_wrote: dict[
    str, None
] = {}  # files that the experiment itself made: what it reads of them is no input
_roots: list[str] = []
_left_out: set[str] = set()  # folders of the run itself
_inside = 0  # how many blocks of `listening` are open
_threads = {threading.main_thread().ident}  # those in which a run goes on
_state = threading.local()  # `.busy` while the hook itself opens a file
_installed = False
_hashed = 0  # bytes


def start(experiment: Path) -> None:
    """Hears of files below the working directory and beside the experiment from now on."""
    global _installed
    beside = os.path.dirname(os.path.dirname(os.path.realpath(experiment)))
    _roots[:] = [root.rstrip(os.sep) + os.sep for root in (os.getcwd(), beside)]
    if not _installed:
        _installed = True
        sys.addaudithook(_hook)


def leave_out(folder: Path) -> None:
    """What is written and read below `folder` belongs to the run: libraries open its files in threads of their own."""
    _left_out.add(os.path.abspath(folder) + os.sep)


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Code of the experiment runs within."""
    global _inside
    _inside += 1
    try:
        yield
    finally:
        _inside -= 1


@contextlib.contextmanager
def in_this_thread() -> Iterator[None]:
    """The run goes on in this thread: the files that it opens are its own, and not the experiment's."""
    thread = threading.get_ident()
    known = thread in _threads
    _threads.add(thread)
    try:
        yield
    finally:
        if not known:
            _threads.discard(thread)


@contextlib.contextmanager
def apart_from(folder: Path) -> Iterator[None]:
    """What is read and written in a folder is no matter of the experiment."""
    leave_out(folder)
    try:
        yield
    finally:
        _left_out.discard(os.path.abspath(folder) + os.sep)


def forget() -> set[str]:
    """Starts anew, as in a new process. Returns the whole paths of the modules that ran."""
    global _hashed
    ran = set(_ran)
    for known in (_ran, _read, _wrote):
        known.clear()
    _hashed = 0
    return ran


def own(path: str) -> bool:
    """Whether a file is one of the user's own, once an experiment is known."""
    return _path(path) is not None


def count() -> int:
    """Grows with each file that is heard of."""
    return len(_ran) + len(_read) + len(_wrote)


def modules(experiment: Path) -> dict[str, str]:
    """Hashes of the modules that ran, by path from the working directory. Without the experiment's own file."""
    start(experiment)  # the process may have gone to another working directory
    own = {os.path.abspath(experiment), os.path.realpath(experiment)}
    return {
        _name(path): digest for path, digest in _ran.items() if _is_here(path) and path not in own
    }


def inputs() -> dict[str, str]:
    """What was read, by path from the working directory."""
    return {
        _name(path): said
        for path, said in _read.items()
        if path not in _ran and path not in _wrote and _is_here(path)
    }


def outputs() -> list[str]:
    """What the experiment itself wrote, by path from the working directory."""
    return [_name(path) for path in _wrote if _is_here(path)][:MOST]


def ran(path: Path) -> str | None:
    """The hash of a module's file when it ran, which may have been edited since."""
    return _ran.get(os.path.abspath(path))


def description(path: str | Path, like: str = "") -> str:
    """A file as it is now. `like`: an earlier description, to which it is compared."""
    global _hashed
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return ABSENT
        timed = f"{status.st_size} bytes of {status.st_mtime_ns}"
        if " bytes of " in like or (not like and _hashed + status.st_size > HASHED):
            return timed
        _hashed += status.st_size
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ABSENT


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    """Must be quick and must not raise: it is called for each thing that Python tells of."""
    if event not in ("open", "exec", "import", "os.rename") or getattr(_state, "busy", False):
        return
    # Callbacks of a compiled step run in threads of jax, at any time.
    if not _inside and threading.get_ident() in _threads:
        return
    _state.busy = True
    try:
        _hear(event, arguments)
    except Exception:  # say, a path that is no text, or the end of the interpreter
        return
    finally:
        _state.busy = False


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "exec":
        path = _path(getattr(arguments[0], "co_filename", None))
    else:  # of an import: the file of a module that is compiled; of a rename: the new name
        path = _path(arguments[0] if event == "open" else arguments[1])
    if path is None or path.startswith(_cache_of_jax()):
        return
    if event in ("exec", "import"):
        digest = description(path, "hash")
        if digest != ABSENT:
            _ran[path] = digest
    elif event == "os.rename" or (isinstance(arguments[2], int) and arguments[2] & _WRITES):
        _wrote.setdefault(path)
    elif path not in _read and len(_read) < MOST and f"{os.sep}__pycache__{os.sep}" not in path:
        _read[path] = description(path)


def _path(name: Any) -> str | None:
    """The whole path, if it is one of the user's own."""
    if isinstance(name, int) or not name:
        return None
    text = os.fsdecode(name)
    if text.startswith("<"):  # code of no file
        return None
    path = os.path.abspath(text)
    root = next((root for root in _roots if path.startswith(root)), None)
    if (
        root is None
        or path.startswith((*_left_out, _PACKAGE, _STANDARD))
        or any(f in path for f in _LIBRARIES)
    ):
        return None
    first, below, _ = path[len(root) :].partition(os.sep)
    return None if below and first.startswith(".") else path


def _is_here(path: str) -> bool:
    """Whether a path is of this working directory: a process may have had another one before."""
    return path.startswith(tuple(_roots))


def _name(path: str) -> str:
    return os.path.relpath(path)


def _cache_of_jax() -> str:
    """The folder of compiled programs, which belongs to jax although the experiment causes it to be read."""
    jax = sys.modules.get("jax")
    folder = getattr(getattr(jax, "config", None), "jax_compilation_cache_dir", None)
    return os.path.abspath(folder) + os.sep if isinstance(folder, str) and folder else "\0"
