"""Events that are read ahead of intake: plain ones alone, and only for an intake with the same contracts."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from journal.clock import DAY, format_time, parse_time
from journal.contract import Contract
from journal.event_reader import EventReader, digest_of
from journal.field import Field
from journal.intake import Accepted, Intake
from journal.memory_log import MemoryJournal
from journal.privacy import KeyTable

NOON = parse_time("2013-01-01T12:00:00Z")
PLAIN = Contract(
    stream="plain",
    version="2.0.0",
    fields=(Field(name="n", type="integer", required=True, limits={"ge": 1}), Field(name="x", type="string")),
    dedup_window=DAY,
    max_gap=DAY,
    max_bytes=400,
    mode="evolve",
)
SEALED = Contract(
    stream="sealed",
    version="1.0.0",
    fields=(Field(name="who", type="string", required=True, personal=True),),
    dedup_window=DAY,
    max_gap=DAY,
    subject="who",
)
CONTRACTS = {"plain": PLAIN, "sealed": SEALED}


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[KeyTable]:
    table = KeyTable(tmp_path / "keys.sqlite")
    yield table
    table.close()


def event(data: Any, **attributes: Any) -> bytes:
    envelope = {"specversion": "1.0", "id": "a", "source": "/t", "type": "plain", "time": format_time(NOON)}
    return json.dumps(envelope | {"data": data} | attributes).encode()


def test_the_draft_of_a_plain_event_is_what_intake_makes_of_it(keys: KeyTable) -> None:
    raw = event({"n": 1, "x": "b"})
    draft = EventReader(CONTRACTS, keys).read(raw, "me")
    assert draft is not None
    taken = Intake(MemoryJournal("t"), CONTRACTS, keys, None, principal="me").take(raw)
    assert isinstance(taken, Accepted)
    names = [name for name in draft.__struct_fields__ if name != "cause"]
    assert [getattr(draft, name) for name in names] == [getattr(taken.record, name) for name in names]


@pytest.mark.parametrize(
    "raw",
    [
        event({"who": "anna"}, type="sealed"),
        event({"n": 1}, dataschema="https://example.com/plain#2"),
        event({"n": 0}),
        event({"n": 1, "y": 2}),
        event({"n": 1, "x": "b" * 400}),
        event({"n": 1}, type="unknown"),
        event({"n": 1})[:-1],
        event({"n": 1}).replace(b'"n": 1', b'"n": 1, "n": 1'),
    ],
    ids=["personal", "says its version", "breaks it", "unknown field", "large", "no contract", "no JSON", "twice"],
)
def test_what_is_not_plain_is_left_to_intake(keys: KeyTable, raw: bytes) -> None:
    assert EventReader(CONTRACTS, keys).read(raw, "me") is None


def test_another_contract_has_another_digest(keys: KeyTable) -> None:
    stricter = replace(PLAIN, fields=(replace(PLAIN.fields[0], limits={"ge": 2}), PLAIN.fields[1]))
    assert EventReader(CONTRACTS, keys).digest == digest_of(dict(reversed(CONTRACTS.items())))
    assert digest_of({**CONTRACTS, "plain": stricter}) != digest_of(CONTRACTS)


def test_the_digest_is_the_same_in_every_process() -> None:
    code = (
        "from journal.event_reader import digest_of; from rivermill.pipeline import load_intake; "
        "from rivermill.settings import configs_folder; "
        "print(digest_of(load_intake(configs_folder() / 'flights').contracts))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1
