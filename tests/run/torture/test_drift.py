"""What determines the bits is recorded, any change of it is noticed, and what should not matter does not."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.run.torture import kit
from toolkit.run.store import environment

RECORDED = {
    "python", "jax", "jaxlib", "numpy", "optax", "flax", "toolkit", "toolkit_sha256", "experiment_sha256", "platform",
    "cpu_flags_sha256", "cpus", "NPROC", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "XLA_FLAGS", "x64",
    "matmul_precision", "prng_impl", "threefry_partitionable", "backend", "device_kind", "device_count",
}  # fmt: skip
GOLDEN = Path(__file__).with_name("golden.json")


def test_every_recorded_field_is_noticed_and_allowed_drift_stamps_the_rows(
    toolkit, finished, stopped
):
    names = json.loads((stopped("x") / "run.json").read_text())["environment"]
    assert set(names) == RECORDED
    for name in RECORDED:
        path = stopped("x") / "run.json"
        record = json.loads(path.read_text())
        record["environment"][name] = "other"
        path.write_text(json.dumps(record))
        for words in (
            ("resume", "x"),
            ("run", "stream.yaml", "steps=40", "log_every=2", "checkpoint_every=10", "--out", "x"),
        ):
            code, _, err = toolkit(*words)
            assert (code, len(err)) == (7, 1), name
            assert f"the environment differs in {name}, got {name} " in err[0]
            assert f'expected {name} "other" as recorded' in err[0]
        assert toolkit("resume", "x", "--allow-drift")[0] == 0
        rows = kit.lines("x/metrics.jsonl")
        assert [row.get("drift", False) for row in rows] == [False] * 15 + [True] * 5
        assert json.loads(path.read_text())["drift"] == [name]


CHANGES = [
    ("XLA_FLAGS", {"XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2"}, ()),
    ("device_count", {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}, ()),
    ("OMP_NUM_THREADS", {"OMP_NUM_THREADS": "2"}, ()),
    ("NPROC", {"NPROC": "2"}, ()),
    ("x64", {"JAX_ENABLE_X64": "1"}, ()),
    ("matmul_precision", {"JAX_DEFAULT_MATMUL_PRECISION": "bfloat16"}, ()),
    ("prng_impl", {"JAX_DEFAULT_PRNG_IMPL": "rbg"}, ()),
    ("threefry_partitionable", {"JAX_THREEFRY_PARTITIONABLE": "0"}, ()),
    ("cpus", {}, ("taskset", "-c", "0")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variables", "before"), CHANGES, ids=[c[0] for c in CHANGES])
def test_a_real_change_is_noticed(work, name, variables, before):
    code, _, err = kit.finish("run", "stream.yaml", "steps=2", "--out", "here")
    assert code == 0, err
    record = json.loads(Path("here/run.json").read_text())
    Path("here/run.json").write_text(json.dumps({**record, "status": "running"}))
    code, _, err = kit.finish("resume", "here", env=variables, before=before)
    assert code == 7
    assert name in err.partition("differs in ")[2].partition(", got ")[0].split(", ")


KERNELS = """
    def step(state, whole=step):
        state, metrics = whole(state)
        image = jnp.sin(jnp.arange(4 * 32 * 32 * 3.0)).reshape(4, 32, 32, 3)
        filters = jnp.cos(jnp.arange(3 * 3 * 3 * 16.0)).reshape(3, 3, 3, 16) * state.w[0]
        convolved = lambda f: jnp.sum(jnp.tanh(jax.lax.conv_general_dilated(
            image, f, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))) ** 2)
        a = jnp.sin(jnp.outer(jnp.arange(200.0), jnp.arange(200.0)))
        factor = jnp.linalg.cholesky(a @ a.T + 200 * jnp.eye(200))
        more = {"conv": jnp.sum(jax.grad(convolved)(filters) ** 2), "cholesky": jnp.sum(factor ** 3)}
        return state._replace(w=state.w + 1e-12 * sum(more.values())), {**metrics, **more}

    def finish"""


@pytest.fixture
def kernels(work, monkeypatch):
    """The stream with the kernels whose rounding depends on the number of threads."""
    for name in ("NPROC", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name)
    source = work / "experiments/stream.py"
    source.write_text(source.read_text().replace("\n    def finish", KERNELS))

    def bits(name, **options):
        words = ("run", "stream.yaml", "steps=20", "--out", work / name)
        code, _, err = kit.finish(*words, **options)
        assert code == 0, err
        log, metrics, params, states = kit.result(work / name)
        return hashlib.sha256(
            repr((log, metrics, params, sorted(states.items()))).encode()
        ).hexdigest()

    return bits


def test_golden_bits(kernels):
    """Of each jaxlib on each instruction set that was tried; elsewhere there is nothing to compare with."""
    golden = json.loads(GOLDEN.read_text())
    key = f"jaxlib {version('jaxlib')}, {platform.machine()} {environment._cpu_flags_hash()[:12]}"
    found = kernels("x")
    if key not in golden:
        pytest.skip(f"no golden bits of {key}; these are {found}")
    assert found == golden[key]


@pytest.mark.slow
def test_bits_do_not_depend_on_what_should_not_matter(kernels, work, tmp_path):
    whole = kernels("whole")
    if len(os.sched_getaffinity(0)) > 1:
        assert (
            kernels("one-cpu", before=("taskset", "-c", str(min(os.sched_getaffinity(0))))) == whole
        )
    odd = {
        "PYTHONHASHSEED": "77",
        "TZ": "Pacific/Kiritimati",
        "LC_ALL": "C",
        "LANG": "tr_TR.UTF-8",
        "COLUMNS": "20",
    }
    assert kernels("odd", env=odd) == whole
    assert kernels("umask", before=("bash", "-c", 'umask 077; exec "$0" "$@"')) == whole
    (work / "elsewhere").mkdir()
    for name in ("experiments", "stream.yaml"):
        (work / "elsewhere" / name).symlink_to(work / name)
    assert kernels("moved", cwd=work / "elsewhere") == whole


def test_a_change_of_any_file_of_the_package_is_noticed(tmp_path, monkeypatch):
    package = tmp_path / "toolkit"
    shutil.copytree(environment.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(environment, "PACKAGE", package)
    seen = {environment._package_hash()}
    # One file of each kind: the others of its kind are found in the same way.
    # `py.typed` is an empty mark for type checkers.
    files = [path for path in package.rglob("*") if path.is_file() and path.name != "py.typed"]
    for path in {path.suffix: path for path in files}.values():
        path.write_text(path.read_text("utf-8") + "\n", "utf-8")
        digest = environment._package_hash()
        assert digest not in seen, path.name
        seen.add(digest)
    assert len(seen) > 3  # code, a page, its script
