"""Every config that ships: it loads, resolves to itself, and opens with its own command."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from toolkit.run import config, experiment, plain_yaml

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_ships_whole(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    first, second, *_ = path.read_text().splitlines()
    assert first == f"# toolkit run configs/{path.name}"
    assert "on 2 cores" in second
    assert "expect" in second
    loaded = config.load(path.relative_to(ROOT))
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(plain_yaml.dump(loaded.resolved))
    assert config.load(resolved).resolved == loaded.resolved
    assert yaml.safe_load(resolved.read_text())["experiment"] == loaded.resolved["experiment"]


@pytest.mark.parametrize("name", sorted({p.stem for p in (ROOT / "experiments").glob("*.py")}))
def test_experiment_has_a_config_and_imports_no_other(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert any(f"experiment: {name}" in path.read_text() for path in CONFIGS)
    source = (ROOT / "experiments" / f"{name}.py").read_text()
    assert "import experiments" not in source
    assert "from experiments" not in source
    module = experiment.whole(experiment.find(name, "test"))
    assert callable(module.build)
    assert f"toolkit run configs/{name}.yaml" in (module.__doc__ or "")
