"""The section `drift`: its defaults, its limits, and every mistake in it at once, with its line."""

from pathlib import Path

import pytest

from features.drift import Limits
from journal.clock import DAY, HOUR
from journal.errors import Misconfigured
from rivermill.drift_settings import DriftSettings, drift_settings
from rivermill.genesis import definition_of
from rivermill.pipeline import load_pipeline
from rivermill.settings import configs_folder


def settings(folder: Path, *lines: str) -> DriftSettings:
    (folder / "pipeline.yaml").write_text("\n".join(["pipeline: p", *lines]))
    return drift_settings(folder)


def test_what_is_not_said_is_as_by_default(tmp_path: Path) -> None:
    assert settings(tmp_path) == DriftSettings() == settings(tmp_path, "drift: {}")
    assert DriftSettings().limits == Limits(psi=0.2, ks=0.15, missing=0.1, minimum=500)
    assert not DriftSettings().retrain


def test_everything_can_be_said(tmp_path: Path) -> None:
    said = (
        "drift: {psi: 0.3, ks: 0.2, missing: 0.05, window: 12h, minimum: 9, features: [a, b], least: 2, retrain: true,"
    )
    found = settings(tmp_path, f"{said} every: 6h, rest: 2d}}", "retrain: {}")
    assert found == DriftSettings(
        limits=Limits(psi=0.3, ks=0.2, missing=0.05, minimum=9, features=("a", "b"), least=2),
        window=12 * HOUR,
        retrain=True,
        every=6 * HOUR,
        rest=2 * DAY,
    )


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    wrong = ["drift:", "  psi: 0", "  ks: much", "  minimum: 0", "  window: 0d", "  retrain: true", "  sometimes: 1"]
    with pytest.raises(Misconfigured) as raised:
        settings(tmp_path, *wrong)
    told = raised.value.which
    for line, what in ((3, "psi"), (4, "ks"), (5, "minimum"), (6, "window"), (7, "retrain"), (8, "sometimes")):
        assert f"pipeline.yaml:{line}: drift.{what}" in told


def test_more_features_cannot_drift_than_are_looked_at(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"drift\.least is 2, more than the 1 features"):
        settings(tmp_path, "drift: {features: [a], least: 2}")


@pytest.mark.parametrize("name", ["flights", "phishing"])
def test_what_the_shipped_pipelines_look_at_is_what_their_predictions_hold(name: str) -> None:
    """And none of them retrains because of drift: the demo's figures come from its schedule."""
    folder = configs_folder() / name
    found = drift_settings(folder)
    assert found.limits.features
    assert set(found.limits.features) <= set(definition_of(load_pipeline(folder)).columns)
    assert not found.retrain
