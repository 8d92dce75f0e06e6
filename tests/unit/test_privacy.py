"""The key table: what is sealed opens only where it belongs, and not at all once its key is destroyed."""

import hashlib
import hmac
import os
from pathlib import Path

import apsw
import pytest

from journal.errors import Corrupt, DurabilityLost, Misconfigured, NotWritable, UnknownName
from journal.privacy import Erased, KeyedHash, KeyTable, context_of

ANNA = "anna.marker@example.org"
FIELDS = {"email": ANNA, "age": 44, "height": 1.72, "note": None}
CONTEXT = context_of("visits", "/web", "v1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "web.sqlite"


@pytest.fixture
def keys(path: Path) -> KeyTable:
    return KeyTable(path)


@pytest.mark.parametrize("size", [0, 1, 55, 64, 1000])
def test_keyed_hash_is_hmac_sha256(size: int) -> None:
    key, data = bytes(range(32)), bytes(size)
    assert KeyedHash(key).digest(data) == hmac.digest(key, data, hashlib.sha256)
    assert KeyedHash(key).digest(data) != KeyedHash(key[::-1]).digest(data)


def test_a_person_has_one_random_subject(keys: KeyTable, path: Path, tmp_path: Path) -> None:
    anna, bert = keys.subject_of(ANNA), keys.subject_of("bert")
    assert keys.subject_of(ANNA) == anna
    assert anna.id != bert.id
    assert len(anna.id) == 32
    keys.close()
    assert KeyTable(path).subject_of(ANNA).id == anna.id
    assert KeyTable(tmp_path / "other" / "web.sqlite").subject_of(ANNA).id != anna.id


def test_a_subject_is_durable_when_it_is_first_used(keys: KeyTable, path: Path) -> None:
    sealed = keys.seal(subject := keys.subject_of(ANNA), FIELDS, context=CONTEXT)
    # A second table reads the file as a crash would leave it: nothing was closed.
    assert KeyTable(path).open_sealed(subject.id, sealed, context=CONTEXT) == FIELDS


def test_more_people_than_are_remembered(keys: KeyTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("journal.privacy._REMEMBERED", 2)
    first = [keys.subject_of(f"person {number}").id for number in range(5)]
    assert [keys.subject_of(f"person {number}").id for number in range(5)] == first
    assert len(set(first)) == 5


def test_sealed_fields_open_only_for_their_subject_and_event(keys: KeyTable) -> None:
    anna, bert = keys.subject_of(ANNA), keys.subject_of("bert")
    sealed = keys.seal(anna, FIELDS, context=CONTEXT)
    assert keys.open_sealed(anna.id, sealed, context=CONTEXT) == FIELDS
    for subject, context in ((bert, CONTEXT), (anna, context_of("visits", "/web", "v2")), (anna, b"")):
        with pytest.raises(Corrupt):
            keys.open_sealed(subject.id, sealed, context=context)


def test_every_byte_counts(keys: KeyTable) -> None:
    anna = keys.subject_of(ANNA)
    sealed = keys.seal(anna, FIELDS, context=CONTEXT)
    for place in range(len(sealed)):
        flipped = bytes(byte ^ (index == place) for index, byte in enumerate(sealed))
        with pytest.raises(Corrupt):
            keys.open_sealed(anna.id, flipped, context=CONTEXT)
    for length in (0, 4, 10, 20, len(sealed) - 1):
        with pytest.raises(Corrupt):
            keys.open_sealed(anna.id, sealed[:length], context=CONTEXT)


def test_sealing_twice_shows_no_equality(keys: KeyTable) -> None:
    anna = keys.subject_of(ANNA)
    assert keys.seal(anna, FIELDS, context=CONTEXT) != keys.seal(anna, FIELDS, context=CONTEXT)


def test_pseudonyms_join_within_a_person_and_not_across(keys: KeyTable, path: Path) -> None:
    anna, bert = keys.subject_of(ANNA), keys.subject_of("bert")
    assert keys.pseudonym(anna, "+49 1") == KeyTable(path).pseudonym(anna, "+49 1")
    names = {keys.pseudonym(anna, "+49 1"), keys.pseudonym(bert, "+49 1"), keys.pseudonym(anna, "+49 2")}
    assert len(names) == 3


def test_macs_are_keyed_by_who_and_by_pipeline(keys: KeyTable, path: Path, tmp_path: Path) -> None:
    anna, other = keys.subject_of(ANNA), KeyTable(tmp_path / "other" / "web.sqlite")
    macs = {keys.mac(None, b"x"), keys.mac(anna, b"x"), keys.mac(None, b"y"), other.mac(None, b"x")}
    assert len(macs) == 4
    assert {len(mac) for mac in macs} == {16}
    assert KeyTable(path).mac(None, b"x") == keys.mac(None, b"x")


def test_erased_is_neither_equal_nor_different(keys: KeyTable, path: Path) -> None:
    anna, bert = keys.subject_of(ANNA), keys.subject_of("bert")
    sealed, kept = (keys.seal(subject, FIELDS, context=CONTEXT) for subject in (anna, bert))
    keys.erase(anna.id)
    assert keys.open_sealed(anna.id, sealed, context=CONTEXT) == Erased(anna.id)
    assert keys.open_sealed(bert.id, kept, context=CONTEXT) == FIELDS
    keys.erase(anna.id)
    keys.close()
    assert KeyTable(path).open_sealed(anna.id, sealed, context=CONTEXT) == Erased(anna.id)


def test_a_key_leaves_every_file_when_it_is_erased(keys: KeyTable, path: Path) -> None:
    anna = keys.subject_of(ANNA)
    with apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY) as db:
        secret, lookup = db.execute("SELECT key, lookup FROM subject WHERE id = ?", (anna.id,)).get
    db.close()
    assert any(secret in file.read_bytes() for file in path.parent.iterdir())
    keys.erase(anna.id)
    for file in path.parent.iterdir():
        content = file.read_bytes()
        # Not even a part of it, where a shorter row was written over the old one.
        pieces = [whole[start : start + 8] for whole in (secret, lookup) for start in range(0, 32, 8)]
        assert not [piece for piece in pieces if piece in content]


def test_who_comes_back_after_erasure_is_somebody_new(keys: KeyTable) -> None:
    before = keys.subject_of(ANNA)
    name = keys.pseudonym(before, ANNA)
    keys.erase(before.id)
    after = keys.subject_of(ANNA)
    assert after.id != before.id
    assert keys.pseudonym(after, ANNA) != name


def test_erasure_says_so_when_a_reader_holds_on_to_the_key(keys: KeyTable, path: Path) -> None:
    anna = keys.subject_of(ANNA)
    keys._db.set_busy_timeout(0)
    reader = apsw.Connection(str(path))
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM subject").fetchall()
    with pytest.raises(DurabilityLost, match="another process reads"):
        keys.erase(anna.id)
    reader.close()
    keys.erase(anna.id)
    assert keys.open_sealed(anna.id, b"", context=CONTEXT) == Erased(anna.id)


def test_nobody(keys: KeyTable) -> None:
    with pytest.raises(UnknownName):
        keys.erase("nobody")
    with pytest.raises(UnknownName):
        keys.open_sealed("nobody", b"", context=CONTEXT)


def test_pipeline_key_seals_what_has_no_subject(keys: KeyTable, path: Path, tmp_path: Path) -> None:
    sealed = keys.seal_pipeline(b"whole event", context=b"q-1")
    assert b"whole" not in sealed
    assert KeyTable(path).open_pipeline(sealed, context=b"q-1") == b"whole event"
    for table, data, context in (
        (keys, sealed, b"q-2"),
        (KeyTable(tmp_path / "other" / "web.sqlite"), sealed, b"q-1"),
        (keys, sealed[:-1] + bytes([sealed[-1] ^ 1]), b"q-1"),
        (keys, b"", b"q-1"),
    ):
        with pytest.raises(Corrupt):
            table.open_pipeline(data, context=context)


def test_a_second_pipeline_key_seals_and_the_first_still_opens_and_finds(keys: KeyTable, path: Path) -> None:
    sealed, subject, mac = keys.seal_pipeline(b"old"), keys.subject_of(ANNA), keys.mac(None, b"x")
    keys._db.execute("INSERT INTO pipeline_key VALUES (2, ?)", (os.urandom(32),))
    rotated = KeyTable(path)
    assert rotated.open_pipeline(sealed) == b"old"
    assert rotated.seal_pipeline(b"new")[:5] == b"\x01\x00\x00\x00\x02"
    assert rotated.subject_of(ANNA).id == subject.id
    assert rotated.mac(None, b"x") == mac


def test_file_and_folder_are_their_owners(keys: KeyTable, path: Path) -> None:
    keys.subject_of(ANNA)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


@pytest.mark.parametrize("place", ["folder", "file"])
def test_keys_that_others_can_read_are_not_used(keys: KeyTable, path: Path, place: str) -> None:
    keys.close()
    target, mode = (path.parent, 0o750) if place == "folder" else (path, 0o644)
    target.chmod(mode)
    with pytest.raises(Misconfigured, match="can be read by others"):
        KeyTable(path)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritable):
        KeyTable(tmp_path / "file" / "keys.sqlite")


def test_nothing_personal_shows(keys: KeyTable, path: Path) -> None:
    anna = keys.subject_of(ANNA)
    sealed = keys.seal(anna, FIELDS, context=CONTEXT)
    keys.seal_pipeline(ANNA.encode())
    shown = [repr(anna), repr(anna.key), repr(keys), repr(sealed), anna.id, keys.pseudonym(anna, ANNA)]
    with pytest.raises(Corrupt) as corrupt:
        keys.open_sealed(anna.id, sealed[:-1], context=CONTEXT)
    shown += [repr(corrupt.value), str(corrupt.value), repr(corrupt.value.__cause__)]
    shown += [file.read_bytes().decode("latin-1") for file in path.parent.iterdir()]
    assert not [text for text in shown if "marker" in text]
