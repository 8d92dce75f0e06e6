"""Records the golden journal anew: ``python tests/golden/make.py``. Only for a new format of records.

The journal holds orders of two versions of their contract, a repeat, a conflict, a quarantined event, a refused one
and an unknown field. Beside it stands what reading it must come to.
"""

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent
sys.path.insert(0, str(GOLDEN.parents[1]))

from journal.clock import HOUR, MINUTE, format_time, parse_time  # noqa: E402
from journal.contract import load_contracts  # noqa: E402
from journal.digest import digest_journal  # noqa: E402
from journal.intake import Intake  # noqa: E402
from journal.log import START, Journal  # noqa: E402
from journal.privacy import KeyTable  # noqa: E402
from journal.record import Kind, canonical_json  # noqa: E402
from journal.sqlite_log import SqliteJournal  # noqa: E402
from rivermill.adapter_file import load_adapters  # noqa: E402

PIPELINE = GOLDEN / "orders"
JOURNAL = GOLDEN / "journal"
EXPECTED = GOLDEN / "expected.json"

_BEGIN = parse_time("2020-01-01T00:00:00Z")
_ORDERS = 120


def main() -> None:
    """Record the journal, and what it comes to."""
    shutil.rmtree(JOURNAL, ignore_errors=True)
    journal = SqliteJournal(JOURNAL, "orders")
    with tempfile.TemporaryDirectory() as folder:
        keys = KeyTable(Path(folder) / "keys" / "keys.sqlite")
        intake = Intake(journal, load_contracts(PIPELINE / "contracts"), keys, None, "golden")
        with journal.group():
            for raw in events():
                intake.take(raw)
        keys.close()
    EXPECTED.write_text(json.dumps(outcome(journal), indent=2, sort_keys=True) + "\n")
    journal.close()
    (JOURNAL / "owner.lock").unlink()


def events() -> Iterator[bytes]:
    """What producers sent: the first third by version 1, then both, the last by version 2."""
    for number in range(_ORDERS):
        old = number < _ORDERS // 3 or (number < 2 * _ORDERS // 3 and number % 2 == 0)
        yield _event(number, _old(number) if old else _new(number), "https://example.com/orders#1" if old else None)
        if number % 40 == 7:
            yield _event(number, _old(number) | {"order": "changed"}, "https://example.com/orders#1")
            yield _event(number, _old(number), "https://example.com/orders#1")
            yield _event(1_000 + number, _new(number) | {"cents": -1})
            yield _event(2_000 + number, _new(number), "https://example.com/orders#9")
            yield b"no event"
    yield _event(_ORDERS, _new(_ORDERS) | {"coupon": "spring"})


def _old(number: int) -> dict[str, Any]:
    order = {"order": f"o{number}", "buyer": f"b{number % 7}", "price": (number * 37 % 1_000) / 4}
    return order | ({"express": number % 3 == 0} if number % 5 else {})


def _new(number: int) -> dict[str, Any]:
    shipping = "express" if number % 3 == 0 else "standard"
    return {"order": f"o{number}", "buyer": f"b{number % 7}", "cents": number * 925 % 25_000, "shipping": shipping}


def _event(number: int, data: dict[str, Any], dataschema: str | None = None) -> bytes:
    time = format_time(_BEGIN + number % 1_000 * 20 * MINUTE + HOUR)
    event = {"specversion": "1.0", "id": f"e{number}", "source": "/shop", "type": "orders", "time": time, "data": data}
    return json.dumps(event if dataschema is None else event | {"dataschema": dataschema}).encode()


def outcome(journal: Journal) -> dict[str, Any]:
    """What the journal says: its own digest, its counts, and a digest of every order as today's code reads it."""
    digest, counts = digest_journal(journal)
    adapters = load_adapters(PIPELINE, load_contracts(PIPELINE / "contracts"))
    lifted, cents = hashlib.sha256(), 0
    for record in journal.read(0, START, 10_000):
        if record.kind is Kind.SOURCE:
            order = adapters.lift(record)
            lifted.update(canonical_json([order.offset, order.id, order.time, order.at, order.schema, order.data]))
            cents += order.data["cents"]
    return {
        "digest": digest,
        "lifted": lifted.hexdigest(),
        "adapters": adapters.digest,
        "cents": cents,
        "counts": {f"{kind.value} {stream}": count for (kind, stream), count in sorted(counts.items())},
        "tallies": dict(sorted(journal.tallies().items())),
    }


if __name__ == "__main__":
    main()
