"""Read-only looks at a pipeline's journal. Needs no ownership of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from journal.clock import format_time
from journal.errors import UnknownName
from journal.log import START
from journal.record import Kind, Record
from journal.sqlite_reader import SqliteReader
from rivermill.settings import Home

Facts = dict[str, Any]


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


def _kind(name: str) -> Kind:
    try:
        return Kind(name)
    except ValueError as error:
        raise UnknownName(
            which=f"record kind {name!r}; there are: {', '.join(Kind)}", fix="Name one of them"
        ) from error
