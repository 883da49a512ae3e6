"""JAX's internals are used through one door: syntax trees of the whole package are walked, and offenders named."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "toolkit"
MAY = ("jaxprs/", "derive/")  # derive/: for primitives of our own
INTERNAL = ("jax.extend", "jax._src", "jax.interpreters", "jaxlib")
# Of `jax.core` only this is in JAX's documentation.
PUBLIC_CORE = {"jax.core.Tracer"}
# Attributes that only objects within JAX have.
PRIVATE = {
    *("get_bind_params", "source_info", "name_stack", "debug_info", "func_src_info"),
    *("raw_frames", "traceback_info", "_cache_size", "_jit_info", "manual_axis_type"),
}
# Read of an equation they are internal; other things have attributes of these names too.
OF_EQUATIONS = {"params", "ctx"}
MARKS = {"eqns", "primitive", "invars", "outvars"}  # a file that reads these reads equations


class Module(ast.NodeVisitor):
    """The offences of one module, each with its line."""

    def __init__(self, source: str) -> None:
        self.found: list[tuple[int, str]] = []
        self.names = {"jax": "jax"}  # what a name of the module stands for, as far as it is of JAX
        self.tree = ast.parse(source)
        attributes = {n.attr for n in ast.walk(self.tree) if isinstance(n, ast.Attribute)}
        self.private = PRIVATE | (OF_EQUATIONS if attributes & MARKS else set())

    def offences(self) -> list[tuple[int, str]]:
        self.visit(self.tree)
        return sorted(set(self.found))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._check(node, alias.name)
            if alias.asname:
                self.names[alias.asname] = alias.name

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            self._check(node, whole)
            self.names[alias.asname or alias.name] = whole

    def visit_Attribute(self, node: ast.Attribute) -> None:
        whole = self._path(node)
        if whole:
            self._check(node, whole)
        elif node.attr in self.private or self._is_of_equation(node):
            self.found.append((node.lineno, f".{node.attr}"))
        if not whole:
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """`getattr(equation, "params")`, `import_module("jax._src.core")`."""
        called = ast.unparse(node.func).rpartition(".")[2]
        texts = [
            a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)
        ]
        for text in texts:
            if called in ("getattr", "hasattr", "attrgetter") and text in self.private:
                self.found.append((node.lineno, f".{text}"))
            if called in ("import_module", "__import__"):
                self._check(node, text)
        self.generic_visit(node)

    def _is_of_equation(self, node: ast.Attribute) -> bool:
        """Whether it is read of something that is called an equation."""
        called = ast.unparse(node.value)
        return node.attr in OF_EQUATIONS and ("equation" in called or "eqn" in called)

    def _path(self, node: ast.expr) -> str:
        """`jax.core.eval_jaxpr` of an expression of that meaning, "" of one that is not JAX's."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, "")
        if isinstance(node, ast.Attribute):
            base = self._path(node.value)
            return f"{base}.{node.attr}" if base else ""
        return ""

    def _check(self, node: ast.stmt | ast.expr, name: str) -> None:
        internal = any(name == one or name.startswith(f"{one}.") for one in INTERNAL)
        core = name.startswith("jax.core.") and ".".join(name.split(".")[:3]) not in PUBLIC_CORE
        primitive = name.startswith("jax.lax.") and name.split(".")[2].endswith("_p")
        if internal or core or primitive:
            self.found.append((node.lineno, name))


def offenders(package: Path) -> Iterator[str]:
    """`file:line: what`, of all modules of a package that may not use internals."""
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package).as_posix()
        if not inside.startswith(MAY):
            for line, what in Module(path.read_text("utf-8")).offences():
                yield f"{inside}:{line}: {what}"


def test_only_the_room_of_programs_uses_internals_of_jax():
    assert list(offenders(PACKAGE)) == []


def test_the_room_itself_would_be_named():
    # The walk finds what is there: each file of the room that uses an internal by its name.
    found = {
        path.name
        for path in (PACKAGE / "jaxprs").glob("*.py")
        if Module(path.read_text()).offences()
    }
    assert found == {
        *("classes.py", "collectives.py", "constants.py", "hidden.py", "loops.py", "operations.py"),
        *("own_rules.py", "own_shardings.py", "read.py", "recorded_lines.py", "thin_products.py"),
        "varying_axes.py",
    }


PLANTED = {
    "an import": ("import jax.extend.core", "jax.extend.core"),
    "an import under another name": ("import jax._src.core as c\nc.Var", "jax._src.core"),
    "an import from JAX": ("from jax import extend", "jax.extend"),
    "an import within a function": ("def f():\n    from jax.interpreters import ad", "jax.interpreters.ad"),
    "an import by text": ("import_module('jax._src.util')", "jax._src.util"),
    "an attribute of jax": ("import jax\njax._src.core.Var", "jax._src.core.Var"),
    "jax under another name": ("import jax as j\nj.extend.core.Var", "jax.extend.core.Var"),
    "half public": ("import jax\njax.core.eval_jaxpr(j, [])", "jax.core.eval_jaxpr"),
    "a name of half public": ("from jax.core import eval_jaxpr", "jax.core.eval_jaxpr"),
    "a primitive": ("import jax\njax.lax.sin_p.bind(x)", "jax.lax.sin_p.bind"),
    "a parameter": ("for e in j.eqns:\n    e.params['jaxpr']", ".params"),
    "a parameter if there is one": ("e.primitive.name\ne.params.get('num_consts')", ".params"),
    "a parameter in a file of helpers": ("def f(equation):\n    p = equation.params", ".params"),
    "parameters by text": ("e.primitive.name\ngetattr(e, 'params')", ".params"),
    "a context": ("j.eqns[0].ctx.manager", ".ctx"),
    "a record of lines": ("frames(e.source_info.traceback)", ".source_info"),
    "a private count": ("f._cache_size()", "._cache_size"),
    "how a primitive is bound": ("p.get_bind_params(q)", ".get_bind_params"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "what"), PLANTED.values(), ids=PLANTED)
def test_a_planted_use_is_named(tmp_path: Path, source: str, what: str):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "planted.py").write_text(f"# a line\n{source}\n")
    last = next(
        n
        for n, line in enumerate(source.splitlines(), 2)
        if what.lstrip(".").split(".")[-1] in line
    )
    assert f"run/planted.py:{last}: {what}" in list(offenders(tmp_path))


ALLOWED = {
    "a tracer": "import jax\nisinstance(x, jax.core.Tracer)",
    "the equations": "for e in jax.make_jaxpr(f)(x).eqns:\n    e.primitive.name, e.invars",
    "the parameters of a model": "model.params",
    "a name of the syntax tree": "node.ctx",
    "through the door": "from toolkit.jaxprs.read import called",
}


@pytest.mark.parametrize("source", ALLOWED.values(), ids=ALLOWED)
def test_what_is_public_is_not_named(tmp_path: Path, source: str):
    (tmp_path / "planted.py").write_text(source)
    assert list(offenders(tmp_path)) == []


def test_the_door_may(tmp_path: Path):
    (tmp_path / "jaxprs").mkdir()
    (tmp_path / "jaxprs" / "read.py").write_text("from jax.extend.core import Var")
    assert list(offenders(tmp_path)) == []
