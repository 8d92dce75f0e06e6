"""Laws of intake: everything offered ends in one place, and the two checkers of a contract agree."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from journal.clock import DAY, HOUR, format_time
from journal.contract import Contract
from journal.decoder import decoder_of, frame_schema_of, frame_violations
from journal.envelope import quotes_of, require_unique_names
from journal.errors import Malformed
from journal.event_reader import EventReader
from journal.field import Field
from journal.intake import Accepted, Conflicted, Intake, Quarantined, Refused, Repeated
from journal.log import START
from journal.memory_log import MemoryJournal
from journal.privacy import KeyTable, context_of
from journal.record import Kind, Record, canonical_json
from journal.sqlite_log import SqliteJournal

W = 30 * DAY
STREAMS = {
    name: Contract(
        stream=name,
        version="1.0.0",
        fields=(
            Field(name="who", type="string", required=True, personal=personal),
            Field(name="n", type="integer", required=True, limits={"ge": 0, "le": 5}, personal=personal),
            Field(name="x", type="number"),
        ),
        dedup_window=W,
        max_gap=DAY,
        subject="who" if personal else "",
    )
    for name, personal in (("plain", False), ("sealed", True))
}


@pytest.fixture(scope="module")
def keys() -> Iterator[KeyTable]:
    with tempfile.TemporaryDirectory() as folder:
        table = KeyTable(Path(folder) / "keys.sqlite")
        yield table
        table.close()


def door(keys: KeyTable) -> tuple[MemoryJournal, Intake]:
    journal = MemoryJournal("laws", dedup_window=W)
    return journal, Intake(journal, STREAMS, keys, (0, 2 * DAY))


DATA = st.fixed_dictionaries(
    {"who": st.sampled_from(["anna", "bert"]), "n": st.integers(-1, 6)},
    optional={"x": st.sampled_from([None, 0.5, 2, "two"]), "y": st.just(1)},
)


@st.composite
def events(draw: st.DrawFn) -> bytes:
    """Some hold, some break their contract, some are no events at all; ids are few, so that they meet."""
    event = {
        "specversion": draw(st.sampled_from(["1.0"] * 9 + ["0.3"])),
        "id": draw(st.sampled_from("abcde")),
        "source": "/laws",
        "type": draw(st.sampled_from(["plain"] * 4 + ["sealed"] * 4 + ["unknown"])),
        "time": format_time(draw(st.sampled_from([DAY, DAY + HOUR, 2 * DAY, 9_000 * DAY]))),
        "data": draw(DATA),
    }
    raw = json.dumps(event).encode()
    return raw[: draw(st.sampled_from([len(raw)] * 9 + [10]))]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(batch=st.lists(events(), max_size=25))
def test_everything_offered_ends_in_one_place(keys: KeyTable, batch: list[bytes]) -> None:
    journal, intake = door(keys)
    ends = Counter(type(intake.take(raw)) for raw in batch)
    assert ends.total() == len(batch)
    assert set(ends) <= {Accepted, Repeated, Refused, Conflicted, Quarantined}
    records = journal.read(0, START, 99)
    accepted = [(record.source, record.id) for record in records if record.kind is Kind.SOURCE]
    assert len(set(accepted)) == len(accepted) == ends[Accepted]
    waiting = [record.id for record in records if record.kind is Kind.QUARANTINE]
    assert len(set(waiting)) == len(waiting) <= ends[Quarantined]
    assert len(records) == len(accepted) + len(waiting)
    tallies = Counter(journal.tallies())
    assert (tallies["refused"], tallies["conflicts"]) == (ends[Refused], ends[Conflicted])
    assert tallies["refused"] == sum(count for name, count in tallies.items() if name.startswith("refused."))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(batch=st.lists(events(), max_size=20), times=st.integers(1, 2))
def test_the_same_batch_again_changes_no_record(keys: KeyTable, batch: list[bytes], times: int) -> None:
    journal, intake = door(keys)
    for raw in batch:
        intake.take(raw)
    before = journal.read(0, START, 99)
    for _ in range(times):
        ends = {type(intake.take(raw)) for raw in batch}
        assert ends <= {Repeated, Refused, Conflicted, Quarantined}
    assert journal.read(0, START, 99) == before


def facts(record: Record) -> Record:
    """A record without what is drawn anew each time it is sealed."""
    return msgspec.structs.replace(record, sealed=None, body=b"" if record.kind is Kind.QUARANTINE else record.body)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(batches=st.lists(st.lists(events(), max_size=12), max_size=4))
def test_reading_ahead_changes_nothing(keys: KeyTable, batches: list[list[bytes]]) -> None:
    plain, taking = door(keys)
    reader = EventReader(STREAMS, keys)
    with tempfile.TemporaryDirectory() as folder, closing(SqliteJournal(Path(folder), "laws", dedup_window=W)) as ahead:
        taking_read = Intake(ahead, STREAMS, keys, (0, 2 * DAY))
        for batch in batches:
            one_by_one = [taking.take(raw, principal="p") for raw in batch]
            with ahead.group():
                at_once = taking_read.take_read(batch, [reader.read(raw, "p") for raw in batch], "p")
            assert [type(taken) for taken in at_once] == [type(taken) for taken in one_by_one]
        assert [*map(facts, ahead.read(0, START, 99))] == [*map(facts, plain.read(0, START, 99))]
        assert ahead.tallies() == plain.tallies()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(start=st.integers(0, 400), length=st.integers(0, 12), junk=st.binary(max_size=12), data=DATA)
def test_no_bytes_are_fatal(keys: KeyTable, start: int, length: int, junk: bytes, data: dict[str, Any]) -> None:
    event = {
        "specversion": "1.0",
        "id": "a",
        "source": "/laws",
        "type": "sealed",
        "time": format_time(DAY),
        "data": data,
    }
    raw = json.dumps(event).encode()
    journal, intake = door(keys)
    taken = intake.take(raw[:start] + junk + raw[start + length :])
    kept = isinstance(taken, Accepted | Quarantined)
    assert isinstance(taken, Accepted | Quarantined | Refused)
    assert (journal.end() == 0, journal.tallies().get("refused", 0) == 0) == (kept, kept)


NAMES = ("a", "b", "c")
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 12)
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("abB1 é😀\n", max_size=5)
)
BOUNDS: dict[str, list[dict[str, Any]]] = {
    "string": [{}, {"min_length": 2}, {"max_length": 3}, {"pattern": "^[a-z]+$"}, {"pattern": "b"}],
    "integer": [{}, {"ge": 0}, {"gt": 0, "le": 9}, {"lt": 5}],
    "number": [{}, {"ge": 0}, {"gt": 0.5, "lt": 1e6}, {"le": 3}],
    "boolean": [{}],
}
CHOICES: dict[str, tuple[str | int, ...]] = {"string": ("a", "bb"), "integer": (1, 2)}


@st.composite
def fields(draw: st.DrawFn, name: str) -> Field:
    kind = draw(st.sampled_from(sorted(BOUNDS)))
    required = draw(st.booleans())
    if kind in CHOICES and draw(st.integers(0, 3)) == 0:
        return Field(name=name, type=kind, required=required, choices=CHOICES[kind])
    return Field(name=name, type=kind, required=required, limits=draw(st.sampled_from(BOUNDS[kind])))


def decodes(schema: tuple[Field, ...], row: dict[str, Any]) -> bool:
    try:
        decoder_of("law", schema).decode(json.dumps(row))
    except msgspec.ValidationError:
        return False
    return True


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(schema=st.tuples(*(fields(name) for name in NAMES[:2])), row=st.dictionaries(st.sampled_from(NAMES), SCALARS))
def test_decoder_and_frame_schema_accept_the_same_rows(schema: tuple[Field, ...], row: dict[str, Any]) -> None:
    frame = pd.DataFrame({name: pd.Series([value], dtype=object) for name, value in row.items()}, index=[0])
    assert (frame_violations(frame_schema_of("law", schema), frame) == []) == decodes(schema, row)


TYPED = {
    "string": st.text(max_size=3),
    "integer": st.integers(-9, 9),
    "number": st.floats(-1, 1),
    "boolean": st.booleans(),
}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), kind=st.sampled_from(sorted(TYPED)))
def test_a_typed_column_is_accepted_when_each_of_its_rows_is(data: st.DataObject, kind: str) -> None:
    field = data.draw(fields("a").filter(lambda field: field.type == kind))
    values = data.draw(st.lists(TYPED[kind], min_size=1, max_size=6))
    frame = pd.DataFrame({"a": values})
    accepted = frame_violations(frame_schema_of("law", (field,)), frame) == []
    assert accepted == all(decodes((field,), {"a": value}) for value in values)


PAIRS = st.lists(st.tuples(st.sampled_from(NAMES), st.none() | st.integers(0, 9) | st.text('a"\\é:,', max_size=3)))
TEXTS = tuple(Field(name=name, type="string") for name in NAMES)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(pairs=PAIRS, ascii_only=st.booleans())
def test_a_name_that_stands_twice_is_always_found(pairs: list[tuple[str, Any]], ascii_only: bool) -> None:
    members = (f"{json.dumps(name)}:{json.dumps(value, ensure_ascii=ascii_only)}" for name, value in pairs)
    text = ("{" + ",".join(members) + "}").encode()
    seen: dict[str, Any] = dict.fromkeys(NAMES) | dict(pairs)
    strings = sum(isinstance(value, str) for value in seen.values())
    quotes = quotes_of(msgspec.Raw(text), seen, strings)
    if len({name for name, _ in pairs}) == len(pairs):
        require_unique_names(text, quotes)
    else:
        with pytest.raises(Malformed):
            require_unique_names(text, quotes)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    x=st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53),
    order=st.permutations(("who", "n", "x")),
)
def test_equal_content_is_equal_bytes(keys: KeyTable, x: float, order: tuple[str, ...]) -> None:
    data = {"who": "anna", "n": 3, "x": x}
    event = {"specversion": "1.0", "id": "a", "source": "/laws", "type": "plain", "time": format_time(DAY)}
    _, intake = door(keys)
    first = intake.take(json.dumps(event | {"data": data}).encode())
    assert isinstance(first, Accepted)
    assert first.record.body == canonical_json(data | {"x": float(x)})
    shuffled = json.dumps({"data": {name: data[name] for name in order}} | event, indent=1)
    assert intake.take(shuffled.encode()) == Repeated(0)


JSON_FIELDS = st.dictionaries(
    st.text(max_size=5), st.none() | st.booleans() | st.text() | st.integers(-9, 9), max_size=5
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(who=st.text(), personal=JSON_FIELDS, parts=st.tuples(st.text(), st.text(), st.text()))
def test_what_is_sealed_comes_back(
    keys: KeyTable, who: str, personal: dict[str, Any], parts: tuple[str, str, str]
) -> None:
    subject, context = keys.subject_of(who), context_of(*parts)
    assert keys.open_sealed(subject.id, keys.seal(subject, personal, context=context), context=context) == personal
