"""What live answers need of other processes: a journal to follow, and its owner to record them."""

from collections.abc import Coroutine
from typing import Any, Protocol

from journal.body import Prediction
from journal.record import Kind, Record
from journal.wire import Asked, AskedBefore


class Followed(Protocol):
    """A journal that another process owns."""

    @property
    def incarnation(self) -> str:
        """Its life."""
        ...

    @property
    def clock(self) -> int:
        """Its clock, in microseconds."""
        ...

    @property
    def last_at(self) -> int:
        """The ``at`` of its last record."""
        ...

    def refresh(self) -> None:
        """Take up segments that were begun since."""
        ...

    def end(self, partition: int = 0) -> int:
        """Its last offset."""
        ...

    def of_kind(self, kind: Kind, after: int, limit: int) -> list[Record]:
        """See `journal.log.Journal.of_kind`."""
        ...


class Recorder(Protocol):
    """The journal's owner, as far as questions go."""

    def ask(
        self, question: bytes, prediction: Prediction, principal: str, timeout: float
    ) -> Coroutine[Any, Any, Asked | AskedBefore]:
        """See `journal.owner_client.AsyncOwnerClient.ask`."""
        ...
