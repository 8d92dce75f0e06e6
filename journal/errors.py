"""Every error that Rivermill raises on purpose.

::

    RivermillError
    |-- CallerError            the caller can mend it: nothing was changed
    |   |-- Malformed          400  not JSON, not a CloudEvent, too large: refused and only counted
    |   |-- Violation          422  parsed, but breaks its contract: kept in quarantine
    |   |   `-- Discarded           the same where the contract says discard_row: counted, not kept
    |   |-- UnknownName        404  no such pipeline, stream, view, feature, dataset or record
    |   |-- ConflictingId      409  an id that is taken, with another body
    |   |-- Misconfigured      a pipeline folder or a setting with mistakes, all of them at once
    |   |-- Refused            409  a command that would destroy or mix what it found
    |   |-- LostRace           409  a compare-and-swap that somebody else won
    |   |-- Fenced             409  a writer of a fold that a newer one has replaced
    |   |-- GateClosed         422  a line whose evidence does not meet the policy
    |   |-- NoLongerProvable   410  a part of the journal that retention let go
    |   |-- NoKey              401  a request without an API key that holds
    |   `-- NotAllowed         403  a role that may not do this
    `-- UpstreamError          the caller did nothing wrong
        |-- Corrupt            a checksum does not hold
        |-- NotLifted          an adapter failed on a record of an earlier version
        |-- OwnedElsewhere     another process owns these files
        |-- NotWritable        a folder that cannot be written
        |-- DurabilityLost     a write could not be made durable: nothing after it was acknowledged
        |-- OwnerDown          503  the journal's owner does not answer
        |-- Busy               429  the journal's owner has more to do than it may hold
        |-- Stopped            503  a quality rule holds this stage
        |-- StoreDown          503  the online store does not answer in time
        |-- RegistryDown       MLflow does not answer; decisions hold without it
        |-- JobFailed          a training job came to no version
        `-- Untrusted          a signature or a digest does not hold, or a pickle asks for what is not allowed

A message is the class's first docstring line, then ``which`` (the facts), then ``fix`` (what to do).
"""

from typing import ClassVar


class RivermillError(Exception):
    """Rivermill could not do this."""

    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500

    def __init__(self, *, which: str, fix: str = "") -> None:
        self.which = which
        self.fix = fix
        what = (type(self).__doc__ or "").partition("\n")[0].rstrip(".")
        super().__init__(f"{what}: {which}." + (f" {fix}" if fix else ""))


class CallerError(RivermillError):
    """The request cannot be carried out as it stands."""

    exit_code = 3
    status = 400


class Malformed(CallerError):
    """This is not an event."""


class Violation(CallerError):
    """This event breaks its contract."""

    status = 422


class Discarded(Violation):
    """This event breaks its contract, which keeps none that do."""


class UnknownName(CallerError):
    """There is nothing of that name."""

    status = 404


class ConflictingId(CallerError):
    """This id is taken by an event with another body."""

    status = 409


class Misconfigured(CallerError):
    """The configuration has mistakes."""

    exit_code = 4


class Refused(CallerError):
    """This was refused, and nothing was changed."""

    exit_code = 5
    status = 409


class LostRace(CallerError):
    """Somebody else decided first."""

    exit_code = 12
    status = 409


class Fenced(CallerError):
    """A newer writer has taken this fold."""

    exit_code = 24
    status = 409


class GateClosed(CallerError):
    """The gate does not let this line in."""

    exit_code = 13
    status = 422


class NoLongerProvable(CallerError):
    """Retention let go of this part of the journal."""

    exit_code = 22
    status = 410


class NoKey(CallerError):
    """This needs an API key."""

    exit_code = 14
    status = 401


class NotAllowed(CallerError):
    """This key may not do that."""

    exit_code = 15
    status = 403


class UpstreamError(RivermillError):
    """Something below failed."""

    exit_code = 6
    status = 503


class Corrupt(UpstreamError):
    """Stored bytes do not match their checksum."""

    exit_code = 7


class NotLifted(UpstreamError):
    """A record of an earlier version could not be lifted to today's contract."""

    exit_code = 20


class OwnedElsewhere(UpstreamError):
    """Another process owns these files."""

    exit_code = 8


class NotWritable(UpstreamError):
    """This folder cannot be written."""

    exit_code = 9


class DurabilityLost(UpstreamError):
    """A write could not be made durable, so nothing was acknowledged."""

    exit_code = 10


class Untrusted(UpstreamError):
    """This is not what we signed, or it asks for what is not allowed."""

    exit_code = 11


class OwnerDown(UpstreamError):
    """The journal's owner does not answer."""

    exit_code = 16


class Busy(UpstreamError):
    """The journal's owner has more to do than it may hold."""

    exit_code = 19
    status = 429
    retry_after: ClassVar[int] = 1
    """Seconds after which it is worth another try."""


class Stopped(UpstreamError):
    """A quality rule holds this stage."""

    exit_code = 21


class StoreDown(UpstreamError):
    """The online store does not answer."""

    exit_code = 27


class RegistryDown(UpstreamError):
    """MLflow does not answer."""

    exit_code = 17


class JobFailed(UpstreamError):
    """This training job came to no version."""

    exit_code = 18
    status = 500
