"""Columns to compare: the features of recent traffic, and those of a dataset version."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pyarrow as pa

from features import dataset
from features.dataset_range import first_known
from journal import reading
from journal.body import Definition, decode
from journal.log import START
from journal.record import Kind, Record

_ARROW = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_()}
_NO_FEATURES = frozenset({"prediction", "at", "key", "outcome", "reconstructed"})
_PAGE = 2_000
_TYPES = {"int64": "int64", "double": "float64", "string": "string", "bool": "bool"}


class Readable(reading.Readable, Protocol):
    """A journal to read."""

    def end(self, partition: int = 0) -> int:
        """The last offset."""
        ...


class TrafficColumns:
    """The features of every prediction with ``since`` <= at < ``until`` (microseconds)."""

    def __init__(self, journal: Readable, since: int, until: int) -> None:
        """Read them.

        The columns are those of the service that was defined last before ``until``; a prediction of another service is
        taken where it holds all of them.
        """
        end = journal.end() + 1
        first, behind = first_known(journal, since, end), first_known(journal, until, end)
        definitions = {each.service: each for each in _definitions(journal, behind)}
        wanted = (
            list(definitions.values())[-1] if definitions else Definition(service="", request=[], views=[], columns=[])
        )
        self.types = dict(zip(wanted.columns, wanted.types, strict=True))
        places = {service: _places(each, self.types) for service, each in definitions.items()}
        self.rows = 0
        self._parts: dict[str, list[pa.Array]] = {name: [] for name in self.types}
        for page in _pages(journal, first, behind):
            bodies = [_decode_features(record.body) for record in page]
            self._add([_chosen(body.values, held) for body in bodies if (held := places[body.service]) is not None])

    def _add(self, rows: Sequence[Sequence[Any]]) -> None:
        self.rows += len(rows)
        if rows:
            for (name, kind), column in zip(self.types.items(), zip(*rows, strict=True), strict=True):
                self._parts[name].append(pa.array(column, _ARROW[kind]))

    def read(self, name: str) -> pa.ChunkedArray:
        """See `features.drift.Columns.read`."""
        return pa.chunked_array(self._parts[name], _ARROW[self.types[name]])


class DatasetColumns:
    """The features of a dataset version, read column by column."""

    def __init__(self, root: Path, version: str) -> None:
        """Look at its manifest; raises UnknownName, or Refused where its rows were let go of."""
        manifest = dataset.load(root, version)
        self._root, self._version, self.rows = root, version, manifest.rows_out
        self.types = {name: _TYPES[kind] for name, kind in manifest.schema if name not in _NO_FEATURES}

    def read(self, name: str) -> pa.ChunkedArray:
        """See `features.drift.Columns.read`."""
        return dataset.read(self._root, self._version, [name])[name]


class _Features(msgspec.Struct, frozen=True):
    """Of a prediction's body what is looked at."""

    service: str
    values: list[Any]


_decode_features = msgspec.json.Decoder(_Features).decode


def _pages(journal: Readable, first: int, behind: int) -> Iterator[Sequence[Record]]:
    """The predictions of a range of offsets, so many at a time."""
    after = first - 1
    while page := journal.of_kind(Kind.PREDICTION, after, _PAGE):
        yield [record for record in page if record.offset < behind]
        after = page[-1].offset
        if after >= behind:
            return


def _chosen(values: Sequence[Any], places: Sequence[int]) -> list[Any]:
    return [values[place] for place in places]


def _definitions(journal: Readable, behind: int) -> Sequence[Definition]:
    records = journal.of_kind(Kind.DEFINITION, START, 1_000)
    return [decode(record.body, Definition) for record in records if record.offset < behind]


def _places(definition: Definition, wanted: Mapping[str, str]) -> list[int] | None:
    held = {name: place for place, name in enumerate(definition.columns)}
    return [held[name] for name in wanted] if wanted.keys() <= held.keys() else None
