"""The online table in Redis: a key per view and entity, its row in one blob, and the guard inside the server.

A key is ``<project>:<view>:<encoded entity key>``, a blob what `features.stored_row` makes of a row. Every write is on
condition: of the row (the guard) and of one more key that says what the writer takes for granted, a view's
field list or which journal life the rows are of. So a writer that is behind the times changes nothing.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from features.redis_guard import EXCHANGE_DIGEST, GUARD_DIGEST, ROWS_PER_SCRIPT, SCRIPTS
from features.redis_line import Command, Declined, RedisLine
from features.rows import Row
from features.stored_row import Wanted, pack, unpack
from journal.errors import Corrupt, Misconfigured

_KEYS_PER_SCAN = 1_000
_LARGEST_GET = 10_000
_GLOB = re.compile(rb"[*?\[\]\\]")


class RedisTable:
    """The rows of one project's views."""

    def __init__(self, line: RedisLine, project: str) -> None:
        """Name the project; nothing is asked yet."""
        self._line, self._project = line, _named("project", project)
        self._prefixes: dict[str, bytes] = {}

    def read(self, wanted: Wanted, deadline: float | None = None) -> list[Row | None]:
        """The stored rows asked for, in order, deletes included.

        Args:
            wanted: (view, encoded key) of each.
            deadline: Seconds; None is the line's own.

        Raises:
            StoreDown: No answer in time.
            Corrupt: A checksum does not hold.
        """
        return self.read_beside(None, wanted, deadline)[1]

    def read_beside(
        self, name: str | None, wanted: Wanted, deadline: float | None = None
    ) -> tuple[bytes | None, list[Row | None]]:
        """The rows, and in the same round trip what the project notes under a name; raises as `read`."""
        key = self._key
        names = [] if name is None else [self.place(name)]
        keys = [*names, *(key(view, entity) for view, entity in wanted)]
        if not keys:
            return None, []
        pages = range(0, len(keys), _LARGEST_GET)
        answers = self._line.ask_all([("MGET", *keys[page : page + _LARGEST_GET]) for page in pages], deadline)
        blobs = answers[0] if len(answers) == 1 else [blob for answer in answers for blob in answer]
        note = blobs.pop(0) if names else None
        found = zip(wanted, blobs, strict=True)
        return note, [None if blob is None else _unpacked(view, key, blob) for (view, key), blob in found]

    def offer(self, view: str, rows: Sequence[Row], condition: tuple[bytes, bytes], keep_ms: int = 0) -> int | None:
        """Offer rows of distinct keys to the guard.

        Args:
            view: Whose they are.
            rows: At most one of a key.
            condition: A key (see `place`, `layout_place`) and what it must hold for anything to be written.
            keep_ms: The server may forget a row so many milliseconds after its event time; 0 for never.

        Returns:
            How many were taken; None when the condition does not hold (of many rows, some may have been taken before).
        """
        place, held = condition
        commands: list[Command] = []
        for start in range(0, len(rows), ROWS_PER_SCRIPT):
            page = rows[start : start + ROWS_PER_SCRIPT]
            keys = [self._key(view, row.key) for row in page]
            blobs = [pack(view, row) for row in page]
            commands.append(("EVALSHA", GUARD_DIGEST, len(keys) + 1, place, *keys, held, keep_ms, *blobs))
        taken = self._run(commands)
        return None if -1 in taken else sum(taken)

    def replace(self, view: str, old: Row, new: Row) -> None:
        """Put one row in the place of another, if that is still there, whatever their stamps."""
        self.exchange(self._key(view, old.key), pack(view, old), pack(view, new))

    def exchange(self, place: bytes, held: bytes | None, new: bytes) -> bool:
        """Compare and swap one key; whether it was as expected. None stands for a key that is not there."""
        return bool(self._run([("EVALSHA", EXCHANGE_DIGEST, 1, place, held or b"", new)])[0])

    def get(self, place: bytes) -> bytes | None:
        """What a key holds."""
        held: bytes | None = self._line.ask("GET", place)
        return held

    def delete(self, place: bytes) -> None:
        """Forget a key."""
        self._line.ask("DEL", place)

    def rows(self, view: str) -> Iterator[Row]:
        """Every row of a view that is there from the beginning to the end, deletes included, in no order."""
        prefix = self._prefix(view)
        for keys in self._keys(view):
            entities = [key[len(prefix) :] for key in keys]
            yield from filter(None, self.read([(view, entity) for entity in entities]))

    def forget(self, view: str) -> None:
        """Remove every key of a view, its field list included."""
        for keys in self._keys(view):
            self._line.ask("UNLINK", *keys)
        self.delete(self.layout_place(view))

    def layout_place(self, view: str) -> bytes:
        """The key of a view's field list: no encoded entity key begins like it."""
        return self._prefix(view) + b"layout"

    def place(self, name: str) -> bytes:
        """The key of something about the whole project: a view's name is never empty."""
        return f"{self._project}::{name}".encode()

    def close(self) -> None:
        """Let go of the connection."""
        self._line.close()

    def _key(self, view: str, key: bytes) -> bytes:
        prefix = self._prefixes.get(view)
        return (prefix or self._prefix(view)) + key

    def _prefix(self, view: str) -> bytes:
        prefix = self._prefixes[view] = f"{self._project}:{_named('view', view)}:".encode()
        return prefix

    def _keys(self, view: str) -> Iterator[list[bytes]]:
        """A view's row keys, a page at a time; one may come twice."""
        cursor, layout = b"0", self.layout_place(view)
        pattern = _GLOB.sub(rb"\\\g<0>", self._prefix(view)) + b"*"
        while True:
            cursor, keys = self._line.ask("SCAN", cursor, "MATCH", pattern, "COUNT", _KEYS_PER_SCAN)
            if keys := [key for key in keys if key != layout]:
                yield keys
            if cursor == b"0":
                return

    def _run(self, commands: Sequence[Command]) -> list[Any]:
        """Run scripts; a server that was restarted is told them again. What ran already the guard makes harmless."""
        try:
            return self._line.ask_all(commands)
        except Declined as error:
            if "NOSCRIPT" not in error.which:
                raise
        self._line.ask_all([("SCRIPT", "LOAD", script) for script in SCRIPTS.values()])
        return self._line.ask_all(commands)


def _unpacked(view: str, key: bytes, blob: bytes) -> Row:
    row = unpack(view, key, blob)
    if row is None:
        raise Corrupt(
            which=f"Redis, view {view!r}, key {key.hex()[:40]}",
            fix="Delete this key: a fold writes it again when it refills the store; otherwise materialize the view "
            "again",
        )
    return row


def _named(what: str, name: str) -> str:
    """Parts of a key are separated by colons."""
    if not name or ":" in name:
        raise Misconfigured(which=f"{what} {name!r} in Redis", fix="Give it a name without a colon")
    return name
