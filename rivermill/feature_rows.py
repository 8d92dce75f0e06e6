"""Rows of one entity: the newest, as the next answer would read it, and those before."""

from contextlib import closing
from pathlib import Path
from typing import Any

from features.catalog_state import require_computed, rows_of
from features.outbox import DELETED, EVENT, KNOWN
from features.rows import KeyValue, Row, encode_key
from features.views import ViewPlan
from journal.checkpoint import FoldFile
from journal.clock import format_time, micros_of
from journal.errors import CallerError, UnknownName
from rivermill.feature_catalog import Catalog
from rivermill.inspection import reading
from rivermill.settings import Home
from rivermill.view_files import live_files
from rivermill.wiring import control_of

Facts = dict[str, Any]


class WrongKey(CallerError):
    """This is not a key of the view."""


def newest_row(folder: Path, home: Home, name: str, keys: tuple[str, ...]) -> Facts:
    """The newest row of one entity, as it stands in the online store at the last commit.

    Raises:
        UnknownName: No such view, or no row for this entity.
        WrongKey: The keys are not the view's, or a value does not fit its type.
    """
    from features.online_table import OnlineReader  # noqa: PLC0415 - not needed by the other verbs
    from rivermill.pipeline import load_pipeline  # noqa: PLC0415 - imports Feast
    from rivermill.view_files import echoed_sets, online_file  # noqa: PLC0415 - as above

    view = Catalog(folder, home).view(name)
    key = parse_key(view, keys)
    with reading(home) as journal:
        now = journal.clock
        sets = echoed_sets(home, journal, journal.incarnation, load_pipeline(folder).views)
    path = online_file(home, sets, view.name)
    with closing(FoldFile(path, readonly=True)) as file:
        require_computed(file, view)
    online = OnlineReader(path)
    (row,) = online.get_many([(view.name, encode_key(key))])
    online.close()
    if row is None or row.values is None:
        raise UnknownName(
            which=f"view {name!r} has no row for {', '.join(keys)}", fix="Nothing was known about it so far"
        )
    return _facts(view, key, row, now)


def _facts(view: ViewPlan, key: list[KeyValue], row: Row, now: int) -> Facts:
    return {
        **dict(zip(view.join_keys, key, strict=True)),
        "event_time": format_time(row.event),
        "known_at": format_time(row.known),
        "stale": view.ttl is not None and now - row.event > view.ttl,
        **dict(zip((field for field, _ in view.fields), row.values or (), strict=True)),
    }


def earlier_rows(folder: Path, home: Home, name: str, keys: tuple[str, ...], limit: int) -> list[Facts]:
    """The newest rows of one entity, oldest first: what every answer since then could read.

    Raises:
        UnknownName: No such view, or no row for this entity.
        WrongKey: The keys are not the view's, or a value does not fit its type.
    """
    view = Catalog(folder, home).view(name)
    key = parse_key(view, keys)
    with reading(home) as journal:
        history = home.history(journal.incarnation)
    rows = rows_of(view, live_files(home, control_of(home)), history, key, limit).to_pylist()
    if not rows:
        raise UnknownName(
            which=f"view {name!r} has no row for {', '.join(keys)}", fix="Nothing was known about it so far"
        )
    return [
        {
            "event_time": format_time(micros_of(row[EVENT])),
            "known_at": format_time(micros_of(row[KNOWN])),
            "deleted": row[DELETED],
            **{field: row[field] for field, _ in view.fields},
        }
        for row in rows
    ]


def parse_key(view: ViewPlan, given: tuple[str, ...]) -> list[KeyValue]:
    """The join-key values in ``NAME=VALUE`` words, in the order of a row's key; raises WrongKey."""
    types = dict(view.schema.join_keys)
    wanted = ", ".join(f"{name}=..." for name in types)
    pairs = dict(text.partition("=")[::2] for text in given)
    if set(pairs) != set(types) or len(given) != len(types) or not all("=" in text for text in given):
        raise WrongKey(which=f"{', '.join(given) or 'no key'}", fix=f"View {view.name!r} takes {wanted}")
    try:
        return [_typed(pairs[name], types[name]) for name in view.join_keys]
    except ValueError as error:
        raise WrongKey(
            which=str(error), fix=f"The types are {', '.join(f'{name}: {kind}' for name, kind in types.items())}"
        ) from error


def _typed(text: str, kind: str) -> KeyValue:
    match kind:
        case "int64":
            return _within_64_bits(int(text))
        case "float64":
            return float(text)
        case "bool":
            return _truth(text)
        case _:
            return text


def _truth(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        message = f"{text!r} is neither true nor false"
        raise ValueError(message)
    return text.lower() == "true"


def _within_64_bits(number: int) -> int:
    if not -(2**63) <= number < 2**63:
        message = f"{number} is no 64-bit integer"
        raise ValueError(message)
    return number
