"""Read-only looks at a pipeline's journal. Needs no ownership of it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from journal.backup import KEYS
from journal.clock import format_time
from journal.errors import UnknownName
from journal.log import START
from journal.privacy import KeyTable
from journal.record import Kind, Record
from journal.sealed import Sealed, check_sealed
from journal.sqlite_reader import SqliteReader
from journal.upcast import Lift, as_stored
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


def lift_of(folder: Path) -> Lift:
    """What reads records as the contracts in a pipeline's folder do; raises `Misconfigured`."""
    # Not at the top: contracts and adapters cost more than most looks.
    from rivermill.adapter_file import load_adapters  # noqa: PLC0415
    from rivermill.pipeline import load_intake  # noqa: PLC0415

    return load_adapters(folder, load_intake(folder).contracts).lift


def tail(home: Home, count: int, start: int | None, kind: str | None, lift: Lift = as_stored) -> Iterator[Facts]:
    """Records as plain facts: the last ``count``, or the first ``count`` from an offset on.

    Args:
        home: Whose.
        count: How many.
        start: The first offset; None for the last records.
        kind: Only of this kind.
        lift: What each goes through; see `lift_of`.
    """
    with reading(home) as journal:
        yield from (_facts(lift(record)) for record in _chosen(journal, count, start, kind))


def sealed_in(home: Home, begins: int) -> Sealed | None:
    """Whether what is sealed in a journal from its first offset on still opens; None without the key table."""
    path = home.keys / KEYS
    if not path.exists():
        return None
    with reading(home) as journal, closing(KeyTable(path)) as keys:
        return check_sealed(journal, keys, after=begins - 1)


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
