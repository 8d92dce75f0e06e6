"""One end of a conversation over the owner's socket: whole frames in, whole frames out."""

import asyncio
from collections.abc import Callable
from typing import cast

import msgspec

from journal import wire
from journal.errors import OwnerDown


class Connection(asyncio.Protocol):
    """A connection on which the other side's frames are heard in the order in which they came.

    Attributes:
        closed: Done once the connection is gone, with what broke it; None when it was let go of.
    """

    def __init__(self, hear: Callable[["Connection", bytes], None]) -> None:
        """Prepare for a connection.

        Args:
            hear: Called with each frame's content. The connection is closed when it raises `msgspec.MsgspecError` or
                `OwnerDown`: whoever talks like that is none of ours.
        """
        self._hear = hear
        self._frames = wire.Frames()
        self._transport: asyncio.Transport
        self.closed: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        # A socket's transport reads and writes; uvloop's does so without being a subclass.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        try:
            for content in self._frames.cut(data):
                self._hear(self, content)
        except (msgspec.MsgspecError, OwnerDown):
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        if not self.closed.done():
            self.closed.set_result(exc)

    @property
    def is_closing(self) -> bool:
        """Whether nothing can be said any more."""
        return self._transport.is_closing()

    def say(self, framed: bytes) -> None:
        """Send frames, unless whoever is at the other end is gone."""
        if not self._transport.is_closing():
            self._transport.write(framed)

    def close(self) -> None:
        """Let go of the connection once all that was said is out."""
        self._transport.close()

    def abort(self) -> None:
        """Let go of it now."""
        self._transport.abort()


class Listener(Connection):
    """The owner's end: whoever does not read his answers is not listened to."""

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`: the other side does not read."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`: it has read enough."""
        self._transport.resume_reading()
