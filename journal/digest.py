"""The digest of a journal: equal for two runs over one input, whatever crashed on the way.

It covers the canonical, ordered content of every record. Left out is what may differ without meaning anything:
signatures, chain heads, ciphertext, the address of a blob (a pickle's bytes depend on object identity; the model's own
digest is in), principals and trace ids.
"""

import hashlib
from collections import Counter
from typing import Any

import orjson

from journal.reading import Pages, each
from journal.record import Kind, Record

_LEFT_OUT = {
    Kind.SNAPSHOT: ("signature", "blob"),
    Kind.VERSION: ("signature", "blob"),
    Kind.DECISION: ("signature", "heads"),
    Kind.QUARANTINE: ("event",),
}


def digest_journal(journal: Pages) -> tuple[str, Counter[tuple[Kind, str]]]:
    """SHA-256 (hex) over every record's canonical content in order, and how many there are by (kind, stream)."""
    total, counts = hashlib.sha256(), Counter[tuple[Kind, str]]()
    for record in each(journal):
        total.update(_content(record))
        counts[record.kind, record.stream] += 1
    return total.hexdigest(), counts


def digest_parts(parts: dict[str, str]) -> str:
    """One digest out of several named ones."""
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _content(record: Record) -> bytes:
    envelope: tuple[Any, ...] = (
        record.offset,
        record.kind,
        record.stream,
        record.id,
        record.time,
        record.at,
        record.source,
        record.schema,
        record.cause and tuple(record.cause),
    )
    return orjson.dumps(envelope) + _body(record)


def _body(record: Record) -> bytes:
    left_out = _LEFT_OUT.get(record.kind)
    if left_out is None:
        return record.body
    kept = {name: value for name, value in record.data.items() if name not in left_out}
    return orjson.dumps(kept, option=orjson.OPT_SORT_KEYS)
