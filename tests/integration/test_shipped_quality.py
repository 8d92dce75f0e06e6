"""The quality rules of the shipped contracts: silent on the recordings, and loud, by name, when something is wrong."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from journal.body import Alert, Quarantined, decode, encode
from journal.clock import DAY, HOUR, parse_time
from journal.errors import Stopped
from journal.quality import QualityFold, alerts_in, stopped_streams
from journal.record import Kind, Record, canonical_json
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.quarantine_desk import resume
from rivermill.settings import Home, configs_folder
from rivermill.wiring import open_run

pytestmark = pytest.mark.slow

FIRST = parse_time("2013-01-01T00:00:00Z")
SPOILED = (FIRST + DAY, FIRST + 2 * DAY)
"""The second day."""


class Event(NamedTuple):
    """A recorded event, decoded."""

    stream: str
    id: str
    time: int
    data: dict[str, Any]


def recorded(name: str, weeks: int) -> list[Event]:
    recording = load_pipeline(configs_folder() / name).recorded
    assert recording is not None
    lines = map(msgspec.json.decode, recording(weeks))
    return [Event(line["type"], line["id"], parse_time(line["time"]), line["data"]) for line in lines]


@pytest.fixture(scope="module")
def flights() -> list[Event]:
    """Seven weeks: the blizzard of February lies in them, the worst days of the year."""
    return recorded("flights", 7)


def measured(pipeline: Pipeline, records: Sequence[Record]) -> tuple[list[Alert], dict[str, int]]:
    """What the pipeline's quality fold says of records."""
    fold = QualityFold(pipeline.quality)
    alerts = [decode(draft.body, Alert) for record in records for draft in fold.apply(record)]
    return alerts, fold.counts()


def as_records(
    events: Sequence[Event], spoil: Callable[[Event], Event | Quarantined] = lambda event: event
) -> Iterator[Record]:
    """Events as intake would write them; ``spoil`` has its way with those of the spoiled day."""
    at = 0
    for offset, event in enumerate(events):
        at = max(at + 1, event.time)
        said = spoil(event) if SPOILED[0] <= at < SPOILED[1] else event
        place: dict[str, Any] = {"stream": event.stream, "id": event.id, "partition": 0, "offset": offset, "at": at}
        if isinstance(said, Quarantined):
            yield Record(kind=Kind.QUARANTINE, body=encode(said), **place)
        else:
            yield Record(kind=Kind.SOURCE, body=canonical_json(said.data), time=said.time, **place)


def with_data(stream: str, **data: Any) -> Callable[[Event], Event]:
    """Every event of a stream says this."""
    return lambda event: event._replace(data={**event.data, **data}) if event.stream == stream else event


def later(stream: str) -> Callable[[Event], Event]:
    """Every event of a stream happened four hours before it became known."""
    return lambda event: event._replace(time=event.time - 4 * HOUR) if event.stream == stream else event


def out_of_range(stream: str, field: str) -> Callable[[Event], Event | Quarantined]:
    """Every event of a stream breaks this field's range."""
    held = Quarantined(reason=f"$.data.{field}: Expected `int` <= 1440", event="{}")
    return lambda event: held if event.stream == stream else event


def test_the_worst_weeks_of_the_recorded_flights_raise_no_alert(flights: list[Event]) -> None:
    pipeline = load_pipeline(configs_folder() / "flights")
    alerts, counts = measured(pipeline, list(as_records(flights)))
    assert alerts == []
    assert counts["windows"] > 40 * (len(pipeline.quality) - 2), "those of the planes have one window"


def test_the_recorded_pages_raise_no_alert() -> None:
    pipeline = load_pipeline(configs_folder() / "phishing")
    alerts, counts = measured(pipeline, list(as_records(recorded("phishing", 1))))
    assert alerts == []
    assert counts["windows"] > 15 * len(pipeline.quality)


@pytest.mark.parametrize(
    ("rule", "spoil"),
    [
        ("schedule_trip_twice", with_data("schedule", trip="2013-01-02/UA/1/EWR")),
        ("schedule_tailnum_missing", with_data("schedule", tailnum=None)),
        ("schedule_plane_unknown", with_data("schedule", tailnum="N0000X")),
        ("schedule_distance_invalid", out_of_range("schedule", "distance")),
        ("schedule_late", later("schedule")),
        ("departures_trip_twice", with_data("departures", trip="2013-01-02/UA/1/EWR")),
        ("departures_carrier_unknown", with_data("departures", carrier="ZZ")),
        ("departures_origin_unknown", with_data("departures", origin="LHR")),
        ("departures_delay_invalid", out_of_range("departures", "delay")),
        ("departures_late", later("departures")),
        ("arrivals_trip_twice", with_data("arrivals", trip="2013-01-02/UA/1/EWR")),
        ("arrivals_carrier_unknown", with_data("arrivals", carrier="ZZ")),
        ("arrivals_delay_invalid", out_of_range("arrivals", "delay")),
        ("arrivals_late", later("arrivals")),
        ("weather_temp_missing", with_data("weather", temp=None)),
        ("weather_temp_invalid", out_of_range("weather", "temp")),
        ("weather_wind_speed_missing", with_data("weather", wind_speed=None)),
        ("weather_wind_dir_missing", with_data("weather", wind_dir=None)),
        ("weather_pressure_missing", with_data("weather", pressure=None)),
        ("weather_late", later("weather")),
    ],
)
def test_a_bad_day_raises_the_alert_of_its_rule_and_no_other(
    flights: list[Event], rule: str, spoil: Callable[[Event], Event | Quarantined]
) -> None:
    pipeline = load_pipeline(configs_folder() / "flights")
    days = [event for event in flights if event.time < FIRST + 4 * DAY]
    alerts, _ = measured(pipeline, list(as_records(days, spoil)))
    assert {alert.name for alert in alerts} == {rule}
    assert alerts[0].is_breach
    assert SPOILED[0] <= alerts[0].begins < SPOILED[1]
    assert not alerts[-1].is_breach, "the day after lifts it"


def in_seconds(raw: bytes) -> bytes:
    """An arrival whose delay is in seconds, though its contract says minutes."""
    return re.sub(rb'"delay":(-?\d+)', lambda found: b'"delay":%d' % (int(found[1]) * 60), raw)


def test_outcomes_in_another_unit_hold_their_stream_until_somebody_has_looked(tmp_path: Path) -> None:
    pipeline, home = load_pipeline(configs_folder() / "flights"), Home(tmp_path, "flights")
    assert pipeline.recorded is not None
    events = list(islice(pipeline.recorded(1), 6_000))
    bad = re.compile(rb'"type":"arrivals","time":"2013-01-01T(1[89]|2[0-3])')
    spoiled = [in_seconds(raw) if bad.search(raw) else raw for raw in events]
    assert sum(one != other for one, other in zip(events, spoiled, strict=True)) > 100
    run = open_run(pipeline, home)
    try:
        with pytest.raises(Stopped, match="arrivals_delay_invalid"):
            run.lockstep.play(spoiled, "test")
        assert [(alert.name, alert.stop) for _, alert in alerts_in(run.journal)] == [("arrivals_delay_invalid", True)]
        assert stopped_streams(run.journal).keys() == {"arrivals"}
        before = run.journal.end()
        with pytest.raises(Stopped, match="rivermill quality resume arrivals_delay_invalid"):
            run.lockstep.play(spoiled, "test")
        assert run.journal.end() == before
    finally:
        run.close()
    resume(home, "arrivals_delay_invalid", why="the airport sends minutes again", principal="anna", key="k")
    run = open_run(pipeline, home)
    try:
        assert run.lockstep.play(spoiled, "test") == len(events)
        assert stopped_streams(run.journal) == {}
    finally:
        run.close()
