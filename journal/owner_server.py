"""The journal's owner as a server: requests of many clients, committed in groups.

Whatever arrived while the last group was committed goes into the next one: one fsync for all of them, and no answer
before it. When a group fails, each of its requests is told so; a disk that is full may heal, after any other failed
write the server stops, since nothing may be acknowledged again.

Questions, what folds derive, and events wait in lanes of their own: each lane is bounded by itself, and each has its
share of every group. So a flood in one neither refuses nor delays what waits in another by more than the group that is
being committed.

Folds' sinks have epochs: the newest writer that claimed a sink is heard, and older ones are told that they are not.
The epochs live as long as this process; a writer's own number, which comes with each batch, brings them back.
"""

import asyncio
import socket
from collections.abc import Iterable, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Protocol, assert_never

from journal import intake, wire
from journal.asking import Asking
from journal.body import Prediction, decode
from journal.connection import Connection, Listener
from journal.errors import DurabilityLost, OwnerDown, RivermillError, UpstreamError
from journal.intake import Intake, Taken
from journal.lane import Lane, next_group
from journal.log import Journal
from journal.quality import QualityFold
from journal.record import Cause
from journal.sink_epochs import SinkEpochs
from journal.wire import (
    Answer,
    Append,
    Ask,
    Claim,
    Claimed,
    Done,
    Fate,
    Fates,
    OwnerState,
    Request,
    Settle,
    SettledAs,
    State,
    Take,
)

MOST_WAITING = 10_000
MOST_WAITING_BYTES = 16 * 1024 * 1024
"""Per lane: about what is committed within a second or two, so that nobody waits in vain for an answer in time."""

_ALERTING = ("", QualityFold.name)
"""The sinks of decisions and of alerts: what they bring may stop a stream or let it go on."""

_OWNER_ONLY = 0o600
_FAREWELL_SECONDS = 1.0


class OwnedJournal(Journal, Protocol):
    """A journal that its owner may lose: after a failed write nothing is acknowledged again."""

    @property
    def failed(self) -> bool:
        """Whether that has happened."""
        ...

    def marks(self) -> dict[str, Cause]:
        """Every sink's mark."""
        ...


class _Waiting:
    """A request that has not been answered."""

    __slots__ = ("asker", "number", "request", "size")

    def __init__(self, number: int, request: Request, size: int, asker: Connection) -> None:
        self.number, self.request, self.size, self.asker = number, request, size, asker


class OwnerServer:
    """Serves one journal on one socket."""

    def __init__(
        self,
        journal: OwnedJournal,
        intake: Intake,
        asking: Asking,
        path: Path,
        *,
        most_waiting: int = MOST_WAITING,
        most_waiting_bytes: int = MOST_WAITING_BYTES,
    ) -> None:
        """Prepare to serve.

        Args:
            journal: Owned by this process, so a socket that lies there already is a dead owner's.
            intake: The journal's door for events.
            asking: Its door for questions with their answers.
            path: Where to listen.
            most_waiting: Requests that may wait in each lane; a further one is told to come back.
            most_waiting_bytes: The same in bytes.
        """
        self._journal, self._intake, self._asking, self._path = journal, intake, asking, path
        self._questions: Lane[_Waiting] = Lane("questions", most_waiting, most_waiting_bytes)
        self._derived: Lane[_Waiting] = Lane("batches of folds", most_waiting, most_waiting_bytes)
        self._others: Lane[_Waiting] = Lane("requests", most_waiting, most_waiting_bytes)
        self._lanes = (self._questions, self._derived, self._others)
        self._epochs = SinkEpochs()
        intake.heed_alerts()
        self._stopping = False
        self.is_serving = False
        """Whether the socket listens."""
        self._connections: set[Connection] = set()
        self._ended: asyncio.Future[None] | None = None
        self._is_awake = False

    async def serve(self) -> None:
        """Serve until `stop`; then answer what has arrived.

        Raises:
            DurabilityLost: A write failed, and nothing may be acknowledged again.
        """
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        server = await loop.create_unix_server(self._welcome, sock=_bound(self._path))
        self.is_serving = True
        self._wake()
        try:
            await self._ended
        finally:
            self.is_serving = False
            server.close()
            self._path.unlink(missing_ok=True)
            await asyncio.gather(*(_let_go(connection) for connection in self._connections))

    def stop(self) -> None:
        """Let `serve` return after what has arrived."""
        self._stopping = True
        self._wake()

    def _welcome(self) -> Listener:
        connection = Listener(self._hear)
        self._connections.add(connection)
        connection.closed.add_done_callback(lambda _: self._connections.discard(connection))
        return connection

    def _hear(self, asker: Connection, content: bytes) -> None:
        number, request = wire.request_in(content)
        self._admit(_Waiting(number, request, len(content), asker))

    def _admit(self, waiting: _Waiting) -> None:
        if self._stopping:
            _turn_away(waiting, OwnerDown(which="it is stopping", fix="Send it again once it is back"))
            return
        refusal = self._lane_of(waiting.request).put(waiting)
        if refusal is not None:
            _turn_away(waiting, refusal)
        else:
            self._wake()

    def _lane_of(self, request: Request) -> Lane[_Waiting]:
        match request:
            case Ask() | State():
                return self._questions
            case Append() | Claim():
                return self._derived
            case _:
                return self._others

    def _waiting_count(self) -> int:
        return sum(map(len, self._lanes))

    def _wake(self) -> None:
        """Commit soon: what else this turn of the loop brings goes into the same group."""
        if self._ended is not None and not self._is_awake:
            self._is_awake = True
            self._ended.get_loop().call_soon(self._commit_next)

    def _commit_next(self) -> None:
        """Commit a group here and now: what comes meanwhile waits in its socket, and is read at once behind it.

        A thread for the commits read on meanwhile, and cost each event more than it saved: a quarter of all time.
        """
        assert self._ended is not None, "woken while it serves"
        group = next_group(self._lanes)
        if not group:
            self._is_awake = False
            if self._stopping and not self._ended.done():
                self._ended.set_result(None)
            return
        try:
            for asker, framed in self._replies(group):
                asker.say(framed)
            self._require_durable()
        except Exception as error:  # whoever waits for the end raises it
            self._ended.set_exception(error)
        else:
            self._ended.get_loop().call_soon(self._commit_next)

    def _require_durable(self) -> None:
        if self._journal.failed:
            lost = DurabilityLost(which="the journal", fix="Check the disk, then start the owner again")
            for waiting in chain.from_iterable(lane.drain() for lane in self._lanes):
                _turn_away(waiting, lost)
            raise lost

    def _replies(self, batch: Sequence[_Waiting]) -> Iterable[tuple[Connection, bytes]]:
        """Carry a group out; what goes to each of those who asked, as one write each."""
        frames: dict[Connection, list[bytes]] = {}
        answers = self._carry_out([waiting.request for waiting in batch])
        for waiting, answer in zip(batch, answers, strict=True):
            frames.setdefault(waiting.asker, []).append(_framed(waiting.number, answer))
        return [(asker, b"".join(some)) for asker, some in frames.items()]

    def _carry_out(self, requests: Sequence[Request]) -> list[Answer]:
        """Carry requests out in order, as one group where that is possible: a settlement opens a group of its own."""
        answers: list[Answer] = []
        for is_settling, some in groupby(requests, lambda request: isinstance(request, Settle)):
            if is_settling:
                answers += [self._settle(request) for request in some if isinstance(request, Settle)]
            else:
                answers += self._as_one(list(some))
        return answers

    def _as_one(self, requests: Sequence[Request]) -> list[Answer]:
        if all(isinstance(request, State) for request in requests):
            return [self._state()] * len(requests)
        try:
            with self._journal.group():
                return [self._answer(request) for request in requests]
        except DurabilityLost as error:
            return [wire.failed(error)] * len(requests)
        except Exception as error:  # whatever one request trips over must not cost the others their place
            if len(requests) == 1:
                return [_tripped(error)]
            middle = len(requests) // 2
            return self._as_one(requests[:middle]) + self._as_one(requests[middle:])

    def _answer(self, request: Request) -> Answer:
        match request:
            case Take():
                return Fates([_fate(taken) for taken in self._take(request)])
            case Ask():
                return self._ask(request)
            case Append():
                return self._append(request)
            case Claim():
                return Claimed(self._epochs.claim(request.epochs))
            case State():
                return self._state()
            case Settle():
                message = "a settlement opens a group of its own"
                raise AssertionError(message)
            case _:
                assert_never(request)

    def _append(self, request: Append) -> Answer:
        fenced = self._epochs.refusal(request.batches)
        if fenced is not None:
            return wire.failed(fenced)
        for batch in request.batches:
            self._journal.append(batch.drafts, sink=batch.sink)
        if any(batch.sink in _ALERTING for batch in request.batches):
            self._intake.heed_alerts()
        return Done(self._journal.end())

    def _state(self) -> OwnerState:
        journal = self._journal
        return OwnerState(
            journal.incarnation,
            journal.end(),
            journal.clock,
            journal.tallies(),
            self._waiting_count(),
            journal.marks(),
        )

    def _take(self, request: Take) -> Sequence[Taken]:
        if request.read and request.contracts == self._intake.digest:
            return self._intake.take_read(request.events, request.read, request.principal)
        return [self._intake.take(event, principal=request.principal) for event in request.events]

    def _ask(self, request: Ask) -> Answer:
        try:
            return self._asking.ask(request.question, decode(request.prediction, Prediction), request.principal)
        except RivermillError as error:
            if isinstance(error, DurabilityLost):
                raise
            return wire.failed(error)

    def _settle(self, request: Settle) -> Answer:
        try:
            state, record = self._intake.settle(request.order)
        except Exception as error:  # as above
            return _tripped(error)
        return SettledAs(state, record.id, record.stream, record.offset)


def _fate(taken: Taken) -> Fate:
    match taken:
        case intake.Accepted():
            return wire.AcceptedFate(taken.record.offset)
        case intake.Repeated():
            return wire.RepeatedFate(taken.offset)
        case intake.Refused():
            return wire.RefusedFate(taken.bucket, taken.reason)
        case intake.Conflicted():
            return wire.ConflictedFate(taken.id, taken.offset)
        case intake.Quarantined():
            return wire.QuarantinedFate(taken.id, taken.reason)
        case _:
            message = "an event without a sink is never replayed"
            raise AssertionError(message)


async def _let_go(connection: Connection) -> None:
    """Close a connection once its answers are out; whoever does not read them is cut off."""
    connection.close()
    try:
        async with asyncio.timeout(_FAREWELL_SECONDS):
            await connection.closed
    except TimeoutError:
        connection.abort()


def _tripped(error: Exception) -> wire.Failed:
    if isinstance(error, RivermillError):
        return wire.failed(error)
    return wire.failed(UpstreamError(which=f"{type(error).__name__}: {error}", fix="This is a defect"))


def _bound(path: Path) -> socket.socket:
    """A socket on which nobody else can ask: who may connect is settled before it listens."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    with wire.address_of(path) as address:
        listener.bind(address)
    path.chmod(_OWNER_ONLY)
    return listener


def _turn_away(waiting: _Waiting, error: RivermillError) -> None:
    """Tell whoever asked why he gets nothing."""
    waiting.asker.say(_framed(waiting.number, wire.failed(error)))


def _framed(number: int, answer: Answer) -> bytes:
    try:
        return wire.frame(number, answer)
    except RivermillError as error:
        return wire.frame(number, wire.failed(error))
