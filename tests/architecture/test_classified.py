"""Nobody forgets to say whether a field is personal: the shipped contracts classify every one."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from journal.contract import load_contracts
from journal.odcs import CLASSIFICATIONS, PERSONAL
from rivermill.settings import configs_folder

CONTRACTS = sorted(configs_folder().glob("*/contracts/*.odcs.yaml"))


def unclassified(document: dict[str, Any]) -> list[str]:
    """The fields of a contract that do not say whether they are personal."""
    (schema,) = document["schema"]
    return [field["name"] for field in schema["properties"] if field.get("classification") not in CLASSIFICATIONS]


@pytest.mark.parametrize("path", CONTRACTS, ids=lambda path: path.name)
def test_every_field_of_a_shipped_contract_is_classified(path: Path) -> None:
    assert unclassified(yaml.safe_load(path.read_text())) == []


def test_a_field_that_says_nothing_or_another_word_is_found() -> None:
    fields = [{"name": "a"}, {"name": "b", "classification": "Personal"}, {"name": "c", "classification": "public"}]
    assert unclassified({"schema": [{"properties": fields}]}) == ["a", "b"]


def test_what_is_classified_personal_is_what_is_sealed() -> None:
    assert len(CONTRACTS) > 1
    for folder in {path.parent for path in CONTRACTS}:
        for stream, contract in load_contracts(folder).items():
            (schema,) = yaml.safe_load((folder / f"{stream}.odcs.yaml").read_text())["schema"]
            said = {field["name"] for field in schema["properties"] if field["classification"] == PERSONAL}
            assert contract.personal == said
