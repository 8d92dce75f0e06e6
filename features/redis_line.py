"""One connection to Redis on which no request outlasts its deadline.

Redis's own client gives each read of the socket the whole timeout, so an answer that trickles in may take any time; and
it spends more time around a request than Redis on it.
"""

import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import hiredis

from journal.errors import Misconfigured, StoreDown

Argument = bytes | str | int
Command = Sequence[Argument]

_SCHEMES = ("redis", "rediss", "unix")
_PORT = 6_379
_CHUNK = 1 << 16
_CLOSED = "it closed the connection"
_BUSY = "other requests took all the time"
_LATE = "no answer in time"


_FIXES = {
    "NOAUTH": "Put its password into the address",
    "WRONGPASS": "Correct the user and the password in the address",
    "NOPERM": "Give this user the commands and keys of the project",
    "OOM": "Give it more memory (maxmemory); rows are taken again then",
    "READONLY": "Name the primary: this is a replica",
    "LOADING": "It is starting: try again in a moment",
}
"""What to do, by the kind of error that Redis answers with."""


class Declined(StoreDown):
    """The online store answered with an error."""


class RedisLine:
    """Asks Redis and waits, for so long and no longer. Threads may share one; their requests go one by one."""

    def __init__(self, address: str, deadline: float) -> None:
        """Name the server; the first request connects.

        Args:
            address: ``redis://[user][:password]@host[:port][/db]``, ``rediss://...`` for TLS, or ``unix://path[?db=N]``.
            deadline: Seconds that a request may take, connecting included.

        Raises:
            Misconfigured: This is no such address.
        """
        self._where = _Address(address)
        self.deadline = deadline
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._answers = hiredis.Reader()

    def ask(self, *command: Argument) -> Any:
        """The answer to one command; raises `StoreDown`."""
        return self.ask_all([command])[0]

    def ask_all(self, commands: Sequence[Command], deadline: float | None = None) -> list[Any]:
        """The answers to several commands, sent and read in one round trip.

        Args:
            commands: Each a name and its arguments.
            deadline: Seconds for all of them; None is the line's own.

        Raises:
            StoreDown: No answer in time. What was asked may have happened or not.
            Declined: Redis answered one of them with an error; the others were carried out.
        """
        until = time.monotonic() + (self.deadline if deadline is None else deadline)
        if not self._lock.acquire(timeout=max(until - time.monotonic(), 0)):
            raise self._down(_BUSY)
        try:
            answers = self._exchange(commands, until)
        except (OSError, hiredis.HiredisError) as error:
            self._disconnect()
            raise self._down(str(error) or type(error).__name__) from error
        except BaseException:
            # Interrupted in the middle: the next answer on this connection would be of this request.
            self._disconnect()
            raise
        finally:
            self._lock.release()
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                raise self._declined(answer)
        return answers

    def close(self) -> None:
        """Let go of the connection; the next request makes another."""
        with self._lock:
            self._disconnect()

    def __del__(self) -> None:
        # Feast drops its stores without closing them.
        if getattr(self, "_socket", None) is not None:
            self._disconnect()

    def _exchange(self, commands: Sequence[Command], until: float) -> list[Any]:
        if self._socket is not None and _has_something_to_say(self._socket):
            self._disconnect()
        connection = self._socket
        if connection is None:
            connection = self._socket = self._connect(until)
        return self._ask(connection, commands, until)

    def _ask(self, connection: socket.socket, commands: Sequence[Command], until: float) -> list[Any]:
        connection.settimeout(_left(until))
        connection.sendall(b"".join([_packed(tuple(command)) for command in commands]))
        return [self._read(connection, until) for _ in commands]

    def _read(self, connection: socket.socket, until: float) -> Any:
        answer = self._answers.gets()
        while answer is False:
            connection.settimeout(_left(until))
            part = connection.recv(_CHUNK)
            if not part:
                raise ConnectionResetError(_CLOSED)
            self._answers.feed(part)
            answer = self._answers.gets()
        return answer

    def _connect(self, until: float) -> socket.socket:
        self._answers = hiredis.Reader()
        connection = self._where.connect(_left(until))
        try:
            for answer in self._ask(connection, self._where.greeting(), until):
                if isinstance(answer, hiredis.ReplyError):
                    raise self._declined(answer)
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _declined(self, answer: hiredis.ReplyError) -> Declined:
        kind = str(answer).partition(" ")[0]
        fix = _FIXES.get(kind, "Mend it there, then try again")
        return Declined(which=f"Redis at {self._where} ({answer})", fix=fix)

    def _down(self, why: str) -> StoreDown:
        return StoreDown(which=f"Redis at {self._where} ({why})", fix="Check that it runs and may be reached from here")


class _Address:
    """Where Redis is, and how to be let in. Its text leaves the password out."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in _SCHEMES:
            raise Misconfigured(
                which=f"an online store address of scheme {parts.scheme!r}", fix="Write redis://host:port/0"
            )
        name = parts.path.removeprefix("/") if parts.scheme != "unix" else parts.query.removeprefix("db=")
        if not (name or "0").isdecimal():
            raise Misconfigured(which=f"database {name!r} of {parts.hostname}", fix="Give its number")
        self._parts, self._database = parts, int(name or "0")

    def connect(self, timeout: float) -> socket.socket:
        parts = self._parts
        if parts.scheme == "unix":
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(timeout)
            with _closing_on_failure(connection):
                connection.connect(parts.path)
            return connection
        host = parts.hostname or "localhost"
        connection = socket.create_connection((host, parts.port or _PORT), timeout)
        with _closing_on_failure(connection):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if parts.scheme == "rediss":
                return ssl.create_default_context().wrap_socket(connection, server_hostname=host)
        return connection

    def greeting(self) -> list[Command]:
        """What has to be said first."""
        parts = self._parts
        commands: list[Command] = []
        if parts.password:
            commands.append(["AUTH", *(unquote(part) for part in (parts.username, parts.password) if part)])
        if self._database:
            commands.append(("SELECT", self._database))
        return commands

    def __str__(self) -> str:
        parts = self._parts
        return parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or _PORT}/{self._database}"


def _packed(command: Any) -> bytes:
    # The library's own type says one argument where it takes any number.
    packed: bytes = hiredis.pack_command(command)
    return packed


@contextmanager
def _closing_on_failure(connection: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise


def _has_something_to_say(connection: socket.socket) -> bool:
    """Whether Redis has spoken though nothing was asked: it let go of the connection, as after its own restart."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError(_LATE)
    return left
