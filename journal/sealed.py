"""Whether what was sealed about people still says what it said: equal, different, or erased.

A record's conflict hash is a keyed hash of all its fields in the clear, so that what is opened can be held against it.
A quarantined event opens as it came or not at all.
"""

from base64 import b64decode
from typing import Literal

import msgspec

from journal.body import Quarantined, decode
from journal.errors import Corrupt, UnknownName
from journal.log import START
from journal.privacy import Erased, KeyTable, Subject, context_of
from journal.reading import Pages, each
from journal.record import Kind, Record, canonical_json

Verdict = Literal["equal", "different", "erased"]


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the sealed content of a journal.

    Attributes:
        equal: Records that open, and say what they said.
        erased: Records whose subject's key was destroyed.
        different: Offsets of those that do not open, or say something else.
    """

    equal: int
    erased: int
    different: list[int]

    @property
    def verdict(self) -> Verdict:
        """The worst of all records."""
        if self.different:
            return "different"
        return "erased" if self.erased else "equal"


def check_sealed(journal: Pages, keys: KeyTable, after: int = START) -> Sealed:
    """Open every sealed record of a journal behind an offset again."""
    counts, different = {"equal": 0, "erased": 0}, []
    for record in each(journal, after):
        verdict = reopen(record, keys)
        if verdict == "different":
            different.append(record.offset)
        elif verdict is not None:
            counts[verdict] += 1
    return Sealed(**counts, different=different)


def reopen(record: Record, keys: KeyTable) -> Verdict | None:
    """Open a record's sealed content; None where it has none.

    A subject that the key table does not know counts as different: nothing says that it was erased.
    """
    if record.kind is not Kind.QUARANTINE and record.sealed is None:
        return None
    try:
        if record.subject is None:
            keys.open_pipeline(_kept(record), context=record.id.encode())
            return "equal"
        subject = keys.subject(record.subject)
        if isinstance(subject, Erased):
            return "erased"
        return "equal" if _says_the_same(record, subject, keys) else "different"
    except (Corrupt, UnknownName):
        return "different"


def _says_the_same(record: Record, subject: Subject, keys: KeyTable) -> bool:
    if record.kind is Kind.QUARANTINE:
        return not isinstance(keys.open_sealed(subject.id, _kept(record), context=record.id.encode()), Erased)
    context = context_of(record.stream, record.source, record.id)
    personal = keys.open_sealed(subject.id, record.sealed or b"", context=context)
    if isinstance(personal, Erased):
        return False
    plain = canonical_json({**record.data, **personal})
    # A question has no time of its own: it was hashed with 0.
    return keys.mac(subject, f"{record.stream}\0{record.time or 0}\0".encode() + plain) == record.conflict


def _kept(record: Record) -> bytes:
    try:
        return b64decode(decode(record.body, Quarantined).event, validate=True)
    except (ValueError, msgspec.DecodeError) as error:
        raise Corrupt(which=f"quarantined event {record.id}", fix="Restore the journal from a backup") from error
