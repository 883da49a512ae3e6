"""Learning rules as a config writes them."""

from __future__ import annotations

import warnings
from typing import Any

import optax
import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

import toolkit as tk
from toolkit.commands import cli
from toolkit.run import Settings
from toolkit.run.experiment import load
from toolkit.run.experiment.json_schema import schema_of
from toolkit.vocabulary import kinds

C = tk.credit


class Asked(BaseModel):
    rule: C.Rule


def written(**rule: Any) -> Any:
    return Asked.model_validate({"rule": rule}).rule


def test_a_rule_is_written_by_its_kind() -> None:
    assert written(kind="dual_propagation", alpha=0.0) == C.DualPropagation(alpha=0.0)
    assert written(kind="predictive_coding", form="z_il") == C.PredictiveCoding("z_il")
    made = written(kind="equilibrium_propagation", energy="lifted", free_steps=0)
    assert made.energy is tk.energy.lifted and made.free_steps == 0
    device = {"kind": "photonic_projection", "threshold": 0.3}
    assert written(kind="direct_feedback_alignment", device=device) == C.DirectFeedbackAlignment(
        C.PhotonicProjection(0.3)
    )


def test_the_kind_of_feedback_has_a_word_of_its_own() -> None:
    made = written(kind="feedback_alignment", feedback="sign")
    assert made == C.FeedbackAlignment("sign") and made.kind == "sign"
    assert repr(made) == "FeedbackAlignment(kind='sign', optimizer=None)"
    assert (
        kinds.dump(made)["kind"] == "feedback_alignment" and kinds.dump(made)["feedback"] == "sign"
    )
    adam = {"kind": "adam", "learning_rate": 0.1}
    moved = written(kind="feedback_alignment", feedback="kolen_pollack", optimizer=adam)
    assert moved.optimizer == tk.optimizers.Adam(0.1)
    assert Asked.model_validate(Asked(rule=moved).model_dump(by_alias=True)).rule == moved


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"feedback_alignment.feedback"):
        written(kind="feedback_alignment", feedback="asymmetric")
    with pytest.raises(ValidationError, match="`optimizer` must move the feedback"):
        written(kind="feedback_alignment", feedback="kolen_pollack")
    with pytest.raises(ValidationError):
        written(kind="feedback_alignment", config_kind="feedback_alignment")


def test_every_rule_is_a_kind_with_a_schema() -> None:
    known = kinds.of_room("toolkit.credit")
    assert len(known) >= 12 and known["feedback_alignment"] is C.FeedbackAlignment
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # pydantic warns where a default cannot be written
        shown = TypeAdapter(C.Rule).json_schema()
    assert set(shown["discriminator"]["mapping"]) == set(known)
    for rule in known.values():
        made = rule(3) if rule is C.ForwardForward else rule()
        assert Asked(rule=kinds.dump(made)).rule == made


def test_python_hands_over_what_a_config_cannot_write() -> None:
    rule = C.FeedbackAlignment("kolen_pollack", optax.sgd(0.1))
    assert Asked(rule=rule).rule is rule
    assert Asked(rule=lambda model, loss: None).rule(None, None) is None


def test_the_command_that_lists_kinds_shows_what_a_config_writes(capsys: Any) -> None:
    assert cli.main(["list", "learning_rules"]) == 0
    shown = capsys.readouterr().out
    assert "feedback: random, optimizer: null" in shown and "energy: hopfield" in shown
    assert "function" not in shown.partition("forward_forward")[0] and "embed" not in shown


def test_a_run_records_a_rule_as_a_config_writes_it() -> None:
    class Config(Settings):
        rules: dict[str, Asked]

    rules = {"signs": {"rule": {"kind": "feedback_alignment", "feedback": "sign"}}}
    config = Config.model_validate({"experiment": "own", "steps": 1, "rules": rules})
    recorded = load.resolve(config)
    assert recorded["rules"]["signs"]["rule"] == {**rules["signs"]["rule"], "optimizer": None}
    assert load.validate(Config, recorded, {}) == config


def test_a_default_that_holds_a_function_is_shown_as_a_config_writes_it() -> None:
    class Config(Settings):
        rule: C.EquilibriumPropagation = C.EquilibriumPropagation(tk.energy.lifted, free_steps=0)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = schema_of(Config)["properties"]["rule"]["default"]
    assert (shown["kind"], shown["energy"]) == ("equilibrium_propagation", "lifted")
    assert Config.model_validate({"experiment": "own", "steps": 1, "rule": shown}) == Config(
        experiment="own", steps=1
    )
