"""The owner's clients: one that waits (worker, command line, jobs) and one for asyncio (HTTP).

Every verb either returns what is durable or raises. After `OwnerDown` nobody knows whether the request got through:
send it again, since ids and sinks' marks make a repeat harmless.
"""

import asyncio
import contextlib
import select
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from journal import wire
from journal.body import Prediction, encode
from journal.connection import Connection
from journal.errors import OwnerDown
from journal.record import Draft
from journal.settlement import Order
from journal.wire import (
    Answer,
    Append,
    Ask,
    Asked,
    AskedBefore,
    Batch,
    Claim,
    Claimed,
    Done,
    Failed,
    Fate,
    Fates,
    OwnerState,
    Request,
    Settle,
    SettledAs,
    State,
    Take,
)

_FIX = "`rivermill up` starts it; send the same again then"

AnswerT = TypeVar("AnswerT")


class OwnerClient:
    """Asks the owner and waits. Threads may share one; their requests go one after the other."""

    def __init__(self, path: Path, timeout: float = 10.0) -> None:
        """Name the owner's socket; the first request connects.

        Args:
            path: The socket.
            timeout: Seconds that one request may take.
        """
        self._path, self._timeout = path, timeout
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._number = 0
        self._epochs: dict[str, int] = {}

    def take(self, events: Sequence[bytes], principal: str) -> list[Fate]:
        """Hand events in; raises `OwnerDown`, `Busy`, `DurabilityLost`."""
        return self._expect(Take(list(events), principal), Fates).fates

    def ask(self, question: bytes, prediction: Prediction, principal: str) -> Asked | AskedBefore:
        """Record a question with its answer; see `AsyncOwnerClient.ask`."""
        request = Ask(question, encode(prediction), principal)
        return self._expect(request, (Asked, AskedBefore))  # type: ignore[arg-type]

    def append(self, batches: Sequence[tuple[str, Sequence[Draft]]]) -> int:
        """Append drafts by sink (empty for none); return the journal's end. Raises as `take`, and `Fenced`."""
        numbered = [Batch(sink, list(drafts), self._epochs.get(sink, 0)) for sink, drafts in batches]
        return self._expect(Append(numbered), Done).end

    def offer(self, draft: Draft) -> None:
        """Append one draft; with the owner down nothing happens: an echo that is missing is made up for at its start.

        Raises:
            RivermillError: As `append`, but for `OwnerDown`.
        """
        with contextlib.suppress(OwnerDown):
            self.append([("", [draft])])

    def claim(self, epochs: dict[str, int]) -> dict[str, int]:
        """Be the writer of these sinks from now on, and return the epoch granted for each. Raises as `take`.

        Args:
            epochs: By sink, the epoch of the fold's file. The owner grants a higher one when it knows of one.
        """
        self._epochs = self._expect(Claim(epochs), Claimed).epochs
        return self._epochs

    def settle(self, order: Order) -> SettledAs:
        """End a quarantined event's wait; raises as `journal.intake.Intake.settle`, and as `take`."""
        return self._expect(Settle(order), SettledAs)

    def state(self) -> OwnerState:
        """How the owner is; raises `OwnerDown`."""
        return self._expect(State(), OwnerState)

    def close(self) -> None:
        """Let go of the connection."""
        with self._lock:
            self._disconnect()

    def _expect(self, request: Request, kind: type[AnswerT]) -> AnswerT:
        with self._lock:
            try:
                answer = self._ask(request)
            except (OSError, msgspec.MsgspecError, OwnerDown) as error:
                self._disconnect()
                raise _down(self._path, error) from error
        return _checked(answer, kind)

    def _ask(self, request: Request) -> Answer:
        self._number += 1
        framed = wire.frame(self._number, request)
        self._connected().sendall(framed)
        while True:
            number, answer = wire.answer_in(self._read(wire.length_of(self._read(wire.HEADER))))
            if number == self._number:
                return answer

    def _read(self, count: int) -> bytes:
        assert self._socket is not None, "connected before anything is read"
        parts = bytearray()
        while len(parts) < count:
            part = self._socket.recv(count - len(parts))
            if not part:
                raise ConnectionResetError
            parts += part
        return bytes(parts)

    def _connected(self) -> socket.socket:
        if self._socket is not None and _is_closed(self._socket):
            self._disconnect()
        if self._socket is None:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(self._timeout)
            try:
                with wire.address_of(self._path) as address:
                    connection.connect(address)
            except OSError:
                connection.close()
                raise
            self._socket = connection
        return self._socket

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class AsyncOwnerClient:
    """The same for asyncio: requests of many tasks are under way on one connection at a time."""

    def __init__(self, path: Path) -> None:
        """Name the owner's socket; the first request connects."""
        self._path = path
        self._number = 0
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()

    async def take(
        self,
        events: Sequence[bytes],
        principal: str,
        timeout: float,
        *,
        read: Sequence[Draft | None] = (),
        contracts: str = "",
    ) -> list[Fate]:
        """See `OwnerClient.take`.

        Args:
            events: What to hand in.
            principal: Who hands it in.
            timeout: In seconds.
            read: What an `EventReader` made of each; none when nothing was read.
            contracts: The reader's digest.
        """
        return (await self._expect(Take(list(events), principal, list(read), contracts), Fates, timeout)).fates

    async def ask(self, question: bytes, prediction: Prediction, principal: str, timeout: float) -> Asked | AskedBefore:
        """Record a question with its answer, or get the answer that was recorded before.

        Args:
            question: A CloudEvent of the question stream, as JSON.
            prediction: The answer; its question and key are filled in by the owner.
            principal: Who asks.
            timeout: In seconds.

        Raises:
            Malformed, Violation, ConflictingId: The question itself is wrong.
            OwnerDown, Busy, DurabilityLost: It could not be recorded, as far as is known.
        """
        request = Ask(question, encode(prediction), principal)
        return await self._expect(request, (Asked, AskedBefore), timeout)  # type: ignore[arg-type]

    async def state(self, timeout: float) -> OwnerState:
        """See `OwnerClient.state`."""
        return await self._expect(State(), OwnerState, timeout)

    async def close(self) -> None:
        """Let go of the connection; whoever waits gets `OwnerDown`."""
        if self._connection is not None:
            self._connection.close()
            await self._connection.closed

    async def _expect(self, request: Request, kind: type[AnswerT], timeout: float) -> AnswerT:
        try:
            connection = self._connection or await self._connected(timeout)
            return _checked(await self._ask(connection, request, timeout), kind)
        except OSError as error:
            raise _down(self._path, error) from error

    async def _ask(self, connection: Connection, request: Request, timeout: float) -> Answer:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._number += 1
        number = self._number
        self._waiting[number] = answer
        # A timer of its own costs a third of `asyncio.timeout`, and this runs for every event and every answer.
        timer = loop.call_later(timeout, _give_up, answer)
        try:
            connection.say(wire.frame(number, request))
            return await answer
        finally:
            timer.cancel()
            del self._waiting[number]

    async def _connected(self, timeout: float) -> Connection:
        async with asyncio.timeout(timeout), self._connecting:
            if self._connection is None:
                loop = asyncio.get_running_loop()
                with wire.address_of(self._path) as address:
                    _, connection = await loop.create_unix_connection(lambda: Connection(self._hear), address)
                connection.closed.add_done_callback(self._disconnected)
                self._connection = connection
            return self._connection

    def _hear(self, _: Connection, content: bytes) -> None:
        number, answer = wire.answer_in(content)
        waiting = self._waiting.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def _disconnected(self, closed: "asyncio.Future[Exception | None]") -> None:
        """Tell everybody whose request is under way."""
        self._connection = None
        broken = closed.result()
        error = broken if isinstance(broken, OSError) else ConnectionResetError("it closed the connection")
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(error)


def _give_up(answer: "asyncio.Future[Answer]") -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


def _is_closed(connection: socket.socket) -> bool:
    """Whether the owner has let go of a connection on which nothing is under way."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _checked(answer: Answer, kind: type[AnswerT]) -> AnswerT:
    if isinstance(answer, Failed):
        raise wire.error_of(answer)
    assert isinstance(answer, kind), f"the owner answered {type(answer).__name__}"
    return answer


def _down(path: Path, error: BaseException) -> OwnerDown:
    why = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    return OwnerDown(which=f"{path.parent.name} ({why})", fix=_FIX)
