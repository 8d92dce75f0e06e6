"""The copy of a fold's table in Redis, and how readers take it.

Two keys of the project say what the copy is. ``life`` names the journal life (and whatever else the rows follow from)
that all rows are of: readers take nothing from a store that says another one, or nothing. ``mark`` is the life and the
largest known time that was sent with everything before it: only a writer that finds its own last mark goes on, and
whoever finds another sends every row of its table again. So a server that was emptied, or came back with what it held
an hour ago, is filled again, a little with each commit.

The fold never waits for Redis: what cannot be sent is kept (one row per entity) and sent later.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

from features.breaker import Breaker
from features.online_table import OnlineTable
from features.redis_line import RedisLine
from features.redis_shelf import LIFE
from features.redis_table import RedisTable
from features.rows import Row
from features.stored_row import Wanted, living
from journal.errors import Corrupt, StoreDown

ROWS_PER_TURN = 5_000
"""How many old rows one commit sends along: about 0.1 s."""

WRITE_DEADLINE, WRITE_REST = 0.25, 2.0
"""Seconds that a commit waits for Redis, and that it leaves Redis alone when it waited in vain."""

LOOK_EVERY = 1.0
"""Seconds between two looks at a store that lacks nothing, as far as is known."""

READ_DEADLINE = 0.02
"""Seconds. A read that takes longer is answered without features."""

MARK = "mark"


class RedisCopy:
    """Keeps Redis like a fold's table. See `features.online_table.Copy`."""

    def __init__(
        self,
        redis: RedisTable,
        life: str,
        views: Sequence[str],
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Name what the rows are of; nothing is asked before the first commit.

        Args:
            redis: The project's rows.
            life: The journal's life and whatever else the rows follow from.
            views: All of the fold's.
            breaker: Spares commits the wait for a server that does not answer.
            clock: Seconds that never go back.
        """
        self._redis, self._life, self._views = redis, life, tuple(views)
        self._breaker = breaker or Breaker(failures=1, rest=WRITE_REST, clock=clock)
        self._clock, self._look_at = clock, 0.0
        self._life_place, self._mark_place = redis.place(LIFE), redis.place(MARK)
        self._unsent: defaultdict[str, dict[bytes, Row]] = defaultdict(dict)
        self._mark: bytes | None = None
        self._known = 0
        self._published = False
        self._old: Iterator[tuple[str, Row]] | None = None

    @property
    def is_behind(self) -> bool:
        """Whether the table holds rows that Redis may not have."""
        return self._mark is None or self._old is not None or any(self._unsent.values())

    def take(self, changed: Mapping[str, Mapping[bytes, Row]], table: OnlineTable) -> None:
        """Send what is about to be committed."""
        for view, rows in changed.items():
            self._unsent[view].update(rows)
        if self.is_behind:
            self._try(lambda: self._send(table))

    def tend(self, table: OnlineTable) -> None:
        """While nothing changes: go on with what the store lacks, and look now and then whether it lost something."""
        if self.is_behind or self._clock() >= self._look_at:
            self._look_at = self._clock() + LOOK_EVERY
            self._try(lambda: self._look_after(table))

    def close(self) -> None:
        """Let go of the connection."""
        self._redis.close()

    def _try(self, send: Callable[[], None]) -> None:
        if not self._breaker.admits():
            return
        try:
            send()
        except StoreDown:
            self._breaker.note_failure()
            return
        self._breaker.note_success()

    def _look_after(self, table: OnlineTable) -> None:
        if self._mark is not None and self._redis.get(self._mark_place) != self._mark:
            self._mark = None
        if self.is_behind:
            self._send(table)

    def _send(self, table: OnlineTable) -> None:
        if self._mark is None:
            self._begin(table)
        if not self._send_unsent():
            self._mark = None
            return
        if self._old is not None and not self._send_old(self._old):
            self._mark = None
            return
        if self._old is None:
            self._move_mark(self._known)
            self._publish()

    def _begin(self, table: OnlineTable) -> None:
        """Find out what the store holds; without rows of another life, and with a mark of this one, rows can follow."""
        self._published = False
        held = self._redis.get(self._mark_place)
        known = self._known_in(held)
        newest = table.newest_known()
        if known is None:
            self._redis.delete(self._life_place)
            for view in self._views:
                self._redis.forget(view)
        self._known = known or 0
        if known is None or (newest is not None and known < newest):
            self._old = ((view, row) for view in self._views for row in table.stored(view))
            # Behind everything, until all has been sent: another start in between begins again.
            self._known = newest or 0
            self._swap_mark(held, 0)
        else:
            self._mark = held

    def _publish(self) -> None:
        """All is there: let readers take it."""
        life = self._life.encode()
        if not self._published:
            held = self._redis.get(self._life_place)
            self._published = held == life or self._redis.exchange(self._life_place, held, life)

    def _known_in(self, mark: bytes | None) -> int | None:
        life, _, known = (mark or b"").rpartition(b" ")
        return int(known) if life == self._life.encode() and known.isdigit() else None

    def _send_unsent(self) -> bool:
        assert self._mark is not None, "begun"
        for view, rows in self._unsent.items():
            if rows and self._redis.offer(view, list(rows.values()), (self._mark_place, self._mark)) is None:
                return False
            self._known = max(self._known, max((row.known for row in rows.values()), default=0))
            rows.clear()
        return True

    def _send_old(self, old: Iterator[tuple[str, Row]]) -> bool:
        assert self._mark is not None, "begun"
        by_view: defaultdict[str, list[Row]] = defaultdict(list)
        count = 0
        for view, row in islice(old, ROWS_PER_TURN):
            by_view[view].append(row)
            count += 1
        for view, rows in by_view.items():
            if self._redis.offer(view, rows, (self._mark_place, self._mark)) is None:
                return False
        if count < ROWS_PER_TURN:
            self._old = None
        return True

    def _move_mark(self, known: int) -> None:
        if self._mark_of(known) != self._mark:
            self._swap_mark(self._mark, known)

    def _swap_mark(self, held: bytes | None, known: int) -> None:
        mark = self._mark_of(known)
        self._mark = mark if self._redis.exchange(self._mark_place, held, mark) else None

    def _mark_of(self, known: int) -> bytes:
        return f"{self._life} {known}".encode()


class RedisSource:
    """The copy as the fast reader takes it: within a deadline, and not at all while the circuit is open."""

    def __init__(
        self,
        redis: RedisTable,
        life: str | None = None,
        deadline: float = READ_DEADLINE,
        breaker: Breaker | None = None,
    ) -> None:
        """Name what the rows must be of.

        Args:
            redis: The project's rows.
            life: As the `RedisCopy` was given it; None for rows of Feast's own, which say none.
            deadline: Seconds that a read may take.
            breaker: Opens when the store does not answer.
        """
        self._redis, self._deadline = redis, deadline
        self._life = None if life is None else life.encode()
        self._name = None if life is None else LIFE
        self.breaker = breaker or Breaker()

    def get_many(self, wanted: Wanted) -> list[Row | None]:
        """One answer per (view, key), in order, in one round trip; None where there is no row, or a delete.

        Raises:
            StoreDown: No answer in time, a damaged row, or a store that was emptied and is not filled yet.
        """
        breaker = self.breaker
        if not breaker.admits():
            raise StoreDown(which="Redis failed several times and is left alone for a while", fix=_WAIT)
        try:
            life, found = self._redis.read_beside(self._name, wanted, self._deadline)
        except StoreDown:
            breaker.note_failure()
            raise
        except Corrupt as error:
            breaker.note_success()
            raise StoreDown(which=error.which, fix=error.fix) from error
        breaker.note_success()
        if life != self._life:
            raise StoreDown(which="Redis holds nothing of this journal's life", fix=_WAIT)
        return [living(row) for row in found]

    def close(self) -> None:
        """Let go of the connection."""
        self._redis.close()


def open_copy(address: str, project: str, life: str, views: Sequence[str]) -> RedisCopy:
    """What a fold's `OnlineTable` is given."""
    return RedisCopy(RedisTable(RedisLine(address, WRITE_DEADLINE), project), life, views)


def open_source(address: str, project: str, life: str, clock: Callable[[], float] = time.monotonic) -> RedisSource:
    """What the reader of a process that answers is given."""
    return RedisSource(
        RedisTable(RedisLine(address, READ_DEADLINE), project), life, READ_DEADLINE, Breaker(clock=clock)
    )


_WAIT = "Wait: its worker fills it again"
