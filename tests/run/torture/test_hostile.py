"""Files that an attacker put in place of ours: none is executed, none hangs or fills the memory, each is refused."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import shutil
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest

from toolkit.run.store import checkpoints

LIMIT = (
    120  # seconds until an alarm ends one that hangs; on a quiet machine each takes less than one
)


class Payload:
    """Its unpickling leaves a trace."""

    def __reduce__(self):
        return Path.touch, (Path("canary").absolute(),)


def pickled():
    return pickle.dumps(Payload())


def object_array():
    file = io.BytesIO()
    np.save(file, np.array([Payload()], dtype=object), allow_pickle=True)
    return file.getvalue()


def archive_of_objects():
    file = io.BytesIO()
    np.savez(file, w=np.array([Payload()], dtype=object))
    return file.getvalue()


def zip_bomb():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", bytes(200 << 20))
    return file.getvalue()


def header(text, length=None):
    """A safetensors file of this header alone, which says that it is `length` bytes long."""
    data = text.encode()
    return (len(data) if length is None else length).to_bytes(8, "little") + data


def overlapping():
    part = {"dtype": "F64", "shape": [8], "data_offsets": [0, 64]}
    return header(json.dumps({"w": part, "v": part})) + bytes(64)


BYTES = {
    "pickle": pickled,
    "object npy": object_array,
    "object npz": archive_of_objects,
    "zip bomb": zip_bomb,
    "endless header": lambda: header("{", 1 << 62),
    "huge header": lambda: header("{" + " " * (8 << 20) + "}"),
    "deep header": lambda: header('{"a":' * 50_000),
    "huge shape": lambda: header('{"w":{"dtype":"F64","shape":[4611686018427387904,8],"data_offsets":[0,64]}}'),
    "overlap": overlapping,
    "python yaml": lambda: b"!!python/object/apply:os.system ['touch canary']",
    "deep json": lambda: b"[" * 1_000_000,
    "huge number": lambda: b'{"format": ' + b"9" * 100_000 + b"}",
    "nothing": lambda: b"",
    "nul": lambda: bytes(4096),
}  # fmt: skip


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(1 << 40)


PLACES = {
    "fifo": os.mkfifo,
    "directory": os.mkdir,
    "link to zeros": lambda path: path.symlink_to("/dev/zero"),
    "link to random": lambda path: path.symlink_to("/dev/urandom"),
    "link to a terminal": lambda path: path.symlink_to("/dev/tty"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to memory": lambda path: path.symlink_to("/proc/self/mem"),
    "link to a secret": lambda path: path.symlink_to("/etc/hostname"),
    "broken link": lambda path: path.symlink_to("nowhere"),
    "a terabyte": sparse,
}


def put(kind, path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if kind in BYTES:
        path.write_bytes(BYTES[kind]())
    else:
        PLACES[kind](path)


@pytest.fixture
def guarded(work):
    """Gives what to call before each case. Fails one that takes too long or a GiB, or that runs a payload."""

    def late(*_):
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield lambda: signal.alarm(LIMIT)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    assert not (work / "canary").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < peak + (1 << 20)  # in KiB: 1 GiB


@pytest.mark.parametrize("name", ["state.safetensors", "manifest.json"])
def test_a_hostile_newest_checkpoint_is_set_aside(toolkit, finished, stopped, guarded, name):
    from tests.run.torture import kit

    for kind in {**BYTES, **PLACES}:
        guarded()
        folder = stopped("x")
        put(kind, folder / "checkpoints/30" / name)
        code, out, err = toolkit("resume", "x")
        assert code == 0, (kind, err)
        assert "continuing from step 20" in out, kind
        assert any(line.startswith("warning: x/checkpoints/30: damaged") for line in err), kind
        assert kit.result(folder)[:3] == finished[:3], kind


def test_a_hostile_checkpoint_folder_is_set_aside(toolkit, finished, stopped, guarded):
    for kind in ("fifo", "nothing", "link to itself", "broken link", "link to zeros"):
        guarded()
        folder = stopped("x")
        put(kind, folder / "checkpoints/30")
        code, out, _ = toolkit("resume", "x")
        assert (code, "continuing from step 20" in out) == (0, True), kind


@pytest.mark.parametrize("name", ["config.yaml", "run.json", "metrics.jsonl", "events.jsonl"])
def test_hostile_files_beside_them_are_refused(toolkit, finished, stopped, guarded, name):
    for kind in {**BYTES, **PLACES}:
        guarded()
        if name == "events.jsonl" and (kind in BYTES or kind == "a terabyte"):
            continue  # it is only appended to
        folder = stopped("x")
        put(kind, folder / name)
        secret = Path("/etc/hostname").read_bytes()
        code, _, err = toolkit("resume", "x")
        assert code in (2, 3, 5) and len(err) == 1, (kind, code, err)
        assert not any(entry.name.startswith("final") for entry in folder.iterdir()), kind
        assert Path("/etc/hostname").read_bytes() == secret


@pytest.mark.parametrize("name", ["params.safetensors", "metrics.json"])
def test_a_report_of_hostile_results_is_refused(toolkit, finished, guarded, name):
    for kind in {**BYTES, **PLACES}:
        guarded()
        shutil.rmtree("x", ignore_errors=True)
        shutil.copytree("whole", "x")
        put(kind, Path("x/final") / name)
        code, _, err = toolkit("report", "x", "--out", "page.html")
        assert (code, len(err)) == (3, 1), (kind, err)
        assert err[0].startswith("error: x/final: damaged"), kind


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": "x"}, {"seconds": -1.0}, {"metrics_bytes": -5}, {"metrics_bytes": True}, {"bytes": 1 << 60},
        {"leaves": []}, {"leaves": {}}, {"leaves": {"w": {"dtype": "O", "shape": [8]}}}, {"format": 99}, {"step": "30"},
    ],
    ids=str,
)  # fmt: skip
def test_a_forged_manifest_with_a_right_checksum_is_refused(
    toolkit, finished, stopped, guarded, change
):
    guarded()
    folder = stopped("x")
    path = folder / "checkpoints/30/manifest.json"
    manifest = {**json.loads(path.read_text()), **change}
    manifest["checksum"] = checkpoints._checksum(manifest)
    path.write_text(json.dumps(manifest))
    code, out, err = toolkit("resume", "x")
    assert (code, "continuing from step 20" in out) == (0, True), err


def test_a_key_of_another_generator_is_refused(toolkit, finished, stopped):
    folder = stopped("x")
    path = folder / "checkpoints/30/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["leaves"]["key"]["key_impl"] = "os.system"
    manifest["checksum"] = checkpoints._checksum(manifest)
    path.write_text(json.dumps(manifest))
    code, _, err = toolkit("resume", "x")
    assert code == 3
    assert (
        "got key uint32[2] key of os.system, expected key uint32[2] key of threefry2x32" in err[0]
    )
