"""The files that describe the environment agree with each other, and with what is installed."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import tomllib
import warnings
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import toolkit

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHONS = ("3.11", "3.12", "3.13")
LOCKED_EXTRAS = ("data", "solvers", "test", "dev")  # the others follow their own platforms
BROKEN_JAX = "0.10.2"  # wrong numbers on CPU: jit(vmap(...)) of a matrix-vector product, upstream issue 39103


def requirements(*extras: str) -> list[Requirement]:
    """Core requirements and those of `extras`, extras of our own (`toolkit-jax[data]`) written out."""
    found = [Requirement(line) for line in PROJECT["dependencies"]]
    for extra in extras:
        for requirement in map(Requirement, EXTRAS[extra]):
            if requirement.name == PROJECT["name"]:
                found += requirements(*requirement.extras)
            else:
                found.append(requirement)
    return found


def lock_lines() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def pins(python: str) -> dict[str, Version]:
    """The locked version of each package on Python `python`, this platform."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    if python == ".".join(platform.python_version_tuple()[:2]):
        environment["python_full_version"] = platform.python_version()
    found: dict[str, Version] = {}
    for requirement in map(Requirement, lock_lines()):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in found, f"constraints.txt pins {name} twice on Python {python}"
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", f"not a pin: {requirement}"
            found[name] = Version(specifier.version)
    return found


def drift(pinned: dict[str, Version], installed: dict[str, str]) -> list[str]:
    """One line for each package whose installed version is not the pinned one (`+cpu` and the like do not count)."""
    return [
        f"{name}: installed {version}, pinned {pinned[name]}"
        for name, version in sorted(installed.items())
        if Version(Version(version).public) != pinned[name]
    ]


def installed_versions(names: dict[str, Version]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # belongs to an extra that is not installed here
    return found


def readme_lines() -> dict[str, str]:
    readme = (ROOT / "README.md").read_text("utf-8")
    return dict(re.findall(r"^<!-- line: (\w+) -->\n+```\w*\n(.+)\n```$", readme, re.MULTILINE))


# The three files hold together.


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_is_pinned_to_a_version_it_admits(python):
    pinned = pins(python)
    for requirement in requirements(*LOCKED_EXTRAS):
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"constraints.txt does not pin {name} on Python {python}"
        assert requirement.specifier.contains(pinned[name]), (
            f"{requirement}, but {pinned[name]} is pinned"
        )


def test_supported_pythons_are_declared():
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    declared = [
        c.removeprefix("Programming Language :: Python :: ") for c in PROJECT["classifiers"]
    ]
    assert tuple(c for c in declared if re.fullmatch(r"3\.\d+", c)) == PYTHONS


def test_the_version_is_that_of_the_changelog():
    newest = re.search(
        r"^## (\S+)( \(unreleased\))?$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M
    )
    assert newest is not None
    version, unreleased = newest.groups()
    assert toolkit.__version__ == version + (".dev0" if unreleased else "")
    assert "version" in PROJECT["dynamic"]  # the build reads the same line


def test_lock_holds_pins_only():
    text = (ROOT / "constraints.txt").read_text("utf-8")
    for unwanted in ("://", "--hash", "--index", "--find-links", "sha256", "file:", " @ ", "-e "):
        assert not any(unwanted in line for line in lock_lines()), unwanted
    assert "://" not in text
    assert PROJECT["name"] not in text.splitlines()[-1] and not any(
        line.startswith(PROJECT["name"]) for line in lock_lines()
    )


def test_the_broken_jax_is_excluded():
    everything = requirements(*EXTRAS)
    for name in ("jax", "jaxlib"):
        combined = SpecifierSet()
        for requirement in everything:
            if requirement.name == name:
                combined &= requirement.specifier
        assert not combined.contains(BROKEN_JAX), name
        for python in PYTHONS:
            assert pins(python)[name] != Version(BROKEN_JAX)
            assert pins(python)[name] == pins(python)["jaxlib"]


def test_conda_environment_follows_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    assert environment["channels"] == ["conda-forge"]
    python, pip, by_pip = environment["dependencies"]
    assert python.partition("=")[0] == "python" and python.partition("=")[2] in PYTHONS
    assert pip == "pip"  # named, or conda warns
    constraint, editable = by_pip["pip"]
    flag, file = constraint.split()
    assert flag == "-c" and (ROOT / file).samefile(ROOT / "constraints.txt")
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", editable)[1].split(",")
    assert set(extras) <= set(LOCKED_EXTRAS)


# What is installed.


def test_installed_versions_are_the_pinned_ones():
    """Warns by name, and never fails: other versions may well work, but a strange number starts here."""
    pinned = pins(".".join(platform.python_version_tuple()[:2]))
    differences = drift(pinned, installed_versions(pinned))
    if differences:
        listed = "\n  ".join(differences)
        warnings.warn(
            f"versions differ from constraints.txt:\n  {listed}", UserWarning, stacklevel=1
        )


def test_drift_is_detected():
    pinned = {"jax": Version("0.10.1"), "numpy": Version("2.4.6"), "rich": Version("15.0.0")}
    assert drift(pinned, {"jax": "0.10.1", "numpy": "2.4.6+local"}) == []
    assert drift(pinned, {"jax": "0.10.2", "numpy": "2.4.6", "rich": "15"}) == [
        "jax: installed 0.10.2, pinned 0.10.1"
    ]


def test_drift_warns_by_name(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.1")
    with pytest.warns(UserWarning, match="jax: installed 0.0.1, pinned 0."):
        test_installed_versions_are_the_pinned_ones()


# The two lines of the README.


def test_readme_has_its_two_lines():
    lines = readme_lines()
    assert set(lines) == {"main", "test"}
    for line in lines.values():
        assert line.startswith("python3 -m venv .venv && .venv/bin/pip install ")
        assert "-c constraints.txt" in line
        (extra,) = re.findall(r'-e "\.\[(\w+)\]"', line)
        assert extra in LOCKED_EXTRAS
    command = lines["main"].rpartition(" && ")[2]
    tool, verb, config = command.split()
    assert (tool, verb) == (".venv/bin/toolkit", "run") and (ROOT / config).is_file()
    assert (ROOT / config).with_stem("tiny").is_file()  # .ci/run repeats the line with it


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_ci_runs_the_lines_of_the_readme():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    result = subprocess.run(["bash", script, "--lines"], capture_output=True, text=True, check=True)
    lines = readme_lines()
    assert result.stdout.splitlines() == [lines["main"], lines["test"]]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("readme", ["", "<!-- line: main -->\n```bash\none\ntwo\n```\n"])
def test_ci_refuses_a_readme_without_its_lines(tmp_path, readme):
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "README.md").write_text(readme, "utf-8")
    script = tmp_path / ".ci" / "run"
    result = subprocess.run(["bash", script, "--lines"], capture_output=True, text=True)
    assert result.returncode != 0
    assert (
        "error: README.md: expected one command line fenced below '<!-- line: main -->'"
        in result.stderr
    )
