"""The recorded events of the phishing pipeline, held against River's data set and their contracts."""

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import orjson
import pytest
from open_data_contract_standard.model import OpenDataContractStandard
from river.datasets import Phishing

from journal.clock import MINUTE, parse_time

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "phishing"
CONTRACTS = sorted((FOLDER / "contracts").glob("*.odcs.yaml"))
PYTHON_TYPES = {"string": str, "integer": int, "number": float, "boolean": bool}


def loaded() -> ModuleType:
    spec = spec_from_file_location("phishing_recorded_under_test", FOLDER / "recorded.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recorded = loaded()


@pytest.fixture(scope="module")
def events() -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in recorded.events()]


def of(events: list[dict[str, Any]], stream: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == stream]


def test_visits_are_the_data_set_one_a_minute(events: list[dict[str, Any]]) -> None:
    visits = of(events, "visits")
    assert [visit["time"] for visit in visits[:2]] == ["2020-01-01T00:00:00Z", "2020-01-01T00:01:00Z"]
    times = [parse_time(visit["time"]) for visit in visits]
    assert times == [recorded.START + n * MINUTE for n in range(1250)]
    assert [visit["data"]["page"] for visit in visits[:2]] == ["page-0001", "page-0002"]
    traits = [{k: v for k, v in visit["data"].items() if k != "page"} for visit in visits]
    assert traits == [x for x, _ in Phishing()]


def test_nine_in_ten_are_reported_ninety_minutes_later(events: list[dict[str, Any]]) -> None:
    visited = {visit["data"]["page"]: visit for visit in of(events, "visits")}
    outcomes = {f"page-{number:04d}": y for number, (_, y) in enumerate(Phishing(), start=1)}
    reports = of(events, "reports")
    assert len(reports) == 1125
    for report in reports:
        page = report["data"]["page"]
        visit = visited.pop(page)
        assert parse_time(report["time"]) - parse_time(visit["time"]) == 90 * MINUTE
        expected = {"page": page, "phishing": outcomes[page], "ip_in_url": visit["data"]["ip_in_url"]}
        assert report["data"] == expected
    assert {int(page[-4:]) % 10 for page in visited} == {0}


def test_order_is_by_time_then_reports_before_visits(events: list[dict[str, Any]]) -> None:
    places = [(parse_time(event["time"]), recorded.STREAMS.index(event["type"]), event["id"]) for event in events]
    assert places == sorted(places)
    assert len({time for time, _, _ in places}) < len(places)
    assert recorded.STREAMS == ("reports", "visits")


def test_the_envelope_is_a_cloudevent(events: list[dict[str, Any]]) -> None:
    assert len({event["id"] for event in events}) == len(events)
    constants = {(event["specversion"], event["datacontenttype"], event["source"]) for event in events}
    assert constants == {("1.0", "application/json", "/web/pages")}
    assert events[0]["id"] == "visits/page-0001"


def test_twice_gives_the_same_bytes() -> None:
    assert list(recorded.events()) == list(recorded.events())


def test_contracts_hold_for_all_events(events: list[dict[str, Any]]) -> None:
    assert {path.name for path in CONTRACTS} == {f"{stream}.odcs.yaml" for stream in recorded.STREAMS}
    for path in CONTRACTS:
        contract = OpenDataContractStandard.from_file(str(path))
        (schema,) = contract.schema_
        rows = [event["data"] for event in of(events, contract.name)]
        assert {tuple(row) for row in rows} == {tuple(field.name for field in schema.properties)}
        for field in schema.properties:
            check(field, {row[field.name] for row in rows}, {type(row[field.name]) for row in rows})


def check(field: Any, values: set[Any], types: set[type]) -> None:
    """The type is the declared one, and the ranges are exactly as wide as the data."""
    assert types == {PYTHON_TYPES[field.logicalType]}, field.name
    options = field.logicalTypeOptions or {}
    if field.logicalType == "string":
        assert {len(value) for value in values} == {options["minLength"]} == {options["maxLength"]}
        assert all(re.search(options["pattern"], value) for value in values)
    elif field.logicalType != "boolean":
        assert (options["minimum"], options["maximum"]) == (min(values), max(values)), field.name
