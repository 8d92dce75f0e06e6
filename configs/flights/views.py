"""What is known about a flight before it leaves: delays around it by airport, carrier, route, number and plane."""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.types import Float64, Int64

from features.aggregates import Declaration
from features.declare import count, decayed_mean, last, mean, rate, stream, window_view

OWNER = "flights@example.org"
LATE_MINUTES = 15

origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)
dest = Entity(name="dest", join_keys=["dest"], value_type=ValueType.STRING)
carrier = Entity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING)
flight = Entity(name="flight", join_keys=["flight"], value_type=ValueType.INT64)
tail = Entity(name="tail", join_keys=["tailnum"], value_type=ValueType.STRING)

BY_WINDOW = {"1h": "5m", "3h": "15m", "1d": "1h", "7d": "6h", "14d": "1d"}
"""Every window's tile: a twelfth to a twenty-eighth of it, and by at most that much the window is too short."""


def delays(stream_name: str, over: str, *, counted: bool = False, late: bool = True) -> dict[str, Declaration]:
    """Mean delay and part of late flights in one window, after their number where it is asked for."""
    tile = BY_WINDOW[over]
    prefix = {"departures": "dep", "arrivals": "arr"}[stream_name]
    features = {f"{prefix}_count_{over}": count(stream_name, over=over, tile=tile)} if counted else {}
    features[f"{prefix}_mean_{over}"] = mean(stream_name, "delay", over=over, tile=tile)
    if late:
        features[f"{prefix}_late_{over}"] = rate(stream_name, "delay", at_least=LATE_MINUTES, over=over, tile=tile)
    return features


origin_delays = window_view(
    "origin_delays",
    entities=[origin],
    ttl=timedelta(days=3),
    owner=OWNER,
    description="Delays of all flights that leave this airport",
    features=delays("departures", "1h", counted=True)
    | delays("departures", "3h")
    | delays("departures", "1d")
    | delays("arrivals", "3h", counted=True)
    | delays("arrivals", "1d"),
)
carrier_delays = window_view(
    "carrier_delays",
    entities=[carrier],
    ttl=timedelta(days=14),
    owner=OWNER,
    description="Delays of this carrier's flights",
    features=delays("departures", "3h", counted=True)
    | delays("departures", "1d")
    | delays("arrivals", "1d")
    | delays("arrivals", "7d"),
)
dest_delays = window_view(
    "dest_delays",
    entities=[dest],
    ttl=timedelta(days=14),
    owner=OWNER,
    description="Delays of all flights to this airport",
    features=delays("arrivals", "3h", counted=True) | delays("arrivals", "1d") | delays("arrivals", "7d"),
)
route_delays = window_view(
    "route_delays",
    entities=[origin, dest],
    ttl=timedelta(days=30),
    owner=OWNER,
    description="Delays of the flights between two airports",
    features=delays("arrivals", "1d", late=False)
    | delays("arrivals", "14d", counted=True)
    | {"arr_decayed_1d": decayed_mean("arrivals", "delay", half_life="1d", tile="1h")},
)
flight_delays = window_view(
    "flight_delays",
    entities=[carrier, flight],
    ttl=timedelta(days=30),
    owner=OWNER,
    description="Delays of this flight number on the days before",
    features=delays("arrivals", "14d", counted=True)
    | {
        "arr_last": last("arrivals", "delay"),
        "dep_decayed_3d": decayed_mean("departures", "delay", half_life="3d", tile="6h"),
    },
)
tail_delays = window_view(
    "tail_delays",
    entities=[tail],
    ttl=timedelta(days=30),
    owner=OWNER,
    description="Delays of this very plane: a late one is late again",
    features={"dep_last": last("departures", "delay"), "arr_last": last("arrivals", "delay")}
    | delays("arrivals", "1d", counted=True, late=False)
    | {"dep_decayed_12h": decayed_mean("departures", "delay", half_life="12h", tile="1h")},
)
carrier_origin_delays = window_view(
    "carrier_origin_delays",
    entities=[carrier, origin],
    ttl=timedelta(days=14),
    owner=OWNER,
    description="Delays of this carrier at this airport",
    features=delays("departures", "3h") | delays("departures", "1d") | delays("arrivals", "1d", late=False),
)
weather = FeatureView(
    name="weather",
    entities=[origin],
    ttl=timedelta(hours=3),
    schema=[Field(name=name, dtype=Float64) for name in ("temp", "humid", "wind_speed", "precip", "pressure", "visib")],
    source=stream("weather"),
    owner=OWNER,
    description="The last observation at this airport",
)
planes = FeatureView(
    name="planes",
    entities=[tail],
    schema=[Field(name=name, dtype=Int64) for name in ("year", "seats", "engines")],
    source=stream("planes"),
    tags={"ttl": "none"},
    owner=OWNER,
    description="The register of planes",
)

flight_delay = FeatureService(
    name="flight_delay",
    features=[
        origin_delays,
        carrier_delays,
        dest_delays,
        route_delays,
        flight_delays,
        tail_delays,
        carrier_origin_delays,
        weather,
        planes,
    ],
)
