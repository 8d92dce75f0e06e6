"""A contract, compiled: it reads an event's data and drafts its record, with what is personal sealed.

An event says which major version of the contract it follows by the end of its ``dataschema``, as in
``https://example.com/departures#1``; one that says nothing follows the current version. It is stored as it was sent.
"""

import re
from typing import Any

import msgspec

from journal.contract import Contract
from journal.decoder import QuickDecoder, explain
from journal.envelope import Envelope, quotes_of, require_unique_names
from journal.errors import Discarded, Malformed, Violation
from journal.leniency import Leniency
from journal.privacy import KeyTable, Subject, context_of
from journal.record import Cause, Draft, Kind, canonical_json, hand_on

_CORRECT = "Send it corrected; its id is free"

_MAJOR = re.compile(r"#(\d{1,9})\Z")

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text = msgspec.json.Decoder(str).decode


class Stream:
    """One stream's way in: by the current contract, and by the one before.

    Attributes:
        contract: The current one.
        notes: What was left out of the event that was read last, as names of tallies; empty for nearly every event.
    """

    def __init__(self, contract: Contract, keys: KeyTable) -> None:
        self.contract = contract
        self.notes: list[str] = []
        self._keys = keys
        self._decode = QuickDecoder(contract.stream, contract.fields).decode
        self._strings = sum(field.type == "string" for field in contract.fields)
        self._quotes_if_full = 2 * (len(contract.fields) + self._strings)
        self._personal = contract.personal
        self._pseudonymous = contract.pseudonymous
        self._prefix = contract.stream.encode() + b"\0"
        self._major = contract.major
        self._leniency = Leniency(contract) if contract.mode in {"evolve", "discard_value"} else None
        self._versions = {contract.major: self} | {old.major: Stream(old, keys) for old in contract.earlier[:1]}

    def read(self, envelope: Envelope, raw: bytes) -> dict[str, Any]:
        """The event's data: every field of the contract in the order of names, absent ones as None.

        Raises:
            Malformed: The event says something twice, or its data is not UTF-8.
            Discarded: The data breaks a contract of mode ``discard_row``.
            Violation: The data breaks the contract, or follows a version that is not read. The message never quotes a
                value.
        """
        if self.notes:
            self.notes.clear()
        data = envelope.data
        if envelope.dataschema is not None and (version := self._version_read(envelope, raw)) is not self:
            fields = version.read(envelope, raw)
            self.notes.extend(version.notes)
            return fields
        try:
            fields = self._decode(data)
        except msgspec.ValidationError as error:
            return self._read_leniently(envelope, raw, error)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise _not_json() from None
        # Where every value is true none is None, and `all` is faster than a comparison with each.
        quotes = self._quotes_if_full if all(fields.values()) else quotes_of(data, fields, self._strings)
        if raw.count(b'"') != (quotes := quotes + envelope.quotes()):
            require_unique_names(raw, quotes)
        return fields

    def _version_read(self, envelope: Envelope, raw: bytes) -> "Stream":
        """The same of an event as it came: what is not readable at all is told before its version is."""
        try:
            return self._version(envelope)
        except Violation:
            require_unique_names(raw, -1)
            raise

    def _version(self, envelope: Envelope) -> "Stream":
        """The way in of the version that the event follows."""
        match = _MAJOR.search(envelope.dataschema or "")
        version = self if match is None else self._versions.get(int(match[1]))
        if version is None:
            known = " and ".join(map(str, sorted(self._versions)))
            which = f"$.dataschema: It follows a version of the contract that is not read; there are {known}"
            raise Violation(which=which, fix="Send it by one of these; its id is free")
        return version

    def _read_leniently(self, envelope: Envelope, raw: bytes, error: msgspec.ValidationError) -> dict[str, Any]:
        """What the contract's mode makes of data that broke it by ``error``."""
        require_unique_names(raw, -1)
        if self._leniency is not None:
            try:
                pruned, notes = self._leniency.prune(envelope.data)
                fields = self._decode(pruned)
            except msgspec.ValidationError as still:
                error = still
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise _not_json() from None
            else:
                self.notes.extend(notes)
                return fields
        kind = Discarded if self.contract.mode == "discard_row" else Violation
        raise kind(which=explain(error, personal=bool(self._personal)), fix=_CORRECT) from None

    def person(self, envelope: Envelope) -> Subject | None:
        """Whom a violating event is about, as far as its data still says so."""
        if not self.contract.subject:
            return None
        try:
            return self._keys.subject_of(_text(_members(envelope.data)[self.contract.subject]))
        except (msgspec.DecodeError, KeyError, RecursionError):
            return None

    def draft(
        self, envelope: Envelope, time: int, fields: dict[str, Any], principal: str, cause: Cause | None
    ) -> Draft:
        """The record that the event becomes, once the journal gives it a place."""
        if envelope.dataschema is not None and (version := self._version(envelope)) is not self:
            return version.draft(envelope, time, fields, principal, cause)
        plain = stored = canonical_json(fields)
        subject = sealed = None
        if self._personal:
            subject = self._keys.subject_of(fields[self.contract.subject])
            stored, sealed = self._split(envelope, fields, subject)
        draft = Draft(
            kind=Kind.SOURCE,
            stream=envelope.type,
            id=envelope.id,
            body=stored,
            time=time,
            source=envelope.source,
            schema=self._major,
            subject=None if subject is None else subject.id,
            sealed=sealed,
            conflict=self._keys.mac(subject, self._prefix + b"%d\0" % time + plain),
            principal=principal,
            trace=envelope.trace,
            cause=cause,
        )
        return draft if self._personal else hand_on(draft, data=fields)

    def stored(self, fields: dict[str, Any]) -> dict[str, Any]:
        """What a record's body would hold of an event's data: pseudonyms, and nothing else that is personal."""
        if not self._personal:
            return fields
        return self._in_the_open(fields, self._keys.subject_of(fields[self.contract.subject]))

    def _in_the_open(self, fields: dict[str, Any], subject: Subject) -> dict[str, Any]:
        """The fields with pseudonyms instead of entity keys and without other personal ones."""
        return {
            name: value if name not in self._personal or value is None else self._keys.pseudonym(subject, value)
            for name, value in fields.items()
            if name not in self._personal or name in self._pseudonymous
        }

    def _split(self, envelope: Envelope, fields: dict[str, Any], subject: Subject) -> tuple[bytes, bytes]:
        """The body as it is stored; what is sealed."""
        personal = {name: fields[name] for name in sorted(self._personal)}
        context = context_of(envelope.type, envelope.source, envelope.id)
        return canonical_json(self._in_the_open(fields, subject)), self._keys.seal(subject, personal, context=context)


def _not_json() -> Malformed:
    return Malformed(which="Its data is not JSON in UTF-8", fix="Send CloudEvents 1.0 as JSON, in UTF-8")
