"""Read-only looks at a pipeline and its home: views, rows, datasets, records. Needs no ownership of the journal."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from features import dataset
from features.rows import KeyValue, encode_key
from features.views import ViewPlan
from journal.clock import format_span, format_time
from journal.erasure import erased_within
from journal.errors import CallerError, UnknownName
from journal.log import START
from journal.record import Kind, Record
from journal.sqlite_reader import SqliteReader
from rivermill.settings import Home

Facts = dict[str, Any]


class WrongKey(CallerError):
    """This is not a key of the view."""


@contextmanager
def reading(home: Home) -> Iterator[SqliteReader]:
    """A pipeline's journal, read-only; raises UnknownName when it has none."""
    if not home.exists:
        raise UnknownName(
            which=f"no state of {home.pipeline!r} in {home.root}", fix="Run it first, or name another --home"
        )
    reader = SqliteReader(home.journal)
    try:
        yield reader
    finally:
        reader.close()


def list_views(folder: Path) -> list[Facts]:
    """One row per view."""
    from rivermill.pipeline import load_pipeline  # noqa: PLC0415 - pays for Feast

    return [_summary(view) for view in load_pipeline(folder).views]


def show_view(folder: Path, name: str) -> Facts:
    """A view's definition."""
    view = _view(folder, name)
    return {**_summary(view), "fields": dict(view.fields), "digest": view.digest}


def get_row(folder: Path, home: Home, name: str, keys: tuple[str, ...]) -> Facts:
    """The newest row of one entity, as it stands in the online store at the last commit.

    Raises:
        UnknownName: No such view, or no row for this entity.
        WrongKey: The keys are not the view's, or a value does not fit its type.
    """
    from features.online_table import OnlineReader  # noqa: PLC0415 - not needed by the journal's commands

    view = _view(folder, name)
    key = _key(view, keys)
    with reading(home) as journal:
        now = journal.clock
    online = OnlineReader(home.fold("features"))
    (row,) = online.get_many([(name, encode_key(key))])
    online.close()
    if row is None or row.values is None:
        raise UnknownName(
            which=f"view {name!r} has no row for {', '.join(keys)}", fix="Nothing was known about it so far"
        )
    return {
        **dict(zip(view.join_keys, key, strict=True)),
        "event_time": format_time(row.event),
        "known_at": format_time(row.known),
        "stale": view.ttl is not None and now - row.event > view.ttl,
        **dict(zip((field for field, _ in view.fields), row.values, strict=True)),
    }


def build_dataset(home: Home) -> Facts:
    """Build the version of the whole journal."""
    from rivermill.build import build_fingerprint  # noqa: PLC0415

    with reading(home) as journal:
        made = dataset.build(journal, home.datasets, home.pipeline, journal.end(), build_fingerprint())
    return msgspec.to_builtins(made)  # type: ignore[no-any-return]


def list_datasets(home: Home) -> list[Facts]:
    """One row per version."""
    return [
        {
            "version": made.version,
            "rows": made.rows_out,
            "positives": made.positives,
            "through": made.through,
            "service": made.service,
        }
        for made in dataset.versions(home.datasets)
    ]


def show_dataset(home: Home, version: str) -> Facts:
    """A version's manifest."""
    return msgspec.to_builtins(dataset.load(home.datasets, version))  # type: ignore[no-any-return]


def verify_dataset(home: Home, version: str) -> Facts:
    """Rebuild a version and compare hashes; raises Corrupt when one differs."""
    from rivermill.wiring import control_of  # noqa: PLC0415 - pays for Feast

    with reading(home) as journal:
        made = dataset.verify(journal, home.datasets, version)
    return {
        "version": version,
        "rows": made.rows_out,
        "hash": made.hash,
        "erased": len(erased_within(control_of(home).entries(home.pipeline), made.through)),
        "verdict": "rebuilt and stored rows both match",
    }


def tail(home: Home, count: int, start: int | None, kind: str | None) -> Iterator[Facts]:
    """Records as plain facts: the last ``count``, or the first ``count`` from an offset on."""
    with reading(home) as journal:
        yield from (_facts(record) for record in _chosen(journal, count, start, kind))


def _chosen(journal: SqliteReader, count: int, start: int | None, kind: str | None) -> list[Record]:
    if kind is None:
        first = journal.end() - count if start is None else start - 1
        return journal.read(0, max(first, START), count)
    wanted = _kind(kind)
    if start is not None:
        return journal.of_kind(wanted, start - 1, count)
    return journal.last_of_kind(wanted, count)


def _facts(record: Record) -> Facts:
    return {
        "offset": record.offset,
        "kind": record.kind.value,
        "stream": record.stream,
        "id": record.id,
        "time": format_time(record.time) if record.time is not None else None,
        "at": format_time(record.at),
        "body": record.data,
    }


def _summary(view: ViewPlan) -> Facts:
    return {
        "view": view.label,
        "keys": list(view.join_keys),
        "kind": view.kind,
        "streams": list(view.streams),
        "ttl": "none" if view.ttl is None else format_span(view.ttl),
        "stale": view.stale,
        "features": len(view.fields),
    }


def _view(folder: Path, name: str) -> ViewPlan:
    from rivermill.pipeline import load_pipeline  # noqa: PLC0415 - pays for Feast

    views = {view.name: view for view in load_pipeline(folder).views}
    if name not in views:
        raise UnknownName(which=f"view {name!r}; there are: {', '.join(views)}", fix="Name one of them")
    return views[name]


def _key(view: ViewPlan, given: tuple[str, ...]) -> list[KeyValue]:
    pairs = dict(text.partition("=")[::2] for text in given)
    types = dict(view.schema.join_keys)
    if set(pairs) != set(types):
        raise WrongKey(
            which=f"{', '.join(given) or 'no key'}",
            fix=f"View {view.name!r} takes {', '.join(f'{k}=...' for k in types)}",
        )
    try:
        return [_typed(pairs[name], types[name]) for name in view.join_keys]
    except ValueError as error:
        raise WrongKey(
            which=str(error), fix=f"The types are {', '.join(f'{k}: {t}' for k, t in types.items())}"
        ) from error


def _typed(text: str, kind: str) -> KeyValue:
    match kind:
        case "int64":
            return _within_64_bits(int(text))
        case "float64":
            return float(text)
        case "bool":
            return text.lower() == "true"
        case _:
            return text


def _within_64_bits(number: int) -> int:
    if not -(2**63) <= number < 2**63:
        message = f"{number} is no 64-bit integer"
        raise ValueError(message)
    return number


def _kind(name: str) -> Kind:
    try:
        return Kind(name)
    except ValueError as error:
        raise UnknownName(
            which=f"record kind {name!r}; there are: {', '.join(Kind)}", fix="Name one of them"
        ) from error
