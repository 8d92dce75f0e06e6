"""The section `datasets` of pipeline.yaml: its defaults, its terms, and every mistake in it at once, with its line."""

from pathlib import Path

import pytest

from features.dataset_retention import DEFAULT, Terms
from journal.clock import DAY, HOUR
from journal.errors import Misconfigured
from rivermill.dataset_terms import terms_of
from rivermill.settings import configs_folder


def settings(folder: Path, *lines: str) -> dict[str, Terms]:
    (folder / "pipeline.yaml").write_text("\n".join(["pipeline: p", *lines]))
    return dict(terms_of(folder))


def test_what_is_not_said_is_as_by_default(tmp_path: Path) -> None:
    assert settings(tmp_path) == DEFAULT == settings(tmp_path, "datasets: {}")
    for name in ("flights", "phishing"):
        assert terms_of(configs_folder() / name) == DEFAULT


def test_a_kind_that_is_named_has_its_own_terms_alone(tmp_path: Path) -> None:
    found = settings(tmp_path, "datasets:", "  adhoc: {standard: 36h, keep: 2d}", "  gate: {keep: 10d}")
    assert found == {
        "training": DEFAULT["training"],
        "gate": Terms(keep=10 * DAY),
        "adhoc": Terms(standard=36 * HOUR, keep=2 * DAY),
    }


@pytest.mark.parametrize("said", ["{}", "{standard: forever}", "{standard: forever, keep: forever}"])
def test_for_ever_is_said_or_left_out(tmp_path: Path, said: str) -> None:
    assert settings(tmp_path, f"datasets: {{adhoc: {said}}}")["adhoc"] == Terms()


def test_equal_terms_are_no_mistake(tmp_path: Path) -> None:
    found = settings(tmp_path, "datasets: {gate: {standard: 24h, keep: 1d}}")
    assert found["gate"] == Terms(standard=DAY, keep=DAY)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    wrong = [
        "datasets:",
        "  training: {standard: 3d, keep: 2d}",
        "  gate: {standard: soon, kept: 3d}",
        "  adhoc: 7d",
        "  other: {}",
    ]
    with pytest.raises(Misconfigured) as raised:
        settings(tmp_path, *wrong)
    told = raised.value.which
    for line, what, why in (
        (3, "datasets.training.keep", "shorter than 'standard'"),
        (4, "datasets.gate.standard", "soon"),
        (4, "datasets.gate.kept", ""),
        (5, "datasets.adhoc", "mapping"),
        (6, "datasets.other", ""),
    ):
        assert any(f"pipeline.yaml:{line}: {what}" in mistake and why in mistake for mistake in told.splitlines()), told


def test_a_folder_without_a_pipeline_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"pipeline\.yaml"):
        terms_of(tmp_path)
