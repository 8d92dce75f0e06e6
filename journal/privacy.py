"""The key table: who a record is about, and the keys that open what is sealed about them.

Rules:

- The file lies outside the journal and its backups, so that destroying a key here erases there.
- A record names a subject by a random id. The producer's identifier is stored nowhere: the table finds a subject by an
  HMAC of it, and erasing destroys that as well as the key, so that nothing leads from a person to what is left.
- A subject's key is durable before anything is sealed or hashed under it.
- What is sealed is bound to its subject and to its event: moved to another record it does not open.
- Other processes may hold the table open: each forgets the subjects that it remembers once any of them was erased.
- Each key is used through keys derived from it by purpose (HMAC-SHA256), one for hashing and one for AES-256-GCM.
"""

import hashlib
import hmac
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from journal.errors import Corrupt, DurabilityLost, Misconfigured, NotWritable, UnknownName
from journal.record import canonical_json
from journal.sqlite import open_database

_SCHEMA = """
CREATE TABLE IF NOT EXISTS pipeline_key (id INTEGER PRIMARY KEY, key BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS subject (id TEXT PRIMARY KEY, lookup BLOB UNIQUE, key BLOB) STRICT, WITHOUT ROWID;
"""

_KEY_BYTES = 32
_NONCE_BYTES = 12
_MAC_BYTES = 16
_FORMAT = b"\x01"
_HEADER_BYTES = 5
_REMEMBERED = 10_000
"""How many subjects stay in memory; the others are read again."""


class KeyedHash:
    """HMAC-SHA256 under one key, with both pads hashed beforehand: RFC 2104 at half the cost of `hmac.digest`."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        padded = key.ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def digest(self, data: bytes) -> bytes:
        """The 32 bytes of the HMAC."""
        inner = self._inner.copy()
        inner.update(data)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()


class Key:
    """A secret of 32 bytes, ready to hash and to seal. It shows nothing of itself."""

    __slots__ = ("_aead", "_id", "hash")

    def __init__(self, secret: bytes, number: int = 0) -> None:
        self.hash = KeyedHash(hmac.digest(secret, b"rivermill hash", "sha256"))
        self._aead = AESGCM(hmac.digest(secret, b"rivermill seal", "sha256"))
        self._id = number.to_bytes(4, "big")

    def seal(self, data: bytes, context: bytes) -> bytes:
        """Encrypt: format, key id, nonce, ciphertext with its tag. ``context`` must be given again to open it."""
        nonce = os.urandom(_NONCE_BYTES)
        header = _FORMAT + self._id
        return header + nonce + self._aead.encrypt(nonce, data, header + context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Decrypt what `seal` made; raises `Corrupt` when a byte, the key or the context is another."""
        header, nonce = sealed[:_HEADER_BYTES], sealed[_HEADER_BYTES : _HEADER_BYTES + _NONCE_BYTES]
        try:
            return self._aead.decrypt(nonce, sealed[_HEADER_BYTES + _NONCE_BYTES :], header + context)
        except (InvalidTag, ValueError):
            raise Corrupt(
                which="sealed bytes do not open", fix="Restore the journal and its key table together"
            ) from None


@dataclass(frozen=True, slots=True)
class Subject:
    """A person as the journal knows them: a random id and the key that their fields are sealed under."""

    id: str
    key: Key


@dataclass(frozen=True, slots=True)
class Erased:
    """The subject's key was destroyed: what was sealed cannot be read again, by anyone."""

    subject_id: str


class KeyTable:
    """The keys of one pipeline, in a SQLite file that only its owner may read."""

    def __init__(self, path: Path) -> None:
        """Open or create the table.

        Args:
            path: Its file, in a folder of mode 0700 outside the journal.

        Raises:
            Misconfigured: The file or its folder can be read by others.
            NotWritable: It cannot be created.
        """
        _make_private(path)
        self._db = open_database(path)
        self._db.execute("PRAGMA secure_delete = ON")
        self._db.execute(_SCHEMA)
        self._db.execute("INSERT OR IGNORE INTO pipeline_key VALUES (1, ?)", (os.urandom(_KEY_BYTES),))
        self._keys = {number: Key(secret, number) for number, secret in self._db.execute("SELECT * FROM pipeline_key")}
        # Lookups and conflict hashes must find what was written under the first key; only sealing moves to the latest.
        self._first, self._latest = self._keys[min(self._keys)], self._keys[max(self._keys)]
        self._subjects: dict[str, Subject] = {}
        self._seen, self._erasures = self._number("data_version"), self._number("user_version")

    def subject_of(self, identifier: str) -> Subject:
        """The subject of a producer's identifier, created durably at first sight."""
        self._forget_erased()
        subject = self._subjects.get(identifier)
        if subject is None:
            subject = self._find(identifier)
            if len(self._subjects) >= _REMEMBERED:
                self._subjects.clear()
            self._subjects[identifier] = subject
        return subject

    def find(self, identifier: str) -> str | None:
        """The id of the subject whom an identifier leads to, if there is one; creates none."""
        row = self._db.execute("SELECT id FROM subject WHERE lookup = ?", (self._lookup(identifier),)).get
        return None if row is None else str(row)

    def subject(self, subject_id: str) -> Subject | Erased:
        """A subject by the id that records name; raises UnknownName where the table has never heard of it."""
        secret = self._secret(subject_id)
        return Erased(subject_id) if secret is None else Subject(subject_id, Key(secret))

    def knows(self, subject_id: str) -> bool:
        """Whether there is, or was, such a subject."""
        return self._db.execute("SELECT 1 FROM subject WHERE id = ?", (subject_id,)).get is not None

    def is_erased(self, subject_id: str) -> bool:
        """Whether a subject's key was destroyed; raises UnknownName where the table has never heard of it."""
        return self._secret(subject_id) is None

    def _lookup(self, identifier: str) -> bytes:
        return self._first.hash.digest(b"lookup\0" + identifier.encode())

    def _forget_erased(self) -> None:
        """The header counts erasures (``user_version``): it is looked at when somebody else has committed anything."""
        if (seen := self._number("data_version")) == self._seen:
            return
        self._seen, erasures = seen, self._number("user_version")
        if erasures != self._erasures:
            self._erasures = erasures
            self._subjects.clear()

    def _number(self, pragma: str) -> int:
        return int(self._db.execute(f"PRAGMA {pragma}").get)

    def _find(self, identifier: str) -> Subject:
        lookup = self._lookup(identifier)
        row = self._db.execute("SELECT id, key FROM subject WHERE lookup = ?", (lookup,)).get
        if row is None:
            self._db.execute(
                "INSERT INTO subject VALUES (?, ?, ?) ON CONFLICT (lookup) DO NOTHING",
                (os.urandom(16).hex(), lookup, os.urandom(_KEY_BYTES)),
            )
            row = self._db.execute("SELECT id, key FROM subject WHERE lookup = ?", (lookup,)).get
        subject_id, secret = row
        return Subject(subject_id, Key(secret))

    def seal(self, subject: Subject, fields: dict[str, Any], *, context: bytes) -> bytes:
        """Encrypt a subject's fields under their key, bound to the subject and to ``context`` (see `context_of`)."""
        return subject.key.seal(canonical_json(fields), _bound(subject.id, context))

    def open_sealed(self, subject_id: str, sealed: bytes, *, context: bytes) -> dict[str, Any] | Erased:
        """Read a subject's fields back.

        Raises:
            UnknownName: The table has never heard of this subject: it is another pipeline's, or an older copy.
            Corrupt: The bytes were changed, or belong to another record.
        """
        secret = self._secret(subject_id)
        if secret is None:
            return Erased(subject_id)
        fields: dict[str, Any] = orjson.loads(Key(secret).open(sealed, _bound(subject_id, context)))
        return fields

    def pseudonym(self, subject: Subject, value: str) -> str:
        """What stands in a body for a personal entity key: equal for equal values of one subject, and only for them."""
        return subject.key.hash.digest(b"pseudonym\0" + value.encode())[:_MAC_BYTES].hex()

    def mac(self, subject: Subject | None, canonical: bytes) -> bytes:
        """A keyed hash (16 bytes) that tells a repeat from a conflict, under the subject's key or the pipeline's."""
        key = self._first if subject is None else subject.key
        return key.hash.digest(b"mac\0" + canonical)[:_MAC_BYTES]

    def seal_pipeline(self, data: bytes, *, context: bytes = b"") -> bytes:
        """Encrypt under the pipeline's key: for what has no subject, such as an event that breaks its contract."""
        return self._latest.seal(data, b"pipeline\0" + context)

    def open_pipeline(self, sealed: bytes, *, context: bytes = b"") -> bytes:
        """Read back what `seal_pipeline` made; raises `Corrupt` when it was changed or made under another table."""
        key = self._keys.get(int.from_bytes(sealed[1:_HEADER_BYTES], "big"), self._latest)
        return key.open(sealed, b"pipeline\0" + context)

    def erase(self, *subject_ids: str) -> None:
        """Destroy subjects' keys, and what led to them, for good. The ids stay, so that verification can say `Erased`.

        Once more does no harm: it makes up for what a crash left behind in the write-ahead log.

        Raises:
            UnknownName: There is no such subject; none was erased.
            DurabilityLost: Another process reads the table, so the keys still lie in its write-ahead log.
        """
        for subject_id in subject_ids:
            self._secret(subject_id)
        self._subjects = {name: subject for name, subject in self._subjects.items() if subject.id not in subject_ids}
        with self._db:
            self._db.execute(f"PRAGMA user_version = {self._number('user_version') + 1}")
            self._db.executemany(
                "UPDATE subject SET lookup = NULL, key = NULL WHERE id = ?", [(each,) for each in subject_ids]
            )
        # The write-ahead log still holds the pages with the keys until they are copied back and it is cut.
        busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").get
        if busy:
            raise DurabilityLost(
                which=f"{len(subject_ids)} key(s), while another process reads the table", fix="Erase again"
            )

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _secret(self, subject_id: str) -> bytes | None:
        found = self._db.execute("SELECT id, key FROM subject WHERE id = ?", (subject_id,))
        row: tuple[str, bytes | None] | None = found.get
        if row is None:
            raise UnknownName(
                which=f"subject {subject_id[:32]}", fix="Restore the key table that the journal was written with"
            )
        return row[1]


def context_of(stream: str, source: str, event_id: str) -> bytes:
    """What binds sealed fields to their event: moved to another one they do not open."""
    return f"{stream}\0{source}\0{event_id}".encode()


def _bound(subject_id: str, context: bytes) -> bytes:
    return b"subject\0" + subject_id.encode() + b"\0" + context


def _make_private(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise NotWritable(which=f"{path} ({error.strerror})", fix="Check the folder's owner and mode") from error
    for place, mode in ((path.parent, "700"), (path, "600")):
        if place.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise Misconfigured(which=f"{place} holds keys and can be read by others", fix=f"chmod {mode} {place}")
