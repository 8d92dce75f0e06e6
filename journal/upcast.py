"""Records of earlier versions, read as today's: lifted by the pipeline's adapters, never rewritten.

An adapter is a plain function from the data of one major version to that of the next. What it gives is held to the
contract of that version, so that no fold ever sees data that intake would have refused.
"""

import hashlib
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import msgspec
import orjson

from journal.contract import Contract
from journal.decoder import explain, struct_of
from journal.errors import NotLifted
from journal.field import Field
from journal.record import Kind, Record

Lift = Callable[[Record], Record]
"""What makes a record of any version readable as one of the current version."""

Adapter = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes data of one major version into data of the next."""

_HALF = re.compile("[\ud800-\udfff]")
_LIFTED = frozenset({Kind.SOURCE, Kind.QUESTION})


def as_stored(record: Record) -> Record:
    """The lift of a pipeline all of whose records are of the current version."""
    return record


def adapter_name(stream: str, older: int, newer: int) -> str:
    """The function's name: ``shop.orders`` from 1 to 2 is lifted by ``shop_orders_1_to_2``."""
    return f"{stream.replace('.', '_').replace('-', '_')}_{older}_to_{newer}"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One adapter with what it must give."""

    name: str
    adapter: Adapter
    struct: type[msgspec.Struct]


def _is_plain(value: object) -> bool:
    """Whether JSON says it: intake's decoder meets neither a NaN nor half a character."""
    match value:
        case float():
            return isfinite(value)
        case str():
            return not _HALF.search(value)
        case _:
            return True


class Adapters:
    """Lifts records to the current contracts."""

    def __init__(
        self,
        contracts: Mapping[str, Contract],
        functions: Mapping[str, Adapter],
        *,
        file: str = "",
        source: bytes = b"",
    ) -> None:
        """Put the chains together.

        Args:
            contracts: The current ones by stream, with their earlier versions.
            functions: By `adapter_name`; there is one for each step from an earlier version to the next.
            file: The file that they were read from, for messages.
            source: What that file holds, for the digest.
        """
        self._majors = {stream: contract.major for stream, contract in contracts.items()}
        self._file = file
        self._chains: dict[tuple[str, int], tuple[Step, ...]] = {}
        for contract in contracts.values():
            self._add_chains(contract, functions)
        self.digest = _digest(contracts, source) if self._chains else ""
        """SHA-256 (hex) of all that decides what is lifted to what; empty when nothing is. Part of a fold's version."""

    def _add_chains(self, contract: Contract, functions: Mapping[str, Adapter]) -> None:
        chain: tuple[Step, ...] = ()
        newer = contract
        for older in contract.earlier:
            name = adapter_name(contract.stream, older.major, newer.major)
            step = Step(name=name, adapter=functions[name], struct=_struct_of_bodies(newer))
            chain = (step, *chain)
            self._chains[contract.stream, older.major] = chain
            newer = older

    @property
    def is_identity(self) -> bool:
        """Whether no record of an earlier version can be read; then `as_stored` does as well, at no cost."""
        return not self._chains

    def lift(self, record: Record) -> Record:
        """The record with today's ``data`` and ``schema``; its ``body`` stays what was stored.

        Raises:
            NotLifted: An adapter failed, gave what the contract refuses, or there is none for the record's version.
        """
        if record.schema == self._majors.get(record.stream, record.schema) or record.kind not in _LIFTED:
            return record
        data = dict(record.data)
        chain = self._chains.get((record.stream, record.schema))
        if chain is None:
            raise self._failed(record, "no adapter begins", f"no contract of version {record.schema} is declared")
        for step in chain:
            data = self._step(step, data, record)
        lifted = msgspec.structs.replace(record, schema=self._majors[record.stream])
        lifted.__dict__["data"] = data
        return lifted

    def _step(self, step: Step, data: dict[str, Any], record: Record) -> dict[str, Any]:
        try:
            given = step.adapter(data)
        except (Exception, SystemExit) as error:  # a pipeline's own code may raise anything
            inside = traceback.extract_tb(error.__traceback__)[1:2]
            place = f" at line {inside[0].lineno}" if inside else ""
            raise self._failed(record, step.name, f"{type(error).__name__}{place}") from None
        try:
            held = msgspec.convert(given, step.struct, strict=True)
        except msgspec.ValidationError as error:
            raise self._failed(record, step.name, f"it gave {explain(error, personal=True)}") from None
        fields = msgspec.structs.asdict(held)
        odd = [name for name, value in fields.items() if not _is_plain(value)]
        if odd:
            raise self._failed(record, step.name, f"it gave what JSON cannot say in {', '.join(odd)}")
        return fields

    def _failed(self, record: Record, step: str, what: str) -> NotLifted:
        return NotLifted(
            which=f"stream {record.stream!r}, version {record.schema}, record at {record.partition}:{record.offset}: "
            f"{step} in {self._file or 'adapters.py'}: {what}",
            fix="Mend the adapter, then start again; what is stored was not changed",
        )


def _struct_of_bodies(contract: Contract) -> type[msgspec.Struct]:
    """What a record's body holds under a contract: no sealed fields, and pseudonyms instead of entity keys."""
    sealed = contract.personal - contract.pseudonymous
    fields = [
        Field(name=field.name, type="string", required=field.required) if field.personal else field
        for field in contract.fields
        if field.name not in sealed
    ]
    return struct_of(contract.stream, fields)


def _digest(contracts: Mapping[str, Contract], source: bytes) -> str:
    lifted = {
        stream: (contract.major, [_facts(field) for field in contract.fields], [old.major for old in contract.earlier])
        for stream, contract in contracts.items()
        if contract.earlier
    }
    rules = orjson.dumps(lifted, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(hashlib.sha256(source).digest() + rules).hexdigest()


def _facts(field: Field) -> tuple[Any, ...]:
    limits = dict(field.limits)
    return field.name, field.type, field.required, limits, field.choices, field.personal, field.entity_key
